//! Unpacking: from a block column of `LANES` rows to unsigned (or signed) bytes in registers.
//!
//! ```text
//! for each group of 32 columns of the block:
//!     w[j] = bytes 4j..4j+4 of the group, one row per lane          (j = 0..8)
//!     scale, min = as f32, one row per lane
//!     hand (w, scale, min) to the sink, which multiplies them with every token
//! ```
//! A weight is `scale · (w - OFFSET) + min`. The blocks are those of GGML; see [`crate::Format`].

use super::matmul::Sink;
use super::simd::{Rows, Simd};

/// What a sink adds for each token beside `scale · Σ w·a`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The weights are too large by this: one integer `-offset · Σa` per 32 columns.
    Offset(i32),
    /// The same per 16 columns.
    Offset16(i32),
    /// Each group has a minimum: one float `scale of a · Σa` per 32 columns.
    Min,
    /// The same per 16 columns.
    Min16,
}

/// One format, for one width of vectors.
pub(super) trait Weights<S: Simd> {
    /// Groups of 32 columns in a block.
    const GROUPS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// What is added per token.
    const SIDE: Side;

    /// Hands the groups of one block to the sink; the first is group `g` of the row. `head` is what [`Weights::gather`] has
    /// written for this block.
    ///
    /// # Safety
    /// A whole block must be readable at each row; the conditions of [`super::simd`].
    unsafe fn block(rows: Rows, g: usize, head: *const u8, sink: &mut Sink<S>);

    /// Copies what each row's block starts with (up to 8 bytes) side by side, to be loaded as vectors by [`Weights::block`]
    /// two columns later: a load soon after narrow stores waits for all of them to reach the cache.
    ///
    /// # Safety
    /// As for [`Weights::block`]; `head` has room for 8 bytes per lane.
    #[inline(always)]
    unsafe fn gather(_rows: Rows, _head: *mut u8) {}
}

/// `array.map(closure)`, in place: a closure is a function of its own, into which nothing that needs the instruction set
/// can be inlined.
macro_rules! map {
    ($array:expr, |$x:ident| $to:expr) => {{
        let mut array = $array;
        for at in &mut array {
            let $x = *at;
            *at = $to;
        }
        array
    }};
}

/// Low and high nibbles.
#[inline(always)]
unsafe fn nibbles<S: Simd>(q: [S::I; 4]) -> ([S::I; 4], [S::I; 4]) {
    // SAFETY: as the module [`super::simd`] says; so for all blocks of this file, whose reads stay inside a block.
    unsafe {
        let mask = S::splat_byte(15);
        (map!(q, |q| S::and(q, mask)), map!(q, |q| S::and(S::shr(q, 4), mask)))
    }
}

#[inline(always)]
fn join<T: Copy>(a: [T; 4], b: [T; 4]) -> [T; 8] {
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}

/// Signed bytes as [`Simd::dot_signed`] takes them.
#[inline(always)]
unsafe fn signed<S: Simd>(w: [S::I; 4]) -> [S::I; 4] {
    // Adding 128 to a byte flips its top bit.
    if S::SIGNED_OFFSET == 0 { w } else { unsafe { map!(w, |w| S::xor(w, S::splat_byte(0x80))) } }
}

/// Byte `j` of each lane as f32.
#[inline(always)]
unsafe fn byte<S: Simd>(x: S::I, j: usize) -> S::F {
    unsafe { S::to_f(S::and(S::shr(x, 8 * j as i32), S::splat(255))) }
}

/// Signed byte `j` of each lane, plus `add`, as f32.
#[inline(always)]
unsafe fn signed_byte<S: Simd>(x: S::I, j: usize) -> S::F {
    unsafe { S::subf(byte::<S>(S::xor(x, S::splat_byte(0x80)), j), S::splat_f(128.0)) }
}

#[inline(always)]
unsafe fn negated<S: Simd>(x: S::F) -> S::F {
    unsafe { S::subf(S::splat_f(0.0), x) }
}

pub(super) struct Q4_0;

impl<S: Simd> Weights<S> for Q4_0 {
    const GROUPS: usize = 1;
    const BYTES: usize = 18;
    const SIDE: Side = Side::Offset(8);

    #[inline(always)]
    unsafe fn gather(rows: Rows, head: *mut u8) {
        unsafe { rows.halves::<S>(head) }
    }

