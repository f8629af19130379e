//! Attention.

use super::*;
use crate::kernels::{AttendState, KvRun};

/// Attention of all queries over two runs, one after the other; the scalar kernels, or a table's.
#[allow(clippy::too_many_arguments)]
fn outputs(
    what: &str,
    kernels: Kernels,
    q: &[f32],
    runs: &[(Guarded, Guarded, usize)],
    format: KvFormat,
    visible: &[Vec<(u32, u32)>],
    soft_cap: f32,
    value_dim: usize,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let n = visible[0].len();
    let (mut max, mut sum, mut acc) =
        (Guarded::new(4 * n, 4), Guarded::new(4 * n, 8), Guarded::new(4 * n * value_dim, 12));
    max.floats().fill(f32::NEG_INFINITY);
    sum.floats().fill(0.0);
    acc.floats().fill(0.0);
    for ((keys, values, slots), visible) in runs.iter().zip(visible) {
        let mut scratch = Guarded::new(4 * kernels.attend_scratch(n, q.len() / n, value_dim), 4);
        let run = KvRun {
            keys: &keys.all[keys.at..][..keys.n],
            values: &values.all[values.at..][..values.n],
            format,
            slots: *slots,
        };
        let mut state = AttendState { max: max.floats(), sum: sum.floats(), acc: acc.floats() };
        kernels.attend(q, &run, visible, soft_cap, &mut state, scratch.floats());
        scratch.check(what);
    }
    [&max, &sum, &acc].iter().for_each(|g| g.check(what));
    (max.floats().to_vec(), sum.floats().to_vec(), acc.floats().to_vec())
}

#[test]
fn attention() {
    let scalar = Kernels::with(Isa::Scalar).unwrap();
    for (name, kernels) in tables() {
        let mut seed = 0;
        for (format, key_dim, value_dim) in [
            (KvFormat::F16, 64, 64),
            (KvFormat::F16, 80, 72),
            (KvFormat::F16, 9, 5),
            (KvFormat::F16, 192, 128),
            (KvFormat::Q8_0, 64, 64),
            (KvFormat::Q8_0, 128, 96),
            (KvFormat::Q8_0, 32, 32),
        ] {
            for queries in [1, 2, 3, 4, 5, 7, 16, 17, 37] {
                for slots in [1, 3, 8, 15, 16, 17, 31, 33, 63, 64, 65, 130] {
                    seed += 1;
                    let soft_cap = if seed % 3 == 0 { 5.0 } else { 0.0 };
                    let what = std::format!(
                        "{name} {format:?} {key_dim}/{value_dim}, {queries} queries, {slots} slots, seed {seed}"
                    );
                    let mut random = Random::new(seed);
                    let mut filled = |dim: usize, slots: usize| {
                        let bytes = format.head_bytes(dim).unwrap();
                        let mut kv = Guarded::new(bytes * slots, 2);
                        for at in kv.bytes().chunks_exact_mut(bytes) {
                            scalar.store_kv(format, &random.floats(dim), at);
                        }
                        kv
                    };
                    let runs = [
                        (filled(key_dim, slots), filled(value_dim, slots), slots),
                        (filled(key_dim, 20), filled(value_dim, 20), 20),
                    ];
                    let q: Vec<f32> = random.floats(queries * key_dim).iter().map(|x| 0.7 * x).collect();
                    // Whole, causal, windowed, and nothing.
                    let visible: Vec<Vec<(u32, u32)>> = runs
                        .iter()
                        .map(|(_, _, slots)| {
                            let slots = *slots as u32;
                            (0..queries as u32)
                                .map(|i| match (seed + i as u64 / 5) % 4 {
                                    0 => (0, slots),
                                    1 => (0, (i + 1).min(slots)),
                                    2 => (slots / 3, slots),
                                    _ => (slots, slots),
                                })
                                .collect()
                        })
                        .collect();
                    let (max, sum, acc) = outputs(&what, kernels, &q, &runs, format, &visible, soft_cap, value_dim);
                    let want = outputs(&what, scalar, &q, &runs, format, &visible, soft_cap, value_dim);
                    // A logit is a sum of key_dim terms of size at most 0.7, so errs by key_dim · 0.7 · key_dim · 2^-24 at
                    // worst in each kernel (q8_0: and a rounding of each key); the cap adds 5 · 2^-21.
                    let logit = 2.0 * (0.7 * (key_dim * key_dim) as f32 + key_dim as f32 * 2.0) * 6e-8 + 2.4e-6;
                    // A weight errs relatively by that twice (its logit, the maximum) and by exp's 2^-22 twice; sums of up to
                    // 150 terms in each kernel follow. Values are at most 1.
                    let weight = 2.0 * logit + 5e-7 + 2.0 * 150.0 * 6e-8;
                    for i in 0..queries {
                        if want.1[i] == 0.0 {
                            assert!(sum[i] == 0.0 && max[i] == f32::NEG_INFINITY, "{what}: query {i} sees nothing");
                            continue;
                        }
                        assert!((max[i] - want.0[i]).abs() <= logit, "{what}: max {i}");
                        assert!((sum[i] - want.1[i]).abs() <= weight * want.1[i], "{what}: sum {i}");
                        for d in 0..value_dim {
                            let (got, want) = (acc[i * value_dim + d] / sum[i], want.2[i * value_dim + d] / want.1[i]);
                            assert!((got - want).abs() <= 2.0 * weight, "{what}: query {i} element {d}: {got}, {want}");
                        }
                    }
                }
            }
        }
    }
}
