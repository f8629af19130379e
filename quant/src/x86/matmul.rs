//! Matrix products: one shape for one token, small batches and prefill.
//!
//! ```text
//! for each tile of up to 128 tokens:
//!     panel[g][t] = 32 activations of group g, their scale, and what the format adds for them      (Side)
//!     for each LANES rows of the weights:
//!         acc[t] = 0                                                           (one row per lane)
//!         for each block column:
//!             copy the block's scales of the column after next side by side    (Weights::gather)
//!             for each group g of 32 columns, unpacked into 8 registers:       (weights.rs)
//!                 ask for a few cache lines that lie LANES rows ahead
//!                 for each token:
//!                     dot = side + Σ_j w[j] · (bytes 4j.. of panel[g][t], in every lane)
//!                     acc[t] += scale · (scale of panel[g][t]) · dot
//!         out[t][rows] = acc[t]
//! ```
//! Which rows share a group of lanes depends on the number of tokens: see [`blocks`]. Weights are read once per 128 tokens and unpacked straight into registers; nothing is summed across lanes. Every
//! row and token is summed in the order of its columns, so a result does not depend on the other rows, on the number
//! of tokens or on the instruction set.

use super::simd::{Rows, Simd};
use super::weights::{Side, Weights};
use crate::Format;
use crate::act::{ActKind, Acts};
use crate::share::OutTile;
use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use core::marker::PhantomData;

/// Tokens that one unpacking serves.
const TILE: usize = 128;

/// Up to so many tokens, reading the weights takes longer than multiplying them.
const FEW: usize = 8;

/// Where unpacked groups go: all tokens of a tile.
pub(super) struct Sink<S: Simd> {
    tokens: usize,
    /// `[groups, tokens]` of [`entry`]s.
    panel: *const u8,
    /// `[tokens, LANES]`.
    acc: *mut f32,
    /// Weights to ask for next, and how many bytes at each group.
    ahead: *const u8,
    step: usize,
    lanes: PhantomData<S>,
}

/// Bytes of one token and group in the panel: 32 activations, their scale f32, one or two of the side's u32.
const fn entry(sides: usize) -> usize {
    36 + 4 * sides
}

/// What a group of 32 columns does to the tokens of a tile, several at a time.
trait Group<S: Simd> {
    /// Values of the side in an entry of the panel.
    const SIDES: usize;

    /// Adds this group to the accumulators of `T` tokens, whose entries and accumulators follow one another.
    ///
    /// # Safety
    /// `T` entries of this group must be at `from`, `T` accumulators at `acc`; the conditions of [`super::simd`].
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32);
}

/// See [`super::weights`] for the meaning of the arguments.
///
/// Safety of all these functions: `g` must be a group of the row; the conditions of [`super::simd`].
impl<S: Simd> Sink<S> {
    /// Asks for the next weights: a few lines at every group, since a burst of them finds no room among the outstanding
    /// misses. They go to the second level, which holds more misses and does not lose the rows that are being read.
    #[inline(always)]
    fn ask(&mut self) {
        let mut line = 0;
        while line < self.step {
            // SAFETY: a prefetch never faults, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.ahead.wrapping_add(line).cast()) };
            line += 64;
        }
        self.ahead = self.ahead.wrapping_add(self.step);
    }

    /// All tokens: by fours (by twos where there are 16 registers only), so that the sums of one token do not wait for
    /// each other, then one by one.
    #[inline(always)]
    unsafe fn each<G: Group<S>>(&mut self, g: usize, group: &G) {
        self.ask();
        // SAFETY: inside the panel and the accumulators, which `blocks` has sized.
        unsafe {
            let mut from = self.panel.add(g * self.tokens * entry(G::SIDES));
            let mut acc = self.acc;
            let mut left = self.tokens;
            let together = if S::LANES == 16 { 4 } else { 2 };
            while left >= together {
                if S::LANES == 16 {
                    group.add::<4>(from, acc)
                } else {
                    group.add::<2>(from, acc)
                }
                from = from.wrapping_add(together * entry(G::SIDES));
                acc = acc.wrapping_add(together * S::LANES);
                left -= together;
            }
            while left > 0 {
                group.add::<1>(from, acc);
                from = from.wrapping_add(entry(G::SIDES));
                acc = acc.wrapping_add(S::LANES);
                left -= 1;
            }
        }
    }

