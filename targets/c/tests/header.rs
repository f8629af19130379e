//! The header and the Rust side say the same: every function with its parameters, every struct with its fields in order,
//! every constant, every error code with its text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

const STRUCTS: [(&str, &str); 13] = [
    ("Bytes", "drupe_bytes"),
    ("Options", "drupe_options"),
    ("PlanInfo", "drupe_plan_info"),
    ("Sampling", "drupe_sampling"),
    ("Stats", "drupe_stats"),
    ("ChatMessage", "drupe_message"),
    ("Team", "drupe_team"),
    ("Face", "drupe"),
    ("File", "drupe_file"),
    ("Threads", "drupe_threads"),
    ("Budget", "drupe_budget"),
    ("BudgetInfo", "drupe_budget_info"),
    ("Code", "drupe_code"),
];

/// Callback types that Rust names and the header writes out.
const CALLBACKS: [&str; 4] = ["JobCall", "RunCall", "ProgressCall", "ClockCall"];

fn source(name: &str) -> String {
    fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).expect(name)
}

/// The header that the Rust sources make.
fn generated() -> String {
    let mut config = cbindgen::Config {
        language: cbindgen::Language::C,
        usize_is_size_t: true,
        documentation: false,
        no_includes: true,
        style: cbindgen::Style::Both,
        ..cbindgen::Config::default()
    };
    config.export.exclude = vec!["rust_eh_personality".to_string()];
    config.export.rename = STRUCTS.iter().map(|(rust, c)| (rust.to_string(), c.to_string())).collect();
    let sources = ["options", "lib", "calls", "hosted", "face", "error"];
    let builder = sources.iter().fold(cbindgen::Builder::new().with_config(config), |builder, name| {
        builder.with_src(format!("{}/src/{name}.rs", env!("CARGO_MANIFEST_DIR")))
    });
    let mut text = Vec::new();
    builder.generate().expect("cbindgen").write(&mut text);
    String::from_utf8(text).expect("text")
}

/// What a header declares: constants by name, and everything else as one line without needless space.
#[derive(Default)]
struct Declared {
    constants: BTreeMap<String, String>,
    lines: BTreeSet<String>,
}

fn declared(header: &str) -> Declared {
    let mut text = String::new();
    let mut rest = header;
    while let Some(start) = rest.find("/*") {
        text.push_str(&rest[..start]);
        rest = rest[start..].split_once("*/").expect("a comment's end").1;
    }
    text.push_str(rest);

    let mut declared = Declared::default();
    let mut code = String::new();
    for line in text.lines() {
        match line.strip_prefix("#define ") {
            Some(define) => {
                let (name, value) = define.split_once(' ').unwrap_or((define, ""));
                let value = value.trim().trim_matches(['(', ')']).trim_end_matches('u');
                if name.starts_with("DRUPE_") {
                    declared.constants.insert(name.to_string(), value.to_string());
                }
            }
            None if line.starts_with('#') || line.contains("extern \"C\"") || line.trim() == "}" && code.is_empty() => {
            }
            None => {
                code.push_str(line);
                code.push(' ');
            }
        }
    }
    let (mut depth, mut line) = (0, String::new());
    for c in code.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match c {
            ';' if depth == 0 => declared.add(&std::mem::take(&mut line)),
            c => line.push(c),
        }
    }
    // Callback types, written out where they are used; those that use others in turn come first.
    for name in CALLBACKS.iter().rev() {
        declared.write_out(name);
    }
    declared
}

impl Declared {
    fn add(&mut self, line: &str) {
        let mut spaced = line.to_string();
        for sign in ["*", "(", ")", ",", "{", "}", ";"] {
            spaced = spaced.replace(sign, &format!(" {sign} "));
        }
        // A struct's tag and its name are one: the word says nothing.
        self.lines.insert(spaced.split_whitespace().filter(|word| *word != "struct").collect::<Vec<_>>().join(" "));
    }

