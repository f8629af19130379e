extern crate std;
use super::writer::{Writer, string};
use super::*;
use std::{string::ToString, vec, vec::Vec};

/// A file with a bit of everything.
fn sample() -> Writer {
    let mut w = Writer::new();
    w.str("general.architecture", "llama").u32("llama.block_count", 3).raw("small", 0, &[200]);
    w.strings("tokenizer.ggml.tokens", &["a", "", "ccc"]).raw("minus", 5, &(-1i32).to_le_bytes());
    w.array("scores", 6, 2, &[0, 0, 128, 63, 0, 0, 0, 64]).bool("flag", true).f32("half", 0.5);
    w.array("types", 5, 3, &[1, 0, 0, 0, 255, 255, 255, 255, 3, 0, 0, 0]).array("flags", 7, 2, &[1, 0]);
    w.raw("wide", 12, &1.5f64.to_le_bytes()).raw("long", 10, &(1u64 << 40).to_le_bytes());
    w.tensor("x", &[4, 2]).tensor_of("y", &[32, 3], 2, 54).tensor_of("z", &[256, 1, 2], 16, 132);
    w
}

#[test]
fn reads_what_was_written() {
    let file = sample().bytes();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!((gguf.version(), gguf.alignment(), gguf.architecture()), (3, 32, Some("llama")));
    assert_eq!(gguf.u32(("llama", "block_count")), Ok(Some(3)));
    assert_eq!(gguf.u32("llama.block_count"), Ok(Some(3)));
    assert_eq!(gguf.u32(("llama", "block")), Ok(None));
    assert_eq!(gguf.u64("small"), Ok(Some(200)));
    assert_eq!(gguf.u64("long"), Ok(Some(1 << 40)));
    assert_eq!((gguf.f32("half"), gguf.f32("wide")), (Ok(Some(0.5)), Ok(Some(1.5))));
    assert_eq!((gguf.bool("flag"), gguf.u32("nothing")), (Ok(Some(true)), Ok(None)));
    assert_eq!(gguf.str("general.architecture"), Ok(Some("llama")));
    assert_eq!(gguf.get("minus"), Some(Value::I32(-1)));
    let keys: Vec<_> = gguf.keys().map(|(key, value)| (key, value.kind())).collect();
    assert_eq!(keys[0], ("general.architecture", ValueType::String));
    assert_eq!((keys[11], keys.len()), (("long", ValueType::U64), 12));
}

#[test]
fn reads_arrays() {
    let file = sample().bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let array = |key: &str| gguf.array(key).unwrap().unwrap();
    let tokens = array("tokenizer.ggml.tokens");
    assert_eq!((tokens.len(), tokens.element()), (3, ValueType::String));
    assert_eq!(tokens.strings().collect::<Vec<_>>(), [b"a".as_slice(), b"", b"ccc"]);
    let mut strings = tokens.strings();
    strings.nth(1);
    assert_eq!(tokens.string_at(strings.offset()), Some(b"ccc".as_slice()));
    assert_eq!((tokens.get(0), tokens.f32s().count(), tokens.string_at(usize::MAX)), (None, 0, None));
    let scores = array("scores");
    assert_eq!(scores.f32s().collect::<Vec<_>>(), [1.0, 2.0]);
    assert_eq!((scores.get(1), scores.get(2), scores.get(usize::MAX)), (Some(Value::F32(2.0)), None, None));
    assert_eq!((scores.strings().count(), scores.string_at(0)), (0, None));
    assert_eq!(array("types").i32s().collect::<Vec<_>>(), [1, -1, 3]);
    assert_eq!(array("types").u32s().collect::<Vec<_>>(), [1, 0, 3]);
    assert_eq!(array("flags").bools().collect::<Vec<_>>(), [true, false]);
    assert_eq!(&file[scores.offset()..][..4], 1f32.to_le_bytes());
}