    /// One scale, an offset in the side.
    #[inline(always)]
    pub unsafe fn group<const MAX: i32>(&mut self, g: usize, w: &[S::I; 8], scale: S::F) {
        unsafe { self.each(g, &Offset::<S, MAX> { w, scale }) }
    }

    /// The same for signed weights.
    #[inline(always)]
    pub unsafe fn group_signed(&mut self, g: usize, w: &[S::I; 8], scale: S::F) {
        unsafe { self.each(g, &Signed::<S> { w, scale }) }
    }

    /// One scale and minimum.
    #[inline(always)]
    pub unsafe fn group_min<const MAX: i32>(&mut self, g: usize, w: &[S::I; 8], scale: S::F, min: S::F) {
        unsafe { self.each(g, &Min::<S, MAX> { w, scale, min }) }
    }

    /// Two scales, offsets in the side.
    #[inline(always)]
    pub unsafe fn group16<const MAX: i32>(&mut self, g: usize, w: &[S::I; 8], scale: [S::F; 2]) {
        unsafe { self.each(g, &Offset16::<S, MAX> { w: halves(w), scale }) }
    }

    /// Two scales and minima.
    #[inline(always)]
    pub unsafe fn group16_min<const MAX: i32>(&mut self, g: usize, w: &[S::I; 8], scale: [S::F; 2], min: [S::F; 2]) {
        unsafe { self.each(g, &Min16::<S, MAX> { w: halves(w), scale, min }) }
    }
}

#[inline(always)]
fn halves<T: Copy>(w: &[T; 8]) -> [[T; 4]; 2] {
    [[w[0], w[1], w[2], w[3]], [w[4], w[5], w[6], w[7]]]
}

/// The scale of the activations in an entry, in every lane.
#[inline(always)]
unsafe fn by<S: Simd>(entry: *const u8) -> S::F {
    // SAFETY: as for [`Group::add`].
    unsafe { S::splat_f(*entry.add(32).cast::<f32>()) }
}

/// The `i`-th value of the side in an entry, as an integer, in every lane.
#[inline(always)]
unsafe fn side<S: Simd>(entry: *const u8, i: usize) -> S::I {
    // SAFETY: as for [`Group::add`].
    unsafe { S::splat(*entry.add(36 + 4 * i).cast::<i32>()) }
}

/// The same as a float.
#[inline(always)]
unsafe fn side_f<S: Simd>(entry: *const u8, i: usize) -> S::F {
    // SAFETY: as for [`Group::add`].
    unsafe { S::splat_f(*entry.add(36 + 4 * i).cast::<f32>()) }
}

struct Offset<'w, S: Simd, const MAX: i32> {
    w: &'w [S::I; 8],
    scale: S::F,
}

// SAFETY (of the blocks in this and the next four): the conditions of [`Group::add`].
impl<S: Simd, const MAX: i32> Group<S> for Offset<'_, S, MAX> {
    const SIDES: usize = 1;

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            let mut dot = [S::splat(0); T];
            for (t, dot) in dot.iter_mut().enumerate() {
                *dot = side::<S>(from.add(t * entry(1)), 0);
            }
            let dot = S::dot::<T, 8, MAX>(dot, self.w, from.cast(), entry(1));
            for (t, dot) in dot.into_iter().enumerate() {
                let at = acc.add(t * S::LANES);
                let scale = S::mulf(self.scale, by::<S>(from.add(t * entry(1))));
                S::store_f(at, S::fma(S::to_f(dot), scale, S::load_f(at)));
            }
        }
    }
}

struct Signed<'w, S: Simd> {
    w: &'w [S::I; 8],
    scale: S::F,
}

