//! Finding the integers of a block: the searches that the `quantize` side of every format shares.
//!
//! Each minimises the sum of squared differences between the weights and what the block will dequantise to, with its
//! scales as they will be stored (f16, small integers). Elements are always the nearest of the grid once the scales
//! are chosen, so the searches are over scales. They are:
//!
//! 1. a scan of scales around the one that maps the largest element to an end of the grid, in steps of a quarter of
//!    a level, each followed by the least-squares scale for the elements so chosen;
//! 2. for super-blocks, each sub-block's integer scale and minimum from step 1's, with their neighbours tried;
//! 3. the least-squares super-block scales for the elements so chosen, kept where they lower the error.
//!
//! Plain squares, not weighted by magnitude: without knowing the activations, the expected error of a dot product is
//! the sum of squared weight errors.

use super::ints::Ints;
use half::f16;

/// The values that an element can take, in units of its scale.
pub trait Grid {
    /// The least value.
    const LO: f32;
    /// The greatest value.
    const HI: f32;
    /// A quarter of a level at the ends, relative to `HI`.
    const STEP: f32;
    /// The value nearest to `x`.
    fn nearest(x: f32) -> f32;
}

/// The integers `LO..=HI`.
pub struct Even<const LO: i32, const HI: i32>;

impl<const LO: i32, const HI: i32> Grid for Even<LO, HI> {
    const LO: f32 = LO as f32;
    const HI: f32 = HI as f32;
    const STEP: f32 = 0.25 / HI as f32;

    #[inline(always)]
    fn nearest(x: f32) -> f32 {
        round(limit(x, Self::LO, Self::HI))
    }
}

/// To the nearest integer, halves to even; for |x| < 2^22, where adding 1.5 · 2^23 leaves no fraction bits.
#[inline(always)]
pub fn round(x: f32) -> f32 {
    (x + 12_582_912.0) - 12_582_912.0
}

/// `x` held to `lo..=hi`, written so that it becomes two instructions.
#[inline(always)]
pub fn limit(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x > lo { x } else { lo };
    if x < hi { x } else { hi }
}

/// The nearest finite f16.
fn to_f16(x: f32) -> f32 {
    f16::from_f32(limit(x, -65504.0, 65504.0)).to_f32()
}

/// As [`to_f16`], but never to zero unless `x` is: a scale rounded away would lose the whole super-block, though
/// larger integers could still use the smallest scale.
fn to_f16_above_zero(x: f32) -> f32 {
    const LEAST: f32 = 5.960_464_5e-8; // 2^-24, the smallest subnormal
    match to_f16(x) {
        0.0 if x > 0.0 => LEAST,
        0.0 if x < 0.0 => -LEAST,
        y => y,
    }
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Copies weights, making every one usable: NaN becomes 0, and infinities and values that no format reaches (scales
/// stop at 65504 · 128) are held to ±2^29, whose squares f32 can still add.
pub fn usable<const N: usize>(x: &[f32]) -> [f32; N] {
    let mut out = [0.0; N];
    for (o, x) in out.iter_mut().zip(x) {
        *o = if x.is_nan() { 0.0 } else { limit(*x, -536_870_912.0, 536_870_912.0) };
    }
    out
}

/// Sums of `f` over the elements, in eight lanes: Rust does not reorder float additions by itself.
#[inline(always)]
fn sums<const K: usize>(x: &[f32], f: impl Fn(f32) -> [f32; K]) -> [f32; K] {
    let mut lanes = [[0.0f32; 8]; K];
    for x in x.chunks_exact(8) {
        for l in 0..8 {
            let terms = f(x[l]);
            for k in 0..K {
                lanes[k][l] += terms[k];
            }
        }
    }
    lanes.map(|l| ((l[0] + l[4]) + (l[1] + l[5])) + ((l[2] + l[6]) + (l[3] + l[7])))
}

/// The squared error of `x` with elements on the grid `d · nearest`.
#[inline(always)]
fn error<G: Grid>(x: &[f32], d: f32) -> f32 {
    let inv = inverse(d);
    let [e] = sums(x, |x| {
        let e = x - d * G::nearest(x * inv);
        [e * e]
    });
    e
}

/// The squared error of `x` with elements `d · q − m`, `q` in `0..=top`.
#[inline(always)]
fn offset_error(x: &[f32], top: f32, d: f32, m: f32) -> f32 {
    let inv = inverse(d);
    let [e] = sums(x, |x| {
        let q = round(limit((x + m) * inv, 0.0, top));
        let e = x - (d * q - m);
        [e * e]
    });
    e
}

/// The element of the largest magnitude.
fn peak(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m })
}

