//! Quantising whole files: what is in the output, and that nothing is left when it fails.

use drupe::gguf::{Gguf, Value};
use drupe::quant::{Format, oracle};
use drupe_host::gguf_write::Header;
use drupe_host::mix::{MIXES, Mix};
use drupe_host::quantize::{Progress, QuantizeError, Report, Settings, quantize};
use drupe_host::{shapes::Spec, synth};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

fn run(input: &Path, output: &Path, mix: &str) -> Result<Report, QuantizeError> {
    run_with(input, output, mix, &[])
}

fn run_with(input: &Path, output: &Path, mix: &str, overrides: &[(String, Format)]) -> Result<Report, QuantizeError> {
    let (cancel, mix) = (AtomicBool::new(false), Mix::find(mix).unwrap());
    quantize(input, output, &Settings { mix, overrides, cancel: &cancel, progress: &|_| {} })
}

fn source(folder: &Path, shape: &str) -> PathBuf {
    let path = folder.join(format!("{}.gguf", shape.replace(':', "-")));
    synth::write(&Spec::parse(shape).unwrap(), &path, &|_| {}).unwrap();
    path
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        folder.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every mix: keys kept, every tensor in the format chosen, holding just what the oracle makes of the source.
#[test]
fn every_mix_holds_what_the_oracle_makes() {
    let folder = tempfile::tempdir().unwrap();
    for shape in ["tiny-wide:f32", "tiny-wide:bf16", "tiny-llama:f16"] {
        let input = source(folder.path(), shape);
        let before = std::fs::read(&input).unwrap();
        let from = Gguf::parse(&before).unwrap();
        // From f32 every mix, from the others a few: what differs is only how weights are read.
        let mixes = MIXES.iter().filter(|m| shape.ends_with("f32") || ["f32", "q8_0", "q4_k_m"].contains(&m.name));
        for mix in mixes {
            let output = folder.path().join("out.gguf");
            let report = run(&input, &output, mix.name).unwrap_or_else(|e| panic!("{shape} {}: {e}", mix.name));
            let after = std::fs::read(&output).unwrap();
            assert_eq!(report.bytes_out, after.len() as u64);
            assert_eq!(report.not_finite, 0);
            let to = Gguf::parse(&after).unwrap();
            assert_eq!(to.u32("general.file_type"), Ok(Some(mix.file_type)));
            assert_eq!(to.u32("general.quantization_version"), Ok(Some(2)));
            for (key, value) in from.keys().filter(|(k, _)| !k.starts_with("general.file_type")) {
                assert!(same(&value, &to.get(key).unwrap()), "{key}");
            }
            assert_eq!(from.tensor_count(), to.tensor_count());
            for (a, b) in from.tensors().zip(to.tensors()) {
                assert_eq!((a.name, a.dims, a.n_dims), (b.name, b.dims, b.n_dims));
                let (old, new) = (a.format.unwrap(), b.format.unwrap());
                if a.n_dims == 1 {
                    assert_eq!(old, new, "{}", a.name);
                }
                let expected = if old == new {
                    from.data(&a).to_vec()
                } else {
                    let mut values = vec![0.0; a.elements() as usize];
                    oracle::dequantize(old, from.data(&a), &mut values);
                    let mut bytes = vec![0; b.bytes as usize];
                    oracle::quantize(new, &values, &mut bytes);
                    bytes
                };
                assert!(to.data(&b) == expected, "{shape} {} {}", mix.name, a.name);
            }
        }
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.element() == b.element() && a.len() == b.len() && a.values().eq(b.values()) && a.strings().eq(b.strings())
        }
        (a, b) => a == b,
    }
}