impl<S: Simd> Group<S> for Signed<'_, S> {
    const SIDES: usize = 1;

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            let mut dot = [S::splat(0); T];
            for (t, dot) in dot.iter_mut().enumerate() {
                *dot = side::<S>(from.add(t * entry(1)), 0);
            }
            let dot = S::dot_signed::<T, 8>(dot, self.w, from.cast(), entry(1));
            for (t, dot) in dot.into_iter().enumerate() {
                let at = acc.add(t * S::LANES);
                let scale = S::mulf(self.scale, by::<S>(from.add(t * entry(1))));
                S::store_f(at, S::fma(S::to_f(dot), scale, S::load_f(at)));
            }
        }
    }
}

struct Min<'w, S: Simd, const MAX: i32> {
    w: &'w [S::I; 8],
    scale: S::F,
    min: S::F,
}

impl<S: Simd, const MAX: i32> Group<S> for Min<'_, S, MAX> {
    const SIDES: usize = 1;

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            let dot = S::dot::<T, 8, MAX>([S::splat(0); T], self.w, from.cast(), entry(1));
            for (t, dot) in dot.into_iter().enumerate() {
                let (token, at) = (from.add(t * entry(1)), acc.add(t * S::LANES));
                let sum = S::fma(S::to_f(dot), S::mulf(self.scale, by::<S>(token)), S::load_f(at));
                S::store_f(at, S::fma(self.min, side_f::<S>(token, 0), sum));
            }
        }
    }
}

struct Offset16<S: Simd, const MAX: i32> {
    w: [[S::I; 4]; 2],
    scale: [S::F; 2],
}

impl<S: Simd, const MAX: i32> Group<S> for Offset16<S, MAX> {
    const SIDES: usize = 2;

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            let mut dot = [[S::splat(0); T]; 2];
            for t in 0..T {
                dot[0][t] = side::<S>(from.add(t * entry(2)), 0);
                dot[1][t] = side::<S>(from.add(t * entry(2)), 1);
            }
            let first = S::dot::<T, 4, MAX>(dot[0], &self.w[0], from.cast(), entry(2));
            let second = S::dot::<T, 4, MAX>(dot[1], &self.w[1], from.add(16).cast(), entry(2));
            for (t, (first, second)) in first.into_iter().zip(second).enumerate() {
                let at = acc.add(t * S::LANES);
                let sum = S::fma(S::to_f(second), self.scale[1], S::mulf(S::to_f(first), self.scale[0]));
                S::store_f(at, S::fma(sum, by::<S>(from.add(t * entry(2))), S::load_f(at)));
            }
        }
    }
}

struct Min16<S: Simd, const MAX: i32> {
    w: [[S::I; 4]; 2],
    scale: [S::F; 2],
    min: [S::F; 2],
}

impl<S: Simd, const MAX: i32> Group<S> for Min16<S, MAX> {
    const SIDES: usize = 2;

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            let zero = [S::splat(0); T];
            let first = S::dot::<T, 4, MAX>(zero, &self.w[0], from.cast(), entry(2));
            let second = S::dot::<T, 4, MAX>(zero, &self.w[1], from.add(16).cast(), entry(2));
            for (t, (first, second)) in first.into_iter().zip(second).enumerate() {
                let (token, at) = (from.add(t * entry(2)), acc.add(t * S::LANES));
                let sum = S::fma(S::to_f(second), self.scale[1], S::mulf(S::to_f(first), self.scale[0]));
                let sum = S::fma(sum, by::<S>(token), S::load_f(at));
                let sum = S::fma(self.min[0], side_f::<S>(token, 0), sum);
                S::store_f(at, S::fma(self.min[1], side_f::<S>(token, 1), sum));
            }
        }
    }
}

/// Scales copied ahead: four columns of at most 8 bytes per lane.
const HEADS: usize = 4;

/// Bytes of scratch for `Kernels::matmul`: heads, accumulators and the panel of a tile of tokens.
pub(super) fn scratch<S: Simd>(format: Format, cols: usize, tokens: usize) -> usize {
    if ActKind::of(format) == ActKind::F32 {
        return 0;
    }
    let tokens = tokens.min(TILE);
    (HEADS * S::LANES * 8 + tokens * S::LANES * 4 + tokens * cols.div_ceil(32) * entry(2)).div_ceil(64) * 64
}

