//! Four rows by one token with the dot product, for the formats where whole loops in `asm!` are worth it: Q8_0 and Q4_K.

use super::blocks::HEAD_4_5;
use super::cpu::{four, load32};
use core::arch::aarch64::*;
use core::arch::asm;

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
/// `$sum` to the products of the minima, and lane `$row` of v20 to `d` and `dmin` as they lie. In v22 to v25 is
/// `HEAD_4_5`, in v26 are the sums of the activations.
macro_rules! head_of_q4_k {
    ($row:literal $sum:literal $run:literal $first:literal $last:literal) => {
        concat!(
            "ldr q28, [{r",
            $row,
            "}], #16\nmovi v",
            $run,
            ".2d, #0\n",
            "tbl v29.16b, {{v28.16b}}, v22.16b\n",
            "ext v30.16b, v29.16b, v29.16b, #12\nushl v29.16b, v29.16b, v23.16b\n",
            "ushr v30.16b, v30.16b, #2\nand v29.16b, v29.16b, v24.16b\nbit v29.16b, v30.16b, v25.16b\n",
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
            "], v28.s[0]\n"
        )
    };
}

/// One row's two sub-blocks of Q4_K by the activations in v22 to v25: as in `DotProd`'s `dots_256`, `$mla` being `mul` in
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
            "fcvtl v2.4s, v20.4h",
            "fcvtl2 v28.4s, v20.8h",
            "uzp1 v20.4s, v2.4s, v28.4s",
            "uzp2 v2.4s, v2.4s, v28.4s",
            "fmul v20.4s, v20.4s, v27.4s",
            "fmul v2.4s, v2.4s, v27.4s",
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
