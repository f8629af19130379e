//! Every kernel of every instruction set that this CPU has, against the scalar oracle.

extern crate std;

use crate::act::{ActKind, Acts};
#[cfg(target_arch = "aarch64")]
use crate::arm as arch;
use crate::kernels::{Isa, Kernels, KvFormat, RopeKind, Unary};
use crate::share::Tiles;
#[cfg(target_arch = "x86_64")]
use crate::x86 as arch;
use crate::{Format, oracle};
use half::f16;
use std::vec::Vec;
use std::{println, vec};

mod attend;
mod matmul;
mod vectors;

/// xorshift64*, so that a failure can be made again from the seed in its message.
pub(super) struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// -1..1.
    fn float(&mut self) -> f32 {
        (self.next() % (1 << 24)) as f32 / (1 << 23) as f32 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// The tables that this CPU can run, with their names.
fn tables() -> Vec<(&'static str, Kernels)> {
    let mut all = Vec::new();
    for isa in arch::BEST_FIRST {
        match Kernels::with(*isa) {
            Ok(kernels) => all.push((isa.name(), kernels)),
            Err(missing) => println!("skipped: {missing}"),
        }
    }
    #[cfg(feature = "portable-simd")]
    all.extend(Kernels::with(Isa::Portable).map(|kernels| ("portable", kernels)));
    all.extend(arch::test_table().map(|(name, table)| (name, Kernels::of(table))));
    all
}

/// `n` bytes at an address that is a multiple of 64 plus `off`, with guards on both sides.
pub(super) struct Guarded {
    all: Vec<u8>,
    at: usize,
    n: usize,
}

const GUARD: u8 = 0xa5;

impl Guarded {
    fn new(n: usize, off: usize) -> Guarded {
        let all = vec![GUARD; n + 256];
        let at = 128 - all.as_ptr().addr() % 64 + off;
        Guarded { all, at, n }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.all[self.at..][..self.n]
    }

    fn floats(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.bytes())
    }

    fn check(&self, what: &str) {
        let outside = self.all[..self.at].iter().chain(&self.all[self.at + self.n..]);
        assert!(outside.into_iter().all(|b| *b == GUARD), "{what}: written outside its buffer");
    }
}
