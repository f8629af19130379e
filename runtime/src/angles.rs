//! Cosines and sines of a batch's rotary angles, computed once per batch and shared by all layers.
//!
//! Angles are computed in f64: a position times a frequency keeps its fraction of a turn however long a session runs.

use crate::recipe::{Recipe, Rope};

/// Which position a vector is rotated at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Its position in the text.
    Text,
    /// Its position in the cache, for queries against the sinks.
    Cache,
}

fn pairs(rope: &Rope) -> usize {
    rope.dims as usize / 2
}

/// Length of the frequency table (f64): both ropes' pairs.
pub(crate) fn frequency_len(recipe: &Recipe) -> u64 {
    recipe.ropes.iter().map(|r| pairs(r) as u64).sum()
}

/// Length of the angle table (f32) of a batch: cosines and sines, for both ropes and both positions.
pub(crate) fn table_len(recipe: &Recipe, batch: u32) -> u64 {
    4 * batch as u64 * frequency_len(recipe)
}

/// Fills the frequency table. `factors` divides the frequencies of the ropes that want it, as f32 bytes `[pairs]`.
pub(crate) fn fill_frequencies(recipe: &Recipe, factors: &[u8], out: &mut [f64]) {
    let mut rest = out;
    for rope in &recipe.ropes {
        let (mine, others) = rest.split_at_mut(pairs(rope));
        for (i, f) in mine.iter_mut().enumerate() {
            let factor = match factors.get(4 * i..4 * i + 4) {
                Some(b) if rope.factors != crate::recipe::RopeFactors::None => {
                    f32::from_le_bytes([b[0], b[1], b[2], b[3]])
                }
                _ => 1.0,
            };
            *f = rope.frequency(i as u32, factor);
        }
        rest = others;
    }
}

/// The angles of one batch.
pub(crate) struct Angles<'s> {
    table: &'s [f32],
    batch: usize,
    pairs: [usize; 2],
}

impl<'s> Angles<'s> {
    /// Computes the angles of the tokens at `first..first + n`. Queries' in-cache positions end at `ctx - 1`.
    pub fn fill(
        recipe: &Recipe,
        frequencies: &[f64],
        table: &'s mut [f32],
        batch: u32,
        ctx: u32,
        first: u64,
        n: usize,
    ) -> Angles<'s> {
        let pairs = [pairs(&recipe.ropes[0]), pairs(&recipe.ropes[1])];
        let mut f = frequencies;
        let mut rest = &mut *table;
        for (rope, pairs) in recipe.ropes.iter().zip(pairs) {
            let (mine, others) = f.split_at(pairs);
            f = others;
            for at in [At::Text, At::Cache] {
                let (part, others) = rest.split_at_mut(batch as usize * 2 * pairs);
                rest = others;
                for t in 0..n {
                    let p = first + t as u64;
                    let p = if at == At::Text { p } else { p.min(ctx as u64 - 1) };
                    let (cos, sin) = part[t * 2 * pairs..][..2 * pairs].split_at_mut(pairs);
                    for ((c, s), f) in cos.iter_mut().zip(sin).zip(mine) {
                        let (sine, cosine) = libm::sincos(p as f64 * f);
                        *c = cosine as f32 * rope.magnitude;
                        *s = sine as f32 * rope.magnitude;
                    }
                }
            }
        }
        Angles { table, batch: batch as usize, pairs }
    }

    /// Cosines and sines for token `t` of the batch.
    pub fn of(&self, rope: usize, at: At, t: usize) -> (&[f32], &[f32]) {
        let width = 2 * self.pairs[rope];
        let start = if rope == 0 { 0 } else { 2 * self.batch * 2 * self.pairs[0] };
        let start = start + if at == At::Text { 0 } else { self.batch * width };
        self.table[start + t * width..][..width].split_at(self.pairs[rope])
    }
}
