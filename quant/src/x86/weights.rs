//! Unpacking: from a block column of `LANES` rows to unsigned (or signed) bytes in registers. Here the formats of 32
//! columns; those of 256 are in [`super::kweights`].
//!
//! ```text
//! for each group of 32 columns of the block:
//!     w[j] = bytes 4j..4j+4 of the group, one row per lane          (j = 0..8)
//!     scale, min = one row per lane
//!     hand (w, scale, min) to the sink, which multiplies them with every token
//! ```
//! A weight is `scale · (w - OFFSET) + min`. The blocks are those of GGML; see [`crate::Format`].

use super::simd::{Rows, Simd};
use super::tile::{Side, Sink};

/// One format, for one width of vectors.
pub(super) trait Weights<S: Simd> {
    /// Groups of 32 columns in a block.
    const GROUPS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// What is added per token.
    const SIDE: Side;

    /// Hands the groups of block `b` of the rows to the sink. `head` is what [`Weights::gather`] has
    /// written for this block.
    ///
    /// # Safety
    /// A whole block must be readable at each row; the conditions of [`super::simd`].
    unsafe fn block(rows: Rows, b: usize, head: *const u8, sink: &mut impl Sink<S>);

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
pub(super) use map;

/// Low and high nibbles.
#[inline(always)]
pub(super) unsafe fn nibbles<S: Simd>(q: [S::I; 4]) -> ([S::I; 4], [S::I; 4]) {
    // SAFETY: as the module [`super::simd`] says; so for all blocks of this file, whose reads stay inside a block.
    unsafe {
        let mask = S::splat_byte(15);
        (map!(q, |q| S::and(q, mask)), map!(q, |q| S::and(S::shr(q, 4), mask)))
    }
}

#[inline(always)]
pub(super) fn join<T: Copy>(a: [T; 4], b: [T; 4]) -> [T; 8] {
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}

/// Signed bytes as [`Simd::dot_signed`] takes them.
#[inline(always)]
unsafe fn signed<S: Simd>(w: [S::I; 4]) -> [S::I; 4] {
    // Adding 128 to a byte flips its top bit.
    if S::SIGNED_OFFSET == 0 { w } else { unsafe { map!(w, |w| S::xor(w, S::splat_byte(0x80))) } }
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
    unsafe fn block(rows: Rows, b: usize, head: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            let scale = S::load_f16(head);
            let (low, high) = nibbles::<S>(S::quads(rows.add(2)));
            sink.offset::<15>(b, &join(low, high), scale);
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
    unsafe fn block(rows: Rows, b: usize, head: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            let head = S::load(head);
            let (low, high) = nibbles::<S>(S::quads(rows.add(4)));
            sink.min::<15>(b, &join(low, high), S::low_half(head), S::low_half(S::shr(head, 16)));
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
    unsafe fn block(rows: Rows, b: usize, head: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            let scale = S::load_f16(head);
            let w = five_bits::<S>(S::quads(rows.add(6)), S::load(head.add(2 * S::LANES)));
            sink.offset::<31>(b, &w, scale);
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
    unsafe fn block(rows: Rows, b: usize, head: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            let first = S::load(head);
            let w = five_bits::<S>(S::quads(rows.add(8)), S::load(head.add(4 * S::LANES)));
            sink.min::<31>(b, &w, S::low_half(first), S::low_half(S::shr(first, 16)));
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
    unsafe fn block(rows: Rows, b: usize, head: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            let scale = S::load_f16(head);
            let low = signed::<S>(S::quads(rows.add(2)));
            let high = signed::<S>(S::quads(rows.add(18)));
            sink.signed(b, &join(low, high), scale);
        }
    }
}

/// The values of IQ4_NL and IQ4_XS, as signed bytes plus the offset that the dot product wants.
#[inline(always)]
pub(super) unsafe fn iq4<S: Simd>(q: [S::I; 4]) -> [S::I; 8] {
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
    unsafe fn block(rows: Rows, b: usize, head: *const u8, sink: &mut impl Sink<S>) {
        unsafe {
            let scale = S::load_f16(head);
            sink.signed(b, &iq4::<S>(S::quads(rows.add(2))), scale);
        }
    }
}
