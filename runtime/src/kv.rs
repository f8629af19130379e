//! The KV ring: where each layer's keys and values lie, which of them a token sees.
//!
//! A layer keeps the first `sinks` tokens and a ring of the last ones. A position `p < sinks` lies in slot `p`,
//! another in slot `sinks + (p - sinks) % ring`. The ring is `batch - 1` slots longer than what a token may see, so that the
//! keys of a whole batch can be written before its first token looks back: what a token sees does not depend on how
//! the text was cut into batches.
//!
//! ```text
//! layer: keys [kv_heads, slots, key bytes] | values [kv_heads, slots, value bytes]
//! ```

use crate::plan::Config;
use crate::recipe::Recipe;
use core::ops::Range;

/// One layer's part of the cache. Plain data, kept in a table in the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct KvShape {
    /// First byte of the layer's part.
    pub offset: u64,
    /// Bytes of one key head's slots together.
    pub key_head_bytes: u64,
    /// Bytes of one value head's slots together.
    pub value_head_bytes: u64,
    /// First positions that are never overwritten.
    pub sinks: u32,
    /// Slots after the sinks.
    pub ring: u32,
    /// Positions that a token sees, itself and the sinks included.
    pub window: u32,
    /// Padding.
    pub zero: u32,
}

/// A contiguous run of slots holding successive positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// First slot.
    pub slot: u32,
    /// Position in the first slot.
    pub position: u64,
    /// Number of slots.
    pub len: u32,
    /// Whether the queries of this run are rotated at their in-cache position.
    pub sinks: bool,
}

impl KvShape {
    /// Layer `i`'s shape, its part beginning at byte `offset`.
    pub fn of(recipe: &Recipe, config: &Config, i: u32, offset: u64) -> Option<KvShape> {
        let (window, sinks) = match recipe.layer(i).window {
            // A window that slides was trained without sinks.
            Some(w) if w < config.ctx => (w.max(1), 0),
            _ => (config.ctx, config.sinks),
        };
        let ring = (window - sinks).checked_add(config.batch - 1)?;
        let slots = ring.checked_add(sinks)? as u64;
        let bytes = |dim: u32| slots.checked_mul(config.kv.head_bytes(dim as usize)? as u64);
        let (key_head_bytes, value_head_bytes) = (bytes(recipe.key_dim)?, bytes(recipe.value_dim)?);
        Some(KvShape { offset, key_head_bytes, value_head_bytes, sinks, ring, window, zero: 0 })
    }

    /// Bytes of this layer.
    pub fn bytes(&self, recipe: &Recipe) -> Option<u64> {
        let head = self.key_head_bytes.checked_add(self.value_head_bytes)?;
        head.checked_mul(recipe.kv_heads as u64)
    }

    /// Bytes of all layers.
    pub fn total(recipe: &Recipe, config: &Config) -> Option<u64> {
        (0..recipe.layers).try_fold(0u64, |sum, i| sum.checked_add(Self::of(recipe, config, i, sum)?.bytes(recipe)?))
    }

    /// Slots of one head.
    pub fn slots(&self) -> u32 {
        self.sinks + self.ring
    }

    /// The slot of a position.
    pub fn slot(&self, position: u64) -> u32 {
        if position < self.sinks as u64 {
            position as u32
        } else {
            self.sinks + ((position - self.sinks as u64) % self.ring as u64) as u32
        }
    }

    /// The first position of the ring that a token at `position` sees; sinks come before it.
    pub fn ring_start(&self, position: u64) -> u64 {
        (position + 1).saturating_sub((self.window - self.sinks) as u64).max(self.sinks as u64)
    }

    /// The runs that the tokens at `positions` see together, at most three; a run may hold more than one of them sees
    /// ([`KvShape::visible`] says what).
    pub fn runs(&self, positions: Range<u64>) -> [Run; 3] {
        let mut runs = [Run::default(); 3];
        let (first, end) = (positions.start, positions.end);
        if end <= first {
            return runs;
        }
        // While nothing has left the window, sinks and ring are one piece of text in successive slots.
        if end <= self.window as u64 {
            runs[0] = Run { slot: 0, position: 0, len: end as u32, sinks: false };
            return runs;
        }
        let start = self.ring_start(first);
        runs[0] = Run { slot: 0, position: 0, len: self.sinks, sinks: true };
        let slot = self.slot(start);
        let len = (end - start) as u32;
        let before_wrap = len.min(self.slots() - slot);
        runs[1] = Run { slot, position: start, len: before_wrap, sinks: false };
        runs[2] = Run { slot: self.sinks, position: start + before_wrap as u64, len: len - before_wrap, sinks: false };
        runs
    }

    /// The slots of `run`, counted from its first, that a token at `position` sees.
    pub fn visible(&self, run: &Run, position: u64) -> (u32, u32) {
        let count = |p: u64| p.saturating_sub(run.position).min(run.len as u64) as u32;
        let from = if run.sinks || position < self.window as u64 { 0 } else { count(self.ring_start(position)) };
        (from, count(position + 1).max(from))
    }

    /// Whether a session whose farthest position ever written is `end - 1` can go on from `position`, finding all
    /// that the next token sees still there.
    pub fn can_rewind(&self, position: u64, end: u64) -> bool {
        // Position p is overwritten once p + ring has been written.
        position <= self.sinks as u64 || self.ring_start(position) + self.ring as u64 >= end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    fn shape(window: u32, sinks: u32, batch: u32) -> KvShape {
        KvShape { window, sinks, ring: window - sinks + batch - 1, ..Default::default() }
    }

    /// The obvious model: a map from slot to the position last written there.
    #[test]
    fn runs_hold_what_a_token_may_see() {
        for (window, sinks, batch) in [(8, 2, 1), (8, 2, 3), (5, 0, 4), (6, 5, 2), (1, 0, 1), (16, 4, 16)] {
            let s = shape(window, sinks, batch);
            let mut held: Vec<Option<u64>> = std::vec![None; s.slots() as usize];
            let mut position = 0u64;
            for step in 0..200u64 {
                let n = 1 + (step * 7) % batch as u64;
                for p in position..position + n {
                    held[s.slot(p) as usize] = Some(p);
                }
                let runs = s.runs(position..position + n);
                for p in position..position + n {
                    let mut seen = Vec::new();
                    for run in &runs {
                        let (from, to) = s.visible(run, p);
                        for i in from..to {
                            assert_eq!(held[(run.slot + i) as usize], Some(run.position + i as u64));
                            seen.push(run.position + i as u64);
                        }
                    }
                    let recent = (p + 1).saturating_sub((window - sinks) as u64);
                    let expected: Vec<u64> = if p < window as u64 {
                        (0..=p).collect()
                    } else {
                        (0..sinks as u64).chain(recent.max(sinks as u64)..=p).collect()
                    };
                    assert_eq!(seen, expected, "window {window} sinks {sinks} batch {batch} position {p}");
                }
                position += n;
            }
        }
    }
}
