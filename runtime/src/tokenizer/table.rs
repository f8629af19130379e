//! Hash tables over strings that stay where they are in the file.
//!
//! A table is a slice of `u32` slots in the caller's memory: 0 is empty, else the low bits are a value plus one and the
//! high bits a tag from the hash, so that a probe reads the file only where the tag agrees. Linear probing.

/// Slots for `n` entries: two of three are filled.
pub(crate) fn slots_for(n: usize) -> usize {
    n + n / 2 + 1
}

/// A run of filled slots longer than this is no accident: the file was made to be slow.
const LONGEST_RUN: usize = 4096;

/// A table that is being filled.
pub(crate) struct TableMut<'m> {
    slots: &'m mut [u32],
    value_bits: u32,
}

/// A table that is read.
#[derive(Clone, Copy)]
pub(crate) struct Table<'m> {
    slots: &'m [u32],
    value_bits: u32,
}

/// The table cannot take the entry: it is full, or too many entries fell on the same place.
struct Crowded;

impl<'m> TableMut<'m> {
    /// An empty table for values below `values`, at most `u32::MAX`.
    pub(crate) fn new(slots: &'m mut [u32], values: usize) -> Self {
        slots.fill(0);
        TableMut { slots, value_bits: usize::BITS - values.leading_zeros() }
    }

    /// Adds `value` unless an entry for which `same` holds is there.
    #[inline]
    fn insert(&mut self, hash: u64, value: usize, same: impl Fn(usize) -> bool) -> Result<(), Crowded> {
        let (tag, mask) = (tag(hash, self.value_bits), mask(self.value_bits));
        let mut at = first(hash, self.slots.len());
        for _ in 0..LONGEST_RUN {
            let slot = self.slots.get_mut(at).ok_or(Crowded)?;
            if *slot == 0 {
                *slot = tag | (value as u32 + 1);
                return Ok(());
            }
            if (*slot ^ tag) & !mask == 0 && same(((*slot & mask) - 1) as usize) {
                return Ok(());
            }
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        Err(Crowded)
    }

    /// Adds all entries, given by hash and value, unless one is there for which `same(old, new)` holds. The error is the
    /// value that could not be added.
    pub(crate) fn insert_all(
        &mut self,
        mut entries: impl Iterator<Item = (u64, usize)>,
        same: impl Fn(usize, usize) -> bool,
    ) -> Result<(), usize> {
        let mut batch = [(0, 0); 32];
        loop {
            let mut len = 0;
            for (place, entry) in batch.iter_mut().zip(&mut entries) {
                *place = entry;
                len += 1;
            }
            if len == 0 {
                return Ok(());
            }
            // A large table lies outside the nearest caches. Reading the places of a batch together lets these reads
            // overlap, where each insertion alone would wait for its own.
            let places = batch[..len].iter().filter_map(|&(hash, _)| self.slots.get(first(hash, self.slots.len())));
            core::hint::black_box(places.fold(0, |all, slot| all ^ slot));
            for &(hash, value) in &batch[..len] {
                self.insert(hash, value, |old| same(old, value)).map_err(|Crowded| value)?;
            }
        }
    }

    /// Done filling.
    pub(crate) fn finish(self) -> Table<'m> {
        Table { slots: self.slots, value_bits: self.value_bits }
    }
}

impl Table<'_> {
    /// The value of the entry with this hash for which `same` holds.
    #[inline]
    pub(crate) fn find(&self, hash: u64, same: impl Fn(usize) -> bool) -> Option<usize> {
        let (tag, mask) = (tag(hash, self.value_bits), mask(self.value_bits));
        let mut at = first(hash, self.slots.len());
        for _ in 0..LONGEST_RUN {
            let slot = *self.slots.get(at)?;
            if slot == 0 {
                return None;
            }
            if (slot ^ tag) & !mask == 0 {
                let value = ((slot & mask) - 1) as usize;
                if same(value) {
                    return Some(value);
                }
            }
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        None
    }
}

/// The slot where the search begins: the hash's low half, scaled.
#[inline]
fn first(hash: u64, slots: usize) -> usize {
    ((hash as u32 as u64 * slots as u64) >> 32) as usize
}

