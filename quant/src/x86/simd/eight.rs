//! AVX2 and AVX-VNNI: eight lanes.

use super::{Rows, Simd, loads_stay};
use core::arch::x86_64::*;

/// AVX2, FMA and F16C with a dot product given by the macro's arguments.
macro_rules! eight_lanes {
    ($(#[$doc:meta])* $name:ident, $offset:expr, $($dots:item)*) => {
        $(#[$doc])*
        pub(in crate::x86) struct $name;

        impl Simd for $name {
            const LANES: usize = 8;
            const SIGNED_OFFSET: i32 = $offset;
            type I = __m256i;
            type F = __m256;

            // SAFETY (of all the blocks below): as for `Wide`.
            #[inline(always)]
            unsafe fn splat(x: i32) -> __m256i {
                unsafe { _mm256_set1_epi32(x) }
            }
            #[inline(always)]
            unsafe fn splat_byte(x: u8) -> __m256i {
                unsafe { _mm256_set1_epi8(x as i8) }
            }
            #[inline(always)]
            unsafe fn splat_table(t: &[u8; 16]) -> __m256i {
                unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(t.as_ptr().cast())) }
            }
            #[inline(always)]
            unsafe fn load(at: *const u8) -> __m256i {
                unsafe { _mm256_loadu_si256(at.cast()) }
            }
            #[inline(always)]
            unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
                unsafe { _mm256_and_si256(a, b) }
            }
            #[inline(always)]
            unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
                unsafe { _mm256_or_si256(a, b) }
            }
            #[inline(always)]
            unsafe fn xor(a: __m256i, b: __m256i) -> __m256i {
                unsafe { _mm256_xor_si256(a, b) }
            }
            #[inline(always)]
            unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
                unsafe { _mm256_add_epi32(a, b) }
            }
            #[inline(always)]
            unsafe fn shr(a: __m256i, n: i32) -> __m256i {
                unsafe { _mm256_srlv_epi32(a, _mm256_set1_epi32(n)) }
            }
            #[inline(always)]
            unsafe fn shl(a: __m256i, n: i32) -> __m256i {
                unsafe { _mm256_sllv_epi32(a, _mm256_set1_epi32(n)) }
            }
            #[inline(always)]
            unsafe fn sar(a: __m256i, n: i32) -> __m256i {
                unsafe { _mm256_srav_epi32(a, _mm256_set1_epi32(n)) }
            }
            #[inline(always)]
            unsafe fn add16(a: __m256i, b: __m256i) -> __m256i {
                unsafe { _mm256_add_epi16(a, b) }
            }
            #[inline(always)]
            unsafe fn madd16(a: __m256i, b: __m256i) -> __m256i {
                unsafe { _mm256_madd_epi16(a, b) }
            }
            #[inline(always)]
            unsafe fn lookup(table: __m256i, index: __m256i) -> __m256i {
                unsafe { _mm256_shuffle_epi8(table, index) }
            }
            #[inline(always)]
            unsafe fn spread(bits: __m256i, first: usize, bit: u8) -> __m256i {
                unsafe {
                    let byte = (first / 8) as i8;
                    let lanes = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c);
                    let copy = _mm256_add_epi8(lanes, _mm256_set1_epi8(byte));
                    let mask = _mm256_set1_epi32(if first.is_multiple_of(8) { 0x08040201 } else { 0x80402010u32 as i32 });
                    let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, copy), mask), mask);
                    _mm256_and_si256(set, _mm256_set1_epi8(bit as i8))
                }
            }
            #[inline(always)]
            unsafe fn quads(rows: Rows) -> [__m256i; 4] {
                unsafe {
                    // As for 16 lanes, with rows i and 4+i.
                    let mut y = [_mm256_setzero_si256(); 4];
                    for (i, y) in y.iter_mut().enumerate() {
                        *y = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(rows.sixteen(i)), rows.sixteen(4 + i));
                    }
                    let [y0, y1, y2, y3] = y;
                    let (a, b) = (_mm256_unpacklo_epi32(y0, y1), _mm256_unpacklo_epi32(y2, y3));
                    let (c, d) = (_mm256_unpackhi_epi32(y0, y1), _mm256_unpackhi_epi32(y2, y3));
                    [
                        _mm256_unpacklo_epi64(a, b),
                        _mm256_unpackhi_epi64(a, b),
                        _mm256_unpacklo_epi64(c, d),
                        _mm256_unpackhi_epi64(c, d),
                    ]
                }
            }
            #[inline(always)]
            unsafe fn dwords(rows: Rows) -> __m256i {
                unsafe {
                    let mut all = [0u32; 8];
                rows.dwords::<Self>(all.as_mut_ptr().cast());
                _mm256_loadu_si256(all.as_ptr().cast())
                }
            }
            #[inline(always)]
            unsafe fn low_half(x: __m256i) -> __m256 {
                unsafe {
                    let x = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
                    let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(x, x));
                    _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
                }
            }
            $($dots)*
            #[inline(always)]
            unsafe fn to_f(x: __m256i) -> __m256 {
                unsafe { _mm256_cvtepi32_ps(x) }
            }
            #[inline(always)]
            unsafe fn to_i(x: __m256) -> __m256i {
                unsafe { _mm256_cvtps_epi32(x) }
            }
            #[inline(always)]
            unsafe fn as_f(x: __m256i) -> __m256 {
                unsafe { _mm256_castsi256_ps(x) }
            }
            #[inline(always)]
            unsafe fn as_i(x: __m256) -> __m256i {
                unsafe { _mm256_castps_si256(x) }
            }
            #[inline(always)]
            unsafe fn splat_f(x: f32) -> __m256 {
                unsafe { _mm256_set1_ps(x) }
            }
            #[inline(always)]
            unsafe fn load_f(at: *const f32) -> __m256 {
                unsafe { _mm256_loadu_ps(at) }
            }
            #[inline(always)]
            unsafe fn store_f(at: *mut f32, x: __m256) {
                unsafe { _mm256_storeu_ps(at, x) }
            }
            #[inline(always)]
            unsafe fn load_part(at: *const f32, n: usize) -> __m256 {
                unsafe { _mm256_maskload_ps(at, first_lanes(n)) }
            }
            #[inline(always)]
            unsafe fn store_part(at: *mut f32, n: usize, x: __m256) {
                unsafe { _mm256_maskstore_ps(at, first_lanes(n), x) }
            }
            #[inline(always)]
            unsafe fn splat_f16(at: *const u8) -> __m256 {
                unsafe { _mm256_cvtph_ps(_mm_set1_epi16(at.cast::<i16>().read_unaligned())) }
            }
            #[inline(always)]
            unsafe fn load_f16(at: *const u8) -> __m256 {
                unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
            }
            #[inline(always)]
            unsafe fn store_f16(at: *mut u8, x: __m256) {
                unsafe { _mm_storeu_si128(at.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)) }
            }
            #[inline(always)]
            unsafe fn load_i8(at: *const i8) -> __m256 {
                unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()))) }
            }
            #[inline(always)]
            unsafe fn store_i8(at: *mut i8, x: __m256i) {
                unsafe {
                    let low = _mm256_setr_epi8(
                        0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
                        0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                    );
                    let x = _mm256_shuffle_epi8(x, low);
                    let x = _mm_unpacklo_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
                    _mm_storel_epi64(at.cast(), x)
                }
            }
            #[inline(always)]
            unsafe fn load_bf16(at: *const u8) -> __m256 {
                unsafe {
                    let x = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))
                }
            }
            #[inline(always)]
            unsafe fn addf(a: __m256, b: __m256) -> __m256 {
                unsafe { _mm256_add_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn subf(a: __m256, b: __m256) -> __m256 {
                unsafe { _mm256_sub_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn mulf(a: __m256, b: __m256) -> __m256 {
                unsafe { _mm256_mul_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn divf(a: __m256, b: __m256) -> __m256 {
                unsafe { _mm256_div_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn maxf(a: __m256, b: __m256) -> __m256 {
                unsafe { _mm256_max_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn minf(a: __m256, b: __m256) -> __m256 {
                unsafe { _mm256_min_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn absf(a: __m256) -> __m256 {
                unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
            }
            #[inline(always)]
            unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
                unsafe { _mm256_fmadd_ps(a, b, c) }
            }
            #[inline(always)]
            unsafe fn fnma(a: __m256, b: __m256, c: __m256) -> __m256 {
                unsafe { _mm256_fnmadd_ps(a, b, c) }
            }
            #[inline(always)]
            unsafe fn select_lt(a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
                unsafe { _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
            }
            #[inline(always)]
            unsafe fn any_lt(a: __m256, b: __m256) -> bool {
                unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) != 0 }
            }
            #[inline(always)]
            unsafe fn fraction(x: __m256) -> __m256 {
                unsafe { _mm256_sub_ps(x, _mm256_floor_ps(x)) }
            }
            #[inline(always)]
            unsafe fn times_power(y: __m256, x: __m256) -> __m256 {
                unsafe {
                    // By adding to the exponent. max answers its second argument where one is NaN.
                    let n = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_set1_ps(-126.0), _mm256_floor_ps(x)));
                    _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), _mm256_slli_epi32::<23>(n)))
                }
            }
            #[inline(always)]
            unsafe fn sum(x: __m256) -> f32 {
                unsafe {
                    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
                    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
                    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
                }
            }
            #[inline(always)]
            unsafe fn sum_parts([a, b, c, d]: [__m256; 4]) -> __m256 {
                unsafe {
                    let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                    let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                    let (ab, cd) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
                    let low = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd));
                    _mm256_add_ps(low, _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)))
                }
            }
            #[inline(always)]
            unsafe fn join_parts([a, b, _, _]: [__m256; 4]) -> __m256 {
                unsafe { _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b)) }
            }
            #[inline(always)]
            unsafe fn max(x: __m256) -> f32 {
                unsafe {
                    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
                    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
                    _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
                }
            }
            #[inline(always)]
            unsafe fn first(x: __m256) -> f32 {
                unsafe { _mm256_cvtss_f32(x) }
            }
        }
    };
}