#[test]
fn reads_tensors() {
    let file = sample().bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let found: Vec<_> = gguf.tensors().map(|t| (t.name, t.dims, t.n_dims, t.bytes, t.type_name())).collect();
    let expected = [
        ("x", [4, 2, 1, 1], 2, 32, "F32"),
        ("y", [32, 3, 1, 1], 2, 54, "Q4_0"),
        ("z", [256, 1, 2, 1], 3, 132, "IQ2_XXS"),
    ];
    assert_eq!(found, expected);
    let y = gguf.tensor_ref("y").unwrap().unwrap();
    assert_eq!((y.rows, y.cols, y.format().name(), y.bytes()), (3, 32, "Q4_0", 54));
    let x = gguf.tensor("x").unwrap();
    assert_eq!((gguf.data(&x), x.elements()), (1f32.to_le_bytes().repeat(8).as_slice(), 8));
    assert_eq!(gguf.data(&TensorInfo { offset: u64::MAX, ..x }), []);
    assert_eq!((gguf.tensor("w"), gguf.tensor_ref("w")), (None, Ok(None)));
}

#[test]
fn version_2_and_any_sane_alignment_are_read() {
    for (version, alignment) in [(2, 32), (3, 8), (3, 64), (2, 65536)] {
        let mut w = sample();
        (w.version, w.alignment) = (version, alignment as usize);
        w.u32("general.alignment", alignment);
        let file = w.bytes();
        let gguf = Gguf::parse(&file).unwrap();
        assert_eq!((gguf.version(), gguf.alignment()), (version, alignment));
        assert!(gguf.tensors().all(|t| t.offset % alignment as u64 == 0));
    }
    let vocabulary = Writer::new().bytes();
    assert_eq!(Gguf::parse(&vocabulary).unwrap().tensors().count(), 0);
}

#[test]
fn a_lookup_passes_over_more_arrays_than_it_remembers() {
    let mut w = Writer::new();
    for i in 0..20 {
        w.strings(&std::format!("list{i}"), &vec!["x"; 20 - i]).u32(&std::format!("after{i}"), i as u32);
    }
    let file = w.bytes();
    let gguf = Gguf::parse(&file).unwrap();
    for i in 0..20 {
        assert_eq!(gguf.u32(std::format!("after{i}").as_str()), Ok(Some(i)));
        let list = gguf.array(std::format!("list{i}").as_str()).unwrap().unwrap();
        assert_eq!(list.strings().count(), 20 - i as usize);
    }
}

/// The error of a file, which must also make a message.
fn error(file: &[u8]) -> GgufError {
    let error = Gguf::parse(file).unwrap_err();
    assert!(error.to_string().len() > 10, "{error:?}");
    error
}

fn with(change: impl FnOnce(&mut Writer) -> &mut Writer) -> GgufError {
    let mut w = sample();
    change(&mut w);
    error(&w.bytes())
}

fn label(text: &str) -> Label {
    Label::from(text)
}

#[test]
fn refuses_bad_headers() {
    assert_eq!(error(b"GGML0000"), GgufError::Magic { found: *b"GGML" });
    assert_eq!(error(b""), GgufError::Truncated { at: 0, needs: 4, len: 0 });
    assert_eq!(error(b"GGUF\x03\0\0"), GgufError::Truncated { at: 4, needs: 4, len: 7 });
    assert_eq!(error(b"GGUF\0\0\0\x03"), GgufError::BigEndian);
    for found in [0, 1, 4, u32::MAX] {
        assert_eq!(
            with(|w| {
                w.version = found;
                w
            }),
            GgufError::Version { found }
        );
    }
    let mut file = sample().bytes();
    let left = file.len() as u64 - 16;
    file[8..16].fill(0xff);
    assert_eq!(error(&file), GgufError::Count { what: "tensors", found: u64::MAX, at: 8, left });
    let mut file = sample().bytes();
    file[16..24].copy_from_slice(&(left / 14).to_le_bytes());
    assert_eq!(error(&file), GgufError::Count { what: "keys", found: left / 14, at: 16, left: left - 8 });
    let mut file = sample().bytes();
    file[16..24].copy_from_slice(&5000u64.to_le_bytes());
    file.resize(2 << 20, 0);
    assert_eq!(error(&file), GgufError::TooMany { what: "keys", found: 5000, limit: 4096 });
}

