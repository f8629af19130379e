//! Kernels over `core::simd`, for whatever the compiler targets: no intrinsics, no `unsafe`. Needs a nightly compiler
//! and the feature `portable-simd`.
//!
//! They are built for the target's baseline (SSE2 on x86-64), or for what `-C target-cpu` adds to it.

mod attend;
mod float;
mod matmul;

use crate::kernels::{Isa, Table};
use core::simd::prelude::*;

/// Eight floats: two registers of the smallest sets, one of the larger.
type Floats = f32x8;
const LANES: usize = 8;

pub(crate) static TABLE: Table = Table {
    isa: Isa::Portable,
    row_tile: 1,
    matmul_scratch: matmul::scratch,
    quantize_act: float::quantize_act,
    matmul: matmul::matmul,
    rms_norm: float::rms_norm,
    layer_norm: float::layer_norm,
    add_scaled: float::add_scaled,
    gated: float::gated,
    unary: float::unary,
    rope: float::rope,
    store_kv: float::store_kv,
    attend_scratch: attend::scratch,
    attend: attend::attend,
};

/// Eight little-endian elements of `N` bytes each, the missing ones zero.
#[inline(always)]
fn load<const N: usize, T: Default + core::simd::SimdElement>(
    from: &[[u8; N]],
    read: impl Fn([u8; N]) -> T,
) -> Simd<T, LANES> {
    match from.first_chunk::<LANES>() {
        Some(from) => Simd::from_array(from.map(read)),
        None => Simd::from_array(core::array::from_fn(|i| from.get(i).map_or(T::default(), |b| read(*b)))),
    }
}

/// Stores as many lanes as `to` has places.
#[inline(always)]
fn store(to: &mut [f32], x: Floats) {
    match to.first_chunk_mut::<LANES>() {
        Some(to) => *to = x.to_array(),
        None => to.copy_from_slice(&x.to_array()[..to.len()]),
    }
}

/// f16 to f32: the exponent is put right by a multiplication, which subnormals survive; infinity and NaN apart.
#[inline(always)]
fn widen(x: u16x8) -> Floats {
    let x = x.cast::<u32>();
    let size = (x & u32x8::splat(0x7fff)) << u32x8::splat(13);
    let scaled = Floats::from_bits(size) * Floats::splat(f32::from_bits((127 + 112) << 23));
    let special = size.simd_ge(u32x8::splat(0x7c00 << 13));
    let bits = special.select(size | u32x8::splat(0x7f80_0000), scaled.to_bits());
    Floats::from_bits(bits | (x & u32x8::splat(0x8000)) << u32x8::splat(16))
}
