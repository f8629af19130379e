//! Chat templates, saved sessions, and stopping in the middle: what a conversation is made of.

mod common;
use common::{Place, bytes, drupe, ran, run};
use drupe_host::gguf_write::{Header, atomically};
use drupe_host::shapes::Spec;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The first number before `words` on each line of figures.
fn figures(err: &str, words: &str) -> Vec<usize> {
    let number = |l: &str| l.split_once(words).and_then(|(n, _)| n.rsplit(['[', ' ']).next()?.parse().ok());
    err.lines().filter_map(number).collect()
}

/// A copy of the synthetic model `shape` with this chat template.
fn with_template(place: &Place, shape: &str, template: &str) -> String {
    let whole = drupe_host::synth::in_memory(&Spec::parse(shape).expect("a shape")).expect("a model");
    let gguf = drupe::gguf::Gguf::parse(&whole).expect("a whole file");
    let mut header = Header::new();
    gguf.keys().filter(|(key, _)| *key != "tokenizer.chat_template").for_each(|(key, value)| {
        header.value(key, &value);
    });
    header.string("tokenizer.chat_template", template);
    for t in gguf.tensors() {
        header.tensor(t.name, &t.dims[..t.n_dims as usize], t.format.expect("a format")).expect("a tensor");
    }
    let path = place.path("templated.gguf");
    let write = |out: &mut dyn Write| {
        let mut body = header.start(out)?;
        gguf.tensors().try_for_each(|t| body.write(gguf.data(&t)))?;
        body.finish().map(|_| ())
    };
    atomically(&path, |out| write(out)).expect("written");
    path.display().to_string()
}

