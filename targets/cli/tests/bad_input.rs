//! Bad input: a clear message, the right exit code, nothing left behind.

mod common;
use common::{Place, bytes, ran, run};

/// Every command that opens a model, with other words that it needs.
fn openers<'a>(model: &'a str, text: &'a str, out: &'a str) -> Vec<Vec<&'a str>> {
    vec![
        vec!["run", "-m", model, "hello"],
        vec!["chat", model],
        vec!["plan", model],
        vec!["bench", model, "-p", "4", "-n", "2", "--runs", "1"],
        vec!["inspect", model],
        vec!["tokenize", model, "hello"],
        vec!["logits", model, "--tokens", "1,2", "--out", out],
        vec!["perplexity", model, "--file", text],
    ]
}

#[test]
fn a_missing_file() {
    let place = Place::new();
    let (text, out) = (place.write("text", b"some text"), place.word("out"));
    for words in openers("no/such/model.gguf", &text, &out) {
        let ran = run(&words);
        assert_eq!(ran.code, 1, "{words:?}: {}", ran.err);
        assert!(ran.err.contains("no/such/model.gguf: no such file"), "{words:?}: {}", ran.err);
    }
}

#[test]
fn a_file_that_is_no_model() {
    let place = Place::new();
    let (text, out) = (place.write("text", b"some text"), place.word("out"));
    for content in [&b"hello, I am a letter to grandmother"[..], b"", b"GG", &[0; 4096], b"GGUF\x63\0\0\0"] {
        let model = place.write("model.gguf", content);
        for words in openers(&model, &text, &out) {
            let ran = run(&words);
            assert_eq!(ran.code, 1, "{words:?}: {}", ran.err);
            assert!(ran.err.starts_with("error: ") && ran.err.contains("model.gguf"), "{words:?}: {}", ran.err);
        }
    }
    assert_eq!(place.files(), ["model.gguf", "text"]);
}

#[test]
fn a_directory() {
    let place = Place::new();
    let ran = run(&["inspect", &place.word(".")]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("is a directory"), "{}", ran.err);
}

#[test]
fn a_file_cut_short_anywhere() {
    let place = Place::new();
    let whole = bytes(place.model("tiny-llama:q4_0"));
    let n = whole.len();
    for cut in [1, 8, 23, 24, 100, 1000, 4000, 9000, n / 4, n / 2, n - 5000, n - 1] {
        let model = place.write("cut.gguf", &whole[..cut]);
        for words in [vec!["inspect", &model], vec!["run", "-m", &model, "--raw", "-n", "2", "hello"]] {
            let ran = run(&words);
            assert_eq!(ran.code, 1, "cut at {cut} of {n}, {words:?}: {}", ran.err);
            assert!(ran.err.starts_with("error: "), "{}", ran.err);
        }
    }
}

#[test]
fn bytes_that_are_wrong_anywhere_in_the_head() {
    let place = Place::new();
    let mut broken = bytes(place.model("tiny-llama"));
    let whole = broken.clone();
    // Counts, lengths, types, dimensions, offsets: whatever a byte of the first part means, no value of it may do harm.
    let mut place_in = 7u64;
    for _ in 0..60 {
        place_in = place_in.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = 4 + (place_in >> 33) as usize % 4000;
        broken[at] ^= 1 << (place_in >> 61);
        broken[at + 3] = 0xff;
        let model = place.write("broken.gguf", &broken);
        let ran = run(&["run", "-m", &model, "--raw", "-n", "2", "hello"]);
        assert!(ran.code == 0 || ran.err.contains("error: "), "at {at}: {}", ran.err);
        broken.copy_from_slice(&whole);
    }
}

