//! The table of kernels, chosen once. The only place that knows CPU features.

use crate::act::{ActKind, Acts};
use crate::share::OutTile;
use crate::{Format, scalar};

/// An instruction set that kernels exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Isa {
    Scalar,
    Portable,
    Avx2,
    AvxVnni,
    Avx512Vnni,
    Neon,
    DotProd,
    I8mm,
}

impl Isa {
    /// Every one, with the name that `--isa` takes.
    pub const ALL: [(Isa, &'static str); 8] = [
        (Isa::Scalar, "scalar"),
        (Isa::Portable, "portable"),
        (Isa::Avx2, "avx2"),
        (Isa::AvxVnni, "avx-vnni"),
        (Isa::Avx512Vnni, "avx512-vnni"),
        (Isa::Neon, "neon"),
        (Isa::DotProd, "dotprod"),
        (Isa::I8mm, "i8mm"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Isa::ALL.iter().find(|(i, _)| *i == self).map_or("?", |(_, n)| n)
    }

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.iter().find(|(_, n)| *n == name).map(|(i, _)| *i)
    }
}

/// This CPU, or this build, lacks the instruction set that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsaMissing(pub Isa);

impl core::fmt::Display for IsaMissing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "instruction set {}: not on this CPU or not in this build", self.0.name())
    }
}

impl core::error::Error for IsaMissing {}

/// How a pair of elements is chosen for rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeKind {
    /// Neighbours: elements `2i` and `2i + 1`.
    Norm,
    /// Halves: elements `i` and `i + n/2`.
    Neox,
}

/// An elementwise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// `x · sigmoid(x)`.
    Silu,
    /// The tanh form of GELU.
    Gelu,
    /// The exact (erf) form of GELU.
    GeluErf,
    /// `max(x, 0)²`.
    Relu2,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
}

/// How keys and values are stored. Q8_0 is GGML's block of 32: f16 scale, 32 int8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KvFormat {
    F16,
    Q8_0,
}

impl KvFormat {
    /// Bytes of one head's vector; `None` if `dim` does not fit the format.
    pub const fn head_bytes(self, dim: usize) -> Option<usize> {
        match self {
            KvFormat::F16 => Some(2 * dim),
            KvFormat::Q8_0 if dim % 32 == 0 => Some(dim / 32 * 34),
            KvFormat::Q8_0 => None,
        }
    }
}

/// A contiguous run of cached keys and values of one KV head.
#[derive(Clone, Copy)]
pub struct KvRun<'a> {
    /// `[slots, key_dim]` in `format`.
    pub keys: &'a [u8],
    /// `[slots, value_dim]` in `format`.
    pub values: &'a [u8],
    /// Storage of both.
    pub format: KvFormat,
    /// Number of slots.
    pub slots: usize,
}

/// One attention call's running state over runs: for each query its maximum logit, its sum of exponentials
/// and its unnormalised output (online softmax, Milakov & Gimelshein 2018).
pub struct AttendState<'a> {
    /// `[queries]`, starts at `f32::NEG_INFINITY`.
    pub max: &'a mut [f32],
    /// `[queries]`, starts at 0.
    pub sum: &'a mut [f32],
    /// `[queries, value_dim]`, starts at 0.
    pub acc: &'a mut [f32],
}

/// The kernels of one instruction set. Holding a table for an instruction set is the proof that this CPU has
/// it: only [`Kernels::detect`] and [`Kernels::with`] make one, and they ask the CPU.
#[derive(Clone, Copy)]
pub struct Kernels {
    isa: Isa,
}

impl Kernels {
    /// The best table for this CPU.
    pub fn detect() -> Kernels {
        Kernels { isa: Isa::Scalar }
    }

    /// The table for `isa`.
    pub fn with(isa: Isa) -> Result<Kernels, IsaMissing> {
        match isa {
            Isa::Scalar => Ok(Kernels { isa }),
            _ => Err(IsaMissing(isa)),
        }
    }

