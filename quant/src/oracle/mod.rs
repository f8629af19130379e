//! The oracle: every format's plain dequantise and quantise. Never optimised; kernels are tested against it.

use crate::Format;
use half::{bf16, f16};

/// Dequantises `src` (whole blocks of `format`) into `dst`.
///
/// Stops at the shorter of the two; lengths are the caller's contract: `src` holds
/// `format.row_bytes(dst.len())` bytes.
pub fn dequantize(format: Format, src: &[u8], dst: &mut [f32]) {
    let (len, bytes) = (format.block_len(), format.block_bytes());
    for (b, y) in src.chunks_exact(bytes).zip(dst.chunks_exact_mut(len)) {
        dequantize_block(format, b, y);
    }
}

fn h(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

fn dequantize_block(format: Format, b: &[u8], y: &mut [f32]) {
    match format {
        Format::F32 => y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        Format::F16 => y[0] = h(b, 0),
        Format::BF16 => y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        Format::Q8_0 => {
            for i in 0..32 {
                y[i] = h(b, 0) * (b[2 + i] as i8) as f32;
            }
        }
        Format::Q4_0 => {
            for i in 0..16 {
                y[i] = h(b, 0) * ((b[2 + i] & 15) as i32 - 8) as f32;
                y[i + 16] = h(b, 0) * ((b[2 + i] >> 4) as i32 - 8) as f32;
            }
        }
        _ => y.fill(0.0), // contract stage: filled in by the format work
    }
}
