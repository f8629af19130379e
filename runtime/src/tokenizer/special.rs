//! Tokens that are found in a text before anything else: control tokens where they are wanted, user-defined ones always.

use super::source::TokenKind;
use crate::heap;

/// Longer tokens are not looked for, which bounds the time that a position of the text can take.
const LONGEST: usize = 255;

/// The special tokens of a vocabulary, sorted by their text.
#[derive(Clone, Copy)]
pub(super) struct Specials<'m> {
    ids: &'m [u32],
    /// First bytes of user-defined tokens, and of all: one bit each.
    starts: [[u32; 8]; 2],
}

impl<'m> Specials<'m> {
    /// Sorts `ids`. Empty tokens and very long ones are never found.
    pub(super) fn new<'t>(
        ids: &'m mut [u32],
        text: impl Fn(u32) -> &'t [u8],
        kind: impl Fn(u32) -> TokenKind,
    ) -> Specials<'m> {
        heap::sort(ids, |&a, &b| (text(a), a) < (text(b), b));
        let mut starts = [[0; 8]; 2];
        for &id in ids.iter() {
            let Some(&first) = text(id).first() else { continue };
            starts[1][first as usize / 32] |= 1 << (first % 32);
            if kind(id) == TokenKind::UserDefined {
                starts[0][first as usize / 32] |= 1 << (first % 32);
            }
        }
        Specials { ids, starts }
    }

    /// The special token with this string.
    pub(super) fn exact<'t>(&self, string: &[u8], text: impl Fn(u32) -> &'t [u8]) -> Option<u32> {
        let at = self.ids.partition_point(|&id| text(id) < string);
        self.ids.get(at).copied().filter(|&id| text(id) == string)
    }

    /// The first special token in `bytes` at or after `from`, the longest that begins there: its start, end and id.
    /// Without `all`, only user-defined ones count.
    pub(super) fn find<'t>(
        &self,
        bytes: &[u8],
        from: usize,
        all: bool,
        text: impl Fn(u32) -> &'t [u8],
        kind: impl Fn(u32) -> TokenKind,
    ) -> Option<(usize, usize, u32)> {
        let starts = &self.starts[all as usize];
        if starts.iter().all(|&bits| bits == 0) {
            return None;
        }
        for at in from..bytes.len() {
            let first = bytes[at];
            if starts[first as usize / 32] >> (first % 32) & 1 == 0 {
                continue;
            }
            let wanted = |id| all || kind(id) == TokenKind::UserDefined;
            if let Some((len, id)) = self.longest(&bytes[at..], &text, wanted) {
                return Some((at, at + len, id));
            }
        }
        None
    }

    /// The longest wanted token that `bytes` begins with. The candidates, which agree in the bytes seen so far, are a
    /// range of the sorted list that narrows byte by byte.
    fn longest<'t>(
        &self,
        bytes: &[u8],
        text: &impl Fn(u32) -> &'t [u8],
        wanted: impl Fn(u32) -> bool,
    ) -> Option<(usize, u32)> {
        let (mut range, mut best) = (self.ids, None);
        for (depth, &byte) in bytes.iter().take(LONGEST).enumerate() {
            let at = |&id: &u32| text(id).get(depth).copied();
            range = &range[range.partition_point(|id| at(id) < Some(byte))..];
            range = &range[..range.partition_point(|id| at(id) == Some(byte))];
            let complete = range.iter().take_while(|&&id| text(id).len() == depth + 1);
            if let Some(&id) = complete.into_iter().find(|&&id| wanted(id)) {
                best = Some((depth + 1, id));
            }
            if range.is_empty() {
                break;
            }
        }
        best
    }
}
