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

/// A loop written out, its counter a constant: left to the compiler it would stay a loop, with weights that pass through memory
/// and shifts by a register.
macro_rules! unrolled {
    ($i:ident in [$($value:literal),*], $body:block) => {
        $({
            const $i: usize = $value;
            $body
        })*
    };
}

/// Bit `from` of each byte, as bit `to`.
#[inline(always)]
unsafe fn bit<S: Simd>(x: S::I, from: usize, to: usize) -> S::I {
    unsafe {
        let x = if from < to { S::shl(x, (to - from) as i32) } else { S::shr(x, (from - to) as i32) };
        S::and(x, S::splat_byte(1 << to))
    }
}

pub(super) struct Q2K;

/// 16 columns of group `I` of a half.
#[inline(always)]
unsafe fn two<S: Simd, const I: usize>(q: [S::I; 4]) -> [S::I; 4] {
    unsafe { map!(q, |q| S::and(S::shr(q, 2 * I as i32), S::splat_byte(3))) }
}

impl<S: Simd> Weights<S> for Q2K {
    const GROUPS: usize = 8;
    const BYTES: usize = 84;
    const SIDE: Side = Side::Sums16;

    #[inline(always)]
    unsafe fn gather(rows: Rows, head: *mut u8) {
        unsafe { rows.add(80).dwords::<S>(head) }
    }

    #[inline(always)]
    unsafe fn block(rows: Rows, b: usize, head: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            let (scales, mins) = nibbles::<S>(S::quads(rows));
            if S::LANES == 16 {
                unrolled!(HALF in [0, 1], {
                    let q = [S::quads(rows.add(16 + 32 * HALF)), S::quads(rows.add(32 + 32 * HALF))];
                    unrolled!(I in [0, 1, 2, 3], {
                        let s = scales[2 * HALF + I / 2];
                        let scale = [byte::<S>(s, I % 2 * 2), byte::<S>(s, I % 2 * 2 + 1)];
                        sink.pair16::<3>(8 * b + 4 * HALF + I, &[two::<S, I>(q[0]), two::<S, I>(q[1])], scale);
                    });
                });
            } else {
                unrolled!(HALF in [0, 1], {
                    unrolled!(PART in [0, 1], {
                        let q = S::quads(rows.add(16 + 32 * HALF + 16 * PART));
                        unrolled!(I in [0, 1, 2, 3], {
                            let scale = byte::<S>(scales[2 * HALF + I / 2], I % 2 * 2 + PART);
                            sink.scaled16::<3>(16 * b + 8 * HALF + 2 * I + PART, &two::<S, I>(q), scale);
                        });
                    });
                });
            }
            let head = S::load(head);
            let (d, dmin) = (S::low_half(head), S::low_half(S::shr(head, 16)));
            sink.finish::<3, 8>(b, d, times::<S>(dmin, -1.0), &pairs::<S, 4, 8>(mins));
        }
    }
}

pub(super) struct Q3K;

/// 16 columns of group `I` of half `HALF`.
#[inline(always)]
unsafe fn three<S: Simd, const HALF: usize, const I: usize>(q: [S::I; 4], third: [S::I; 4]) -> [S::I; 4] {
    unsafe { merge!(two::<S, I>(q), third, |w, third| S::or(w, bit::<S>(third, 4 * HALF + I, 2))) }
}

impl<S: Simd> Weights<S> for Q3K {
    const GROUPS: usize = 8;
    const BYTES: usize = 110;
    const SIDE: Side = Side::Sums16;

    #[inline(always)]
    unsafe fn gather(rows: Rows, head: *mut u8) {
        unsafe { rows.add(108).halves::<S>(head) }
    }

