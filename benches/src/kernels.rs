//! Kernel benchmarks: bytes and multiply-adds per second beside what this machine can do.
//!
//! Before anything is timed its answer is compared with the scalar kernels' on the same bytes.

use drupe_quant::{ActKind, Acts, AttendState, Format, Isa, Kernels, KvFormat, KvRun, Tiles};

mod ceilings;
mod time;

use time::best;

#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[allow(dead_code)] [u64; 8]);

/// Memory aligned to 64 bytes.
struct Aligned(Vec<Line>, usize);

impl Aligned {
    fn new(n: usize) -> Aligned {
        Aligned(vec![Line([0; 8]); n.div_ceil(64)], n)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: u64s are bytes, and there are at least that many.
        unsafe { core::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.1) }
    }

    fn floats(&mut self) -> &mut [f32] {
        // SAFETY: any bits are an f32; aligned to 64.
        unsafe { core::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.1 / 4) }
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Random blocks: random bits with f16 fields of about 1/100.
fn weights(format: Format, blocks: usize, out: &mut [u8]) {
    use Format::*;
    let mut random = Random(1);
    let (words, rest) = out.as_chunks_mut::<8>();
    words.iter_mut().for_each(|w| *w = random.next().to_ne_bytes());
    rest.fill(7);
    let fields: &[usize] = match format {
        Q4_0 | Q5_0 | Q8_0 | IQ4_NL | IQ4_XS | F16 => &[0],
        Q4_1 | Q5_1 | Q4_K | Q5_K => &[0, 2],
        Q2_K => &[80, 82],
        Q3_K => &[108],
        Q6_K => &[208],
        F32 | BF16 => &[],
    };
    for b in out.chunks_exact_mut(format.block_bytes()).take(blocks) {
        match format {
            F32 => b.copy_from_slice(&random.float().to_le_bytes()),
            BF16 => b.copy_from_slice(&random.float().to_le_bytes()[2..]),
            _ => fields.iter().for_each(|f| b[*f..f + 2].copy_from_slice(&[random.next() as u8, 0x21])),
        }
    }
}

struct Product {
    format: Format,
    rows: usize,
    cols: usize,
    tokens: usize,
    w: memmap2::MmapMut,
    records: Aligned,
    out: Vec<f32>,
}

impl Product {
    fn new(kernels: &Kernels, format: Format, rows: usize, cols: usize, tokens: usize) -> Product {
        let bytes = rows * format.row_bytes(cols).expect("whole blocks");
        // As a model's matrices are mapped.
        let mut w = memmap2::MmapMut::map_anon(bytes).expect("memory for the matrix");
        #[cfg(target_os = "linux")]
        let _ = w.advise(memmap2::Advice::HugePage);
        weights(format, rows * cols / format.block_len(), &mut w);
        let kind = ActKind::of(format);
        let mut records = Aligned::new(tokens * kind.stride(cols));
        let mut random = Random(2);
        for record in records.bytes().chunks_exact_mut(kind.stride(cols)) {
            let x: Vec<f32> = (0..cols).map(|_| random.float()).collect();
            kernels.quantize_act(kind, &x, record);
        }
        Product { format, rows, cols, tokens, w, records, out: vec![0.0; rows * tokens] }
    }

    fn run(&mut self, kernels: &Kernels, threads: usize) {
        let (format, cols, tokens) = (self.format, self.cols, self.tokens);
        let row = format.row_bytes(cols).expect("whole blocks");
        let chunk = kernels.row_chunk(format, self.rows, cols, tokens);
        let w = &*self.w;
        let acts = Acts::new(ActKind::of(format), tokens, cols, self.records.bytes()).expect("filled records");
        let tiles = Tiles::new(&mut self.out, tokens, self.rows, 0, self.rows, chunk).expect("an output of that shape");
        let tiles = tiles.tapering(threads, usize::MAX);
        let work = || {
            let mut scratch = Aligned::new(kernels.matmul_scratch(format, cols, tokens));
            while let Some(mut tile) = tiles.claim() {
                let rows = tile.rows();
                kernels.matmul(format, &w[rows.start * row..rows.end * row], &acts, &mut tile, scratch.bytes());
            }
        };
        std::thread::scope(|s| {
            (1..threads).for_each(|_| {
                s.spawn(work);
            });
            work();
        });
    }

