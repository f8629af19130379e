//! Loops in `asm!` for CPUs without the dot product (Cortex-A53, A72): four rows by one token, eight rows by four tokens.
//!
//! They are written in the order in which they are best executed, for the A53 executes in that order: independent products
//! side by side, and between them the end of the sums before, one row or token late. So the last of all is ended
//! behind the loop. The A72 is bound by its one multiplier of integers in any order.

use super::cpu::{Blocks32, Bytes32, SCALE_PLACES, TileSums, four, join};
use super::neon::join_narrow;
use core::arch::aarch64::*;
use core::arch::asm;

/// `$p` = products of the first eight elements of `$q` and `$a`, in i16.
macro_rules! smull {
    ($p:literal $q:literal $a:literal) => {
        concat!("smull v", $p, ".8h, v", $q, ".8b, v", $a, ".8b\n")
    };
}

/// `$p` += the same.
macro_rules! smlal {
    ($p:literal $q:literal $a:literal) => {
        concat!("smlal v", $p, ".8h, v", $q, ".8b, v", $a, ".8b\n")
    };
}

/// `$p` += products of the last eight.
macro_rules! smlal2 {
    ($p:literal $q:literal $a:literal) => {
        concat!("smlal2 v", $p, ".8h, v", $q, ".16b, v", $a, ".16b\n")
    };
}

/// Neighbours added: `$to` = `$x` and `$y`, lanes of `$lanes`.
macro_rules! addp {
    ($lanes:literal $to:literal $x:literal $y:literal) => {
        concat!("addp v", $to, ".", $lanes, ", v", $x, ".", $lanes, ", v", $y, ".", $lanes, "\n")
    };
}

/// How far ahead of its place each row asks for memory.
///
/// An A53 as it comes out of reset follows two streams by itself, and four rows are four; it executes in order, and would
/// stand still for each line that nobody asked for.
const AHEAD: usize = 320;

/// Where a round asks for memory, as distances from the rows' places, `$step` bytes apart (at most 64). When no more than `last`
/// rounds are left that lies behind the rows' ends, and the next four rows' beginnings are asked for.
macro_rules! look_ahead {
    ($step:literal) => {
        concat!("cmp {n}, #{last}\ncsel {ahead}, {next}, {same}, ls\nadd {then}, {ahead}, #", $step, "\n")
    };
}

macro_rules! ask {
    ($row:literal $($ahead:literal)*) => {
        concat!($("prfm pldl1keep, [{", $row, "}, {", $ahead, "}]\n",)*)
    };
}

/// The end of a sum of row `$sum` over four blocks, products in v16 to v23, scales in v26, and row `$row`'s products.
#[rustfmt::skip]
macro_rules! row_of_q8_0 {
    ($row:literal $sum:literal) => {
        concat!(
            ask!($row "ahead" "then" "after"),
            "ld1 {{v8.16b, v9.16b}}, [{", $row, "}], {block}\n",
            "saddlp v16.4s, v16.8h\nsaddlp v18.4s, v18.8h\n",
            "ld1 {{v10.16b, v11.16b}}, [{", $row, "}], {block}\n",
            "saddlp v20.4s, v20.8h\nsaddlp v22.4s, v22.8h\n",
            "ld1 {{v12.16b, v13.16b}}, [{", $row, "}], {block}\n",
            "sadalp v16.4s, v17.8h\nsadalp v18.4s, v19.8h\n",
            "ld1 {{v14.16b, v15.16b}}, [{", $row, "}], {block}\n",
            "sadalp v20.4s, v21.8h\nsadalp v22.4s, v23.8h\n",
            // The scales go through the other registers, beside the products.
            "ldurh {s0:w}, [{", $row, "}, #-138]\n", smull!("17" "9" "1"),
            "ldurh {s1:w}, [{", $row, "}, #-104]\n", smull!("19" "11" "3"),
            "ldurh {s2:w}, [{", $row, "}, #-70]\n", smull!("21" "13" "5"),
            "ldurh {s3:w}, [{", $row, "}, #-36]\n", addp!("4s" "24" "16" "18"),
            "bfi {s0:w}, {s1:w}, #16, #16\n", smull!("23" "15" "7"),
            addp!("4s" "20" "20" "22"),
            "bfi {s2:w}, {s3:w}, #16, #16\n", smull!("16" "8" "0"),
            smull!("18" "10" "2"), smlal2!("17" "9" "1"), smlal2!("19" "11" "3"),
            "bfi {s0:x}, {s2:x}, #32, #32\n", smull!("22" "14" "6"),
            smlal2!("21" "13" "5"), addp!("4s" "24" "24" "20"), smlal2!("23" "15" "7"),
            smull!("20" "12" "4"), smlal2!("16" "8" "0"), smlal2!("18" "10" "2"), smlal2!("22" "14" "6"),
            "fmov d25, {s0:x}\nscvtf v24.4s, v24.4s\n",
            smlal2!("20" "12" "4"),
            "fcvtl v25.4s, v25.4h\nfmla v", $sum, ".4s, v24.4s, v26.4s\nfmul v26.4s, v25.4s, v27.4s\n"
        )
    };
}

