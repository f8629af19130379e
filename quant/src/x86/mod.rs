//! Kernels for x86-64: one source over [`simd::Simd`], compiled once for each instruction set.

mod ahead;
mod attend;
mod attend_one;
mod cpu;
mod dense;
mod float;
mod kweights;
mod matmul;
mod simd;
mod strip;
mod tile;
mod weights;
mod widen;

use crate::kernels::{AttendState, Isa, KvFormat, KvRun, RopeKind, Table, Unary};
use crate::share::OutTile;
use crate::{ActKind, Acts, Format};

/// The instruction sets of this architecture, the fastest first.
pub(crate) const BEST_FIRST: &[Isa] = &[Isa::Avx512Vnni, Isa::AvxVnni, Isa::Avx2];

/// A table that no CPU is given and tests run all the same: AVX-VNNI's kernels in AVX-512's encoding.
#[cfg(test)]
pub(crate) fn test_table() -> Option<(&'static str, &'static Table)> {
    cpu::Avx512::detect().map(|_| ("avx-vnni, EVEX", &avx_vnni_evex::TABLE))
}

/// The table for `isa`, if this CPU has it.
pub(crate) fn table(isa: Isa) -> Option<&'static Table> {
    match isa {
        Isa::Avx2 => cpu::Avx2::detect().map(|_| &avx2::TABLE),
        Isa::AvxVnni if cfg!(feature = "avx-vnni") => cpu::AvxVnni::detect().map(|_| &avx_vnni::TABLE),
        Isa::Avx512Vnni if cfg!(feature = "avx512") => cpu::Avx512::detect().map(|_| &avx512::TABLE),
        _ => None,
    }
}

/// The kernels of one instruction set: each a function with the features on, over one [`simd::Simd`].
macro_rules! instruction_set {
    ($(#[$attr:meta])* $name:ident, $isa:expr, $simd:ty, $features:literal) => {
        $(#[$attr])*
        mod $name {
            use super::*;

            pub(super) static TABLE: Table = Table {
                isa: $isa,
                row_tile: <$simd as simd::Simd>::LANES,
                matmul_scratch: matmul::scratch::<$simd>,
                quantize_act,
                matmul,
                rms_norm,
                layer_norm,
                add_scaled,
                gated,
                unary,
                rope,
                store_kv,
                attend_scratch: attend::scratch::<$simd>,
                attend,
            };

            matmul::dispatch!($simd, $features);

            // SAFETY (of all the functions below): the features are on, and the lengths are those that the methods of
            // `Kernels` check.
            #[target_feature(enable = $features)]
            unsafe fn quantize_act(kind: ActKind, x: &[f32], record: &mut [u8]) {
                unsafe { float::quantize_act::<$simd>(kind, x, record) }
            }
            #[target_feature(enable = $features)]
            unsafe fn rms_norm(x: &[f32], weight: &[u8], eps: f32, out: &mut [f32]) {
                unsafe { float::rms_norm::<$simd>(x, weight, eps, out) }
            }
            #[target_feature(enable = $features)]
            unsafe fn layer_norm(x: &[f32], weight: &[u8], bias: &[u8], eps: f32, out: &mut [f32]) {
                unsafe { float::layer_norm::<$simd>(x, weight, bias, eps, out) }
            }
            #[target_feature(enable = $features)]
            unsafe fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
                unsafe { float::add_scaled::<$simd>(x, y, scale) }
            }
            #[target_feature(enable = $features)]
            unsafe fn gated(f: Unary, gate: &mut [f32], up: &[f32]) {
                unsafe { float::gated::<$simd>(f, gate, up) }
            }
            #[target_feature(enable = $features)]
            unsafe fn unary(f: Unary, x: &mut [f32]) {
                unsafe { float::unary::<$simd>(f, x) }
            }
            #[target_feature(enable = $features)]
            unsafe fn rope(kind: RopeKind, x: &mut [f32], cos: &[f32], sin: &[f32]) {
                unsafe { float::rope::<$simd>(kind, x, cos, sin) }
            }
            #[target_feature(enable = $features)]
            unsafe fn store_kv(format: KvFormat, x: &[f32], out: &mut [u8]) {
                unsafe { float::store_kv::<$simd>(format, x, out) }
            }
            #[target_feature(enable = $features)]
            unsafe fn attend(
                q: &[f32],
                run: &KvRun,
                visible: &[(u32, u32)],
                soft_cap: f32,
                state: &mut AttendState,
                scratch: &mut [f32],
            ) {
                unsafe { attend::attend::<$simd>(q, run, visible, soft_cap, state, scratch) }
            }
        }
    };
}

instruction_set!(avx2, Isa::Avx2, simd::Eight, "avx2,fma,f16c");
instruction_set!(avx_vnni, Isa::AvxVnni, simd::EightVnni, "avx2,fma,f16c,avxvnni");
instruction_set!(avx512, Isa::Avx512Vnni, simd::Wide, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni");
instruction_set!(
    /// What a CPU with AVX-512 but without AVX-VNNI can test of [`avx_vnni`].
    #[cfg(test)]
    avx_vnni_evex,
    Isa::AvxVnni,
    simd::EightVnniEvex,
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
);