#[inline]
fn mask(value_bits: u32) -> u32 {
    if value_bits >= 32 { u32::MAX } else { (1 << value_bits) - 1 }
}

#[inline]
fn tag(hash: u64, value_bits: u32) -> u32 {
    (hash >> 32) as u32 & !mask(value_bits)
}

/// Odd, with its ones well spread (the fraction of the golden ratio).
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

#[inline]
fn mix(h: u64) -> u64 {
    let h = h.wrapping_mul(FACTOR);
    h ^ h >> 32
}

/// Hash of a string.
#[inline]
pub(crate) fn hash(text: &[u8]) -> u64 {
    let len = text.len() as u64;
    // The ends are read as words that may overlap, so that few branches depend on the length.
    if let (Some(&first), Some(&last)) = (text.first_chunk(), text.last_chunk()) {
        let mut h = mix(len ^ u64::from_le_bytes(first));
        if len > 16 {
            for &middle in text[8..].as_chunks().0 {
                h = mix(h ^ u64::from_le_bytes(middle));
            }
        }
        mix(mix(h ^ u64::from_le_bytes(last)))
    } else if let (Some(&first), Some(&last)) = (text.first_chunk(), text.last_chunk()) {
        // Of the last four bytes, those beyond the first four.
        let beyond = (u32::from_le_bytes(last) as u64) >> (8 * (8 - len));
        hash_short(len, u32::from_le_bytes(first) as u64 | beyond << 32)
    } else {
        let byte = |i: usize| text.get(i).copied().unwrap_or(0);
        hash_short(len, u32::from_le_bytes([byte(0), byte(1), byte(2), 0]) as u64)
    }
}

/// Hash of a string of fewer than 8 bytes: these as a little-endian number.
#[inline]
fn hash_short(len: u64, word: u64) -> u64 {
    mix(mix(len << 56 ^ word))
}

/// [`hash`] of a string whose first bytes, and whatever follows them, are `word`: without a branch on its length if it
/// is short.
#[inline]
pub(crate) fn hash_with(text: &[u8], word: u64) -> u64 {
    match text.len() {
        len @ 0..8 => hash_short(len as u64, word & !(u64::MAX << (8 * len))),
        _ => hash(text),
    }
}

/// Hash of an ordered pair, from the hashes of its parts.
#[inline]
pub(crate) fn hash_pair(left: u64, right: u64) -> u64 {
    mix(mix(left) ^ right)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::HashSet;
    use std::vec::Vec;

    #[test]
    fn what_was_put_in_is_found_once() {
        let words: Vec<Vec<u8>> = (0..20_000_u32)
            .map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes().repeat(6)[..1 + i as usize % 23].to_vec())
            .collect();
        let mut slots = std::vec![0; slots_for(words.len())];
        let mut table = TableMut::new(&mut slots, words.len());
        let entries = words.iter().enumerate().map(|(i, word)| (hash(word), i));
        assert_eq!(table.insert_all(entries, |old, new| words[old] == words[new]), Ok(()));
        let table = table.finish();
        for (i, word) in words.iter().enumerate() {
            let found = table.find(hash(word), |j| words[j] == *word).unwrap();
            assert!(found <= i && words[found] == *word);
            let mut longer = word.clone();
            longer.extend([0x20, 0xFF, 0, 1, 2, 3, 4, 5]);
            assert_eq!(hash_with(word, u64::from_le_bytes(longer[..8].try_into().unwrap())), hash(word));
            assert_eq!(table.find(hash(word) ^ 1 << 50, |j| words[j] == *word), None);
        }
        let distinct: HashSet<_> = words.iter().collect();
        assert_eq!(table.slots.iter().filter(|&&slot| slot != 0).count(), distinct.len());
    }

    #[test]
    fn entries_that_all_collide_are_refused() {
        let mut slots = std::vec![0; slots_for(10_000)];
        let mut table = TableMut::new(&mut slots, 10_000);
        assert_eq!(table.insert_all((0..10_000).map(|i| (7, i)), |_, _| false), Err(LONGEST_RUN));
    }
}
