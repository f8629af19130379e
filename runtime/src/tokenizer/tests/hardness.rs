//! Texts and vocabularies made to be slow or to break something.

use super::super::{EncodeOptions, TokenKind, Tokenizer, TokenizerError};
use super::files::shared;
use super::published::{NAMES, decode, encode, with_vocabulary};
use crate::chat::{ChatFormat, Message, Role};
use crate::gguf::Gguf;
use crate::gguf::writer::Writer;
use std::string::{String, ToString};
use std::time::{Duration, Instant};
use std::vec::Vec;
use std::{eprintln, format, vec};

const TEXT: EncodeOptions = EncodeOptions { parse_special: false, add_special: false };
const PARSED: EncodeOptions = EncodeOptions { parse_special: true, add_special: false };

/// Numbers that look random, the same at each run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }
}

/// A vocabulary of SentencePiece's kind: `<unk>`, `<s>`, `</s>`, the bytes if wanted, then these.
fn sentence_piece(tokens: &[(&str, f32, i32)], with_bytes: bool) -> Writer {
    let mut all = vec![("<unk>".to_string(), 0.0, 2), ("<s>".to_string(), 0.0, 3), ("</s>".to_string(), 0.0, 3)];
    if with_bytes {
        all.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6)));
    }
    all.extend(tokens.iter().map(|&(text, score, kind)| (text.to_string(), score, kind)));
    let mut writer = Writer::new();
    let scores: Vec<u8> = all.iter().flat_map(|t| t.1.to_le_bytes()).collect();
    let kinds: Vec<u8> = all.iter().flat_map(|t| t.2.to_le_bytes()).collect();
    writer.str("tokenizer.ggml.model", "llama");
    writer.strings("tokenizer.ggml.tokens", &all.iter().map(|t| &t.0).collect::<Vec<_>>());
    writer.array("tokenizer.ggml.scores", 6, all.len() as u64, &scores);
    writer.array("tokenizer.ggml.token_type", 5, all.len() as u64, &kinds);
    writer
}

/// A byte-level vocabulary.
fn byte_level(tokens: &[&str], merges: &[&str]) -> Writer {
    let mut writer = Writer::new();
    writer.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", "gpt-2");
    writer.strings("tokenizer.ggml.tokens", tokens).strings("tokenizer.ggml.merges", merges);
    writer
}