/// An independent reader finds the same keys and tensors.
#[test]
fn gguf_rs_reads_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (source(folder.path(), "tiny-wide:f32"), folder.path().join("out.gguf"));
    run(&input, &output, "q4_k_m").unwrap();
    let bytes = std::fs::read(&output).unwrap();
    let ours = Gguf::parse(&bytes).unwrap();
    let mut container = gguf_rs::get_gguf_container_array_size(output.to_str().unwrap(), u64::MAX).unwrap();
    let theirs = container.decode().unwrap();
    assert_eq!(theirs.model_family(), ours.architecture().unwrap());
    assert_eq!(theirs.metadata().len(), ours.keys().count());
    assert_eq!(theirs.tensors().len(), ours.tensor_count());
    for (t, o) in theirs.tensors().iter().zip(ours.tensors()) {
        assert_eq!((t.name.as_str(), t.kind, t.size), (o.name, o.format.unwrap() as u32, o.bytes));
        assert_eq!(theirs.data_offset() + t.offset, o.offset, "{}", o.name);
    }
}

#[test]
fn exceptions_come_before_the_mix() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (source(folder.path(), "tiny-wide:f32"), folder.path().join("out.gguf"));
    let exceptions = [("attn_v".to_string(), Format::F16), ("token_embd".to_string(), Format::Q5_1)];
    run_with(&input, &output, "q4_0", &exceptions).unwrap();
    let bytes = std::fs::read(&output).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    let format = |name: &str| gguf.tensor(name).unwrap().format.unwrap();
    assert_eq!(format("blk.0.attn_v.weight"), Format::F16);
    assert_eq!(format("token_embd.weight"), Format::Q5_1);
    assert_eq!(format("blk.0.attn_k.weight"), Format::Q4_0);
    assert_eq!(format("blk.0.attn_norm.weight"), Format::F32);

    let narrow = folder.path().join("narrow.gguf");
    let written = file_with(&[("blk.0.attn_q.weight", &[32, 2], Format::F32)]);
    std::fs::write(&narrow, written).unwrap();
    let unfit = run_with(&narrow, &output, "q4_0", &[("attn_q".to_string(), Format::Q4_K)]);
    assert!(matches!(unfit, Err(QuantizeError::Unfit { cols: 32, .. })), "{unfit:?}");
}

/// A GGUF with these tensors, whose bytes are 0x11.
fn file_with(tensors: &[(&str, &[u64], Format)]) -> Vec<u8> {
    let mut header = Header::new();
    header.string("general.architecture", "llama");
    for (name, dims, format) in tensors {
        header.tensor(name, dims, *format).unwrap();
    }
    let mut body = header.start(Vec::new()).unwrap();
    for (_, dims, format) in tensors {
        let rows: u64 = dims[1..].iter().product();
        body.write(&vec![0x11; rows as usize * format.row_bytes(dims[0] as usize).unwrap()]).unwrap();
    }
    body.finish().unwrap()
}

#[test]
fn what_is_already_quantised_is_copied_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    let bytes = file_with(&[
        ("blk.0.attn_q.weight", &[256, 3], Format::Q4_K),
        ("blk.0.attn_k.weight", &[256, 3], Format::Q8_0),
        ("empty.weight", &[256, 0], Format::F32),
    ]);
    std::fs::write(&input, &bytes).unwrap();
    run(&input, &output, "q4_k_s").unwrap();
    let made = std::fs::read(&output).unwrap();
    let (from, to) = (Gguf::parse(&bytes).unwrap(), Gguf::parse(&made).unwrap());
    let q = |g: &Gguf, all: &[u8]| {
        let t = g.tensor("blk.0.attn_q.weight").unwrap();
        all[t.offset as usize..][..t.bytes as usize].to_vec()
    };
    assert_eq!(q(&from, &bytes), q(&to, &made));
    assert_eq!(to.tensor("blk.0.attn_k.weight").unwrap().format, Ok(Format::Q4_K));
    std::fs::remove_file(&output).unwrap();
    let refused = run(&input, &output, "q4_0").unwrap_err();
    assert!(refused.to_string().contains("blk.0.attn_q.weight is already quantised (Q4_K)"), "{refused}");
    assert_eq!(files(folder.path()), ["in.gguf"]);
}