/// Four rows of `n` times four blocks of Q8_0, at least one, `row_bytes` from row to row, by one token's int8 `a` with the scales
/// `d_a`. The lanes of a sum are the blocks 0, 1, 2, 3 modulo 4.
pub(super) unsafe fn rows_of_q8_0(
    rows: [*const u8; 4],
    row_bytes: usize,
    a: *const i8,
    d_a: *const f32,
    n: usize,
) -> [float32x4_t; 4] {
    // |q · a| ≤ 128 · 127: two products fit an i16.
    // SAFETY: the caller gives the blocks and the activations; elements begin two bytes into a block.
    unsafe {
        let (zero, none) = (vdupq_n_f32(0.0), vdupq_n_s16(0));
        let (mut sums, mut p, mut d) = ([zero; 4], [none; 8], zero);
        asm!(
            "2:",
            look_ahead!("48"),
            "add {after}, {then}, #48",
            "ld1 {{v0.16b, v1.16b, v2.16b, v3.16b}}, [{a}], #64",
            "ld1 {{v4.16b, v5.16b, v6.16b, v7.16b}}, [{a}], #64",
            "ldr q27, [{d_a}], #16",
            row_of_q8_0!("r0" "31"),
            row_of_q8_0!("r1" "28"),
            row_of_q8_0!("r2" "29"),
            row_of_q8_0!("r3" "30"),
            "subs {n}, {n}, #1",
            "b.ne 2b",
            r0 = inout(reg) rows[0].add(2) => _, r1 = inout(reg) rows[1].add(2) => _,
            r2 = inout(reg) rows[2].add(2) => _, r3 = inout(reg) rows[3].add(2) => _,
            a = inout(reg) a => _, d_a = inout(reg) d_a => _, n = inout(reg) n => _, block = in(reg) 34usize,
            same = in(reg) AHEAD, next = in(reg) AHEAD + 3 * row_bytes,
            last = const AHEAD / (4 * 34), ahead = out(reg) _, then = out(reg) _, after = out(reg) _,
            s0 = out(reg) _, s1 = out(reg) _, s2 = out(reg) _, s3 = out(reg) _,
            inout("v16") p[0], inout("v17") p[1], inout("v18") p[2], inout("v19") p[3],
            inout("v20") p[4], inout("v21") p[5], inout("v22") p[6], inout("v23") p[7],
            inout("v26") d,
            inout("v28") sums[0], inout("v29") sums[1], inout("v30") sums[2], inout("v31") sums[3],
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            out("v24") _, out("v25") _, out("v27") _,
            options(pure, readonly, nostack)
        );
        sums[3] = vfmaq_f32(sums[3], vcvtq_f32_s32(join_wide(four!(|K| p[2 * K]), four!(|K| p[2 * K + 1]))), d);
        sums
    }
}

