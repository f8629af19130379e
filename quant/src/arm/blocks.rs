//! The block formats, unpacked into vectors of int8. Their bytes are drawn in [`crate::format`].

use super::cpu::{Bytes32, four, two};
use super::float::widen;
use crate::oracle::IQ4_VALUES;
use core::arch::aarch64::*;

/// A format of 32 elements and one scale.
pub(super) trait Block32 {
    const BYTES: usize;
    /// See [`super::cpu::Cpu`]; for what [`Block32::q`] gives, `OFFSET` included.
    const NARROW: bool;
    /// The same once `OFFSET` is taken off.
    const NARROW_PANEL: bool;
    /// What `q` is too large by.
    const OFFSET: i32;
    /// Whether blocks are an f16 scale and 16 bytes of nibbles that are the elements (plus `OFFSET`).
    const PLAIN_NIBBLES: bool;
    /// Byte of the f16 offset `m` that is added to the elements, if there is one.
    const M: Option<usize>;

    /// What [`Block32::wide`] is too large by.
    const WIDE_OFFSET: i32 = Self::OFFSET;
    /// One over what it is multiplied by.
    const WIDE_UNIT: f32 = 1.0;

    /// The 32 elements, plus `OFFSET`.
    unsafe fn q(block: *const u8) -> Bytes32;
    /// The same as any int8, where that is cheaper.
    #[inline(always)]
    unsafe fn wide(block: *const u8) -> Bytes32 {
        // SAFETY: the same.
        unsafe { Self::q(block) }
    }
}

/// A format of 256 elements in eight sub-blocks of 32 or sixteen of 16 (`SUB`).
pub(super) trait Block256 {
    const BYTES: usize;
    const SUB: usize;
    /// See [`super::cpu::Cpu`]; for what [`Block256::q`] gives, `OFFSET` included.
    const NARROW: bool;
    /// The same once `OFFSET` is taken off.
    const NARROW_PANEL: bool;
    /// What `q` is too large by.
    const OFFSET: i32;
    /// Whether sub-blocks have minima.
    const MINS: bool;

    /// What [`Block256::wide`] is too large by.
    const WIDE_OFFSET: i32 = Self::OFFSET;
    /// One over what it is multiplied by.
    const WIDE_UNIT: f32 = 1.0;

    /// Elements `32j..32j + 32`, plus `OFFSET`.
    unsafe fn q(block: *const u8, j: usize) -> Bytes32;
    /// The same as any int8, where that is cheaper.
    #[inline(always)]
    unsafe fn wide(block: *const u8, j: usize) -> Bytes32 {
        // SAFETY: the same.
        unsafe { Self::q(block, j) }
    }
    /// What scales them.
    unsafe fn head(block: *const u8) -> Head;
}

/// A super-block's scales: an element is `d · scales[s] · q − dmin · mins[s]`.
#[derive(Clone, Copy)]
pub(super) struct Head {
    /// `d` and `dmin`, with two others behind them.
    pub factors: float32x4_t,
    /// One i8 for each sub-block, in the low half where there are eight.
    pub scales: int8x16_t,
    /// One for each sub-block, 0 to 63, likewise.
    pub mins: int8x16_t,
}

#[inline(always)]
unsafe fn load(p: *const u8) -> uint8x16_t {
    // SAFETY: the caller gives 16 readable bytes.
    unsafe { vld1q_u8(p) }
}

/// The low and the high nibbles.
#[inline(always)]
unsafe fn nibbles(v: uint8x16_t) -> [uint8x16_t; 2] {
    // SAFETY: baseline NEON.
    unsafe { [vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8::<4>(v)] }
}

#[inline(always)]
unsafe fn signed(v: [uint8x16_t; 2]) -> Bytes32 {
    // SAFETY: baseline NEON.
    unsafe { two!(|I| vreinterpretq_s8_u8(v[I])) }
}

