//! Kernels for 64-bit Arm.

use crate::kernels::{Isa, Table};

/// The instruction sets of this architecture, the fastest first.
pub(crate) const BEST_FIRST: &[Isa] = &[];

/// The table for `isa`, if this CPU has it.
pub(crate) fn table(_: Isa) -> Option<&'static Table> {
    None
}
