//! The table of kernels, chosen once. The only place that knows CPU features.

use crate::act::{ActKind, Acts};
use crate::share::OutTile;
use crate::{Format, scalar};

/// An instruction set that kernels exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Isa {
    Scalar,
    Avx2,
    AvxVnni,
    Avx512Vnni,
    Neon,
    DotProd,
    I8mm,
    /// `core::simd`, whatever the compiler targets.
    #[cfg(feature = "portable-simd")]
    Portable,
}

impl Isa {
    /// Every one, with the name that `--isa` takes.
    pub const ALL: [(Isa, &'static str); 7 + cfg!(feature = "portable-simd") as usize] = [
        (Isa::Scalar, "scalar"),
        (Isa::Avx2, "avx2"),
        (Isa::AvxVnni, "avx-vnni"),
        (Isa::Avx512Vnni, "avx512-vnni"),
        (Isa::Neon, "neon"),
        (Isa::DotProd, "dotprod"),
        (Isa::I8mm, "i8mm"),
        #[cfg(feature = "portable-simd")]
        (Isa::Portable, "portable"),
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
    F32,
    F16,
    Q8_0,
}

impl KvFormat {
    /// Bytes of one head's vector; `None` if `dim` does not fit the format.
    pub const fn head_bytes(self, dim: usize) -> Option<usize> {
        match self {
            KvFormat::F32 => Some(4 * dim),
            KvFormat::F16 => Some(2 * dim),
            KvFormat::Q8_0 if dim.is_multiple_of(32) => Some(dim / 32 * 34),
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

/// One instruction set's functions. The signatures and duties are those of the methods of [`Kernels`], which check
/// lengths and alignment before they call.
///
/// The functions are `unsafe` because they need the instruction set: a `&'static Table` leaves its module only
/// through `table(isa)`, which gives it out against a proof that this CPU has the instructions.
#[allow(clippy::type_complexity)]
pub(crate) struct Table {
    pub isa: Isa,
    /// Rows that a matmul kernel works on at once; [`Kernels::row_chunk`] answers a multiple of it.
    pub row_tile: usize,
    pub matmul_scratch: fn(Format, usize, usize) -> usize,
    pub quantize_act: unsafe fn(ActKind, &[f32], &mut [u8]),
    pub matmul: unsafe fn(Format, &[u8], &Acts, &mut OutTile, &mut [u8]),
    pub rms_norm: unsafe fn(&[f32], &[u8], f32, &mut [f32]),
    pub layer_norm: unsafe fn(&[f32], &[u8], &[u8], f32, &mut [f32]),
    pub add_scaled: unsafe fn(&mut [f32], &[f32], f32),
    pub gated: unsafe fn(Unary, &mut [f32], &[f32]),
    pub unary: unsafe fn(Unary, &mut [f32]),
    pub rope: unsafe fn(RopeKind, &mut [f32], &[f32], &[f32]),
    pub store_kv: unsafe fn(KvFormat, &[f32], &mut [u8]),
    pub attend_scratch: fn(usize, usize, usize) -> usize,
    pub attend: unsafe fn(&[f32], &KvRun, &[(u32, u32)], f32, &mut AttendState, &mut [f32]),
}

#[cfg(target_arch = "aarch64")]
use crate::arm as arch;
#[cfg(target_arch = "x86_64")]
use crate::x86 as arch;

/// A CPU with scalar kernels only.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod arch {
    pub(crate) const BEST_FIRST: &[super::Isa] = &[];

    pub(crate) fn table(_: super::Isa) -> Option<&'static super::Table> {
        None
    }
}

/// The kernels of one instruction set. Holding a table for an instruction set is the proof that this CPU has
/// it: only [`Kernels::detect`] and [`Kernels::with`] make one, and they ask the CPU.
#[derive(Clone, Copy)]
pub struct Kernels {
    table: &'static Table,
}

impl core::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Kernels({})", self.isa().name())
    }
}

impl Kernels {
    /// The best table for this CPU.
    pub fn detect() -> Kernels {
        #[cfg(feature = "portable-simd")]
        const LAST: &Table = &crate::portable::TABLE;
        #[cfg(not(feature = "portable-simd"))]
        const LAST: &Table = &scalar::TABLE;
        let best = arch::BEST_FIRST.iter().find_map(|isa| arch::table(*isa));
        Kernels { table: best.unwrap_or(LAST) }
    }

