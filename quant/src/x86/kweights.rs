//! Unpacking the formats of 256 columns: as [`super::weights`], with integer scales for each 16 or 32 columns, and at
//! the block's end what its minima or offsets take away (`Sink::finish`). IQ4_XS, whose weights are signed, goes group by
//! group.

use super::simd::{Rows, Simd};
use super::tile::{Side, Sink};
use super::weights::{Weights, iq4, join, map, nibbles};

// SAFETY (of all blocks of this file): as the module [`super::simd`] says; reads stay inside a block.

/// Byte `j` of each lane.
#[inline(always)]
unsafe fn byte<S: Simd>(x: S::I, j: usize) -> S::I {
    unsafe { S::and(S::shr(x, 8 * j as i32), S::splat(255)) }
}

/// Signed byte `j` of each lane.
#[inline(always)]
unsafe fn signed_byte<S: Simd>(x: S::I, j: usize) -> S::I {
    unsafe { S::sar(S::shl(x, 24 - 8 * j as i32), 24) }
}

/// Unsigned bytes, as two pairs of i16 for each four.
#[inline(always)]
unsafe fn pairs<S: Simd, const N: usize, const P: usize>(bytes: [S::I; N]) -> [S::I; P] {
    const { assert!(P == 2 * N) };
    unsafe {
        let mut out = [S::splat(0); P];
        for (i, x) in bytes.into_iter().enumerate() {
            out[2 * i] = S::or(S::and(x, S::splat(0xff)), S::shl(S::and(x, S::splat(0xff00)), 8));
            let high = S::and(S::shr(x, 8), S::splat(0xff0000));
            out[2 * i + 1] = S::or(byte::<S>(x, 2), high);
        }
        out
    }
}

/// Adds `by` to each i16.
#[inline(always)]
unsafe fn raised<S: Simd, const P: usize>(pairs: [S::I; P], by: i16) -> [S::I; P] {
    let both = (by as u16 as u32 * 0x10001) as i32;
    unsafe { map!(pairs, |x| S::add16(x, S::splat(both))) }
}

/// `x · by`.
#[inline(always)]
unsafe fn times<S: Simd>(x: S::F, by: f32) -> S::F {
    unsafe { S::mulf(x, S::splat_f(by)) }
}

/// Two arrays, element by element, as [`map`].
macro_rules! merge {
    ($one:expr, $two:expr, |$x:ident, $y:ident| $to:expr) => {{
        let mut array = $one;
        for (at, $y) in array.iter_mut().zip($two) {
            let $x = *at;
            *at = $to;
        }
        array
    }};
}

/// The first and the last 16 of 32 columns.
#[inline(always)]
fn halves<T: Copy>(w: [T; 8]) -> ([T; 4], [T; 4]) {
    ([w[0], w[1], w[2], w[3]], [w[4], w[5], w[6], w[7]])
}

pub(super) struct Q2K;

impl<S: Simd> Weights<S> for Q2K {
    const GROUPS: usize = 8;
    const BYTES: usize = 84;
    const SIDE: Side = Side::Sums16;

    #[inline(always)]
    unsafe fn block(rows: Rows, b: usize, _: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            let head = S::dwords(rows.add(80));
            let (scales, mins) = nibbles::<S>(S::quads(rows));
            for half in 0..2 {
                let low = S::quads(rows.add(16 + 32 * half));
                let high = S::quads(rows.add(32 + 32 * half));
                let q = join(low, high);
                for i in 0..4 {
                    let w = map!(q, |q| S::and(S::shr(q, 2 * i as i32), S::splat_byte(3)));
                    // Group 4·half + i has 16-element scales 2·group and 2·group + 1.
                    let (at, j) = (2 * half + i / 2, i % 2 * 2);
                    let (first, second) = halves(w);
                    sink.scaled16::<3>(2 * (8 * b + 4 * half + i), &first, byte::<S>(scales[at], j));
                    sink.scaled16::<3>(2 * (8 * b + 4 * half + i) + 1, &second, byte::<S>(scales[at], j + 1));
                }
            }
            let (d, dmin) = (S::low_half(head), S::low_half(S::shr(head, 16)));
            sink.finish::<3, 8>(b, d, times::<S>(dmin, -1.0), &pairs::<S, 4, 8>(mins));
        }
    }
}

pub(super) struct Q3K;

impl<S: Simd> Weights<S> for Q3K {
    const GROUPS: usize = 8;
    const BYTES: usize = 110;
    const SIDE: Side = Side::Sums16;