/// Fills the panel, whose entries have `SIDES` of the side.
///
/// # Safety
/// The panel must have room for all groups and tokens.
#[inline(always)]
unsafe fn fill<const SIDES: usize>(panel: *mut u8, kind: Side, acts: &Acts, first: usize, tokens: usize) {
    let shift = if acts.kind == ActKind::Q8K { 3 } else { 0 };
    let stride = acts.kind.stride(acts.cols);
    let (qs, scales, sums) = (acts.qs(first), acts.scales(first), acts.sums(first));
    // SAFETY: token `first + t`'s record lies `t · stride` after token `first`'s; the entry is in the panel.
    unsafe {
        let mut to = panel;
        for g in 0..acts.cols / 32 {
            for t in 0..tokens {
                let q = qs.as_ptr().add(32 * g).byte_add(t * stride);
                core::ptr::copy_nonoverlapping(q.cast(), to, 32);
                let scale = *scales.as_ptr().add(g >> shift).byte_add(t * stride);
                let sums = sums.as_ptr().add(2 * g).byte_add(t * stride);
                let (a, b) = (*sums as i32, *sums.add(1) as i32);
                to.add(32).cast::<f32>().write(scale);
                let side = to.add(36).cast::<u32>();
                match kind {
                    Side::Offset(by) => side.write((-by * (a + b)) as u32),
                    Side::Min => side.write((scale * (a + b) as f32).to_bits()),
                    Side::Offset16(by) => {
                        side.write((-by * a) as u32);
                        side.add(1).write((-by * b) as u32);
                    }
                    Side::Min16 => {
                        side.write((scale * a as f32).to_bits());
                        side.add(1).write((scale * b as f32).to_bits());
                    }
                }
                to = to.add(entry(SIDES));
            }
        }
    }
}

/// The product of one format. See the head of the file.
///
/// # Safety
/// The shapes that `Kernels::matmul` checks; the conditions of [`super::simd`].
#[inline(always)]
pub(super) unsafe fn blocks<S: Simd, W: Weights<S>>(w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
    let rows = out.rows().len();
    let blocks = acts.cols / (32 * W::GROUPS);
    let row_bytes = blocks * W::BYTES;
    // With few tokens the memory sets the pace. Then each lane walks a range of rows of its own: so many streams, each in
    // order, are what the prefetchers like best, and page walks overlap. With many tokens the lanes' rows lie side by
    // side, as the results do, and the next ones are asked for; their first blocks are wanted all at once, and then some.
    let far = if acts.tokens <= FEW { rows / S::LANES } else { 0 };
    let distance = S::LANES * row_bytes + (S::LANES * row_bytes).min(16 << 10);
    let mut first = 0;
    while first < acts.tokens {
        let tokens = (acts.tokens - first).min(TILE);
        let heads = scratch.as_mut_ptr();
        // SAFETY: `scratch` has room for the heads, the accumulators and the panel after them.
        let acc: *mut f32 = unsafe { heads.add(HEADS * S::LANES * 8).cast() };
        let panel: *mut u8 = unsafe { acc.add(tokens * S::LANES).cast() };
        let step = if far > 0 { 0 } else { W::BYTES * S::LANES / W::GROUPS };
        let mut sink = Sink::<S> { tokens, panel, acc, ahead: w.as_ptr(), step, lanes: PhantomData };
        unsafe {
            match W::SIDE {
                Side::Offset(_) | Side::Min => fill::<1>(panel, W::SIDE, acts, first, tokens),
                Side::Offset16(_) | Side::Min16 => fill::<2>(panel, W::SIDE, acts, first, tokens),
            }
        }
        let mut r = 0;
        while r < rows {
            // The first row, how far the lanes' rows are apart, and how many rows this is. The last group reaches back to
            // rows that were done already; with less than a group of rows, all lanes work on one row.
            let (from, apart, count) = if rows < S::LANES {
                (r, 0, 1)
            } else if r / S::LANES < far {
                (r / S::LANES, far, S::LANES)
            } else {
                (r.min(rows - S::LANES), 1, S::LANES)
            };
            let stride = apart * row_bytes;
            unsafe {
                for t in 0..tokens {
                    S::store_f(acc.add(t * S::LANES), S::splat_f(0.0));
                }
                let mut at = Rows { at: w.as_ptr().add(from * row_bytes), stride };
                sink.ahead = at.at.wrapping_add(distance);
                let head = |b: usize| heads.add(b % HEADS * S::LANES * 8);
                for b in 0..blocks.min(2) {
                    W::gather(Rows { at: at.at.add(b * W::BYTES), stride }, head(b));
                }
                for b in 0..blocks {
                    if b + 2 < blocks {
                        W::gather(Rows { at: at.at.add(2 * W::BYTES), stride }, head(b + 2));
                    }
                    W::block(at, b * W::GROUPS, head(b), &mut sink);
                    at.at = at.at.wrapping_add(W::BYTES);
                }
                for t in 0..tokens {
                    let to = out.row_ptr(first + t).add(from);
                    let sum = S::load_f(acc.add(t * S::LANES));
                    match apart {
                        0 => S::store_part(to, 1, sum),
                        1 => S::store_f(to, sum),
                        _ => S::store_apart(to, apart, sum),
                    }
                }
            }
            r += count;
        }
        first += tokens;
    }
}

