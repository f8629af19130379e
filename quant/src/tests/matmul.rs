//! Matrix products.

use super::*;
use std::collections::BTreeMap;

/// The places of a block's f16 fields.
fn scale_fields(format: Format) -> &'static [usize] {
    use Format::*;
    match format {
        Q4_0 | Q5_0 | Q8_0 | IQ4_NL | IQ4_XS => &[0],
        Q4_1 | Q5_1 | Q4_K | Q5_K => &[0, 2],
        Q2_K => &[80, 82],
        Q3_K => &[108],
        Q6_K => &[208],
        F32 | F16 | BF16 => &[],
    }
}

/// What goes into the blocks.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fill {
    /// Random bits, random scales.
    Random,
    /// Random bits, all f16 fields 1 and all activations' scales 1, so that every term is an integer.
    Integers,
    /// Bytes alike, of all bits or of one bit or of all but one, activations of largest size: the largest sums there are.
    Extreme,
}

fn weights(random: &mut Random, format: Format, n: usize, fill: Fill, out: &mut [u8]) {
    let bytes = format.block_bytes();
    for b in out[..n * bytes].chunks_exact_mut(bytes) {
        let same = [0, 0xff, 0x80, 0x7f][random.next() as usize % 4];
        b.fill_with(|| if fill == Fill::Extreme { same } else { random.next() as u8 });
        match format {
            Format::F32 => b.copy_from_slice(&random.float().to_le_bytes()),
            Format::F16 => b.copy_from_slice(&f16::from_f32(random.float()).to_le_bytes()),
            Format::BF16 => b.copy_from_slice(&random.float().to_le_bytes()[2..]),
            _ => {}
        }
        for at in scale_fields(format) {
            let d = if fill == Fill::Random { f16::from_f32(random.float()) } else { f16::ONE };
            b[*at..at + 2].copy_from_slice(&d.to_le_bytes());
        }
    }
}

/// The product of row `w` and token `t` in f64, and the sum of the sizes of all its terms.
fn expected(format: Format, w: &[u8], acts: &Acts, t: usize) -> (f64, f64) {
    let (mut sum, mut size) = (0.0, 0.0);
    let mut add = |x: f64| (sum, size) = (sum + x, size + x.abs());
    if acts.kind == ActKind::F32 {
        let mut row = vec![0.0; acts.cols];
        oracle::dequantize(format, w, &mut row);
        row.iter().zip(acts.values(t)).for_each(|(w, x)| add(*w as f64 * *x as f64));
        return (sum, size);
    }
    let n = format.block_len();
    for ((w, a), d) in w.chunks_exact(format.block_bytes()).zip(acts.qs(t).chunks(n)).zip(acts.scales(t)) {
        let ints = oracle::unpack(format, w);
        for (i, a) in a.iter().enumerate() {
            let s = i / ints.sub;
            let (scale, min) = (ints.d as f64 * ints.scales[s] as f64, ints.min as f64 * ints.mins[s] as f64);
            // The offset is a term of its own.
            add(*d as f64 * scale * (ints.q[i] as f64) * *a as f64);
            add(-(*d as f64 * min * *a as f64));
        }
    }
    (sum, size)
}

fn check(
    name: &str,
    kernels: Kernels,
    format: Format,
    (rows, blocks, tokens): (usize, usize, usize),
    fill: Fill,
    seed: u64,
) {
    let what = std::format!("{name} {} {rows}x{blocks} blocks, {tokens} tokens, {fill:?}, seed {seed}", format.name());
    let mut random = Random::new(seed);
    let cols = blocks * format.block_len();
    let kind = ActKind::of(format);
    let row_bytes = format.row_bytes(cols).unwrap();

    let mut w = Guarded::new(rows * row_bytes, 1);
    weights(&mut random, format, rows * blocks, fill, w.bytes());
    let mut records = Guarded::new(tokens * kind.stride(cols), 0);
    for record in records.bytes().chunks_exact_mut(kind.stride(cols)) {
        let mut x = random.floats(cols);
        for x in x.chunks_mut(kind.block()).filter(|_| fill != Fill::Random) {
            x.iter_mut()
                .for_each(|x| *x = if fill == Fill::Extreme { 127.0 * x.signum() } else { libm::rintf(127.0 * *x) });
            if fill == Fill::Extreme && random.next() & 1 == 0 {
                x.iter_mut().for_each(|x| *x = 127.0);
            }
            x[0] = 127.0;
        }
        kernels.quantize_act(kind, &x, record);
    }
    records.check(&what);
    let acts = Acts::new(kind, tokens, cols, records.bytes()).unwrap();

    let stride = rows + 3;
    let mut out = Guarded::new(tokens * stride * 4, 4);
    let mut scratch = Guarded::new(kernels.matmul_scratch(format, cols, tokens), 0);
    let tiles = Tiles::new(out.floats(), tokens, stride, 2, rows, usize::MAX / 2).unwrap();
    kernels.matmul(format, w.bytes(), &acts, &mut tiles.claim().unwrap(), scratch.bytes());
    w.check(&what);
    out.check(&what);
    scratch.check(&what);

    let guard = f32::from_ne_bytes([GUARD; 4]);
    // Roundings in a row: one per group of columns for the sum, and a few for scales. A sum of n terms by partial sums
    // errs by at most n · 2^-24 of the sum of the sizes of its terms; the float formats add each column.
    let steps = if kind == ActKind::F32 { cols / 8 + 12 } else { 2 * cols / 16 + 8 };
    for t in 0..tokens {
        let row = &out.floats()[t * stride..][..stride];
        assert!(row[..2].iter().chain(&row[2 + rows..]).all(|x| *x == guard), "{what}: written outside the tile");
        for (r, got) in row[2..][..rows].iter().enumerate() {
            let (want, size) = expected(
                format,
                &w.all[w.at + r * row_bytes..][..row_bytes],
                &acts_of(&records, kind, tokens, cols),
                t,
            );
            let exact = fill != Fill::Random && kind != ActKind::F32 && size < (1 << 24) as f64;
            // Offsets (at most 128, IQ4 and Q8_0) are taken off in integers, so do not count.
            let bound = if exact { 0.0 } else { steps as f64 * size * 2f64.powi(-24) };
            assert!(
                (*got as f64 - want).abs() <= bound,
                "{what}: token {t} row {r}: {got}, expected {want} within {bound}"
            );
        }
    }
}

