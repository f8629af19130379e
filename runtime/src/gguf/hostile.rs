//! Files that are cut off, damaged or made to hurt: no reading of them may panic or take long.

extern crate std;
use super::writer::Writer;
use super::*;
use crate::families::RecipeError;
use crate::recipe::{MAX_LAYERS, Recipe};
use crate::tensors::{LayerTensors, bind_tensors};
use std::time::{Duration, Instant};
use std::{eprintln, format, fs, path::Path, path::PathBuf, println, vec, vec::Vec};

/// Calls everything that can be called on a file, and everything that is built on it.
fn exercise(bytes: &[u8]) -> Result<(), GgufError> {
    let gguf = Gguf::parse(bytes)?;
    let mut sum = 0;
    for (key, value) in gguf.keys() {
        let family = key.split_once('.').unwrap_or(("", key));
        sum += gguf.get(family).is_some() as usize;
        sum += gguf.u32(key).is_ok() as usize + gguf.u64(key).is_ok() as usize + gguf.f32(key).is_ok() as usize;
        sum += gguf.str(key).is_ok() as usize + gguf.bool(key).is_ok() as usize + gguf.array(key).is_ok() as usize;
        if let Value::Array(array) = value {
            sum += array.f32s().count() + array.i32s().count() + array.u32s().count() + array.bools().count();
            let mut strings = array.strings();
            while let Some(string) = strings.next() {
                sum += string.len() + array.string_at(strings.offset()).map_or(0, |s| s.len());
            }
            sum += array.get(array.len() / 2).is_some() as usize + array.get(array.len()).is_some() as usize;
        }
    }
    assert_eq!(gguf.tensors().count(), gguf.tensor_count());
    for tensor in gguf.tensors() {
        assert_eq!(gguf.data(&tensor).len() as u64, tensor.bytes, "{}", tensor.name);
        sum += tensor.to_ref().is_ok() as usize + tensor.type_name().len();
    }
    core::hint::black_box(sum);
    for ctx in [0, 1, 4096, u32::MAX] {
        if let Ok(recipe) = Recipe::of(&gguf, ctx) {
            let mut layers = vec![LayerTensors::default(); recipe.layers as usize];
            let bound = bind_tensors(&gguf, &recipe, &mut layers);
            if let Ok(globals) = bound {
                let of_layer = |l: &LayerTensors| [l.q, l.k, l.v, l.router, l.gate, l.up, l.down, l.shared_down];
                for t in layers.iter().flat_map(of_layer).chain([globals.output]) {
                    assert_eq!(gguf.bytes(t.part, t.offset, t.bytes()).len() as u64, t.bytes());
                }
                for rope in recipe.ropes {
                    assert!((0..rope.dims / 2).all(|pair| rope.frequency(pair, 1.0).is_finite()), "{rope:?}");
                }
            }
            for layer in [0, 1, MAX_LAYERS, u32::MAX - 1] {
                core::hint::black_box(recipe.layer(layer));
            }
        }
    }
    Ok(())
}

