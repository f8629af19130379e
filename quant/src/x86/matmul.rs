//! Matrix products: one shape for one token, small batches and prefill.
//!
//! ```text
//! for each tile of up to 128 tokens:
//!     put their activations into a panel                                            (tile.rs)
//!     for each LANES rows of the weights:
//!         acc[t] = 0                                                                (one row per lane)
//!         for each block column:
//!             copy the block's scales of the column after next side by side         (Weights::gather)
//!             for each group of 32 columns, unpacked into 8 registers:              (weights.rs, kweights.rs)
//!                 for each token:                                                   (tile.rs)
//!                     dot = Σ_j w[j] · (four activations 4j.. of the group, in every lane)
//!                     blocks of 32:  acc[t] += scale · (scale of the activations) · (dot + side)
//!                     blocks of 256: sum[t] += scale · dot, and acc[t] += d · sum[t] + … at the block's end
//!         out[t][rows] = acc[t]
//! ```
//! Weights are read once per 128 tokens; nothing is summed across lanes. They are unpacked straight into registers, except
//! where registers are few and tokens many: there a block is unpacked into memory first (strip.rs). Every
//! row and token is summed in the order of its columns, so a result does not depend on the other rows or on the number
//! of tokens.

use super::ahead::{Ahead, ask_line};
use super::simd::{Rows, Simd};
use super::strip::{self, Strip, strip_bytes};
use super::tile::{self, Direct, Sink};
use super::weights::Weights;
use crate::Format;
use crate::act::{ActKind, Acts};
use crate::share::OutTile;
use core::ops::Range;

/// Tokens that one unpacking serves.
const TILE: usize = 128;

/// Up to so many tokens, reading the weights takes longer than multiplying them.
const FEW: usize = 8;

/// Bytes of a stream that are asked for ahead: what memory takes to answer, and a row's end is the next one's start.
const AHEAD: usize = 640;

/// Lines to ask for at each group, so that every lane's turn comes once in 64 bytes of its stream, or nearly: a lead of
/// [`AHEAD`] lasts for a row that is read by a sixteenth faster.
const fn lines<S: Simd, W: Weights<S>>() -> usize {
    let group = W::BYTES / W::GROUPS;
    S::LANES.div_ceil((64 + group / 8) / group)
}

/// Scales copied ahead: four columns of at most 8 bytes per lane.
const HEADS: usize = 4;

/// Bytes of scratch for `Kernels::matmul`: strip, heads, accumulators and sums, and the panel of a tile of tokens.
pub(super) fn scratch<S: Simd>(format: Format, cols: usize, tokens: usize) -> usize {
    if ActKind::of(format) == ActKind::F32 {
        return 0;
    }
    let tokens = tokens.min(TILE);
    let panel = if S::STRIPS { strip::panel_bytes(cols) } else { tile::panel_bytes(cols) };
    (in_strips::<S>() + HEADS * S::LANES * 8 + 2 * tokens * S::LANES * 4 + tokens * panel).div_ceil(64) * 64
}

/// Bytes of the strip, a multiple of 64.
const fn in_strips<S: Simd>() -> usize {
    if S::STRIPS { strip_bytes::<S>() } else { 0 }
}

/// The product of one format. See the head of the file.
///
/// # Safety
/// The shapes that `Kernels::matmul` checks; the conditions of [`super::simd`].
#[inline(always)]
pub(super) unsafe fn blocks<S: Simd, W: Weights<S>>(w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
    let mut first = 0;
    while first < acts.tokens {
        let tokens = (acts.tokens - first).min(TILE);
        let strip_at = scratch.as_mut_ptr();
        // SAFETY: `scratch` has room for the strip, the heads, the accumulators, the sums and the panel after them.
        unsafe {
            let heads = strip_at.add(in_strips::<S>());
            let acc = heads.add(HEADS * S::LANES * 8).cast::<f32>();
            let panel = acc.add(2 * tokens * S::LANES).cast();
            if S::STRIPS && acts.tokens > FEW {
                let mut sink = Strip::<S>::fill(W::SIDE, acts, first, tokens, panel, acc, strip_at);
                rows::<S, W>(w, acts, first..first + tokens, out, heads, &mut sink)
            } else if tokens == 1 {
                let mut sink = Direct::<S, true>::fill(W::SIDE, acts, first, 1, panel, acc);
                rows::<S, W>(w, acts, first..first + 1, out, heads, &mut sink)
            } else {
                let mut sink = Direct::<S, false>::fill(W::SIDE, acts, first, tokens, panel, acc);
                rows::<S, W>(w, acts, first..first + tokens, out, heads, &mut sink)
            }
        }
        first += tokens;
    }
}

/// All rows with a tile of tokens.
///
/// # Safety
/// As for [`blocks`]; `heads` has room for [`HEADS`].
#[inline(always)]
unsafe fn rows<S: Simd, W: Weights<S>>(
    w: &[u8],
    acts: &Acts,
    tokens: Range<usize>,
    out: &mut OutTile,
    heads: *mut u8,
    sink: &mut impl Sink<S>,
) {
    let rows = out.rows().len();
    let blocks = acts.cols / (32 * W::GROUPS);
    let row_bytes = blocks * W::BYTES;
    // With few tokens the memory sets the pace. Then each lane walks a range of rows of its own: so many streams, each in
    // order, are what the prefetchers like best, and page walks overlap; what they bring comes too late for a core that
    // computes between its loads, so that each stream is asked for some lines ahead. With many tokens the lanes' rows lie
    // side by side, as the results do, and the next ones are asked for; their first blocks are wanted all at once, and then some.
    let far = if acts.tokens <= FEW { rows / S::LANES } else { 0 };
    let distance = S::LANES * row_bytes + (S::LANES * row_bytes).min(16 << 10);
    if far > 0 {
        // Where the streams begin nobody asked for them.
        for line in (0..AHEAD).step_by(64) {
            (0..S::LANES).for_each(|lane| ask_line(w.as_ptr().wrapping_add(lane * far * row_bytes + line)));
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
            let mut at = Rows { at: w.as_ptr().add(from * row_bytes), stride };
            sink.begin(match apart {
                0 => Ahead::Nothing,
                1 => Ahead::Side { at: at.at.wrapping_add(distance), step: W::BYTES * S::LANES / W::GROUPS },
                _ => Ahead::Apart { at: at.at.wrapping_add(AHEAD), stride, lane: 0, lines: lines::<S, W>() },
            });
            let head = |b: usize| heads.add(b % HEADS * S::LANES * 8);
            for b in 0..blocks.min(2) {
                W::gather(Rows { at: at.at.add(b * W::BYTES), stride }, head(b));
            }
            for b in 0..blocks {
                if b + 2 < blocks {
                    W::gather(Rows { at: at.at.add(2 * W::BYTES), stride }, head(b + 2));
                }
                W::block(at, b, head(b), sink);
                at.at = at.at.wrapping_add(W::BYTES);
            }
            for (t, token) in tokens.clone().enumerate() {
                let to = out.row_ptr(token).add(from);
                match apart {
                    0 => S::store_part(to, 1, sink.result(t)),
                    1 => S::store_f(to, sink.result(t)),
                    _ => S::store_apart(to, apart, sink.result(t)),
                }
            }
        }
        r += count;
    }
}

/// Writes `matmul` for one instruction set.
macro_rules! dispatch {
    ($simd:ty, $features:literal) => {
        /// See [`crate::Kernels::matmul`].
        #[target_feature(enable = $features)]
        pub(super) unsafe fn matmul(format: Format, w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
            use $crate::x86::dense;
            use $crate::x86::kweights::*;
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