/// Four sums of 32 products from those of the first and the last 16, which are added in pairs.
#[inline(always)]
pub(super) unsafe fn join_wide(first: [int16x8_t; 4], last: [int16x8_t; 4]) -> int32x4_t {
    // SAFETY: baseline NEON.
    unsafe { join(four!(|I| vpadalq_s16(vpaddlq_s16(first[I]), last[I]))) }
}

/// The end of a sum of row `$sum` over four blocks, products in v16 to v19, scales in v26, offsets in v24, and row `$row`'s
/// products.
#[rustfmt::skip]
macro_rules! row_of_q4_0 {
    ($row:literal $sum:literal) => {
        concat!(
            ask!($row "ahead" "then"),
            "ld1 {{v12.16b, v13.16b, v14.16b, v15.16b}}, [{", $row, "}]\n",
            "ldur q8, [{", $row, "}, #2]\nldur q9, [{", $row, "}, #20]\n",
            "ldur q10, [{", $row, "}, #38]\nldur q11, [{", $row, "}, #56]\n",
            "tbl v25.8b, {{v12.16b, v13.16b, v14.16b, v15.16b}}, v22.8b\n",
            "add {", $row, "}, {", $row, "}, #72\n",
            addp!("8h" "20" "16" "17"), addp!("8h" "18" "18" "19"),
            "and v12.16b, v8.16b, v21.16b\nand v13.16b, v9.16b, v21.16b\n",
            "and v14.16b, v10.16b, v21.16b\nand v15.16b, v11.16b, v21.16b\n",
            addp!("8h" "20" "20" "18"),
            smull!("16" "12" "0"), smull!("17" "13" "2"), smull!("18" "14" "4"), smull!("19" "15" "6"),
            "saddlp v20.4s, v20.8h\nushr v8.16b, v8.16b, #4\nushr v9.16b, v9.16b, #4\n",
            smlal2!("16" "12" "0"), smlal2!("17" "13" "2"), smlal2!("18" "14" "4"), smlal2!("19" "15" "6"),
            "sub v20.4s, v20.4s, v24.4s\nushr v10.16b, v10.16b, #4\nushr v11.16b, v11.16b, #4\n",
            smlal!("16" "8" "1"), smlal!("17" "9" "3"), smlal!("18" "10" "5"), smlal!("19" "11" "7"),
            "scvtf v20.4s, v20.4s\nfcvtl v25.4s, v25.4h\n",
            smlal2!("16" "8" "1"), smlal2!("17" "9" "3"), smlal2!("18" "10" "5"), smlal2!("19" "11" "7"),
            "fmla v", $sum, ".4s, v20.4s, v26.4s\nfmul v26.4s, v25.4s, v27.4s\n"
        )
    };
}