    /// The instruction set of this table.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Rows that one claim of a matmul should cover: a multiple of the kernel's row tile, sized so that a claim
    /// costs little beside its work and a slow core can take fewer.
    pub fn row_chunk(&self, format: Format, rows: usize, cols: usize, tokens: usize) -> usize {
        let _ = (format, rows, cols, tokens);
        16
    }

    /// Bytes of scratch (64-aligned) that one worker's [`Kernels::matmul`] needs for rows of `cols`.
    pub fn matmul_scratch(&self, format: Format, cols: usize, tokens: usize) -> usize {
        let _ = (format, tokens);
        (4 * cols).div_ceil(64) * 64
    }

    /// Quantises one token's activations into its record (see [`crate::act`]). `x` is `[cols]`.
    pub fn quantize_act(&self, kind: ActKind, x: &[f32], record: &mut [u8]) {
        scalar::quantize_act(kind, x, record)
    }

    /// `out[t][r] = Σ_c w[r][c] · acts[t][c]` for the rows of the tile. `w` holds exactly those rows, `format`'s
    /// blocks in file order (any alignment); `acts` has the kind [`ActKind::of`] that format.
    /// A row's result does not depend on which tile or worker computes it.
    pub fn matmul(&self, format: Format, w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
        scalar::matmul(format, w, acts, out, scratch)
    }

    /// `out = x / sqrt(mean(x²) + eps) · weight`. `weight` is f32 little-endian bytes `[x.len()]`, any alignment;
    /// empty means 1.
    pub fn rms_norm(&self, x: &[f32], weight: &[u8], eps: f32, out: &mut [f32]) {
        scalar::rms_norm(x, weight, eps, out)
    }

    /// [`Kernels::rms_norm`] with `out = x`.
    pub fn rms_norm_in_place(&self, x: &mut [f32], weight: &[u8], eps: f32) {
        scalar::rms_norm_in_place(x, weight, eps)
    }

    /// `out = (x - mean) / sqrt(var + eps) · weight + bias`; empty weight or bias means none.
    pub fn layer_norm(&self, x: &[f32], weight: &[u8], bias: &[u8], eps: f32, out: &mut [f32]) {
        scalar::layer_norm(x, weight, bias, eps, out)
    }

    /// `x += y · scale`.
    pub fn add_scaled(&self, x: &mut [f32], y: &[f32], scale: f32) {
        scalar::add_scaled(x, y, scale)
    }

    /// `gate = f(gate) · up`.
    pub fn gated(&self, f: Unary, gate: &mut [f32], up: &[f32]) {
        scalar::gated(f, gate, up)
    }

    /// `x = f(x)`.
    pub fn unary(&self, f: Unary, x: &mut [f32]) {
        scalar::unary(f, x)
    }

    /// Rotates one head's first `2 · cos.len()` elements by the angles whose cosines and sines are given.
    pub fn rope(&self, kind: RopeKind, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        scalar::rope(kind, x, cos, sin)
    }

    /// Stores one head's vector in the cache format. `out` is `format.head_bytes(x.len())`.
    pub fn store_kv(&self, format: KvFormat, x: &[f32], out: &mut [u8]) {
        scalar::store_kv(format, x, out)
    }

    /// Floats of scratch that [`Kernels::attend`] needs.
    pub fn attend_scratch(&self, queries: usize, key_dim: usize, value_dim: usize) -> usize {
        let _ = (queries, key_dim, value_dim);
        1024
    }

    /// Attention of `queries` vectors over one run, added to `state`.
    ///
    /// `q` is `[queries, key_dim]`, already rotated and multiplied by the softmax scale. Query `i` sees the slots
    /// `visible[i].0 .. visible[i].1` of the run. `soft_cap > 0` caps logits to `cap · tanh(x / cap)`.
    pub fn attend(
        &self,
        q: &[f32],
        run: &KvRun,
        visible: &[(u32, u32)],
        soft_cap: f32,
        state: &mut AttendState,
        scratch: &mut [f32],
    ) {
        scalar::attend(q, run, visible, soft_cap, state, scratch)
    }
}
