//! Vocabularies and texts that other programs have tokenized.

use super::super::{EncodeOptions, Tokenizer, TokenizerError, Utf8Stream};
use super::files::shared;
use crate::gguf::Gguf;
use std::string::String;
use std::vec::Vec;

/// Encodes with room for anything.
pub fn encode(tokenizer: &Tokenizer<'_>, text: &[u8], options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
    let mut scratch = std::vec![0; tokenizer.scratch_for(text.len())];
    let mut out = std::vec![0; text.len() + 3];
    let count = tokenizer.encode(text, options, &mut scratch, &mut out)?;
    out.truncate(count);
    Ok(out)
}

/// The text of tokens, the space of a text's own taken off.
pub fn decode(tokenizer: &Tokenizer<'_>, ids: &[u32], special: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = std::vec![0; tokenizer.longest_piece()];
    for &id in ids {
        let len = tokenizer.decode(id, special, &mut piece).unwrap();
        bytes.extend(&piece[..len]);
    }
    if tokenizer.adds_space() && bytes.first() == Some(&b' ') {
        bytes.remove(0);
    }
    bytes
}

/// Runs `test` on a published vocabulary if it is there.
pub fn with_vocabulary(name: &str, test: impl FnOnce(&Tokenizer<'_>)) {
    let Some(path) = shared(&std::format!("vocabs/ggml-vocab-{name}.gguf")) else { return };
    let file = std::fs::read(path).unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    let mut mem = std::vec![0; Tokenizer::bytes_needed(&gguf).unwrap()];
    test(&Tokenizer::new(&gguf, &mut mem).unwrap());
}

pub const NAMES: [&str; 9] =
    ["llama-spm", "phi-3", "gpt-2", "llama-bpe", "qwen2", "starcoder", "falcon", "mpt", "deepseek-llm"];

#[test]
fn published_texts_become_the_published_tokens_and_come_back() {
    for name in NAMES {
        with_vocabulary(name, |tokenizer| {
            let read = |ending: &str| {
                std::fs::read_to_string(shared(&std::format!("vocabs/ggml-vocab-{name}.gguf.{ending}")).unwrap())
                    .unwrap()
            };
            let (texts, lines) = (read("inp"), read("out"));
            let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
            let lines: Vec<&str> = lines.trim_end_matches('\n').split('\n').collect();
            // The file ends with a separator, after which there is no test.
            assert!(texts.len() - lines.len() <= 1, "{} texts, {} lines", texts.len(), lines.len());
            for (text, line) in texts.iter().zip(&lines) {
                let expected: Vec<u32> = line.split_ascii_whitespace().map(|id| id.parse().unwrap()).collect();
                let ids = encode(tokenizer, text.as_bytes(), EncodeOptions::default()).unwrap();
                assert_eq!(ids, expected, "{name}: {text:?}");
                assert_eq!(String::from_utf8_lossy(&decode(tokenizer, &ids, false)), *text, "{name}");
            }
        });
    }
}

#[test]
fn text_streams_without_broken_characters() {
    let text = "🦙 кто 中文 e\u{301} done";
    for name in NAMES {
        with_vocabulary(name, |tokenizer| {
            let ids = encode(tokenizer, text.as_bytes(), EncodeOptions::default()).unwrap();
            let (mut stream, mut streamed) = (Utf8Stream::new(tokenizer.adds_space()), String::new());
            let mut piece = std::vec![0; tokenizer.longest_piece()];
            for id in ids {
                let len = tokenizer.decode(id, false, &mut piece).unwrap();
                stream.push(&piece[..len], |t| streamed.push_str(t));
                assert!(text.starts_with(&streamed), "{name}: {streamed}");
            }
            stream.finish(|_| panic!("nothing may be left"));
            assert_eq!(streamed, text, "{name}");
        });
    }
}
