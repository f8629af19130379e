//! Vocabularies for tests: read from files by a reader of its own, or made up.

use super::super::source::{StringArray, Vocabulary, Words};
use std::collections::HashMap;
use std::path::PathBuf;
use std::string::{String, ToString};
use std::vec::Vec;

/// Where the published vocabularies and models are, beside the workspace.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(path);
    if path.exists() {
        Some(path)
    } else {
        std::eprintln!("skipped: {} is not there", path.display());
        None
    }
}

/// Type number, number of elements and bytes of each key's value; strings without their length.
pub struct Keys<'a>(HashMap<String, (u32, usize, &'a [u8])>);

/// Reads the keys of a well-formed GGUF v3 file.
pub fn keys(file: &[u8]) -> Keys<'_> {
    let mut rest = &file[8..];
    let number = |rest: &mut &[u8], len: usize| {
        let (bytes, after) = rest.split_at(len);
        *rest = after;
        bytes.iter().rev().fold(0_u64, |n, &byte| n << 8 | byte as u64)
    };
    number(&mut rest, 8);
    let count = number(&mut rest, 8);
    let mut keys = HashMap::new();
    for _ in 0..count {
        let len = number(&mut rest, 8) as usize;
        let key = String::from_utf8_lossy(&rest[..len]).to_string();
        rest = &rest[len..];
        let mut kind = number(&mut rest, 4) as u32;
        let mut elements = 1;
        let start = if kind == 9 {
            kind = number(&mut rest, 4) as u32;
            elements = number(&mut rest, 8) as usize;
            rest
        } else {
            rest
        };
        let size = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][kind as usize];
        for _ in 0..elements {
            let len = if kind == 8 { number(&mut rest, 8) as usize } else { size };
            rest = &rest[len..];
        }
        keys.insert(key, (kind, elements, &start[..start.len() - rest.len()]));
    }
    Keys(keys)
}

impl<'a> Keys<'a> {
    fn array(&self, key: &str) -> Option<(usize, &'a [u8])> {
        self.0.get(&std::format!("tokenizer.ggml.{key}")).map(|v| (v.1, v.2))
    }

    fn number(&self, key: &str) -> Option<u32> {
        self.array(key).map(|(_, bytes)| bytes.iter().rev().fold(0, |n, &byte| n << 8 | byte as u32))
    }

    /// The vocabulary that they describe.
    pub fn vocabulary(&self) -> Vocabulary<'a> {
        let text = |key: &str| self.array(key).map_or(&[][..], |(_, bytes)| &bytes[8..]);
        let strings = |key: &str| self.array(key).map(|(len, bytes)| StringArray::new(bytes, len));
        Vocabulary {
            model: text("model"),
            pre: text("pre"),
            name: self.0.get("general.name").map_or(&[], |v| &v.2[8..]),
            tokens: strings("tokens").unwrap(),
            scores: self.array("scores").map(|(_, bytes)| Words(bytes)),
            types: self.array("token_type").map(|(_, bytes)| Words(bytes)),
            merges: strings("merges"),
            bos: self.number("bos_token_id"),
            eos: self.number("eos_token_id"),
            eot: self.number("eot_token_id"),
            eom: self.number("eom_token_id"),
            unknown: self.number("unknown_token_id"),
            add_bos: self.number("add_bos_token").map(|n| n != 0),
            add_eos: self.number("add_eos_token").map(|n| n != 0),
            add_space_prefix: self.number("add_space_prefix").map(|n| n != 0),
        }
    }
}

/// Strings as GGUF stores an array of them.
pub fn strings(items: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        bytes.extend((item.as_ref().len() as u64).to_le_bytes());
        bytes.extend(item.as_ref());
    }
    bytes
}
