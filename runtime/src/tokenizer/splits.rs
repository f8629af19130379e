//! The regular expressions of published pre-tokenizers, each as a function written by hand.
//!
//! An expression never looks behind; `$` and `(?!\S)` see the end of the piece as the end of the text.

use super::unicode::Class::*;
use super::unicode::{Char, Class, char_at};

/// One regular expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// GPT-2: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// Llama 3, Qwen 2 and their relatives: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|`
    /// ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Words {
        /// With the English contractions.
        contractions: bool,
        /// Combining marks count as letters.
        marks: bool,
        /// Most digits of a word.
        digits: usize,
        /// With `[\r\n]*` after punctuation; without it, punctuation excludes those.
        tail: bool,
    },
    /// GPT-4o and Mistral's Tekken: words begin with their capitals,
    /// `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+('s|…)?|`
    /// `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*('s|…)?|\p{N}{1,3}|`
    /// ` ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    CasedWords {
        /// With the English contractions at the end of a word.
        contractions: bool,
        /// Most digits of a word.
        digits: usize,
    },
    /// DeepSeek V3: ``[!-/:-@[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|``
    /// `\s*[\r\n]+|\s+(?!\S)|\s+`
    DeepSeekWords,
    /// `\p{N}{1,n}`
    Digits(usize),
    /// `[0-9][0-9][0-9]`
    ThreeAsciiDigits,
    /// ``[\p{P}$+<=>^~|`]+``, the backtick in Falcon only.
    Punctuation {
        /// With it.
        backtick: bool,
    },
    /// `[\r\n]`
    Newline,
    /// `[^\n]+|\n+`
    Lines,
    /// `\s+$`
    TrailingSpace,
    /// `\s?\p{L}+`
    SpacedLetters,
    /// `\s?\p{P}+`
    SpacedPunctuation,
    /// `\s?[…]+` over the letters with case that DeepSeek LLM lists.
    DeepSeekLetters,
    /// `\s?[!-/:-~！-／：-～‘-‟　-。]+`
    DeepSeekPunctuation,
    /// `[一-龥ࠀ-一가-퟿]+`
    DeepSeekCjk,
    /// `[一-龥぀-ゟ゠-ヿ]+`
    HanKana,
    /// ` ?[^(\s|.,!?…。，、।۔،)]+`
    Sentences,
}

impl Split {
    /// The first match in `text` that begins at `from` or after it. No match is empty.
    pub(crate) fn find(self, text: &[u8], from: usize) -> Option<(usize, usize)> {
        if self == Split::TrailingSpace {
            return trailing_space(text, from);
        }
        let mut at = from;
        while let Some(c) = char_at(text, at) {
            if let Some(end) = self.matches(text, at, c) {
                return Some((at, end));
            }
            at += c.len;
        }
        None
    }

    /// The end of the match that begins at `at`, where `c` stands.
    fn matches(self, text: &[u8], at: usize, c: Char) -> Option<usize> {
        match self {
            Split::Gpt2 => gpt2(text, at, c),
            Split::Words { contractions, marks, digits, tail } => {
                let contraction = if contractions { contraction(text, at, true) } else { None };
                contraction.or_else(|| words(text, at, c, marks, digits, tail))
            }
            Split::CasedWords { contractions, digits } => cased(text, at, c, contractions, digits),
            Split::DeepSeekWords => deepseek_words(text, at, c),
            Split::Digits(most) => digits(text, at, most),
            Split::ThreeAsciiDigits => {
                let three = text.get(at..at + 3)?;
                three.iter().all(u8::is_ascii_digit).then_some(at + 3)
            }
            Split::Punctuation { backtick } => some(text, at, |c| {
                c.class == Punctuation
                    || matches!(c.cp, 0x24 | 0x2B | 0x3C..=0x3E | 0x5E | 0x7E | 0x7C)
                    || (backtick && c.cp == 0x60)
            }),
            Split::Newline => newline(c).then_some(at + 1),
            Split::Lines if c.cp == 0x0A => some(text, at, |c| c.cp == 0x0A),
            Split::Lines => some(text, at, |c| c.cp != 0x0A),
            Split::TrailingSpace => None,
            Split::SpacedLetters => spaced(text, at, c, |c| c.class.letter()),
            Split::SpacedPunctuation => spaced(text, at, c, |c| c.class == Punctuation),
            Split::DeepSeekLetters => spaced(text, at, c, deepseek_letter),
            Split::DeepSeekPunctuation => spaced(text, at, c, |c| {
                matches!(c.cp, 0x21..=0x2F | 0x3A..=0x7E | 0xFF01..=0xFF0F | 0xFF1A..=0xFF5E | 0x2018..=0x201F
                    | 0x3000..=0x3002)
            }),
            Split::DeepSeekCjk => some(text, at, |c| matches!(c.cp, 0x800..=0x9FA5 | 0xAC00..=0xD7FF)),
            Split::HanKana => some(text, at, |c| matches!(c.cp, 0x4E00..=0x9FA5 | 0x3040..=0x30FF)),
            Split::Sentences => {
                let start = if c.cp == 0x20 { at + 1 } else { at };
                some(text, start, |c| {
                    c.class != Space
                        && !matches!(
                            c.cp,
                            0x21 | 0x28
                                | 0x29
                                | 0x2C
                                | 0x2E
                                | 0x3F
                                | 0x7C
                                | 0x2026
                                | 0x3001
                                | 0x3002
                                | 0xFF0C
                                | 0x964
                                | 0x6D4
                                | 0x60C
                        )
                })
            }
        }
    }
}

