//! The super-blocks of 256 elements whose sub-blocks have small integer scales: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K.

// The sub-block number is what a layout is written in.
#![allow(clippy::needless_range_loop)]

use super::f16_at;
use super::ints::Ints;

pub fn unpack_q2_k(b: &[u8]) -> Ints {
    let mut ints = Ints::block256(16, f16_at(b, 80), f16_at(b, 82));
    for s in 0..16 {
        ints.scales[s] = (b[s] & 15) as i8;
        ints.mins[s] = b[s] >> 4;
    }
    for i in 0..256 {
        let (half, lane, at) = (i / 128, i % 128 / 32, i % 32);
        ints.q[i] = (b[16 + 32 * half + at] >> (2 * lane) & 3) as i8;
    }
    ints
}

pub fn unpack_q3_k(b: &[u8]) -> Ints {
    let mut ints = Ints::block256(16, f16_at(b, 108), 0.0);
    let packed = &b[96..108];
    for s in 0..16 {
        let low = packed[s % 8] >> (4 * (s / 8)) & 15;
        let high = packed[8 + s % 4] >> (2 * (s / 4)) & 3;
        ints.scales[s] = (low | high << 4) as i8 - 32;
    }
    for i in 0..256 {
        let (half, lane, at) = (i / 128, i % 128 / 32, i % 32);
        let low = (b[32 + 32 * half + at] >> (2 * lane) & 3) as i8;
        let high = (b[at] >> (i / 32) & 1) as i8;
        ints.q[i] = low + 4 * high - 4;
    }
    ints
}

/// The eight 6-bit scales and minima of Q4_K and Q5_K from their 12 bytes.
fn scales_and_mins(packed: &[u8], ints: &mut Ints) {
    for s in 0..4 {
        ints.scales[s] = (packed[s] & 63) as i8;
        ints.mins[s] = packed[s + 4] & 63;
        ints.scales[s + 4] = (packed[s + 8] & 15 | packed[s] >> 6 << 4) as i8;
        ints.mins[s + 4] = packed[s + 8] >> 4 | packed[s + 4] >> 6 << 4;
    }
}

/// Element `i` of 4-bit data laid in 32-byte runs, each holding one sub-block in its low and the next in its high
/// nibbles.
fn nibble(qs: &[u8], i: usize) -> u8 {
    qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15
}

pub fn unpack_q4_k(b: &[u8]) -> Ints {
    let mut ints = Ints::block256(32, f16_at(b, 0), f16_at(b, 2));
    scales_and_mins(&b[4..16], &mut ints);
    for i in 0..256 {
        ints.q[i] = nibble(&b[16..], i) as i8;
    }
    ints
}

pub fn unpack_q5_k(b: &[u8]) -> Ints {
    let mut ints = Ints::block256(32, f16_at(b, 0), f16_at(b, 2));
    scales_and_mins(&b[4..16], &mut ints);
    for i in 0..256 {
        let high = b[16 + i % 32] >> (i / 32) & 1;
        ints.q[i] = (nibble(&b[48..], i) | high << 4) as i8;
    }
    ints
}

pub fn unpack_q6_k(b: &[u8]) -> Ints {
    let mut ints = Ints::block256(16, f16_at(b, 208), 0.0);
    for s in 0..16 {
        ints.scales[s] = b[192 + s] as i8;
    }
    for i in 0..256 {
        let (half, lane, at) = (i / 128, i % 128 / 32, i % 32);
        let low = b[64 * half + 32 * (lane % 2) + at] >> (4 * (lane / 2)) & 15;
        let high = b[128 + 32 * half + at] >> (2 * lane) & 3;
        ints.q[i] = (low | high << 4) as i8 - 32;
    }
    ints
}
