//! Samplers against their definitions, written out plainly.

use super::*;
use std::vec;
use std::vec::Vec;

fn with<'m, T>(vocabulary: usize, config: SamplerConfig<'m>, test: impl FnOnce(&mut Sampler<'_>) -> T) -> T {
    let mut mem = vec![0; Sampler::bytes_needed(vocabulary, &config).unwrap()];
    test(&mut Sampler::new(vocabulary, config, &mut mem).unwrap())
}

/// Logits that look like a model's: most near zero, some high.
fn logits(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..n).map(|_| 12.0 * next() * next() * next() - 3.0).collect()
}

const PLAIN: SamplerConfig<'static> = SamplerConfig {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    typical_p: 1.0,
    repeat_penalty: 1.0,
    frequency_penalty: 0.0,
    presence_penalty: 0.0,
    penalty_last_n: 64,
    logit_bias: &[],
    seed: 1,
};

/// How often each token is chosen.
fn frequencies(logits: &[f32], config: SamplerConfig<'_>, draws: usize) -> Vec<f64> {
    let mut counts = vec![0.0; logits.len()];
    with(logits.len(), config, |sampler| {
        for _ in 0..draws {
            counts[sampler.sample(&mut logits.to_vec()).unwrap() as usize] += 1.0 / draws as f64;
        }
    });
    counts
}

/// The probabilities that the steps should give, by sorting everything.
fn expected(logits: &[f32], config: &SamplerConfig<'_>) -> Vec<f64> {
    let softmax = |kept: &[(usize, f64)]| {
        let total: f64 = kept.iter().map(|k| k.1.exp()).sum();
        kept.iter().map(|&(id, logit)| (id, logit, logit.exp() / total)).collect::<Vec<_>>()
    };
    let mut kept: Vec<(usize, f64)> = logits.iter().map(|&l| l as f64).enumerate().collect();
    kept.sort_by(|a, b| b.1.total_cmp(&a.1));
    if config.top_k > 0 {
        kept.truncate(config.top_k as usize);
    }
    if config.typical_p < 1.0 {
        let probable = softmax(&kept);
        let entropy: f64 = probable.iter().map(|k| -k.2 * k.2.ln()).sum();
        let mut by_distance = probable.clone();
        by_distance.sort_by(|a, b| (-a.2.ln() - entropy).abs().total_cmp(&(-b.2.ln() - entropy).abs()));
        let mut sum = 0.0;
        kept = by_distance
            .into_iter()
            .take_while(|k| {
                let more = sum <= config.typical_p as f64;
                sum += k.2;
                more
            })
            .map(|k| (k.0, k.1))
            .collect();
        kept.sort_by(|a, b| b.1.total_cmp(&a.1));
    }
    if config.top_p < 1.0 {
        let mut sum = 0.0;
        kept = softmax(&kept)
            .into_iter()
            .take_while(|k| {
                let more = sum < config.top_p as f64;
                sum += k.2;
                more
            })
            .map(|k| (k.0, k.1))
            .collect();
    }
    let best = kept[0].1;
    kept.retain(|k| (k.1 - best).exp() >= config.min_p as f64 * (1.0 - 1e-6));
    let mut probabilities = vec![0.0; logits.len()];
    let heated: Vec<_> = kept.iter().map(|k| (k.0, k.1 / config.temperature as f64)).collect();
    softmax(&heated).iter().for_each(|k| probabilities[k.0] = k.2);
    probabilities
}

