//! Making a tokenizer: one pass over the vocabulary and one over the merges.

use super::pre::PreTokenizer;
use super::source::{MERGES, SCORES, StringArray, TOKENS, TYPES, TokenKind, Vocabulary, Words};
use super::special::Specials;
use super::table::{self, TableMut};
use super::{NONE, Scheme, Tokenizer, TokenizerError, bytes};
use crate::label::Label;

/// Most tokens that end an answer.
pub(super) const MOST_ENDS: usize = 40;

/// Strings of tokens that end an answer, with or without the file's saying so. The first that a vocabulary has ends a
/// turn if the file names no token for that.
const END_STRINGS: [&str; 11] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

/// More of them, which end no turn.
const MORE_END_STRINGS: [&str; 9] =
    ["<|eom_id|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "</s>", "[EOS]", "<eos>", "[e~["];

/// Tokens of code models that end what was to be filled in: the first of each row that there is.
const FILL_STRINGS: [&[&str]; 3] = [
    &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    &["<|file_sep|>"],
];

/// Sizes of the tables, in words of `u32`.
struct Layout {
    offsets: usize,
    texts: usize,
    specials: usize,
    /// Slots of the merges, or the byte tokens.
    own: usize,
}

impl Layout {
    fn words(&self) -> usize {
        self.offsets + self.texts + self.specials + self.own
    }
}

enum Kind {
    SentencePiece,
    ByteLevel(PreTokenizer),
}

fn check(vocabulary: &Vocabulary<'_>) -> Result<(Kind, Layout), TokenizerError> {
    let kind = match vocabulary.model {
        b"llama" => Kind::SentencePiece,
        b"gpt2" if cfg!(feature = "byte-bpe") => match PreTokenizer::named(vocabulary.pre) {
            Some(pre) => Kind::ByteLevel(pre),
            None => return Err(TokenizerError::UnknownPreTokenizer { found: Label::new(vocabulary.pre) }),
        },
        _ => return Err(TokenizerError::UnknownModel { found: Label::new(vocabulary.model) }),
    };
    let tokens = vocabulary.tokens.len();
    // A quarter of the numbers, so that sums of table sizes stay far from overflowing.
    let limit = (1 << 28) - 1;
    for (key, strings) in [(TOKENS, Some(vocabulary.tokens)), (MERGES, vocabulary.merges)] {
        let found = strings.map_or(0, |s| s.len());
        if found > limit {
            return Err(TokenizerError::TooLarge { key, found, limit });
        }
    }
    for (key, numbers) in [(TYPES, vocabulary.types), (SCORES, vocabulary.scores)] {
        if let Some(found) = numbers.map(|n| n.len()).filter(|&n| n < tokens) {
            return Err(TokenizerError::TooShort { key, found, expected: tokens });
        }
    }
    let special = |types: Words<'_>| types.iter().take(tokens).filter(|&t| TokenKind::from_id(t).is_special()).count();
    let own = match (&kind, vocabulary.merges) {
        (Kind::SentencePiece, _) => 256,
        (Kind::ByteLevel(_), Some(merges)) => table::slots_for(merges.len()),
        (Kind::ByteLevel(_), None) => return Err(TokenizerError::Missing { key: MERGES }),
    };
    let layout = Layout {
        offsets: tokens,
        texts: table::slots_for(tokens),
        specials: vocabulary.types.map_or(0, special) + MOST_ENDS,
        own,
    };
    Ok((kind, layout))
}

/// Bytes of memory for the tables of this vocabulary, wherever the memory lies.
pub(super) fn bytes_needed(vocabulary: &Vocabulary<'_>) -> Result<usize, TokenizerError> {
    let (_, layout) = check(vocabulary)?;
    Ok(layout.words() * 4 + 3)
}

/// Builds the tables in `mem`.
pub(super) fn load<'a>(vocabulary: &Vocabulary<'a>, mem: &'a mut [u8]) -> Result<Tokenizer<'a>, TokenizerError> {
    let (kind, layout) = check(vocabulary)?;
    let too_small = TokenizerError::MemoryTooSmall { needed: layout.words() * 4 + 3, found: mem.len() };
    let words = bytemuck::pod_align_to_mut::<u8, u32>(mem).1.get_mut(..layout.words()).ok_or(too_small)?;
    let (offsets, rest) = words.split_at_mut(layout.offsets);
    let (texts, rest) = rest.split_at_mut(layout.texts);
    let (specials, own) = rest.split_at_mut(layout.specials);

    let tokens = Tokens::read(vocabulary, &kind, offsets, texts)?;
    let (scheme, add_bos) = match kind {
        Kind::SentencePiece => {
            byte_tokens(vocabulary, tokens.offsets, own);
            let add_space = vocabulary.add_space_prefix.unwrap_or(true);
            let by_words = tokens.by_words;
            (Scheme::SentencePiece { scores: vocabulary.scores, bytes: own, add_space, by_words }, true)
        }
        Kind::ByteLevel(pre) => {
            let merges = vocabulary.merges.unwrap_or(StringArray::new(&[], 0));
            let (pairs, longest) = merge_table(merges, own)?;
            (Scheme::ByteLevel { merges, pairs, longest, pre }, pre.adds_bos())
        }
    };

    // A number that is no token counts as absent, as other programs have it.
    let known = |id: Option<u32>| id.filter(|&id| (id as usize) < tokens.offsets.len()).unwrap_or(NONE);
    let default = |id: u32| if matches!(scheme, Scheme::SentencePiece { .. }) { known(Some(id)) } else { NONE };
    let or = |id: u32, other: u32| if id == NONE { other } else { id };
    let mut tokenizer = Tokenizer {
        strings: vocabulary.tokens,
        types: vocabulary.types,
        offsets: tokens.offsets,
        texts: tokens.texts,
        specials: Specials::new(&mut [], |_| &[], |_| TokenKind::Normal),
        scheme,
        longest: tokens.longest,
        bos: or(known(vocabulary.bos), default(1)),
        eos: or(known(vocabulary.eos), default(2)),
        eot: known(vocabulary.eot),
        eom: known(vocabulary.eom),
        unknown: or(known(vocabulary.unknown), default(0)),
        add_bos: vocabulary.add_bos.unwrap_or(add_bos),
        add_eos: vocabulary.add_eos.unwrap_or(false),
        ends: [NONE; MOST_ENDS],
        unmarked_ends: false,
        strip_after_special: has_phi3(vocabulary.name),
    };
    tokenizer.find_ends(specials);
    Ok(tokenizer)
}

/// What one pass over the tokens gives.
struct Tokens<'a> {
    offsets: &'a [u32],
    texts: table::Table<'a>,
    longest: usize,
    by_words: bool,
}

impl<'a> Tokens<'a> {
    fn read(
        vocabulary: &Vocabulary<'a>,
        kind: &Kind,
        offsets: &'a mut [u32],
        slots: &'a mut [u32],
    ) -> Result<Tokens<'a>, TokenizerError> {
        let strings = vocabulary.tokens;
        let (mut longest, mut count) = (0, 0);
        for (place, (offset, string)) in offsets.iter_mut().zip(strings.iter()) {
            let limit = u32::MAX as usize;
            *place =
                u32::try_from(offset).map_err(|_| TokenizerError::TooLarge { key: TOKENS, found: offset, limit })?;
            longest = longest.max(string.len());
            count += 1;
        }
        if count < strings.len() {
            return Err(TokenizerError::CutShort { key: TOKENS, found: count, expected: strings.len() });
        }
        let offsets: &'a [u32] = offsets;

        let spaced = matches!(kind, Kind::SentencePiece);
        let string = |id: usize| offsets.get(id).and_then(|&offset| strings.at(offset as usize)).unwrap_or(&[]);
        let mut by_words = true;
        let entries = (0..count).filter_map(|id| {
            let string = string(id);
            let kind = match vocabulary.types {
                Some(types) => types.get(id).map_or(TokenKind::Unused, TokenKind::from_id),
                None if spaced && bytes::byte_token(string).is_some() => TokenKind::Byte,
                None => TokenKind::Normal,
            };
            // User-defined tokens are written plainly, not in the notation for bytes, and are found before any word.
            if !kind.is_text() || string.is_empty() || (!spaced && kind == TokenKind::UserDefined) {
                return None;
            }
            by_words = by_words && !(spaced && bytes::has_inner_space(string));
            let word = strings.word(offsets.get(id).map_or(0, |&offset| offset as usize + 8));
            Some((table::hash_with(string, word), id))
        });
        let mut texts = TableMut::new(slots, count);
        texts
            .insert_all(entries, |old, new| string(old) == string(new))
            .map_err(|index| TokenizerError::Crowded { key: TOKENS, index })?;
        Ok(Tokens { offsets, texts: texts.finish(), longest, by_words })
    }
}

/// Fills the table of byte tokens: those of kind byte, or, where the file has no kinds, those written as such.
fn byte_tokens(vocabulary: &Vocabulary<'_>, offsets: &[u32], table: &mut [u32]) {
    table.fill(NONE);
    for (id, &offset) in offsets.iter().enumerate() {
        let kind = vocabulary.types.and_then(|types| types.get(id)).map(TokenKind::from_id);
        if kind.is_none_or(|kind| kind == TokenKind::Byte) {
            let byte = vocabulary.tokens.at(offset as usize).and_then(bytes::byte_token);
            if let Some(place) = byte.and_then(|byte| table.get_mut(byte as usize)).filter(|place| **place == NONE) {
                *place = id as u32;
            }
        }
    }
}

/// The table of merges and the length of the longest. A merge without a space between two parts never applies.
fn merge_table<'a>(merges: StringArray<'a>, slots: &'a mut [u32]) -> Result<(table::Table<'a>, usize), TokenizerError> {
    let limit = u32::MAX as usize - 1;
    let (mut longest, mut count, mut end) = (0, 0, 0);
    let entries = merges.iter().filter_map(|(offset, merge)| {
        count += 1;
        longest = longest.max(merge.len());
        end = offset;
        let start = offset + 8;
        let space = space_in(merges, start, merge.len())?;
        let (left, right) = (merge.get(..space)?, merge.get(space + 1..)?);
        let left = table::hash_with(left, merges.word(start));
        Some((table::hash_pair(left, table::hash_with(right, merges.word(start + space + 1))), offset))
    });
    let mut pairs = TableMut::new(slots, merges.span().min(limit));
    let added = pairs
        .insert_all(entries.take_while(|&(_, offset)| offset < limit), |old, new| merges.at(old) == merges.at(new));
    added.map_err(|offset| TokenizerError::Crowded { key: MERGES, index: offset })?;
    if end >= limit {
        return Err(TokenizerError::TooLarge { key: MERGES, found: end, limit });
    }
    if count < merges.len() {
        return Err(TokenizerError::CutShort { key: MERGES, found: count, expected: merges.len() });
    }
    Ok((pairs.finish(), longest))
}

