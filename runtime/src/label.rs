//! A short copy of a name from a file, so that an error can carry it without borrowing the file.

use core::fmt;

/// The first bytes of a name or key, kept inline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Label {
    text: [u8; Label::CAPACITY],
    len: u8,
    cut: bool,
}

impl Label {
    /// Bytes kept: any usual tensor name or key, and an error that carries one stays within 128 bytes.
    pub const CAPACITY: usize = 48;

    /// The label of these bytes. What is not UTF-8, and control characters, are replaced by `?`.
    pub fn new(bytes: &[u8]) -> Label {
        let mut label = Label { text: [0; Label::CAPACITY], len: 0, cut: false };
        label.push(bytes);
        label
    }

    /// The label of `family.rest`.
    pub fn scoped(family: &str, rest: &str) -> Label {
        let mut label = Label::new(family.as_bytes());
        label.push(b".");
        label.push(rest.as_bytes());
        label
    }

    fn push(&mut self, bytes: &[u8]) {
        for chunk in bytes.utf8_chunks() {
            let bad = if chunk.invalid().is_empty() { "" } else { "?" };
            for c in chunk.valid().chars().chain(bad.chars()) {
                let c = if c.is_control() { '?' } else { c };
                let start = self.len as usize;
                if self.cut || start + c.len_utf8() > Label::CAPACITY {
                    self.cut = true;
                    return;
                }
                c.encode_utf8(&mut self.text[start..]);
                self.len += c.len_utf8() as u8;
            }
        }
    }

    /// The text kept.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.text[..self.len as usize]).unwrap_or("")
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        f.write_str(if self.cut { "…" } else { "" })
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl From<&str> for Label {
    fn from(text: &str) -> Label {
        Label::new(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn keeps_short_names_cuts_long_ones_and_replaces_what_is_no_text() {
        assert_eq!(Label::from("blk.0.attn_q.weight").to_string(), "blk.0.attn_q.weight");
        assert_eq!(Label::scoped("llama", "block_count").to_string(), "llama.block_count");
        assert_eq!(Label::new(b"a\xffb\nc").to_string(), "a?b?c");
        let long = Label::new("é".repeat(40).as_bytes());
        assert_eq!(long.as_str().len(), 48);
        assert!(long.to_string().ends_with("é…"));
    }
}
