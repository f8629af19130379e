//! The oracle: every format's plain dequantise and quantise. Kernels are tested against it.
//!
//! The bits of each format are read and written in one file: `legacy` (blocks of 32), `kquants` (super-blocks
//! of 256 with integer sub-scales), `iq4` (4-bit indices into a table). The byte diagrams are in
//! [`crate::format`]. Each of those files *unpacks* a block to integers ([`ints::Ints`]) and packs
//! them; dequantising is one formula over them, and quantising is a search for the best of them (`fit`).

mod fit;
pub mod ints;
mod iq4;
mod kquants;
mod legacy;

use crate::Format;
use half::{bf16, f16};
pub use ints::{Ints, fit, pack, unpack};
pub use iq4::IQ4_VALUES;

/// Dequantises `src` (whole blocks of `format`) into `dst`. The arithmetic is GGML's, without fused operations.
///
/// Stops at the shorter of the two; lengths are the caller's contract: `src` holds
/// `format.row_bytes(dst.len())` bytes.
pub fn dequantize(format: Format, src: &[u8], dst: &mut [f32]) {
    let (len, bytes) = (format.block_len(), format.block_bytes());
    for (b, y) in src.chunks_exact(bytes).zip(dst.chunks_exact_mut(len)) {
        match format {
            Format::F32 => y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Format::F16 => y[0] = f16_at(b, 0),
            Format::BF16 => y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            _ => unpack(format, b).values(y),
        }
    }
}

/// Quantises `src` into whole blocks of `format` at `dst`.
///
/// F32, F16 and BF16 are rounded as IEEE says, so that NaN and infinities pass. The others give the integers of
/// [`fit`]: always finite, whatever the input. Stops at the shorter of the two; lengths are the caller's contract:
/// `dst` holds `format.row_bytes(src.len())` bytes.
pub fn quantize(format: Format, src: &[f32], dst: &mut [u8]) {
    let (len, bytes) = (format.block_len(), format.block_bytes());
    for (x, b) in src.chunks_exact(len).zip(dst.chunks_exact_mut(bytes)) {
        match format {
            Format::F32 => b.copy_from_slice(&x[0].to_le_bytes()),
            Format::F16 => put_f16(b, 0, x[0]),
            Format::BF16 => b.copy_from_slice(&bf16::from_f32(x[0]).to_le_bytes()),
            _ => pack(format, &fit(format, x), b),
        }
    }
}

/// The little-endian f16 at byte `at`.
fn f16_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Writes an f16 at byte `at`.
fn put_f16(b: &mut [u8], at: usize, x: f32) {
    b[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
}
