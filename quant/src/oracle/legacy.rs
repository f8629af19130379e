//! The blocks of 32 elements with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

use super::ints::Ints;
use super::{f16_at, put_f16};

/// Element `i` and `i + 16` share byte `i`: low nibble, high nibble.
fn nibbles(qs: &[u8], i: usize) -> i8 {
    (if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 }) as i8
}

/// Bit `i` of the 32-bit little-endian word of fifth bits, in place (0 or 16).
fn fifth_bit(qh: &[u8], i: usize) -> i8 {
    ((qh[i / 8] >> (i % 8) & 1) << 4) as i8
}

pub fn unpack_q4_0(b: &[u8]) -> Ints {
    let mut ints = Ints::block32(f16_at(b, 0));
    for i in 0..32 {
        ints.q[i] = nibbles(&b[2..], i) - 8;
    }
    ints
}

pub fn unpack_q4_1(b: &[u8]) -> Ints {
    let mut ints = Ints { min: -f16_at(b, 2), mins: [1; 16], ..Ints::block32(f16_at(b, 0)) };
    for i in 0..32 {
        ints.q[i] = nibbles(&b[4..], i);
    }
    ints
}

pub fn unpack_q5_0(b: &[u8]) -> Ints {
    let mut ints = Ints::block32(f16_at(b, 0));
    for i in 0..32 {
        ints.q[i] = (nibbles(&b[6..], i) | fifth_bit(&b[2..6], i)) - 16;
    }
    ints
}

pub fn unpack_q5_1(b: &[u8]) -> Ints {
    let mut ints = Ints { min: -f16_at(b, 2), mins: [1; 16], ..Ints::block32(f16_at(b, 0)) };
    for i in 0..32 {
        ints.q[i] = nibbles(&b[8..], i) | fifth_bit(&b[4..8], i);
    }
    ints
}

pub fn unpack_q8_0(b: &[u8]) -> Ints {
    let mut ints = Ints::block32(f16_at(b, 0));
    for i in 0..32 {
        ints.q[i] = b[2 + i] as i8;
    }
    ints
}

/// The low four bits of 32 elements, each plus `offset`, into 16 bytes.
fn pack_nibbles(ints: &Ints, offset: i8, qs: &mut [u8]) {
    for (i, b) in qs.iter_mut().enumerate() {
        *b = (ints.q[i] + offset) as u8 & 15 | ((ints.q[i + 16] + offset) as u8) << 4;
    }
}

/// The fifth bits of 32 elements, each plus `offset`, into 4 bytes.
fn pack_fifth_bits(ints: &Ints, offset: i8, qh: &mut [u8]) {
    qh.fill(0);
    for (i, q) in ints.q[..32].iter().enumerate() {
        qh[i / 8] |= ((q + offset) as u8 >> 4 & 1) << (i % 8);
    }
}

pub fn pack_q4_0(ints: &Ints, b: &mut [u8]) {
    put_f16(b, 0, ints.d);
    pack_nibbles(ints, 8, &mut b[2..]);
}

pub fn pack_q4_1(ints: &Ints, b: &mut [u8]) {
    put_f16(b, 0, ints.d);
    put_f16(b, 2, -ints.min);
    pack_nibbles(ints, 0, &mut b[4..]);
}

pub fn pack_q5_0(ints: &Ints, b: &mut [u8]) {
    put_f16(b, 0, ints.d);
    pack_fifth_bits(ints, 16, &mut b[2..6]);
    pack_nibbles(ints, 16, &mut b[6..]);
}

pub fn pack_q5_1(ints: &Ints, b: &mut [u8]) {
    put_f16(b, 0, ints.d);
    put_f16(b, 2, -ints.min);
    pack_fifth_bits(ints, 0, &mut b[4..8]);
    pack_nibbles(ints, 0, &mut b[8..]);
}

pub fn pack_q8_0(ints: &Ints, b: &mut [u8]) {
    put_f16(b, 0, ints.d);
    for (b, q) in b[2..].iter_mut().zip(&ints.q) {
        *b = *q as u8;
    }
}
