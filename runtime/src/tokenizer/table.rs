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
pub(crate) struct Crowded;

impl<'m> TableMut<'m> {
    /// An empty table for values below `values`, at most `u32::MAX`.
    pub(crate) fn new(slots: &'m mut [u32], values: usize) -> Self {
        slots.fill(0);
        TableMut { slots, value_bits: usize::BITS - values.leading_zeros() }
    }

    /// Adds `value` unless an entry for which `same` holds is there.
    #[inline]
    pub(crate) fn insert(&mut self, hash: u64, value: usize, same: impl Fn(usize) -> bool) -> Result<(), Crowded> {
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
    let mut h = text.len() as u64;
    let (chunks, rest) = text.as_chunks::<8>();
    for &chunk in chunks {
        h = mix(h ^ u64::from_le_bytes(chunk));
    }
    let tail = match *rest {
        [] => 0,
        [a] => a as u64,
        [a, b] => u16::from_le_bytes([a, b]) as u64,
        [a, b, c] => u32::from_le_bytes([a, b, c, 0]) as u64,
        [a, b, c, d, ref more @ ..] => {
            let high = more.iter().rev().fold(0, |high, &byte| high << 8 | byte as u64);
            u32::from_le_bytes([a, b, c, d]) as u64 | high << 32
        }
    };
    mix(mix(h ^ tail))
}

/// Hash of an ordered pair, from the hashes of its parts.
#[inline]
pub(crate) fn hash_pair(left: u64, right: u64) -> u64 {
    mix(mix(left) ^ right)
}