/// The same for Q4_0, with the sums of 16 activations `a_sums`.
pub(super) unsafe fn rows_of_q4_0(
    rows: [*const u8; 4],
    row_bytes: usize,
    a: *const i8,
    d_a: *const f32,
    a_sums: *const i16,
    n: usize,
) -> [float32x4_t; 4] {
    // |nibble · a| ≤ 15 · 127: sixteen products fit an i16. The offset is taken off with the activations' sums. Scales
    // are picked out of the first 64 of the 72 bytes.
    // SAFETY: the caller gives the blocks and the activations.
    unsafe {
        let (zero, none) = (vdupq_n_f32(0.0), vdupq_n_s16(0));
        let (mut sums, mut p, mut d, mut minus) = ([zero; 4], [none; 4], zero, vdupq_n_s32(0));
        asm!(
            "2:",
            look_ahead!("40"),
            "ld1 {{v0.16b, v1.16b, v2.16b, v3.16b}}, [{a}], #64",
            "ld1 {{v4.16b, v5.16b, v6.16b, v7.16b}}, [{a}], #64",
            "ldr q27, [{d_a}], #16",
            row_of_q4_0!("r0" "31"),
            "ldr q24, [{a_sums}], #16",
            "saddlp v24.4s, v24.8h",
            "shl v24.4s, v24.4s, #3",
            row_of_q4_0!("r1" "28"),
            row_of_q4_0!("r2" "29"),
            row_of_q4_0!("r3" "30"),
            "subs {n}, {n}, #1",
            "b.ne 2b",
            r0 = inout(reg) rows[0] => _, r1 = inout(reg) rows[1] => _, r2 = inout(reg) rows[2] => _,
            r3 = inout(reg) rows[3] => _, a = inout(reg) a => _, d_a = inout(reg) d_a => _,
            a_sums = inout(reg) a_sums => _, n = inout(reg) n => _,
            same = in(reg) AHEAD, next = in(reg) AHEAD + 3 * row_bytes,
            last = const AHEAD / (4 * 18), ahead = out(reg) _, then = out(reg) _,
            in("v21") vdupq_n_u8(15), in("v22") vcreate_u8(SCALE_PLACES),
            inout("v16") p[0], inout("v17") p[1], inout("v18") p[2], inout("v19") p[3],
            inout("v24") minus, inout("v26") d,
            inout("v28") sums[0], inout("v29") sums[1], inout("v30") sums[2], inout("v31") sums[3],
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            out("v20") _, out("v25") _, out("v27") _,
            options(pure, readonly, nostack)
        );
        sums[3] = vfmaq_f32(sums[3], vcvtq_f32_s32(vsubq_s32(join_narrow(p), minus)), d);
        sums
    }
}

/// Four rows' weights, in the order of [`pack`], to v8 to v15.
macro_rules! weights {
    () => {
        "ldp q8, q9, [{q}], #32\nldp q10, q11, [{q}], #32\nldp q12, q13, [{q}], #32\nldp q14, q15, [{q}], #32\n"
    };
}

/// A token's 32 activations to two vectors.
macro_rules! activations {
    ($first:literal $last:literal $token:literal $step:literal) => {
        concat!("ldp q", $first, ", q", $last, ", [{", $token, "}]", $step, "\n")
    };
}

/// What becomes of a tile's sums of 32 products. Floats: v27 holds the scale of the token before; the next is the rows' v25
/// by the token's lane of v26.
macro_rules! float {
    (group "0") => {
        "ldr q25, [{d}], #16\nldr q26, [{d_a}], #16\n"
    };
    (group "1") => {
        "ldr q25, [{d}], #16\n"
    };
    (convert $dots:literal) => {
        concat!("scvtf v", $dots, ".4s, v", $dots, ".4s\n")
    };
    (add $dots:literal $sum:literal $token:literal) => {
        concat!("fmla v", $sum, ".4s, v", $dots, ".4s, v27.4s\nfmul v27.4s, v25.4s, v26.s[", $token, "]\n")
    };
}

/// The same for integers: the rows' scales are v25, a group's loaded when the sums of the one before are ended.
macro_rules! integer {
    (group $group:literal) => {
        ""
    };
    (convert $dots:literal) => {
        ""
    };
    (add $dots:literal $sum:literal "0") => {
        concat!("mla v", $sum, ".4s, v", $dots, ".4s, v25.4s\nldr q25, [{d}], #16\n")
    };
    (add $dots:literal $sum:literal $token:literal) => {
        concat!("mla v", $sum, ".4s, v", $dots, ".4s, v25.4s\n")
    };
}

