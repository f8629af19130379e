//! The super-blocks of 256 elements whose sub-blocks have small integer scales: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K.

// The sub-block number is what a layout is written in.
#![allow(clippy::needless_range_loop)]

use super::ints::Ints;
use super::{f16_at, put_f16};

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

/// The 2-bit fields of Q2_K, Q3_K and Q6_K: bits `shift..shift + 2` of every element plus `offset`, into 64 bytes.
fn pack_pairs(ints: &Ints, offset: i8, shift: u32, out: &mut [u8]) {
    out.fill(0);
    for (i, q) in ints.q.iter().enumerate() {
        out[i / 128 * 32 + i % 32] |= ((q + offset) as u8 >> shift & 3) << (2 * (i % 128 / 32));
    }
}

/// Bit `shift` of every element plus `offset`, into 32 bytes.
fn pack_bits(ints: &Ints, offset: i8, shift: u32, out: &mut [u8]) {
    out.fill(0);
    for (i, q) in ints.q.iter().enumerate() {
        out[i % 32] |= ((q + offset) as u8 >> shift & 1) << (i / 32);
    }
}

/// The low four bits of every element, into 128 bytes, as [`nibble`] reads them.
fn pack_nibbles(ints: &Ints, out: &mut [u8]) {
    out.fill(0);
    for (i, q) in ints.q.iter().enumerate() {
        out[i / 64 * 32 + i % 32] |= (*q as u8 & 15) << (i / 32 % 2 * 4);
    }
}

fn pack_scales_and_mins(ints: &Ints, out: &mut [u8]) {
    for s in 0..4 {
        let (scale, min) = (ints.scales[s + 4] as u8, ints.mins[s + 4]);
        out[s] = ints.scales[s] as u8 | scale >> 4 << 6;
        out[s + 4] = ints.mins[s] | min >> 4 << 6;
        out[s + 8] = scale & 15 | min << 4;
    }
}

pub fn pack_q2_k(ints: &Ints, b: &mut [u8]) {
    for s in 0..16 {
        b[s] = ints.scales[s] as u8 | ints.mins[s] << 4;
    }
    pack_pairs(ints, 0, 0, &mut b[16..80]);
    put_f16(b, 80, ints.d);
    put_f16(b, 82, ints.min);
}

pub fn pack_q3_k(ints: &Ints, b: &mut [u8]) {
    pack_bits(ints, 4, 2, &mut b[..32]);
    pack_pairs(ints, 4, 0, &mut b[32..96]);
    b[96..108].fill(0);
    for s in 0..16 {
        let scale = (ints.scales[s] + 32) as u8;
        b[96 + s % 8] |= (scale & 15) << (4 * (s / 8));
        b[104 + s % 4] |= (scale >> 4) << (2 * (s / 4));
    }
    put_f16(b, 108, ints.d);
}

pub fn pack_q4_k(ints: &Ints, b: &mut [u8]) {
    put_f16(b, 0, ints.d);
    put_f16(b, 2, ints.min);
    pack_scales_and_mins(ints, &mut b[4..16]);
    pack_nibbles(ints, &mut b[16..144]);
}

pub fn pack_q5_k(ints: &Ints, b: &mut [u8]) {
    put_f16(b, 0, ints.d);
    put_f16(b, 2, ints.min);
    pack_scales_and_mins(ints, &mut b[4..16]);
    pack_bits(ints, 0, 4, &mut b[16..48]);
    pack_nibbles(ints, &mut b[48..176]);
}

pub fn pack_q6_k(ints: &Ints, b: &mut [u8]) {
    b[..128].fill(0);
    for (i, q) in ints.q.iter().enumerate() {
        let (half, lane, at) = (i / 128, i % 128 / 32, i % 32);
        b[64 * half + 32 * (lane % 2) + at] |= ((q + 32) as u8 & 15) << (4 * (lane / 2));
    }
    pack_pairs(ints, 32, 4, &mut b[128..192]);
    for s in 0..16 {
        b[192 + s] = ints.scales[s] as u8;
    }
    put_f16(b, 208, ints.d);
}