    /// Compares a few rows with the scalar kernels'.
    fn check(&mut self, kernels: &Kernels) {
        self.run(kernels, 1);
        let scalar = Kernels::with(Isa::Scalar).expect("scalar is everywhere");
        let rows = self.rows.min(40);
        let row = self.format.row_bytes(self.cols).expect("whole blocks");
        let acts = Acts::new(ActKind::of(self.format), self.tokens, self.cols, self.records.bytes()).expect("records");
        let mut want = vec![0.0; rows * self.tokens];
        let mut scratch = Aligned::new(scalar.matmul_scratch(self.format, self.cols, self.tokens));
        let tiles = Tiles::new(&mut want, self.tokens, rows, 0, rows, rows).expect("an output of that shape");
        let mut tile = tiles.claim().expect("one tile");
        scalar.matmul(self.format, &self.w[..rows * row], &acts, &mut tile, scratch.bytes());
        let size = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for (i, want) in want.iter().enumerate() {
            let got = self.out[i / rows * self.rows + i % rows];
            assert!((got - want).abs() <= 1e-4 * size, "{}: {got}, scalar {want}", self.format.name());
        }
    }
}

fn matmuls(kernels: &Kernels, formats: &[Format], tokens: &[usize], threads: &[usize], megabytes: usize) {
    for &format in formats {
        for &tokens in tokens {
            let cols = 2048;
            let row = format.row_bytes(cols).expect("whole blocks");
            // Decode from memory; larger batches from a matrix of a usual size.
            let bytes = if tokens <= 8 { megabytes << 20 } else { 8 << 20 };
            let rows = (bytes / row).max(64) / 16 * 16;
            let mut product = Product::new(kernels, format, rows, cols, tokens);
            product.check(kernels);
            for &threads in threads {
                let runs = if tokens <= 8 { 4 } else { 5 };
                let s = best(runs, threads == 1, || product.run(kernels, threads));
                let (gb, gmac) = ((rows * row) as f64 / s / 1e9, (rows * cols * tokens) as f64 / s / 1e9);
                let (isa, name) = (kernels.isa().name(), format.name());
                println!("{isa:12} {name:7} tokens {tokens:4}  threads {threads}  {gb:7.2} GB/s {gmac:8.1} GMAC/s");
            }
            // From the second-level cache: what the kernel alone can do.
            if tokens <= 8 {
                let rows = ((1 << 20) / row).max(16) / 16 * 16;
                let mut product = Product::new(kernels, format, rows, cols, tokens);
                let s = best(5, true, || product.run(kernels, 1));
                let (isa, name) = (kernels.isa().name(), format.name());
                println!("{isa:12} {name:7} tokens {tokens:4}  from cache {:7.2} GB/s", (rows * row) as f64 / s / 1e9);
            }
        }
    }
}