    #[inline(always)]
    unsafe fn block(rows: Rows, b: usize, head: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            // Sixteen 6-bit scales in 12 bytes: low nibbles in the first eight bytes, high pairs of bits in the last four.
            let s = [S::dwords(rows.add(96)), S::dwords(rows.add(100)), S::dwords(rows.add(104))];
            let (four, pair_mask) = (S::splat_byte(15), S::splat_byte(3));
            let mut scales = [s[0], s[1], S::shr(s[0], 4), S::shr(s[1], 4)];
            for (i, low) in scales.iter_mut().enumerate() {
                let pair = S::and(S::shr(s[2], 2 * i as i32), pair_mask);
                *low = S::or(S::and(*low, four), S::shl(pair, 4));
            }
            let less = S::splat(-32);
            if S::LANES == 16 {
                let third = [S::quads(rows), S::quads(rows.add(16))];
                unrolled!(HALF in [0, 1], {
                    let q = [S::quads(rows.add(32 + 32 * HALF)), S::quads(rows.add(48 + 32 * HALF))];
                    unrolled!(I in [0, 1, 2, 3], {
                        let w = [three::<S, HALF, I>(q[0], third[0]), three::<S, HALF, I>(q[1], third[1])];
                        let s = scales[2 * HALF + I / 2];
                        let (one, two) = (byte::<S>(s, I % 2 * 2), byte::<S>(s, I % 2 * 2 + 1));
                        sink.pair16::<7>(8 * b + 4 * HALF + I, &w, [S::add(one, less), S::add(two, less)]);
                    });
                });
            } else {
                unrolled!(PART in [0, 1], {
                    let third = S::quads(rows.add(16 * PART));
                    unrolled!(HALF in [0, 1], {
                        let q = S::quads(rows.add(32 + 32 * HALF + 16 * PART));
                        unrolled!(I in [0, 1, 2, 3], {
                            let w = three::<S, HALF, I>(q, third);
                            let scale = byte::<S>(scales[2 * HALF + I / 2], I % 2 * 2 + PART);
                            sink.scaled16::<7>(16 * b + 8 * HALF + 2 * I + PART, &w, S::add(scale, less));
                        });
                    });
                });
            }
            let d = S::load_f16(head);
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
            unrolled!(I in [0, 1, 2, 3], {
                let (l0, h0) = nibbles::<S>(S::quads(rows.add(16 + 32 * I)));
                let (l1, h1) = nibbles::<S>(S::quads(rows.add(32 + 32 * I)));
                sink.scaled::<15>(8 * b + 2 * I, &join(l0, l1), scales.of(2 * I));
                sink.scaled::<15>(8 * b + 2 * I + 1, &join(h0, h1), scales.of(2 * I + 1));
            });
            scales.finish::<15>(b, sink);
        }
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
            unrolled!(I in [0, 1, 2, 3], {
                let (l0, h0) = nibbles::<S>(S::quads(rows.add(48 + 32 * I)));
                let (l1, h1) = nibbles::<S>(S::quads(rows.add(64 + 32 * I)));
                let low = merge!(join(l0, l1), fifth, |w, fifth| S::or(w, bit::<S>(fifth, 2 * I, 4)));
                sink.scaled::<31>(8 * b + 2 * I, &low, scales.of(2 * I));
                let high = merge!(join(h0, h1), fifth, |w, fifth| S::or(w, bit::<S>(fifth, 2 * I + 1, 4)));
                sink.scaled::<31>(8 * b + 2 * I + 1, &high, scales.of(2 * I + 1));
            });
            scales.finish::<31>(b, sink);
        }
    }
}

pub(super) struct Q6K;

/// 16 columns of group `I` of a half: groups 0 and 1 are the low nibbles of two vectors, 2 and 3 the high ones.
#[inline(always)]
unsafe fn six<S: Simd, const I: usize>(q: [S::I; 4], high: [S::I; 4]) -> [S::I; 4] {
    unsafe {
        let (four, two) = (S::splat_byte(15), S::splat_byte(0x30));
        let low = map!(q, |q| S::and(if I < 2 { q } else { S::shr(q, 4) }, four));
        let up = map!(high, |x| if I < 2 { S::shl(x, 4 - 2 * I as i32) } else { S::shr(x, 2 * I as i32 - 4) });
        merge!(low, up, |low, up| S::or(low, S::and(up, two)))
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
            if S::LANES == 16 {
                unrolled!(HALF in [0, 1], {
                    let high = [S::quads(rows.add(128 + 32 * HALF)), S::quads(rows.add(144 + 32 * HALF))];
                    unrolled!(I in [0, 1], {
                        let q = rows.add(64 * HALF + 32 * I);
                        let (q, s) = ([S::quads(q), S::quads(q.add(16))], [scales[2 * HALF], scales[2 * HALF + 1]]);
                        let w = [six::<S, I>(q[0], high[0]), six::<S, I>(q[1], high[1])];
                        let scale = [signed_byte::<S>(s[0], 2 * I), signed_byte::<S>(s[0], 2 * I + 1)];
                        sink.pair16::<63>(8 * b + 4 * HALF + I, &w, scale);
                        let w = [six::<S, { I + 2 }>(q[0], high[0]), six::<S, { I + 2 }>(q[1], high[1])];
                        let scale = [signed_byte::<S>(s[1], 2 * I), signed_byte::<S>(s[1], 2 * I + 1)];
                        sink.pair16::<63>(8 * b + 4 * HALF + I + 2, &w, scale);
                    });
                });
            } else {
                unrolled!(HALF in [0, 1], {
                    unrolled!(PART in [0, 1], {
                        let high = S::quads(rows.add(128 + 32 * HALF + 16 * PART));
                        unrolled!(I in [0, 1], {
                            let q = S::quads(rows.add(64 * HALF + 32 * I + 16 * PART));
                            let (at, j) = (16 * b + 8 * HALF + 2 * I + PART, 2 * I + PART);
                            let w = six::<S, I>(q, high);
                            sink.scaled16::<63>(at, &w, signed_byte::<S>(scales[2 * HALF], j));
                            let w = six::<S, { I + 2 }>(q, high);
                            sink.scaled16::<63>(at + 4, &w, signed_byte::<S>(scales[2 * HALF + 1], j));
                        });
                    });
                });
            }
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
            unrolled!(I in [0, 1, 2, 3, 4, 5, 6, 7], {
                let four = S::and(S::shr(low, 4 * I as i32), S::splat(15));
                let two = S::and(S::shr(head, 16 + 2 * I as i32), S::splat(3));
                let scale = S::to_f(S::add(S::or(four, S::shl(two, 4)), S::splat(-32)));
                let w = iq4::<S>(S::quads(rows.add(8 + 16 * I)));
                sink.signed(8 * b + I, &w, S::mulf(d, scale));
            });
        }
    }
}