/// All ones in the first `n` lanes.
#[inline(always)]
unsafe fn first_lanes(n: usize) -> __m256i {
    // SAFETY: inlined where AVX2 is switched on.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

/// The dword at `a`, in every lane.
#[inline(always)]
unsafe fn four(a: *const i8) -> __m256i {
    // SAFETY: four bytes are good at `a`, as the caller says; inlined where AVX2 is switched on.
    unsafe { _mm256_set1_epi32(a.cast::<i32>().read_unaligned()) }
}

eight_lanes! {
    /// AVX2, FMA, F16C.
    Eight, 0,
    const STRIPS: bool = true;
    #[inline(always)]
    unsafe fn dot<const T: usize, const N: usize, const MAX: i32>(
        init: [__m256i; T],
        w: &[__m256i; N],
        a: *const i8,
        stride: usize,
    ) -> [__m256i; T] {
        unsafe { Self::scaled::<T, N, MAX>(init, w, _mm256_set1_epi16(1), a, stride) }
    }
    #[inline(always)]
    unsafe fn dot_signed<const T: usize, const N: usize>(
        init: [__m256i; T],
        w: &[__m256i; N],
        a: *const i8,
        stride: usize,
    ) -> [__m256i; T] {
        // |w| ≤ 128 unsigned times a with w's sign: 2 · 128 · 127 = 32512 fits i16, once.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sum = init;
            for (j, w) in w.iter().enumerate() {
                let size = _mm256_abs_epi8(*w);
                for (t, sum) in sum.iter_mut().enumerate() {
                    let a = _mm256_sign_epi8(four(a.add(t * stride + 4 * j)), *w);
                    let part = _mm256_maddubs_epi16(size, a);
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(part, ones));
                }
            }
            sum
        }
    }
    #[inline(always)]
    unsafe fn scale(x: __m256i) -> __m256i {
        // Both halves of a lane.
        unsafe { _mm256_or_si256(_mm256_slli_epi32::<16>(x), _mm256_and_si256(x, _mm256_set1_epi32(0xffff))) }
    }
    #[inline(always)]
    unsafe fn scaled<const T: usize, const N: usize, const MAX: i32>(
        mut sums: [__m256i; T],
        w: &[__m256i; N],
        scale: __m256i,
        a: *const i8,
        stride: usize,
    ) -> [__m256i; T] {
        // A vpmaddubsw lane is at most 2 · MAX · 127 in size; `run` of them add up within i16:
        // MAX 15: 8 · 3810 = 30480. MAX 31: 4 · 7874 = 31496. MAX 63: 2 · 16002 = 32004. MAX 3, 7: all of them.
        // What adds two of those is also what multiplies with the scale. A block's sum is at most 256 · 63 · 127 · 128 in size.
        const { assert!(MAX <= 63 && 2 * MAX * 127 <= i16::MAX as i32) };
        let run = (i16::MAX as i32 / (2 * MAX * 127)).min(8) as usize;
        unsafe {
            for first in (0..N).step_by(run) {
                let mut part = [_mm256_setzero_si256(); T];
                // By index: iterators test the reference for null, and let the tokens be taken one after the other.
                #[allow(clippy::needless_range_loop)]
                for j in first..N.min(first + run) {
                    for (t, part) in part.iter_mut().enumerate() {
                        let product = _mm256_maddubs_epi16(w[j], four(a.add(t * stride + 4 * j)));
                        *part = _mm256_add_epi16(*part, product);
                    }
                }
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(part, scale));
                }
            }
            sums
        }
    }
    #[inline(always)]
    unsafe fn total(sum: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(sum) }
    }
    #[inline(always)]
    unsafe fn sizes(w: &[__m256i; 8]) -> ([__m256i; 8], [__m256i; 8], __m256i) {
        // Σ |w| over negative w, at most 8 · 2 · 128 in an i16.
        unsafe {
            let (mut sizes, mut signs, mut less) = (*w, *w, _mm256_setzero_si256());
            for (size, sign) in sizes.iter_mut().zip(&mut signs) {
                *sign = _mm256_cmpgt_epi8(_mm256_setzero_si256(), *sign);
                *size = _mm256_abs_epi8(*size);
                less = _mm256_add_epi16(less, _mm256_maddubs_epi16(*size, *sign));
            }
            (sizes, signs, _mm256_madd_epi16(less, _mm256_set1_epi16(-1)))
        }
    }
    #[inline(always)]
    unsafe fn dot_sizes<const T: usize>(
        init: [__m256i; T],
        sizes: &[__m256i; 8],
        signs: &[__m256i; 8],
        a: *const i8,
        stride: usize,
    ) -> [__m256i; T] {
        // Where w is negative, |w| times the complement of a, which is -a - 1: `vpxor` has one more port than `vpsignb`.
        // Two products are at least 2 · 128 · -128, an i16's least, and at most 2 · 128 · 127 (127 · 127 where w is not
        // negative).
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sum = init;
            for (j, (size, sign)) in sizes.iter().zip(signs).enumerate() {
                for (t, sum) in sum.iter_mut().enumerate() {
                    let a = _mm256_xor_si256(four(a.add(t * stride + 4 * j)), *sign);
                    let part = _mm256_maddubs_epi16(*size, a);
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(part, ones));
                }
                loads_stay();
            }
            sum
        }
    }
}

