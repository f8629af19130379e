//! The GGUF view and the `gguf-rs` crate, which shares no code with it, must read the same from the same files.

use drupe::gguf::{Array, Gguf, Value};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// Real models and vocabularies, where they are present.
fn files() -> Vec<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let folders = ["models", "vocabs"].map(|folder| std::fs::read_dir(shared.join(folder)));
    let files = folders.into_iter().flatten().flatten().flatten().map(|f| f.path());
    let mut files: Vec<PathBuf> = files.filter(|f| f.extension().is_some_and(|e| e == "gguf")).collect();
    files.sort();
    if files.is_empty() {
        eprintln!("skipped: no files in {}", shared.display());
    }
    files
}

fn json(value: Value<'_>) -> Json {
    match value {
        Value::U8(v) => v.into(),
        Value::I8(v) => v.into(),
        Value::U16(v) => v.into(),
        Value::I16(v) => v.into(),
        Value::U32(v) => v.into(),
        Value::I32(v) => v.into(),
        Value::F32(v) => v.into(),
        Value::Bool(v) => v.into(),
        Value::String(v) => String::from_utf8_lossy(v).into(),
        Value::Array(v) => array(v),
        Value::U64(v) => v.into(),
        Value::I64(v) => v.into(),
        Value::F64(v) => v.into(),
    }
}

fn array(array: Array<'_>) -> Json {
    let strings = array.strings().map(|s| String::from_utf8_lossy(s).into());
    let values: Vec<Json> = strings.chain(array.values().map(json)).collect();
    assert_eq!(values.len(), array.len());
    values.into()
}

#[test]
fn agrees_with_gguf_rs() {
    for path in files() {
        let name = path.file_name().unwrap().to_string_lossy();
        let bytes = std::fs::read(&path).unwrap();
        let ours = Gguf::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let theirs =
            gguf_rs::get_gguf_container_array_size(path.to_str().unwrap(), u64::MAX).unwrap().decode().unwrap();
        assert_eq!(format!("v{}", ours.version()), theirs.get_version(), "{name}");
        assert_eq!(ours.alignment() as u64, theirs.alignment(), "{name}");

        assert_eq!(ours.keys().count(), theirs.metadata().len(), "{name}");
        for (key, value) in ours.keys() {
            // No assert_eq: a vocabulary is long to print.
            assert!(theirs.metadata().get(key) == Some(&json(value)), "{name}: key {key} differs");
        }

        assert_eq!(ours.tensor_count(), theirs.tensors().len(), "{name}");
        for (our, their) in ours.tensors().zip(theirs.tensors()) {
            assert_eq!((our.name, our.n_dims), (their.name.as_str(), their.n_dimensions), "{name}");
            assert_eq!(our.dims[..our.n_dims as usize], their.shape, "{name}: {}", our.name);
            assert_eq!(our.format.map_or_else(|id| id, |f| f as u32), their.kind, "{name}: {}", our.name);
            assert_eq!(our.offset, theirs.data_offset() + their.offset, "{name}: {}", our.name);
            assert_eq!(our.bytes, their.size, "{name}: {}", our.name);
        }
        println!("{name}: {} keys, {} tensors", ours.keys().count(), ours.tensor_count());
    }
}
