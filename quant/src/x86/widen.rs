//! Stored keys and values as f32.

use super::ahead::ask_line;
use super::simd::Simd;
use crate::kernels::KvFormat;

/// The `n` keys or values at `from`, of `dim` elements each, as rows of whole vectors with zeros at their ends. Asks for as many
/// bytes behind them: into the second cache, as the first is full.
#[inline(always)]
pub(super) unsafe fn widen_tile<S: Simd>(format: KvFormat, from: *const u8, n: usize, dim: usize, to: *mut f32) {
    let bytes = format.head_bytes(dim).unwrap_or(0);
    // SAFETY: the caller's duty.
    unsafe {
        (n * bytes..2 * n * bytes).step_by(64).for_each(|line| ask_line(from.wrapping_add(line)));
        if dim.is_multiple_of(S::LANES) {
            return widen::<S>(format, from, n * dim, to);
        }
        for i in 0..n {
            widen::<S>(format, from.add(i * bytes), dim, to.add(i * dim.next_multiple_of(S::LANES)));
        }
    }
}

/// The `dim` elements at `from` as f32; zeros up to the next whole vector.
#[inline(always)]
unsafe fn widen<S: Simd>(format: KvFormat, from: *const u8, dim: usize, v: *mut f32) {
    // SAFETY: the caller's duty; reads stay inside the value.
    unsafe {
        match format {
            KvFormat::F32 => {
                core::ptr::copy_nonoverlapping(from, v.cast::<u8>(), 4 * dim);
                for d in dim..dim.next_multiple_of(S::LANES) {
                    *v.add(d) = 0.0;
                }
            }
            KvFormat::F16 => {
                let mut d = 0;
                while d + S::LANES <= dim {
                    S::store_f(v.add(d), S::load_f16(from.add(2 * d)));
                    d += S::LANES;
                }
                if d < dim {
                    let mut last = [0u8; 32];
                    core::ptr::copy_nonoverlapping(from.add(2 * d), last.as_mut_ptr(), 2 * (dim - d));
                    S::store_f(v.add(d), S::load_f16(last.as_ptr()));
                }
            }
            KvFormat::Q8_0 => {
                for block in 0..dim / 32 {
                    let from = from.add(34 * block);
                    let scale = S::splat_f16(from);
                    for d in (0..32).step_by(S::LANES) {
                        let x = S::mulf(S::load_i8(from.add(2 + d).cast()), scale);
                        S::store_f(v.add(32 * block + d), x);
                    }
                }
            }
        }
    }
}