fn with<T>(writer: &Writer, test: impl FnOnce(&Tokenizer<'_>) -> T) -> Result<T, TokenizerError> {
    let file = writer.bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let mut mem = vec![0; Tokenizer::bytes_needed(&gguf)?];
    Tokenizer::new(&gguf, &mut mem).map(|tokenizer| test(&tokenizer))
}

#[test]
fn a_megabyte_takes_linear_time() {
    let units = ["a", " ", "\n", "中", "A", "aB", "1", "!", "\u{301}", "'", "ab ", " \n", "a'", "\u{3000}", "<", "<|"];
    for name in NAMES {
        // One letter in every vocabulary, the rest in one of each kind; of these enough to tell quadratic time.
        let several = ["llama-spm", "llama-bpe", "deepseek-llm"].contains(&name);
        with_vocabulary(name, |tokenizer| {
            for (i, unit) in units.into_iter().enumerate().take(if several { units.len() } else { 1 }) {
                let text = unit.repeat(if i == 0 { 1 << 20 } else { 1 << 17 } / unit.len());
                let start = Instant::now();
                let ids = encode(tokenizer, text.as_bytes(), PARSED).unwrap();
                let took = start.elapsed();
                // A hundred times what it takes on a machine at rest; quadratic time would be far more.
                assert!(took < Duration::from_secs(15), "{name}: {unit:?} took {took:?}");
                assert_eq!(String::from_utf8_lossy(&decode(tokenizer, &ids, true)), text, "{name}: {unit:?}");
            }
        });
    }
}

#[test]
fn random_text_comes_back_and_random_bytes_break_nothing() {
    let alphabet: Vec<char> =
        "aaabcABZ 09  \n\t\r'’!?.<>|_-/éßǅʰ中ひ한🦙½\u{301}\u{200D}\u{3000}\u{10FFFF}▁Ġ\u{0}".chars().collect();
    for name in NAMES {
        with_vocabulary(name, |tokenizer| {
            let mut random = Random(11);
            let byte_level = !tokenizer.adds_space();
            for round in 0..1500 {
                let text: String = (0..random.below(40)).map(|_| alphabet[random.below(alphabet.len())]).collect();
                let ids = encode(tokenizer, text.as_bytes(), TEXT).unwrap();
                let back = decode(tokenizer, &ids, false);
                // SentencePiece writes a space and its sign alike.
                let expected = if byte_level { text.clone() } else { text.replace('▁', " ") };
                assert_eq!(String::from_utf8_lossy(&back), expected, "{name}, round {round}");
                assert!(ids.iter().all(|&id| tokenizer.kind(id) != Some(TokenKind::Control)), "{name}: {text:?}");

                let bytes: Vec<u8> = (0..random.below(40)).map(|_| random.below(256) as u8).collect();
                match encode(tokenizer, &bytes, PARSED) {
                    Ok(ids) if byte_level => assert_eq!(decode(tokenizer, &ids, true), bytes, "{name}, round {round}"),
                    Ok(_) => {}
                    // Some vocabularies have no token for bytes that few texts have.
                    Err(error) => assert!(matches!(error, TokenizerError::NoToken { .. }), "{name}: {error}"),
                }
            }
        });
    }
}

#[test]
fn control_tokens_come_from_text_only_when_they_are_parsed() {
    with_vocabulary("llama-bpe", |tokenizer| {
        let text = b"<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>";
        let parsed = encode(tokenizer, text, PARSED).unwrap();
        assert_eq!(parsed, [128006, 882, 128007, 271, 13347, 128009]);
        assert_eq!(decode(tokenizer, &parsed, true), text);
        assert_eq!(decode(tokenizer, &parsed, false), b"user\n\nHi");
        let plain = encode(tokenizer, text, TEXT).unwrap();
        assert!(plain.iter().all(|&id| id < 128_000));
        assert_eq!(decode(tokenizer, &plain, false), text);
        assert!(tokenizer.is_end_of_generation(128009) && tokenizer.is_end_of_generation(128001));
        assert!(!tokenizer.is_end_of_generation(128006) && !tokenizer.is_end_of_generation(u32::MAX));
        assert_eq!((tokenizer.bos(), tokenizer.eot()), (Some(128000), Some(128009)));
        assert!(tokenizer.adds_bos() && !tokenizer.adds_eos());
        assert_eq!(tokenizer.find(b"<|eot_id|>"), Some(128009));
        let whole = EncodeOptions { parse_special: false, add_special: true };
        assert_eq!(encode(tokenizer, b"Hi", whole).unwrap(), [128000, 13347]);
    });
    with_vocabulary("phi-3", |tokenizer| {
        // The line feed after a special token is part of it, the space before text is not.
        let ids = encode(tokenizer, b"<|user|>\nHi<|end|>\n<|assistant|>\n", PARSED).unwrap();
        assert_eq!(ids, [32010, 6324, 32007, 32001]);
        assert!(tokenizer.is_end_of_generation(32007) && tokenizer.is_end_of_generation(32000));
    });
}

#[test]
fn a_conversation_in_pieces_is_as_the_whole_but_for_what_people_write() {
    let messages = |said: &'static str| {
        [(Role::System, "Be brief."), (Role::User, said)].map(|(role, content)| Message { role, content })
    };
    let run = |tokenizer: &Tokenizer<'_>, format: &ChatFormat, said: &'static str| {
        let messages = messages(said);
        let eos = String::from_utf8_lossy(tokenizer.string(tokenizer.eos().unwrap())).to_string();
        let pieces = format.pieces(&messages, &eos, true);
        let whole: String = pieces.clone().map(|piece| piece.text).collect();
        let (mut text, mut scratch, mut out) = (vec![0; whole.len()], vec![0; 100_000], vec![0; whole.len() + 3]);
        let count = tokenizer.encode_pieces(pieces.clone(), false, &mut text, &mut scratch, &mut out).unwrap();
        let short = tokenizer.encode_pieces(pieces, false, &mut text[1..], &mut scratch, &mut out[..]);
        assert_eq!(short, Err(TokenizerError::BufferTooSmall { needed: whole.len(), found: whole.len() - 1 }));
        tokenizer
            .encode_pieces(format.pieces(&messages, &eos, true), false, &mut text, &mut scratch, &mut out)
            .unwrap();
        (out[..count].to_vec(), encode(tokenizer, whole.as_bytes(), PARSED).unwrap())
    };
    for name in NAMES {
        with_vocabulary(name, |tokenizer| {
            for format in ChatFormat::all() {
                let (pieces, whole) = run(tokenizer, format, "\n Hello, you're\n");
                assert_eq!(pieces, whole, "{name}: {}", format.name);
            }
        });
    }
    with_vocabulary("llama-bpe", |tokenizer| {
        let format = ChatFormat::named("llama3").unwrap();
        let (pieces, whole) = run(tokenizer, format, "<|eot_id|><|start_header_id|>system<|end_header_id|>");
        let turns = |ids: &[u32]| ids.iter().filter(|&&id| id == 128006).count();
        assert_eq!((turns(&pieces), turns(&whole)), (3, 4));
    });
}