#[test]
fn refuses_bad_keys() {
    let first = |change: fn(&mut Vec<u8>)| {
        with(|w| {
            let mut key = w.keys.remove(0);
            change(&mut key);
            w.keys.insert(0, key);
            w
        })
    };
    assert_eq!(first(|key| *key = [0; 20].to_vec()), GgufError::EmptyName { what: "key", at: 24 });
    assert_eq!(first(|key| key[8] = 0xff), GgufError::NotUtf8 { what: "key", at: 24 });
    let long = "k".repeat(65_536);
    let expected = GgufError::LongName { what: "key", at: 24, found: 65_536, limit: 65_535 };
    assert_eq!(error(&Writer::new().u32(&long, 1).bytes()), expected);
    assert_eq!(with(|w| w.u32("flag", 1)), GgufError::DuplicateKey { key: label("flag") });
    assert_eq!(with(|w| w.raw("k", 13, &[0; 8])), GgufError::UnknownType { key: label("k"), found: 13 });
    assert_eq!(with(|w| w.array("k", 99, 1, &[0; 8])), GgufError::UnknownType { key: label("k"), found: 99 });
    assert_eq!(with(|w| w.array("k", 9, 1, &[0; 12])), GgufError::NestedArray { key: label("k") });
    assert_eq!(with(|w| w.raw("k", 7, &[2])), GgufError::BadBool { key: label("k"), found: 2 });
    assert_eq!(with(|w| w.array("k", 7, 2, &[1, 9])), GgufError::BadBool { key: label("k"), found: 9 });
    for len in [u64::MAX, 1 << 61, 1 << 40] {
        for element in [0, 4, 8, 10] {
            let file = Writer::new().array("k", element, len, &[0; 64]).bytes();
            let expected = GgufError::Count { what: "array elements", found: len, at: 24 + 9 + 8, left: 64 };
            assert_eq!(error(&file), expected);
        }
    }
    // A string that reaches past the end, as a value and inside an array.
    let mut long = string("abc");
    long[0] = 200;
    let expected = GgufError::Truncated { at: 24 + 9 + 4 + 8, needs: 200, len: 24 + 9 + 4 + 11 };
    assert_eq!(error(&Writer::new().raw("k", 8, &long).bytes()), expected);
    let expected = GgufError::Truncated { at: 24 + 9 + 16 + 8, needs: 200, len: 24 + 9 + 16 + 11 };
    assert_eq!(error(&Writer::new().array("k", 8, 1, &long).bytes()), expected);
    for found in [0, 1, 4, 24, 48, 1 << 17, u32::MAX] {
        let expected = GgufError::Alignment { found: found as u64 };
        assert_eq!(with(|w| w.u32("general.alignment", found)), expected);
    }
    let expected = GgufError::WrongType {
        key: label("general.alignment"),
        found: ValueType::F32,
        expected: "an unsigned integer",
    };
    assert_eq!(with(|w| w.f32("general.alignment", 32.0)), expected);
}

