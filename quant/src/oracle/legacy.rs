//! The blocks of 32 elements with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

use super::f16_at;
use super::ints::Ints;

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