/// Nibbles looked up in the table of the IQ4 formats.
#[inline(always)]
unsafe fn lookup(v: [uint8x16_t; 2]) -> Bytes32 {
    // SAFETY: sixteen bytes of table, indices below 16.
    unsafe {
        let table = vld1q_s8(IQ4_VALUES.as_ptr());
        two!(|I| vqtbl1q_s8(table, v[I]))
    }
}

/// Sixteen bits as bytes: 16 where the bit is set, 0 elsewhere.
#[inline(always)]
unsafe fn fifth_bits(bits: u16) -> uint8x16_t {
    // SAFETY: baseline NEON.
    unsafe {
        let each = vcombine_u8(vdup_n_u8(bits as u8), vdup_n_u8((bits >> 8) as u8));
        let mask = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
        vandq_u8(vtstq_u8(each, mask), vdupq_n_u8(16))
    }
}

/// Nibbles at `qs` with the fifth bits of the u32 at `qh`.
#[inline(always)]
unsafe fn five_bits(qh: *const u8, qs: *const u8) -> Bytes32 {
    // SAFETY: the caller gives 4 and 16 readable bytes.
    unsafe {
        let bits = qh.cast::<u32>().read_unaligned();
        let [low, high] = nibbles(load(qs));
        signed([vorrq_u8(low, fifth_bits(bits as u16)), vorrq_u8(high, fifth_bits((bits >> 16) as u16))])
    }
}

macro_rules! block32 {
    ($name:ident, $bytes:literal, narrow: $narrow:literal $panel:literal, offset: $offset:literal, m: $m:expr, |$b:ident| $q:expr) => {
        pub(super) struct $name;

        impl Block32 for $name {
            const PLAIN_NIBBLES: bool = false;
            const BYTES: usize = $bytes;
            const NARROW: bool = $narrow;
            const NARROW_PANEL: bool = $panel;
            const OFFSET: i32 = $offset;
            const M: Option<usize> = $m;

            #[inline(always)]
            unsafe fn q($b: *const u8) -> Bytes32 {
                // SAFETY: the caller gives a whole block.
                unsafe { $q }
            }
        }
    };
}

/// Q4_0 is written out for its second way to unpack.
pub(super) struct Q4_0;

impl Block32 for Q4_0 {
    const BYTES: usize = 18;
    const NARROW: bool = true;
    const NARROW_PANEL: bool = true;
    const OFFSET: i32 = 8;
    const PLAIN_NIBBLES: bool = true;
    const M: Option<usize> = None;
    const WIDE_OFFSET: i32 = 0;
    const WIDE_UNIT: f32 = 1.0 / 16.0;

    #[inline(always)]
    unsafe fn q(b: *const u8) -> Bytes32 {
        // SAFETY: the caller gives a whole block.
        unsafe { signed(nibbles(load(b.add(2)))) }
    }

    /// Sixteen times the elements: the nibbles at the top, their upper bits inverted.
    #[inline(always)]
    unsafe fn wide(b: *const u8) -> Bytes32 {
        // SAFETY: the caller gives a whole block.
        unsafe {
            let x = flip(load(b.add(2)), vdupq_n_u8(0x88));
            signed([vshlq_n_u8::<4>(x), vandq_u8(x, vdupq_n_u8(0xf0))])
        }
    }
}

block32!(Q4_1, 20, narrow: true true, offset: 0, m: Some(2), |b| signed(nibbles(load(b.add(4)))));
block32!(Q5_0, 22, narrow: false true, offset: 16, m: None, |b| five_bits(b.add(2), b.add(6)));
block32!(Q5_1, 24, narrow: false false, offset: 0, m: Some(2), |b| five_bits(b.add(4), b.add(8)));
block32!(Q8_0, 34, narrow: false false, offset: 0, m: None, |b| signed([load(b.add(2)), load(b.add(18))]));
block32!(Iq4Nl, 18, narrow: false false, offset: 0, m: None, |b| lookup(nibbles(load(b.add(2)))));

