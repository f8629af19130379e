//! The vector operations that the kernels are written with, for 8 lanes (AVX2, AVX-VNNI) and 16 (AVX-512).
//!
//! Everything here is inlined into functions that have the instruction set switched on; called elsewhere it would
//! be undefined. That is the one safety condition of every function of [`Simd`], beside pointers being good for
//! what is read or written through them.

mod eight;
mod sixteen;

use core::arch::x86_64::{__m128i, _mm_loadu_si128};
use core::sync::atomic::{Ordering, compiler_fence};

#[cfg(test)]
pub(super) use eight::EightVnniEvex;
pub(super) use eight::{Eight, EightVnni};
pub(super) use sixteen::Wide;

/// Rows of equal length, one per lane.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub at: *const u8,
    /// Bytes from one row to the next; 0 puts the same row in every lane.
    pub stride: usize,
}

impl Rows {
    /// # Safety
    /// `bytes` further must be inside every row.
    #[inline(always)]
    pub unsafe fn add(self, bytes: usize) -> Rows {
        // SAFETY: the caller's duty.
        Rows { at: unsafe { self.at.add(bytes) }, ..self }
    }

    /// Copies the f16 at the start of every row to successive places.
    ///
    /// # Safety
    /// Two bytes must be inside every row; `to` has room for one f16 per lane.
    #[inline(always)]
    pub unsafe fn halves<S: Simd>(self, to: *mut u8) {
        for r in 0..S::LANES {
            // SAFETY: the caller's duty. Volatile, or the copies become a chain of shuffles.
            unsafe {
                let x = self.at.add(r * self.stride).cast::<u16>().read_unaligned();
                to.cast::<u16>().add(r).write_volatile(x);
            }
        }
    }

    /// Copies the dword at the start of every row to successive places.
    ///
    /// # Safety
    /// Four bytes must be inside every row; `to` has room for one dword per lane, and is aligned to four.
    #[inline(always)]
    pub unsafe fn dwords<S: Simd>(self, to: *mut u8) {
        for r in 0..S::LANES {
            // SAFETY: as above.
            unsafe {
                let x = self.at.add(r * self.stride).cast::<u32>().read_unaligned();
                to.cast::<u32>().add(r).write_volatile(x);
            }
        }
    }

    /// 16 bytes of row `r`.
    #[inline(always)]
    unsafe fn sixteen(self, r: usize) -> __m128i {
        // SAFETY: the caller of [`Simd::quads`] says that they are there.
        unsafe { _mm_loadu_si128(self.at.add(r * self.stride).cast()) }
    }
}

/// No load is moved past this: the compiler would gather those of several steps of a loop, and run out of registers.
#[inline(always)]
pub(super) fn loads_stay() {
    compiler_fence(Ordering::SeqCst);
}

