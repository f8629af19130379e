//! The few properties of Unicode code points that pre-tokenizers ask for.

mod tables;

/// General category of a code point, as far as pre-tokenizers tell them apart; white space before everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// Controls, format characters, private use, unassigned.
    Other,
    /// `\p{Lu}`
    Upper,
    /// `\p{Ll}`
    Lower,
    /// `\p{Lt}`
    Title,
    /// `\p{Lm}`
    Modifier,
    /// `\p{Lo}`
    OtherLetter,
    /// `\p{M}`
    Mark,
    /// `\p{N}`
    Number,
    /// `\p{P}`
    Punctuation,
    /// `\p{S}`
    Symbol,
    /// `\s`: the property White_Space.
    Space,
}

use Class::*;

/// By number, as in the tables; the last entries are never looked up.
const BY_NUMBER: [Class; 16] = [
    Other,
    Upper,
    Lower,
    Title,
    Modifier,
    OtherLetter,
    Mark,
    Number,
    Punctuation,
    Symbol,
    Space,
    Other,
    Other,
    Other,
    Other,
    Other,
];

impl Class {
    /// The class of a code point.
    pub(crate) fn of(cp: u32) -> Class {
        let block = match tables::STAGE.get(cp as usize / tables::BLOCK) {
            Some(&block) => block as usize,
            None if (0xE0100..=0xE01EF).contains(&cp) => return Mark,
            None => return Other,
        };
        let at = block * tables::BLOCK + cp as usize % tables::BLOCK;
        BY_NUMBER[(tables::CLASSES[at / 2] >> (at % 2 * 4) & 15) as usize]
    }

    /// `\p{L}`
    pub(crate) fn letter(self) -> bool {
        matches!(self, Upper | Lower | Title | Modifier | OtherLetter)
    }
}

/// One character of a text that need not be valid UTF-8.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Char {
    /// Code point; U+FFFD for a byte that is part of no character.
    pub(crate) cp: u32,
    /// Its class.
    pub(crate) class: Class,
    /// Bytes that it takes, at least 1.
    pub(crate) len: usize,
}

/// The character at byte `at`; `None` at the end.
pub(crate) fn char_at(text: &[u8], at: usize) -> Option<Char> {
    let first = *text.get(at)?;
    if first < 0x80 {
        return Some(Char { cp: first as u32, class: Class::of(first as u32), len: 1 });
    }
    let rest = &text[at..];
    let len = char_len(rest);
    if len == 1 {
        return Some(Char { cp: 0xFFFD, class: Symbol, len: 1 });
    }
    let lead = first as u32 & (0x7F >> len);
    let cp = rest[1..len].iter().fold(lead, |cp, &byte| cp << 6 | (byte & 0x3F) as u32);
    Some(Char { cp, class: Class::of(cp), len })
}

/// Bytes of the character that begins `text`: 1 to 4, and 1 for a byte that begins no valid character.
pub(crate) fn char_len(text: &[u8]) -> usize {
    let next = |i: usize| text.get(i).copied().unwrap_or(0);
    let follows = |i: usize| next(i) & 0xC0 == 0x80;
    match next(0) {
        0xC2..=0xDF if follows(1) => 2,
        0xE0 if matches!(next(1), 0xA0..=0xBF) && follows(2) => 3,
        0xED if matches!(next(1), 0x80..=0x9F) && follows(2) => 3,
        0xE1..=0xEC | 0xEE..=0xEF if follows(1) && follows(2) => 3,
        0xF0 if matches!(next(1), 0x90..=0xBF) && follows(2) && follows(3) => 4,
        0xF1..=0xF3 if follows(1) && follows(2) && follows(3) => 4,
        0xF4 if matches!(next(1), 0x80..=0x8F) && follows(2) && follows(3) => 4,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_known_characters() {
        let cases = [
            ('A', Upper),
            ('z', Lower),
            ('ǅ', Title),
            ('ʰ', Modifier),
            ('中', OtherLetter),
            ('\u{301}', Mark),
            ('½', Number),
            ('_', Punctuation),
            ('+', Symbol),
            ('🦙', Symbol),
            ('\n', Space),
            ('\u{3000}', Space),
            ('\u{200B}', Other),
            ('\u{E0101}', Mark),
            ('\u{10FFFF}', Other),
        ];
        for (c, class) in cases {
            assert_eq!(Class::of(c as u32), class, "{c:?}");
        }
    }

    #[test]
    fn characters_are_found_as_the_standard_library_finds_them() {
        for cp in (0..0x110000).filter_map(char::from_u32) {
            let mut buffer = [0; 4];
            let text = cp.encode_utf8(&mut buffer).as_bytes();
            let found = char_at(text, 0).unwrap();
            assert_eq!((found.cp, found.len), (cp as u32, text.len()));
            assert!(cp.is_whitespace() == (found.class == Space), "{cp:?}");
        }
        for pair in 0..=0xFFFF_u16 {
            let bytes = [pair as u8, (pair >> 8) as u8, 0x80, 0x80];
            let valid = (1..=4).find(|&n| core::str::from_utf8(&bytes[..n]).is_ok()).unwrap_or(1);
            assert_eq!(char_len(&bytes), valid, "{bytes:x?}");
        }
    }
}