/// Where the string of a merge, at byte `start` of the array, has its first space after its first byte; `None` if
/// nothing follows it.
#[inline]
fn space_in(merges: StringArray<'_>, start: usize, len: usize) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let mut at = 1;
    while at < len {
        // Subtracting one from each byte borrows, first of all, in those that were a space.
        let differs = merges.word(start + at) ^ (b' ' as u64 * ONES);
        let spaces = differs.wrapping_sub(ONES) & !differs & (0x80 * ONES);
        if spaces != 0 {
            at += spaces.trailing_zeros() as usize / 8;
            return Some(at).filter(|at| at + 1 < len);
        }
        at += 8;
    }
    None
}

/// Whether a model's name says that it is a Phi-3, whose special tokens take the white space after them.
fn has_phi3(name: &[u8]) -> bool {
    let has = |part: &[u8]| name.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part));
    has(b"phi-3") || has(b"phi3")
}

impl<'a> Tokenizer<'a> {
    /// Lists the special tokens in `room` and finds those that end an answer.
    fn find_ends(&mut self, room: &'a mut [u32]) {
        let mut listed = 0;
        let special = (0..self.offsets.len() as u32).filter(|&id| self.kind_of(id).is_special());
        for (place, id) in room.iter_mut().zip(special) {
            *place = id;
            listed += 1;
        }
        let specials = Specials::new(&mut room[..listed], |id| self.string(id), |id| self.kind_of(id));
        (self.eot, self.eom, self.ends) = self.name_ends(&specials);
        // Those that the file does not mark as special are special all the same.
        for i in 0..MOST_ENDS {
            let id = self.ends[i];
            if id != NONE && !self.kind_of(id).is_special() && listed < room.len() {
                room[listed] = id;
                listed += 1;
            }
        }
        self.unmarked_ends = self.ends_of_generation().any(|id| self.kind_of(id) != TokenKind::Control);
        self.specials = Specials::new(&mut room[..listed], |id| self.string(id), |id| self.kind_of(id));
    }

