//! Matrix products: each row is unpacked once to int8 and f32 scales in scratch, then multiplied by every token.

use super::{Floats, LANES, load, widen};
use crate::act::{ActKind, Acts};
use crate::share::OutTile;
use crate::{Format, oracle};
use core::simd::prelude::*;
use core::simd::simd_swizzle;

/// A row's places in the scratch: `q[cols]`, then one scale and one minimum for each sub-block (at most `cols / 16`).
struct Row<'a> {
    q: &'a mut [i8],
    scales: &'a mut [f32],
    mins: &'a mut [f32],
}

const fn up64(n: usize) -> usize {
    n.div_ceil(64) * 64
}

/// See [`crate::Kernels::matmul_scratch`].
pub(super) fn scratch(format: Format, cols: usize, _: usize) -> usize {
    match ActKind::of(format) {
        ActKind::F32 => up64(4 * cols),
        _ => up64(cols) + 2 * up64(4 * cols.div_ceil(16)),
    }
}

/// Elements of a sub-block.
fn sub(format: Format) -> usize {
    if matches!(format, Format::Q2_K | Format::Q3_K | Format::Q6_K) { 16 } else { 32 }
}

/// See [`crate::Kernels::matmul`].
pub(super) fn matmul(format: Format, w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
    let (Some(row_bytes), cols) = (format.row_bytes(acts.cols), acts.cols) else { return };
    if row_bytes == 0 {
        return (0..acts.tokens).for_each(|t| out.row_mut(t).fill(0.0));
    }
    let each_row = w.chunks_exact(row_bytes).enumerate();
    if acts.kind == ActKind::F32 {
        let row: &mut [f32] = bytemuck::cast_slice_mut(&mut scratch[..4 * cols]);
        for (r, w) in each_row {
            floats(format, w, row);
            for t in 0..acts.tokens {
                out.set(t, r, dot_floats(row, acts.values(t)));
            }
        }
        return;
    }
    let (q, rest) = scratch.split_at_mut(up64(cols));
    let (scales, mins) = rest.split_at_mut(up64(4 * cols.div_ceil(16)));
    let subs = cols / sub(format);
    let mut row = Row {
        q: bytemuck::cast_slice_mut(&mut q[..cols]),
        scales: bytemuck::cast_slice_mut(&mut scales[..4 * subs]),
        mins: bytemuck::cast_slice_mut(&mut mins[..4 * subs]),
    };
    let has_mins = matches!(format, Format::Q4_1 | Format::Q5_1 | Format::Q2_K | Format::Q4_K | Format::Q5_K);
    for (r, w) in each_row {
        unpack(format, w, &mut row);
        for t in 0..acts.tokens {
            let (a, d) = (acts.qs(t), acts.scales(t));
            let sum = match (sub(format), acts.kind) {
                (16, _) => dot::<16, 8>(&row, a, d),
                (_, ActKind::Q8K) => dot::<32, 8>(&row, a, d),
                _ => dot::<32, 1>(&row, a, d),
            };
            let less = if has_mins { dot_mins(row.mins, acts.sums(t), d) } else { 0.0 };
            out.set(t, r, sum - less);
        }
    }
}

/// A row of F32, F16 or BF16 as f32.
fn floats(format: Format, w: &[u8], row: &mut [f32]) {
    match format {
        Format::F16 | Format::BF16 => {
            for (w, row) in w.as_chunks::<2>().0.chunks(LANES).zip(row.chunks_mut(LANES)) {
                let x = load(w, u16::from_le_bytes);
                let wide = if format == Format::F16 {
                    widen(x)
                } else {
                    Floats::from_bits(x.cast::<u32>() << u32x8::splat(16))
                };
                super::store(row, wide);
            }
        }
        _ => oracle::dequantize(format, w, row),
    }
}