    #[inline(always)]
    unsafe fn block(rows: Rows, g: usize, head: *const u8, sink: &mut Sink<S>) {
        unsafe {
            let scale = S::load_f16(head);
            let (low, high) = nibbles::<S>(S::quads(rows.add(2)));
            sink.group::<15>(g, &join(low, high), scale);
        }
    }
}

pub(super) struct Q4_1;

impl<S: Simd> Weights<S> for Q4_1 {
    const GROUPS: usize = 1;
    const BYTES: usize = 20;
    const SIDE: Side = Side::Min;

    #[inline(always)]
    unsafe fn gather(rows: Rows, head: *mut u8) {
        unsafe { rows.dwords::<S>(head) }
    }

    #[inline(always)]
    unsafe fn block(rows: Rows, g: usize, head: *const u8, sink: &mut Sink<S>) {
        unsafe {
            let head = S::load(head);
            let (low, high) = nibbles::<S>(S::quads(rows.add(4)));
            sink.group_min::<15>(g, &join(low, high), S::low_half(head), S::low_half(S::shr(head, 16)));
        }
    }
}

/// Nibbles and their fifth bits.
#[inline(always)]
unsafe fn five_bits<S: Simd>(q: [S::I; 4], fifth: S::I) -> [S::I; 8] {
    unsafe {
        let (low, high) = nibbles::<S>(q);
        let mut w = join(low, high);
        for (j, w) in w.iter_mut().enumerate() {
            *w = S::or(*w, S::spread(fifth, 4 * j, 16));
        }
        w
    }
}

pub(super) struct Q5_0;

impl<S: Simd> Weights<S> for Q5_0 {
    const GROUPS: usize = 1;
    const BYTES: usize = 22;
    const SIDE: Side = Side::Offset(16);

    #[inline(always)]
    unsafe fn gather(rows: Rows, head: *mut u8) {
        unsafe {
            rows.halves::<S>(head);
            rows.add(2).dwords::<S>(head.add(2 * S::LANES))
        }
    }

    #[inline(always)]
    unsafe fn block(rows: Rows, g: usize, head: *const u8, sink: &mut Sink<S>) {
        unsafe {
            let scale = S::load_f16(head);
            let w = five_bits::<S>(S::quads(rows.add(6)), S::load(head.add(2 * S::LANES)));
            sink.group::<31>(g, &w, scale);
        }
    }
}

pub(super) struct Q5_1;

impl<S: Simd> Weights<S> for Q5_1 {
    const GROUPS: usize = 1;
    const BYTES: usize = 24;
    const SIDE: Side = Side::Min;

    #[inline(always)]
    unsafe fn gather(rows: Rows, head: *mut u8) {
        unsafe {
            rows.dwords::<S>(head);
            rows.add(4).dwords::<S>(head.add(4 * S::LANES))
        }
    }

    #[inline(always)]
    unsafe fn block(rows: Rows, g: usize, head: *const u8, sink: &mut Sink<S>) {
        unsafe {
            let first = S::load(head);
            let w = five_bits::<S>(S::quads(rows.add(8)), S::load(head.add(4 * S::LANES)));
            sink.group_min::<31>(g, &w, S::low_half(first), S::low_half(S::shr(first, 16)));
        }
    }
}

pub(super) struct Q8_0;

impl<S: Simd> Weights<S> for Q8_0 {
    const GROUPS: usize = 1;
    const BYTES: usize = 34;
    const SIDE: Side = Side::Offset(S::SIGNED_OFFSET);

    #[inline(always)]
    unsafe fn gather(rows: Rows, head: *mut u8) {
        unsafe { rows.halves::<S>(head) }
    }

    #[inline(always)]
    unsafe fn block(rows: Rows, g: usize, head: *const u8, sink: &mut Sink<S>) {
        unsafe {
            let scale = S::load_f16(head);
            let low = signed::<S>(S::quads(rows.add(2)));
            let high = signed::<S>(S::quads(rows.add(18)));
            sink.group_signed(g, &join(low, high), scale);
        }
    }
}

/// The values of IQ4_NL and IQ4_XS, as signed bytes plus the offset that the dot product wants.
#[inline(always)]
unsafe fn iq4<S: Simd>(q: [S::I; 4]) -> [S::I; 8] {
    const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    unsafe {
        let table = S::splat_table(&map!(VALUES, |v| v.wrapping_add(S::SIGNED_OFFSET as i8)).map(|v| v as u8));
        let (low, high) = nibbles::<S>(q);
        map!(join(low, high), |i| S::lookup(table, i))
    }
}