/// End of the run of characters from `at` that satisfy `wanted`.
fn run(text: &[u8], mut at: usize, wanted: impl Fn(Char) -> bool) -> usize {
    while let Some(c) = char_at(text, at).filter(|&c| wanted(c)) {
        at += c.len;
    }
    at
}

/// The same for a run of at least one.
fn some(text: &[u8], at: usize, wanted: impl Fn(Char) -> bool) -> Option<usize> {
    Some(run(text, at, wanted)).filter(|&end| end > at)
}

/// `\s?[…]+`
fn spaced(text: &[u8], at: usize, c: Char, wanted: impl Fn(Char) -> bool + Copy) -> Option<usize> {
    let after = if c.class == Space { some(text, at + c.len, wanted) } else { None };
    after.or_else(|| some(text, at, wanted))
}

fn newline(c: Char) -> bool {
    matches!(c.cp, 0x0A | 0x0D)
}

/// `'s|'t|'re|'ve|'m|'ll|'d`
fn contraction(text: &[u8], at: usize, any_case: bool) -> Option<usize> {
    if text.get(at) != Some(&b'\'') {
        return None;
    }
    let letter = |i: usize| {
        let byte = text.get(at + i).copied().unwrap_or(0);
        // U+017F, the long s, is an s to a case-insensitive expression.
        let long_s = any_case && byte == 0xC5 && text.get(at + i + 1) == Some(&0xBF);
        if long_s {
            b's'
        } else if any_case {
            byte.to_ascii_lowercase()
        } else {
            byte
        }
    };
    match (letter(1), letter(2)) {
        (b's', _) if text[at + 1] == 0xC5 => Some(at + 3),
        (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
        (b'r', b'e') | (b'v', b'e') | (b'l', b'l') => Some(at + 3),
        _ => None,
    }
}

/// `\p{N}{1,most}`
fn digits(text: &[u8], at: usize, most: usize) -> Option<usize> {
    let mut end = at;
    for _ in 0..most {
        match char_at(text, end) {
            Some(c) if c.class == Number => end += c.len,
            _ => break,
        }
    }
    (end > at).then_some(end)
}

/// `\s+(?!\S)|\s+`: white space up to, but not including, the last one before a word.
fn white_space(text: &[u8], at: usize) -> Option<usize> {
    let (mut end, mut last) = (at, at);
    while let Some(c) = char_at(text, end).filter(|c| c.class == Space) {
        last = end;
        end += c.len;
    }
    if end < text.len() && last > at { Some(last) } else { Some(end).filter(|&end| end > at) }
}

/// `\s*[\r\n]+`
fn blank_lines(text: &[u8], at: usize) -> Option<usize> {
    let (mut at, mut end) = (at, None);
    while let Some(c) = char_at(text, at).filter(|c| c.class == Space) {
        at += c.len;
        if newline(c) {
            end = Some(at);
        }
    }
    end
}

/// `\s+$`. A run of white space that does not end the text is passed over at once.
fn trailing_space(text: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    while at < text.len() {
        let start = run(text, at, |c| c.class != Space);
        at = run(text, start, |c| c.class == Space);
        if at == text.len() && at > start {
            return Some((start, at));
        }
    }
    None
}

fn gpt2(text: &[u8], at: usize, c: Char) -> Option<usize> {
    if let Some(end) = contraction(text, at, false) {
        return Some(end);
    }
    let start = if c.cp == 0x20 { at + 1 } else { at };
    some(text, start, |c| c.class.letter())
        .or_else(|| some(text, start, |c| c.class == Number))
        .or_else(|| some(text, start, |c| !c.class.letter() && !matches!(c.class, Number | Space)))
        .or_else(|| white_space(text, at))
}

fn words(text: &[u8], at: usize, c: Char, marks: bool, most_digits: usize, tail: bool) -> Option<usize> {
    let letter = |class: Class| class.letter() || (marks && class == Mark);
    // The character before a word belongs to it, unless it is a digit or ends a line.
    if !newline(c) && c.class != Number {
        let start = if letter(c.class) { at } else { at + c.len };
        if let Some(end) = some(text, start, |c| letter(c.class)) {
            return Some(end);
        }
    }
    if let Some(end) = digits(text, at, most_digits) {
        return Some(end);
    }
    let start = if c.cp == 0x20 { at + 1 } else { at };
    let other = |c: Char| !letter(c.class) && !matches!(c.class, Number | Space);
    if let Some(end) = some(text, start, other) {
        return Some(if tail { run(text, end, newline) } else { end });
    }
    blank_lines(text, at).or_else(|| white_space(text, at))
}

fn cased(text: &[u8], at: usize, c: Char, contractions: bool, most_digits: usize) -> Option<usize> {
    let upper = |class: Class| matches!(class, Upper | Title | Modifier | OtherLetter | Mark);
    let lower = |class: Class| matches!(class, Lower | Modifier | OtherLetter | Mark);
    // Capitals as many as there are, given back from the end until what follows can be a small letter.
    let capitalised = |start: usize| {
        let (mut end, mut given_back) = (start, None);
        while let Some(c) = char_at(text, end).filter(|c| upper(c.class)) {
            end += c.len;
            if lower(c.class) {
                given_back = Some(end);
            }
        }
        some(text, end, |c| lower(c.class)).or(given_back)
    };
    let capitals = |start: usize| some(text, start, |c| upper(c.class));
    let prefix = (!newline(c) && !c.class.letter() && c.class != Number).then_some(at + c.len);
    let word = prefix
        .and_then(capitalised)
        .or_else(|| capitalised(at))
        .or_else(|| prefix.and_then(capitals))
        .or_else(|| capitals(at));
    if let Some(end) = word {
        let longer = if contractions { contraction(text, end, true) } else { None };
        return Some(longer.unwrap_or(end));
    }
    if let Some(end) = digits(text, at, most_digits) {
        return Some(end);
    }
    let start = if c.cp == 0x20 { at + 1 } else { at };
    if let Some(end) = some(text, start, |c| !c.class.letter() && !matches!(c.class, Number | Space)) {
        return Some(run(text, end, |c| newline(c) || c.cp == 0x2F));
    }
    blank_lines(text, at).or_else(|| white_space(text, at))
}

fn deepseek_words(text: &[u8], at: usize, c: Char) -> Option<usize> {
    let latin = |c: Char| matches!(c.cp, 0x41..=0x5A | 0x61..=0x7A);
    if matches!(c.cp, 0x21..=0x2F | 0x3A..=0x40 | 0x5B..=0x60 | 0x7B..=0x7E)
        && let Some(end) = some(text, at + 1, latin)
    {
        return Some(end);
    }
    let letter = |c: Char| c.class.letter() || c.class == Mark;
    let mark = |c: Char| matches!(c.class, Punctuation | Symbol);
    if !newline(c)
        && !c.class.letter()
        && !mark(c)
        && let Some(end) = some(text, at + c.len, letter)
    {
        return Some(end);
    }
    let start = if c.cp == 0x20 { at + 1 } else { at };
    some(text, at, letter)
        .or_else(|| some(text, start, mark).map(|end| run(text, end, newline)))
        .or_else(|| blank_lines(text, at))
        .or_else(|| white_space(text, at))
}

/// The letters with case of the alphabets that DeepSeek LLM's expression lists: all but these.
fn deepseek_letter(c: Char) -> bool {
    let unlisted = matches!(c.cp, 0x560..=0x588 | 0x10C7..=0x10FF | 0x1C80..=0x1C8F | 0x2D00..=0x2D2D
        | 0xA790..=0xA7FF | 0xAB30..=0xAB6F | 0x10570..=0x105BF | 0x10D50..=0x10D85 | 0x16E40..=0x16E7F
        | 0x1D400..=0x1DF2A);
    matches!(c.class, Upper | Lower | Title) && !unlisted
}
