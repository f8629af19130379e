//! The notations of the two kinds of vocabulary: spaces written `▁`, and bytes written as printable characters.

use super::SPACE_SIGN;
use super::unicode::char_at;

/// A stretch of text that is to be written in a vocabulary's notation.
#[derive(Clone, Copy)]
pub(super) enum Written<'t> {
    /// SentencePiece: spaces as `▁`, and one more before the text if `first`.
    Spaced {
        /// The text.
        text: &'t [u8],
        /// Whether it gets a space of its own.
        first: bool,
    },
    /// GPT-2: bytes that are no printable Latin-1 character as the characters from U+0100.
    Printable(&'t [u8]),
}

impl Written<'_> {
    /// Bytes that it takes.
    pub(super) fn len(&self) -> usize {
        match *self {
            Written::Spaced { text, first } => {
                let spaces = text.iter().filter(|&&byte| byte == b' ').count() + first as usize;
                text.len() + spaces * (SPACE_SIGN.len() - 1) + first as usize
            }
            Written::Printable(text) => text.iter().map(|&byte| 1 + (printable(byte) >= 0x80) as usize).sum(),
        }
    }

    /// Writes it; `out` has [`Self::len`] bytes.
    pub(super) fn write(&self, out: &mut [u8]) {
        let mut out = Text { out, len: 0 };
        match *self {
            Written::Spaced { text, first } => {
                out.push(if first { SPACE_SIGN } else { &[] });
                for byte in text {
                    out.push(if *byte == b' ' { SPACE_SIGN } else { core::slice::from_ref(byte) });
                }
            }
            Written::Printable(text) => {
                for &byte in text {
                    let cp = printable(byte);
                    if cp < 0x80 {
                        out.push(&[byte]);
                    } else {
                        out.push(&[0xC0 | (cp >> 6) as u8, 0x80 | (cp & 0x3F) as u8]);
                    }
                }
            }
        }
    }
}

/// The code point that GPT-2's notation writes a byte as: itself if it is printable in Latin-1, else, in order, the
/// code points from U+0100.
fn printable(byte: u8) -> u16 {
    let byte = byte as u16;
    match byte {
        0..=0x20 => 0x100 + byte,
        0x7F..=0xA0 => 0x121 + (byte - 0x7F),
        0xAD => 0x143,
        _ => byte,
    }
}

/// The byte that a character stands for in GPT-2's notation.
pub(super) fn unprintable(character: &[u8]) -> Option<u8> {
    let c = char_at(character, 0)?;
    match c.cp {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(c.cp as u8),
        0x100..=0x120 => Some((c.cp - 0x100) as u8),
        0x121..=0x142 => Some((c.cp - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The byte of a token `<0xNN>`.
pub(super) fn byte_token(string: &[u8]) -> Option<u8> {
    let &[b'<', b'0', b'x', high, low, b'>'] = string else { return None };
    let digit = |byte: u8| (byte as char).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

/// Length of the first word of a text, not empty: spaces (or their signs), then everything up to the next space.
pub(super) fn spaced_word(text: &[u8]) -> usize {
    let space_at = |at: usize| match text.get(at) {
        Some(b' ') => 1,
        Some(0xE2) if text[at..].starts_with(SPACE_SIGN) => SPACE_SIGN.len(),
        _ => 0,
    };
    let mut at = 0;
    while space_at(at) > 0 {
        at += space_at(at);
    }
    while at < text.len() && space_at(at) == 0 {
        at += 1;
    }
    at
}

/// Whether a token has a space after something that is none.
pub(super) fn has_inner_space(string: &[u8]) -> bool {
    let word = spaced_word(string);
    word < string.len()
}

/// Text that is being written: what fits is kept, all is counted.
pub(super) struct Text<'o> {
    pub(super) out: &'o mut [u8],
    pub(super) len: usize,
}

impl Text<'_> {
    /// Adds bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if let Some(place) = self.out.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self.len += bytes.len();
    }

    /// Adds what a string in SentencePiece's notation says.
    pub(super) fn push_spaced(&mut self, mut string: &[u8]) {
        while let Some((first, rest)) = string.split_first() {
            match string.strip_prefix(SPACE_SIGN) {
                Some(rest) => {
                    self.push(b" ");
                    string = rest;
                }
                None => {
                    self.push(&[*first]);
                    string = rest;
                }
            }
        }
    }

    /// Adds what a string in GPT-2's notation says. Characters that stand for no byte are kept as they are.
    pub(super) fn push_printable(&mut self, mut string: &[u8]) {
        while let Some(c) = char_at(string, 0) {
            let (character, rest) = string.split_at(c.len);
            match unprintable(character) {
                Some(byte) => self.push(&[byte]),
                None => self.push(character),
            }
            string = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_printable_character_and_comes_back() {
        for byte in 0..=255_u8 {
            let written = Written::Printable(core::slice::from_ref(&byte));
            let mut buffer = [0; 2];
            written.write(&mut buffer[..written.len()]);
            assert_eq!(unprintable(&buffer[..written.len()]), Some(byte));
        }
        assert_eq!(printable(b' '), 'Ġ' as u16);
        assert_eq!(printable(b'\n'), 'Ċ' as u16);
    }

    #[test]
    fn words_end_before_a_space() {
        assert_eq!(spaced_word("  ab c".as_bytes()), 4);
        assert_eq!(spaced_word("▁ab▁c".as_bytes()), 5);
        assert!(has_inner_space("a▁".as_bytes()));
        assert!(!has_inner_space("▁▁a".as_bytes()));
    }
}
