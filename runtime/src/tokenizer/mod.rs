//! Text to tokens and back, over the vocabulary that lies in the file.
//!
//! Two kinds of vocabulary: SentencePiece's BPE (`tokenizer.ggml.model` = `llama`: tokens have scores, a space is
//! written `▁`, bytes without a token have one of their own) and byte-level BPE (`gpt2`: pairs have ranks, bytes are
//! written as printable characters, a pre-tokenizer cuts the text into words). Strings stay in the file; the tables
//! that find them lie in the caller's memory. Nothing is normalised: what is decoded is what was encoded.

mod bytes;
mod error;
mod load;
mod merge;
#[cfg_attr(not(feature = "byte-bpe"), path = "no_pre.rs")]
mod pre;
mod source;
mod special;
#[cfg(feature = "byte-bpe")]
mod splits;
mod stream;
mod table;
#[cfg(test)]
mod tests;
#[cfg_attr(not(feature = "byte-bpe"), allow(dead_code))]
mod unicode;

pub use error::TokenizerError;
pub use source::TokenKind;
pub use stream::Utf8Stream;

use crate::chat::Piece;
use crate::gguf::Gguf;
use merge::NO_MERGE;
use pre::PreTokenizer;
use source::{StringArray, Vocabulary, Words};
use special::Specials;
use table::Table;

/// SentencePiece's sign for a space: U+2581.
const SPACE_SIGN: &[u8] = "▁".as_bytes();

/// Bytes of the longest text: positions in it, written in either notation, are `u32`.
const LONGEST_TEXT: usize = u32::MAX as usize / 4;

/// Not a token.
const NONE: u32 = u32::MAX;

/// A tokenizer over a vocabulary in the file, its tables in the caller's memory.
#[derive(Clone, Copy)]
pub struct Tokenizer<'a> {
    strings: StringArray<'a>,
    types: Option<Words<'a>>,
    /// Where each token's string is.
    offsets: &'a [u32],
    /// Tokens that text can become, by their string.
    texts: Table<'a>,
    specials: Specials<'a>,
    scheme: Scheme<'a>,
    /// Bytes of the longest token.
    longest: usize,
    bos: u32,
    eos: u32,
    eot: u32,
    eom: u32,
    unknown: u32,
    add_bos: bool,
    add_eos: bool,
    /// Tokens that end an answer, [`NONE`] beyond the last.
    ends: [u32; load::MOST_ENDS],
    /// Some of these are not marked as control tokens in the file; they count as such.
    unmarked_ends: bool,
    /// White space after a special token belongs to it (Phi-3).
    strip_after_special: bool,
}

/// What the two kinds of vocabulary have of their own.
#[derive(Clone, Copy)]
enum Scheme<'a> {
    SentencePiece {
        scores: Option<Words<'a>>,
        /// The token of each byte; [`NONE`] where there is none.
        bytes: &'a [u32],
        /// A text begins, and goes on after a special token, with a space of its own.
        add_space: bool,
        /// No token has a space after something else: texts can be merged word by word.
        by_words: bool,
    },
    ByteLevel {
        merges: StringArray<'a>,
        /// Offsets of merges, by the pair.
        pairs: Table<'a>,
        /// Bytes of the longest merge.
        longest: usize,
        pre: PreTokenizer,
    },
}

/// How a text is to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Control tokens that are written out in the text (`<|im_end|>`) become those tokens. Without it, such text is only
    /// text: nothing that a user types can become structure.
    pub parse_special: bool,
    /// Adds the begin and end tokens that the model wants around a text.
    pub add_special: bool,
}

/// Where encoded tokens go: the first that fit are kept, all are counted.
struct Sink<'o> {
    out: &'o mut [u32],
    count: usize,
}

impl Sink<'_> {
    fn push(&mut self, id: u32) {
        if let Some(place) = self.out.get_mut(self.count) {
            *place = id;
        }
        self.count += 1;
    }
}

impl<'a> Tokenizer<'a> {
    /// Bytes of memory that [`Self::new`] needs for this file's vocabulary, wherever the memory lies.
    pub fn bytes_needed(gguf: &Gguf<'_>) -> Result<usize, TokenizerError> {
        load::bytes_needed(&Vocabulary::of(gguf)?)
    }

    /// The tokenizer of a file, its tables in `mem`: one pass over the tokens and one over the merges.
    pub fn new(gguf: &Gguf<'a>, mem: &'a mut [u8]) -> Result<Self, TokenizerError> {
        load::load(&Vocabulary::of(gguf)?, mem)
    }

    /// Number of tokens.
    pub fn vocabulary(&self) -> usize {
        self.offsets.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        Some(self.bos).filter(|&id| id != NONE)
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        Some(self.eos).filter(|&id| id != NONE)
    }

