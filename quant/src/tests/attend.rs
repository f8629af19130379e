//! Attention over runs.

use super::*;
use crate::kernels::{AttendState, KvRun};

#[test]
fn attention_equals_the_oracle() {
    let scalar = Kernels::with(Isa::Scalar).unwrap();
    for (name, kernels) in tables() {
        let mut seed = 0;
        for format in [KvFormat::F16, KvFormat::Q8_0] {
            for (key_dim, value_dim) in [(32, 32), (64, 64), (96, 32), (20, 5), (3, 7), (128, 160)] {
                let (Some(key_bytes), Some(value_bytes)) = (format.head_bytes(key_dim), format.head_bytes(value_dim))
                else {
                    continue;
                };
                for slots in [1, 3, 31, 32, 33, 70] {
                    for queries in [1, 2, 3, 4, 5, 9] {
                        seed += 1;
                        let soft_cap = if seed % 3 == 0 { 2.0 } else { 0.0 };
                        let what = std::format!(
                            "{name} {format:?} {key_dim}/{value_dim}, {slots} slots, {queries} queries, cap {soft_cap}, \
                             seed {seed}"
                        );
                        let mut random = Random::new(seed);
                        let mut stored = |dim: usize, bytes: usize| {
                            let mut all = Guarded::new(slots * bytes, 1);
                            for one in all.bytes().chunks_exact_mut(bytes) {
                                let x: Vec<f32> = random.floats(dim).iter().map(|x| 2.0 * x).collect();
                                scalar.store_kv(format, &x, one);
                            }
                            all
                        };
                        let (mut keys, mut values) = (stored(key_dim, key_bytes), stored(value_dim, value_bytes));
                        let q = random.floats(queries * key_dim);
                        // Whole runs, a growing end as in a prompt, a window, nothing, and beyond the run.
                        let n = slots as u32;
                        // In every other case all queries see the same, as one token's do.
                        let one = seed % 2 == 0;
                        let visible: Vec<(u32, u32)> = (0..queries as u32)
                            .map(|i| match (seed + if one { 0 } else { u64::from(i) }) % 5 {
                                0 => (0, n),
                                1 => (0, (if one { 2 } else { i + 1 }).min(n)),
                                2 => (n / 2, n),
                                3 => (n / 3, n / 3),
                                _ => (n - 1, n + 7),
                            })
                            .collect();
                        let run = KvRun { keys: keys.bytes(), values: values.bytes(), format, slots };
                        // Twice over the same run: the second call goes on from the first one's state.
                        let attended = |kernels: Kernels| {
                            let (mut max, mut sum) = (vec![f32::NEG_INFINITY; queries], vec![0.0; queries]);
                            let mut acc = Guarded::new(4 * queries * value_dim, 4);
                            acc.floats().fill(0.0);
                            let mut scratch = Guarded::new(4 * kernels.attend_scratch(queries, key_dim, value_dim), 0);
                            for _ in 0..2 {
                                let mut state = AttendState { max: &mut max, sum: &mut sum, acc: acc.floats() };
                                kernels.attend(&q, &run, &visible, soft_cap, &mut state, scratch.floats());
                            }
                            acc.check(&what);
                            scratch.check(&what);
                            (max, sum, acc.floats().to_vec())
                        };
                        let (want, got) = (attended(scalar), attended(kernels));
                        // A logit of sizes below 2 · 2 · dim errs by dim · 2^-24 of that at most, in either; e^x by as much
                        // again and 2^-21; the sums have at most 2 · 70 terms.
                        let logit = key_dim as f32 * 4.0 * key_dim as f32 * 6e-8;
                        let relative = 2.0 * logit + 1e-6 + 140.0 * 2.0 * 6e-8;
                        for i in 0..queries {
                            if want.1[i] == 0.0 {
                                assert!(got.1[i] == 0.0 && got.0[i] == f32::NEG_INFINITY, "{what}: query {i}");
                                continue;
                            }
                            // Which key is largest may differ by rounding: compare what does not depend on it.
                            let scale = libm::expf(got.0[i] - want.0[i]);
                            assert!((scale - 1.0).abs() <= 2.0 * logit + 1e-6, "{what}: query {i} maximum");
                            let bound = want.1[i] * relative;
                            assert!((got.1[i] * scale - want.1[i]).abs() <= bound, "{what}: query {i} sum");
                            for c in i * value_dim..(i + 1) * value_dim {
                                let (g, w) = (got.2[c] * scale, want.2[c]);
                                assert!((g - w).abs() <= 2.0 * bound, "{what}: element {c}: {g}, expected {w}");
                            }
                        }
                    }
                }
            }
        }
    }
}
