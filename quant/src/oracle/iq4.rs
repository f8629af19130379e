//! The 4-bit formats whose elements index a table of unevenly spaced values: IQ4_NL, IQ4_XS.

use super::f16_at;
use super::ints::Ints;

/// What the 4-bit indices stand for, in both formats.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Unpacks 32 elements from 16 bytes: element `i` low nibble, element `i + 16` high nibble of byte `i`.
fn lookup(qs: &[u8], q: &mut [i8]) {
    for i in 0..16 {
        q[i] = IQ4_VALUES[(qs[i] & 15) as usize];
        q[i + 16] = IQ4_VALUES[(qs[i] >> 4) as usize];
    }
}

pub fn unpack_iq4_nl(b: &[u8]) -> Ints {
    let mut ints = Ints::block32(f16_at(b, 0));
    lookup(&b[2..18], &mut ints.q[..32]);
    ints
}

pub fn unpack_iq4_xs(b: &[u8]) -> Ints {
    let mut ints = Ints::block256(32, f16_at(b, 0), 0.0);
    let high = u16::from_le_bytes([b[2], b[3]]);
    for s in 0..8 {
        let low = b[4 + s / 2] >> (4 * (s % 2)) & 15;
        ints.scales[s] = (low | ((high >> (2 * s) & 3) << 4) as u8) as i8 - 32;
        lookup(&b[8 + 16 * s..], &mut ints.q[32 * s..][..32]);
    }
    ints
}
