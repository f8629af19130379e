//! Attention of one batch over one layer's cache.
//!
//! A task is one KV head, with the query heads that share it, for a few tokens. A single token's context is cut into
//! splits of [`SPLIT`] slots, so that there is work for every core when heads are few; each split leaves its maximum,
//! sum and output, merged in order. The cut depends on positions only, never on the number of workers. A worker takes
//! successive splits of a head, so that what it has asked of memory ahead is its own.

use crate::angles::{Angles, At};
use crate::arena::Arena;
use crate::kv::{KvShape, Run};
use crate::plan::Config;
use crate::quant::{AttendState, Chunks, Kernels, KvFormat, KvRun, Tiles};
use crate::recipe::{Layer, Recipe};
use crate::team::Team;

/// Most query vectors in one task.
pub(crate) const MAX_QUERIES: usize = 192;

/// What a plan says of a recipe with more query heads for a key/value head.
pub(crate) const TOO_MANY_QUERIES: &str = "more than 192 query heads for a key/value head";

/// Query vectors of a task that a long batch is cut down to, so that there are [`TASKS`].
const TILE_QUERIES: usize = 32;

/// Tasks that keep the workers of a small computer busy to the end.
const TASKS: usize = 8;

/// Slots of one split.
const SPLIT: u32 = 512;

fn group(recipe: &Recipe) -> usize {
    (recipe.heads / recipe.kv_heads.max(1)) as usize
}

/// Tokens of a task.
fn tile_tokens(recipe: &Recipe, n: usize) -> usize {
    // Few tokens (speculation): one each, so that every core has a task.
    if n <= 8 {
        return 1;
    }
    // The more queries share a tile of keys and values, the less it costs to widen it.
    let (least, most) = ((TILE_QUERIES / group(recipe)).max(1), (MAX_QUERIES / group(recipe)).max(1));
    (n * recipe.kv_heads as usize).div_ceil(TASKS).clamp(least, most)
}

/// Bytes of scratch that one worker needs for batches of up to `batch` tokens.
pub(crate) fn scratch_bytes(recipe: &Recipe, kernels: &Kernels, batch: usize) -> usize {
    let (kd, vd) = (recipe.key_dim as usize, recipe.value_dim as usize);
    let queries = tile_tokens(recipe, batch) * group(recipe);
    [queries * kd, queries, queries, queries * vd, kernels.attend_scratch(queries, kd, vd)]
        .iter()
        .map(|n| Arena::cost(4 * *n as u64) as usize)
        .sum()
}

fn splits(slots: u32) -> usize {
    // Each of at most three runs may end in a short split.
    slots.div_ceil(SPLIT) as usize + 2
}

/// Floats of the splits' partial results.
pub(crate) fn partial_len(recipe: &Recipe, config: &Config) -> u64 {
    let slots = config.ctx.saturating_add(config.batch);
    splits(slots) as u64 * recipe.heads as u64 * (recipe.value_dim as u64 + 2)
}

/// One layer's attention, ready to run.
pub(crate) struct Attention<'s> {
    pub recipe: &'s Recipe,
    pub layer: Layer,
    pub shape: KvShape,
    pub format: KvFormat,
    pub kernels: &'s Kernels,
    pub angles: &'s Angles<'s>,
    /// This layer's part of the cache.
    pub cache: &'s [u8],
    /// `[tokens, heads · key_dim]`, biased and normed, not rotated.
    pub q: &'s [f32],
    /// Position of the batch's first token.
    pub first: u64,
    /// Tokens of the batch.
    pub n: usize,
}