/// A whole model of this family, as small as can be: 2 layers, width 8, 2 heads of 4, 1 key/value head, vocabulary 6.
pub(crate) fn tiny(family: &str) -> Writer {
    let mut w = Writer::new();
    w.str("general.architecture", family);
    for (key, value) in [
        ("block_count", 2),
        ("context_length", 64),
        ("embedding_length", 8),
        ("feed_forward_length", 12),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        w.u32(&format!("{family}.{key}"), value);
    }
    w.f32(&format!("{family}.attention.layer_norm_rms_epsilon"), 1e-5);
    w.strings("tokenizer.ggml.tokens", &["a", "b", "c", "d", "e", "f"]);
    w.tensor("token_embd.weight", &[8, 6]).tensor("output_norm.weight", &[8]);
    // 4 experts of width 6, of which a token takes 2; one of width 10 for all tokens.
    let (experts, shared) = (family.ends_with("moe"), ["qwen2moe", "granitemoe"].contains(&family));
    if experts {
        w.u32(&format!("{family}.expert_count"), 4).u32(&format!("{family}.expert_used_count"), 2);
        w.u32(&format!("{family}.expert_feed_forward_length"), 6);
    }
    if shared {
        w.u32(&format!("{family}.expert_shared_feed_forward_length"), 10);
    }
    for i in 0..2 {
        if experts {
            let mut tensor = |name: &str, dims: &[u64]| {
                w.tensor(&format!("blk.{i}.ffn_{name}.weight"), dims);
            };
            tensor("gate_inp", &[8, 4]);
            tensor("gate_exps", &[8, 6, 4]);
            tensor("up_exps", &[8, 6, 4]);
            tensor("down_exps", &[6, 8, 4]);
            if shared {
                tensor("gate_shexp", &[8, 10]);
                tensor("up_shexp", &[8, 10]);
                tensor("down_shexp", &[10, 8]);
            }
            if family == "qwen2moe" {
                tensor("gate_inp_shexp", &[8]);
            }
        }
        let whole = family == "olmoe";
        let fused = family == "phi3";
        for (name, dims, there) in [
            ("attn_norm", [8, 1], true),
            ("attn_qkv", [8, 16], fused),
            ("attn_q", [8, 8], !fused),
            ("attn_k", [8, 4], !fused),
            ("attn_v", [8, 4], !fused),
            ("attn_q_norm", [if whole { 8 } else { 4 }, 1], ["qwen3", "qwen3moe", "olmoe", "gemma3"].contains(&family)),
            ("attn_k_norm", [4, 1], ["qwen3", "qwen3moe", "olmoe", "gemma3"].contains(&family)),
            ("attn_output", [8, 8], true),
            ("post_attention_norm", [8, 1], ["gemma2", "gemma3"].contains(&family)),
            ("ffn_norm", [8, 1], true),
            ("ffn_gate", [8, 12], !fused && !experts),
            ("ffn_up", [8, if fused { 24 } else { 12 }], !experts),
            ("ffn_down", [12, 8], !experts),
            ("post_ffw_norm", [8, 1], ["gemma2", "gemma3"].contains(&family)),
        ] {
            if there {
                let dims = if dims[1] == 1 { &dims[..1] } else { &dims };
                w.tensor(&format!("blk.{i}.{name}.weight"), dims);
            }
        }
    }
    w
}