eight_lanes! {
    /// AVX2, FMA, F16C and the VEX-encoded `vpdpbusd`.
    EightVnni, 128,
    #[inline(always)]
    unsafe fn dot<const T: usize, const N: usize, const MAX: i32>(
        init: [__m256i; T],
        w: &[__m256i; N],
        a: *const i8,
        stride: usize,
    ) -> [__m256i; T] {
        // As for `Wide`.
        let mut sum = init;
        for (j, w) in w.iter().enumerate() {
            for (t, sum) in sum.iter_mut().enumerate() {
                unsafe { *sum = _mm256_dpbusd_avx_epi32(*sum, *w, four(a.add(t * stride + 4 * j))) }
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn dot_signed<const T: usize, const N: usize>(
        init: [__m256i; T],
        w: &[__m256i; N],
        a: *const i8,
        stride: usize,
    ) -> [__m256i; T] {
        unsafe { Self::dot::<T, N, 255>(init, w, a, stride) }
    }
}

#[cfg(test)]
eight_lanes! {
    /// [`EightVnni`] with the EVEX encoding of the same instruction: what a CPU with AVX-512 but without AVX-VNNI can
    /// test of it.
    EightVnniEvex, 128,
    #[inline(always)]
    unsafe fn dot<const T: usize, const N: usize, const MAX: i32>(
        init: [__m256i; T],
        w: &[__m256i; N],
        a: *const i8,
        stride: usize,
    ) -> [__m256i; T] {
        // As for `Wide`.
        let mut sum = init;
        for (j, w) in w.iter().enumerate() {
            for (t, sum) in sum.iter_mut().enumerate() {
                unsafe { *sum = _mm256_dpbusd_epi32(*sum, *w, four(a.add(t * stride + 4 * j))) }
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn dot_signed<const T: usize, const N: usize>(
        init: [__m256i; T],
        w: &[__m256i; N],
        a: *const i8,
        stride: usize,
    ) -> [__m256i; T] {
        unsafe { Self::dot::<T, N, 255>(init, w, a, stride) }
    }
}
