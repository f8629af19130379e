//! The 4-bit formats whose elements index a table of unevenly spaced values: IQ4_NL, IQ4_XS.

use super::fit::{Grid, limit};
use super::ints::Ints;
use super::{f16_at, put_f16};

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

/// The table as a grid to fit to.
pub struct Table;

impl Grid for Table {
    const LO: f32 = -127.0;
    const HI: f32 = 113.0;
    const STEP: f32 = 0.03;

    #[inline(always)]
    fn nearest(x: f32) -> f32 {
        // Every midpoint of the table is a multiple of a half: each half has one nearest value.
        let half = (2.0 * (limit(x, Self::LO, Self::HI) - Self::LO)) as usize;
        NEAREST[half % 512] as f32
    }
}

/// The table's value nearest to all of `LO + k/2 .. LO + (k+1)/2`.
const NEAREST: [i8; 512] = {
    let (mut out, mut at, mut k) = ([0; 512], 0, 0);
    while k < 512 {
        // Four times the interval's middle against four times the midpoint, which are whole.
        while at < 15 && 2 * (k as i32 - 254) + 1 > 2 * (IQ4_VALUES[at] as i32 + IQ4_VALUES[at + 1] as i32) {
            at += 1;
        }
        out[k] = IQ4_VALUES[at];
        k += 1;
    }
    out
};

/// The index of a value that is in the table.
fn index(q: i8) -> u8 {
    IQ4_VALUES.iter().take_while(|v| **v < q).count() as u8
}

fn pack_indices(q: &[i8], qs: &mut [u8]) {
    for (i, b) in qs.iter_mut().enumerate() {
        *b = index(q[i]) | index(q[i + 16]) << 4;
    }
}

pub fn pack_iq4_nl(ints: &Ints, b: &mut [u8]) {
    put_f16(b, 0, ints.d);
    pack_indices(&ints.q[..32], &mut b[2..18]);
}

pub fn pack_iq4_xs(ints: &Ints, b: &mut [u8]) {
    put_f16(b, 0, ints.d);
    b[2..8].fill(0);
    for s in 0..8 {
        let scale = (ints.scales[s] + 32) as u8;
        b[2 + s / 4] |= (scale >> 4) << (2 * (s % 4));
        b[4 + s / 2] |= (scale & 15) << (4 * (s % 2));
        pack_indices(&ints.q[32 * s..][..32], &mut b[8 + 16 * s..][..16]);
    }
}
