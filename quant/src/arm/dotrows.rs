//! Four rows by one token with the dot product, for the formats where whole loops in `asm!` are worth it: Q8_0 and Q4_K.

use super::blocks::HEAD_4_5;
use super::cpu::{four, join, load32};
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

/// `$sum` += products of fours of `$q` and `$a`.
macro_rules! sdot {
    ($sum:literal $q:literal $a:literal) => {
        concat!("sdot v", $sum, ".4s, v", $q, ".16b, v", $a, ".16b\n")
    };
}

/// Row `$row`'s four blocks of Q8_0 by the activations in v0 to v11, whose scales are v12: products to v24 to v27, scales to
/// v13. Those of the row before are added to `$sum`. A row's first 64 bytes have been loaded one row early, and those of
/// `$next` are. In an order that costs the in-order A55 little and others nothing.
#[rustfmt::skip]
macro_rules! row_of_q8_0 {
    ($row:literal $next:literal $sum:literal) => {
        concat!(
            "addp v14.4s, v24.4s, v25.4s\nmovi v24.2d, #0\nmovi v25.2d, #0\n",
            "addp v26.4s, v26.4s, v27.4s\nmovi v27.2d, #0\n",
            sdot!("24" "16" "0"),
            "ld1 {{v20.16b, v21.16b, v22.16b, v23.16b}}, [{", $row, "}], #64\n",
            sdot!("25" "18" "3"),
            "addp v14.4s, v14.4s, v26.4s\n",
            // The scale of block k is lane k of the vector where the block begins.
            "mov v16.h[1], v18.h[1]\n",
            sdot!("25" "19" "4"),
            "scvtf v14.4s, v14.4s\nmovi v26.2d, #0\n",
            sdot!("27" "22" "9"), sdot!("24" "17" "1"), sdot!("25" "20" "5"), sdot!("26" "20" "6"),
            "fmla v", $sum, ".4s, v14.4s, v13.4s\n",
            "mov v16.h[2], v20.h[2]\n",
            sdot!("24" "18" "2"), sdot!("26" "21" "7"),
            "mov v16.h[3], v22.h[3]\n",
            "ldr d15, [{", $row, "}], #8\n",
            sdot!("27" "23" "10"),
            "fcvtl v13.4s, v16.4h\n",
            "ld1 {{v16.16b, v17.16b, v18.16b, v19.16b}}, [{", $next, "}], #64\n",
            sdot!("26" "22" "8"),
            "fmul v13.4s, v13.4s, v12.4s\n",
            sdot!("27" "15" "11")
        )
    };
}

/// Four rows of `n` times four blocks of Q8_0, at least one, by one token: `a` by [`spread`], its scales `d_a`. The lanes of
/// a sum are the blocks 0, 1, 2, 3 modulo 4. 64 bytes behind the first row's blocks are read and not used.
pub(super) unsafe fn rows_of_q8_0(rows: [*const u8; 4], a: *const i8, d_a: *const f32, n: usize) -> [float32x4_t; 4] {
    // SAFETY: the caller gives the blocks, 64 bytes behind the first row's, the activations, and the CPU (see
    // [`super::cpu`]).
    unsafe {
        let (zero, none) = (vdupq_n_f32(0.0), vdupq_n_s32(0));
        let (mut sums, mut p, mut d) = ([zero; 4], [none; 4], zero);
        asm!(
            ".arch_extension dotprod",
            "ld1 {{v16.16b, v17.16b, v18.16b, v19.16b}}, [{r0}], #64",
            "2:",
            "ld1 {{v0.16b, v1.16b, v2.16b, v3.16b}}, [{a}], #64",
            "ld1 {{v4.16b, v5.16b, v6.16b, v7.16b}}, [{a}], #64",
            "ld1 {{v8.16b, v9.16b, v10.16b, v11.16b}}, [{a}], #64",
            "ldr q12, [{d_a}], #16",
            row_of_q8_0!("r0" "r1" "31"),
            row_of_q8_0!("r1" "r2" "28"),
            row_of_q8_0!("r2" "r3" "29"),
            row_of_q8_0!("r3" "r0" "30"),
            "subs {n}, {n}, #1",
            "b.ne 2b",
            r0 = inout(reg) rows[0] => _, r1 = inout(reg) rows[1] => _, r2 = inout(reg) rows[2] => _,
            r3 = inout(reg) rows[3] => _, a = inout(reg) a => _, d_a = inout(reg) d_a => _, n = inout(reg) n => _,
            inout("v13") d,
            inout("v24") p[0], inout("v25") p[1], inout("v26") p[2], inout("v27") p[3],
            inout("v28") sums[0], inout("v29") sums[1], inout("v30") sums[2], inout("v31") sums[3],
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v14") _, out("v15") _, out("v16") _,
            out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            options(pure, readonly, nostack)
        );
        sums[3] = vfmaq_f32(sums[3], vcvtq_f32_s32(join(p)), d);
        sums
    }
}

