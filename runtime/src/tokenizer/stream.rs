//! Text that comes in pieces which may cut a character in two.

/// Releases only whole characters of a stream of bytes.
///
/// Byte-level vocabularies have tokens that end inside a character. What is not complete is held back (at most 3 bytes)
/// until the next piece completes it; bytes that are no UTF-8 come out as U+FFFD.
#[derive(Clone, Copy, Debug)]
pub struct Utf8Stream {
    held: [u8; 4],
    len: usize,
    strip_space: bool,
}

impl Utf8Stream {
    /// `strip_space`: drop one space at the very beginning, which is what SentencePiece vocabularies put before a text
    /// ([`crate::tokenizer::Tokenizer::adds_space`]).
    pub fn new(strip_space: bool) -> Self {
        Utf8Stream { held: [0; 4], len: 0, strip_space }
    }

    /// Takes the next bytes and hands all text that is complete to `emit`, in order.
    pub fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&str)) {
        if self.strip_space && !bytes.is_empty() {
            self.strip_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        // Byte by byte until nothing is held.
        while self.len > 0 {
            let Some((&byte, rest)) = bytes.split_first() else { return };
            self.held[self.len] = byte;
            match core::str::from_utf8(&self.held[..self.len + 1]) {
                Ok(text) => {
                    emit(text);
                    (self.len, bytes) = (0, rest);
                }
                Err(error) if error.error_len().is_none() => {
                    self.len += 1;
                    bytes = rest;
                }
                // What was held cannot be completed by this byte, which may begin something itself.
                Err(_) => {
                    emit("\u{FFFD}");
                    self.len = 0;
                }
            }
        }
        while !bytes.is_empty() {
            let (valid, rest) = match core::str::from_utf8(bytes) {
                Ok(text) => return emit(text),
                Err(error) => bytes.split_at(error.valid_up_to()),
            };
            if let Ok(text) = core::str::from_utf8(valid)
                && !text.is_empty()
            {
                emit(text);
            }
            match core::str::from_utf8(rest).err().and_then(|error| error.error_len()) {
                Some(bad) => {
                    emit("\u{FFFD}");
                    bytes = &rest[bad..];
                }
                None => {
                    self.held[..rest.len()].copy_from_slice(rest);
                    self.len = rest.len();
                    return;
                }
            }
        }
    }

    /// The end: bytes still held come out as U+FFFD. The stream can be used again.
    pub fn finish(&mut self, mut emit: impl FnMut(&str)) {
        if self.len > 0 {
            emit("\u{FFFD}");
            self.len = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::String;
    use std::vec::Vec;

    fn streamed(bytes: &[u8], cut: usize) -> String {
        let (mut stream, mut text) = (Utf8Stream::new(false), String::new());
        for piece in bytes.chunks(cut) {
            stream.push(piece, |t| text.push_str(t));
        }
        stream.finish(|t| text.push_str(t));
        text
    }

    #[test]
    fn characters_come_whole_however_the_bytes_are_cut() {
        let text = "aé中🦙\u{FFFD}z".repeat(5);
        for cut in 1..9 {
            assert_eq!(streamed(text.as_bytes(), cut), text);
        }
        let mut seen = Vec::new();
        let mut stream = Utf8Stream::new(true);
        for byte in " 中a".bytes() {
            stream.push(&[byte], |t| seen.push(String::from(t)));
        }
        assert_eq!(seen, ["中", "a"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_as_the_standard_library_does() {
        let mut state = 7_u32;
        for _ in 0..20_000 {
            let mut bytes = [0; 12];
            for byte in &mut bytes {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                let interesting = [0x41, 0x80, 0xBF, 0xC2, 0xE0, 0xA0, 0xED, 0x9F, 0xF0, 0x90, 0xF4, 0xFF, 0xE2, 0xC0];
                *byte = interesting[(state >> 24) as usize % interesting.len()];
            }
            let expected = String::from_utf8_lossy(&bytes).into_owned();
            for cut in [1, 2, 3, 12] {
                assert_eq!(streamed(&bytes, cut), expected, "{bytes:x?} cut {cut}");
            }
        }
    }
}