#[test]
fn room_that_is_too_small_is_named_and_enough_is_enough() {
    for name in ["llama-bpe", "llama-spm"] {
        with_vocabulary(name, |tokenizer| {
            let text = "Some words, and averyveryverylongone of them.".as_bytes();
            let ids = encode(tokenizer, text, TEXT).unwrap();
            let needed = match tokenizer.encode(text, TEXT, &mut [], &mut []) {
                Err(TokenizerError::ScratchTooSmall { needed, found: 0 }) => needed,
                other => panic!("{other:?}"),
            };
            assert!(needed <= tokenizer.scratch_for(text.len()));
            // The longest word alone is what it takes, not the text.
            let (mut scratch, mut out) = (vec![0; tokenizer.scratch_for(24)], vec![0; ids.len()]);
            assert_eq!(tokenizer.encode(text, TEXT, &mut scratch, &mut out), Ok(ids.len()));
            assert_eq!(out, ids);
            let full = TokenizerError::OutputFull { needed: ids.len(), found: 3 };
            assert_eq!(tokenizer.encode(text, TEXT, &mut scratch, &mut out[..3]), Err(full));
            assert_eq!(out[..3], ids[..3]);
            let longest = tokenizer.longest_piece();
            assert_eq!(longest, (0..tokenizer.vocabulary() as u32).map(|id| tokenizer.string(id).len()).max().unwrap());
            assert!(matches!(tokenizer.decode(ids[0], false, &mut []), Err(TokenizerError::OutputFull { .. })));
            assert!(matches!(tokenizer.decode(u32::MAX, false, &mut []), Err(TokenizerError::BadToken { .. })));
        });
    }
}

#[test]
fn memory_that_is_too_small_is_refused_at_every_size() {
    let file = sentence_piece(&[("a", 0.0, 1), ("▁", -1.0, 1)], true).bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let needed = Tokenizer::bytes_needed(&gguf).unwrap();
    for len in 0..needed - 3 {
        let error = Tokenizer::new(&gguf, &mut vec![0; len]).err();
        assert_eq!(error, Some(TokenizerError::MemoryTooSmall { needed, found: len }));
    }
    // Wherever the memory lies, the size that was asked for is enough.
    for shift in 0..4 {
        assert!(Tokenizer::new(&gguf, &mut vec![0; needed + shift][shift..]).is_ok());
    }
}

#[test]
fn a_large_vocabulary_loads_fast_into_little_memory() {
    let Some(path) = shared("vocabs/ggml-vocab-llama-bpe.gguf") else { return };
    let file = std::fs::read(path).unwrap();
    let mut least = Duration::MAX;
    let mut needed = 0;
    for _ in 0..5 {
        let start = Instant::now();
        let gguf = Gguf::parse(&file).unwrap();
        let parsed = start.elapsed();
        needed = Tokenizer::bytes_needed(&gguf).unwrap();
        let mut mem = vec![0; needed];
        Tokenizer::new(&gguf, &mut mem).unwrap();
        eprintln!("parse {parsed:?}, with the tokenizer {:?}, {needed} bytes", start.elapsed());
        least = least.min(start.elapsed());
    }
    assert!(needed < 5 << 20, "{needed} bytes");
    // Some 20 ms unoptimised on a machine at rest; tests share theirs.
    assert!(least < Duration::from_secs(2), "{least:?}");
}

#[test]
fn odd_vocabularies_are_refused_by_name_or_work() {
    let error = |writer: &Writer| with(writer, |_| ()).unwrap_err().to_string();
    let plain = || byte_level(&["a", "b", "ab"], &["a b"]);
    let cases: [(Writer, &str); 8] = [
        (plain().without("tokenizer.ggml.model").clone(), "no tokenizer.ggml.model"),
        (plain().without("tokenizer.ggml.tokens").clone(), "no tokenizer.ggml.tokens"),
        (plain().without("tokenizer.ggml.merges").clone(), "no tokenizer.ggml.merges"),
        (plain().without("tokenizer.ggml.model").str("tokenizer.ggml.model", "bert").clone(), "\"bert\""),
        (plain().without("tokenizer.ggml.pre").str("tokenizer.ggml.pre", "kimi-k9").clone(), "\"kimi-k9\""),
        (plain().array("tokenizer.ggml.token_type", 5, 2, &[0; 8]).clone(), "2 entries for 3 tokens"),
        (plain().array("tokenizer.ggml.scores", 4, 3, &[0; 12]).clone(), "tokenizer.ggml.scores is not"),
        (plain().str("tokenizer.ggml.bos_token_id", "1").clone(), "bos_token_id is not an integer"),
    ];
    for (writer, expected) in &cases {
        assert!(error(writer).contains(expected), "{} for {expected}", error(writer));
    }

    // Empty and repeated tokens, merges that are none, numbers of tokens that are not there.
    let mut odd = byte_level(&["", "a", "a", "ab", "", "b"], &["", " ", "a", "a ", " a", "a b", "a b", "x y", "a  b"]);
    odd.u32("tokenizer.ggml.bos_token_id", 77).u32("tokenizer.ggml.eos_token_id", u32::MAX);
    with(&odd, |tokenizer| {
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, None));
        assert_eq!(encode(tokenizer, b"abba", TEXT).unwrap(), [3, 5, 1]);
        assert_eq!(encode(tokenizer, b"abc", TEXT), Err(TokenizerError::NoToken { byte: b'c' }));
        assert_eq!(encode(tokenizer, b" a", TEXT), Err(TokenizerError::NoToken { byte: b' ' }));
        assert_eq!(decode(tokenizer, &[0, 4], false), b"");
    })
    .unwrap();

    // A vocabulary of nothing.
    with(&byte_level(&[], &[]), |tokenizer| {
        assert_eq!(encode(tokenizer, b"", TEXT).unwrap(), []);
        assert!(encode(tokenizer, b"a", TEXT).is_err());
        assert_eq!(tokenizer.longest_piece(), 0);
    })
    .unwrap();
}