#[test]
fn weights_that_are_not_numbers() {
    let place = Place::new();
    let path = place.model("tiny-llama");
    let mut whole = bytes(&path);
    let offset = {
        let gguf = drupe::gguf::Gguf::parse(&whole).expect("a whole file");
        gguf.tensor("output_norm.weight").expect("a norm").offset as usize
    };
    whole[offset..offset + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let model = place.write("nan.gguf", &whole);
    let ran = run(&["run", "-m", &model, "--raw", "-n", "2", "hello"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let ran = run(&["perplexity", &model, "--file", &place.write("text", &[b'a'; 3000]), "--ctx", "64"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("not numbers"), "{}", ran.err);
}

#[test]
fn options_out_of_range() {
    for (words, what) in [
        (&["run", "-m", "tiny-llama", "--ctx", "0", "hi"][..], "--ctx 0"),
        (&["run", "-m", "tiny-llama", "--ctx", "99999999", "hi"], "ctx"),
        (&["run", "-m", "tiny-llama", "--batch", "0", "hi"], "--batch 0"),
        (&["run", "-m", "tiny-llama", "--sinks", "512", "hi"], "sinks is 512; expected 0 to 511"),
        (&["run", "-m", "tiny-llama", "-t", "0", "hi"], "threads"),
        (&["run", "-m", "tiny-llama", "-t", "100000", "hi"], "threads"),
        (&["run", "-m", "tiny-llama", "--isa", "mmx", "hi"], "avx2"),
        (&["run", "-m", "tiny-llama", "--kv", "q2", "hi"], "q8_0"),
        (&["run", "-m", "tiny-llama", "--temp", "-1", "hi"], "temp"),
        (&["run", "-m", "tiny-llama", "--memory", "12 apples", "hi"], "400M"),
        (&["run", "-m", "tiny-llama", "--ctx", "16", "--raw", "a prompt far too long to fit into it"], "--ctx"),
        (&["run", "-m", "tiny-llama", ""], "no prompt"),
        (&["run", "-m", "tiny-llama", "model", "prompt"], "twice"),
        (&["run"], "no prompt"),
        (&["bench", "tiny-llama", "-p", "0"], "at least 1"),
        (&["bench", "tiny-llama", "-p", "4000000000", "-n", "4000000000"], "too many"),
        (&["plan", "llama3.2-1b:q9"], "no such file"),
        (&["logits", "tiny-llama", "--tokens", "1,x", "--out", "out"], "\"x\""),
        (&["logits", "tiny-llama", "--tokens", ",", "--out", "out"], "empty"),
        (&["logits", "tiny-llama", "--tokens", "1,99999", "--out", "out"], "99999"),
        (&["tokenize", "tiny-llama"], "tokenize"),
        (&["synth", "llama9", "out"], "known:"),
        (&["synth", "tiny-llama:q9", "out"], "q4_k_m"),
        (&["dance"], "dance"),
    ] {
        let ran = run(words);
        let expected = if words == ["plan", "llama3.2-1b:q9"] { 1 } else { 2 };
        // An empty standard input is an empty text.
        if words == ["tokenize", "tiny-llama"] {
            assert_eq!(ran.code, 0);
            continue;
        }
        assert_eq!(ran.code, expected, "{words:?}: {}", ran.err);
        assert!(ran.err.contains(what), "{words:?} should speak of {what}: {}", ran.err);
        assert!(ran.out.is_empty(), "{words:?}: {}", ran.out);
    }
    assert!(!std::path::Path::new("out").exists());
}

#[test]
fn too_little_memory_names_what_would_do() {
    let place = Place::new();
    let model = place.model("tiny-llama");
    let words =
        |memory: &'static str| ["run", "-m", &model, "--raw", "-n", "1", "--memory", memory, "hi"].map(String::from);
    let ran_out = ran(common::drupe().args(words("1M")));
    assert_eq!(ran_out.code, 1);
    assert!(ran_out.err.contains("at least"), "{}", ran_out.err);
    assert_eq!(ran(common::drupe().args(words("200M"))).code, 0);
}

#[test]
fn output_that_cannot_be_written() {
    let place = Place::new();
    let model = place.model("tiny-llama");
    let ran_out = run(&["synth", "tiny-llama", "/no/such/folder/model.gguf"]);
    assert_eq!(ran_out.code, 1);
    assert!(ran_out.err.contains("/no/such/folder/model.gguf"), "{}", ran_out.err);
    // A failed write leaves what was there.
    let before = place.write("out", b"precious");
    let ran_out = run(&["logits", &model, "--tokens", "1,99999", "--out", &before]);
    assert_eq!(ran_out.code, 2, "{}", ran_out.err);
    assert_eq!(bytes(&before), b"precious");
    assert_eq!(place.files(), ["model.gguf", "out"]);
    if let Ok(full) = std::fs::File::options().write(true).open("/dev/full") {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_drupe"))
            .args(["tokenize", &model, "hello"])
            .stdout(full)
            .output()
            .expect("the program starts");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains("writing to standard output"), "{err}");
    }
}