/// One step of the head of a row's block of Q4_K: in the end the running sum `$run` is zero, `$first` and `$last` are the steps
/// of the scales, `$sum` is the products of the minima, and lane `$row` of v20 is `d` and `dmin` as they lie. In v22 to v25
/// is `HEAD_4_5`, in v26 are the sums of the activations.
#[rustfmt::skip]
macro_rules! head_of_q4_k {
    (load $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("ldr q", $last, ", [{r", $row, "}], #16\n")
    };
    (words $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("tbl v", $sum, ".16b, {{v", $last, ".16b}}, v22.16b\n")
    };
    (factors $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("mov v20.s[", $row, "], v", $last, ".s[0]\n")
    };
    (before $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("ext v", $first, ".16b, v", $sum, ".16b, v", $sum, ".16b, #12\n")
    };
    (shift $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("ushl v", $sum, ".16b, v", $sum, ".16b, v23.16b\n")
    };
    (high $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("ushr v", $first, ".16b, v", $first, ".16b, #2\n")
    };
    (low $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("and v", $sum, ".16b, v", $sum, ".16b, v24.16b\n")
    };
    (both $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("bit v", $sum, ".16b, v", $first, ".16b, v25.16b\n")
    };
    (next $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("ushr d", $first, ", d", $sum, ", #8\n")
    };
    (minima $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("uxtl2 v", $run, ".8h, v", $sum, ".16b\n")
    };
    (steps $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("usubl v", $first, ".8h, v", $sum, ".8b, v", $first, ".8b\n")
    };
    (multiply $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("smull v", $sum, ".4s, v", $run, ".4h, v26.4h\n")
    };
    (last $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("sxtl2 v", $last, ".4s, v", $first, ".8h\n")
    };
    (add $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("smlal2 v", $sum, ".4s, v", $run, ".8h, v26.8h\n")
    };
    (first $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("sxtl v", $first, ".4s, v", $first, ".4h\n")
    };
    (zero $row:literal $run:literal $sum:literal $first:literal $last:literal) => {
        concat!("movi v", $run, ".2d, #0\n")
    };
}

/// Steps of the four rows' heads side by side, for cores that execute in order.
macro_rules! heads_of_q4_k {
    ($($step:ident)*) => {
        concat!($(
            head_of_q4_k!($step "0" "4" "8" "12" "16"),
            head_of_q4_k!($step "1" "5" "9" "13" "17"),
            head_of_q4_k!($step "2" "6" "10" "14" "18"),
            head_of_q4_k!($step "3" "7" "11" "15" "19"),
        )*)
    };
}

/// Two rows' two sub-blocks of Q4_K by the activations in v22 to v25: as in `DotProd`'s `dots_256`, `$mla` being `mul` in
/// the first. `$x` and `$y` hold a row's nibbles.
#[rustfmt::skip]
macro_rules! two_rows_of_q4_k {
    ($mla:literal $lane0:literal $lane1:literal
     [$rowa:literal $runa:literal $suma:literal $stepsa:literal $xa0:literal $xa1:literal $ya0:literal $ya1:literal]
     [$rowb:literal $runb:literal $sumb:literal $stepsb:literal $xb0:literal $xb1:literal $yb0:literal $yb1:literal]) => {
        concat!(
            "ldp q", $xa0, ", q", $xa1, ", [{r", $rowa, "}], #32\n",
            "ldp q", $xb0, ", q", $xb1, ", [{r", $rowb, "}], #32\n",
            "and v", $ya0, ".16b, v", $xa0, ".16b, v21.16b\nand v", $yb0, ".16b, v", $xb0, ".16b, v21.16b\n",
            "and v", $ya1, ".16b, v", $xa1, ".16b, v21.16b\nand v", $yb1, ".16b, v", $xb1, ".16b, v21.16b\n",
            sdot!($runa $ya0 "22"), sdot!($runb $yb0 "22"),
            "ushr v", $xa0, ".16b, v", $xa0, ".16b, #4\nushr v", $xb0, ".16b, v", $xb0, ".16b, #4\n",
            sdot!($runa $ya1 "23"), sdot!($runb $yb1 "23"),
            "ushr v", $xa1, ".16b, v", $xa1, ".16b, #4\nushr v", $xb1, ".16b, v", $xb1, ".16b, #4\n",
            $mla, " v", $suma, ".4s, v", $runa, ".4s, v", $stepsa, ".s[", $lane0, "]\n",
            $mla, " v", $sumb, ".4s, v", $runb, ".4s, v", $stepsb, ".s[", $lane0, "]\n",
            sdot!($runa $xa0 "24"), sdot!($runb $xb0 "24"), sdot!($runa $xa1 "25"), sdot!($runb $xb1 "25"),
            "mla v", $suma, ".4s, v", $runa, ".4s, v", $stepsa, ".s[", $lane1, "]\n",
            "mla v", $sumb, ".4s, v", $runb, ".4s, v", $stepsb, ".s[", $lane1, "]\n"
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
            two_rows_of_q4_k!($mla $lane0 $lane1
                ["0" "4" "8" $s0 "26" "27" "28" "29"] ["1" "5" "9" $s1 "2" "3" "30" "31"]),
            two_rows_of_q4_k!($mla $lane0 $lane1
                ["2" "6" "10" $s2 "28" "29" "26" "27"] ["3" "7" "11" $s3 "30" "31" "2" "3"])
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
            heads_of_q4_k!(load words factors before shift high low both next minima steps multiply last add first zero),
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
            out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _, out("v8") _, out("v9") _, out("v10") _,
            out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _,
            out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _, out("v26") _, out("v27") _,
            out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(pure, readonly, nostack)
        );
        vsubq_f32(sum, mins)
    }
}