#[test]
fn every_step_keeps_what_its_definition_says() {
    let configs = [
        PLAIN,
        SamplerConfig { top_k: 5, ..PLAIN },
        SamplerConfig { top_p: 0.7, ..PLAIN },
        SamplerConfig { top_k: 20, top_p: 0.7, ..PLAIN },
        SamplerConfig { min_p: 0.2, ..PLAIN },
        SamplerConfig { top_k: 30, min_p: 0.2, temperature: 2.0, ..PLAIN },
        SamplerConfig { typical_p: 0.6, ..PLAIN },
        SamplerConfig { top_k: 50, typical_p: 0.8, top_p: 0.9, min_p: 0.05, temperature: 0.7, ..PLAIN },
    ];
    for (i, config) in configs.into_iter().enumerate() {
        for seed in 1..3 {
            let logits = logits(100, seed);
            let (found, expected) = (frequencies(&logits, config, 8_000), expected(&logits, &config));
            for (id, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert!((*expected > 0.0) || *found == 0.0, "config {i} seed {seed}: token {id} was to be dropped");
                // Five standard deviations of a count of 8,000.
                let bound = 5.0 * (expected * (1.0 - expected) / 8_000.0).sqrt() + 1e-9;
                assert!((found - expected).abs() < bound, "config {i} seed {seed} token {id}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn greedy_takes_the_first_of_the_best() {
    with(5, SamplerConfig::default(), |sampler| {
        assert_eq!(sampler.sample(&mut [1.0, 3.0, f32::NAN, 3.0, f32::NEG_INFINITY]), Ok(1));
        assert_eq!(sampler.sample(&mut [f32::NAN, f32::NAN, -5.0, f32::NAN, f32::NEG_INFINITY]), Ok(2));
    });
}

#[test]
fn what_is_no_number_is_never_chosen() {
    for config in [PLAIN, SamplerConfig { top_k: 3, ..PLAIN }, SamplerConfig { top_p: 0.9, typical_p: 0.9, ..PLAIN }] {
        with(6, config, |sampler| {
            for _ in 0..200 {
                let mut logits = [f32::NAN, 1.0, f32::NEG_INFINITY, f32::NAN, 1.5, f32::NEG_INFINITY];
                assert!(matches!(sampler.sample(&mut logits), Ok(1 | 4)));
                let mut infinite = [0.0, f32::INFINITY, f32::NAN, f32::INFINITY, f32::MAX, -f32::MAX];
                assert!(matches!(sampler.sample(&mut infinite), Ok(1 | 3 | 4)));
            }
            assert_eq!(sampler.sample(&mut [f32::NAN; 6]), Err(SamplerError::NothingToChoose));
            assert_eq!(sampler.sample(&mut [f32::NEG_INFINITY; 6]), Err(SamplerError::NothingToChoose));
            assert_eq!(sampler.sample(&mut [0.0; 5]), Err(SamplerError::Logits { found: 5, expected: 6 }));
        });
    }
    with(0, PLAIN, |sampler| assert_eq!(sampler.sample(&mut []), Err(SamplerError::NothingToChoose)));
}

#[test]
fn the_same_seed_gives_the_same_tokens() {
    let run = |seed| {
        let config = SamplerConfig { seed, top_k: 40, top_p: 0.95, temperature: 0.8, ..PLAIN };
        with(1000, config, |sampler| (0..30).map(|i| sampler.sample(&mut logits(1000, i)).unwrap()).collect::<Vec<_>>())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
    // The numbers themselves are part of the promise: they hold on every machine.
    with(1, SamplerConfig { seed: 1234567, ..PLAIN }, |sampler| {
        let known = [6457827717110365317_u64, 3203168211198807973, 9817491932198370423];
        for known in known {
            assert_eq!(sampler.next_random(), (known >> 11) as f64 / (1_u64 << 53) as f64);
        }
    });
}

#[test]
fn penalties_count_the_last_tokens_only() {
    let config = SamplerConfig {
        repeat_penalty: 2.0,
        frequency_penalty: 0.5,
        presence_penalty: 0.25,
        penalty_last_n: 3,
        ..SamplerConfig::default()
    };
    with(4, config, |sampler| {
        [0, 1, 1, 2].iter().for_each(|&id| sampler.accept(id));
        let mut logits = [4.0, 4.0, -4.0, 4.0];
        assert_eq!(sampler.sample(&mut logits), Ok(0));
        assert_eq!(logits, [4.0, 2.0 - 1.25, -8.0 - 0.75, 4.0]);
        sampler.reset();
        let mut logits = [1.0, 2.0, 3.0, 0.0];
        assert_eq!(sampler.sample(&mut logits), Ok(2));
        assert_eq!(logits, [1.0, 2.0, 3.0, 0.0]);
        sampler.accept(99);
        assert_eq!(sampler.sample(&mut logits), Ok(2));
    });
}

#[test]
fn biases_force_and_forbid() {
    let bias = [(2, f32::NEG_INFINITY), (0, 5.0)];
    with(3, SamplerConfig { logit_bias: &bias, ..PLAIN }, |sampler| {
        for _ in 0..100 {
            assert_ne!(sampler.sample(&mut [0.0, 0.0, 50.0]), Ok(2));
        }
    });
}

#[test]
fn options_out_of_range_and_too_little_memory_are_refused() {
    let bad = |config: SamplerConfig<'_>| Sampler::bytes_needed(10, &config).is_err();
    assert!(bad(SamplerConfig { temperature: f32::NAN, ..PLAIN }));
    assert!(bad(SamplerConfig { temperature: -1.0, ..PLAIN }));
    assert!(bad(SamplerConfig { top_p: 1.5, ..PLAIN }));
    assert!(bad(SamplerConfig { repeat_penalty: 0.0, ..PLAIN }));
    assert!(bad(SamplerConfig { logit_bias: &[(10, 1.0)], ..PLAIN }));
    assert!(bad(SamplerConfig { logit_bias: &[(1, f32::NAN)], ..PLAIN }));
    assert!(bad(SamplerConfig { penalty_last_n: u32::MAX, ..PLAIN }));
    let config = SamplerConfig { top_k: 5, repeat_penalty: 1.1, ..PLAIN };
    let needed = Sampler::bytes_needed(10, &config).unwrap();
    for len in 0..needed - 3 {
        // The three bytes are for aligning, which memory from a vector may not need.
        let found = Sampler::new(10, config, &mut vec![0; len]).err();
        assert!(matches!(found, Some(SamplerError::MemoryTooSmall { needed: n, .. }) if n == needed));
    }
}
