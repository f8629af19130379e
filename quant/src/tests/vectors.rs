//! Norms, gates, rotation, quantised activations, the cache's formats.

use super::*;
use crate::act::record_parts;

fn close(what: &str, got: &[f32], want: &[f32], bound: impl Fn(usize) -> f32) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= bound(i), "{what}: element {i}: {g}, expected {w} within {}", bound(i));
    }
}

const LENGTHS: [usize; 18] = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 256, 1000];

/// Runs `f` on a table's buffer of `x`, checks its guards, and gives the result.
fn run(what: &str, x: &[f32], f: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut buffer = Guarded::new(4 * x.len(), 4);
    buffer.floats().copy_from_slice(x);
    f(buffer.floats());
    buffer.check(what);
    buffer.floats().to_vec()
}

#[test]
fn norms() {
    let scalar = Kernels::with(Isa::Scalar).unwrap();
    for (name, kernels) in tables() {
        for n in LENGTHS {
            let mut random = Random::new(n as u64);
            let x: Vec<f32> = random.floats(n).iter().map(|x| 3.0 * x + 0.5).collect();
            let mut bytes = vec![0; 8 * n + 1];
            bytes[1..].chunks_mut(4).for_each(|b| b.copy_from_slice(&random.float().to_le_bytes()));
            let (weight, bias) = bytes[1..].split_at(4 * n);
            for (weight, bias) in [(weight, bias), (&[][..], &[][..])] {
                let what = std::format!("{name}, {n} elements");
                let mut want = vec![0.0; n];
                scalar.rms_norm(&x, weight, 1e-5, &mut want);
                let got = run(&what, &vec![0.0; n], |out| kernels.rms_norm(&x, weight, 1e-5, out));
                // The sum of n squares errs by n · 2^-24 relatively in each, its root by half; four roundings follow.
                close(&what, &got, &want, |i| (n as f32 + 5.0) * 6e-8 * want[i].abs());
                scalar.layer_norm(&x, weight, bias, 1e-5, &mut want);
                let got = run(&what, &vec![0.0; n], |out| kernels.layer_norm(&x, weight, bias, 1e-5, out));
                // The mean errs by n · 2^-24 · 3.5, the deviation by twice that beside n · 2^-24 of its own, over a deviation
                // of at least 1 (sqrt(eps) = 0.003 for one element, whose result is the bias).
                let sizes = |i: usize| (want[i].abs() + 4.0) * (4.0 * n as f32 + 8.0) * 6e-8;
                close(&what, &got, &want, |i| if n < 4 { 2e-3 } else { sizes(i) });
            }
        }
    }
}

#[test]
fn elementwise() {
    let scalar = Kernels::with(Isa::Scalar).unwrap();
    for (name, kernels) in tables() {
        for n in LENGTHS {
            let mut random = Random::new(n as u64);
            let size = [0.01, 1.0, 10.0, 200.0][n % 4];
            let x: Vec<f32> = random.floats(n).iter().map(|x| size * x).collect();
            let y = random.floats(n);
            for f in [Unary::Silu, Unary::Gelu, Unary::GeluErf, Unary::Relu2, Unary::Sigmoid] {
                let what = std::format!("{name} {f:?}, {n} elements");
                let (mut want, mut gated) = (x.clone(), x.clone());
                scalar.unary(f, &mut want);
                let got = run(&what, &x, |x| kernels.unary(f, x));
                // e^x to 2^-22, and a few roundings; erf to 3e-7; the tanh form's argument (up to 2^-22 of it, times the
                // slope, which falls faster than the argument grows); libm's own error, as much again.
                let bound = |i: usize| {
                    1e-6 * x[i].abs().max(1e-30)
                        + if f == Unary::Sigmoid { 1e-6 } else { 0.0 }
                        + if f == Unary::Relu2 { 1e-6 * want[i] } else { 0.0 }
                };
                close(&what, &got, &want, bound);
                scalar.gated(f, &mut gated, &y);
                let got = run(&what, &x, |x| kernels.gated(f, x, &y));
                close(&what, &got, &gated, |i| bound(i) * y[i].abs());
            }
            let what = std::format!("{name} add_scaled, {n} elements");
            let mut want = x.clone();
            scalar.add_scaled(&mut want, &y, 0.37);
            assert_eq!(run(&what, &x, |x| kernels.add_scaled(x, &y, 0.37)), want, "{what}");
        }
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0];
        let mut got = odd;
        kernels.unary(Unary::Sigmoid, &mut got);
        assert!(got[0].is_nan() && got[1] == 1.0 && got[2] < 1e-37 && got[3] == 0.5, "{name}: {got:?}");
    }
}