/// The scale (of either sign) with the least squared error found for `x`.
#[inline(always)]
fn scale_of<G: Grid>(x: &[f32]) -> f32 {
    let peak = peak(x);
    if peak == 0.0 {
        return 0.0;
    }
    // For elements q the best scale is Σxq/Σqq and takes (Σxq)²/Σqq off the squared error.
    let (mut best, mut scale) = (0.0f32, 0.0f32);
    let mut consider = |inv: f32| {
        let [xq, qq] = sums(x, |x| {
            let q = G::nearest(x * inv);
            [x * q, q * q]
        });
        if qq > 0.0 && xq * (xq / qq) > best {
            best = xq * (xq / qq);
            scale = xq / qq;
        }
        scale
    };
    // A grid that is the same both ways round needs one end only.
    for end in [G::LO, G::HI].into_iter().take(if G::LO == -G::HI { 1 } else { 2 }) {
        for k in -4..=8 {
            consider(end * (1.0 + k as f32 * G::STEP) / peak);
        }
    }
    for _ in 0..2 {
        let d = consider(0.0);
        consider(inverse(d));
    }
    scale
}

/// Scale and minimum (`d · q − m`, `q` in `0..=top`) with the least squared error found for `x`. With `down_only`
/// the minimum is at least 0, as the super-blocks store it.
#[inline(always)]
fn offset_scale_of(x: &[f32], top: f32, down_only: bool) -> (f32, f32) {
    let (mut lo, mut hi) = (x[0], x[0]);
    for v in x {
        lo = if *v < lo { *v } else { lo };
        hi = if *v > hi { *v } else { hi };
    }
    if down_only {
        lo = lo.min(0.0);
    }
    if hi == lo {
        // A constant: the minimum alone says it, or (positive, with no upward minimum) the scale.
        return (0.0, -lo);
    }
    let n = x.len() as f32;
    let [sx] = sums(x, |x| [x]);
    let mut best = (offset_error(x, top, (hi - lo) / top, -lo), (hi - lo) / top, -lo);
    // Elements by a scale and minimum, then the least-squares scale and minimum for them, some times over.
    let descend = |best: &mut (f32, f32, f32), mut d: f32, mut m: f32, times: usize| {
        for _ in 0..times {
            let inv = inverse(d);
            let [sq, qq, xq] = sums(x, |x| {
                let q = round(limit((x + m) * inv, 0.0, top));
                [q, q * q, x * q]
            });
            let det = n * qq - sq * sq;
            if det <= 0.0 {
                break;
            }
            d = (n * xq - sx * sq) / det;
            m = (sq * xq - qq * sx) / det;
            if down_only && m < 0.0 {
                m = 0.0;
                d = xq / qq;
            }
            let e = offset_error(x, top, d, m);
            if e < best.0 {
                *best = (e, d, m);
            }
        }
    };
    // Ranges that leave out up to about a fifth at either end: clipping the ends can pay for the finer steps.
    let step = (hi - lo) * 0.25 / top;
    for k in -2..=6 {
        let k = k as f32;
        descend(&mut best, (hi - lo - 2.0 * k * step) / top, -(lo + k * step), 1);
        descend(&mut best, (hi - lo - k * step) / top, -lo, 1);
    }
    let (_, d, m) = best;
    descend(&mut best, d, m, 2);
    (best.1, best.2)
}