pub(super) fn dot_floats(w: &[f32], x: &[f32]) -> f32 {
    let (w4, w_rest) = w.as_chunks::<{ 4 * LANES }>();
    let (x4, x_rest) = x.as_chunks::<{ 4 * LANES }>();
    let mut sums = [Floats::splat(0.0); 4];
    for (w, x) in w4.iter().zip(x4) {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += Floats::from_slice(&w[i * LANES..]) * Floats::from_slice(&x[i * LANES..]);
        }
    }
    for (w, x) in w_rest.chunks(LANES).zip(x_rest.chunks(LANES)) {
        sums[0] += Floats::load_or_default(w) * Floats::load_or_default(x);
    }
    ((sums[0] + sums[1]) + (sums[2] + sums[3])).reduce_sum()
}

/// The low nibbles, then the high ones.
#[inline(always)]
fn nibbles(bytes: &[u8; 16]) -> [u8x16; 2] {
    let v = u8x16::from_array(*bytes);
    [v & u8x16::splat(15), v >> u8x16::splat(4)]
}

#[inline(always)]
fn half_at(bytes: &[u8], at: usize) -> f32 {
    widen(u16x8::splat(u16::from_le_bytes([bytes[at], bytes[at + 1]])))[0]
}

/// Unpacks a row. The common formats by vectors, the others by the oracle.
fn unpack(format: Format, w: &[u8], row: &mut Row) {
    match format {
        Format::Q4_0 => {
            let blocks = w.as_chunks::<18>().0;
            scales_of(blocks, row.scales);
            for (b, q) in blocks.iter().zip(row.q.as_chunks_mut::<32>().0) {
                let Some(qs) = b[2..].first_chunk() else { continue };
                for (v, q) in nibbles(qs).into_iter().zip(q.as_chunks_mut::<16>().0) {
                    *q = (v.cast::<i8>() - i8x16::splat(8)).to_array();
                }
            }
        }
        Format::Q8_0 => {
            let blocks = w.as_chunks::<34>().0;
            scales_of(blocks, row.scales);
            for (b, q) in blocks.iter().zip(row.q.as_chunks_mut::<32>().0) {
                q.copy_from_slice(bytemuck::cast_slice(&b[2..]));
            }
        }
        Format::Q4_K => {
            let heads = row.scales.as_chunks_mut::<8>().0.iter_mut().zip(row.mins.as_chunks_mut::<8>().0);
            for ((b, q), (scales, mins)) in w.as_chunks::<144>().0.iter().zip(row.q.as_chunks_mut::<256>().0).zip(heads)
            {
                let (d, dmin) = (half_at(b, 0), half_at(b, 2));
                for s in 0..4 {
                    let (x, y, z) = (b[4 + s], b[8 + s], b[12 + s]);
                    scales[s] = d * f32::from(x & 63);
                    mins[s] = dmin * f32::from(y & 63);
                    scales[s + 4] = d * f32::from(z & 15 | x >> 6 << 4);
                    mins[s + 4] = dmin * f32::from(z >> 4 | y >> 6 << 4);
                }
                for (qs, q) in b[16..].as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<64>().0) {
                    let v = u8x32::from_array(*qs);
                    (v & u8x32::splat(15)).cast::<i8>().copy_to_slice(&mut q[..32]);
                    (v >> u8x32::splat(4)).cast::<i8>().copy_to_slice(&mut q[32..]);
                }
            }
        }
        Format::Q6_K => {
            let blocks = w.as_chunks::<210>().0.iter().zip(row.q.as_chunks_mut::<256>().0);
            for ((b, q), scales) in blocks.zip(row.scales.as_chunks_mut::<16>().0) {
                let d = Simd::splat(half_at(b, 208));
                (i8x16::from_slice(bytemuck::cast_slice(&b[192..208])).cast::<f32>() * d).copy_to_slice(scales);
                for (j, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    let (half, lane) = (j / 4, j % 4);
                    let low = u8x32::from_slice(&b[64 * half + 32 * (lane % 2)..]) >> Simd::splat(4 * (lane / 2) as u8);
                    let high = u8x32::from_slice(&b[128 + 32 * half..]) >> Simd::splat(2 * lane as u8);
                    let v = (low & Simd::splat(15)) | (high & Simd::splat(3)) << Simd::splat(4);
                    *q = (v.cast::<i8>() - Simd::splat(32)).to_array();
                }
            }
        }
        _ => {
            let (len, sub) = (format.block_len(), sub(format));
            let heads = row.scales.chunks_exact_mut(len / sub).zip(row.mins.chunks_exact_mut(len / sub));
            for ((b, q), (scales, mins)) in
                w.chunks_exact(format.block_bytes()).zip(row.q.chunks_exact_mut(len)).zip(heads)
            {
                let ints = oracle::unpack(format, b);
                q.copy_from_slice(&ints.q[..len]);
                for (s, (scale, min)) in scales.iter_mut().zip(mins).enumerate() {
                    *scale = ints.d * f32::from(ints.scales[s]);
                    *min = ints.min * f32::from(ints.mins[s]);
                }
            }
        }
    }
}