pub(super) struct Iq4Nl;

impl<S: Simd> Weights<S> for Iq4Nl {
    const GROUPS: usize = 1;
    const BYTES: usize = 18;
    const SIDE: Side = Side::Offset(S::SIGNED_OFFSET);

    #[inline(always)]
    unsafe fn gather(rows: Rows, head: *mut u8) {
        unsafe { rows.halves::<S>(head) }
    }

    #[inline(always)]
    unsafe fn block(rows: Rows, g: usize, head: *const u8, sink: &mut Sink<S>) {
        unsafe {
            let scale = S::load_f16(head);
            sink.group_signed(g, &iq4::<S>(S::quads(rows.add(2))), scale);
        }
    }
}

pub(super) struct Iq4Xs;

impl<S: Simd> Weights<S> for Iq4Xs {
    const GROUPS: usize = 8;
    const BYTES: usize = 136;
    const SIDE: Side = Side::Offset(S::SIGNED_OFFSET);

    #[inline(always)]
    unsafe fn block(rows: Rows, g: usize, _: *const u8, sink: &mut Sink<S>) {
        unsafe {
            // d f16, high two bits of the eight scales u16, low four bits of the scales [4].
            let head = S::dwords(rows);
            let low = S::dwords(rows.add(4));
            let d = S::low_half(head);
            for i in 0..8 {
                let four = S::and(S::shr(low, 4 * i as i32), S::splat(15));
                let two = S::and(S::shr(head, 16 + 2 * i as i32), S::splat(3));
                let scale = S::subf(S::to_f(S::or(four, S::shl(two, 4))), S::splat_f(32.0));
                let w = iq4::<S>(S::quads(rows.add(8 + 16 * i)));
                sink.group_signed(g + i, &w, S::mulf(d, scale));
            }
        }
    }
}

pub(super) struct Q2K;

impl<S: Simd> Weights<S> for Q2K {
    const GROUPS: usize = 8;
    const BYTES: usize = 84;
    const SIDE: Side = Side::Min16;

    #[inline(always)]
    unsafe fn block(rows: Rows, g: usize, _: *const u8, sink: &mut Sink<S>) {
        unsafe {
            let head = S::dwords(rows.add(80));
            let (d, less) = (S::low_half(head), negated::<S>(S::low_half(S::shr(head, 16))));
            let (scales, mins) = nibbles::<S>(S::quads(rows));
            for half in 0..2 {
                let low = S::quads(rows.add(16 + 32 * half));
                let high = S::quads(rows.add(32 + 32 * half));
                let q = join(low, high);
                for i in 0..4 {
                    let w = map!(q, |q| S::and(S::shr(q, 2 * i as i32), S::splat_byte(3)));
                    // Group 4·half + i has 16-element scales 2·group and 2·group + 1.
                    let (at, j) = (2 * half + i / 2, i % 2 * 2);
                    let scale = [S::mulf(d, byte::<S>(scales[at], j)), S::mulf(d, byte::<S>(scales[at], j + 1))];
                    let min = [S::mulf(less, byte::<S>(mins[at], j)), S::mulf(less, byte::<S>(mins[at], j + 1))];
                    sink.group16_min::<3>(g + 4 * half + i, &w, scale, min);
                }
            }
        }
    }
}

pub(super) struct Q3K;

impl<S: Simd> Weights<S> for Q3K {
    const GROUPS: usize = 8;
    const BYTES: usize = 110;
    const SIDE: Side = Side::Offset16(4);

    #[inline(always)]
    unsafe fn block(rows: Rows, g: usize, _: *const u8, sink: &mut Sink<S>) {
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
            let less = S::splat_f(32.0);
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
                    let first = S::mulf(d, S::subf(byte::<S>(scales[at], j), less));
                    let scale = [first, S::mulf(d, S::subf(byte::<S>(scales[at], j + 1), less))];
                    sink.group16::<7>(g + 4 * half + i, &w, scale);
                }
            }
        }
    }
}

