//! Matrix products with float weights: F32, F16, BF16.
//!
//! ```text
//! for each 4 tokens, for each 4 rows:
//!     acc[row][token] = 0                             (LANES partial sums each)
//!     for each LANES columns: acc[row][token] += w[row] · x[token]
//!     out[token][row] = sum of the lanes of acc
//! ```
//! Each row and token has its own partial sums, so a result does not depend on which others are in its tile.

use super::simd::Simd;
use crate::act::Acts;
use crate::share::OutTile;

/// A float format.
pub(super) trait Element {
    const BYTES: usize;
    /// # Safety
    /// `LANES` elements must be readable; the conditions of [`super::simd`].
    unsafe fn load<S: Simd>(at: *const u8) -> S::F;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

impl Element for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(at: *const u8) -> S::F {
        // SAFETY: the caller's duty; `load_f` takes any alignment.
        unsafe { S::load_f(at.cast()) }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(at: *const u8) -> S::F {
        // SAFETY: the caller's duty.
        unsafe { S::load_f16(at) }
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(at: *const u8) -> S::F {
        // SAFETY: the caller's duty.
        unsafe { S::load_bf16(at) }
    }
}

/// The sums of `R` rows by `T` tokens.
///
/// # Safety
/// The rows and tokens must be whole; the conditions of [`super::simd`].
#[inline(always)]
unsafe fn tile<S: Simd, E: Element, const R: usize, const T: usize>(
    w: [*const u8; R],
    x: [*const f32; T],
    cols: usize,
) -> [[f32; T]; R] {
    // SAFETY: every read stays inside a row or a token; the tail goes through a buffer.
    unsafe {
        let mut acc = [[S::splat_f(0.0); T]; R];
        let mut c = 0;
        while c + S::LANES <= cols {
            let mut part = [S::splat_f(0.0); R];
            for (part, w) in part.iter_mut().zip(w) {
                *part = E::load::<S>(w.add(c * E::BYTES));
            }
            for (t, x) in x.iter().enumerate() {
                let x = S::load_f(x.add(c));
                for (acc, w) in acc.iter_mut().zip(part) {
                    acc[t] = S::fma(w, x, acc[t]);
                }
            }
            c += S::LANES;
        }
        if c < cols {
            let mut part = [S::splat_f(0.0); R];
            for (part, w) in part.iter_mut().zip(w) {
                let mut last = [0u8; 64];
                core::ptr::copy_nonoverlapping(w.add(c * E::BYTES), last.as_mut_ptr(), (cols - c) * E::BYTES);
                *part = E::load::<S>(last.as_ptr());
            }
            for (t, x) in x.iter().enumerate() {
                let x = S::load_part(x.add(c), cols - c);
                for (acc, w) in acc.iter_mut().zip(part) {
                    acc[t] = S::fma(w, x, acc[t]);
                }
            }
        }
        let mut sums = [[0.0; T]; R];
        for (sums, acc) in sums.iter_mut().zip(acc) {
            for (sum, acc) in sums.iter_mut().zip(acc) {
                *sum = S::sum(acc);
            }
        }
        sums
    }
}

/// The product of one float format. See the head of the file.
///
/// # Safety
/// The shapes that `Kernels::matmul` checks; the conditions of [`super::simd`].
#[inline(always)]
pub(super) unsafe fn product<S: Simd, E: Element>(w: &[u8], acts: &Acts, out: &mut OutTile, _: &mut [u8]) {
    let (rows, tokens, cols) = (out.rows().len(), acts.tokens, acts.cols);
    let mut t = 0;
    while t < tokens {
        let four_tokens = tokens - t >= 4;
        let mut r = 0;
        while r < rows {
            let row = |i: usize| w[(r + i) * cols * E::BYTES..].as_ptr();
            let x = |i: usize| acts.values(t + i).as_ptr();
            let four_rows = rows - r >= 4;
            let mut put = |t: usize, r: usize, y: f32| out.set(t, r, y);
            // SAFETY: the rows and tokens are there, by the counts just taken.
            unsafe {
                match (four_rows, four_tokens) {
                    (true, true) => {
                        let y = tile::<S, E, 4, 4>([row(0), row(1), row(2), row(3)], [x(0), x(1), x(2), x(3)], cols);
                        for (i, y) in y.iter().enumerate() {
                            y.iter().enumerate().for_each(|(j, y)| put(t + j, r + i, *y));
                        }
                    }
                    (true, false) => {
                        let y = tile::<S, E, 4, 1>([row(0), row(1), row(2), row(3)], [x(0)], cols);
                        y.iter().enumerate().for_each(|(i, y)| put(t, r + i, y[0]));
                    }
                    (false, true) => {
                        let y = tile::<S, E, 1, 4>([row(0)], [x(0), x(1), x(2), x(3)], cols);
                        y[0].iter().enumerate().for_each(|(j, y)| put(t + j, r, *y));
                    }
                    (false, false) => put(t, r, tile::<S, E, 1, 1>([row(0)], [x(0)], cols)[0][0]),
                }
            }
            r += if four_rows { 4 } else { 1 };
        }
        t += if four_tokens { 4 } else { 1 };
    }
}