    #[inline(always)]
    unsafe fn block(rows: Rows, b: usize, _: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            let d = S::halves(rows.add(108));
            // Sixteen 6-bit scales in 12 bytes: low nibbles in the first eight bytes, high pairs of bits in the last four.
            let s = [S::dwords(rows.add(96)), S::dwords(rows.add(100)), S::dwords(rows.add(104))];
            let (four, two) = (S::splat_byte(15), S::splat_byte(3));
            let mut scales = [s[0], s[1], S::shr(s[0], 4), S::shr(s[1], 4)];
            for (i, low) in scales.iter_mut().enumerate() {
                let pair = S::and(S::shr(s[2], 2 * i as i32), two);
                *low = S::or(S::and(*low, four), S::shl(pair, 4));
            }
            let less = S::splat(-32);
            let third = join(S::quads(rows), S::quads(rows.add(16)));
            for half in 0..2 {
                let q = join(S::quads(rows.add(32 + 32 * half)), S::quads(rows.add(48 + 32 * half)));
                for i in 0..4 {
                    let mut w = map!(q, |q| S::and(S::shr(q, 2 * i as i32), two));
                    for (w, third) in w.iter_mut().zip(third) {
                        let bit = S::and(S::shr(third, (4 * half + i) as i32), S::splat_byte(1));
                        *w = S::or(*w, S::shl(bit, 2));
                    }
                    let (at, j) = (2 * half + i / 2, i % 2 * 2);
                    let (first, second) = halves(w);
                    let at16 = 2 * (8 * b + 4 * half + i);
                    sink.scaled16::<7>(at16, &first, S::add(byte::<S>(scales[at], j), less));
                    sink.scaled16::<7>(at16 + 1, &second, S::add(byte::<S>(scales[at], j + 1), less));
                }
            }
            let scales = raised::<S, 8>(pairs::<S, 4, 8>(scales), -32);
            sink.finish::<7, 8>(b, d, times::<S>(d, -4.0), &scales);
        }
    }
}

/// The 6-bit scales and minima of Q4_K and Q5_K: four in each of the vectors, and what they are multiplied with.
struct Scales<S: Simd> {
    d: S::F,
    less: S::F,
    scales: [S::I; 2],
    mins: [S::I; 2],
}

impl<S: Simd> Scales<S> {
    #[inline(always)]
    unsafe fn read(rows: Rows) -> Self {
        unsafe {
            let head = S::quads(rows);
            let (six, four, two) = (S::splat_byte(63), S::splat_byte(15), S::splat_byte(0x30));
            let high = [S::and(S::shr(head[1], 2), two), S::and(S::shr(head[2], 2), two)];
            Scales {
                d: S::low_half(head[0]),
                less: times::<S>(S::low_half(S::shr(head[0], 16)), -1.0),
                scales: [S::and(head[1], six), S::or(S::and(head[3], four), high[0])],
                mins: [S::and(head[2], six), S::or(S::and(S::shr(head[3], 4), four), high[1])],
            }
        }
    }

    /// The scale of group `i`.
    #[inline(always)]
    unsafe fn of(&self, i: usize) -> S::I {
        unsafe { byte::<S>(self.scales[i / 4], i % 4) }
    }

    #[inline(always)]
    unsafe fn finish<const MAX: i32>(&self, b: usize, sink: &mut impl Sink<S>) {
        unsafe { sink.finish::<MAX, 4>(b, self.d, self.less, &pairs::<S, 2, 4>(self.mins)) }
    }
}

pub(super) struct Q4K;

impl<S: Simd> Weights<S> for Q4K {
    const GROUPS: usize = 8;
    const BYTES: usize = 144;
    const SIDE: Side = Side::Sums;

    #[inline(always)]
    unsafe fn block(rows: Rows, b: usize, _: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            let scales = Scales::<S>::read(rows);
            for i in 0..4 {
                let (l0, h0) = nibbles::<S>(S::quads(rows.add(16 + 32 * i)));
                let (l1, h1) = nibbles::<S>(S::quads(rows.add(32 + 32 * i)));
                sink.scaled::<15>(8 * b + 2 * i, &join(l0, l1), scales.of(2 * i));
                sink.scaled::<15>(8 * b + 2 * i + 1, &join(h0, h1), scales.of(2 * i + 1));
            }
            scales.finish::<15>(b, sink);
        }
    }
}

/// Adds 16 to each byte whose bit `i` is set in `bits`.
#[inline(always)]
unsafe fn with_bit<S: Simd>(mut w: [S::I; 8], bits: [S::I; 8], i: usize) -> [S::I; 8] {
    unsafe {
        for (w, bits) in w.iter_mut().zip(bits) {
            let bit = S::and(S::shr(bits, i as i32), S::splat_byte(1));
            *w = S::or(*w, S::shl(bit, 4));
        }
        w
    }
}

pub(super) struct Q5K;

impl<S: Simd> Weights<S> for Q5K {
    const GROUPS: usize = 8;
    const BYTES: usize = 176;
    const SIDE: Side = Side::Sums;

