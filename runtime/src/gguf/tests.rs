extern crate std;
use super::writer::Writer;
use super::*;
use std::{string::String, vec::Vec};

#[test]
fn reads_what_was_written() {
    let mut w = Writer::new();
    w.str("general.architecture", "llama").u32("llama.block_count", 3).raw("small", 0, &[200]);
    w.strings("tokenizer.ggml.tokens", &["a", "", "ccc"]).raw("minus", 5, &(-1i32).to_le_bytes());
    w.array("scores", 6, 2, &[0, 0, 128, 63, 0, 0, 0, 64]).bool("flag", true);
    w.tensor("x", &[4, 2]).tensor_of("y", &[32, 3], 2, 54);
    let file = w.bytes();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!((gguf.version(), gguf.alignment(), gguf.architecture()), (3, 32, Some("llama")));
    assert_eq!(gguf.u32(("llama", "block_count")), Ok(Some(3)));
    assert_eq!(gguf.u32("llama.block_count"), Ok(Some(3)));
    assert_eq!(gguf.u64("small"), Ok(Some(200)));
    assert_eq!(gguf.u32("nothing"), Ok(None));
    assert_eq!(gguf.bool("flag"), Ok(Some(true)));
    let tokens = gguf.array("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!(tokens.strings().collect::<Vec<_>>(), [b"a".as_slice(), b"", b"ccc"]);
    let mut strings = tokens.strings();
    strings.nth(1);
    assert_eq!(tokens.string_at(strings.offset()), Some(b"ccc".as_slice()));
    let scores = gguf.array("scores").unwrap().unwrap();
    assert_eq!(scores.f32s().collect::<Vec<_>>(), [1.0, 2.0]);
    assert_eq!((scores.get(1), scores.get(2)), (Some(Value::F32(2.0)), None));
    let names: Vec<_> = gguf.tensors().map(|t| (t.name, t.dims, t.bytes)).collect();
    assert_eq!(names, [("x", [4, 2, 1, 1], 32), ("y", [32, 3, 1, 1], 54)]);
    let y = gguf.tensor_ref("y").unwrap().unwrap();
    assert_eq!((y.rows, y.cols, y.format().name()), (3, 32, "Q4_0"));
    let x = gguf.tensor("x").unwrap();
    assert_eq!(gguf.data(&x), 1f32.to_le_bytes().repeat(8));
    let keys: Vec<String> = gguf.keys().map(|(k, _)| k.into()).collect();
    assert_eq!(keys.len(), 7);
}
