//! NEON with the dot product and int8 matrix instructions (Cortex-A710, X2): 2 × 2 products of eight at a time.

use super::blocks::Block256;
use super::cpu::{Blocks32, Bytes32, Cpu, Offsets, TileSums, clear, four, tile_loop, to_floats, two};
use super::dotprod::DotProd;
use core::arch::aarch64::*;

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct I8mm;

/// Two pairs of rows × 16 elements (the next 64 bytes at `q`) by two pairs of tokens, whose elements are in the registers
/// `$a` (eight of each token of a pair) and `$b` (the next eight), added to v28 to v31: rows 0 and 1 by tokens 0 and 1,
/// rows 2 and 3 by the same, then by tokens 2 and 3.
macro_rules! smmlas {
    ($a0:literal $a1:literal, $b0:literal $b1:literal) => {
        concat!("ld1 {{v24.16b, v25.16b, v26.16b, v27.16b}}, [{q}], #64\n", smmlas!(@ "24" "25" $a0 $a1),
            smmlas!(@ "26" "27" $b0 $b1))
    };
    (@ $w0:literal $w1:literal $a0:literal $a1:literal) => {
        concat!("smmla v28.4s, v", $w0, ".16b, v", $a0, ".16b\n", "smmla v29.4s, v", $w1, ".16b, v", $a0, ".16b\n",
            "smmla v30.4s, v", $w0, ".16b, v", $a1, ".16b\n", "smmla v31.4s, v", $w1, ".16b, v", $a1, ".16b\n")
    };
}

/// 32 activations of two tokens, eight of each in turn, to the registers `$to`.
macro_rules! load_pair {
    ($a:literal $b:literal, $t0:literal $t1:literal $t2:literal $t3:literal, $at:literal) => {
        concat!(
            "ldp q24, q25, [{",
            $a,
            "}, ",
            $at,
            "\nldp q26, q27, [{",
            $b,
            "}, ",
            $at,
            "\n",
            "zip1 v",
            $t0,
            ".2d, v24.2d, v26.2d\nzip2 v",
            $t1,
            ".2d, v24.2d, v26.2d\n",
            "zip1 v",
            $t2,
            ".2d, v25.2d, v27.2d\nzip2 v",
            $t3,
            ".2d, v25.2d, v27.2d\n"
        )
    };
}

/// The next 32 activations of four tokens.
macro_rules! load_tokens {
    ($at:literal) => {
        concat!(load_pair!("a0" "a1", "16" "17" "18" "19", $at), load_pair!("a2" "a3", "20" "21" "22" "23", $at))
    };
}

/// One group's block of 32: its sums in floats are `$s`. The scales are multiplied first, as on the other CPUs.
macro_rules! block_32 {
    ($s0:literal $s1:literal $s2:literal $s3:literal, $i:literal) => {
        concat!(
            clear!(),
            smmlas!("16" "20", "17" "21"),
            smmlas!("18" "22", "19" "23"),
            "ldp q24, q25, [{d}, #32*", $i, "]\nldr q26, [{d_a}, #32*(", $i, "/4)]\n",
            to_floats!(),
            "fmul v27.4s, v24.4s, v26.4s\nfmul v26.4s, v25.4s, v26.4s\n",
            "fmla v", $s0, ".4s, v28.4s, v27.4s\nfmla v", $s1, ".4s, v29.4s, v26.4s\n",
            "ldr q28, [{d_a}, #32*(", $i, "/4)+16]\n",
            "fmul v24.4s, v24.4s, v28.4s\nfmul v25.4s, v25.4s, v28.4s\n",
            "fmla v", $s2, ".4s, v30.4s, v24.4s\nfmla v", $s3, ".4s, v31.4s, v25.4s\n"
        )
    };
}

/// Adds v28 to v31, scaled by v24 and v25, to one group's integer sums.
macro_rules! scaled {
    ($s0:literal $s1:literal $s2:literal $s3:literal) => {
        concat!(
            "mla v",
            $s0,
            ".4s, v28.4s, v24.4s\nmla v",
            $s1,
            ".4s, v29.4s, v25.4s\nmla v",
            $s2,
            ".4s, v30.4s, v24.4s\nmla v",
            $s3,
            ".4s, v31.4s, v25.4s\n"
        )
    };
}

