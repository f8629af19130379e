//! F32, F16 and BF16 weights by f32 activations.

use super::float::load_f16;
use crate::Format;
use crate::act::Acts;
use crate::share::OutTile;
use core::arch::aarch64::*;
use half::{bf16, f16};

/// An element type that widens to f32.
trait Element {
    const BYTES: usize;
    /// Four elements.
    unsafe fn load(p: *const u8) -> float32x4_t;
    /// One element.
    unsafe fn load_one(p: *const u8) -> f32;
}

struct F32;
struct F16;
struct Bf16;

impl Element for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> float32x4_t {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe { vreinterpretq_f32_u8(vld1q_u8(p)) }
    }

    #[inline(always)]
    unsafe fn load_one(p: *const u8) -> f32 {
        // SAFETY: the caller gives 4 readable bytes.
        unsafe { p.cast::<f32>().read_unaligned() }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> float32x4_t {
        // SAFETY: the caller gives 8 readable bytes.
        unsafe { load_f16(p) }
    }

    #[inline(always)]
    unsafe fn load_one(p: *const u8) -> f32 {
        // SAFETY: the caller gives 2 readable bytes.
        unsafe { f16::from_bits(p.cast::<u16>().read_unaligned()).to_f32() }
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> float32x4_t {
        // SAFETY: the caller gives 8 readable bytes.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(p)))) }
    }

    #[inline(always)]
    unsafe fn load_one(p: *const u8) -> f32 {
        // SAFETY: the caller gives 2 readable bytes.
        unsafe { bf16::from_bits(p.cast::<u16>().read_unaligned()).to_f32() }
    }
}

/// See [`crate::Kernels::matmul`]; `format` is F32, F16 or BF16.
pub(super) unsafe fn matmul(format: Format, w: &[u8], acts: &Acts, out: &mut OutTile) {
    // SAFETY: the shapes are those that `Kernels::matmul` has checked.
    unsafe {
        match format {
            Format::F16 => rows_by_tokens::<F16>(w, acts, out),
            Format::BF16 => rows_by_tokens::<Bf16>(w, acts, out),
            _ => rows_by_tokens::<F32>(w, acts, out),
        }
    }
}

unsafe fn rows_by_tokens<E: Element>(w: &[u8], acts: &Acts, out: &mut OutTile) {
    let rows = out.rows().len();
    let row = |r: usize| w[r * acts.cols * E::BYTES..].as_ptr();
    let token = |t: usize| acts.values(t).as_ptr();
    let (cols, tokens) = (acts.cols, acts.tokens);
    // Four rows by four tokens, then what is left of either by one. A sum's order is the same in every shape.
    // SAFETY: rows and records of `cols` elements, r < rows and t < tokens.
    unsafe {
        for r in (0..rows / 4 * 4).step_by(4) {
            let w = [row(r), row(r + 1), row(r + 2), row(r + 3)];
            for t in (0..tokens / 4 * 4).step_by(4) {
                put(out, r, t, tile::<E, 4, 4>(w, [token(t), token(t + 1), token(t + 2), token(t + 3)], cols));
            }
            for t in tokens / 4 * 4..tokens {
                put(out, r, t, tile::<E, 4, 1>(w, [token(t)], cols));
            }
        }
        for r in rows / 4 * 4..rows {
            for t in 0..tokens {
                put(out, r, t, tile::<E, 1, 1>([row(r)], [token(t)], cols));
            }
        }
    }
}

fn put<const R: usize, const T: usize>(out: &mut OutTile, r: usize, t: usize, sums: [[f32; T]; R]) {
    for (i, sums) in sums.iter().enumerate() {
        for (j, v) in sums.iter().enumerate() {
            out.set(t + j, r + i, *v);
        }
    }
}

/// `R` rows by `T` tokens: `[row][token]`.
#[inline(always)]
unsafe fn tile<E: Element, const R: usize, const T: usize>(
    w: [*const u8; R],
    x: [*const f32; T],
    cols: usize,
) -> [[f32; T]; R] {
    // SAFETY: the caller gives `cols` elements at each address.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); T]; R];
        let whole = cols / 4 * 4;
        for c in (0..whole).step_by(4) {
            let x = x.map(|x| vld1q_f32(x.add(c)));
            for (w, sums) in w.into_iter().zip(&mut sums) {
                let w = E::load(w.add(c * E::BYTES));
                for (x, sum) in x.into_iter().zip(sums) {
                    *sum = vfmaq_f32(*sum, w, x);
                }
            }
        }
        let mut totals = sums.map(|s| s.map(|s| vaddvq_f32(s)));
        for c in whole..cols {
            for (w, totals) in w.into_iter().zip(&mut totals) {
                for (x, total) in x.into_iter().zip(totals) {
                    *total += E::load_one(w.add(c * E::BYTES)) * *x.add(c);
                }
            }
        }
        totals
    }
}