    /// Replaces `name x` by the type's declaration with `x` in the place of its name.
    fn write_out(&mut self, name: &str) {
        let marks = format!("( * {name} )");
        let Some(typedef) = self.lines.iter().find(|l| l.starts_with("typedef") && l.contains(&marks)).cloned() else {
            return;
        };
        self.lines.remove(&typedef);
        let (before, after) = typedef["typedef ".len()..].split_once(&marks).expect("found above");
        let expand = |line: &String| {
            let mut words: Vec<String> = line.split(' ').map(str::to_string).collect();
            while let Some(at) = words.iter().position(|w| w == name) {
                let written = format!("{before}( * {} ){after}", words[at + 1]);
                words.splice(at..at + 2, written.split(' ').map(str::to_string));
            }
            words.join(" ")
        };
        self.lines = self.lines.iter().map(expand).collect();
    }
}

#[test]
fn the_header_declares_what_rust_exports() {
    let (ours, theirs) = (declared(&source("include/drupe.h")), declared(&generated()));
    let missing: Vec<_> = theirs.lines.difference(&ours.lines).collect();
    let extra: Vec<_> = ours.lines.difference(&theirs.lines).collect();
    assert!(missing.is_empty() && extra.is_empty(), "only in Rust:\n{missing:#?}\nonly in the header:\n{extra:#?}");
    assert!(ours.lines.len() > 40, "{} declarations were found", ours.lines.len());

    let codes =
        |name: &&String| name.starts_with("DRUPE_E_") || *name == "DRUPE_OK" || name.starts_with("DRUPE_VERSION");
    let ours: BTreeMap<_, _> = ours.constants.iter().filter(|(name, _)| !codes(name) && *name != "DRUPE_H").collect();
    assert_eq!(ours, theirs.constants.iter().collect());
}

#[test]
fn every_exported_function_is_in_the_comparison() {
    let exported = |name: &str| source(name).matches("#[unsafe(no_mangle)]").count();
    let functions = exported("src/lib.rs") + exported("src/calls.rs") + exported("src/hosted.rs");
    let of = |declared: Declared| declared.lines.iter().filter(|l| !l.starts_with("typedef")).count();
    // One export is not C's to call: rust_eh_personality.
    assert_eq!(of(declared(&source("include/drupe.h"))), functions - 1);
    assert_eq!(of(declared(&generated())), functions - 1);
}

#[test]
fn codes_have_the_same_numbers_and_texts() {
    let (header, rust) = (source("include/drupe.h"), source("src/error.rs"));
    let mut found = 0;
    for entry in rust.lines().filter_map(|l| l.trim().strip_prefix("(Code::")) {
        let parts: Vec<_> = entry.split(['"', ',']).map(str::trim).filter(|p| !p.is_empty() && *p != "c").collect();
        let (variant, name) = (parts[0], parts[1]);
        let text = entry.rsplit_once("c\"").expect("a text").1.split_once('"').expect("its end").0;
        let number = rust
            .lines()
            .find_map(|l| l.trim().strip_prefix(&format!("{variant} = "))?.strip_suffix(','))
            .unwrap_or_else(|| panic!("{variant} has no number"));
        let line = header
            .lines()
            .find(|l| l.starts_with(&format!("#define DRUPE_{name} ")))
            .unwrap_or_else(|| panic!("DRUPE_{name} is not in the header"));
        let value = line.split_whitespace().nth(2).expect("a value").trim_matches(['(', ')']);
        assert_eq!(value, number, "{line}");
        if name != "OK" {
            assert!(line.contains(&format!("/* {text} */")), "{line}\nhas another text than\n{text}");
        }
        found += 1;
    }
    assert_eq!(found, header.lines().filter(|l| l.starts_with("#define DRUPE_E_")).count() + 1);
}

#[test]
fn versions_are_the_crates() {
    let header = declared(&source("include/drupe.h"));
    for (part, value) in [
        ("MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("PATCH", env!("CARGO_PKG_VERSION_PATCH")),
    ] {
        assert_eq!(header.constants[&format!("DRUPE_VERSION_{part}")], value);
    }
}