fn acts_of(records: &Guarded, kind: ActKind, tokens: usize, cols: usize) -> Acts<'_> {
    Acts::new(kind, tokens, cols, &records.all[records.at..][..records.n]).unwrap()
}

#[test]
fn every_format_equals_the_oracle() {
    for (name, kernels) in tables() {
        for format in Format::ALL.into_iter().filter(|f| f.is_built()) {
            let mut seed = 0;
            // Rows and tokens around the kernels' tiles; a token tile is 128.
            for rows in [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40] {
                for tokens in [1, 2, 3, 4, 5, 8] {
                    for fill in [Fill::Random, Fill::Integers, Fill::Extreme] {
                        seed += 1;
                        // Arm mostly runs under an emulator: a part of the shapes, another for each format.
                        if cfg!(target_arch = "aarch64") && !(seed + format as u64).is_multiple_of(9) {
                            continue;
                        }
                        let blocks =
                            if format.block_len() == 1 { 1 + (7 * seed as usize) % 70 } else { 1 + seed as usize % 5 };
                        check(name, kernels, format, (rows, blocks, tokens), fill, seed);
                    }
                }
            }
            for tokens in if cfg!(target_arch = "aarch64") { vec![30] } else { vec![127, 128, 129, 260] } {
                check(
                    name,
                    kernels,
                    format,
                    (17, if format.block_len() == 256 { 2 } else { 5 }, tokens),
                    Fill::Random,
                    1000,
                );
            }
        }
    }
}

/// Whatever the tile of rows, a row and token give the same bits. On x86 all instruction sets and all shapes of call
/// give the same; on Arm one token alone is summed in another order than several.
#[test]
fn results_do_not_depend_on_the_call() {
    let mut random = Random::new(5);
    for format in Format::ALL.into_iter().filter(|f| f.is_built() && f.block_len() > 1) {
        let (rows, cols, tokens) = (37, 512, 9);
        let kind = ActKind::of(format);
        let row_bytes = format.row_bytes(cols).unwrap();
        let mut w = vec![0; rows * row_bytes];
        weights(&mut random, format, rows * cols / format.block_len(), Fill::Random, &mut w);
        let x = random.floats(cols * tokens);
        let mut first = BTreeMap::<usize, Vec<f32>>::new();
        for (name, kernels) in tables() {
            for (row_chunk, token_chunk) in [(64, 9), (1, 9), (5, 2), (16, 1), (8, 4), (64, 2), (1, 1), (5, 4)] {
                let mut out = vec![0.0; tokens * rows];
                let tiles = Tiles::new(&mut out, tokens, rows, 0, rows, row_chunk).unwrap().by_tokens(token_chunk);
                while let Some(mut tile) = tiles.claim() {
                    let range = tile.token_range();
                    let mut records = Guarded::new(range.len() * kind.stride(cols), 0);
                    for (record, t) in records.bytes().chunks_exact_mut(kind.stride(cols)).zip(range.clone()) {
                        kernels.quantize_act(kind, &x[t * cols..][..cols], record);
                    }
                    let acts = Acts::new(kind, range.len(), cols, records.bytes()).unwrap();
                    let mut scratch = Guarded::new(kernels.matmul_scratch(format, cols, range.len()), 0);
                    let w = &w[tile.rows().start * row_bytes..tile.rows().end * row_bytes];
                    kernels.matmul(format, w, &acts, &mut tile, scratch.bytes());
                }
                let alike = match name {
                    "portable" => usize::MAX,
                    _ if cfg!(target_arch = "aarch64") => token_chunk,
                    _ => 0,
                };
                let first = first.entry(alike).or_insert_with(|| out.clone());
                assert_eq!(first, &out, "{name} {} {row_chunk} {token_chunk}", format.name());
            }
        }
    }
}