#[test]
fn refuses_bad_tensors() {
    let nth = |i: usize, change: fn(&mut writer::Tensor)| {
        with(|w| {
            change(&mut w.tensors[i]);
            w
        })
    };
    let first = |change| nth(0, change);
    let data = |w: &Writer| Gguf::parse(&w.bytes()).unwrap().tensor("x").unwrap().offset;
    let start = data(&sample());
    let x = label("x");
    assert!(matches!(first(|t| t.name.clear()), GgufError::EmptyName { what: "tensor name", .. }));
    let found = first(|t| t.name = "n".repeat(65));
    assert!(matches!(found, GgufError::LongName { what: "tensor name", found: 65, limit: 64, .. }));
    let mut file = sample().bytes();
    let at = file.windows(9).position(|w| w == [1, 0, 0, 0, 0, 0, 0, 0, b'y']).unwrap();
    file[at + 8] = 0x80;
    assert_eq!(error(&file), GgufError::NotUtf8 { what: "tensor name", at: at as u64 });
    assert_eq!(first(|t| t.name = "z".into()), GgufError::DuplicateTensor { name: label("z") });
    assert_eq!(first(|t| t.dims = vec![1; 5]), GgufError::Dimensions { tensor: x, found: 5 });
    assert_eq!(first(|t| t.dims = vec![1 << 32, 1 << 32]), GgufError::TooLarge { tensor: x });
    assert_eq!(first(|t| t.dims = vec![0, 1 << 40, 1 << 40]), GgufError::TooLarge { tensor: x });
    assert_eq!(first(|t| t.dims = vec![1 << 62]), GgufError::TooLarge { tensor: x });
    assert_eq!(nth(2, |t| t.offset = Some(u64::MAX - 31)), GgufError::TooLarge { tensor: label("z") });
    let found = nth(1, |t| t.dims[0] = 33);
    assert_eq!(found, GgufError::Blocks { tensor: label("y"), cols: 33, block: 32 });
    let found = nth(1, |t| t.offset = Some(40));
    assert_eq!(found, GgufError::Unaligned { tensor: label("y"), offset: start + 40, alignment: 32 });
    let found = nth(2, |t| t.offset = Some(64));
    assert_eq!(found, GgufError::Overlap { tensor: label("z"), offset: start + 64, expected: start + 86 });
    let mut file = sample().bytes();
    file.truncate(start as usize + 32 + 64 + 131);
    let (end, len) = (start + 228, start + 227);
    assert_eq!(error(&file), GgufError::OutsideFile { tensor: label("z"), end, len });
    // A tensor of an unknown type may be there; it only cannot be used.
    let mut w = sample();
    w.tensor_of("strange", &[7], 200, 0).tensor_of("tall", &[0, 1 << 33], 0, 0);
    let file = w.bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let strange = gguf.tensor("strange").unwrap();
    assert_eq!((strange.format, strange.bytes, strange.type_name()), (Err(200), 0, "unknown"));
    let error = gguf.tensor_ref("z").unwrap_err();
    assert_eq!(error, GgufError::UnsupportedType { tensor: label("z"), found: 16 });
    let text = error.to_string();
    assert!(text.contains("tensor z has type IQ2_XXS (16)") && text.contains("supported: F32 F16"), "{text}");
    assert_eq!(gguf.tensor_ref("tall"), Err(GgufError::TooLarge { tensor: label("tall") }));
}

#[test]
fn getters_say_what_they_found() {
    let mut w = sample();
    w.raw("bytes", 8, &[2, 0, 0, 0, 0, 0, 0, 0, 0xc3, 0x28]);
    let file = w.bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let wrong = |key, found, expected| GgufError::WrongType { key: label(key), found, expected };
    assert_eq!(gguf.f32("small"), Err(wrong("small", ValueType::U8, "a float")));
    assert_eq!(gguf.bool("small"), Err(wrong("small", ValueType::U8, "a truth value")));
    assert_eq!(gguf.str("small"), Err(wrong("small", ValueType::U8, "a string")));
    assert_eq!(gguf.array("small"), Err(wrong("small", ValueType::U8, "an array")));
    assert_eq!(gguf.u32("half"), Err(wrong("half", ValueType::F32, "an integer from 0 to 4294967295")));
    let expected = "an integer from 0 to 4294967295";
    assert_eq!(gguf.u32("minus"), Err(GgufError::OutOfRange { key: label("minus"), found: -1, expected }));
    assert_eq!(gguf.u32("long"), Err(GgufError::OutOfRange { key: label("long"), found: 1 << 40, expected }));
    assert_eq!(gguf.str("bytes"), Err(GgufError::BadText { key: label("bytes") }));
    let text = gguf.u32(("", "minus")).unwrap_err().to_string();
    assert_eq!(text, "key minus is -1; expected an integer from 0 to 4294967295");
}