/// A family that uses as many keys as can be had together.
fn rich() -> Writer {
    let mut w = tiny("gemma3");
    w.u32("gemma3.attention.sliding_window", 3).f32("gemma3.rope.freq_base", 1e6).bool("flag", true);
    w.str("gemma3.rope.scaling.type", "yarn").f32("gemma3.rope.scaling.factor", 4.0);
    w.array("gemma3.attention.sliding_window_pattern", 7, 2, &[1, 0]);
    w
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// One damage of a kind that breaks parsers: flipped bits, extreme lengths and numbers, lost, doubled and moved bytes.
fn damage(file: &mut Vec<u8>, header: usize, random: &mut Random) {
    let header = header.min(file.len());
    if header == 0 {
        return;
    }
    let at = random.below(header);
    match random.below(8) {
        0 | 1 => file[at] ^= 1 << random.below(8),
        2 => file[at] = random.next() as u8,
        3 | 4 => {
            let size = [1, 2, 4, 8][random.below(4)];
            let value = match random.below(6) {
                0 => u64::MAX - random.below(4) as u64,
                1 => 1 << random.below(64),
                2 => (1u64 << random.below(64)).wrapping_sub(1),
                3 => f32::NAN.to_bits() as u64,
                4 => f32::INFINITY.to_bits() as u64,
                _ => random.below(file.len() * 2) as u64,
            };
            file.iter_mut().skip(at).take(size).zip(value.to_le_bytes()).for_each(|(b, v)| *b = v);
        }
        5 => drop(file.drain(at..(at + random.below(9)).min(header))),
        6 => {
            let piece = file[at..(at + random.below(40)).min(header)].to_vec();
            let to = random.below(header);
            file.splice(to..to, piece);
        }
        _ => file.truncate(at),
    }
}

#[test]
fn a_hundred_thousand_damaged_files_are_survived() {
    let seed = 0x9e37_79b9_7f4a_7c15;
    let models = [rich().bytes(), tiny("phi3").bytes(), tiny("granite").bytes(), tiny("llama").bytes()];
    models.iter().for_each(|m| assert_eq!(exercise(m), Ok(())));
    let headers = models.each_ref().map(|m| Gguf::parse(m).unwrap().tensors().next().unwrap().offset as usize);
    let mut kept = 0;
    for round in 0..100_000u64 {
        let mut random = Random(seed ^ (round + 1).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let model = random.below(models.len());
        let mut file = models[model].clone();
        for _ in 0..=random.below(3) {
            damage(&mut file, headers[model], &mut random);
        }
        match std::panic::catch_unwind(|| exercise(&file)) {
            Ok(result) => kept += result.is_ok() as u32,
            Err(_) => panic!("round {round} of seed {seed:#x} panicked"),
        }
    }
    // Enough must get past the parser for what is behind it to be tested.
    println!("{kept} of 100000 damaged files are still readable");
    assert!(kept > 5_000, "{kept}");
}

#[test]
fn cut_off_anywhere_a_file_is_refused() {
    let file = rich().bytes();
    let last = Gguf::parse(&file).unwrap().tensors().last().unwrap();
    let needed = (last.offset + last.bytes) as usize;
    for len in 0..file.len() {
        let result = exercise(&file[..len]);
        assert_eq!(result.is_ok(), len >= needed, "{len} of {needed} bytes: {result:?}");
    }
}

/// The files in the folders of real models and vocabularies, where they are present.
fn real_files() -> Vec<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let folders = ["models", "vocabs"].map(|f| fs::read_dir(shared.join(f)));
    let files = folders.into_iter().flatten().flatten().flatten().map(|f| f.path());
    let mut files: Vec<PathBuf> = files.filter(|f| f.extension().is_some_and(|e| e == "gguf")).collect();
    files.sort();
    if files.is_empty() {
        eprintln!("skipped: no real files in {}", shared.display());
    }
    files
}

#[test]
fn real_files_cut_off_are_refused() {
    for path in real_files() {
        let file = fs::read(&path).unwrap();
        exercise(&file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let last = Gguf::parse(&file).unwrap().tensors().last();
        let needed = last.map_or(file.len(), |t| (t.offset + t.bytes) as usize);
        // Every byte of the first keys and around the end; between, in steps that no structure of the file shares.
        let middle = (4096..file.len()).step_by(file.len() / 211 + 1);
        for len in (0..4096.min(file.len())).chain(middle).chain(file.len() - 64..file.len()) {
            let result = Gguf::parse(&file[..len]);
            assert_eq!(result.is_ok(), len >= needed, "{}: {len} of {needed} bytes: {result:?}", path.display());
        }
    }
}

/// The bounds on time are wide: they are there to catch work that grows with the square.
#[test]
fn no_file_takes_long() {
    let limit = Duration::from_secs(20);
    let mut keys = Writer::new();
    for i in (0..4096).rev() {
        keys.raw(&format!("{i:05}"), 0, &[1]);
    }
    let mut tensors = Writer::new();
    for i in 0..16_384 {
        tensors.tensor_of(&format!("{i:05}"), &[0], 0, 0);
    }
    for (what, file) in [("4096 keys", keys.bytes()), ("16384 tensors", tensors.bytes())] {
        let start = Instant::now();
        assert!(Gguf::parse(&file).is_ok());
        println!("{what}: parsed in {:?}", start.elapsed());
        assert!(start.elapsed() < limit);
    }
    // A vocabulary of 128k entries with as many merges, and a lookup of what comes after.
    let mut vocabulary = tiny("llama");
    let words: Vec<_> = (0..128_000).map(|i| format!("word {i}")).collect();
    vocabulary.strings("tokenizer.ggml.merges", &words).strings("tokenizer.other", &words).u32("after", 7);
    let file = vocabulary.bytes();
    let start = Instant::now();
    let gguf = Gguf::parse(&file).unwrap();
    let parsed = start.elapsed();
    (0..1000).for_each(|_| assert_eq!(gguf.u32("after"), Ok(Some(7))));
    println!("256000 strings: parsed in {parsed:?}, then 1000 lookups in {:?}", start.elapsed() - parsed);
    assert!(start.elapsed() < limit);
}

#[test]
fn the_tiny_models_are_whole() {
    for family in crate::families::names() {
        let mut w = tiny(family);
        if family.starts_with("granite") {
            let file = w.bytes();
            let missing = Recipe::of(&Gguf::parse(&file).unwrap(), 64);
            assert_eq!(missing, Err(RecipeError::MissingKey { key: (family, "logit_scale").into() }));
            w.f32(&format!("{family}.logit_scale"), 8.0);
        }
        let file = w.bytes();
        let gguf = Gguf::parse(&file).unwrap();
        let recipe = Recipe::of(&gguf, 64).unwrap_or_else(|e| panic!("{family}: {e}"));
        let mut layers = [LayerTensors::default(); 2];
        let globals = bind_tensors(&gguf, &recipe, &mut layers).unwrap_or_else(|e| panic!("{family}: {e}"));
        assert_eq!(globals.output, globals.token_embedding);
        assert_ne!(layers[0].k, layers[1].k);
    }
}
