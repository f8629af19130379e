//! Quantising: error against llama.cpp's, bits packed and unpacked again, hostile values.

use drupe_quant::{Format, oracle};

const QUANTISED: [Format; 12] = [
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
    Format::Q2_K,
    Format::Q3_K,
    Format::Q4_K,
    Format::Q5_K,
    Format::Q6_K,
    Format::IQ4_NL,
    Format::IQ4_XS,
];

const N: usize = 1 << 16;

/// Output `i` of splitmix64's stream of this seed.
fn random(seed: u64, i: usize) -> u64 {
    let mut z = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

fn uniform(seed: u64, i: usize) -> f64 {
    (random(seed, i) >> 40) as f64 / 16_777_216.0
}

/// The inputs that `data/peer_rmse.py` describes and measures llama.cpp with.
fn input(name: &str) -> Vec<f32> {
    (0..N)
        .map(|i| {
            let normal = (0..12).map(|k| (random(1, 12 * i + k) >> 40) as f64).sum::<f64>() / 16_777_216.0 - 6.0;
            let (u, column, row) = (uniform(2, i), uniform(3, i % 256), uniform(4, i / 256));
            let gain = if column > 0.98 { 6.0 } else { 0.5 + column };
            (match name {
                "normal" => normal,
                "heavy" => normal / (u + 1e-3).sqrt(),
                "trained" => 0.02 * (normal * gain + 0.2 * (row - 0.5)),
                "positive" => normal * normal,
                "sparse" if u < 0.9 => 0.0,
                "sparse" => normal,
                "small" => 1e-3 * normal,
                _ => panic!("unknown input {name}"),
            }) as f32
        })
        .collect()
}

fn round_trip(format: Format, x: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0; format.row_bytes(x.len()).unwrap()];
    oracle::quantize(format, x, &mut bytes);
    let mut y = vec![f32::NAN; x.len()];
    oracle::dequantize(format, &bytes, &mut y);
    y
}

fn relative_error(x: &[f32], y: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let error: f64 = x.iter().zip(y).map(|(x, y)| square(*x as f64 - *y as f64)).sum();
    (error / x.iter().map(|x| square(*x as f64)).sum::<f64>()).sqrt()
}

#[test]
fn error_is_no_larger_than_llama_cpp() {
    let mut worst = Vec::new();
    for line in include_str!("data/peer_rmse.txt").lines() {
        let [name, input_name, peer] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let format = *QUANTISED.iter().find(|f| f.name() == name).unwrap();
        let x = input(input_name);
        let started = std::time::Instant::now();
        let ours = relative_error(&x, &round_trip(format, &x));
        let rate = N as f64 / started.elapsed().as_secs_f64() / 1e6;
        let peer: f64 = peer.parse().unwrap();
        println!("{name:7} {input_name:9} {ours:.6} llama.cpp {peer:.6} ratio {:.4} {rate:6.1} M/s", ours / peer);
        if ours > peer {
            worst.push(format!("{name} {input_name}: {ours} above {peer}"));
        }
    }
    assert!(worst.is_empty(), "{worst:#?}");
}

/// Random bytes with finite scales survive unpack → pack bit for bit, and so does what `fit` gives.
#[test]
fn packing_is_the_inverse_of_unpacking() {
    for format in QUANTISED {
        let bytes = format.block_bytes();
        for n in 0..2000 {
            let seed = n as u64 + 10;
            let mut block: Vec<u8> = (0..bytes).map(|i| (random(seed, i) >> 56) as u8).collect();
            for at in f16_places(format) {
                block[at + 1] &= 0xbf; // no NaN, whose bits need not survive
            }
            let mut again = vec![0xaa; bytes + 1];
            oracle::pack(format, &oracle::unpack(format, &block), &mut again[..bytes]);
            assert_eq!(again[..bytes], block, "{} seed {seed}", format.name());
            assert_eq!(again[bytes], 0xaa);
            let x: Vec<f32> = (0..format.block_len()).map(|i| uniform(seed, i) as f32 - 0.5).collect();
            let ints = oracle::fit(format, &x);
            oracle::pack(format, &ints, &mut block);
            let back = oracle::unpack(format, &block);
            let subs = ints.len / ints.sub;
            assert_eq!((ints.d, ints.min, &ints.q[..ints.len]), (back.d, back.min, &back.q[..ints.len]));
            assert_eq!((&ints.scales[..subs], &ints.mins[..subs]), (&back.scales[..subs], &back.mins[..subs]));
        }
    }
}

fn f16_places(format: Format) -> Vec<usize> {
    match format {
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => vec![0, 2],
        Format::Q2_K => vec![80, 82],
        Format::Q3_K => vec![108],
        Format::Q6_K => vec![208],
        _ => vec![0],
    }
}

