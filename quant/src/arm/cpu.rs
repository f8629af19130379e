//! What the kernels ask of a CPU generation: int8 dot products by widening multiplies only (Cortex-A53, A72; [`Neon`]),
//! by `sdot` (A76; [`DotProd`]) or by `smmla` (A710, X2 and later; [`I8mm`]).
//!
//! `sdot` and `smmla` come through `asm!` because their intrinsics are not stable. Each piece names its extension to the
//! assembler, so that the functions need no target feature and inline into generic kernels; what stands for the CPU
//! having them is the type: a table of kernels over [`DotProd`] or [`I8mm`] is given out by [`super::table`] alone, after
//! asking the CPU.
//!
//! [`Neon`]: super::neon::Neon
//! [`DotProd`]: super::dotprod::DotProd
//! [`I8mm`]: super::i8mm::I8mm

use super::blocks::Block256;
use core::arch::aarch64::*;

/// An array made element by element, `$i` being a constant in each. (`core::array::map` is not reliably inlined.)
macro_rules! four {
    (|$i:ident| $e:expr) => {
        [four!(@ $i 0 $e), four!(@ $i 1 $e), four!(@ $i 2 $e), four!(@ $i 3 $e)]
    };
    (@ $i:ident $n:literal $e:expr) => {{
        const $i: usize = $n;
        $e
    }};
}

/// The same for two.
macro_rules! two {
    (|$i:ident| $e:expr) => {
        [four!(@ $i 0 $e), four!(@ $i 1 $e)]
    };
}

