//! Numbers: GGML block formats (layout, dequantise, quantise) and the kernels over them.
//!
//! `no_std`, no `alloc`. One file per instruction set, one scalar oracle, one place that chooses
//! ([`Kernels::detect`]). A kernel knows no model.
//!
//! The feature `portable-simd` (nightly compilers only) adds kernels over `core::simd`, for processors that no other
//! kernels are for.
#![no_std]
#![cfg_attr(feature = "portable-simd", feature(portable_simd))]

pub mod act;
#[cfg(target_arch = "aarch64")]
mod arm;
pub mod format;
pub mod kernels;
pub mod oracle;
#[cfg(feature = "portable-simd")]
mod portable;
pub mod scalar;
pub mod share;
#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use act::{ActKind, Acts};
pub use format::Format;
pub use kernels::{AttendState, Isa, IsaMissing, Kernels, KvFormat, KvRun, RopeKind, Unary};
pub use share::{Chunks, OutTile, Tiles};
