//! Merging the characters of one word into tokens, best pair first.
//!
//! Both vocabularies merge in the same way and differ in what makes a pair good. A pair has a rank, lower is better, and
//! of equal ranks the leftmost pair goes first. Every byte position of the word has a place for the rank of the pair
//! whose left half begins there; above these lie minima over groups of 16, groups of groups, and so on, so that the
//! best pair is found and a rank changed in a number of steps that grows with the logarithm of the word's length.

use super::TokenizerError;

/// Rank of a pair that does not merge.
pub(crate) const NO_MERGE: u32 = u32::MAX;

/// Positions to a group.
const GROUP: usize = 16;

/// Levels of minima that the longest word (2³² bytes) can have.
const MOST_LEVELS: usize = 9;

/// Words of `u32` that merging a word of `len` bytes needs.
pub(crate) fn work_for(len: usize) -> usize {
    let mut total = len.saturating_mul(2);
    let mut level = len;
    loop {
        total = total.saturating_add(level);
        if level <= GROUP {
            return total;
        }
        level = level.div_ceil(GROUP);
    }
}

/// Merges `word`, a concatenation of characters whose lengths `char_len` tells, and hands the parts that remain to
/// `part`, in order. `work` has [`work_for`] words, and `word` fewer than 2³² bytes; `rank(joined, middle)` is the rank of the
/// pair that `joined` is made of, cut at `middle`.
pub(crate) fn merge(
    word: &[u8],
    work: &mut [u32],
    char_len: impl Fn(&[u8]) -> usize,
    rank: impl Fn(&[u8], usize) -> u32,
    mut part: impl FnMut(&[u8]) -> Result<(), TokenizerError>,
) -> Result<(), TokenizerError> {
    let len = word.len();
    let (next, rest) = work.split_at_mut(len);
    let (before, ranks) = rest.split_at_mut(len);
    let mut ranks = Ranks::new(ranks, len);

    // Parts are known by the position of their first byte: `next[p]` is the start of the part after p, `before[p]` of
    // the one before it (len for none).
    let (mut at, mut last) = (0, len);
    while at < len {
        let end = (at + char_len(&word[at..])).min(len);
        next[at] = end as u32;
        before[at] = last as u32;
        (last, at) = (at, end);
    }
    let pair = |next: &[u32], left: usize| {
        let middle = next[left] as usize;
        if middle >= len { NO_MERGE } else { rank(&word[left..next[middle] as usize], middle - left) }
    };
    ranks.fill(|levels| {
        let mut at = 0;
        while at < len {
            levels[at] = pair(next, at);
            at = next[at] as usize;
        }
    });

    while let Some(left) = ranks.best() {
        let right = next[left] as usize;
        let end = next[right];
        next[left] = end;
        ranks.set(right, NO_MERGE);
        if let Some(after) = before.get_mut(end as usize) {
            *after = left as u32;
        }
        ranks.set(left, pair(next, left));
        let left_of = before[left] as usize;
        if left_of < len {
            ranks.set(left_of, pair(next, left_of));
        }
    }

    let mut at = 0;
    while at < len {
        let end = next[at] as usize;
        part(&word[at..end])?;
        at = end;
    }
    Ok(())
}

/// Ranks by position, with the minima above them.
struct Ranks<'w> {
    words: &'w mut [u32],
    /// Start and length of each level in `words`; level 0 are the ranks themselves.
    levels: [(usize, usize); MOST_LEVELS],
    top: usize,
}

impl<'w> Ranks<'w> {
    fn new(words: &'w mut [u32], len: usize) -> Self {
        let (mut levels, mut top, mut start, mut size) = ([(0, 0); MOST_LEVELS], 0, 0, len);
        levels[0] = (0, len);
        while size > GROUP && top + 1 < MOST_LEVELS {
            start += size;
            size = size.div_ceil(GROUP);
            top += 1;
            levels[top] = (start, size);
        }
        Ranks { words, levels, top }
    }

    /// Sets all ranks at once; those that `write` leaves alone are [`NO_MERGE`].
    fn fill(&mut self, write: impl FnOnce(&mut [u32])) {
        let (_, len) = self.levels[0];
        self.words[..len].fill(NO_MERGE);
        write(&mut self.words[..len]);
        for level in 1..=self.top {
            let ((below, below_len), (start, size)) = (self.levels[level - 1], self.levels[level]);
            for i in 0..size {
                let group = &self.words[below + i * GROUP..below + ((i + 1) * GROUP).min(below_len)];
                self.words[start + i] = group.iter().copied().min().unwrap_or(NO_MERGE);
            }
        }
    }

    fn set(&mut self, at: usize, rank: u32) {
        if self.words[at] == rank {
            return;
        }
        self.words[at] = rank;
        let mut i = at;
        for level in 1..=self.top {
            let ((below, below_len), (start, _)) = (self.levels[level - 1], self.levels[level]);
            i /= GROUP;
            let group = &self.words[below + i * GROUP..below + ((i + 1) * GROUP).min(below_len)];
            let least = group.iter().copied().min().unwrap_or(NO_MERGE);
            if self.words[start + i] == least {
                return;
            }
            self.words[start + i] = least;
        }
    }

    /// The leftmost position of the lowest rank; `None` when nothing merges.
    fn best(&self) -> Option<usize> {
        let (start, size) = self.levels[self.top];
        let top = &self.words[start..start + size];
        let least = top.iter().copied().min().filter(|&rank| rank != NO_MERGE)?;
        let mut i = top.iter().position(|&rank| rank == least)?;
        for level in (0..self.top).rev() {
            let (start, size) = self.levels[level];
            let group = &self.words[start + i * GROUP..start + ((i + 1) * GROUP).min(size)];
            i = i * GROUP + group.iter().position(|&rank| rank == least)?;
        }
        Some(i)
    }
}
