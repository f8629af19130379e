//! NEON with the dot product instructions (Cortex-A76): four products at a time.

use super::blocks::Block256;
use super::cpu::{
    Blocks32, Bytes32, Cpu, Offsets, SCALE_PLACES, TileSums, clear, four, join, load32, tile_loop, to_floats, two,
    unrolled,
};
use core::arch::aarch64::*;
use core::arch::asm;

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct DotProd;

/// Adds to each lane the dot product of its four int8 of `q` and of `a`.
#[inline(always)]
unsafe fn sdot(sum: int32x4_t, q: int8x16_t, a: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: the CPU has the instruction (see [`super::cpu`]); only registers are touched.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {s:v}.4s, {q:v}.16b, {a:v}.16b",
            s = inout(vreg) sum, q = in(vreg) q, a = in(vreg) a,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Adds `x` times one lane of `y`. By `asm!`, because the compiler takes the lane out of what `y` was widened from.
#[inline(always)]
unsafe fn mla_lane<const LANE: usize>(sum: int32x4_t, x: int32x4_t, y: int32x4_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: baseline NEON; only registers are touched.
    unsafe {
        asm!(
            "mla {s:v}.4s, {x:v}.4s, {y:v}.s[{lane}]",
            s = inout(vreg) sum, x = in(vreg) x, y = in(vreg) y, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Each sub-block's scale less the next one's.
#[inline(always)]
unsafe fn steps_down<B: Block256>(scales: int8x16_t) -> [int32x4_t; 4] {
    // SAFETY: baseline NEON.
    unsafe {
        if B::SUB == 32 {
            let low = vget_low_s8(scales);
            let steps = vsubl_s8(low, vext_s8::<1>(low, vdup_n_s8(0)));
            let (first, last) = (vmovl_s16(vget_low_s16(steps)), vmovl_high_s16(steps));
            return [first, last, first, last];
        }
        let next = vextq_s8::<1>(scales, vdupq_n_s8(0));
        let (low, high) = (vsubl_s8(vget_low_s8(scales), vget_low_s8(next)), vsubl_high_s8(scales, next));
        [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)]
    }
}

/// Four rows × 16 elements (the next 64 bytes at `q`) by four tokens, whose elements are in the registers `$a`, added to
/// v28 to v31, a token in each.
macro_rules! sdots {
    ($($a:literal)*) => {
        concat!("ld1 {{v24.16b, v25.16b, v26.16b, v27.16b}}, [{q}], #64\n", sdots!(@ "24" "0" $($a)*),
            sdots!(@ "25" "1" $($a)*), sdots!(@ "26" "2" $($a)*), sdots!(@ "27" "3" $($a)*))
    };
    (@ $w:literal $lane:literal $a0:literal $a1:literal $a2:literal $a3:literal) => {
        concat!("sdot v28.4s, v", $w, ".16b, v", $a0, ".4b[", $lane, "]\n", "sdot v29.4s, v", $w, ".16b, v", $a1, ".4b[",
            $lane, "]\n", "sdot v30.4s, v", $w, ".16b, v", $a2, ".4b[", $lane, "]\n", "sdot v31.4s, v", $w, ".16b, v", $a3,
            ".4b[", $lane, "]\n")
    };
}

/// The next 32 activations of four tokens to v16 and v17, v18 and v19, …
macro_rules! load_tokens {
    ($at:literal) => {
        concat!(
            "ldp q16, q17, [{a0}, ",
            $at,
            "\nldp q18, q19, [{a1}, ",
            $at,
            "\nldp q20, q21, [{a2}, ",
            $at,
            "\nldp q22, q23, [{a3}, ",
            $at,
            "\n"
        )
    };
}

/// One group's block of 32: its sums in floats are `$s`.
macro_rules! block_32 {
    ($s0:literal $s1:literal $s2:literal $s3:literal, $i:literal) => {
        concat!(clear!(), sdots!("16" "18" "20" "22"), sdots!("17" "19" "21" "23"),
            "ldr q24, [{d}, #16*", $i, "]\nldr q25, [{d_a}, #16*(", $i, "/4)]\n",
            to_floats!(),
            "fmul v26.4s, v24.4s, v25.s[0]\nfmul v27.4s, v24.4s, v25.s[1]\n",
            "fmla v", $s0, ".4s, v28.4s, v26.4s\nfmla v", $s1, ".4s, v29.4s, v27.4s\n",
            "fmul v26.4s, v24.4s, v25.s[2]\nfmul v27.4s, v24.4s, v25.s[3]\n",
            "fmla v", $s2, ".4s, v30.4s, v26.4s\nfmla v", $s3, ".4s, v31.4s, v27.4s\n")
    };
}

/// Adds v28 to v31, scaled by the four scales at `scale`, to one group's integer sums.
macro_rules! scaled {
    ($s0:literal $s1:literal $s2:literal $s3:literal) => {
        concat!(
            "mla v",
            $s0,
            ".4s, v28.4s, v24.4s\nmla v",
            $s1,
            ".4s, v29.4s, v24.4s\nmla v",
            $s2,
            ".4s, v30.4s, v24.4s\nmla v",
            $s3,
            ".4s, v31.4s, v24.4s\n"
        )
    };
}

/// One group's 32 elements in one sub-block.
macro_rules! sub_32 {
    ($($s:literal)*, $i:literal) => {
        concat!(clear!(), sdots!("16" "18" "20" "22"), sdots!("17" "19" "21" "23"), "ldr q24, [{scales}, #16*", $i, "]\n",
            scaled!($($s)*))
    };
}

/// One group's 32 elements in two sub-blocks, whose scales lie 64 bytes apart.
macro_rules! sub_16 {
    ($($s:literal)*, $i:literal) => {
        concat!(clear!(), sdots!("16" "18" "20" "22"), "ldr q24, [{scales}, #16*", $i, "+64*(", $i, "/4)]\n",
            scaled!($($s)*), clear!(), sdots!("17" "19" "21" "23"),
            "ldr q24, [{scales}, #16*", $i, "+64*(", $i, "/4)+64]\n", scaled!($($s)*))
    };
}

impl Cpu for DotProd {
    const GROUPS: usize = 4;
    const COPIES: usize = 1;
    const DOT: bool = true;

    #[inline(always)]
    unsafe fn dots_32<const NARROW: bool>(q: [Bytes32; 4], a: [Bytes32; 4]) -> int32x4_t {
        // SAFETY: as for sdot.
        unsafe { join(four!(|I| sdot(sdot(vdupq_n_s32(0), q[I][0], a[I][0]), q[I][1], a[I][1]))) }
    }

    #[inline(always)]
    unsafe fn add_nibble_blocks(
        sum: float32x4_t,
        blocks: &mut *const u8,
        a: &[Bytes32; 4],
        offsets: &Offsets,
        scale: float32x4_t,
    ) -> float32x4_t {
        let mut sum = sum;
        // The scales are picked out of the first 64 of the 72 bytes. One piece of `asm!`: the compiler takes `addp` apart here.
        // SAFETY: the caller gives four blocks, and the CPU (see [`super::cpu`]).
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "ld1 {{v28.16b, v29.16b, v30.16b, v31.16b}}, [{p}], {step}",
                "ldur {x0:q}, [{p}, #-70]",
                "ldur {x1:q}, [{p}, #-52]",
                "ldur {x2:q}, [{p}, #-34]",
                "ldur {x3:q}, [{p}, #-16]",
                "tbl {d:v}.8b, {{v28.16b, v29.16b, v30.16b, v31.16b}}, {places:v}.8b",
                "ld1 {{v28.4s, v29.4s, v30.4s, v31.4s}}, [{starts}]",
                "and {y0:v}.16b, {x0:v}.16b, {low:v}.16b",
                "and {y1:v}.16b, {x1:v}.16b, {low:v}.16b",
                "and {y2:v}.16b, {x2:v}.16b, {low:v}.16b",
                "and {y3:v}.16b, {x3:v}.16b, {low:v}.16b",
                "fcvtl {d:v}.4s, {d:v}.4h",
                "ushr {x0:v}.16b, {x0:v}.16b, #4",
                "ushr {x1:v}.16b, {x1:v}.16b, #4",
                "ushr {x2:v}.16b, {x2:v}.16b, #4",
                "ushr {x3:v}.16b, {x3:v}.16b, #4",
                "sdot v28.4s, {y0:v}.16b, {a00:v}.16b",
                "sdot v29.4s, {y1:v}.16b, {a10:v}.16b",
                "sdot v30.4s, {y2:v}.16b, {a20:v}.16b",
                "sdot v31.4s, {y3:v}.16b, {a30:v}.16b",
                "fmul {d:v}.4s, {d:v}.4s, {scale:v}.4s",
                "sdot v28.4s, {x0:v}.16b, {a01:v}.16b",
                "sdot v29.4s, {x1:v}.16b, {a11:v}.16b",
                "sdot v30.4s, {x2:v}.16b, {a21:v}.16b",
                "sdot v31.4s, {x3:v}.16b, {a31:v}.16b",
                "addp v28.4s, v28.4s, v29.4s",
                "addp v30.4s, v30.4s, v31.4s",
                "addp v28.4s, v28.4s, v30.4s",
                "scvtf v28.4s, v28.4s",
                "fmla {sum:v}.4s, v28.4s, {d:v}.4s",
                p = inout(reg) *blocks, sum = inout(vreg) sum, scale = in(vreg) scale,
                starts = in(reg) offsets.starts, step = in(reg) 72usize,
                places = in(vreg) vcreate_u8(SCALE_PLACES), low = in(vreg) vdupq_n_u8(15),
                a00 = in(vreg) a[0][0], a01 = in(vreg) a[0][1],
                a10 = in(vreg) a[1][0], a11 = in(vreg) a[1][1],
                a20 = in(vreg) a[2][0], a21 = in(vreg) a[2][1],
                a30 = in(vreg) a[3][0], a31 = in(vreg) a[3][1],
                d = out(vreg) _,
                x0 = out(vreg) _, y0 = out(vreg) _,
                x1 = out(vreg) _, y1 = out(vreg) _,
                x2 = out(vreg) _, y2 = out(vreg) _,
                x3 = out(vreg) _, y3 = out(vreg) _,
                out("v28") _, out("v29") _, out("v30") _, out("v31") _,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        sum
    }

    #[inline(always)]
    unsafe fn dots_256<B: Block256, const R: usize>(
        blocks: [*const u8; R],
        scales: [int8x16_t; R],
        a: *const i8,
    ) -> [int32x4_t; R] {
        // Sums of products run on from sub-block to sub-block, S₀, S₁, …, instead of beginning at zero in each:
        // Σ s · (S − S before) = Σ S · (s − s next).
        // SAFETY: as for sdot; the caller gives whole blocks and 256 activations.
        unsafe {
            let zero = vdupq_n_s32(0);
            let (mut runs, mut sums, mut steps) = ([zero; R], [zero; R], [[zero; 4]; R]);
            for r in 0..R {
                steps[r] = steps_down::<B>(scales[r]);
            }
            unrolled!(|J| 0 1 2 3 4 5 6 7, {
                let a = load32(a.add(32 * J));
                for r in 0..R {
                    let q = B::wide(blocks[r], J);
                    runs[r] = sdot(runs[r], q[0], a[0]);
                    if B::SUB == 16 {
                        sums[r] = mla_lane::<{ 2 * J % 4 }>(sums[r], runs[r], steps[r][J / 2]);
                    }
                    runs[r] = sdot(runs[r], q[1], a[1]);
                    sums[r] = if B::SUB == 16 {
                        mla_lane::<{ 2 * J % 4 + 1 }>(sums[r], runs[r], steps[r][J / 2])
                    } else {
                        mla_lane::<{ J % 4 }>(sums[r], runs[r], steps[r][J / 4])
                    };
                }
            });
            sums
        }
    }

    #[inline(always)]
    unsafe fn pack(rows: [Bytes32; 4], panel: *mut i8) {
        // SAFETY: the caller gives 128 writable bytes.
        unsafe {
            // The rows' words of 4 bytes in turn.
            for (h, q) in two!(|H| four!(|R| vreinterpretq_s32_s8(rows[R][H]))).into_iter().enumerate() {
                vst4q_s32(panel.add(64 * h).cast(), int32x4x4_t(q[0], q[1], q[2], q[3]));
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply_32<const NARROW: bool>(blocks: Blocks32) -> TileSums<float32x4_t> {
        let Blocks32 { q, d, a, d_a, n } = blocks;
        // SAFETY: the caller gives the blocks' places, at least one, and the CPU (see [`super::cpu`]).
        unsafe { tile_loop!("dotprod", load_tokens, block_32, n, a, q, d 64, d_a 16) }
    }

    #[inline(always)]
    unsafe fn multiply_256<const SUB: usize, const NARROW: bool>(
        q: *const i8,
        scales: *const i32,
        a: [*const i8; 4],
    ) -> TileSums<int32x4_t> {
        // SAFETY: the caller gives a super-block's places, and the CPU (see [`super::cpu`]).
        unsafe {
            if SUB == 32 {
                tile_loop!("dotprod", load_tokens, sub_32, 8, a, q, scales 64)
            } else {
                tile_loop!("dotprod", load_tokens, sub_16, 8, a, q, scales 128)
            }
        }
    }
}