/// The f16 scales at the blocks' beginnings.
fn scales_of<const N: usize>(blocks: &[[u8; N]], scales: &mut [f32]) {
    for (b, scales) in blocks.chunks(LANES).zip(scales.chunks_mut(LANES)) {
        super::store(scales, widen(load(b, |b| u16::from_le_bytes([b[0], b[1]]))));
    }
}

/// Products of 16 int8, added in pairs and then in fours.
#[inline(always)]
fn products(q: &[i8; 16], a: &[i8; 16]) -> i32x4 {
    let p = i8x16::from_array(*q).cast::<i32>() * i8x16::from_array(*a).cast::<i32>();
    let even = simd_swizzle!(p, [0, 2, 4, 6, 8, 10, 12, 14]);
    let odd = simd_swizzle!(p, [1, 3, 5, 7, 9, 11, 13, 15]);
    let pairs = even + odd;
    simd_swizzle!(pairs, [0, 1, 2, 3]) + simd_swizzle!(pairs, [4, 5, 6, 7])
}

/// `Σ_blocks d[block] · Σ_sub scale[sub] · Σ q · a`, for blocks of `N` times 32 elements and sub-blocks of `SUB`.
///
/// The four lanes are partial sums of each sub-block: exact integers below 2^24, so that turning them to f32 is exact.
#[inline(always)]
fn dot<const SUB: usize, const N: usize>(row: &Row, a: &[i8], d: &[f32]) -> f32 {
    let elements = row.q.as_chunks::<32>().0.as_chunks::<N>().0.iter().zip(a.as_chunks::<32>().0.as_chunks::<N>().0);
    let mut sum = f32x4::splat(0.0);
    for (((q, a), scales), d) in elements.zip(row.scales.chunks_exact(N * 32 / SUB)).zip(d) {
        let mut block = f32x4::splat(0.0);
        for (i, (q, a)) in q.iter().zip(a).enumerate() {
            let (q, a) = (q.as_chunks::<16>().0, a.as_chunks::<16>().0);
            let (first, second) = (products(&q[0], &a[0]), products(&q[1], &a[1]));
            if SUB == 32 {
                block += (first + second).cast::<f32>() * f32x4::splat(scales[i]);
            } else {
                block += first.cast::<f32>() * f32x4::splat(scales[2 * i]);
                block += second.cast::<f32>() * f32x4::splat(scales[2 * i + 1]);
            }
        }
        sum += block * f32x4::splat(*d);
    }
    sum.reduce_sum()
}

/// `Σ_sub min[sub] · d[block] · Σ a`; `sums` are of 16 elements each.
fn dot_mins(mins: &[f32], sums: &[i16], d: &[f32]) -> f32 {
    if mins.is_empty() || d.is_empty() {
        return 0.0;
    }
    let (each, subs) = (sums.len() / mins.len(), mins.len() / d.len());
    let blocks = mins.chunks(subs).zip(sums.chunks(each * subs)).zip(d);
    blocks.fold(0.0, |total, ((mins, sums), d)| {
        let subs = mins.iter().zip(sums.chunks(each));
        let inner: f32 = subs.map(|(m, s)| m * s.iter().map(|s| i32::from(*s)).sum::<i32>() as f32).sum();
        total + inner * d
    })
}