/// The 2-bit field of elements `32j..32j + 32` at `qs`, in place at bits 0 and 1.
#[inline(always)]
unsafe fn two_bits(qs: *const u8, j: usize) -> [uint8x16_t; 2] {
    // SAFETY: the caller gives 64 readable bytes, j < 8.
    unsafe {
        let (at, shift) = (32 * (j / 4), vdupq_n_s8(-2 * (j % 4) as i8));
        two!(|I| vandq_u8(vshlq_u8(load(qs.add(at + 16 * I)), shift), vdupq_n_u8(3)))
    }
}

/// Sub-block `j`'s nibbles at `qs`, where each 32 bytes hold an even sub-block low and an odd one high.
#[inline(always)]
unsafe fn paired_nibbles(qs: *const u8, j: usize) -> [uint8x16_t; 2] {
    // SAFETY: the caller gives 128 readable bytes, j < 8.
    unsafe { two!(|I| nibbles(load(qs.add(32 * (j / 2) + 16 * I)))[j % 2]) }
}

/// Bit `j` of 32 bytes at `bits`, as 1 << `to`.
#[inline(always)]
unsafe fn bit_plane(bits: *const u8, j: usize, to: i8) -> [uint8x16_t; 2] {
    // SAFETY: the caller gives 32 readable bytes, j < 8.
    unsafe {
        let shift = vdupq_n_s8(to - j as i8);
        two!(|I| vandq_u8(vshlq_u8(load(bits.add(16 * I)), shift), vdupq_n_u8(1 << to)))
    }
}

/// Where the words of a head of Q4_K or Q5_K are taken from, the shifts of their bytes, the bits that count, and those to
/// come from the word before.
pub(super) const HEAD_4_5: [[u8; 16]; 4] = [
    [4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 252, 252, 252, 252],
    [63, 63, 63, 63, 15, 15, 15, 15, 63, 63, 63, 63, 15, 15, 15, 15],
    [0, 0, 0, 0, 48, 48, 48, 48, 0, 0, 0, 0, 48, 48, 48, 48],
];

/// The head of Q4_K and Q5_K: `d`, `dmin`, and three words whose bytes are the first four scales, the first four minima
/// and the low nibbles of the other four of each; their two high bits are those of the bytes before.
#[inline(always)]
unsafe fn head_4_5(b: *const u8) -> Head {
    let [places, shifts, low_bits, high_bits] = &HEAD_4_5;
    // SAFETY: the caller gives a whole block; the arrays are sixteen bytes.
    unsafe {
        let head = load(b);
        let words = vqtbl1q_u8(head, load(places.as_ptr()));
        let low = vandq_u8(vshlq_u8(words, vreinterpretq_s8_u8(load(shifts.as_ptr()))), load(low_bits.as_ptr()));
        let high = vshrq_n_u8::<2>(vextq_u8::<12>(words, words));
        let both = vreinterpretq_s8_u8(vbslq_u8(load(high_bits.as_ptr()), high, low));
        let factors = widen(vreinterpret_u16_u8(vget_low_u8(head)));
        Head { factors, scales: both, mins: vextq_s8::<8>(both, both) }
    }
}

/// A head with no minima.
#[inline(always)]
unsafe fn plain(d: *const u8, scales: int8x16_t) -> Head {
    // SAFETY: the caller gives two readable bytes.
    unsafe { Head { factors: widen(vdup_n_u16(d.cast::<u16>().read_unaligned())), scales, mins: vdupq_n_s8(0) } }
}

