//! Runs the matrix products of one shape, to count instructions under an emulator:
//!
//! ```text
//! shape ISA FORMAT TOKENS TIMES LAYER…
//! ```
//! The shape is `arm-100m`: layers 0 to 7, 1024 wide, 3072 feed-forward, 16 heads of 64, 8 KV heads; "layer" 8 is the
//! output matrix, 8192 words in Q6_K. `FORMAT` is Q4_0, Q8_0 or Q4_K_M (Q6_K for the value and down matrices of
//! layers 0, 3, 6, 7). The difference of two runs with TIMES apart is the cost of that many passes.

use drupe_quant::{ActKind, Acts, Format, Isa, Kernels, Tiles};

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

fn lines(bytes: usize) -> Vec<Line> {
    vec![Line([0; 64]); bytes.div_ceil(64)]
}

fn bytes(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: lines are plain bytes.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), 64 * lines.len()) }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, isa, format, tokens, times, layers @ ..] = args.as_slice() else {
        panic!("shape ISA FORMAT TOKENS TIMES LAYER…")
    };
    let layers = layers.iter().map(|l| l.parse::<usize>().unwrap());
    let kernels = Kernels::with(Isa::from_name(isa).expect("an instruction set's name")).expect("on this CPU");
    let (tokens, times): (usize, usize) = (tokens.parse().unwrap(), times.parse().unwrap());
    let (plain, better) = match format.as_str() {
        "Q4_0" => (Format::Q4_0, Format::Q4_0),
        "Q8_0" => (Format::Q8_0, Format::Q8_0),
        "Q4_K_M" => (Format::Q4_K, Format::Q6_K),
        other => panic!("{other}: not Q4_0, Q8_0 or Q4_K_M"),
    };
    let mut products = Vec::new();
    for layer in layers {
        if layer == 8 {
            products.push((Format::Q6_K, 8192, 1024));
            continue;
        }
        let mixed = if [0, 3, 6, 7].contains(&layer) { better } else { plain };
        let shapes = [(plain, 1024, 1024), (plain, 512, 1024), (mixed, 512, 1024), (plain, 1024, 1024)];
        products.extend(shapes);
        products.extend([(plain, 3072, 1024), (plain, 3072, 1024), (mixed, 1024, 3072)]);
    }
    // One matrix's worth of bytes serves all.
    let most = products.iter().map(|(f, rows, cols)| rows * f.row_bytes(*cols).unwrap()).max().unwrap();
    let w: Vec<u8> = (0..most).map(|i| (i as u32).wrapping_mul(2654435761) as u8 & 0x3f).collect();
    let mut out = vec![0.0; tokens * 8192];
    for _ in 0..times {
        for (format, rows, cols) in &products {
            let kind = ActKind::of(*format);
            let mut records = lines(tokens * kind.stride(*cols));
            let acts = Acts::new(kind, tokens, *cols, bytes(&mut records)).unwrap();
            let mut scratch = lines(kernels.matmul_scratch(*format, *cols, tokens));
            let row_bytes = format.row_bytes(*cols).unwrap();
            let tiles = Tiles::new(&mut out, tokens, *rows, 0, *rows, kernels.row_chunk(*format, *rows, *cols, tokens));
            let tiles = tiles.unwrap();
            while let Some(mut tile) = tiles.claim() {
                let w = &w[tile.rows().start * row_bytes..tile.rows().end * row_bytes];
                kernels.matmul(*format, w, &acts, &mut tile, bytes(&mut scratch));
            }
        }
    }
    println!("{}", out.iter().sum::<f32>());
}