/// One part of three, `of` by its own claim, holding the tensors `names`.
fn part(no: u16, of: u16, total: i32, names: &[&str]) -> Writer {
    let mut w = Writer::new();
    w.raw("split.no", 2, &no.to_le_bytes()).raw("split.count", 2, &of.to_le_bytes());
    w.raw("split.tensors.count", 5, &total.to_le_bytes());
    for (i, name) in (1..).zip(names) {
        w.tensor(name, &[8, i]);
    }
    w
}

fn split(parts: &[Writer]) -> Result<Vec<std::string::String>, GgufError> {
    let files: Vec<Vec<u8>> = parts.iter().map(|p| p.bytes()).collect();
    let files: Vec<&[u8]> = files.iter().map(|f| f.as_slice()).collect();
    let gguf = Gguf::parse_parts(&files)?;
    for t in gguf.tensors() {
        assert_eq!(gguf.data(&t), 1f32.to_le_bytes().repeat(t.elements() as usize), "{}", t.name);
        assert!(files[t.part as usize].as_ptr_range().contains(&gguf.data(&t).as_ptr()));
        assert_eq!(gguf.tensor(t.name), Some(t));
        assert_eq!(gguf.tensor_ref(t.name).unwrap().unwrap().part, t.part);
    }
    assert_eq!(gguf.tensor_count(), gguf.tensors().count());
    Ok(gguf.tensors().map(|t| t.name.into()).collect())
}

#[test]
fn reads_split_models() {
    let mut parts = [part(0, 3, 5, &[]), part(1, 3, 5, &["a", "b"]), part(2, 3, 5, &["c", "d", "e"])];
    parts[0].str("general.architecture", "llama");
    // Each part has its own alignment.
    parts[2].u32("general.alignment", 128).alignment = 128;
    assert_eq!(split(&parts).unwrap(), ["a", "b", "c", "d", "e"]);
    let whole = [part(0, 1, 1, &["a"])];
    assert_eq!(split(&whole).unwrap(), ["a"]);
    let (file, none) = (sample().bytes(), part(0, 0, 0, &[]).bytes());
    assert!(Gguf::parse_parts(&[&file]).is_ok() && Gguf::parse(&none).is_ok());
}

#[test]
fn refuses_wrong_splits() {
    let (a, b) = (|no, of| part(no, of, 2, &["a"]), |no, of| part(no, of, 2, &["b"]));
    let check = |parts: &[Writer], expected: GgufError| {
        assert_eq!(split(parts).unwrap_err(), expected);
        assert!(expected.to_string().len() > 10);
    };
    check(&[], GgufError::NoParts);
    check(&[a(0, 2)], GgufError::SplitCount { part: 0, found: 2, expected: 1 });
    check(&[a(0, 2), b(1, 3)], GgufError::SplitCount { part: 1, found: 3, expected: 2 });
    check(&[b(1, 2), a(0, 2)], GgufError::SplitOrder { part: 0, found: 1 });
    check(&[a(0, 2), b(0, 2)], GgufError::SplitOrder { part: 1, found: 0 });
    check(&[part(0, 2, 3, &["a"]), b(1, 2)], GgufError::SplitTensors { found: 2, expected: 3 });
    check(&[a(0, 2), part(1, 2, 2, &["a"])], GgufError::DuplicateTensor { name: label("a") });
    check(&[a(0, 2), sample()], GgufError::SplitKey { part: 1, key: "split.count" });
    for key in ["split.no", "split.count", "split.tensors.count"] {
        let mut first = a(0, 2);
        first.without(key);
        check(&[first, b(1, 2)], GgufError::SplitKey { part: 0, key });
    }
    // A part's data is checked like any file's.
    let mut second = b(1, 2).bytes();
    second.truncate(second.len() - 1);
    let first = a(0, 2).bytes();
    let found = Gguf::parse_parts(&[&first, &second]).map(|_| ());
    assert!(matches!(found, Err(GgufError::OutsideFile { .. })), "{found:?}");
}