/// The 6-bit scales of Q3_K, less 32.
#[inline(always)]
unsafe fn scales_3(p: *const u8) -> int8x16_t {
    // SAFETY: the caller gives 12 readable bytes.
    unsafe {
        let [low, high] = nibbles(vcombine_u8(vld1_u8(p), vdup_n_u8(0)));
        let low4 = vcombine_u8(vget_low_u8(low), vget_low_u8(high));
        let word = vreinterpretq_u8_u32(vdupq_n_u32(p.add(8).cast::<u32>().read_unaligned()));
        let shifts = vreinterpretq_s8_u32(vld1q_u32([0, 0xfefe_fefe, 0xfcfc_fcfc, 0xfafa_fafa].as_ptr()));
        let high2 = vandq_u8(vshlq_u8(word, shifts), vdupq_n_u8(3));
        vsubq_s8(vreinterpretq_s8_u8(vorrq_u8(low4, vshlq_n_u8::<4>(high2))), vdupq_n_s8(32))
    }
}

/// The 6-bit scales of IQ4_XS, less 32; `high` and `low` are its two fields.
#[inline(always)]
unsafe fn scales_iq4_xs(high: *const u8, low: *const u8) -> int8x16_t {
    // SAFETY: the caller gives 2 and 4 readable bytes.
    let (high, low) = unsafe { (high.cast::<u16>().read_unaligned(), low.cast::<u32>().read_unaligned()) };
    let mut bytes = [0i8; 16];
    for (s, b) in bytes.iter_mut().enumerate().take(8) {
        *b = ((low >> (4 * s) & 15) as i8 | ((high >> (2 * s) & 3) << 4) as i8) - 32;
    }
    // SAFETY: sixteen bytes.
    unsafe { vld1q_s8(bytes.as_ptr()) }
}

macro_rules! block256 {
    ($name:ident, $bytes:literal, sub: $sub:literal, narrow: $narrow:literal $panel:literal, offset: $offset:literal,
     mins: $mins:literal, |$b:ident, $j:ident| $q:expr, $head:expr) => {
        pub(super) struct $name;

        impl Block256 for $name {
            const BYTES: usize = $bytes;
            const SUB: usize = $sub;
            const NARROW: bool = $narrow;
            const NARROW_PANEL: bool = $panel;
            const OFFSET: i32 = $offset;
            const MINS: bool = $mins;

            #[inline(always)]
            unsafe fn q($b: *const u8, $j: usize) -> Bytes32 {
                // SAFETY: the caller gives a whole block and j < 8.
                unsafe { $q }
            }

            #[inline(always)]
            unsafe fn head($b: *const u8) -> Head {
                // SAFETY: the caller gives a whole block.
                unsafe { $head }
            }
        }
    };
}

block256!(Q2K, 84, sub: 16, narrow: true true, offset: 0, mins: true, |b, j| signed(two_bits(b.add(16), j)), {
    let [scales, mins] = signed(nibbles(load(b)));
    let factors = vdup_n_u32(b.add(80).cast::<u32>().read_unaligned());
    Head { factors: widen(vreinterpret_u16_u32(factors)), scales, mins }
});

// The third bit is stored inverted, as it were: where it is clear, 4 is taken off.
block256!(Q3K, 110, sub: 16, narrow: true true, offset: 4, mins: false, |b, j| {
    let (low, high) = (two_bits(b.add(32), j), bit_plane(b, j, 2));
    signed([vorrq_u8(low[0], high[0]), vorrq_u8(low[1], high[1])])
}, plain(b.add(108), scales_3(b.add(96))));

block256!(Q4K, 144, sub: 32, narrow: true true, offset: 0, mins: true,
    |b, j| signed(paired_nibbles(b.add(16), j)), head_4_5(b));

block256!(Q5K, 176, sub: 32, narrow: false false, offset: 0, mins: true, |b, j| {
    let (low, high) = (paired_nibbles(b.add(48), j), bit_plane(b.add(16), j, 4));
    signed([vorrq_u8(low[0], high[0]), vorrq_u8(low[1], high[1])])
}, head_4_5(b));

