//! A block as the integers that kernels multiply: what an integer kernel must get exactly right.

use super::fit::{self, Even};
use super::{iq4, kquants, legacy};
use crate::Format;

/// One unpacked block. Element `i`, in sub-block `s = i / sub`, is worth
///
/// ```text
/// (d · scales[s]) · q[i] − min · mins[s]
/// ```
///
/// in f32, the products rounded as the brackets say. The formats without a minimum have `min = 0` and
/// `mins = 0`. Q4_1 and Q5_1, whose file holds an offset `m` to be added, have `min = −m` and `mins = 1`.
/// The blocks of 32 elements have one sub-block of scale 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ints {
    /// Elements of the block: 32 or 256.
    pub len: usize,
    /// Elements of a sub-block: 16 or 32.
    pub sub: usize,
    /// `d`, the block's scale.
    pub d: f32,
    /// `dmin`, the scale of the minima.
    pub min: f32,
    /// The elements, `[len]`: signed, offsets taken off (−8 of Q4_0, −32 of Q6_K, the table of IQ4 looked up).
    pub q: [i8; 256],
    /// The sub-blocks' scales, `[len / sub]`, −128 to 127.
    pub scales: [i8; 16],
    /// The sub-blocks' minima, `[len / sub]`, 0 to 63.
    pub mins: [u8; 16],
}

impl Ints {
    /// One sub-block of 32 with scale 1 and no minimum.
    pub(super) fn block32(d: f32) -> Ints {
        Ints { len: 32, sub: 32, d, min: 0.0, q: [0; 256], scales: [1; 16], mins: [0; 16] }
    }

    /// 256 elements in sub-blocks of `sub`, all zero.
    pub(super) fn block256(sub: usize, d: f32, min: f32) -> Ints {
        Ints { len: 256, sub, d, min, q: [0; 256], scales: [0; 16], mins: [0; 16] }
    }

    /// The elements' values; `y` is `[len]`.
    pub fn values(&self, y: &mut [f32]) {
        for (i, y) in y.iter_mut().enumerate().take(self.len) {
            let s = i / self.sub;
            *y = self.d * self.scales[s] as f32 * self.q[i] as f32 - self.min * self.mins[s] as f32;
        }
    }

    /// The two exact sums that a dot product with `len` int8 activations is made of:
    ///
    /// ```text
    /// isum = Σ_s scales[s] · Σ_{i in s} q[i] · a[i]
    /// msum = Σ_s mins[s]   · Σ_{i in s} a[i]
    /// ```
    ///
    /// No i32 overflows, in any order of summation: |isum| ≤ 256 · 2^12 · 128 = 2^27 and
    /// |msum| ≤ 256 · 63 · 128 < 2^21. (|scale · q| ≤ 2^12: Q6_K, whose scales reach 128, has |q| ≤ 32; IQ4_XS, whose
    /// q reach 127, has |scale| ≤ 32.)
    pub fn dot(&self, a: &[i8]) -> (i32, i32) {
        let (mut isum, mut msum) = (0, 0);
        for (s, (q, a)) in self.q[..self.len].chunks(self.sub).zip(a.chunks(self.sub)).enumerate() {
            let products: i32 = q.iter().zip(a).map(|(q, a)| *q as i32 * *a as i32).sum();
            let sum: i32 = a.iter().map(|a| *a as i32).sum();
            isum += self.scales[s] as i32 * products;
            msum += self.mins[s] as i32 * sum;
        }
        (isum, msum)
    }
}

/// Unpacks one block of a quantised format; `block` is `format.block_bytes()` long. F32, F16 and BF16 have no
/// integers: they give an empty block (`len` 0).
pub fn unpack(format: Format, block: &[u8]) -> Ints {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => Ints { len: 0, ..Ints::block32(0.0) },
        Format::Q4_0 => legacy::unpack_q4_0(block),
        Format::Q4_1 => legacy::unpack_q4_1(block),
        Format::Q5_0 => legacy::unpack_q5_0(block),
        Format::Q5_1 => legacy::unpack_q5_1(block),
        Format::Q8_0 => legacy::unpack_q8_0(block),
        Format::Q2_K => kquants::unpack_q2_k(block),
        Format::Q3_K => kquants::unpack_q3_k(block),
        Format::Q4_K => kquants::unpack_q4_k(block),
        Format::Q5_K => kquants::unpack_q5_k(block),
        Format::Q6_K => kquants::unpack_q6_k(block),
        Format::IQ4_NL => iq4::unpack_iq4_nl(block),
        Format::IQ4_XS => iq4::unpack_iq4_xs(block),
    }
}

/// Packs integers into one block of a quantised format: the inverse of [`unpack`]. `ints` must be in the format's
/// ranges (as [`unpack`] and [`fit`] give them); `block` is `format.block_bytes()` long. Does nothing for F32, F16
/// and BF16.
pub fn pack(format: Format, ints: &Ints, block: &mut [u8]) {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => {}
        Format::Q4_0 => legacy::pack_q4_0(ints, block),
        Format::Q4_1 => legacy::pack_q4_1(ints, block),
        Format::Q5_0 => legacy::pack_q5_0(ints, block),
        Format::Q5_1 => legacy::pack_q5_1(ints, block),
        Format::Q8_0 => legacy::pack_q8_0(ints, block),
        Format::Q2_K => kquants::pack_q2_k(ints, block),
        Format::Q3_K => kquants::pack_q3_k(ints, block),
        Format::Q4_K => kquants::pack_q4_k(ints, block),
        Format::Q5_K => kquants::pack_q5_k(ints, block),
        Format::Q6_K => kquants::pack_q6_k(ints, block),
        Format::IQ4_NL => iq4::pack_iq4_nl(ints, block),
        Format::IQ4_XS => iq4::pack_iq4_xs(ints, block),
    }
}

/// The integers of one block that come nearest to the weights `x` (`[format.block_len()]`) in squared error, as far
/// as the search goes. NaN counts as 0; what is too large for the format becomes its largest value.
pub fn fit(format: Format, x: &[f32]) -> Ints {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => Ints { len: 0, ..Ints::block32(0.0) },
        Format::Q4_0 => fit::block::<Even<-8, 7>>(x),
        Format::Q4_1 => fit::offset_block(x, 15.0),
        Format::Q5_0 => fit::block::<Even<-16, 15>>(x),
        Format::Q5_1 => fit::offset_block(x, 31.0),
        Format::Q8_0 => fit::block::<Even<-127, 127>>(x),
        Format::Q2_K => fit::offset_super_block::<16>(x, 3.0, 15.0),
        Format::Q3_K => fit::super_block::<Even<-4, 3>, 16>(x, (-32.0, 31.0)),
        Format::Q4_K => fit::offset_super_block::<32>(x, 15.0, 63.0),
        Format::Q5_K => fit::offset_super_block::<32>(x, 31.0, 63.0),
        Format::Q6_K => fit::super_block::<Even<-32, 31>, 16>(x, (-128.0, 127.0)),
        Format::IQ4_NL => fit::block::<iq4::Table>(x),
        Format::IQ4_XS => fit::super_block::<iq4::Table, 32>(x, (-32.0, 31.0)),
    }
}