/// The same for integers of 16 columns: v25 scales the first 16, v26 the last.
macro_rules! halves {
    (group "0") => {
        "ldr q25, [{d}]\n"
    };
    (group "1") => {
        "ldr q25, [{d}, #16]!\n"
    };
    (add $dots:literal $sum:literal "0") => {
        concat!("mla v", $sum, ".4s, v", $dots, ".4s, v26.4s\nldr q26, [{d}, #32]\n")
    };
    (add $dots:literal $sum:literal $token:literal) => {
        concat!("mla v", $sum, ".4s, v", $dots, ".4s, v26.4s\n")
    };
}

/// One token's products with a group's rows to `$p0` to `$p3`, all 32 in i16, and the end of those before, in `$q0` to `$q3`.
#[rustfmt::skip]
macro_rules! narrow {
    ($end:ident [$p0:literal $p1:literal $p2:literal $p3:literal $q0:literal $q1:literal $q2:literal $q3:literal]
     $a0:literal $a1:literal $before:literal $sum:literal $token:tt $($load:tt)*) => {
        concat!(
            smull!($p0 "8" $a0), smull!($p1 "9" $a0),
            addp!("8h" $q0 $q0 $q1), addp!("8h" $q2 $q2 $q3),
            smull!($p2 "10" $a0), smull!($p3 "11" $a0), smlal2!($p0 "8" $a0), smlal2!($p1 "9" $a0),
            addp!("8h" $q0 $q0 $q2),
            smlal2!($p2 "10" $a0), smlal2!($p3 "11" $a0),
            $($load)*,
            smlal!($p0 "12" $a1),
            "saddlp v", $q0, ".4s, v", $q0, ".8h\n",
            smlal!($p1 "13" $a1), smlal!($p2 "14" $a1), smlal!($p3 "15" $a1),
            $end!(convert $q0),
            smlal2!($p0 "12" $a1), smlal2!($p1 "13" $a1), smlal2!($p2 "14" $a1), smlal2!($p3 "15" $a1),
            $end!(add $q0 $before $token)
        )
    };
}

/// The same where no more than two products fit an i16: the first 16 columns to `$p0` to `$p3`, the last to `$q0` to `$q3`;
/// those before are there the other way round.
#[rustfmt::skip]
macro_rules! wide {
    ($end:ident [$p0:literal $p1:literal $p2:literal $p3:literal $q0:literal $q1:literal $q2:literal $q3:literal]
     $a0:literal $a1:literal $before:literal $sum:literal $token:tt $($load:tt)*) => {
        concat!(
            "saddlp v", $q0, ".4s, v", $q0, ".8h\nsaddlp v", $q1, ".4s, v", $q1, ".8h\n",
            "saddlp v", $q2, ".4s, v", $q2, ".8h\nsaddlp v", $q3, ".4s, v", $q3, ".8h\n",
            "sadalp v", $q0, ".4s, v", $p0, ".8h\nsadalp v", $q1, ".4s, v", $p1, ".8h\n",
            "sadalp v", $q2, ".4s, v", $p2, ".8h\nsadalp v", $q3, ".4s, v", $p3, ".8h\n",
            smull!($p0 "8" $a0), smull!($p1 "9" $a0),
            addp!("4s" "24" $q0 $q1), addp!("4s" $q2 $q2 $q3),
            smull!($p2 "10" $a0), smull!($p3 "11" $a0), smull!($q0 "12" $a1), smull!($q1 "13" $a1),
            addp!("4s" "24" "24" $q2),
            smlal2!($p0 "8" $a0), smlal2!($p1 "9" $a0), smlal2!($p2 "10" $a0), smlal2!($p3 "11" $a0),
            smull!($q2 "14" $a1),
            $end!(convert "24"),
            smull!($q3 "15" $a1),
            $($load)*,
            smlal2!($q0 "12" $a1), smlal2!($q1 "13" $a1), smlal2!($q2 "14" $a1), smlal2!($q3 "15" $a1),
            $end!(add "24" $before $token)
        )
    };
}