/// Writes `matmul` for one instruction set.
macro_rules! dispatch {
    ($simd:ty, $features:literal) => {
        /// See [`crate::Kernels::matmul`].
        #[target_feature(enable = $features)]
        pub(super) unsafe fn matmul(format: Format, w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
            use $crate::x86::dense;
            use $crate::x86::matmul::blocks;
            use $crate::x86::weights::*;
            /// One function per format, so that each gets its own registers.
            macro_rules! one {
                ($path:expr) => {{
                    #[target_feature(enable = $features)]
                    unsafe fn call(w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
                        // SAFETY: the features are on, and the shapes are those that `Kernels::matmul` checks.
                        unsafe { $path(w, acts, out, scratch) }
                    }
                    // SAFETY: the same features as this function's.
                    unsafe { call(w, acts, out, scratch) }
                }};
            }
            match format {
                Format::F32 => one!(dense::product::<$simd, dense::F32>),
                Format::F16 => one!(dense::product::<$simd, dense::F16>),
                Format::BF16 => one!(dense::product::<$simd, dense::Bf16>),
                Format::Q4_0 => one!(blocks::<$simd, Q4_0>),
                Format::Q4_1 if Format::Q4_1.is_built() => one!(blocks::<$simd, Q4_1>),
                Format::Q5_0 if Format::Q5_0.is_built() => one!(blocks::<$simd, Q5_0>),
                Format::Q5_1 if Format::Q5_1.is_built() => one!(blocks::<$simd, Q5_1>),
                Format::Q8_0 => one!(blocks::<$simd, Q8_0>),
                Format::Q2_K if Format::Q2_K.is_built() => one!(blocks::<$simd, Q2K>),
                Format::Q3_K if Format::Q3_K.is_built() => one!(blocks::<$simd, Q3K>),
                Format::Q4_K if Format::Q4_K.is_built() => one!(blocks::<$simd, Q4K>),
                Format::Q5_K if Format::Q5_K.is_built() => one!(blocks::<$simd, Q5K>),
                Format::Q6_K if Format::Q6_K.is_built() => one!(blocks::<$simd, Q6K>),
                Format::IQ4_NL if Format::IQ4_NL.is_built() => one!(blocks::<$simd, Iq4Nl>),
                Format::IQ4_XS if Format::IQ4_XS.is_built() => one!(blocks::<$simd, Iq4Xs>),
                // `Kernels::matmul` lets no other through.
                _ => {}
            }
        }
    };
}
pub(super) use dispatch;
