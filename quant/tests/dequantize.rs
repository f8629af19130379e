//! Dequantising against the numpy code of the `gguf` Python package (`data/blocks.py` makes the file), and the
//! integers of a block against its values.

use drupe_quant::{ActKind, Acts, Format, Kernels, Tiles, act, oracle};

/// xorshift64*, so that a failure's seed is enough to repeat it.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}

fn word(bytes: &mut &[u8]) -> u32 {
    let (head, rest) = bytes.split_at(4);
    *bytes = rest;
    u32::from_le_bytes(head.try_into().unwrap())
}

#[test]
fn every_format_gives_the_reference_values_bit_for_bit() {
    let mut file: &[u8] = include_bytes!("data/blocks.bin");
    let mut seen = Vec::new();
    while !file.is_empty() {
        let format = Format::from_id(word(&mut file)).unwrap();
        let count = word(&mut file) as usize;
        let (blocks, rest) = file.split_at(count * format.block_bytes());
        file = rest;
        let expected: Vec<f32> = (0..count * format.block_len()).map(|_| f32::from_bits(word(&mut file))).collect();
        let mut got = vec![f32::NAN; expected.len()];
        oracle::dequantize(format, blocks, &mut got);
        for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
            // Zero's sign is the one thing that differs: numpy adds an offset where the block has none.
            assert!(g.to_bits() == e.to_bits() || (*g == 0.0 && *e == 0.0), "{}[{i}]: {g} for {e}", format.name());
        }
        seen.push(format);
    }
    assert!(Format::ALL.iter().all(|f| seen.contains(f)), "{seen:?}");
}

#[test]
fn dequantize_keeps_inside_its_slices() {
    for format in Format::ALL {
        let (len, bytes) = (format.block_len(), format.block_bytes());
        for blocks in 0..5 {
            let src = vec![0x11u8; blocks * bytes + bytes - 1];
            let mut dst = vec![7.0f32; blocks * len + len];
            oracle::dequantize(format, &src, &mut dst);
            assert!(dst[blocks * len..].iter().all(|v| *v == 7.0), "{}", format.name());
            assert!(dst[..blocks * len].iter().all(|v| *v != 7.0), "{}", format.name());
        }
    }
}

/// The scalar matmul on random bytes (finite scales) against f64 arithmetic on the dequantised rows.
#[test]
fn scalar_matmul_is_the_dequantised_product() {
    #[repr(align(64))]
    struct Aligned([u8; 1 << 16]);
    for format in Format::ALL {
        for seed in 1..8u64 {
            let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let (cols, rows, tokens) = (format.block_len() * 3, 5, 3);
            let kind = ActKind::of(format);
            let mut weights = vec![0u8; rows * format.row_bytes(cols).unwrap()];
            for block in weights.chunks_exact_mut(format.block_bytes()) {
                let x: Vec<f32> = (0..format.block_len()).map(|_| rng.next() as f32 / 2e9 - 1.0).collect();
                match format {
                    Format::F32 => block.copy_from_slice(&x[0].to_le_bytes()),
                    // Exponent bits below all ones: finite.
                    _ => block.iter_mut().for_each(|b| *b = (rng.next() >> 24) as u8 & 0xbb),
                }
            }
            let mut records = Box::new(Aligned([0; 1 << 16]));
            let stride = kind.stride(cols);
            for t in 0..tokens {
                let x: Vec<f32> = (0..cols).map(|_| rng.next() as f32 / 2e9 - 1.0).collect();
                Kernels::detect().quantize_act(kind, &x, &mut records.0[t * stride..][..stride]);
            }
            let acts = Acts::new(kind, tokens, cols, &records.0).unwrap();
            let mut out = vec![f32::NAN; tokens * rows];
            let tiles = Tiles::new(&mut out, tokens, rows, 0, rows, rows).unwrap();
            let mut scratch = Box::new(Aligned([0; 1 << 16]));
            drupe_quant::scalar::matmul(format, &weights, &acts, &mut tiles.claim().unwrap(), &mut scratch.0);
            let mut row = vec![0.0; cols];
            for (r, w) in weights.chunks_exact(format.row_bytes(cols).unwrap()).enumerate() {
                oracle::dequantize(format, w, &mut row);
                for t in 0..tokens {
                    let value = |i: usize| match kind {
                        ActKind::F32 => acts.values(t)[i] as f64,
                        _ => acts.qs(t)[i] as f64 * acts.scales(t)[i / kind.block()] as f64,
                    };
                    let terms = (0..cols).map(|i| row[i] as f64 * value(i));
                    let (sum, size) = terms.fold((0.0, 0.0), |(s, z), t| (s + t, z + t.abs()));
                    // The scale·q and min·mins products cancel in the minimum formats, so `size` is taken from them.
                    let size = size * if kind == ActKind::F32 { 1.0 } else { 64.0 };
                    let got = out[t * rows + r] as f64;
                    assert!((got - sum).abs() <= 1e-6 * size, "{} seed {seed}: {got} for {sum}", format.name());
                }
            }
        }
    }
}

#[test]
fn record_sections_do_not_overlap() {
    for kind in [ActKind::Q8, ActKind::Q8K] {
        for cols in [256usize, 512, 4096] {
            let mut record = vec![0u64; kind.stride(cols) / 8];
            let (qs, scales, sums) = act::record_parts(kind, cols, bytemuck::cast_slice_mut(&mut record));
            assert_eq!((qs.len(), scales.len(), sums.len()), (cols, cols / kind.block(), cols / 16));
        }
    }
}
