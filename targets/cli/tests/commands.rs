//! The commands as a user meets them.

mod common;
use common::{Place, bytes, drupe, ran, run};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn every_help_has_an_example() {
    let help = run(&["--help"]);
    assert_eq!(help.code, 0);
    let commands: Vec<&str> = help
        .out
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty())
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .filter(|c| *c != "help")
        .collect();
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands {
        let help = run(&[command, "--help"]);
        assert_eq!(help.code, 0);
        assert!(help.out.contains("Example"), "{command}: {}", help.out);
        assert!(help.out.contains(&format!("drupe {command} ")), "{command}: {}", help.out);
    }
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        assert_eq!(script.code, 0);
        assert!(script.out.contains("drupe") && script.out.contains("tokenize"), "{shell}");
    }
}

#[test]
fn run_writes_text_alone_to_standard_output() {
    let place = Place::new();
    let model = place.model("tiny-llama");
    let words = ["run", "-m", &model, "--raw", "-n", "12", "--temp", "0.8", "--seed", "5", "hello"];
    let one = run(&[&words[..], &["-t", "1"]].concat());
    let two = run(&[&words[..], &["-t", "2"]].concat());
    assert_eq!((one.code, two.code), (0, 0), "{}", one.err);
    assert_eq!(one.out, two.out, "the same for any number of threads");
    assert!(one.err.contains("tok/s") && one.err.contains("peak memory"), "{}", one.err);
    let other = run(&[&words[..], &["--seed", "6"]].concat());
    assert_eq!(other.code, 2, "an option twice is wrong usage");

    let document = json(&run(&[&words[..], &["--json"]].concat()).out);
    assert_eq!(document["tokens"], 12);
    assert_eq!(document["reason"], "length");
    assert_eq!(format!("{}\n", document["text"].as_str().unwrap_or("")), one.out);
}

#[test]
fn the_prompt_comes_from_a_word_a_file_or_a_pipe() {
    let place = Place::new();
    let model = place.model("tiny-llama");
    let file = place.write("prompt", b"hello there");
    let how = ["--raw", "-n", "5", "--temp", "0"];
    let word = run(&[&["run", &model, "hello there"][..], &how].concat());
    let from_file = run(&[&["run", &model, "--prompt-file", &file][..], &how].concat());
    let piped = ran(drupe().args([&["run", &model][..], &how].concat()).write_stdin("hello there"));
    assert_eq!((word.code, from_file.code, piped.code), (0, 0, 0), "{} {} {}", word.err, from_file.err, piped.err);
    assert_eq!(word.out, from_file.out);
    assert_eq!(word.out, piped.out);
}