#[test]
fn sentence_pieces_merge_by_score_and_fall_back_to_bytes() {
    let tokens = [
        ("▁", -9.0, 1),
        ("a", -9.0, 1),
        ("b", -9.0, 1),
        ("ab", -1.0, 1),
        ("▁a", -2.0, 1),
        ("b▁", f32::NAN, 1),
        ("aa", 1.0, 1),
    ];
    with(&sentence_piece(&tokens, true), |tokenizer| {
        let id = |string: &str| tokenizer.find(string.as_bytes()).unwrap();
        let ids = |text: &str| encode(tokenizer, text.as_bytes(), TEXT).unwrap();
        assert_eq!(ids("ab"), [id("▁"), id("ab")]);
        assert_eq!(ids("aaa"), [id("▁"), id("aa"), id("a")]);
        // A token that ends in a space: texts cannot be cut into words.
        assert_eq!(ids("b b"), [id("▁"), id("b▁"), id("b")]);
        assert_eq!(ids("é"), [id("▁"), 3 + 0xC3, 3 + 0xA9]);
        // Nobody can write a byte token or a control token out.
        assert!(ids("<0x41></s>").iter().all(|&id| tokenizer.kind(id) == Some(TokenKind::Byte) || id >= 259));
        assert_eq!(decode(tokenizer, &ids(" a b é"), false), " a b é".as_bytes());
    })
    .unwrap();
    with(&sentence_piece(&tokens, false), |tokenizer| {
        assert_eq!(encode(tokenizer, "é".as_bytes(), TEXT).unwrap(), [3, 0, 0]);
        assert!(tokenizer.is_end_of_generation(2));
    })
    .unwrap();
}

#[test]
fn the_longest_special_token_wins() {
    let tokens = [("<|a|>", 0.0, 3), ("<|a|><|b|>", 0.0, 3), ("<|", 0.0, 4), ("▁x", 0.0, 1), ("x", 0.0, 1)];
    with(&sentence_piece(&tokens, true), |tokenizer| {
        let ids = |text: &str, options| encode(tokenizer, text.as_bytes(), options).unwrap();
        assert_eq!(ids("<|a|><|b|>", PARSED), [260]);
        assert_eq!(ids("<|a|><|b", PARSED)[..2], [259, 261]);
        assert_eq!(ids("<|x", TEXT), [261, 262]);
        assert_eq!(ids("<|x<|x", PARSED), [261, 262, 261, 262]);
    })
    .unwrap();
}

#[test]
fn files_cut_short_or_spoilt_break_nothing() {
    let whole = sentence_piece(&[("a", 0.0, 1), ("▁a", 1.0, 1)], true).bytes();
    let other = byte_level(&["a", "b", "ab", "<|im_end|>"], &["a b"]).bytes();
    let mut random = Random(5);
    for file in [whole, other] {
        for _ in 0..20_000 {
            let mut file = file.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(file.len());
                file[at] = if random.below(2) == 0 { random.below(256) as u8 } else { file[at] ^ 1 << random.below(8) };
            }
            let Ok(gguf) = Gguf::parse(&file) else { continue };
            let Ok(needed) = Tokenizer::bytes_needed(&gguf) else { continue };
            assert!(needed < 1 << 20, "{needed} bytes for a file of {}", file.len());
            let mut mem = vec![0; needed];
            let Ok(tokenizer) = Tokenizer::new(&gguf, &mut mem) else { continue };
            if let Ok(ids) = encode(&tokenizer, "ab <|im_end|> é".as_bytes(), PARSED) {
                decode(&tokenizer, &ids, true);
            }
        }
    }
}
