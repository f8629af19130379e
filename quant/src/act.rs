//! Activations, quantised once per matmul input.
//!
//! A buffer of 64-byte-aligned records, one per token ([`ActKind::stride`] bytes each), so that workers can fill
//! different tokens at once:
//!
//! ```text
//! F32 : values f32 [cols]
//! Q8  : qs i8 [cols] | scales f32 [cols/32]  | sums i16 [cols/16]
//! Q8K : qs i8 [cols] | scales f32 [cols/256] | sums i16 [cols/16]
//! ```
//! `scale = max|x| / 127`, `q = round-half-even(x / scale)` (0 where the scale is 0 or too small to divide by), `sums` are sums of 16
//! successive `q`. Each section starts at a multiple of 64 bytes.
//!
//! A row of weights times a record is a sum over the weights' blocks, in order. A block unpacks to integers
//! ([`crate::oracle::Ints`]: `w`, with one scale and one minimum per sub-block), and gives two sums that are exact in
//! i32 whatever the order of summation; every kernel must get exactly these (or, for Q8K, exactly each sub-block's `Σ w·a`
//! and `Σ a`, and apply the sub-blocks' scales in f32):
//!
//! ```text
//! isum = Σ_sub scale_sub · Σ w·a        msum = Σ_sub min_sub · Σ a
//! Q8  (block of 32)  : sum += (d_w · d_a) · isum − (min_w · d_a) · msum      scale = 1; min = 1 for Q4_1 and Q5_1,
//!                                                                            whose min_w is minus the file's m, else 0
//! Q8K (block of 256) : sum += d_a · (d · isum − dmin · msum)                 min = 0 where the format has none
//! ```
//! How the f32 sum over blocks is ordered is a kernel's own choice, held to a bound.

use crate::Format;

/// How the activations of a matmul are stored, chosen by the weights' format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActKind {
    /// f32, for F32, F16 and BF16 weights.
    F32,
    /// int8 with one scale per 32: for the 32-element formats.
    Q8,
    /// int8 with one scale per 256: for the 256-element formats.
    Q8K,
}

const fn up64(n: usize) -> usize {
    n.div_ceil(64) * 64
}

impl ActKind {
    /// The kind that a weight format multiplies with.
    pub const fn of(format: Format) -> ActKind {
        match format.block_len() {
            1 => ActKind::F32,
            32 => ActKind::Q8,
            _ => ActKind::Q8K,
        }
    }

    /// Elements per scale (1 for F32).
    #[inline]
    pub const fn block(self) -> usize {
        match self {
            ActKind::F32 => 1,
            ActKind::Q8 => 32,
            ActKind::Q8K => 256,
        }
    }

    /// Byte offsets of the scales and the sums in a token's record, and its length.
    #[inline]
    const fn sections(self, cols: usize) -> (usize, usize, usize) {
        match self {
            ActKind::F32 => (up64(4 * cols), up64(4 * cols), up64(4 * cols)),
            _ => {
                let scales = up64(cols);
                let sums = scales + up64(4 * cols.div_ceil(self.block()));
                (scales, sums, sums + up64(2 * cols.div_ceil(16)))
            }
        }
    }

    /// Bytes of one token's record: an odd multiple of 64, so that the same place of successive records falls into
    /// every set of a cache in turn.
    #[inline]
    pub const fn stride(self, cols: usize) -> usize {
        self.sections(cols).2 | 64
    }
}

/// Quantised activations `[tokens, cols]`, read by the matmul kernels.
#[derive(Clone, Copy)]
pub struct Acts<'a> {
    /// How they are stored.
    pub kind: ActKind,
    /// Number of records.
    pub tokens: usize,
    /// Elements of a record.
    pub cols: usize,
    bytes: &'a [u8],
}

impl<'a> Acts<'a> {
    /// A view of `tokens` filled records; `None` if `bytes` is too short or not aligned to 64.
    pub fn new(kind: ActKind, tokens: usize, cols: usize, bytes: &'a [u8]) -> Option<Acts<'a>> {
        let fits = tokens.checked_mul(kind.stride(cols)).is_some_and(|n| n <= bytes.len());
        (fits && bytes.as_ptr().addr().is_multiple_of(64)).then_some(Acts { kind, tokens, cols, bytes })
    }

    #[inline]
    fn record(&self, t: usize) -> &'a [u8] {
        let stride = self.kind.stride(self.cols);
        &self.bytes[t * stride..][..stride]
    }

    /// Token `t`'s f32 values (kind F32).
    #[inline]
    pub fn values(&self, t: usize) -> &'a [f32] {
        bytemuck::cast_slice(&self.record(t)[..4 * self.cols])
    }

    /// Token `t`'s int8 values.
    #[inline]
    pub fn qs(&self, t: usize) -> &'a [i8] {
        bytemuck::cast_slice(&self.record(t)[..self.cols])
    }

    /// Token `t`'s scales, one per block.
    #[inline]
    pub fn scales(&self, t: usize) -> &'a [f32] {
        let at = self.kind.sections(self.cols).0;
        bytemuck::cast_slice(&self.record(t)[at..][..4 * self.cols.div_ceil(self.kind.block())])
    }

    /// Token `t`'s sums of 16 successive values.
    #[inline]
    pub fn sums(&self, t: usize) -> &'a [i16] {
        let at = self.kind.sections(self.cols).1;
        bytemuck::cast_slice(&self.record(t)[at..][..2 * self.cols.div_ceil(16)])
    }
}

/// One token's record, to be written: `(qs, scales, sums)`. `record` is `kind.stride(cols)` bytes aligned to 64.
pub fn record_parts(kind: ActKind, cols: usize, record: &mut [u8]) -> (&mut [i8], &mut [f32], &mut [i16]) {
    let (scales_at, sums_at, _) = kind.sections(cols);
    let (qs, rest) = record.split_at_mut(scales_at);
    let (scales, sums) = rest.split_at_mut(sums_at - scales_at);
    (
        bytemuck::cast_slice_mut(&mut qs[..cols]),
        bytemuck::cast_slice_mut(&mut scales[..4 * cols.div_ceil(kind.block())]),
        bytemuck::cast_slice_mut(&mut sums[..2 * cols.div_ceil(16)]),
    )
}

/// One token's f32 record, to be written.
pub fn record_values(cols: usize, record: &mut [u8]) -> &mut [f32] {
    bytemuck::cast_slice_mut(&mut record[..4 * cols])
}