#[test]
fn generation_goes_on_beyond_the_context() {
    let ran = run(&["run", "tiny-qwen3", "--raw", "--ctx", "32", "-n", "200", "--temp", "1", "--json", "abc"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let document = json(&ran.out);
    assert!(document["tokens"] == 200 || document["reason"] == "end", "{document}");
}

#[test]
fn tokens_and_ids() {
    let ids = run(&["tokenize", "tiny-llama3", "hello world", "--ids", "--no-bos"]);
    assert_eq!(ids.code, 0, "{}", ids.err);
    assert!(ids.out.split_whitespace().all(|id| id.parse::<u32>().is_ok()), "{}", ids.out);
    let document = json(&run(&["tokenize", "tiny-llama3", "hello world", "--json", "--no-bos"]).out);
    let pieces: String = document["pieces"].as_array().expect("pieces").iter().filter_map(|p| p.as_str()).collect();
    assert_eq!(pieces, "hello world");
    let special =
        |more: &[&str]| run(&[&["tokenize", "tiny-llama3", "<|im_end|>", "--ids", "--no-bos"], more].concat()).out;
    assert_eq!(special(&[]).split_whitespace().count(), 1);
    assert!(special(&["--no-special"]).split_whitespace().count() > 1);
}

#[test]
fn logits_are_raw_floats_of_every_position() {
    let place = Place::new();
    let out = place.word("logits");
    let ran = run(&["logits", "tiny-gemma3", "--tokens", "1,2, 3 4", "--out", &out]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(bytes(&out).len(), 4 * 384 * 4);
    assert!(ran.out.is_empty());
}

#[test]
fn the_plan_is_what_a_session_takes() {
    for shape in ["tiny-llama:q4_0", "tiny-gemma3", "tiny-phi3:q8_0"] {
        let how = ["--ctx", "100", "-t", "2", "--kv", "q8_0"];
        let plan = run(&[&["plan", shape, "--json"][..], &how].concat());
        let ran = run(&[&["run", "-m", shape, "--raw", "-n", "2", "--json", "a"][..], &how].concat());
        assert_eq!((plan.code, ran.code), (0, 0), "{} {}", plan.err, ran.err);
        let (plan, ran) = (json(&plan.out), json(&ran.out));
        assert_eq!(plan["plan_bytes"], ran["plan_bytes"], "{shape}");
        let parts = plan["parts"].as_object().expect("parts").values();
        assert_eq!(plan["plan_bytes"], parts.filter_map(|p| p.as_u64()).sum::<u64>());
    }
}

#[test]
fn a_big_shape_is_planned_without_making_it() {
    let start = Instant::now();
    let plan = run(&["plan", "smollm3-3b:q8_0", "--memory", "1G"]);
    assert_eq!(plan.code, 0, "{}", plan.err);
    assert!(plan.out.contains("streams in 1.0 GiB (--memory)"), "{}", plan.out);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn boards_are_planned_for() {
    let boards = run(&["plan", "--boards"]);
    assert_eq!(boards.code, 0, "{}", boards.err);
    for id in ["pi-zero-2w-512mb", "pi-5-16gb", "x86-mini-pc-8gb", "read_gb_s: "] {
        assert!(boards.out.contains(id), "{id}: {}", boards.out);
    }
    let plan = |model: &str, board: &str| {
        let ran = run(&["plan", model, "--board", board, "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        json(&ran.out)
    };
    let fits = plan("qwen2.5-0.5b:q4_0", "pi-5-8gb");
    assert_eq!(fits["verdict"], "fits");
    let decode = &fits["board"]["expected"][0]["decode"];
    assert_eq!(decode["bound"], "memory", "{decode}");
    assert!((20.0..60.0).contains(&decode["tok_s"].as_f64().expect("a speed")), "{decode}");
    assert_eq!(fits["board"]["expected"][0]["prefill"]["bound"], "arithmetic");
    let streams = plan("llama3.2-1b:q4_0", "pi-zero-2w");
    assert_eq!((&streams["verdict"], &streams["fits"]), (&json("\"streams\""), &json("false")), "{streams}");
    assert_eq!(streams["board"]["expected"][0]["decode"]["bound"], "storage", "{streams}");
    assert!(streams["largest_ctx"].is_null() && streams["largest_ctx_streaming"].as_u64() > Some(4096), "{streams}");
    let words = ["plan", "llama3.2-1b:q4_0", "--board", "pi-zero-2w", "--ctx", "60000"];
    let refused = run(&words);
    assert_eq!(refused.code, 0, "{}", refused.err);
    assert!(refused.out.contains("does not fit") && refused.out.contains("at least"), "{}", refused.out);
    let unknown = run(&["plan", "llama3.2-1b:q4_0", "--board", "commodore-64"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("pi-zero-2w"), "{}", unknown.err);

    let ranked = run(&["plan", "llama3.2-1b", "--board", "pi-4b-2gb", "--rank", "--ctx", "2048"]);
    assert_eq!(ranked.code, 0, "{}", ranked.err);
    assert!(ranked.out.contains("the finest that fits: q8_0"), "{}", ranked.out);
    let place = |name: &str| ranked.out.lines().position(|l| l.starts_with(name)).expect("a row");
    assert!(place("q2_k ") < place("q4_0 ") && place("q4_0 ") < place("f16 "), "{}", ranked.out);
    let here = run(&["plan", "tiny-llama:q4_0", "--board", "this"]);
    assert_eq!(here.code, 0, "{}", here.err);
    assert!(here.out.contains("if memory were all"), "{}", here.out);
}

#[test]
fn bench_has_every_key() {
    let ran = run(&["bench", "tiny-llama:q4_0", "-p", "16", "-n", "8", "--runs", "2", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let d = json(&ran.out);
    for pointer in [
        "/model",
        "/shape",
        "/threads",
        "/isa",
        "/cpu",
        "/prefill/tokens",
        "/prefill/tok_s",
        "/decode/tokens",
        "/decode/tok_s",
        "/ttft_ms",
        "/load_ms",
        "/latency_ms/p50",
        "/latency_ms/p90",
        "/latency_ms/p99",
        "/latency_ms/max",
        "/latency_ms/jitter",
        "/start/cold",
        "/start/warm/ttft_ms",
        "/expected/tok_s",
        "/steady",
        "/runs/done",
        "/memory/plan_bytes",
        "/memory/peak_bytes",
        "/memory/anon_bytes",
        "/memory/file_bytes",
        "/faults/minor",
        "/faults/major",
        "/storage_read_bytes",
        "/limit/bytes",
        "/limit/kind",
        "/frequency_mhz/min",
        "/frequency_mhz/max",
        "/throttled",
        "/read_bandwidth_gb_s",
        "/bandwidth_used",
    ] {
        assert!(d.pointer(pointer).is_some(), "{pointer} is missing");
    }
    assert_eq!(d["decode"]["tokens"], 8);
    assert!(d["latency_ms"]["p99"].as_f64() >= d["latency_ms"]["p50"].as_f64());
    assert!(d["decode"]["tok_s"].as_f64() > Some(0.0) && d["read_bandwidth_gb_s"].as_f64() > Some(0.0));
}

#[test]
fn bench_under_a_limit_says_what_limits() {
    let place = Place::new();
    let model = place.model("tiny-llama:q4_0");
    let how = ["-p", "16", "-n", "4", "--runs", "1", "-t", "1", "--json"];
    let one = run(&[&["bench", &model, "--memory", "100M"][..], &how].concat());
    assert_eq!(one.code, 0, "{}", one.err);
    let d = json(&one.out);
    let kinds = ["control group v2", "control group v1", "systemd scope", "self-imposed"];
    assert!(kinds.iter().any(|k| d["limit"]["kind"] == *k), "{d}");
    assert_eq!(d["limit"]["bytes"], 100 << 20);
    assert!(d["memory"]["peak_bytes"].as_u64() < Some(100 << 20), "{d}");
    for start in ["cold", "warm"] {
        let first = d["start"][start]["ttft_ms"].as_f64();
        assert!(first.is_some() && first > d["start"][start]["load_ms"].as_f64(), "{d}");
    }

    let plot = place.word("sweep.svg");
    let sweep = run(&[&["bench", &model, "--sweep", "1M..160M", "--plot", &plot][..], &how].concat());
    assert_eq!(sweep.code, 0, "{}", sweep.err);
    let runs = json(&sweep.out);
    let runs = runs.as_array().expect("one document for each limit");
    assert_eq!(runs.len(), 6);
    assert!(runs[0]["error"].as_str().is_some_and(|e| e.contains("too small")), "{}", runs[0]);
    assert!(runs[5]["decode"]["tok_s"].as_f64() > Some(0.0), "{}", runs[5]);
    assert!(String::from_utf8_lossy(&bytes(&plot)).starts_with("<svg"));
}

#[test]
fn the_built_in_model_needs_no_file() {
    let ran = run(&["run", "turn off the heater in the garage in ten minutes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(json(ran.out.trim()).is_array() || json(ran.out.trim()).is_object(), "{}", ran.out);
}

#[test]
fn inspect_shows_keys_tensors_and_what_is_made_of_them() {
    let ran = run(&["inspect", "tiny-gemma2:q4_k_m", "--tensors"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for what in ["general.architecture = \"gemma2\"", "blk.3.ffn_down.weight", "attention_soft_cap", "bits per weight"]
    {
        assert!(ran.out.contains(what), "{what}: {}", ran.out);
    }
    assert_eq!(json(&run(&["inspect", "tiny-gemma2", "--json"]).out)["supported"], true);
}

#[test]
fn perplexity_of_a_random_model_is_above_its_vocabulary() {
    let place = Place::new();
    let text = place.write("text", "the quick brown fox jumps over the lazy dog. ".repeat(40).as_bytes());
    let ran = run(&["perplexity", "tiny-llama", "--file", &text, "--ctx", "64", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let d = json(&ran.out);
    assert!(d["perplexity"].as_f64() > Some(100.0), "{d}");
    assert!(d["standard_error"].as_f64() > Some(0.0) && d["scored"].as_u64() > Some(100), "{d}");
}

#[test]
fn chat_answers_each_line_and_forgets_on_demand() {
    let talk = |lines: &str| {
        ran(drupe().args(["chat", "tiny-qwen2", "-n", "6", "--temp", "0"]).write_stdin(lines.to_string()))
    };
    let once = talk("hello\n");
    let again = talk("hello\n/reset\nhello\n/quit\nnever read\n");
    assert_eq!((once.code, again.code), (0, 0), "{}", again.err);
    assert_eq!(again.out, once.out.repeat(2), "after /reset the same question has the same answer");
    // A second turn computes only what is new.
    let two = talk("hello\nhow are you\n");
    let prompts: Vec<usize> = two
        .err
        .lines()
        .filter_map(|l| l.strip_prefix('[')?.split_once(" prompt tokens").and_then(|(n, _)| n.parse().ok()))
        .collect();
    assert_eq!(prompts.len(), 2, "{}", two.err);
    assert!(prompts[1] < 2 * prompts[0], "the first turn was computed again: {prompts:?}");
}

/// Starts an endless answer and waits for its first bytes.
fn endless(model: &str) -> (std::process::Child, std::process::ChildStdout) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_drupe"))
        .args(["run", "-m", model, "--raw", "-n", "100000000", "--temp", "1", "-t", "1", "hello"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut out = child.stdout.take().expect("a pipe");
    out.read_exact(&mut [0; 16]).expect("an answer");
    (child, out)
}

/// What it said on standard error, and how it ended.
fn end(child: std::process::Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("an end");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!err.contains("panicked"), "{err}");
    (output.status.code(), err)
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_answer() {
    let place = Place::new();
    // Its specials are forbidden by nothing, so an end of its own is possible, if unlikely within the first words.
    let (child, out) = endless(&place.model("tiny-llama"));
    let start = Instant::now();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    // Someone must read on, or the pipe fills up.
    let reader = std::thread::spawn(move || std::io::copy(&mut { out }, &mut std::io::sink()));
    let (code, err) = end(child);
    let took = start.elapsed();
    let _ = reader.join();
    if code == Some(0) {
        println!("skipped: the model ended its answer by itself");
        return;
    }
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains("tok/s"), "the summary is still told: {err}");
    // 200 ms on a machine with nothing else to do; tests run beside others.
    assert!(took < Duration::from_millis(1500), "{took:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    let (child, out) = endless(&place.model("tiny-llama"));
    drop(out);
    let (code, err) = end(child);
    assert_eq!(code, Some(0), "{err}");
}