/// Attention of one KV head of a 4-to-1 grouped model with heads of 64, at a depth.
fn attend(kernels: &Kernels, format: KvFormat, depth: usize, tokens: usize) {
    let (group, dim) = (4, 64);
    let queries = group * tokens;
    let bytes = format.head_bytes(dim).expect("whole blocks");
    let mut random = Random(3);
    let (mut keys, mut values) = (vec![0; bytes * depth], vec![0; bytes * depth]);
    for at in keys.chunks_exact_mut(bytes).chain(values.chunks_exact_mut(bytes)) {
        let x: Vec<f32> = (0..dim).map(|_| random.float()).collect();
        kernels.store_kv(format, &x, at);
    }
    let q: Vec<f32> = (0..queries * dim).map(|_| random.float() * 0.3).collect();
    let visible: Vec<(u32, u32)> = (0..queries).map(|i| (0, (depth - tokens + 1 + i / group) as u32)).collect();
    let run = KvRun { keys: &keys, values: &values, format, slots: depth };
    let go = |kernels: &Kernels| {
        let mut scratch = Aligned::new(4 * kernels.attend_scratch(queries, dim, dim));
        let (mut max, mut sum, mut acc) =
            (vec![f32::NEG_INFINITY; queries], vec![0.0; queries], vec![0.0; queries * dim]);
        let mut state = AttendState { max: &mut max, sum: &mut sum, acc: &mut acc };
        kernels.attend(&q, &run, &visible, 0.0, &mut state, scratch.floats());
        acc.iter().enumerate().map(|(i, a)| a / sum[i / dim]).collect::<Vec<f32>>()
    };
    let want = go(&Kernels::with(Isa::Scalar).expect("scalar is everywhere"));
    let far = go(kernels).iter().zip(&want).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(far < 1e-4, "attention is {far} away from the scalar kernels'");
    let s = best(5, true, || {
        go(kernels);
    });
    let (gb, gmac) = ((2 * bytes * depth) as f64 / s / 1e9, (2 * queries * dim * depth) as f64 / s / 1e9);
    let isa = kernels.isa().name();
    println!("{isa:12} attend {format:?} depth {depth:6} tokens {tokens:3}  {gb:7.2} GB/s {gmac:7.1} GMAC/s");
}

fn format(name: &str) -> Result<Format, String> {
    Format::ALL.into_iter().find(|f| f.name() == name).ok_or_else(|| format!("there is no format {name}"))
}

fn kernels(name: &str) -> Result<Kernels, String> {
    let isa = Isa::from_name(name).ok_or_else(|| format!("there is no instruction set {name}"))?;
    Kernels::with(isa).map_err(|missing| missing.to_string())
}

/// Time kernels: bytes and multiply-adds per second
#[derive(clap::Parser)]
struct Options {
    /// Instruction set [default: the best that this CPU has]
    #[arg(long, value_name = "NAME", value_parser = kernels)]
    isa: Option<Kernels>,
    /// Formats of the weights [default: all]
    #[arg(long, value_name = "NAMES", value_parser = format, value_delimiter = ',')]
    format: Vec<Format>,
    /// Tokens at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 8, 512])]
    tokens: Vec<usize>,
    /// Threads
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    threads: Vec<usize>,
    /// Size of the matrix
    #[arg(long, default_value_t = 400)]
    megabytes: usize,
    /// Attention in place of matrices
    #[arg(long)]
    attend: bool,
    /// With --attend: slots of the cache, for so many --tokens [default: several of both]
    #[arg(long)]
    depth: Option<usize>,
    /// What this machine can do, in place of kernels
    #[arg(long)]
    ceilings: bool,
}

fn main() {
    let options = <Options as clap::Parser>::parse();
    let kernels = options.isa.unwrap_or_else(Kernels::detect);
    if options.ceilings {
        return ceilings::print();
    }
    if options.attend {
        for format in [KvFormat::F16, KvFormat::Q8_0] {
            if let Some(depth) = options.depth {
                options.tokens.iter().for_each(|tokens| attend(&kernels, format, depth, *tokens));
                continue;
            }
            for (depth, tokens) in [(1 << 18, 1), (4096, 1), (4096, 4), (512, 16), (4096, 16), (4096, 32)] {
                attend(&kernels, format, depth, tokens);
            }
        }
        return;
    }
    let formats = if options.format.is_empty() { Format::ALL.to_vec() } else { options.format };
    matmuls(&kernels, &formats, &options.tokens, &options.threads, options.megabytes);
}