/// `x ^ bits`. By `asm!`, like the next, because the compiler would do it anew behind each shift of `x`.
#[inline(always)]
unsafe fn flip(x: uint8x16_t, bits: uint8x16_t) -> uint8x16_t {
    let y;
    // SAFETY: baseline NEON; only registers are touched.
    unsafe {
        core::arch::asm!("eor {y:v}.16b, {x:v}.16b, {bits:v}.16b", y = lateout(vreg) y, x = in(vreg) x, bits = in(vreg) bits,
            options(pure, nomem, nostack, preserves_flags));
    }
    y
}

/// The two high bits of `top`, then the six high ones of `low`.
#[inline(always)]
unsafe fn below_two_bits(top: uint8x16_t, low: uint8x16_t) -> uint8x16_t {
    let mut y = top;
    // SAFETY: baseline NEON; only registers are touched.
    unsafe {
        core::arch::asm!("sri {y:v}.16b, {low:v}.16b, #2", y = inout(vreg) y, low = in(vreg) low,
            options(pure, nomem, nostack, preserves_flags));
    }
    y
}

/// Q6_K is written out for its second way to unpack.
pub(super) struct Q6K;

impl Q6K {
    /// The 32 bytes with the low bits of elements `32j..32j + 32`, in their low nibbles for the first two `j` of four.
    #[inline(always)]
    unsafe fn low(b: *const u8, j: usize) -> [uint8x16_t; 2] {
        // SAFETY: the caller gives a whole block and j < 8.
        unsafe { two!(|I| load(b.add(64 * (j / 4) + 32 * (j % 2) + 16 * I))) }
    }
}

impl Block256 for Q6K {
    const BYTES: usize = 210;
    const SUB: usize = 16;
    const NARROW: bool = false;
    const NARROW_PANEL: bool = true;
    const OFFSET: i32 = 32;
    const MINS: bool = false;
    const WIDE_OFFSET: i32 = 0;
    const WIDE_UNIT: f32 = 0.25;

    #[inline(always)]
    unsafe fn q(b: *const u8, j: usize) -> Bytes32 {
        // SAFETY: the caller gives a whole block and j < 8.
        unsafe {
            let (low, high) = (Q6K::low(b, j), two_bits(b.add(128), j));
            let low = if j % 4 < 2 { low } else { two!(|I| vshrq_n_u8::<4>(low[I])) };
            signed(two!(|I| vsliq_n_u8::<4>(low[I], high[I])))
        }
    }

    /// Four times the element: its two high bits, the upper one inverted, are at the top, its low nibble is below.
    #[inline(always)]
    unsafe fn wide(b: *const u8, j: usize) -> Bytes32 {
        // SAFETY: the caller gives a whole block and j < 8.
        unsafe {
            let high = two!(|I| flip(load(b.add(128 + 32 * (j / 4) + 16 * I)), vdupq_n_u8(0xaa)));
            let top = match j % 4 {
                0 => two!(|I| vshlq_n_u8::<6>(high[I])),
                1 => two!(|I| vshlq_n_u8::<4>(high[I])),
                2 => two!(|I| vshlq_n_u8::<2>(high[I])),
                _ => high,
            };
            let low = Q6K::low(b, j);
            let low = if j % 4 < 2 {
                two!(|I| vshlq_n_u8::<4>(low[I]))
            } else {
                two!(|I| vandq_u8(low[I], vdupq_n_u8(0xf0)))
            };
            signed(two!(|I| below_two_bits(top[I], low[I])))
        }
    }

    #[inline(always)]
    unsafe fn head(b: *const u8) -> Head {
        // SAFETY: the caller gives a whole block.
        unsafe { plain(b.add(208), vreinterpretq_s8_u8(load(b.add(192)))) }
    }
}

block256!(Iq4Xs, 136, sub: 32, narrow: false false, offset: 0, mins: false,
    |b, j| lookup(nibbles(load(b.add(8 + 16 * j)))), plain(b, scales_iq4_xs(b.add(2), b.add(4))));