/// A model in two files becomes one.
#[test]
fn a_split_model_is_joined() {
    let folder = tempfile::tempdir().unwrap();
    for part in 0..2u16 {
        let mut header = Header::new();
        header.string("general.architecture", "llama");
        // As gguf-split writes them: two u16 and an i32.
        header.raw("split.no", &[&2u32.to_le_bytes()[..], &part.to_le_bytes()].concat());
        header.raw("split.count", &[&2u32.to_le_bytes()[..], &2u16.to_le_bytes()].concat());
        header.raw("split.tensors.count", &[&5u32.to_le_bytes()[..], &2i32.to_le_bytes()].concat());
        header.tensor(&format!("blk.{part}.attn_q.weight"), &[32, 2], Format::F32).unwrap();
        let mut body = header.start(Vec::new()).unwrap();
        body.write(&[part as u8 + 1; 256]).unwrap();
        std::fs::write(folder.path().join(format!("m-0000{}-of-00002.gguf", part + 1)), body.finish().unwrap())
            .unwrap();
    }
    let output = folder.path().join("out.gguf");
    run(&folder.path().join("m-00002-of-00002.gguf"), &output, "q8_0").unwrap();
    let made = std::fs::read(&output).unwrap();
    let gguf = Gguf::parse(&made).unwrap();
    assert_eq!(
        gguf.tensors().map(|t| t.name.to_string()).collect::<Vec<_>>(),
        ["blk.0.attn_q.weight", "blk.1.attn_q.weight"]
    );
    assert!(gguf.keys().all(|(k, _)| !k.starts_with("split.")));
}

#[test]
fn damaged_weights_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    let mut bytes = file_with(&[("blk.0.attn_q.weight", &[256, 3], Format::F32)]);
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    bytes[end - 8..end - 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(&input, &bytes).unwrap();
    for mix in ["q4_k_m", "q4_0", "iq4_xs"] {
        assert_eq!(run(&input, &output, mix).unwrap().not_finite, 2);
    }
}

#[test]
fn bad_sources_and_outputs_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let input = source(dir, "tiny-llama:f32");
    let whole = std::fs::read(&input).unwrap();
    let cut = dir.join("cut.gguf");
    let here = |name: &str| dir.join(name);
    for len in [1, 3, 4, 20, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&cut, &whole[..len]).unwrap();
        let e = run(&cut, &here("out.gguf"), "q4_0").unwrap_err();
        assert!(matches!(e, QuantizeError::Gguf { .. }), "{len}: {e}");
    }
    assert!(matches!(run(&here("none.gguf"), &here("out.gguf"), "q4_0"), Err(QuantizeError::Open(_))));
    assert!(matches!(run(&input, &input, "q4_0"), Err(QuantizeError::OntoSource { .. })));
    assert!(matches!(run(&input, dir, "q4_0"), Err(QuantizeError::NotAFile { .. })));
    assert!(matches!(run(&input, Path::new("/dev/null"), "q4_0"), Err(QuantizeError::NotAFile { .. })));
    assert!(matches!(run(&input, &here("no/such/out.gguf"), "q4_0"), Err(QuantizeError::Write { .. })));
    assert_eq!(std::fs::read(&input).unwrap(), whole);
    assert_eq!(files(dir), ["cut.gguf", "tiny-llama-f32.gguf"]);
}

/// Cancelled at each step in turn: nothing is left, and what had the name keeps it.
#[test]
fn cancelling_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let input = source(folder.path(), "tiny-llama:f32");
    let output = folder.path().join("out.gguf");
    std::fs::write(&output, "before").unwrap();
    let mix = Mix::find("q4_0").unwrap();
    for stop_after in 0..8 {
        let cancel = AtomicBool::new(stop_after == 0);
        let steps = std::sync::atomic::AtomicU32::new(0);
        let progress = |p: Progress| {
            assert!(p.done <= p.total && !p.tensor.is_empty());
            if steps.fetch_add(1, Ordering::Relaxed) + 1 == stop_after {
                cancel.store(true, Ordering::Relaxed);
            }
        };
        let e = quantize(&input, &output, &Settings { mix, overrides: &[], cancel: &cancel, progress: &progress });
        assert!(matches!(e, Err(QuantizeError::Cancelled)), "{stop_after}");
        assert_eq!(std::fs::read(&output).unwrap(), b"before");
    }
    assert_eq!(files(folder.path()), ["out.gguf", "tiny-llama-f32.gguf"]);
}