/// See the module's head for what every `unsafe fn` here asks.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Simd: Sized {
    /// 32-bit lanes in a vector.
    const LANES: usize;
    /// Whether many tokens are multiplied by strips ([`super::strip`]).
    const STRIPS: bool = false;
    /// Signed weights are handed to [`Simd::dot`] with this added to each (as u8).
    const SIGNED_OFFSET: i32;
    /// A vector of integers.
    type I: Copy;
    /// A vector of f32.
    type F: Copy;

    unsafe fn splat(x: i32) -> Self::I;
    unsafe fn splat_byte(x: u8) -> Self::I;
    /// The same 16 bytes in each 128-bit part.
    unsafe fn splat_table(t: &[u8; 16]) -> Self::I;
    unsafe fn load(at: *const u8) -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn xor(a: Self::I, b: Self::I) -> Self::I;
    /// 32-bit sum.
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I;
    /// 32-bit logical shifts.
    unsafe fn shr(a: Self::I, n: i32) -> Self::I;
    unsafe fn shl(a: Self::I, n: i32) -> Self::I;
    /// 32-bit arithmetic shift.
    unsafe fn sar(a: Self::I, n: i32) -> Self::I;
    /// 16-bit sum.
    unsafe fn add16(a: Self::I, b: Self::I) -> Self::I;
    /// For each lane the sum of the products of its two i16.
    unsafe fn madd16(a: Self::I, b: Self::I) -> Self::I;
    /// Looks bytes 0..16 up in a table made by [`Simd::splat_table`].
    unsafe fn lookup(table: Self::I, index: Self::I) -> Self::I;
    /// `bit` in each byte `i` of a lane where bit `first + i` of the lane is set, else 0; `first` a multiple of 4.
    unsafe fn spread(bits: Self::I, first: usize, bit: u8) -> Self::I;

    /// Four successive dwords of every row: `out[j]` has dword `j` of row `r` in lane `r`.
    unsafe fn quads(rows: Rows) -> [Self::I; 4];
    /// The dword at the start of every row.
    unsafe fn dwords(rows: Rows) -> Self::I;
    /// The f16 in the low half of each lane.
    unsafe fn low_half(x: Self::I) -> Self::F;

    /// `init[t] + Σ w·a[t]` over `N` dwords of bytes, for `T` tokens whose bytes are `stride` apart: lane `r` sums `w[j]`'s
    /// bytes of lane `r` times the bytes `a[4j..]`. `w` is unsigned and at most `MAX`; `a` is at least -127.
    unsafe fn dot<const T: usize, const N: usize, const MAX: i32>(
        init: [Self::I; T],
        w: &[Self::I; N],
        a: *const i8,
        stride: usize,
    ) -> [Self::I; T];
    /// The same for signed weights, which come with [`Simd::SIGNED_OFFSET`] added.
    unsafe fn dot_signed<const T: usize, const N: usize>(
        init: [Self::I; T],
        w: &[Self::I; N],
        a: *const i8,
        stride: usize,
    ) -> [Self::I; T];

    /// An integer scale of at most 8 bits, as [`Simd::scaled`] wants it.
    #[inline(always)]
    unsafe fn scale(x: Self::I) -> Self::I {
        // SAFETY: as the caller.
        unsafe { Self::as_i(Self::to_f(x)) }
    }
    /// `sums[t] + scale · Σ w·a[t]` in a block of 256, arguments as for [`Simd::dot`]; sums begin as zero bits. Here each
    /// `Σ w·a`, below 2^21, times a scale of at most 8 bits is rounded once, as f32.
    #[inline(always)]
    unsafe fn scaled<const T: usize, const N: usize, const MAX: i32>(
        mut sums: [Self::I; T],
        w: &[Self::I; N],
        scale: Self::I,
        a: *const i8,
        stride: usize,
    ) -> [Self::I; T] {
        // SAFETY: as the caller.
        unsafe {
            let dot = Self::dot::<T, N, MAX>([Self::splat(0); T], w, a, stride);
            for (sum, dot) in sums.iter_mut().zip(dot) {
                *sum = Self::as_i(Self::fma(Self::to_f(dot), Self::as_f(scale), Self::as_f(*sum)));
            }
            sums
        }
    }
    /// A sum of [`Simd::scaled`].
    #[inline(always)]
    unsafe fn total(sum: Self::I) -> Self::F {
        // SAFETY: as the caller.
        unsafe { Self::as_f(sum) }
    }
    /// Signed weights, which come as for [`Simd::dot_signed`], as [`Simd::dot_sizes`] wants them in a strip: sizes, signs,
    /// and what `init` must be.
    #[inline(always)]
    unsafe fn sizes(w: &[Self::I; 8]) -> ([Self::I; 8], [Self::I; 8], Self::I) {
        // SAFETY: as the caller.
        unsafe { (*w, [Self::splat(0); 8], Self::splat(0)) }
    }
    /// [`Simd::dot_signed`] for weights of [`Simd::sizes`].
    #[inline(always)]
    unsafe fn dot_sizes<const T: usize>(
        init: [Self::I; T],
        sizes: &[Self::I; 8],
        _signs: &[Self::I; 8],
        a: *const i8,
        stride: usize,
    ) -> [Self::I; T] {
        // SAFETY: as the caller.
        unsafe { Self::dot_signed::<T, 8>(init, sizes, a, stride) }
    }

    /// i32 to f32, to nearest.
    unsafe fn to_f(x: Self::I) -> Self::F;
    /// f32 to i32, to nearest even.
    unsafe fn to_i(x: Self::F) -> Self::I;
    unsafe fn as_f(x: Self::I) -> Self::F;
    unsafe fn as_i(x: Self::F) -> Self::I;
    unsafe fn splat_f(x: f32) -> Self::F;
    unsafe fn load_f(at: *const f32) -> Self::F;
    unsafe fn store_f(at: *mut f32, x: Self::F);
    /// The first `n < LANES` elements, zeros after them.
    unsafe fn load_part(at: *const f32, n: usize) -> Self::F;
    unsafe fn store_part(at: *mut f32, n: usize, x: Self::F);
    /// Lane `i` to element `i · apart`.
    #[inline(always)]
    unsafe fn store_apart(at: *mut f32, apart: usize, x: Self::F) {
        let mut all = [0.0; 16];
        // SAFETY: 16 lanes at most; the places are the caller's to give.
        unsafe {
            Self::store_f(all.as_mut_ptr(), x);
            for (i, x) in all.into_iter().enumerate().take(Self::LANES) {
                at.add(i * apart).write(x);
            }
        }
    }
    /// One f16, in every lane.
    unsafe fn splat_f16(at: *const u8) -> Self::F;
    /// `LANES` f16.
    unsafe fn load_f16(at: *const u8) -> Self::F;
    unsafe fn store_f16(at: *mut u8, x: Self::F);
    /// `LANES` i8, as f32.
    unsafe fn load_i8(at: *const i8) -> Self::F;
    /// The low byte of each lane.
    unsafe fn store_i8(at: *mut i8, x: Self::I);
    /// `LANES` bf16.
    unsafe fn load_bf16(at: *const u8) -> Self::F;
    unsafe fn addf(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn subf(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mulf(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn divf(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn maxf(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn minf(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn absf(a: Self::F) -> Self::F;
    /// `a·b + c`.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a·b`.
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a < b` lanes from `x`, others from `y`.
    unsafe fn select_lt(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// Whether `a < b` in any lane.
    unsafe fn any_lt(a: Self::F, b: Self::F) -> bool;
    /// `x - ⌊x⌋`.
    unsafe fn fraction(x: Self::F) -> Self::F;
    /// `y · 2^⌊x⌋` for `y` of 1 to 2 and `x ≤ 0`; below -126 it may be taken for -126.
    unsafe fn times_power(y: Self::F, x: Self::F) -> Self::F;
    unsafe fn sum(x: Self::F) -> f32;
    /// For each 128-bit part, the sums of the part's lanes of `x[0]`, …, `x[3]`.
    unsafe fn sum_parts(x: [Self::F; 4]) -> Self::F;
    /// The sum of the 128-bit parts of `x[i]`, in part `i`. Eight lanes have two parts, and ignore `x[2]` and `x[3]`.
    unsafe fn join_parts(x: [Self::F; 4]) -> Self::F;
    unsafe fn max(x: Self::F) -> f32;
    /// Lane 0.
    unsafe fn first(x: Self::F) -> f32;
}