/// The same with sums of 16 columns in i16: the first to `$p0` to `$p3`, ended at once, the last to `$q0` to `$q3`.
#[rustfmt::skip]
macro_rules! narrow_halves {
    ($end:ident [$p0:literal $p1:literal $p2:literal $p3:literal $q0:literal $q1:literal $q2:literal $q3:literal]
     $a0:literal $a1:literal $before:literal $sum:literal $token:tt $($load:tt)*) => {
        concat!(
            smull!($p0 "8" $a0), smull!($p1 "9" $a0),
            addp!("8h" $q0 $q0 $q1), addp!("8h" $q2 $q2 $q3),
            smull!($p2 "10" $a0), smull!($p3 "11" $a0),
            smlal2!($p0 "8" $a0),
            addp!("8h" $q0 $q0 $q2),
            smlal2!($p1 "9" $a0), smlal2!($p2 "10" $a0), smlal2!($p3 "11" $a0),
            "saddlp v", $q0, ".4s, v", $q0, ".8h\n",
            $($load)*,
            smull!($q1 "13" $a1), smull!($q2 "14" $a1), smull!($q3 "15" $a1),
            $end!(add $q0 $before $token),
            addp!("8h" $p0 $p0 $p1), addp!("8h" $p2 $p2 $p3),
            smull!($q0 "12" $a1), smlal2!($q1 "13" $a1), smlal2!($q2 "14" $a1),
            addp!("8h" $p0 $p0 $p2),
            smlal2!($q3 "15" $a1), smlal2!($q0 "12" $a1),
            "saddlp v", $p0, ".4s, v", $p0, ".8h\n",
            "mla v", $sum, ".4s, v", $p0, ".4s, v25.4s\n"
        )
    };
}

/// A tile: eight rows in two groups of four, by four tokens, over `$n` times 32 columns. The sums are in v0 to v7,
/// `[group][token]`, rows in lanes. A token's activations are in v16 and v17 if it is even, else in v18 and v19, loaded one
/// token early. `$token` is one of the macros above, `$end` what it does with sums, `$even` and `$odd` where tokens'
/// products are: in v20 to v23 and v28 to v31, which must begin as zeros.
macro_rules! tile_loop {
    ($token:ident $end:ident $even:tt $odd:tt $next:literal, $sums:ident $p:ident $scales:ident $a:ident, $n:expr,
     $($name:ident = $value:expr),*) => {
        asm!(
            "2:",
            "ldp q16, q17, [{a0}]",
            weights!(),
            $end!(group "0"),
            $token!($end $even "16" "17" "7" "0" "0" activations!("18" "19" "a1" "")),
            $token!($end $odd "18" "19" "0" "1" "1" activations!("16" "17" "a2" "")),
            $token!($end $even "16" "17" "1" "2" "2" activations!("18" "19" "a3" "")),
            $token!($end $odd "18" "19" "2" "3" "3" activations!("16" "17" "a0" ", #32")),
            weights!(),
            $end!(group "1"),
            $token!($end $even "16" "17" "3" "4" "0" activations!("18" "19" "a1" ", #32")),
            $token!($end $odd "18" "19" "4" "5" "1" activations!("16" "17" "a2" ", #32")),
            $token!($end $even "16" "17" "5" "6" "2" activations!("18" "19" "a3" ", #32")),
            $token!($end $odd "18" "19" "6" "7" "3" ""),
            $next,
            "subs {n}, {n}, #1",
            "b.ne 2b",
            $($name = inout(reg) $value => _,)*
            n = inout(reg) $n => _,
            a0 = inout(reg) $a[0] => _, a1 = inout(reg) $a[1] => _, a2 = inout(reg) $a[2] => _, a3 = inout(reg) $a[3] => _,
            inout("v0") $sums[0][0], inout("v1") $sums[0][1], inout("v2") $sums[0][2], inout("v3") $sums[0][3],
            inout("v4") $sums[1][0], inout("v5") $sums[1][1], inout("v6") $sums[1][2], inout("v7") $sums[1][3],
            inout("v20") $p[0][0], inout("v21") $p[0][1], inout("v22") $p[0][2], inout("v23") $p[0][3],
            inout("v28") $p[1][0], inout("v29") $p[1][1], inout("v30") $p[1][2], inout("v31") $p[1][3],
            inout("v25") $scales[0], inout("v26") $scales[1], inout("v27") $scales[2],
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v24") _,
            options(pure, readonly, nostack)
        )
    };
}