#[test]
fn rotation() {
    let scalar = Kernels::with(Isa::Scalar).unwrap();
    for (name, kernels) in tables() {
        for half in [1, 2, 3, 4, 5, 8, 15, 16, 17, 32, 64] {
            for tail in [0, 1, 6] {
                for kind in [RopeKind::Norm, RopeKind::Neox] {
                    let mut random = Random::new(half as u64);
                    let what = std::format!("{name} {kind:?} {half} pairs and {tail}");
                    let (x, cos, sin) = (random.floats(2 * half + tail), random.floats(half), random.floats(half));
                    let mut want = x.clone();
                    scalar.rope(kind, &mut want, &cos, &sin);
                    assert_eq!(run(&what, &x, |x| kernels.rope(kind, x, &cos, &sin)), want, "{what}");
                }
            }
        }
    }
}

/// Vectors that are hard to quantise: halves, subnormal and huge sizes, NaN and infinity.
fn hard(random: &mut Random, n: usize) -> Vec<f32> {
    let mut x = random.floats(n);
    for x in x.chunks_mut(32) {
        match random.next() % 10 {
            0 => x.fill(0.0),
            1 => x.iter_mut().for_each(|x| *x *= 1e-39),
            2 => x.iter_mut().for_each(|x| *x *= 1e38),
            // Ties: multiples of a half of the step.
            3 => {
                x.iter_mut().for_each(|x| *x = libm::rintf(*x * 254.0) * 0.5);
                x[0] = 127.0;
            }
            4 => x[x.len() - 1] = f32::NAN,
            5 => x[x.len() / 2] = f32::INFINITY,
            6 => x.fill(f32::NAN),
            _ => {}
        }
    }
    x
}

#[test]
fn quantised_activations_are_the_oracles() {
    let scalar = Kernels::with(Isa::Scalar).unwrap();
    for (name, kernels) in tables() {
        for seed in 0..if cfg!(target_arch = "aarch64") { 40 } else { 200 } {
            let mut random = Random::new(seed);
            for (kind, n) in [
                (ActKind::Q8, 32 * (1 + seed as usize % 9)),
                (ActKind::Q8K, 256 * (1 + seed as usize % 3)),
                (ActKind::F32, 1 + seed as usize),
            ] {
                let what = std::format!("{name} {kind:?}, {n} elements, seed {seed}");
                let x = hard(&mut random, n);
                let (mut a, mut b) = (Guarded::new(kind.stride(n), 0), Guarded::new(kind.stride(n), 0));
                kernels.quantize_act(kind, &x, a.bytes());
                a.check(&what);
                scalar.quantize_act(kind, &x, b.bytes());
                if kind == ActKind::F32 {
                    assert_eq!(a.bytes(), b.bytes(), "{what}");
                    continue;
                }
                let (a, b) = (record_parts(kind, n, a.bytes()), record_parts(kind, n, b.bytes()));
                assert_eq!((a.0, a.2), (b.0, b.2), "{what}");
                assert!(a.1.iter().zip(b.1.iter()).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}");
            }
        }
    }
}

#[test]
fn stored_keys_are_the_oracles() {
    let scalar = Kernels::with(Isa::Scalar).unwrap();
    for (name, kernels) in tables() {
        for seed in 0..if cfg!(target_arch = "aarch64") { 40 } else { 200 } {
            let mut random = Random::new(seed);
            for (format, n) in [(KvFormat::F16, 1 + seed as usize), (KvFormat::Q8_0, 32 * (1 + seed as usize % 5))] {
                let what = std::format!("{name} {format:?}, {n} elements, seed {seed}");
                // NaN has many f16.
                let x: Vec<f32> = hard(&mut random, n).iter().map(|x| if x.is_nan() { 0.25 } else { *x }).collect();
                let bytes = format.head_bytes(n).unwrap();
                let (mut a, mut b) = (Guarded::new(bytes, 1), Guarded::new(bytes, 0));
                kernels.store_kv(format, &x, a.bytes());
                a.check(&what);
                scalar.store_kv(format, &x, b.bytes());
                assert_eq!(a.bytes(), b.bytes(), "{what}");
            }
        }
    }
}
