//! What the tests of the program share.
#![allow(dead_code)]

use assert_cmd::Command;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The program, with nothing to read on standard input.
pub fn drupe() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drupe"));
    command.write_stdin("");
    command
}

/// What a run printed, and its exit code.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs the program with these words. It must never panic.
pub fn run(words: &[&str]) -> Ran {
    ran(drupe().args(words))
}

/// The same for a command that is made already.
pub fn ran(command: &mut Command) -> Ran {
    let output = command.output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!err.contains("panicked"), "{err}");
    let code = output.status.code().unwrap_or_else(|| panic!("ended by a signal: {:?}\n{err}", output.status));
    Ran { code, out, err }
}

/// A folder with a synthetic model in it.
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { folder: TempDir::new().expect("a folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path as a word for the command line.
    pub fn word(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn model(&self, shape: &str) -> String {
        let word = self.word("model.gguf");
        let ran = run(&["synth", shape, &word]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        word
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).expect("written");
        self.word(name)
    }

    /// Names of the files here.
    pub fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.folder.path())
            .expect("a folder")
            .map(|f| f.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

pub fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).expect("a file")
}