    /// The table for `isa`.
    pub fn with(isa: Isa) -> Result<Kernels, IsaMissing> {
        let table = match isa {
            Isa::Scalar => Some(&scalar::TABLE),
            #[cfg(feature = "portable-simd")]
            Isa::Portable => Some(&crate::portable::TABLE),
            _ => arch::table(isa),
        };
        table.map(|table| Kernels { table }).ok_or(IsaMissing(isa))
    }

    /// A table that only tests have.
    #[cfg(test)]
    #[allow(dead_code)]
    pub(crate) fn of(table: &'static Table) -> Kernels {
        Kernels { table }
    }

    /// The instruction set of this table.
    pub fn isa(&self) -> Isa {
        self.table.isa
    }

    /// Rows that a claim of a matmul should cover at least ([`crate::Tiles::tapering`]): a multiple of the kernel's row
    /// tile, sized so that a claim costs little beside its work and the last ones end at about the same time.
    ///
    /// For small batches about 32 KiB of weights; for larger ones an eighth of the matrix, since for each claim the
    /// activations are rearranged.
    pub fn row_chunk(&self, format: Format, rows: usize, cols: usize, tokens: usize) -> usize {
        let bytes = format.row_bytes(cols).unwrap_or(1).max(1);
        let wanted = if tokens > 8 { rows / 8 } else { ((32 << 10) / bytes).min(rows / 16) };
        wanted.div_ceil(self.table.row_tile).max(1) * self.table.row_tile
    }

    /// Bytes of scratch (64-aligned) that one worker's [`Kernels::matmul`] needs for rows of `cols`.
    pub fn matmul_scratch(&self, format: Format, cols: usize, tokens: usize) -> usize {
        (self.table.matmul_scratch)(format, cols, tokens)
    }

    /// Quantises one token's activations into its record (see [`crate::act`]). `x` is `[cols]`.
    ///
    /// Panics if `record` is shorter than the kind's stride or not aligned to 64.
    pub fn quantize_act(&self, kind: ActKind, x: &[f32], record: &mut [u8]) {
        assert!(record.len() >= kind.stride(x.len()) && record.as_ptr().addr().is_multiple_of(64), "activation record");
        // SAFETY: the table is proof of the instruction set.
        unsafe { (self.table.quantize_act)(kind, x, record) }
    }

    /// `out[t][r] = Σ_c w[r][c] · acts[t][c]` for the rows and tokens of the tile. `w` holds exactly those rows,
    /// `format`'s blocks in file order (any alignment); `acts` holds exactly those tokens and has the kind
    /// [`ActKind::of`] that format.
    /// A row's result does not depend on which tile or worker computes it.
    ///
    /// Panics if the format is not built ([`Format::is_built`]), if these shapes disagree, or if `scratch` is not aligned to 64 or is shorter than
    /// [`Kernels::matmul_scratch`] says.
    pub fn matmul(&self, format: Format, w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
        let row_bytes = format.row_bytes(acts.cols).expect("whole blocks in a row");
        assert!(format.is_built(), "a format with kernels");
        assert!(row_bytes.checked_mul(out.rows().len()) == Some(w.len()), "weights of exactly the tile's rows");
        assert!(acts.tokens == out.tokens() && acts.kind == ActKind::of(format), "activations of the tile's tokens");
        let wanted = self.matmul_scratch(format, acts.cols, acts.tokens);
        assert!(
            scratch.len() >= wanted && (wanted == 0 || scratch.as_ptr().addr().is_multiple_of(64)),
            "matmul scratch"
        );
        // SAFETY: the table is proof of the instruction set.
        unsafe { (self.table.matmul)(format, w, acts, out, scratch) }
    }

    /// `out = x / sqrt(mean(x²) + eps) · weight`. `weight` is f32 little-endian bytes `[x.len()]`, any alignment;
    /// empty means 1. Panics if the lengths disagree.
    pub fn rms_norm(&self, x: &[f32], weight: &[u8], eps: f32, out: &mut [f32]) {
        assert!(out.len() == x.len() && (weight.is_empty() || weight.len() == 4 * x.len()), "norm lengths");
        // SAFETY: the table is proof of the instruction set.
        unsafe { (self.table.rms_norm)(x, weight, eps, out) }
    }