/// The 6-bit scales and minima of Q4_K and Q5_K times `d` and `-dmin`: `(head dwords, group) → (scale, min)`.
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
                less: negated::<S>(S::low_half(S::shr(head[0], 16))),
                scales: [S::and(head[1], six), S::or(S::and(head[3], four), high[0])],
                mins: [S::and(head[2], six), S::or(S::and(S::shr(head[3], 4), four), high[1])],
            }
        }
    }

    #[inline(always)]
    unsafe fn of(&self, i: usize) -> (S::F, S::F) {
        unsafe {
            let (scale, min) = (byte::<S>(self.scales[i / 4], i % 4), byte::<S>(self.mins[i / 4], i % 4));
            (S::mulf(self.d, scale), S::mulf(self.less, min))
        }
    }
}

pub(super) struct Q4K;

impl<S: Simd> Weights<S> for Q4K {
    const GROUPS: usize = 8;
    const BYTES: usize = 144;
    const SIDE: Side = Side::Min;

    #[inline(always)]
    unsafe fn block(rows: Rows, g: usize, _: *const u8, sink: &mut Sink<S>) {
        unsafe {
            let scales = Scales::<S>::read(rows);
            for i in 0..4 {
                let (l0, h0) = nibbles::<S>(S::quads(rows.add(16 + 32 * i)));
                let (l1, h1) = nibbles::<S>(S::quads(rows.add(32 + 32 * i)));
                let (scale, min) = scales.of(2 * i);
                sink.group_min::<15>(g + 2 * i, &join(l0, l1), scale, min);
                let (scale, min) = scales.of(2 * i + 1);
                sink.group_min::<15>(g + 2 * i + 1, &join(h0, h1), scale, min);
            }
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
    const SIDE: Side = Side::Min;

    #[inline(always)]
    unsafe fn block(rows: Rows, g: usize, _: *const u8, sink: &mut Sink<S>) {
        unsafe {
            let scales = Scales::<S>::read(rows);
            // Bit i of byte l is the fifth bit of element l of group i.
            let fifth = join(S::quads(rows.add(16)), S::quads(rows.add(32)));
            for i in 0..4 {
                let (l0, h0) = nibbles::<S>(S::quads(rows.add(48 + 32 * i)));
                let (l1, h1) = nibbles::<S>(S::quads(rows.add(64 + 32 * i)));
                let (scale, min) = scales.of(2 * i);
                sink.group_min::<31>(g + 2 * i, &with_bit::<S>(join(l0, l1), fifth, 2 * i), scale, min);
                let (scale, min) = scales.of(2 * i + 1);
                sink.group_min::<31>(g + 2 * i + 1, &with_bit::<S>(join(h0, h1), fifth, 2 * i + 1), scale, min);
            }
        }
    }
}

pub(super) struct Q6K;

impl<S: Simd> Weights<S> for Q6K {
    const GROUPS: usize = 8;
    const BYTES: usize = 210;
    const SIDE: Side = Side::Offset16(32);

    #[inline(always)]
    unsafe fn block(rows: Rows, g: usize, _: *const u8, sink: &mut Sink<S>) {
        unsafe {
            let d = S::halves(rows.add(208));
            let scales = S::quads(rows.add(192));
            let mask = S::splat_byte(0x30);
            for half in 0..2 {
                let high = join(S::quads(rows.add(128 + 32 * half)), S::quads(rows.add(144 + 32 * half)));
                for i in 0..2 {
                    // Columns 32·i.. of this half are the low nibbles of these bytes, columns 64 + 32·i.. the high ones.
                    let low = rows.add(64 * half + 32 * i);
                    let (l0, h0) = nibbles::<S>(S::quads(low));
                    let (l1, h1) = nibbles::<S>(S::quads(low.add(16)));
                    for (mut w, part) in [(join(l0, l1), i), (join(h0, h1), i + 2)] {
                        for (w, high) in w.iter_mut().zip(high) {
                            let up = 4 - 2 * part as i32;
                            let two = if up >= 0 { S::shl(high, up) } else { S::shr(high, -up) };
                            *w = S::or(*w, S::and(two, mask));
                        }
                        let (at, j) = (2 * half + part / 2, part % 2 * 2);
                        let scale = [
                            S::mulf(d, signed_byte::<S>(scales[at], j)),
                            S::mulf(d, signed_byte::<S>(scales[at], j + 1)),
                        ];
                        sink.group16::<63>(g + 4 * half + part, &w, scale);
                    }
                }
            }
        }
    }
}
