//! NEON with the dot product instructions (Cortex-A76): four products at a time.

use super::blocks::{Block256, HEAD_4_5};
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
    () => {
        "ldp q16, q17, [{a0}], #32\nldp q18, q19, [{a1}], #32\nldp q20, q21, [{a2}], #32\nldp q22, q23, [{a3}], #32\n"
    };
}

/// One group's block of 32: its sums in floats are `$s`.
macro_rules! block_32 {
    ($s0:literal $s1:literal $s2:literal $s3:literal) => {
        concat!(clear!(), sdots!("16" "18" "20" "22"), sdots!("17" "19" "21" "23"),
            "ldr q24, [{d}], #16\nldr q25, [{d_a}]\n",
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
    ($($s:literal)*) => {
        concat!(clear!(), sdots!("16" "18" "20" "22"), sdots!("17" "19" "21" "23"), "ldr q24, [{scales}], #16\n",
            scaled!($($s)*))
    };
}

/// One group's 32 elements in two sub-blocks, whose scales lie 64 bytes apart.
macro_rules! sub_16 {
    ($($s:literal)*) => {
        concat!(clear!(), sdots!("16" "18" "20" "22"), "ldr q24, [{scales}], #16\n", scaled!($($s)*),
            clear!(), sdots!("17" "19" "21" "23"), "ldr q24, [{scales}, #48]\n", scaled!($($s)*))
    };
}

/// Bytes that [`spread`] writes for four blocks of Q8_0.
pub(super) const SPREAD: usize = 192;

/// Lays out a token's int8 for [`rows_of_q8_0`]: `n` times four blocks.
///
/// Four blocks of Q8_0 are 34 words of 4 bytes, each word in one block alone, if scales count as elements that are
/// multiplied by zero. So rows are loaded as they lie, and it is the activations that are moved to the elements'
/// places. Where blocks meet inside a vector, there is one of activations for each.
pub(super) unsafe fn spread(qs: *const i8, n: usize, to: *mut i8) {
    // SAFETY: the caller gives 128 readable and SPREAD writable bytes for each of `n`.
    unsafe {
        let zero = vdupq_n_s8(0);
        for i in 0..n {
            let (qs, to) = (qs.add(128 * i), to.add(SPREAD * i));
            let [[a, b], [c, d], [e, f], [g, h]] = four!(|K| load32(qs.add(32 * K)));
            vst1q_s8_x4(
                to,
                int8x16x4_t(
                    vextq_s8::<14>(zero, a),
                    vextq_s8::<14>(a, b),
                    vextq_s8::<14>(b, zero),
                    vextq_s8::<12>(zero, c),
                ),
            );
            vst1q_s8_x4(
                to.add(64),
                int8x16x4_t(
                    vextq_s8::<12>(c, d),
                    vextq_s8::<12>(d, zero),
                    vextq_s8::<10>(zero, e),
                    vextq_s8::<10>(e, f),
                ),
            );
            vst1q_s8_x4(
                to.add(128),
                int8x16x4_t(
                    vextq_s8::<10>(f, zero),
                    vextq_s8::<8>(zero, g),
                    vextq_s8::<8>(g, h),
                    vextq_s8::<8>(h, zero),
                ),
            );
        }
    }
}

/// One row's four blocks of Q8_0 by the activations in v0 to v11, whose scales are v12, added to `$sum`.
macro_rules! row_of_q8_0 {
    ($row:literal $sum:literal) => {
        concat!(
            "ld1 {{v16.16b, v17.16b, v18.16b, v19.16b}}, [{",
            $row,
            "}], #64\n",
            "ld1 {{v20.16b, v21.16b, v22.16b, v23.16b}}, [{",
            $row,
            "}], #64\n",
            "ldr d15, [{",
            $row,
            "}], #8\n",
            "movi v24.2d, #0\nmovi v25.2d, #0\nmovi v26.2d, #0\nmovi v27.2d, #0\n",
            "sdot v24.4s, v16.16b, v0.16b\nsdot v25.4s, v18.16b, v3.16b\n",
            "sdot v26.4s, v20.16b, v6.16b\nsdot v27.4s, v22.16b, v9.16b\n",
            "sdot v24.4s, v17.16b, v1.16b\nsdot v25.4s, v19.16b, v4.16b\n",
            "sdot v26.4s, v21.16b, v7.16b\nsdot v27.4s, v23.16b, v10.16b\n",
            "sdot v24.4s, v18.16b, v2.16b\nsdot v25.4s, v20.16b, v5.16b\n",
            "sdot v26.4s, v22.16b, v8.16b\nsdot v27.4s, v15.16b, v11.16b\n",
            "bit v16.8b, v18.8b, v13.8b\nbit v20.8b, v22.8b, v13.8b\nbit v16.8b, v20.8b, v14.8b\n",
            "fcvtl v16.4s, v16.4h\n",
            "addp v24.4s, v24.4s, v25.4s\naddp v26.4s, v26.4s, v27.4s\n",
            "fmul v16.4s, v16.4s, v12.4s\n",
            "addp v24.4s, v24.4s, v26.4s\nscvtf v24.4s, v24.4s\n",
            "fmla v",
            $sum,
            ".4s, v24.4s, v16.4s\n"
        )
    };
}

/// Four rows of `n` times four blocks of Q8_0, at least one, by one token: `a` by [`spread`], its scales `d_a`. The lanes of
/// a sum are the blocks 0, 1, 2, 3 modulo 4.
pub(super) unsafe fn rows_of_q8_0(rows: [*const u8; 4], a: *const i8, d_a: *const f32, n: usize) -> [float32x4_t; 4] {
    // The scale of block `k` is lane `k` of the vector where the block begins.
    const ODD: u64 = 0xffff_0000_ffff_0000;
    const UPPER: u64 = 0xffff_ffff_0000_0000;
    // SAFETY: the caller gives the blocks, the activations, and the CPU (see [`super::cpu`]).
    unsafe {
        let zero = vdupq_n_f32(0.0);
        let mut sums = [zero; 4];
        asm!(
            ".arch_extension dotprod",
            "2:",
            "ld1 {{v0.16b, v1.16b, v2.16b, v3.16b}}, [{a}], #64",
            "ld1 {{v4.16b, v5.16b, v6.16b, v7.16b}}, [{a}], #64",
            "ld1 {{v8.16b, v9.16b, v10.16b, v11.16b}}, [{a}], #64",
            "ldr q12, [{d_a}], #16",
            row_of_q8_0!("r0" "28"),
            row_of_q8_0!("r1" "29"),
            row_of_q8_0!("r2" "30"),
            row_of_q8_0!("r3" "31"),
            "subs {n}, {n}, #1",
            "b.ne 2b",
            r0 = inout(reg) rows[0] => _, r1 = inout(reg) rows[1] => _, r2 = inout(reg) rows[2] => _,
            r3 = inout(reg) rows[3] => _, a = inout(reg) a => _, d_a = inout(reg) d_a => _, n = inout(reg) n => _,
            in("v13") vcreate_u8(ODD), in("v14") vcreate_u8(UPPER),
            inout("v28") zero => sums[0], inout("v29") zero => sums[1], inout("v30") zero => sums[2],
            inout("v31") zero => sums[3],
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v15") _, out("v16") _, out("v17") _,
            out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _,
            out("v26") _, out("v27") _,
            options(pure, readonly, nostack)
        );
        sums
    }
}

/// The head of one row's block of Q4_K: sets its running sum `$run` to zero, the steps of its scales `$first` and `$last`,
/// `$sum` to the products of the minima, and lane `$row` of v20 to `d · d_a`, of v2 to `dmin · d_a`. In v22 to v25 is
/// `HEAD_4_5`, in v26 are the sums of the activations, in v27 is `d_a`.
macro_rules! head_of_q4_k {
    ($row:literal $sum:literal $run:literal $first:literal $last:literal) => {
        concat!(
            "ldr q28, [{r",
            $row,
            "}], #16\nmovi v",
            $run,
            ".2d, #0\n",
            "tbl v29.16b, {{v28.16b}}, v22.16b\nfcvtl v28.4s, v28.4h\n",
            "ext v30.16b, v29.16b, v29.16b, #12\nushl v29.16b, v29.16b, v23.16b\n",
            "ushr v30.16b, v30.16b, #2\nand v29.16b, v29.16b, v24.16b\nbit v29.16b, v30.16b, v25.16b\n",
            "fmul v28.4s, v28.4s, v27.4s\n",
            "ext v30.8b, v29.8b, v",
            $run,
            ".8b, #1\nusubl v30.8h, v29.8b, v30.8b\n",
            "sxtl v",
            $first,
            ".4s, v30.4h\nsxtl2 v",
            $last,
            ".4s, v30.8h\n",
            "uxtl2 v29.8h, v29.16b\nsmull v",
            $sum,
            ".4s, v29.4h, v26.4h\nsmlal2 v",
            $sum,
            ".4s, v29.8h, v26.8h\n",
            "mov v20.s[",
            $row,
            "], v28.s[0]\nmov v2.s[",
            $row,
            "], v28.s[1]\n"
        )
    };
}

/// One row's two sub-blocks of Q4_K by the activations in v22 to v25: as in [`DotProd::dots_256`], `$mla` being `mul` in
/// the first.
macro_rules! pair_of_q4_k {
    ($row:literal $mla:literal $run:literal $isum:literal $steps:literal $lane0:literal $lane1:literal) => {
        concat!(
            "ldp q26, q27, [{r",
            $row,
            "}], #32\n",
            "and v28.16b, v26.16b, v21.16b\nand v29.16b, v27.16b, v21.16b\n",
            "ushr v26.16b, v26.16b, #4\nushr v27.16b, v27.16b, #4\n",
            "sdot v",
            $run,
            ".4s, v28.16b, v22.16b\nsdot v",
            $run,
            ".4s, v29.16b, v23.16b\n",
            $mla,
            " v",
            $isum,
            ".4s, v",
            $run,
            ".4s, v",
            $steps,
            ".s[",
            $lane0,
            "]\n",
            "sdot v",
            $run,
            ".4s, v26.16b, v24.16b\nsdot v",
            $run,
            ".4s, v27.16b, v25.16b\n",
            "mla v",
            $isum,
            ".4s, v",
            $run,
            ".4s, v",
            $steps,
            ".s[",
            $lane1,
            "]\n"
        )
    };
}

/// The four sums in v8 to v11 made lanes of v8.
macro_rules! join_four {
    () => {
        "addp v8.4s, v8.4s, v9.4s\naddp v10.4s, v10.4s, v11.4s\naddp v8.4s, v8.4s, v10.4s\nscvtf v8.4s, v8.4s\n"
    };
}

/// Four rows' two sub-blocks.
macro_rules! pairs_of_q4_k {
    ($mla:literal $s0:literal $s1:literal $s2:literal $s3:literal $lane0:literal $lane1:literal) => {
        concat!(
            "ldp q22, q23, [{a}], #32\nldp q24, q25, [{a}], #32\n",
            pair_of_q4_k!("0" $mla "4" "8" $s0 $lane0 $lane1),
            pair_of_q4_k!("1" $mla "5" "9" $s1 $lane0 $lane1),
            pair_of_q4_k!("2" $mla "6" "10" $s2 $lane0 $lane1),
            pair_of_q4_k!("3" $mla "7" "11" $s3 $lane0 $lane1)
        )
    };
}

/// Four rows of `n` blocks of Q4_K, at least one, by one token: its int8 `a`, their scales `d_a` and sums. One
/// piece of `asm!`, because the compiler spills.
pub(super) unsafe fn rows_of_q4_k(
    rows: [*const u8; 4],
    a: *const i8,
    d_a: *const f32,
    a_sums: *const i16,
    n: usize,
) -> float32x4_t {
    // SAFETY: the caller gives the blocks, the activations, and the CPU (see [`super::cpu`]).
    unsafe {
        let (mut sum, mut mins) = (vdupq_n_f32(0.0), vdupq_n_f32(0.0));
        asm!(
            ".arch_extension dotprod",
            "movi v21.16b, #15",
            "2:",
            "ld1 {{v22.16b, v23.16b, v24.16b, v25.16b}}, [{head}]",
            "ldp q26, q27, [{a_sums}], #32",
            "addp v26.8h, v26.8h, v27.8h",
            "ld1r {{v27.4s}}, [{d_a}], #4",
            head_of_q4_k!("0" "8" "4" "12" "16"),
            head_of_q4_k!("1" "9" "5" "13" "17"),
            head_of_q4_k!("2" "10" "6" "14" "18"),
            head_of_q4_k!("3" "11" "7" "15" "19"),
            join_four!(),
            "fmla v1.4s, v8.4s, v2.4s",
            pairs_of_q4_k!("mul" "12" "13" "14" "15" "0" "1"),
            pairs_of_q4_k!("mla" "12" "13" "14" "15" "2" "3"),
            pairs_of_q4_k!("mla" "16" "17" "18" "19" "0" "1"),
            pairs_of_q4_k!("mla" "16" "17" "18" "19" "2" "3"),
            join_four!(),
            "fmla v0.4s, v8.4s, v20.4s",
            "subs {n}, {n}, #1",
            "b.ne 2b",
            r0 = inout(reg) rows[0] => _, r1 = inout(reg) rows[1] => _, r2 = inout(reg) rows[2] => _,
            r3 = inout(reg) rows[3] => _, a = inout(reg) a => _, d_a = inout(reg) d_a => _,
            a_sums = inout(reg) a_sums => _, n = inout(reg) n => _, head = in(reg) HEAD_4_5.as_ptr(),
            inout("v0") sum, inout("v1") mins,
            out("v2") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _, out("v8") _, out("v9") _, out("v10") _,
            out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _,
            out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _, out("v26") _, out("v27") _,
            out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(pure, readonly, nostack)
        );
        vsubq_f32(sum, mins)
    }
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
        unsafe {
            tile_loop!("dotprod", load_tokens!(), block_32, "add {d_a}, {d_a}, #16", vdupq_n_f32(0.0), a, n, q d d_a)
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
            if SUB == 32 {
                tile_loop!("dotprod", load_tokens!(), sub_32, "", vdupq_n_s32(0), a, 8usize, q scales)
            } else {
                tile_loop!("dotprod", load_tokens!(), sub_16, "add {scales}, {scales}, #64", vdupq_n_s32(0), a, 8usize, q scales)
            }
        }
    }
}