    /// `out = (x - mean) / sqrt(var + eps) · weight + bias`; empty weight or bias means none. Panics if the lengths
    /// disagree.
    pub fn layer_norm(&self, x: &[f32], weight: &[u8], bias: &[u8], eps: f32, out: &mut [f32]) {
        assert!(out.len() == x.len() && (weight.is_empty() || weight.len() == 4 * x.len()), "norm lengths");
        assert!(bias.is_empty() || bias.len() == 4 * x.len(), "norm lengths");
        // SAFETY: the table is proof of the instruction set.
        unsafe { (self.table.layer_norm)(x, weight, bias, eps, out) }
    }

    /// `x += y · scale`. Panics if the lengths disagree.
    pub fn add_scaled(&self, x: &mut [f32], y: &[f32], scale: f32) {
        assert!(x.len() == y.len(), "add_scaled lengths");
        // SAFETY: the table is proof of the instruction set.
        unsafe { (self.table.add_scaled)(x, y, scale) }
    }

    /// `gate = f(gate) · up`. Panics if the lengths disagree.
    pub fn gated(&self, f: Unary, gate: &mut [f32], up: &[f32]) {
        assert!(gate.len() == up.len(), "gated lengths");
        // SAFETY: the table is proof of the instruction set.
        unsafe { (self.table.gated)(f, gate, up) }
    }

    /// `x = f(x)`.
    pub fn unary(&self, f: Unary, x: &mut [f32]) {
        // SAFETY: the table is proof of the instruction set.
        unsafe { (self.table.unary)(f, x) }
    }

    /// Rotates one head's first `2 · cos.len()` elements by the angles whose cosines and sines are given. Panics if
    /// the head is shorter or the angles' lengths differ.
    pub fn rope(&self, kind: RopeKind, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert!(cos.len() == sin.len() && x.len() / 2 >= cos.len(), "rope lengths");
        // SAFETY: the table is proof of the instruction set.
        unsafe { (self.table.rope)(kind, x, cos, sin) }
    }

    /// Stores one head's vector in the cache format. Panics unless `out` is `format.head_bytes(x.len())`.
    pub fn store_kv(&self, format: KvFormat, x: &[f32], out: &mut [u8]) {
        assert!(format.head_bytes(x.len()) == Some(out.len()), "store_kv lengths");
        // SAFETY: the table is proof of the instruction set.
        unsafe { (self.table.store_kv)(format, x, out) }
    }

    /// Floats of scratch that [`Kernels::attend`] needs.
    pub fn attend_scratch(&self, queries: usize, key_dim: usize, value_dim: usize) -> usize {
        (self.table.attend_scratch)(queries, key_dim, value_dim)
    }

    /// Attention of `queries` vectors over one run, added to `state`.
    ///
    /// `q` is `[queries, key_dim]`, already rotated and multiplied by the softmax scale. Query `i` sees the slots
    /// `visible[i].0 .. visible[i].1` of the run. `soft_cap > 0` caps logits to `cap · tanh(x / cap)`.
    ///
    /// Panics if the shapes disagree or `scratch` is shorter than [`Kernels::attend_scratch`] says.
    pub fn attend(
        &self,
        q: &[f32],
        run: &KvRun,
        visible: &[(u32, u32)],
        soft_cap: f32,
        state: &mut AttendState,
        scratch: &mut [f32],
    ) {
        let queries = visible.len();
        if queries == 0 || run.slots == 0 {
            return;
        }
        let (key_dim, value_dim) = (q.len() / queries, state.acc.len() / queries);
        assert!(key_dim * queries == q.len() && value_dim * queries == state.acc.len(), "attend shapes");
        assert!(state.max.len() >= queries && state.sum.len() >= queries, "attend state");
        let bytes = |dim| run.format.head_bytes(dim).and_then(|n| n.checked_mul(run.slots));
        assert!(bytes(key_dim) == Some(run.keys.len()) && bytes(value_dim) == Some(run.values.len()), "attend run");
        assert!(scratch.len() >= self.attend_scratch(queries, key_dim, value_dim), "attend scratch");
        // SAFETY: the table is proof of the instruction set.
        unsafe { (self.table.attend)(q, run, visible, soft_cap, state, scratch) }
    }
}
