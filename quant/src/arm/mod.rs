//! Kernels for 64-bit Arm: NEON alone (Cortex-A53, A72), with the dot product (A76), with int8 matrices (A710).

mod attend;
mod blocks;
mod cpu;
mod dense;
mod detect;
mod dotprod;
mod dotrows;
mod float;
mod gemm;
mod i8mm;
mod matvec;
mod neon;
mod widening;

use crate::Format;
use crate::act::{ActKind, Acts};
use crate::kernels::{Isa, Table};
use crate::share::OutTile;
use cpu::Cpu;
use dotprod::DotProd;
use i8mm::I8mm;
use neon::Neon;

/// The instruction sets of this architecture, the fastest first.
pub(crate) const BEST_FIRST: &[Isa] = &[Isa::I8mm, Isa::DotProd, Isa::Neon];

/// A table that no CPU is given and tests run all the same.
#[cfg(test)]
pub(crate) fn test_table() -> Option<(&'static str, &'static Table)> {
    None
}

/// The table for `isa`, if this CPU has it.
pub(crate) fn table(isa: Isa) -> Option<&'static Table> {
    match isa {
        Isa::Neon => Some(&NEON),
        Isa::DotProd if cfg!(feature = "dotprod") => detect::features().dotprod.then_some(&DOTPROD),
        Isa::I8mm if cfg!(feature = "i8mm") => (detect::features().dotprod && detect::features().i8mm).then_some(&I8MM),
        _ => None,
    }
}

static NEON: Table = table_of::<Neon>(Isa::Neon);
static DOTPROD: Table = table_of::<DotProd>(Isa::DotProd);
static I8MM: Table = table_of::<I8mm>(Isa::I8mm);

const fn table_of<C: Cpu + 'static>(isa: Isa) -> Table {
    Table {
        isa,
        row_tile: gemm::ROWS,
        matmul_scratch,
        quantize_act: float::quantize_act,
        matmul: matmul::<C>,
        rms_norm: float::rms_norm,
        layer_norm: float::layer_norm,
        add_scaled: float::add_scaled,
        gated: float::gated,
        unary: float::unary,
        rope: float::rope,
        store_kv: float::store_kv,
        attend_scratch: attend::scratch,
        attend: attend::attend,
    }
}

/// See [`crate::Kernels::matmul_scratch`].
fn matmul_scratch(format: Format, cols: usize, tokens: usize) -> usize {
    match ActKind::of(format) {
        ActKind::F32 => 0,
        // A plan for a batch serves a single token as well.
        ActKind::Q8 if tokens > 1 => gemm::SCRATCH.max(matvec::scratch(cols)),
        ActKind::Q8 => matvec::scratch(cols),
        ActKind::Q8K if tokens > 1 => gemm::SCRATCH,
        ActKind::Q8K => 0,
    }
}

/// See [`crate::Kernels::matmul`].
unsafe fn matmul<C: Cpu>(format: Format, w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
    macro_rules! by_blocks {
        ($one:ident, $many:ident, $block:ident) => {
            // SAFETY: the table that holds this function is proof of the CPU; `w`, `acts` and `out` have the shapes
            // and `scratch` the size that `Kernels::matmul` has checked.
            unsafe {
                if acts.tokens == 1 {
                    matvec::$one::<C, blocks::$block>(w, acts, out, scratch)
                } else {
                    gemm::$many::<C, blocks::$block>(w, acts, out, scratch)
                }
            }
        };
    }
    if out.rows().is_empty() || acts.tokens == 0 {
        return;
    }
    match format {
        Format::F32 | Format::F16 | Format::BF16 => {
            // SAFETY: as above; baseline NEON.
            unsafe { dense::matmul(format, w, acts, out) }
        }
        Format::Q4_0 => by_blocks!(matvec_32, gemm_32, Q4_0),
        Format::Q4_1 if Format::Q4_1.is_built() => by_blocks!(matvec_32, gemm_32, Q4_1),
        Format::Q5_0 if Format::Q5_0.is_built() => by_blocks!(matvec_32, gemm_32, Q5_0),
        Format::Q5_1 if Format::Q5_1.is_built() => by_blocks!(matvec_32, gemm_32, Q5_1),
        Format::Q8_0 => by_blocks!(matvec_32, gemm_32, Q8_0),
        Format::IQ4_NL if Format::IQ4_NL.is_built() => by_blocks!(matvec_32, gemm_32, Iq4Nl),
        Format::Q2_K if Format::Q2_K.is_built() => by_blocks!(matvec_256, gemm_256, Q2K),
        Format::Q3_K if Format::Q3_K.is_built() => by_blocks!(matvec_256, gemm_256, Q3K),
        Format::Q4_K if Format::Q4_K.is_built() => by_blocks!(matvec_256, gemm_256, Q4K),
        Format::Q5_K if Format::Q5_K.is_built() => by_blocks!(matvec_256, gemm_256, Q5K),
        Format::Q6_K if Format::Q6_K.is_built() => by_blocks!(matvec_256, gemm_256, Q6K),
        Format::IQ4_XS if Format::IQ4_XS.is_built() => by_blocks!(matvec_256, gemm_256, Iq4Xs),
        // `Kernels::matmul` lets no other through.
        _ => {}
    }
}
