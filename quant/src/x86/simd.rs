//! The vector operations that the kernels are written with, for 8 lanes (AVX2, AVX-VNNI) and 16 (AVX-512).
//!
//! Everything here is inlined into functions that have the instruction set switched on; called elsewhere it would
//! be undefined. That is the one safety condition of every function of [`Simd`], beside pointers being good for
//! what is read or written through them.

use core::arch::x86_64::*;

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

/// See the module's head for what every `unsafe fn` here asks.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Simd: Sized {
    /// 32-bit lanes in a vector.
    const LANES: usize;
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
    /// Looks bytes 0..16 up in a table made by [`Simd::splat_table`].
    unsafe fn lookup(table: Self::I, index: Self::I) -> Self::I;
    /// `bit` in each byte `i` of a lane where bit `first + i` of the lane is set, else 0; `first` a multiple of 4.
    unsafe fn spread(bits: Self::I, first: usize, bit: u8) -> Self::I;

    /// Four successive dwords of every row: `out[j]` has dword `j` of row `r` in lane `r`.
    unsafe fn quads(rows: Rows) -> [Self::I; 4];
    /// The dword at the start of every row.
    unsafe fn dwords(rows: Rows) -> Self::I;
    /// The f16 at the start of every row.
    unsafe fn halves(rows: Rows) -> Self::F;
    /// The f16 in the low half of each lane.
    unsafe fn low_half(x: Self::I) -> Self::F;

    /// `init + Σ w·a` over `N` dwords of bytes: lane `r` sums `w[j]`'s bytes of lane `r` times the bytes `a[4j..]`.
    /// `w` is unsigned and at most `MAX`; `a` is at least -127.
    unsafe fn dot<const N: usize, const MAX: i32>(init: Self::I, w: &[Self::I; N], a: *const i8) -> Self::I;
    /// The same for signed weights, which come with [`Simd::SIGNED_OFFSET`] added.
    unsafe fn dot_signed<const N: usize>(init: Self::I, w: &[Self::I; N], a: *const i8) -> Self::I;

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
    unsafe fn sum(x: Self::F) -> f32;
    unsafe fn max(x: Self::F) -> f32;
    /// Lane 0.
    unsafe fn first(x: Self::F) -> f32;
}

/// AVX-512 F, BW, DQ, VL, VNNI.
pub(super) struct Wide;

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
    unsafe fn halves(rows: Rows) -> __m512 {
        unsafe {
            let mut all = [0u16; 16];
            rows.halves::<Self>(all.as_mut_ptr().cast());
            Self::load_f16(all.as_ptr().cast())
        }
    }
    #[inline(always)]
    unsafe fn low_half(x: __m512i) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)) }
    }
    #[inline(always)]
    unsafe fn dot<const N: usize, const MAX: i32>(init: __m512i, w: &[__m512i; N], a: *const i8) -> __m512i {
        // The largest |sum| is 32 · 255 · 127 + |init| < 2^21: vpdpbusd does not saturate and i32 does not wrap.
        let mut sum = init;
        for (j, w) in w.iter().enumerate() {
            unsafe {
                sum = _mm512_dpbusd_epi32(sum, *w, _mm512_set1_epi32(a.add(4 * j).cast::<i32>().read_unaligned()))
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn dot_signed<const N: usize>(init: __m512i, w: &[__m512i; N], a: *const i8) -> __m512i {
        unsafe { Self::dot::<N, 255>(init, w, a) }
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
    unsafe fn sum(x: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(x) }
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

/// AVX2, FMA and F16C with a dot product given by the macro's arguments.
macro_rules! eight_lanes {
    ($(#[$doc:meta])* $name:ident, $offset:expr, $dot:item, $dot_signed:item) => {
        $(#[$doc])*
        pub(super) struct $name;

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
            unsafe fn halves(rows: Rows) -> __m256 {
                unsafe {
                    let mut all = [0u16; 8];
                    rows.halves::<Self>(all.as_mut_ptr().cast());
                    Self::load_f16(all.as_ptr().cast())
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
            $dot
            $dot_signed
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
            unsafe fn sum(x: __m256) -> f32 {
                unsafe {
                    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
                    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
                    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
                }
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
    #[inline(always)]
    unsafe fn dot<const N: usize, const MAX: i32>(init: __m256i, w: &[__m256i; N], a: *const i8) -> __m256i {
        // A vpmaddubsw lane is at most 2 · MAX · 127 in size; `run` of them add up within i16:
        // MAX 15: 8 · 3810 = 30480. MAX 31: 4 · 7874 = 31496. MAX 63: 2 · 16002 = 32004. MAX 3, 7: all of them.
        const { assert!(MAX <= 63 && 2 * MAX * 127 <= i16::MAX as i32) };
        let run = (i16::MAX as i32 / (2 * MAX * 127)).min(8) as usize;
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sum = init;
            for first in (0..N).step_by(run) {
                let mut part = _mm256_setzero_si256();
                for (j, w) in w.iter().enumerate().skip(first).take(run) {
                    part = _mm256_add_epi16(part, _mm256_maddubs_epi16(*w, four(a.add(4 * j))));
                }
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(part, ones));
            }
            sum
        }
    },
    #[inline(always)]
    unsafe fn dot_signed<const N: usize>(init: __m256i, w: &[__m256i; N], a: *const i8) -> __m256i {
        // |w| ≤ 128 unsigned times a with w's sign: 2 · 128 · 127 = 32512 fits i16, once.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sum = init;
            for (j, w) in w.iter().enumerate() {
                let a = _mm256_sign_epi8(four(a.add(4 * j)), *w);
                let part = _mm256_maddubs_epi16(_mm256_abs_epi8(*w), a);
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(part, ones));
            }
            sum
        }
    }
}

eight_lanes! {
    /// AVX2, FMA, F16C and the VEX-encoded `vpdpbusd`.
    EightVnni, 128,
    #[inline(always)]
    unsafe fn dot<const N: usize, const MAX: i32>(init: __m256i, w: &[__m256i; N], a: *const i8) -> __m256i {
        // As for `Wide`.
        let mut sum = init;
        for (j, w) in w.iter().enumerate() {
            unsafe { sum = _mm256_dpbusd_avx_epi32(sum, *w, four(a.add(4 * j))) }
        }
        sum
    },
    #[inline(always)]
    unsafe fn dot_signed<const N: usize>(init: __m256i, w: &[__m256i; N], a: *const i8) -> __m256i {
        unsafe { Self::dot::<N, 255>(init, w, a) }
    }
}

#[cfg(test)]
eight_lanes! {
    /// [`EightVnni`] with the EVEX encoding of the same instruction: what a CPU with AVX-512 but without AVX-VNNI can
    /// test of it.
    EightVnniEvex, 128,
    #[inline(always)]
    unsafe fn dot<const N: usize, const MAX: i32>(init: __m256i, w: &[__m256i; N], a: *const i8) -> __m256i {
        let mut sum = init;
        for (j, w) in w.iter().enumerate() {
            unsafe { sum = _mm256_dpbusd_epi32(sum, *w, four(a.add(4 * j))) }
        }
        sum
    },
    #[inline(always)]
    unsafe fn dot_signed<const N: usize>(init: __m256i, w: &[__m256i; N], a: *const i8) -> __m256i {
        unsafe { Self::dot::<N, 255>(init, w, a) }
    }
}