    /// The token that ends a turn of a conversation.
    pub fn eot(&self) -> Option<u32> {
        Some(self.eot).filter(|&id| id != NONE)
    }

    /// The token that ends a message within a turn.
    pub fn eom(&self) -> Option<u32> {
        Some(self.eom).filter(|&id| id != NONE)
    }

    /// The token for what cannot be expressed.
    pub fn unknown(&self) -> Option<u32> {
        Some(self.unknown).filter(|&id| id != NONE)
    }

    /// Whether the model wants [`Self::bos`] before a text.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos != NONE
    }

    /// Whether the model wants [`Self::eos`] after a text.
    pub fn adds_eos(&self) -> bool {
        self.add_eos && self.eos != NONE
    }

    /// Whether a text gets a space of its own at its beginning, which decoding has to take off again
    /// ([`Utf8Stream::new`]).
    pub fn adds_space(&self) -> bool {
        matches!(self.scheme, Scheme::SentencePiece { add_space: true, .. })
    }

    /// Whether a model that produces this token has finished its answer.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        id != NONE && self.ends.contains(&id)
    }

    /// All tokens that finish an answer.
    pub fn ends_of_generation(&self) -> impl Iterator<Item = u32> + use<> {
        self.ends.into_iter().take_while(|&id| id != NONE)
    }

    /// What a token is for; `None` for one that does not exist.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        ((id as usize) < self.offsets.len()).then(|| self.kind_of(id))
    }

    fn kind_of(&self, id: u32) -> TokenKind {
        if self.unmarked_ends && self.is_end_of_generation(id) {
            return TokenKind::Control;
        }
        let Some(types) = self.types else { return TokenKind::Normal };
        types.get(id as usize).map_or(TokenKind::Unused, TokenKind::from_id)
    }

    /// A token's string as the file writes it: spaces and bytes in the vocabulary's own notation. Empty for a token that
    /// does not exist.
    pub fn string(&self, id: u32) -> &'a [u8] {
        self.offsets.get(id as usize).and_then(|&offset| self.strings.at(offset as usize)).unwrap_or(&[])
    }

    /// The token with this string; control tokens included.
    pub fn find(&self, string: &[u8]) -> Option<u32> {
        self.text_token(string).or_else(|| self.specials.exact(string, |id| self.string(id)))
    }

    fn text_token(&self, string: &[u8]) -> Option<u32> {
        if string.len() > self.longest {
            return None;
        }
        let found = self.texts.find(table::hash(string), |id| self.string(id as u32) == string);
        found.map(|id| id as u32)
    }

    /// Scratch that is enough to encode any text of so many bytes. Ordinary texts need only what their longest word
    /// needs: some kilobytes will do, and [`TokenizerError::ScratchTooSmall`] tells when they do not.
    pub fn scratch_for(&self, text_len: usize) -> usize {
        let longest = match self.scheme {
            // Each byte may be a space, written in three; one more space may be added.
            Scheme::SentencePiece { .. } => text_len.saturating_add(1).saturating_mul(3),
            // Each byte is written in at most two.
            Scheme::ByteLevel { .. } => text_len.saturating_mul(2),
        };
        scratch_for_word(longest)
    }

    /// The most that [`Tokenizer::scratch_for`] says for any vocabulary.
    pub fn most_scratch_for(text_len: usize) -> usize {
        scratch_for_word(text_len.saturating_add(1).saturating_mul(3))
    }

    /// Turns a text into tokens, written to the beginning of `out`; returns their number, at most
    /// `text.len() + 3`. When `out` is too small, the error tells how many there are.
    ///
    /// The text should be UTF-8; other bytes are kept as they are. Time is linear in its length (times the logarithm of
    /// its longest word's).
    pub fn encode(
        &self,
        text: &[u8],
        options: EncodeOptions,
        scratch: &mut [u8],
        out: &mut [u32],
    ) -> Result<usize, TokenizerError> {
        if text.len() > LONGEST_TEXT {
            return Err(TokenizerError::TextTooLong { found: text.len(), limit: LONGEST_TEXT });
        }
        let mut sink = Sink { out, count: 0 };
        self.begin(options, &mut sink);
        self.encode_text(text, options.parse_special, &mut false, scratch, &mut sink)?;
        self.end(options, sink)
    }

    /// Turns a text that comes in pieces into tokens, as [`Self::encode`] does with the whole; control tokens are parsed
    /// in pieces of structure alone, and do not reach from one piece into the next. `text` holds what stands between
    /// special tokens: room for all pieces is enough.
    pub fn encode_pieces<'p>(
        &self,
        pieces: impl Iterator<Item = Piece<'p>> + Clone,
        add_special: bool,
        text: &mut [u8],
        scratch: &mut [u8],
        out: &mut [u32],
    ) -> Result<usize, TokenizerError> {
        let options = EncodeOptions { parse_special: false, add_special };
        let needed = pieces.clone().map(|piece| piece.text.len()).fold(0, usize::saturating_add);
        if needed > text.len() {
            return Err(TokenizerError::BufferTooSmall { needed, found: text.len() });
        }
        if needed > LONGEST_TEXT {
            return Err(TokenizerError::TextTooLong { found: needed, limit: LONGEST_TEXT });
        }
        let mut sink = Sink { out, count: 0 };
        self.begin(options, &mut sink);
        let (mut len, mut strip) = (0, false);
        for piece in pieces {
            let (bytes, mut at) = (piece.text.as_bytes(), 0);
            while at < bytes.len() {
                let special = if piece.structure { self.find_special(bytes, at, true) } else { None };
                let (start, end, id) = special.unwrap_or((bytes.len(), bytes.len(), NONE));
                text[len..len + start - at].copy_from_slice(&bytes[at..start]);
                len += start - at;
                at = end;
                if id != NONE {
                    self.encode_text(&text[..len], false, &mut strip, scratch, &mut sink)?;
                    sink.push(id);
                    (len, strip) = (0, self.strips_after(id));
                }
            }
        }
        self.encode_text(&text[..len], false, &mut strip, scratch, &mut sink)?;
        self.end(options, sink)
    }

    fn begin(&self, options: EncodeOptions, sink: &mut Sink<'_>) {
        if options.add_special && self.adds_bos() {
            sink.push(self.bos);
        }
    }

    fn end(&self, options: EncodeOptions, mut sink: Sink<'_>) -> Result<usize, TokenizerError> {
        if options.add_special && self.adds_eos() {
            sink.push(self.eos);
        }
        if sink.count > sink.out.len() {
            return Err(TokenizerError::OutputFull { needed: sink.count, found: sink.out.len() });
        }
        Ok(sink.count)
    }

    fn find_special(&self, text: &[u8], from: usize, all: bool) -> Option<(usize, usize, u32)> {
        self.specials.find(text, from, all, |id| self.string(id), |id| self.kind_of(id))
    }

    /// A text at the beginning or after a special token. `strip` is whether white space before it belongs to that token.
    fn encode_text(
        &self,
        text: &[u8],
        all: bool,
        strip: &mut bool,
        scratch: &mut [u8],
        sink: &mut Sink<'_>,
    ) -> Result<(), TokenizerError> {
        let mut at = 0;
        while at < text.len() {
            if core::mem::take(strip) {
                at += text[at..].iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count();
            }
            let (start, end, id) = self.find_special(text, at, all).unwrap_or((text.len(), text.len(), NONE));
            if start > at {
                self.encode_piece(&text[at..start], scratch, sink)?;
            }
            at = end;
            if id != NONE {
                sink.push(id);
                *strip = self.strips_after(id);
            }
        }
        Ok(())
    }

    fn strips_after(&self, id: u32) -> bool {
        self.strip_after_special && !matches!(self.string(id), b"<unk>" | b"<s>" | b"<|endoftext|>")
    }

    /// A stretch of text between special tokens, not empty.
    fn encode_piece(&self, text: &[u8], scratch: &mut [u8], sink: &mut Sink<'_>) -> Result<(), TokenizerError> {
        match self.scheme {
            Scheme::SentencePiece { add_space, by_words, .. } => {
                let (mut at, mut first) = (0, add_space);
                while at < text.len() {
                    let end = if by_words { at + bytes::spaced_word(&text[at..]) } else { text.len() };
                    self.encode_word(bytes::Written::Spaced { text: &text[at..end], first }, scratch, sink)?;
                    (at, first) = (end, false);
                }
                Ok(())
            }
            Scheme::ByteLevel { pre, .. } => {
                pre.words(text).try_for_each(|word| self.encode_word(bytes::Written::Printable(word), scratch, sink))
            }
        }
    }

    /// One word: written in the vocabulary's notation, then merged.
    fn encode_word(
        &self,
        word: bytes::Written<'_>,
        scratch: &mut [u8],
        sink: &mut Sink<'_>,
    ) -> Result<(), TokenizerError> {
        let (len, found) = (word.len(), scratch.len());
        let too_small = TokenizerError::ScratchTooSmall { needed: scratch_for_word(len), found };
        let (written, rest) = scratch.split_at_mut_checked(len).ok_or(too_small)?;
        word.write(written);
        let written: &[u8] = written;
        if let Scheme::ByteLevel { pre, .. } = self.scheme
            && let Some(id) = Some(()).filter(|_| pre.whole_words()).and_then(|_| self.text_token(written))
        {
            sink.push(id);
            return Ok(());
        }
        let work = bytemuck::pod_align_to_mut::<u8, u32>(rest).1;
        let work = work.get_mut(..merge::work_for(len)).ok_or(too_small)?;
        let part = |part: &[u8]| self.emit(part, sink);
        match self.scheme {
            Scheme::SentencePiece { scores, .. } => {
                let rank = |joined: &[u8], _| {
                    self.text_token(joined)
                        .map_or(NO_MERGE, |id| rank_of_score(scores.and_then(|s| s.get(id as usize))))
                };
                merge::merge(written, work, unicode::char_len, rank, part)
            }
            Scheme::ByteLevel { merges, pairs, longest, .. } => {
                let rank = |joined: &[u8], middle| {
                    if joined.len() >= longest { NO_MERGE } else { rank_of_pair(merges, pairs, joined, middle) }
                };
                merge::merge(written, work, unicode::char_len, rank, part)
            }
        }
    }

    /// The unknown token, unless it has another meaning besides: a text must not become structure.
    fn substitute(&self) -> u32 {
        self.unknown().filter(|&id| self.kind_of(id) != TokenKind::Control).unwrap_or(NONE)
    }

    /// What merging has left: a token, or a character that is none.
    fn emit(&self, part: &[u8], sink: &mut Sink<'_>) -> Result<(), TokenizerError> {
        if let Some(id) = self.text_token(part) {
            sink.push(id);
            return Ok(());
        }
        match self.scheme {
            Scheme::SentencePiece { bytes, .. } => {
                for &byte in part {
                    match [bytes[byte as usize], self.substitute()].into_iter().find(|&id| id != NONE) {
                        Some(id) => sink.push(id),
                        None => return Err(TokenizerError::NoToken { byte }),
                    }
                }
            }
            Scheme::ByteLevel { .. } => {
                let mut at = 0;
                while at < part.len() {
                    let end = at + unicode::char_len(&part[at..]);
                    let id = self.text_token(&part[at..end]).or(Some(self.substitute()).filter(|&id| id != NONE));
                    let byte = bytes::unprintable(&part[at..end]).unwrap_or(part[at]);
                    sink.push(id.ok_or(TokenizerError::NoToken { byte })?);
                    at = end;
                }
            }
        }
        Ok(())
    }

    /// Most bytes that [`Self::decode`] writes.
    pub fn longest_piece(&self) -> usize {
        self.longest
    }

    /// Writes the text of a token to the beginning of `out` and returns its length. A token may hold part of a character:
    /// see [`Utf8Stream`]. Control and unknown tokens have no text unless `special`; unused ones have none.
    pub fn decode(&self, id: u32, special: bool, out: &mut [u8]) -> Result<usize, TokenizerError> {
        let vocabulary = self.vocabulary();
        let kind = self.kind(id).ok_or(TokenizerError::BadToken { id, vocabulary })?;
        let string = self.string(id);
        let mut text = bytes::Text { out, len: 0 };
        match kind {
            TokenKind::Control | TokenKind::Unknown if !special => {}
            TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => text.push(string),
            TokenKind::Unused => {}
            TokenKind::Byte => match bytes::byte_token(string) {
                Some(byte) => text.push(&[byte]),
                None => text.push(string),
            },
            TokenKind::Normal => match self.scheme {
                Scheme::SentencePiece { .. } if self.types.is_none() && bytes::byte_token(string).is_some() => {
                    text.push(bytes::byte_token(string).as_slice())
                }
                Scheme::SentencePiece { .. } => text.push_spaced(string),
                Scheme::ByteLevel { .. } => text.push_printable(string),
            },
        }
        let (needed, found) = (text.len, text.out.len());
        if needed > found { Err(TokenizerError::OutputFull { needed, found }) } else { Ok(needed) }
    }
}

/// Scratch for a word of so many bytes: the word, the merging's work, and what aligning that may cost.
fn scratch_for_word(len: usize) -> usize {
    merge::work_for(len).saturating_mul(4).saturating_add(len).saturating_add(3)
}

/// Higher scores first. No score counts as 0, what is no number as the lowest.
fn rank_of_score(score: Option<u32>) -> u32 {
    let score = f32::from_bits(score.unwrap_or(0));
    let score = if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 };
    // The order of floats as that of integers: negative ones reversed, then positive ones above them.
    let bits = score.to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

/// Merges come in the file in the order of their ranks, so that the offset is as good as the rank.
fn rank_of_pair(merges: StringArray<'_>, pairs: Table<'_>, joined: &[u8], middle: usize) -> u32 {
    let (left, right) = joined.split_at(middle);
    let hash = table::hash_pair(table::hash(left), table::hash(right));
    let same = |offset: usize| {
        merges.at(offset).is_some_and(|merge| {
            merge.len() == joined.len() + 1
                && merge.get(..middle) == Some(left)
                && merge.get(middle + 1..) == Some(right)
                && merge.get(middle) == Some(&b' ')
        })
    };
    pairs.find(hash, same).map_or(NO_MERGE, |offset| offset as u32)
}