/// Where sums begin. Loaded four registers at once, they cost fewer instructions than `movi`, and none of the pipes that
/// multiply.
#[repr(align(64))]
pub(super) struct Zeros(#[expect(dead_code, reason = "read by asm")] [i32; 16]);

pub(super) static ZEROS: Zeros = Zeros([0; 16]);

/// The loop of a matrix product over `$n` blocks of 32 elements, two in each round: `$load` brings four tokens' next 32
/// activations (at the given place) to v16 to v23, `$each` adds one group's products to four sums (the last literal counts
/// the groups of a round). The sums, v0 to v15, are the result; all vector registers are in use. Beside the weights at
/// `$q`, which walk, there are what lies `$step` bytes further at `$name` for each block.
///
/// One piece of `asm!`, because 32 registers are just enough and the compiler spills. Two blocks in a round, because
/// addresses that move with each load cost more than those that do not; an odd block comes first, in the middle of a round
/// (pointers begin as much before it).
macro_rules! tile_loop {
    ($extension:literal, $load:ident, $each:ident, $n:expr, $a:ident, $q:ident, $($name:ident $step:literal),*) => {{
        use core::mem::MaybeUninit;
        let mut s = [[MaybeUninit::uninit(); 4]; 4];
        let odd: usize = $n % 2;
        core::arch::asm!(
            concat!(".arch_extension ", $extension),
            "ld1 {{v0.16b, v1.16b, v2.16b, v3.16b}}, [{zeros}]",
            "ld1 {{v4.16b, v5.16b, v6.16b, v7.16b}}, [{zeros}]",
            "ld1 {{v8.16b, v9.16b, v10.16b, v11.16b}}, [{zeros}]",
            "ld1 {{v12.16b, v13.16b, v14.16b, v15.16b}}, [{zeros}]",
            "cbnz {odd}, 3f",
            "2:",
            $load!("#32]"),
            $each!("0" "1" "2" "3", "0"),
            $each!("4" "5" "6" "7", "1"),
            $each!("8" "9" "10" "11", "2"),
            $each!("12" "13" "14" "15", "3"),
            "3:",
            $load!("#64]!"),
            $each!("0" "1" "2" "3", "4"),
            $each!("4" "5" "6" "7", "5"),
            $each!("8" "9" "10" "11", "6"),
            $each!("12" "13" "14" "15", "7"),
            $(concat!("add {", stringify!($name), "}, {", stringify!($name), "}, #2*", $step),)*
            "subs {rounds}, {rounds}, #1",
            "b.ne 2b",
            $q = inout(reg) $q => _,
            $($name = inout(reg) $name.wrapping_byte_sub($step * odd) => _,)*
            rounds = inout(reg) ($n as usize).div_ceil(2) => _,
            odd = in(reg) odd,
            zeros = in(reg) &raw const crate::arm::cpu::ZEROS,
            a0 = inout(reg) $a[0].wrapping_sub(32 + 32 * odd) => _,
            a1 = inout(reg) $a[1].wrapping_sub(32 + 32 * odd) => _,
            a2 = inout(reg) $a[2].wrapping_sub(32 + 32 * odd) => _,
            a3 = inout(reg) $a[3].wrapping_sub(32 + 32 * odd) => _,
            out("v0") s[0][0], out("v1") s[0][1], out("v2") s[0][2], out("v3") s[0][3],
            out("v4") s[1][0], out("v5") s[1][1], out("v6") s[1][2], out("v7") s[1][3],
            out("v8") s[2][0], out("v9") s[2][1], out("v10") s[2][2], out("v11") s[2][3],
            out("v12") s[3][0], out("v13") s[3][1], out("v14") s[3][2], out("v15") s[3][3],
            out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(pure, readonly, nostack)
        );
        four!(|G| four!(|T| s[G][T].assume_init()))
    }};
}

/// v28 to v31 = 0.
macro_rules! clear {
    () => {
        "ld1 {{v28.16b, v29.16b, v30.16b, v31.16b}}, [{zeros}]\n"
    };
}

/// v28 to v31 to floats.
macro_rules! to_floats {
    () => {
        "scvtf v28.4s, v28.4s\nscvtf v29.4s, v29.4s\nscvtf v30.4s, v30.4s\nscvtf v31.4s, v31.4s\n"
    };
}

/// A loop unrolled, `$i` being a constant in each round.
macro_rules! unrolled {
    (|$i:ident| $($n:literal)*, $e:expr) => {
        $({
            const $i: usize = $n;
            $e
        })*
    };
}

pub(super) use {clear, four, tile_loop, to_floats, two, unrolled};

/// Where the f16 scales of blocks of 18 bytes lie.
pub(super) const SCALE_PLACES: u64 = u64::from_le_bytes([0, 1, 18, 19, 36, 37, 54, 55]);

/// 32 int8: elements 0 to 15 and 16 to 31.
pub(super) type Bytes32 = [int8x16_t; 2];

/// Sums of a panel's rows by four tokens: `[group][token]`, the group's rows in lanes. [`Cpu::GROUPS`] of them count.
pub(super) type TileSums<V> = [[V; 4]; 4];

/// Successive blocks of 32 in a panel, and four tokens' activations for them.
#[derive(Clone, Copy)]
pub(super) struct Blocks32 {
    /// Weights, `[block][group]` by [`Cpu::pack`].
    pub q: *const i8,
    /// Their scales, `[block][row]`, each [`Cpu::COPIES`] times.
    pub d: *const f32,
    /// Each token's int8.
    pub a: [*const i8; 4],
    /// The tokens' scales, `[block][4]`: tokens 0 1 2 3, or with two copies 0 1 0 1 2 3 2 3.
    pub d_a: *const f32,
    /// How many blocks, at least one.
    pub n: usize,
}

/// What the products of nibbles with four blocks' activations are too large by, in the two forms that kernels want.
#[derive(Clone, Copy)]
pub(super) struct Offsets {
    /// A block in each lane.
    pub minus: int32x4_t,
    /// Four times four i32 where sums begin: minus it in the first of a block's four, zero in the rest.
    pub starts: *const i32,
}

/// One CPU generation's ways to multiply int8.
///
/// `NARROW` promises that |q| · 127 · 16 fits an i16, for weights in sub-blocks of 32 elements, or |q| · 127 · 8 for
/// those of 16: then a whole sub-block is summed in i16.
pub(super) trait Cpu: Copy {
    /// Groups of four rows that the matrix kernel works on at once, as many as the registers hold.
    const GROUPS: usize;

    /// How often each scale stands in a panel, one after the other.
    const COPIES: usize;

    /// Whether the CPU adds four products at once, of any int8.
    const DOT: bool;

    /// Sums of `q[i] · a[i]` over 32 elements, `i` in 0..4.
    unsafe fn dots_32<const NARROW: bool>(q: [Bytes32; 4], a: [Bytes32; 4]) -> int32x4_t;

    /// `Σ_sub scale · Σ q · a` of one super-block of each of `R` rows in four partial sums, `q` being what
    /// [`Block256::q`] gives, or [`Block256::wide`] with [`Cpu::DOT`].
    unsafe fn dots_256<B: Block256, const R: usize>(
        blocks: [*const u8; R],
        scales: [int8x16_t; R],
        a: *const i8,
    ) -> [int32x4_t; R];

    /// Four blocks of 18 bytes (f16 scale, 16 bytes of nibbles) by 128 activations, a block in each lane: the sum of
    /// the products (nibbles from 0 to 15) less the offsets, times the blocks' scales and `scale`, added to `sum`. Moves
    /// `blocks` behind them.
    unsafe fn add_nibble_blocks(
        sum: float32x4_t,
        blocks: &mut *const u8,
        a: &[Bytes32; 4],
        offsets: &Offsets,
        scale: float32x4_t,
    ) -> float32x4_t;

    /// Writes 32 elements of four rows to a panel (128 bytes) in the order that the products below read.
    unsafe fn pack(rows: [Bytes32; 4], panel: *mut i8);

    /// `Σ_block (d · d_a) · Σ q · a`.
    unsafe fn multiply_32<const NARROW: bool>(blocks: Blocks32) -> TileSums<float32x4_t>;

    /// `Σ_sub scale · Σ q · a` of one super-block of 256, in sub-blocks of `SUB` (16 or 32) elements. `q` is `[32
    /// elements][group]` by [`Cpu::pack`], `scales` `[sub-block][row]`, each [`Cpu::COPIES`] times.
    unsafe fn multiply_256<const SUB: usize, const NARROW: bool>(
        q: *const i8,
        scales: *const i32,
        a: [*const i8; 4],
    ) -> TileSums<int32x4_t>;
}

/// Four vectors of partial sums to one vector of four sums.
#[inline(always)]
pub(super) unsafe fn join(p: [int32x4_t; 4]) -> int32x4_t {
    // SAFETY: baseline NEON.
    unsafe { vpaddq_s32(vpaddq_s32(p[0], p[1]), vpaddq_s32(p[2], p[3])) }
}

#[inline(always)]
pub(super) unsafe fn load32(p: *const i8) -> Bytes32 {
    // SAFETY: the caller gives 32 readable bytes.
    unsafe { [vld1q_s8(p), vld1q_s8(p.add(16))] }
}