#[test]
fn hostile_values_give_finite_blocks() {
    type Case = (&'static str, fn(usize) -> f32);
    let cases: [Case; 16] = [
        ("zero", |_| 0.0),
        ("minus zero", |_| -0.0),
        ("one", |_| 1.0),
        ("minus one", |_| -1.0),
        ("NaN", |_| f32::NAN),
        ("infinity", |_| f32::INFINITY),
        ("minus infinity", |_| f32::NEG_INFINITY),
        ("both infinities", |i| if i % 2 == 0 { f32::INFINITY } else { f32::NEG_INFINITY }),
        ("one infinity", |i| if i == 5 { f32::INFINITY } else { 0.1 }),
        ("one NaN", |i| if i == 9 { f32::NAN } else { i as f32 }),
        ("largest", |i| if i % 3 == 0 { f32::MAX } else { f32::MIN }),
        ("subnormal", |i| f32::from_bits(i as u32 + 1)),
        ("least subnormal", |_| f32::from_bits(1)),
        ("below f16", |i| 1e-8 * (i as f32 - 13.0)),
        ("mixed sizes", |i| if i % 32 == 0 { 1e30 } else { 1e-30 }),
        ("alternating sizes", |i| if i / 16 % 2 == 0 { 1e4 * i as f32 } else { -1e-6 }),
    ];
    for format in QUANTISED {
        for (name, f) in cases {
            let x: Vec<f32> = (0..format.block_len() * 2).map(f).collect();
            let y = round_trip(format, &x);
            assert!(y.iter().all(|v| v.is_finite()), "{} of {name}: {y:?}", format.name());
            let top = x.iter().filter(|v| v.is_finite()).fold(0.0f32, |m, v| m.max(v.abs()));
            // Nothing grows: no finite weight comes back larger than the largest by more than a level.
            if x.iter().all(|v| v.is_finite()) && top < 1e6 {
                assert!(y.iter().all(|v| v.abs() <= top * 1.6 + 1e-7), "{} of {name}: {y:?}", format.name());
            }
            if top == 0.0 && x.iter().all(|v| !v.is_infinite()) {
                assert!(y.iter().all(|v| *v == 0.0), "{} of {name}", format.name());
            }
        }
    }
    for format in [Format::F32, Format::F16, Format::BF16] {
        let y = round_trip(format, &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.5]);
        assert!(y[0].is_nan() && y[1..] == [f32::INFINITY, f32::NEG_INFINITY, 1.5], "{}: {y:?}", format.name());
    }
}

/// What every format can say exactly comes back exactly: constants of a power of two, and one element alone.
#[test]
fn simple_blocks_are_exact() {
    for format in QUANTISED {
        let n = format.block_len();
        for value in [1.0f32, -2.0, 0.5] {
            let y = round_trip(format, &vec![value; n]);
            let error = y.iter().fold(0.0f32, |m, v| m.max((v - value).abs()));
            assert!(error <= value.abs() * 2e-3, "{} of {value}: {error}", format.name());
        }
        let mut x = vec![0.0f32; n];
        x[7] = 1.0;
        let y = round_trip(format, &x);
        // IQ4's table has no zero: its nearest value is 1/113 of the largest.
        let slack = if matches!(format, Format::IQ4_NL | Format::IQ4_XS) { 0.02 } else { 2e-3 };
        assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() <= slack), "{}: {y:?}", format.name());
    }
}

/// All numbers of blocks, odd tails left alone, nothing written outside.
#[test]
fn quantize_keeps_inside_its_slices() {
    for format in Format::ALL {
        let (len, bytes) = (format.block_len(), format.block_bytes());
        for blocks in 0..4 {
            for (extra_in, extra_out) in [(0, 0), (len - 1, bytes - 1), (0, bytes), (len, 0)] {
                let x = vec![0.25f32; blocks * len + extra_in];
                let mut out = vec![0x5a; blocks * bytes + extra_out];
                oracle::quantize(format, &x, &mut out);
                let written = blocks * bytes;
                assert!(out[written..].iter().all(|b| *b == 0x5a), "{} {blocks}", format.name());
                assert!(out[..written].chunks(bytes).all(|b| b == &out[..bytes]), "{}", format.name());
            }
        }
    }
}

/// Random bits as weights: whatever they are, the block is finite.
#[test]
fn random_bits_give_finite_blocks() {
    for format in QUANTISED {
        for n in 0..500 {
            let seed = 1000 + n;
            // Some blocks of any bits at all, some with exponents near those of scales' ends.
            let mask = [u32::MAX, 0x9fff_ffff, 0xb8ff_ffff][n as usize % 3];
            let x: Vec<f32> =
                (0..format.block_len()).map(|i| f32::from_bits((random(seed, i) >> 32) as u32 & mask)).collect();
            let y = round_trip(format, &x);
            assert!(y.iter().all(|v| v.is_finite()), "{} seed {seed}: {y:?}", format.name());
        }
    }
}

/// The scan of scales against trying every f16 scale there is: how much error it leaves.
#[test]
fn the_search_is_near_the_best_scale() {
    let all: Vec<f32> = (0..=u16::MAX).map(|b| half::f16::from_bits(b).to_f32()).filter(|d| d.is_finite()).collect();
    for (format, lo, hi) in [(Format::Q4_0, -8.0f32, 7.0f32), (Format::Q5_0, -16.0, 15.0)] {
        let (mut found, mut best) = (0.0f64, 0.0f64);
        for seed in 0..100 {
            let x: Vec<f32> =
                (0..32).map(|i| ((0..4).map(|k| uniform(seed + 50, 4 * i + k)).sum::<f64>() - 2.0) as f32).collect();
            let peak = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let error = |d: f32| -> f64 {
                x.iter().map(|x| ((x - d * (x / d).round_ties_even().clamp(lo, hi)) as f64).powi(2)).sum()
            };
            // A smaller scale would clip half the range, a larger one waste half the levels.
            let near = all.iter().filter(|d| (peak / hi / 2.0..peak / hi * 2.0).contains(&d.abs()));
            let least = near.map(|d| error(*d)).fold(f64::INFINITY, f64::min);
            let ours = relative_error(&x, &round_trip(format, &x)).powi(2);
            let ours = ours * x.iter().map(|x| (*x as f64).powi(2)).sum::<f64>();
            assert!(ours >= least * (1.0 - 1e-6), "{} seed {seed}: {ours} below {least}", format.name());
            found += ours;
            best += least;
        }
        println!("{}: {:.4} of the least squared error", format.name(), found / best);
        assert!(found <= best * 1.01, "{}: {found} against {best}", format.name());
    }
}