    /// The token that ends a turn, the one that ends a message, and all tokens that end an answer: those that the file
    /// names, and those whose string says so.
    fn name_ends(&self, specials: &Specials<'_>) -> (u32, u32, [u32; MOST_ENDS]) {
        let named = |string: &str| {
            let string = string.as_bytes();
            specials.exact(string, |id| self.string(id)).or_else(|| self.text_token(string)).unwrap_or(NONE)
        };
        let turn = END_STRINGS.iter().map(|string| named(string)).find(|&id| id != NONE).unwrap_or(NONE);
        let fill =
            FILL_STRINGS.map(|row| row.iter().map(|string| named(string)).find(|&id| id != NONE).unwrap_or(NONE));
        // Where `<|return|>` and `<|call|>` end an answer, `<|end|>` only ends a part of it.
        let parts = named("<|call|>") != NONE && named("<|return|>") != NONE
            || named("<|calls|>") != NONE && named("<|flush|>") != NONE;
        let part_end = if parts { named("<|end|>") } else { NONE };
        let (eot, eom) = (
            if self.eot == NONE { turn } else { self.eot },
            if self.eom == NONE { named("<|eom_id|>") } else { self.eom },
        );

        let mut ends = [NONE; MOST_ENDS];
        let strings = END_STRINGS.iter().chain(&MORE_END_STRINGS).map(|string| named(string));
        let mut count = 0;
        for id in [self.eos, eot, eom].into_iter().chain(fill).chain(strings) {
            if id != NONE && id != part_end && !ends.contains(&id) {
                ends[count] = id;
                count += 1;
            }
        }
        (eot, eom, ends)
    }
}

/// Every candidate for an end has a place.
const _: () = assert!(3 + FILL_STRINGS.len() + END_STRINGS.len() + MORE_END_STRINGS.len() <= MOST_ENDS);