/// One group's 32 elements in one sub-block.
macro_rules! sub_32 {
    ($($s:literal)*, $i:literal) => {
        concat!(clear!(), smmlas!("16" "20", "17" "21"), smmlas!("18" "22", "19" "23"),
            "ldp q24, q25, [{scales}, #32*", $i, "]\n", scaled!($($s)*))
    };
}

/// One group's 32 elements in two sub-blocks, whose scales lie 128 bytes apart.
macro_rules! sub_16 {
    ($($s:literal)*, $i:literal) => {
        concat!(clear!(), smmlas!("16" "20", "17" "21"), "ldp q24, q25, [{scales}, #32*", $i, "+128*(", $i, "/4)]\n",
            scaled!($($s)*), clear!(), smmlas!("18" "22", "19" "23"),
            "ldp q24, q25, [{scales}, #32*", $i, "+128*(", $i, "/4)+128]\n", scaled!($($s)*))
    };
}

/// A group's sums of pairs to rows in lanes: `[token]`.
#[inline(always)]
unsafe fn by_token<V: Copy>(s: [V; 4], even: fn(V, V) -> V, odd: fn(V, V) -> V) -> [V; 4] {
    [even(s[0], s[1]), odd(s[0], s[1]), even(s[2], s[3]), odd(s[2], s[3])]
}

impl Cpu for I8mm {
    const GROUPS: usize = 4;
    const COPIES: usize = 2;
    const DOT: bool = true;

    #[inline(always)]
    unsafe fn dots_32<const NARROW: bool>(q: [Bytes32; 4], a: [Bytes32; 4]) -> int32x4_t {
        // SAFETY: a CPU with i8mm has the dot product.
        unsafe { DotProd::dots_32::<NARROW>(q, a) }
    }

    #[inline(always)]
    unsafe fn add_nibble_blocks(
        sum: float32x4_t,
        blocks: &mut *const u8,
        a: &[Bytes32; 4],
        offsets: &Offsets,
        scale: float32x4_t,
    ) -> float32x4_t {
        // SAFETY: a CPU with i8mm has the dot product.
        unsafe { DotProd::add_nibble_blocks(sum, blocks, a, offsets, scale) }
    }

    #[inline(always)]
    unsafe fn dots_256<B: Block256, const R: usize>(
        blocks: [*const u8; R],
        scales: [int8x16_t; R],
        a: *const i8,
    ) -> [int32x4_t; R] {
        // SAFETY: a CPU with i8mm has the dot product.
        unsafe { DotProd::dots_256::<B, R>(blocks, scales, a) }
    }

    #[inline(always)]
    unsafe fn pack(rows: [Bytes32; 4], panel: *mut i8) {
        // SAFETY: the caller gives 128 writable bytes.
        unsafe {
            // The rows' halves of 8 bytes in turn.
            for (h, q) in two!(|H| four!(|R| vreinterpretq_s64_s8(rows[R][H]))).into_iter().enumerate() {
                vst4q_s64(panel.add(64 * h).cast(), int64x2x4_t(q[0], q[1], q[2], q[3]));
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply_32<const NARROW: bool>(blocks: Blocks32) -> TileSums<float32x4_t> {
        let Blocks32 { q, d, a, d_a, n } = blocks;
        // SAFETY: the caller gives the blocks' places, at least one, and the CPU (see [`super::cpu`]).
        unsafe {
            let sums = tile_loop!("i8mm", load_tokens, block_32, n, a, q, d 128, d_a 32);
            four!(|G| by_token(sums[G], |a, b| vuzp1q_f32(a, b), |a, b| vuzp2q_f32(a, b)))
        }
    }

    #[inline(always)]
    unsafe fn multiply_256<const SUB: usize, const NARROW: bool>(
        q: *const i8,
        scales: *const i32,
        a: [*const i8; 4],
    ) -> TileSums<int32x4_t> {
        // SAFETY: the caller gives a super-block's places, and the CPU (see [`super::cpu`]).
        unsafe {
            let sums = if SUB == 32 {
                tile_loop!("i8mm", load_tokens, sub_32, 8, a, q, scales 128)
            } else {
                tile_loop!("i8mm", load_tokens, sub_16, 8, a, q, scales 256)
            };
            four!(|G| by_token(sums[G], |a, b| vuzp1q_s32(a, b), |a, b| vuzp2q_s32(a, b)))
        }
    }
}