impl Attention<'_> {
    /// Attends, into `out` `[tokens, heads · value_dim]`. `scratch` holds `each` bytes for each worker.
    pub fn run(&self, team: &dyn Team, scratch: &mut [u8], each: usize, partial: &mut [f32], out: &mut [f32]) {
        let runs = self.shape.runs(self.first..self.first + self.n as u64);
        if self.n == 1 && runs.iter().map(|r| r.len).sum::<u32>() > SPLIT {
            return self.run_split(team, scratch, each, partial, out, &runs);
        }
        let width = self.recipe.heads as usize * self.recipe.value_dim as usize;
        let one = group(self.recipe) * self.recipe.value_dim as usize;
        let Some(tiles) = Tiles::new(out, self.n, width, 0, width, one) else { return };
        let tiles = tiles.by_tokens(tile_tokens(self.recipe, self.n));
        let slots = Chunks::new(scratch, each);
        team.run(&|_| {
            let Some((_, scratch)) = slots.claim() else { return };
            while let Some(mut tile) = tiles.claim() {
                let head = tile.rows().start / one;
                let tokens = tile.token_range();
                self.task(head, tokens.start, tokens.len(), &runs, scratch, &mut |t, state| {
                    let per = state.sum.len() / tokens.len();
                    let row = tile.row_mut(t);
                    let dim = row.len() / per;
                    for (g, o) in row.chunks_exact_mut(dim).enumerate() {
                        let i = t * per + g;
                        finish(o, &state.acc[i * dim..][..dim], state.sum[i]);
                    }
                });
            }
        });
    }

    /// The same for one token whose context is long.
    fn run_split(
        &self,
        team: &dyn Team,
        scratch: &mut [u8],
        each: usize,
        partial: &mut [f32],
        out: &mut [f32],
        runs: &[Run; 3],
    ) {
        let dim = self.recipe.value_dim as usize;
        let kv_heads = self.recipe.kv_heads as usize;
        let one = group(self.recipe) * (dim + 2);
        let count: usize = runs.iter().map(|r| r.len.div_ceil(SPLIT) as usize).sum();
        let Some(partial) = partial.get_mut(..count * kv_heads * one) else { return };
        let parts = Chunks::new(partial, one);
        let slots = Chunks::new(scratch, each);
        team.run(&|_| {
            let Some((_, scratch)) = slots.claim() else { return };
            while let Some((first, some)) = parts.claim_tapering(team.workers()) {
                for (i, part) in (first..).zip(some.chunks_exact_mut(one)) {
                    let piece = [nth_split(runs, i % count), Run::default(), Run::default()];
                    self.task(i / count, 0, 1, &piece, scratch, &mut |_, state| {
                        for (g, p) in part.chunks_exact_mut(dim + 2).enumerate() {
                            p[0] = state.max[g];
                            p[1] = state.sum[g];
                            p[2..].copy_from_slice(&state.acc[g * dim..][..dim]);
                        }
                    });
                }
            }
        });
        let group = group(self.recipe);
        for (h, o) in out.chunks_exact_mut(dim).take(self.recipe.heads as usize).enumerate() {
            let part = |s: usize| &partial[(h / group * count + s) * one + h % group * (dim + 2)..][..dim + 2];
            let max = (0..count).fold(f32::NEG_INFINITY, |m, s| m.max(part(s)[0]));
            let mut sum = 0.0;
            o.fill(0.0);
            for s in 0..count {
                let p = part(s);
                let scale = if p[1] > 0.0 { libm::expf(p[0] - max) } else { 0.0 };
                sum += p[1] * scale;
                self.kernels.add_scaled(o, &p[2..], scale);
            }
            let inverse = if sum > 0.0 { 1.0 / sum } else { 0.0 };
            o.iter_mut().for_each(|v| *v *= inverse);
        }
    }

    /// One task: KV head `head`, tokens `first..first + n` of the batch, over `runs`. Calls `done(token, state)` for each token
    /// of the task, counted from 0.
    fn task(
        &self,
        head: usize,
        first: usize,
        n: usize,
        runs: &[Run; 3],
        scratch: &mut [u8],
        done: &mut dyn FnMut(usize, &AttendState),
    ) {
        let (kd, vd) = (self.recipe.key_dim as usize, self.recipe.value_dim as usize);
        let group = group(self.recipe);
        let queries = n * group;
        let mut memory = Arena::new(scratch);
        let (Ok(q), Ok(max), Ok(sum), Ok(acc), Ok(work)) = (
            memory.take::<f32>(queries * kd),
            memory.take::<f32>(queries),
            memory.take::<f32>(queries),
            memory.take::<f32>(queries * vd),
            memory.take::<f32>(self.kernels.attend_scratch(queries, kd, vd)),
        ) else {
            return;
        };
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        acc.fill(0.0);
        let mut state = AttendState { max, sum, acc };
        let mut rotated = None;
        for run in runs.iter().filter(|r| r.len > 0) {
            let at = if run.sinks { At::Cache } else { At::Text };
            if rotated != Some(at) {
                self.gather(head, first, n, at, q);
                rotated = Some(at);
            }
            let mut visible = [(0, 0); MAX_QUERIES];
            for (i, v) in visible[..queries].iter_mut().enumerate() {
                *v = self.shape.visible(run, self.first + (first + i / group) as u64);
            }
            self.kernels.attend(
                q,
                &self.cached(head, run),
                &visible[..queries],
                self.recipe.attention_soft_cap,
                &mut state,
                work,
            );
        }
        for t in 0..n {
            done(t, &state);
        }
    }

    /// Copies, rotates and scales the queries of a task, `[tokens · group, key_dim]`.
    fn gather(&self, head: usize, first: usize, n: usize, at: At, out: &mut [f32]) {
        let kd = self.recipe.key_dim as usize;
        let group = group(self.recipe);
        let width = self.recipe.heads as usize * kd;
        for (t, out) in out.chunks_exact_mut(group * kd).take(n).enumerate() {
            out.copy_from_slice(&self.q[(first + t) * width + head * group * kd..][..group * kd]);
            for q in out.chunks_exact_mut(kd) {
                if let Some(rope) = self.layer.rope {
                    let (cos, sin) = self.angles.of(rope, at, first + t);
                    self.kernels.rope(self.recipe.ropes[rope].kind, q, cos, sin);
                }
                q.iter_mut().for_each(|v| *v *= self.recipe.attention_scale);
            }
        }
    }

    /// The cached keys and values of a run.
    fn cached(&self, head: usize, run: &Run) -> KvRun<'_> {
        let s = &self.shape;
        let slots = s.slots().max(1) as u64;
        let part = |base: u64, head_bytes: u64| {
            let slot_bytes = head_bytes / slots;
            let start = base + head as u64 * head_bytes + run.slot as u64 * slot_bytes;
            &self.cache[start as usize..][..(run.len as u64 * slot_bytes) as usize]
        };
        let values_at = s.key_head_bytes * self.recipe.kv_heads as u64;
        KvRun {
            keys: part(0, s.key_head_bytes),
            values: part(values_at, s.value_head_bytes),
            format: self.format,
            slots: run.len as usize,
        }
    }
}

/// The `i`-th split of the runs.
fn nth_split(runs: &[Run; 3], mut i: usize) -> Run {
    for run in runs {
        let here = run.len.div_ceil(SPLIT) as usize;
        if i < here {
            let skip = i as u32 * SPLIT;
            return Run {
                slot: run.slot + skip,
                position: run.position + skip as u64,
                len: SPLIT.min(run.len - skip),
                sinks: run.sinks,
            };
        }
        i -= here;
    }
    Run::default()
}

fn finish(out: &mut [f32], acc: &[f32], sum: f32) {
    let inverse = if sum > 0.0 { 1.0 / sum } else { 0.0 };
    for (o, a) in out.iter_mut().zip(acc) {
        *o = a * inverse;
    }
}