/// Writes 32 columns of four rows as the tiles want them: the first 16 of each, then the last.
#[inline(always)]
pub(super) unsafe fn pack(rows: [Bytes32; 4], panel: *mut i8) {
    // SAFETY: the caller gives 128 writable bytes.
    unsafe {
        for (r, q) in rows.into_iter().enumerate() {
            vst1q_s8(panel.add(16 * r), q[0]);
            vst1q_s8(panel.add(64 + 16 * r), q[1]);
        }
    }
}

/// See [`super::cpu::Cpu::multiply_32`].
#[inline(always)]
pub(super) unsafe fn multiply_32<const NARROW: bool>(blocks: Blocks32) -> TileSums<float32x4_t> {
    let Blocks32 { q, d, a, d_a, n } = blocks;
    // SAFETY: the caller gives the blocks' places.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); 4]; 4];
        let mut p = [[vdupq_n_s16(0); 4]; 2];
        let mut scales = [vdupq_n_f32(0.0); 3];
        let dots = if NARROW {
            tile_loop!(narrow float ["20" "21" "22" "23" "28" "29" "30" "31"] ["28" "29" "30" "31" "20" "21" "22" "23"] "",
                sums p scales a, n, q = q, d = d, d_a = d_a);
            join_narrow(p[1])
        } else {
            tile_loop!(wide float ["20" "21" "22" "23" "28" "29" "30" "31"] ["28" "29" "30" "31" "20" "21" "22" "23"] "",
                sums p scales a, n, q = q, d = d, d_a = d_a);
            join_wide(p[1], p[0])
        };
        sums[1][3] = vfmaq_f32(sums[1][3], vcvtq_f32_s32(dots), scales[2]);
        sums
    }
}

/// See [`super::cpu::Cpu::multiply_256`]. Sub-blocks of 16 are narrow in a panel.
#[inline(always)]
pub(super) unsafe fn multiply_256<const SUB: usize, const NARROW: bool>(
    q: *const i8,
    scales: *const i32,
    a: [*const i8; 4],
) -> TileSums<int32x4_t> {
    let (d, n) = (scales, 8usize);
    // SAFETY: the caller gives a super-block's places.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 4]; 4];
        let mut p = [[vdupq_n_s16(0); 4]; 2];
        let mut scales = [vdupq_n_s32(0); 3];
        let (dots, scale) = if SUB == 16 {
            tile_loop!(narrow_halves halves ["20" "21" "22" "23" "28" "29" "30" "31"] ["20" "21" "22" "23" "28" "29" "30" "31"]
                "add {d}, {d}, #48", sums p scales a, n, q = q, d = d);
            (join_narrow(p[1]), scales[1])
        } else if NARROW {
            tile_loop!(narrow integer ["20" "21" "22" "23" "28" "29" "30" "31"] ["28" "29" "30" "31" "20" "21" "22" "23"]
                "", sums p scales a, n, q = q, d = d);
            (join_narrow(p[1]), scales[0])
        } else {
            tile_loop!(wide integer ["20" "21" "22" "23" "28" "29" "30" "31"] ["28" "29" "30" "31" "20" "21" "22" "23"]
                "", sums p scales a, n, q = q, d = d);
            (join_wide(p[1], p[0]), scales[0])
        };
        sums[1][3] = vmlaq_s32(sums[1][3], dots, scale);
        sums
    }
}