/// Fits one block of 32 with a scale.
pub fn block<G: Grid>(x: &[f32]) -> Ints {
    let x: [f32; 32] = usable(x);
    let peak = peak(&x);
    let mut best = (f32::INFINITY, 0.0);
    let found = scale_of::<G>(&x);
    // The found scale and its f16 neighbours, and the plain one.
    for d in [found, found * (1.0 + 1.0 / 2048.0), found * (1.0 - 1.0 / 2048.0), peak / G::LO, peak / G::HI] {
        let d = to_f16(d);
        let e = error::<G>(&x, d);
        if e < best.0 {
            best = (e, d);
        }
    }
    let mut ints = Ints::block32(best.1);
    let inv = inverse(best.1);
    for (q, x) in ints.q.iter_mut().zip(&x) {
        *q = G::nearest(x * inv) as i8;
    }
    ints
}

/// Fits one block of 32 with a scale and an offset, elements `0..=top`.
pub fn offset_block(x: &[f32], top: f32) -> Ints {
    let x: [f32; 32] = usable(x);
    let (lo, hi) = x.iter().fold((x[0], x[0]), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
    let mut best = (f32::INFINITY, 0.0, 0.0);
    let (d, m) = offset_scale_of(&x, top, false);
    for (d, m) in [(d, m), (d * (1.0 + 1.0 / 2048.0), m), (d * (1.0 - 1.0 / 2048.0), m), ((hi - lo) / top, -lo)] {
        let (d, m) = (to_f16(d), to_f16(m));
        let e = offset_error(&x, top, d, m);
        if e < best.0 {
            best = (e, d, m);
        }
    }
    let mut ints = Ints { min: best.2, mins: [1; 16], ..Ints::block32(best.1) };
    let inv = inverse(best.1);
    for (q, x) in ints.q.iter_mut().zip(&x) {
        *q = round(limit((x + best.2) * inv, 0.0, top)) as i8;
    }
    ints
}

/// Fits 256 elements in sub-blocks of `SUB` whose scales are integers `scales.0..=scales.1`, without minima.
pub fn super_block<G: Grid, const SUB: usize>(x: &[f32], scales: (f32, f32)) -> Ints {
    let x: [f32; 256] = usable(x);
    let mut wanted = [0.0f32; 16];
    for (w, x) in wanted.iter_mut().zip(x.chunks_exact(SUB)) {
        *w = scale_of::<G>(x);
    }
    let top = peak(&wanted);
    if top == 0.0 {
        return Ints::block256(SUB, 0.0, 0.0);
    }
    // The integer scales nearest to the wanted ones or next to those, whichever errs least.
    let choose = |d: f32| {
        let (mut total, mut chosen) = (0.0, [0.0f32; 16]);
        for (s, x) in x.chunks_exact(SUB).enumerate() {
            let near = round(limit(wanted[s] * inverse(d), scales.0, scales.1));
            let mut best = f32::INFINITY;
            for scale in [near, near - 1.0, near + 1.0] {
                let scale = limit(scale, scales.0, scales.1);
                let e = error::<G>(x, d * scale);
                if e < best {
                    (best, chosen[s]) = (e, scale);
                }
            }
            total += best;
        }
        (total, d, chosen)
    };
    let mut best = (f32::INFINITY, 0.0, [0.0; 16]);
    for end in [scales.0, scales.1, scales.0 + 1.0, scales.1 - 1.0] {
        let tried = choose(to_f16_above_zero(top / end));
        if tried.0 < best.0 {
            best = tried;
        }
    }
    for _ in 0..2 {
        let (mut xq, mut qq) = (0.0, 0.0);
        for (x, scale) in x.chunks_exact(SUB).zip(best.2) {
            let inv = inverse(best.1 * scale);
            let [a, b] = sums(x, |x| {
                let q = G::nearest(x * inv) * scale;
                [x * q, q * q]
            });
            xq += a;
            qq += b;
        }
        let tried = choose(if qq > 0.0 { to_f16_above_zero(xq / qq) } else { best.1 });
        if tried.0 >= best.0 {
            break;
        }
        best = tried;
    }
    let mut ints = Ints::block256(SUB, best.1, 0.0);
    for (s, (q, x)) in ints.q.chunks_exact_mut(SUB).zip(x.chunks_exact(SUB)).enumerate() {
        ints.scales[s] = best.2[s] as i8;
        let inv = inverse(best.1 * best.2[s]);
        for (q, x) in q.iter_mut().zip(x) {
            *q = G::nearest(x * inv) as i8;
        }
    }
    ints
}

/// Fits 256 elements `0..=top` in sub-blocks of `SUB` whose scales and minima are integers `0..=limits`.
pub fn offset_super_block<const SUB: usize>(x: &[f32], top: f32, most: f32) -> Ints {
    let x: [f32; 256] = usable(x);
    let mut wanted = [(0.0f32, 0.0f32); 16];
    let (mut top_d, mut top_m) = (0.0f32, 0.0f32);
    for (w, x) in wanted.iter_mut().zip(x.chunks_exact(SUB)) {
        *w = offset_scale_of(x, top, true);
        (top_d, top_m) = (top_d.max(w.0), top_m.max(w.1));
    }
    let choose = |d: f32, dmin: f32| {
        let (mut total, mut chosen) = (0.0, [(0.0f32, 0.0f32); 16]);
        for (s, x) in x.chunks_exact(SUB).enumerate() {
            let near_d = round(limit(wanted[s].0 * inverse(d), 0.0, most));
            let near_m = round(limit(wanted[s].1 * inverse(dmin), 0.0, most));
            let mut best = f32::INFINITY;
            for i in 0..9 {
                let scale = limit(near_d + (i / 3) as f32 - 1.0, 0.0, most);
                let min = limit(near_m + (i % 3) as f32 - 1.0, 0.0, most);
                let e = offset_error(x, top, d * scale, dmin * min);
                if e < best {
                    (best, chosen[s]) = (e, (scale, min));
                }
            }
            total += best;
        }
        (total, d, dmin, chosen)
    };
    let mut best = choose(to_f16_above_zero(top_d / most), to_f16_above_zero(top_m / most));
    for _ in 0..3 {
        // Least squares for x ≈ d · (scale · q) − dmin · min over the whole super-block.
        let [mut aa, mut ab, mut bb, mut xa, mut xb] = [0.0f32; 5];
        for (x, (scale, min)) in x.chunks_exact(SUB).zip(best.3) {
            let (m, inv) = (best.2 * min, inverse(best.1 * scale));
            let [a, sq, xq, sx] = sums(x, |x| {
                let q = round(limit((x + m) * inv, 0.0, top)) * scale;
                [q * q, q, x * q, x]
            });
            aa += a;
            ab += sq * min;
            bb += min * min * SUB as f32;
            xa += xq;
            xb += sx * min;
        }
        let det = aa * bb - ab * ab;
        let (d, dmin) = match det > 0.0 {
            true => ((xa * bb - xb * ab) / det, (xa * ab - xb * aa) / det),
            false if aa > 0.0 => (xa / aa, best.2),
            false => break,
        };
        let tried = choose(to_f16_above_zero(d.max(0.0)), to_f16_above_zero(dmin.max(0.0)));
        if tried.0 >= best.0 {
            break;
        }
        best = tried;
    }
    let mut ints = Ints::block256(SUB, best.1, best.2);
    for (s, (q, x)) in ints.q.chunks_exact_mut(SUB).zip(x.chunks_exact(SUB)).enumerate() {
        let (scale, min) = best.3[s];
        (ints.scales[s], ints.mins[s]) = (scale as i8, min as u8);
        let (m, inv) = (best.2 * min, inverse(best.1 * scale));
        for (q, x) in q.iter_mut().zip(x) {
            *q = round(limit((x + m) * inv, 0.0, top)) as i8;
        }
    }
    ints
}