#[test]
fn the_files_own_template_is_used_and_a_broken_one_told() {
    let place = Place::new();
    // The same tokens by the file's template as by hand.
    let template = "{% for m in messages %}({{ m.role }}: {{ m.content }}){% endfor %}";
    let model = with_template(&place, "tiny-qwen2", template);
    let how = ["-n", "8", "--temp", "0", "--json"];
    let own = run(&[&["run", &model, "hi", "--system", "be brief"][..], &how].concat());
    let by_hand = run(&[&["run", &model, "--raw", "(system: be brief)(user: hi)"][..], &how].concat());
    assert_eq!((own.code, by_hand.code), (0, 0), "{} {}", own.err, by_hand.err);
    let document = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    assert_eq!(document(&own.out)["ids"], document(&by_hand.out)["ids"]);
    assert!(!own.err.contains("note:"), "{}", own.err);

    for (template, why) in [
        ("{% for m in messages %}<|im_start|>{% endfo %}", "known format chatml"),
        ("{{ raise_exception('no such talk') }}", "no such talk"),
        ("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", "out of fuel"),
    ] {
        let model = with_template(&place, "tiny-llama", template);
        let ran = run(&[&["run", &model, "hi"][..], &how].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        let notes: Vec<_> = ran.err.lines().filter(|l| l.starts_with("note: ")).collect();
        assert!(notes.len() == 1 && notes[0].contains(why), "{why}: {}", ran.err);
    }
}

#[test]
fn a_template_that_rewrites_what_was_said_costs_only_what_changed() {
    let place = Place::new();
    // Of earlier answers nothing is left.
    let template = "{% for m in messages %}{% if m.role == 'user' %}Q {{ m.content }} A {% endif %}{% endfor %}";
    let model = with_template(&place, "tiny-qwen2", template);
    let talk =
        |lines: &str| ran(drupe().args(["chat", &model, "-n", "20", "--temp", "0"]).write_stdin(lines.to_string()));
    let two = talk("a first question of some length\nand a second one\n");
    assert_eq!(two.code, 0, "{}", two.err);
    let (fed, kept) = (figures(&two.err, " prompt tokens"), figures(&two.err, " kept)"));
    assert_eq!((fed.len(), kept.len()), (2, 1), "{}", two.err);
    // All of the first question is kept, none of its answer.
    assert!(kept[0] <= fed[0] && kept[0] + 3 > fed[0], "{}", two.err);
    // As if the first answer had never been.
    let raw = run(&[
        "run",
        &model,
        "--raw",
        "Q a first question of some length A Q and a second one A ",
        "-n",
        "20",
        "--temp",
        "0",
    ]);
    assert_eq!(two.out.lines().last(), raw.out.lines().last(), "{}", two.err);
}

#[test]
fn a_prompt_is_kept_in_a_file_and_not_computed_again() {
    let place = Place::new();
    let (model, session) = (place.model("tiny-gemma3:q4_0"), place.word("prompt.session"));
    let how = ["--raw", "-n", "10", "--temp", "0.9", "--seed", "3", "--repeat-penalty", "1.3"];
    let ask = |prompt: &str, more: &[&str]| run(&[&["run", &model, prompt][..], &how, more].concat());
    let kept = ["--session", &session];
    let without = ask("once upon a time there was", &[]);
    let first = ask("once upon a time there was", &kept);
    let before = bytes(&session);
    let again = ask("once upon a time there was", &kept);
    assert_eq!((first.code, again.code), (0, 0), "{} {}", first.err, again.err);
    assert_eq!((&first.out, &again.out), (&without.out, &without.out), "the same answer with and without the file");
    let all = figures(&first.err, " prompt tokens")[0];
    assert_eq!(figures(&again.err, " prompt tokens"), [0], "no prefill: {}", again.err);
    assert_eq!(figures(&again.err, " kept)"), [all], "{}", again.err);
    assert_eq!(bytes(&session), before, "nothing new, nothing written");
    // Another end: what is the same stays.
    let other = ask("once upon a time there is", &kept);
    assert_eq!(other.out, ask("once upon a time there is", &[]).out);
    let kept_tokens = figures(&other.err, " kept)")[0];
    assert!(kept_tokens + 6 > all && kept_tokens < all, "{}", other.err);
    assert_eq!(place.files(), ["model.gguf", "prompt.session"]);
}

#[test]
fn trying_several_tokens_at_once_changes_no_answer() {
    let mut tried = 0;
    for shape in ["tiny-llama", "tiny-qwen3", "tiny-gemma3", "tiny-llama3:q8_0"] {
        for how in [&["--temp", "0"][..], &["--temp", "0.8", "--seed", "4", "--repeat-penalty", "1.1"]] {
            // Also past the context.
            let words = ["run", "-m", shape, "--raw", "--ctx", "64", "-n", "150", "--json", "one two one two one"];
            let one = run(&[&words[..], how].concat());
            let several = run(&[&words[..], how, &["--draft", "lookup"]].concat());
            assert_eq!((one.code, several.code), (0, 0), "{} {}", one.err, several.err);
            let of = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
            let (one, several) = (of(&one.out), of(&several.out));
            assert_eq!(one["ids"], several["ids"], "{shape} {how:?}");
            tried += several["right"].as_u64().expect("a number");
        }
    }
    assert!(tried > 100, "only {tried} tries were right: nothing was tested");
}

#[test]
fn a_conversation_goes_on_where_it_was_left() {
    let place = Place::new();
    let (model, session) = (place.model("tiny-qwen2"), place.word("talk.session"));
    let talk = |lines: &str, more: &[&str]| {
        let words = [&["chat", &model, "-n", "12", "--temp", "0"][..], more].concat();
        ran(drupe().args(words).write_stdin(lines.to_string()))
    };
    let whole = talk("hello\nwho are you\nand now\n", &[]);
    let first = talk("hello\nwho are you\n", &["--session", &session]);
    let second = talk("and now\n", &["--session", &session]);
    assert_eq!((first.code, second.code), (0, 0), "{} {}", first.err, second.err);
    assert_eq!(first.out.clone() + &second.out, whole.out);
    assert!(second.err.contains("4 turns of an earlier conversation"), "{}", second.err);
    let last = |err: &str| figures(err, " prompt tokens").last().copied();
    assert_eq!(last(&second.err), last(&whole.err), "only the new message is computed");
}

#[test]
fn sessions_that_cannot_be_used_are_refused_and_stay_as_they_are() {
    let place = Place::new();
    let (model, session) = (place.model("tiny-llama"), place.word("a.session"));
    let ask = |more: &[&str]| run(&[&["run", "-m", &model, "--raw", "-n", "2", "hello there"][..], more].concat());
    assert_eq!(ask(&["--session", &session]).code, 0);
    let whole = bytes(&session);
    let refused = |why: &str, more: &[&str]| {
        let ran = ask(&[&["--session", &session][..], more].concat());
        assert_eq!(ran.code, 1, "{why}: {}", ran.err);
        assert!(ran.err.contains(why) && ran.err.contains("a.session") && ran.out.is_empty(), "{why}: {}", ran.err);
    };
    refused("another model or configuration", &["--ctx", "100"]);
    refused("--ctx 512 --kv f16", &["--kv", "q8_0"]);
    assert_eq!(bytes(&session), whole);
    for (at, why) in [(0, "not a saved session"), (20, "checksum"), (70, "checksum"), (whole.len() - 9, "checksum")] {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        place.write("a.session", &damaged);
        refused(why, &[]);
        assert_eq!(bytes(&session), damaged);
    }
    for len in [0, 7, 63, 64, 100, whole.len() - 1] {
        place.write("a.session", &whole[..len]);
        refused(if len < 64 { "not a saved session" } else { "" }, &[]);
    }
    let ran = ask(&["--session", "/no/such/folder/a.session"]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    // A device that is always full: the answer comes, the failure is told.
    if cfg!(target_os = "linux") && std::path::Path::new("/sys/kernel").is_dir() {
        let ran = ask(&["--session", "/sys/kernel/a.session"]);
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert!(!ran.out.is_empty() && ran.err.contains("saving the session in /sys/kernel/a.session"), "{}", ran.err);
    }
}

#[test]
fn what_a_session_takes_is_what_was_planned() {
    let place = Place::new();
    let model = place.model("tiny-llama3");
    // Past the context, so that all of it was used.
    let words = ["run", &model, "--raw", "--ctx", "512", "-n", "600", "-t", "2", "--temp", "1", "--json", "hello"];
    let ran = run(&words);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let d: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let Some(anonymous) = d["anon_bytes"].as_u64() else {
        println!("skipped: this system does not tell");
        return;
    };
    let planned = d["plan_bytes"].as_u64().expect("a number");
    println!("{anonymous} anonymous bytes, {planned} planned");
    assert!(anonymous < planned + (2 << 20), "{anonymous} anonymous bytes, {planned} planned");
}

#[cfg(unix)]
#[test]
fn ctrl_c_while_a_long_message_is_read_leaves_the_conversation_usable() {
    let place = Place::new();
    let model = place.model("smollm2-135m:q4_0");
    let mut child = Command::new(env!("CARGO_BIN_EXE_drupe"))
        .args(["chat", &model, "-n", "3", "--temp", "0", "--ctx", "16000", "-t", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut input = child.stdin.take().expect("a pipe");
    let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    writeln!(input, "{}", "lorem ipsum ".repeat(1800)).expect("written");
    // Long enough to be in the middle of it, on any machine that has not yet finished by then.
    std::thread::sleep(Duration::from_millis(700));
    let start = Instant::now();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    let line = said.by_ref().map_while(Result::ok).find(|l| !l.starts_with("note: ")).expect("a word");
    let took = start.elapsed();
    writeln!(input, "hello").expect("written");
    drop(input);
    let output = child.wait_with_output().expect("an end");
    let rest: Vec<String> = said.map_while(Result::ok).collect();
    if line.contains("tok/s") {
        println!("skipped: it was read before it could be stopped");
        return;
    }
    assert_eq!((line.as_str(), output.status.code()), ("[stopped]", Some(0)), "{rest:?}");
    assert!(rest.iter().any(|l| l.contains("tok/s")), "the next message is answered: {rest:?}");
    // 200 ms on a machine with nothing else to do; tests run beside others.
    println!("stopped after {took:?}");
    assert!(took < Duration::from_millis(1500), "{took:?}");
}
