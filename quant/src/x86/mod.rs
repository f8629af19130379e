//! Kernels for x86-64.

use crate::kernels::{Isa, Table};

/// The instruction sets of this architecture, the fastest first.
pub(crate) const BEST_FIRST: &[Isa] = &[Isa::Avx512Vnni, Isa::AvxVnni, Isa::Avx2];

/// The table for `isa`, if this CPU has it.
pub(crate) fn table(_: Isa) -> Option<&'static Table> {
    None
}
