//! AVX-512: sixteen lanes.

use super::{Rows, Simd};
use core::arch::x86_64::*;

/// AVX-512 F, BW, DQ, VL, VNNI.
pub(in crate::x86) struct Wide;

impl Simd for Wide {
    const LANES: usize = 16;
    const SIGNED_OFFSET: i32 = 128;
    type I = __m512i;
    type F = __m512;

    // SAFETY (of all the blocks below): the trait's conditions are the caller's duty; the instructions are there
    // because this is inlined where they are switched on.
    #[inline(always)]
    unsafe fn splat(x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn splat_byte(x: u8) -> __m512i {
        unsafe { _mm512_set1_epi8(x as i8) }
    }
    #[inline(always)]
    unsafe fn splat_table(t: &[u8; 16]) -> __m512i {
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(t.as_ptr().cast())) }
    }
    #[inline(always)]
    unsafe fn load(at: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(at.cast()) }
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn xor(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn shr(a: __m512i, n: i32) -> __m512i {
        unsafe { _mm512_srlv_epi32(a, _mm512_set1_epi32(n)) }
    }
    #[inline(always)]
    unsafe fn shl(a: __m512i, n: i32) -> __m512i {
        unsafe { _mm512_sllv_epi32(a, _mm512_set1_epi32(n)) }
    }
    #[inline(always)]
    unsafe fn sar(a: __m512i, n: i32) -> __m512i {
        unsafe { _mm512_srav_epi32(a, _mm512_set1_epi32(n)) }
    }
    #[inline(always)]
    unsafe fn add16(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi16(a, b) }
    }
    #[inline(always)]
    unsafe fn madd16(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_madd_epi16(a, b) }
    }
    #[inline(always)]
    unsafe fn lookup(table: __m512i, index: __m512i) -> __m512i {
        unsafe { _mm512_shuffle_epi8(table, index) }
    }
    #[inline(always)]
    unsafe fn spread(bits: __m512i, first: usize, bit: u8) -> __m512i {
        unsafe {
            let byte = (first / 8) as i32;
            let copy =
                _mm512_add_epi8(_mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0), _mm512_set1_epi8(byte as i8));
            let mask = _mm512_set1_epi32(if first.is_multiple_of(8) { 0x08040201 } else { 0x80402010u32 as i32 });
            let set = _mm512_test_epi8_mask(_mm512_shuffle_epi8(bits, copy), mask);
            _mm512_maskz_mov_epi8(set, _mm512_set1_epi8(bit as i8))
        }
    }
    #[inline(always)]
    unsafe fn quads(rows: Rows) -> [__m512i; 4] {
        unsafe {
            // Vector i takes rows i, 4+i, 8+i, 12+i into its four parts, so that the 4 × 4 transpose of dwords inside
            // each part leaves the rows in order.
            let mut z = [_mm512_setzero_si512(); 4];
            for (i, z) in z.iter_mut().enumerate() {
                let x = _mm512_castsi128_si512(rows.sixteen(i));
                let x = _mm512_inserti32x4::<1>(x, rows.sixteen(4 + i));
                let x = _mm512_inserti32x4::<2>(x, rows.sixteen(8 + i));
                *z = _mm512_inserti32x4::<3>(x, rows.sixteen(12 + i));
            }
            let [z0, z1, z2, z3] = z;
            let (a, b) = (_mm512_unpacklo_epi32(z0, z1), _mm512_unpacklo_epi32(z2, z3));
            let (c, d) = (_mm512_unpackhi_epi32(z0, z1), _mm512_unpackhi_epi32(z2, z3));
            [
                _mm512_unpacklo_epi64(a, b),
                _mm512_unpackhi_epi64(a, b),
                _mm512_unpacklo_epi64(c, d),
                _mm512_unpackhi_epi64(c, d),
            ]
        }
    }
    #[inline(always)]
    unsafe fn dwords(rows: Rows) -> __m512i {
        unsafe {
            let mut all = [0u32; 16];
            rows.dwords::<Self>(all.as_mut_ptr().cast());
            _mm512_loadu_si512(all.as_ptr().cast())
        }
    }
    #[inline(always)]
    unsafe fn low_half(x: __m512i) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)) }
    }
    #[inline(always)]
    unsafe fn dot<const T: usize, const N: usize, const MAX: i32>(
        init: [__m512i; T],
        w: &[__m512i; N],
        a: *const i8,
        stride: usize,
    ) -> [__m512i; T] {
        // The largest |sum| is 32 · 255 · 127 + |init| < 2^21: vpdpbusd does not saturate and i32 does not wrap.
        let mut sum = init;
        for (j, w) in w.iter().enumerate() {
            for (t, sum) in sum.iter_mut().enumerate() {
                unsafe {
                    let four = a.add(t * stride + 4 * j).cast::<i32>().read_unaligned();
                    *sum = _mm512_dpbusd_epi32(*sum, *w, _mm512_set1_epi32(four));
                }
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn dot_signed<const T: usize, const N: usize>(
        init: [__m512i; T],
        w: &[__m512i; N],
        a: *const i8,
        stride: usize,
    ) -> [__m512i; T] {
        unsafe { Self::dot::<T, N, 255>(init, w, a, stride) }
    }
    #[inline(always)]
    unsafe fn to_f(x: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(x) }
    }
    #[inline(always)]
    unsafe fn to_i(x: __m512) -> __m512i {
        unsafe { _mm512_cvtps_epi32(x) }
    }
    #[inline(always)]
    unsafe fn as_f(x: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(x) }
    }
    #[inline(always)]
    unsafe fn as_i(x: __m512) -> __m512i {
        unsafe { _mm512_castps_si512(x) }
    }
    #[inline(always)]
    unsafe fn splat_f(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load_f(at: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn store_f(at: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(at, x) }
    }
    #[inline(always)]
    unsafe fn load_part(at: *const f32, n: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps((1u16 << n) - 1, at) }
    }
    #[inline(always)]
    unsafe fn store_part(at: *mut f32, n: usize, x: __m512) {
        unsafe { _mm512_mask_storeu_ps(at, (1u16 << n) - 1, x) }
    }
    #[inline(always)]
    unsafe fn splat_f16(at: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(at.cast::<i16>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(at: *mut u8, x: __m512) {
        unsafe { _mm256_storeu_si256(at.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)) }
    }
    #[inline(always)]
    unsafe fn load_i8(at: *const i8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_i8(at: *mut i8, x: __m512i) {
        unsafe { _mm_storeu_si128(at.cast(), _mm512_cvtepi32_epi8(x)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> __m512 {
        unsafe {
            let x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
        }
    }
    #[inline(always)]
    unsafe fn addf(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn subf(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mulf(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn divf(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn maxf(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn minf(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn absf(a: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn select_lt(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    unsafe fn any_lt(a: __m512, b: __m512) -> bool {
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) != 0 }
    }
    #[inline(always)]
    unsafe fn fraction(x: __m512) -> __m512 {
        // Rounding down, without exceptions.
        unsafe { _mm512_reduce_ps::<0b1001>(x) }
    }
    #[inline(always)]
    unsafe fn times_power(y: __m512, x: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(y, x) }
    }
    #[inline(always)]
    unsafe fn sum(x: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(x) }
    }
    #[inline(always)]
    unsafe fn sum_parts([a, b, c, d]: [__m512; 4]) -> __m512 {
        unsafe {
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
            let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
            _mm512_add_ps(low, _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)))
        }
    }
    #[inline(always)]
    unsafe fn join_parts([a, b, c, d]: [__m512; 4]) -> __m512 {
        unsafe {
            // Even parts and odd parts of two vectors: 0b10_00_10_00 and 0b11_01_11_01.
            let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
            let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
            _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd))
        }
    }
    #[inline(always)]
    unsafe fn max(x: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(x) }
    }
    #[inline(always)]
    unsafe fn first(x: __m512) -> f32 {
        unsafe { _mm512_cvtss_f32(x) }
    }
}
