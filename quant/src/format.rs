//! The block formats of GGML tensors: their numbers in a GGUF file, their sizes and their bytes.
//!
//! A row is a whole number of blocks; blocks follow one another with no padding. Numbers are little-endian, `f16` is
//! IEEE binary16. `lo`/`hi` are a byte's low and high nibble; `bits[a..b]` counts from the least significant.
//! Offsets on the left are bytes. `q` below is the stored unsigned field.
//!
//! Blocks of 32 elements, one scale:
//!
//! ```text
//! Q4_0   0 f16 d | 2 qs[16]                          y[i] = d · (lo qs[i] − 8)     y[i+16] = d · (hi qs[i] − 8)
//! Q4_1   0 f16 d | 2 f16 m | 4 qs[16]                y[i] = d · lo qs[i] + m       y[i+16] = d · hi qs[i] + m
//! Q5_0   0 f16 d | 2 u32 qh | 6 qs[16]               as Q4_0 with bit i of qh as fifth bit of element i, minus 16
//! Q5_1   0 f16 d | 2 f16 m | 4 u32 qh | 8 qs[16]     as Q4_1 with bit i of qh as fifth bit of element i
//! Q8_0   0 f16 d | 2 i8 qs[32]                       y[i] = d · qs[i]
//! IQ4_NL 0 f16 d | 2 qs[16]                          y[i] = d · T[lo qs[i]]        y[i+16] = d · T[hi qs[i]]
//! ```
//!
//! Super-blocks of 256 elements. Element `i` is in sub-block `s = i / 16` (Q2_K, Q3_K, Q6_K) or `i / 32` (the rest).
//! The 2-bit fields of elements `32·l + k` (`l` 0..4) of each half of 128 lie in one byte `k`, at bits `[2l..2l+2]`:
//!
//! ```text
//! Q2_K     0 scales[16]   scale s = lo, min s = hi
//!         16 qs[64]       q = 2-bit fields, 32 bytes for each half
//!         80 f16 d | 82 f16 dmin                     y = d · scale · q − dmin · min
//! Q3_K     0 hmask[32]    bit i/32 of byte i%32 is the third bit of element i
//!         32 qs[64]       low two bits, as Q2_K
//!         96 scales[12]   6 bits: low four of s: byte s%8 (lo for s < 8, else hi); high two: byte 8 + s%4 at 2·(s/4)
//!        108 f16 d                                   y = d · (scale − 32) · (q − 4)
//! Q4_K     0 f16 d | 2 f16 dmin
//!          4 scales[12]   6 bits: s < 4: scale = bits[0..6] of byte s, min = bits[0..6] of byte s+4
//!                                 s ≥ 4: low four: lo (scale) and hi (min) of byte s+4; high two: bits[6..8] of
//!                                        byte s−4 (scale) and s (min)
//!         16 qs[128]      32 bytes for each pair of sub-blocks: lo is the even one, hi the odd one
//!                                                    y = d · scale · q − dmin · min
//! Q5_K     0 f16 d | 2 f16 dmin | 4 scales[12]       as Q4_K
//!         16 qh[32]       bit i/32 of byte i%32 is the fifth bit of element i
//!         48 qs[128]      as Q4_K
//! Q6_K     0 ql[128]      64 bytes for each half: lanes 0, 1 in lo of bytes 0..32, 32..64; lanes 2, 3 in their hi
//!        128 qh[64]       high two bits, laid as Q2_K's qs
//!        192 i8 scales[16]
//!        208 f16 d                                   y = d · scale · (q − 32)
//! IQ4_XS   0 f16 d | 2 u16 high | 4 low[4]           scale s = (nibble s of low) + 16 · (bits[2s..2s+2] of high)
//!          8 qs[128]      16 bytes for each sub-block, laid as IQ4_NL
//!                                                    y = d · (scale − 32) · T[q]
//! ```
//!
//! `T` is [`crate::oracle::IQ4_VALUES`].

/// A tensor's element type, as GGUF numbers it (`ggml_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, missing_docs)]
#[repr(u32)]
pub enum Format {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ4_NL = 20,
    IQ4_XS = 23,
    BF16 = 30,
}

impl Format {
    /// Every supported format, in the order of their GGUF numbers.
    pub const ALL: [Format; 15] = [
        Format::F32,
        Format::F16,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q2_K,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
        Format::IQ4_NL,
        Format::IQ4_XS,
        Format::BF16,
    ];

    /// The format with this GGUF number, if it is supported.
    pub fn from_id(id: u32) -> Option<Format> {
        Format::ALL.into_iter().find(|f| *f as u32 == id)
    }

    /// Whether this build has kernels for it: see the crate's features.
    pub const fn is_built(self) -> bool {
        use Format::*;
        match self {
            F32 | F16 | BF16 | Q4_0 | Q8_0 => true,
            Q4_1 | Q5_0 | Q5_1 => cfg!(feature = "legacy"),
            Q2_K | Q3_K | Q4_K | Q5_K | Q6_K => cfg!(feature = "k-quants"),
            IQ4_NL | IQ4_XS => cfg!(feature = "iq4"),
        }
    }

    /// Elements in one block.
    pub const fn block_len(self) -> usize {
        use Format::*;
        match self {
            F32 | F16 | BF16 => 1,
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | IQ4_NL => 32,
            Q2_K | Q3_K | Q4_K | Q5_K | Q6_K | IQ4_XS => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        use Format::*;
        match self {
            F32 => 4,
            F16 | BF16 => 2,
            Q4_0 | IQ4_NL => 18,
            Q4_1 => 20,
            Q5_0 => 22,
            Q5_1 => 24,
            Q8_0 => 34,
            Q2_K => 84,
            Q3_K => 110,
            Q4_K => 144,
            Q5_K => 176,
            Q6_K => 210,
            IQ4_XS => 136,
        }
    }

    /// Bytes of a row of `cols` elements; `None` if `cols` is not a whole number of blocks or the size overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The name that `llama.cpp` and this project print: `Q4_K`, `F16`…
    pub const fn name(self) -> &'static str {
        use Format::*;
        match self {
            F32 => "F32",
            F16 => "F16",
            Q4_0 => "Q4_0",
            Q4_1 => "Q4_1",
            Q5_0 => "Q5_0",
            Q5_1 => "Q5_1",
            Q8_0 => "Q8_0",
            Q2_K => "Q2_K",
            Q3_K => "Q3_K",
            Q4_K => "Q4_K",
            Q5_K => "Q5_K",
            Q6_K => "Q6_K",
            IQ4_NL => "IQ4_NL",
            IQ4_XS => "IQ4_XS",
            BF16 => "BF16",
        }
    }
}