    #[inline(always)]
    unsafe fn block(rows: Rows, b: usize, _: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            let scales = Scales::<S>::read(rows);
            // Bit i of byte l is the fifth bit of element l of group i.
            let fifth = join(S::quads(rows.add(16)), S::quads(rows.add(32)));
            for i in 0..4 {
                let (l0, h0) = nibbles::<S>(S::quads(rows.add(48 + 32 * i)));
                let (l1, h1) = nibbles::<S>(S::quads(rows.add(64 + 32 * i)));
                let low = with_bit::<S>(join(l0, l1), fifth, 2 * i);
                sink.scaled::<31>(8 * b + 2 * i, &low, scales.of(2 * i));
                let high = with_bit::<S>(join(h0, h1), fifth, 2 * i + 1);
                sink.scaled::<31>(8 * b + 2 * i + 1, &high, scales.of(2 * i + 1));
            }
            scales.finish::<31>(b, sink);
        }
    }
}

pub(super) struct Q6K;

/// Columns `16·part..` of each 32 of half `HALF` of a block of Q6_K: 16 columns of four groups.
#[inline(always)]
unsafe fn six<S: Simd, const HALF: usize, const PART: usize>(
    rows: Rows,
    b: usize,
    scales: &[S::I; 4],
    sink: &mut impl Sink<S>,
) {
    unsafe {
        let (four, two) = (S::splat_byte(15), S::splat_byte(0x30));
        let high = S::quads(rows.add(128 + 32 * HALF + 16 * PART));
        let at = 16 * b + 8 * HALF + PART;
        // Groups 0 and 1 are the low nibbles of two vectors, 2 and 3 the high ones.
        let low = S::quads(rows.add(64 * HALF + 16 * PART));
        let w = merge!(low, high, |low, high| S::or(S::and(low, four), S::and(S::shl(high, 4), two)));
        sink.scaled16::<63>(at, &w, signed_byte::<S>(scales[2 * HALF], PART));
        let w = merge!(low, high, |low, high| S::or(S::and(S::shr(low, 4), four), S::and(high, two)));
        sink.scaled16::<63>(at + 4, &w, signed_byte::<S>(scales[2 * HALF + 1], PART));
        let low = S::quads(rows.add(64 * HALF + 32 + 16 * PART));
        let w = merge!(low, high, |low, high| S::or(S::and(low, four), S::and(S::shl(high, 2), two)));
        sink.scaled16::<63>(at + 2, &w, signed_byte::<S>(scales[2 * HALF], 2 + PART));
        let w = merge!(low, high, |low, high| S::or(S::and(S::shr(low, 4), four), S::and(S::shr(high, 2), two)));
        sink.scaled16::<63>(at + 6, &w, signed_byte::<S>(scales[2 * HALF + 1], 2 + PART));
    }
}

impl<S: Simd> Weights<S> for Q6K {
    const GROUPS: usize = 8;
    const BYTES: usize = 210;
    const SIDE: Side = Side::Sums16;

    #[inline(always)]
    unsafe fn gather(rows: Rows, head: *mut u8) {
        unsafe { rows.add(208).halves::<S>(head) }
    }

    #[inline(always)]
    unsafe fn block(rows: Rows, b: usize, head: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            let scales = S::quads(rows.add(192));
            six::<S, 0, 0>(rows, b, &scales, sink);
            six::<S, 0, 1>(rows, b, &scales, sink);
            six::<S, 1, 0>(rows, b, &scales, sink);
            six::<S, 1, 1>(rows, b, &scales, sink);
            // As unsigned bytes they are 128 too large.
            let unsigned = map!(scales, |x| S::xor(x, S::splat_byte(0x80)));
            let scales = raised::<S, 8>(pairs::<S, 4, 8>(unsigned), -128);
            let d = S::load_f16(head);
            sink.finish::<63, 8>(b, d, times::<S>(d, -32.0), &scales);
        }
    }
}

pub(super) struct Iq4Xs;

impl<S: Simd> Weights<S> for Iq4Xs {
    const GROUPS: usize = 8;
    const BYTES: usize = 136;
    const SIDE: Side = Side::Offset(S::SIGNED_OFFSET);

    #[inline(always)]
    unsafe fn block(rows: Rows, b: usize, _: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            // d f16, high two bits of the eight scales u16, low four bits of the scales [4].
            let head = S::dwords(rows);
            let low = S::dwords(rows.add(4));
            let d = S::low_half(head);
            for i in 0..8 {
                let four = S::and(S::shr(low, 4 * i as i32), S::splat(15));
                let two = S::and(S::shr(head, 16 + 2 * i as i32), S::splat(3));
                let scale = S::to_f(S::add(S::or(four, S::shl(two, 4)), S::splat(-32)));
                let w = iq4::<S>(S::quads(rows.add(8 + 16 * i)));
                sink.signed(8 * b + i, &w, S::mulf(d, scale));
            }
        }
    }
}
