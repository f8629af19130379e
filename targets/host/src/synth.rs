//! Synthetic models: any real model's shape and formats with random weights, in seconds and without a download.
//! Speed, memory and errors do not depend on what the weights are.
//!
//! The weights are a function of the shape's name, the tensor's name and the place in the tensor alone (splitmix64 of
//! a counter, Steele et al. 2014), so any part can be made at any time, in any order, on any machine, with the same
//! bits. Their sizes follow trained models: rows of deviation `k/√n`, norms near 1, logits with a deviation of a few
//! units. Quantised tensors are made as blocks directly: random quants under scales that give the same deviation.

use crate::gguf_write::{ALIGNMENT, Header, atomically};
use crate::mix::Facts;
use crate::shapes::{Factors, Shape, Spec};
use crate::synth_vocab;
use drupe::quant::Format;
use half::{bf16, f16};
use rayon::prelude::*;
use std::io;
use std::path::Path;

/// How a tensor's elements are drawn.
#[derive(Clone, Debug)]
enum Fill {
    /// Nearly normal (a sum of four uniforms), around `mean`.
    Random { mean: f32, deviation: f32 },
    /// These.
    Values(Vec<f32>),
}

/// One tensor to be made.
struct Tensor {
    name: String,
    dims: Vec<u64>,
    format: Format,
    fill: Fill,
    seed: u64,
}

/// A synthetic model that is not made yet.
pub struct Synth {
    header: Header,
    tensors: Vec<Tensor>,
}

impl Synth {
    /// What `spec` will be. Fails only for a shape whose rows do not fit its formats.
    pub fn new(spec: &Spec) -> io::Result<Synth> {
        let mut header = Header::new();
        keys(&mut header, spec);
        synth_vocab::write(&mut header, &spec.shape);
        let tensors = tensors(spec);
        for t in &tensors {
            header.tensor(&t.name, &t.dims, t.format)?;
        }
        Ok(Synth { header, tensors })
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        self.header.file_len()
    }

    /// Makes the whole file in memory.
    pub fn into_bytes(self, progress: &dyn Fn(u64)) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let len = usize::try_from(self.file_len()).map_err(io::Error::other)?;
        bytes.try_reserve_exact(len).map_err(io::Error::other)?;
        self.stream(bytes, progress)
    }

    /// The file without its weights: the head, then zeros that take no memory until they are touched; what is read to make
    /// a plan, the divisors of the rotary frequencies, is there.
    pub fn hollow(self) -> io::Result<memmap2::MmapMut> {
        let len = usize::try_from(self.file_len()).map_err(io::Error::other)?;
        let mut map = memmap2::MmapOptions::new().len(len).no_reserve_swap().map_anon()?;
        self.header.head(&mut map[..])?;
        let mut at = self.header.len() as usize;
        for t in &self.tensors {
            let cols = t.dims[0] as usize;
            let rows = t.dims[1..].iter().product::<u64>() as usize;
            let row = t.format.row_bytes(cols).unwrap_or(0);
            if let (Fill::Values(_), Some(bytes)) = (&t.fill, map.get_mut(at..at + row)) {
                t.row(0, bytes);
            }
            at += (rows * row).next_multiple_of(ALIGNMENT as usize);
        }
        Ok(map)
    }

    /// Writes the file to `out`, a few MiB at a time; `progress` is told the bytes written so far.
    pub fn stream<W: io::Write>(self, out: W, progress: &dyn Fn(u64)) -> io::Result<W> {
        let mut done = self.header.len();
        let mut body = self.header.start(out)?;
        let mut buffer = Vec::new();
        for t in &self.tensors {
            let cols = t.dims[0] as usize;
            let row = t.format.row_bytes(cols).unwrap_or(0);
            let rows = t.dims[1..].iter().product::<u64>() as usize;
            let at_once = ((8 << 20) / row.max(1)).clamp(1, rows.max(1));
            for first in (0..rows).step_by(at_once) {
                let count = at_once.min(rows - first);
                buffer.resize(count * row, 0);
                buffer.par_chunks_mut(row).enumerate().for_each(|(i, bytes)| t.row((first + i) as u64, bytes));
                body.write(&buffer)?;
                done += buffer.len() as u64;
                progress(done);
            }
        }
        body.finish()
    }
}

/// Writes the model to `path`, all or nothing; `progress` is told the bytes written so far.
pub fn write(spec: &Spec, path: &Path, progress: &dyn Fn(u64)) -> io::Result<()> {
    let synth = Synth::new(spec)?;
    atomically(path, |out| synth.stream(out, progress).map(|_| ()))
}

/// Makes the model's file in memory.
pub fn in_memory(spec: &Spec) -> io::Result<Vec<u8>> {
    Synth::new(spec)?.into_bytes(&|_| ())
}

/// The keys that describe the shape, as llama.cpp's converters write them.
fn keys(header: &mut Header, spec: &Spec) {
    let s = &spec.shape;
    header.string("general.architecture", s.family).string("general.name", &spec.name());
    header.string("general.description", "random weights in a real model's shape");
    header.u32("general.file_type", spec.mix.file_type).u32("general.quantization_version", 2);
    let key = |k: &str| format!("{}.{k}", s.family);
    header.u32(&key("vocab_size"), s.vocab).u32(&key("context_length"), s.ctx);
    header.u32(&key("embedding_length"), s.width).u32(&key("block_count"), s.layers);
    header.u32(&key("feed_forward_length"), s.ffn);
    if let Some(e) = s.experts {
        header.u32(&key("expert_count"), e.count).u32(&key("expert_used_count"), e.used);
        header.u32(&key("expert_feed_forward_length"), s.ffn);
        if e.shared_ffn > 0 {
            header.u32(&key("expert_shared_feed_forward_length"), e.shared_ffn);
        }
    }
    header.u32(&key("attention.head_count"), s.heads).u32(&key("attention.head_count_kv"), s.kv_heads);
    header.u32(&key("attention.key_length"), s.head_dim).u32(&key("attention.value_length"), s.head_dim);
    header.f32(&key("attention.layer_norm_rms_epsilon"), s.eps);
    header.u32(&key("rope.dimension_count"), s.rope_dims).f32(&key("rope.freq_base"), s.rope_base);
    if s.window > 0 {
        header.u32(&key("attention.sliding_window"), s.window);
    }
    if s.rope_base_windowed > 0.0 && s.rope_base_windowed != 10000.0 {
        header.f32(&key("rope.freq_base_swa"), s.rope_base_windowed);
    }
    if let Some((kind, factor)) = s.rope_scaling {
        header.string(&key("rope.scaling.type"), kind).f32(&key("rope.scaling.factor"), factor);
        if s.rope_original_ctx > 0 {
            header.u32(&key("rope.scaling.original_context_length"), s.rope_original_ctx);
        }
    }
    if let Some([ext_factor, beta_fast, beta_slow, attn_factor]) = s.yarn {
        header.f32(&key("rope.scaling.yarn_ext_factor"), ext_factor).f32(&key("rope.scaling.attn_factor"), attn_factor);
        header.f32(&key("rope.scaling.yarn_beta_fast"), beta_fast).f32(&key("rope.scaling.yarn_beta_slow"), beta_slow);
    }
    if let Factors::LongShort { original_ctx, attn_factor } = s.factors {
        header.u32(&key("rope.scaling.original_context_length"), original_ctx);
        header.f32(&key("rope.scaling.attn_factor"), attn_factor);
    }
    let [attention_cap, logit_cap] = s.caps;
    if attention_cap > 0.0 {
        header.f32(&key("attn_logit_softcapping"), attention_cap).f32(&key("final_logit_softcapping"), logit_cap);
    }
    if let Some([embedding, residual, attention, logit]) = s.scales {
        header.f32(&key("embedding_scale"), embedding).f32(&key("residual_scale"), residual);
        header.f32(&key("attention.scale"), attention).f32(&key("logit_scale"), logit);
    }
}

/// Every tensor in file order.
fn tensors(spec: &Spec) -> Vec<Tensor> {
    let s = &spec.shape;
    let facts = Facts {
        layers: s.layers,
        heads_per_kv: s.heads / s.kv_heads.max(1),
        experts: s.experts.map_or(0, |e| e.count),
        tied: s.tied,
    };
    let mut list = Vec::new();
    let mut add = |name: String, dims: &[u32], fill: Fill| {
        let dims: Vec<u64> = dims.iter().map(|&d| d as u64).collect();
        let format = spec.mix.format(&name, &dims, facts).unwrap_or(Format::F32);
        let seed = seed(&[s.name, &name]);
        list.push(Tensor { name, dims, format, fill, seed });
    };
    let [embedding_scale, residual_scale, attention_scale, logit_scale] =
        s.scales.unwrap_or([1.0, 1.0, 1.0 / (s.head_dim as f32).sqrt(), 1.0]);
    let around = |mean: f32| Fill::Random { mean, deviation: 0.2 * mean };
    let noise = |deviation: f32| Fill::Random { mean: 0.0, deviation };
    // A matrix whose outputs have deviation `gain` when its inputs have 1.
    let matrix = |inputs: u32, gain: f32| noise(gain / (inputs as f32).sqrt());

    // Logits of deviation 2.5 from the final norm's output of 1.
    let table = matrix(s.width, 2.5 * logit_scale);
    let table_deviation = 2.5 * logit_scale / (s.width as f32).sqrt();
    // The residual's size: what layers add is made comparable with what the embedding puts in.
    let embedding = if s.sqrt_embedding { (s.width as f32).sqrt() } else { embedding_scale };
    let residual = table_deviation * embedding / residual_scale;
    // Attention logits of deviation 2.25: sharp enough that positions and windows matter, not so sharp as to chaos.
    let qk = if s.qk_norm { 1.0 } else { (2.25 / (attention_scale * (s.head_dim as f32).sqrt())).sqrt() };

    add("token_embd.weight".into(), &[s.width, s.vocab], table.clone());
    add("output_norm.weight".into(), &[s.width], around(1.0));
    if !s.tied {
        add("output.weight".into(), &[s.width, s.vocab], table);
    }
    match s.factors {
        Factors::None => {}
        Factors::Llama3 { factor, original_ctx } => {
            let values = llama3_factors(s, factor, original_ctx as f32);
            add("rope_freqs.weight".into(), &[s.rope_dims / 2], Fill::Values(values));
        }
        Factors::LongShort { .. } => {
            let pairs = s.rope_dims / 2;
            let ramp = |top: f32| (0..pairs).map(|i| 1.0 + (top - 1.0) * i as f32 / pairs as f32).collect();
            add("rope_factors_long.weight".into(), &[pairs], Fill::Values(ramp(40.0)));
            add("rope_factors_short.weight".into(), &[pairs], Fill::Values(ramp(3.0)));
        }
    }
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    for layer in 0..s.layers {
        let mut add = |part: &str, dims: &[u32], fill: Fill| add(format!("blk.{layer}.{part}"), dims, fill);
        add("attn_norm.weight", &[s.width], around(1.0));
        if s.fused {
            add("attn_qkv.weight", &[s.width, q + 2 * kv], matrix(s.width, qk));
        } else {
            add("attn_q.weight", &[s.width, q], matrix(s.width, qk));
            add("attn_k.weight", &[s.width, kv], matrix(s.width, qk));
            add("attn_v.weight", &[s.width, kv], matrix(s.width, 1.0));
        }
        if s.qkv_bias {
            add("attn_q.bias", &[q], noise(0.7));
            add("attn_k.bias", &[kv], noise(0.7));
            add("attn_v.bias", &[kv], noise(0.3));
        }
        if s.qk_norm {
            let whole = s.qk_norm_whole;
            add("attn_q_norm.weight", &[if whole { q } else { s.head_dim }], around(1.5));
            add("attn_k_norm.weight", &[if whole { kv } else { s.head_dim }], around(1.5));
        }
        add("attn_output.weight", &[q, s.width], matrix(q, 1.5 * residual));
        if s.post_norm {
            add("post_attention_norm.weight", &[s.width], around(0.6 * residual));
        }
        add("ffn_norm.weight", &[s.width], around(1.0));
        if let Some(e) = s.experts {
            // Router logits of deviation 1.5: some experts weigh clearly more than others.
            add("ffn_gate_inp.weight", &[s.width, e.count], matrix(s.width, 1.5));
            add("ffn_gate_exps.weight", &[s.width, s.ffn, e.count], matrix(s.width, 1.0));
            add("ffn_up_exps.weight", &[s.width, s.ffn, e.count], matrix(s.width, 1.0));
            add("ffn_down_exps.weight", &[s.ffn, s.width, e.count], matrix(s.ffn, 3.0 * residual));
            if e.shared_ffn > 0 {
                if s.family == "qwen2moe" {
                    add("ffn_gate_inp_shexp.weight", &[s.width], matrix(s.width, 1.5));
                }
                add("ffn_gate_shexp.weight", &[s.width, e.shared_ffn], matrix(s.width, 1.0));
                add("ffn_up_shexp.weight", &[s.width, e.shared_ffn], matrix(s.width, 1.0));
                add("ffn_down_shexp.weight", &[e.shared_ffn, s.width], matrix(e.shared_ffn, 1.5 * residual));
            }
        } else {
            if s.fused {
                add("ffn_up.weight", &[s.width, 2 * s.ffn], matrix(s.width, 1.0));
            } else {
                add("ffn_gate.weight", &[s.width, s.ffn], matrix(s.width, 1.0));
                add("ffn_up.weight", &[s.width, s.ffn], matrix(s.width, 1.0));
            }
            add("ffn_down.weight", &[s.ffn, s.width], matrix(s.ffn, 1.5 * residual));
        }
        if s.post_norm {
            add("post_ffw_norm.weight", &[s.width], around(0.6 * residual));
        }
    }
    list
}

/// Llama 3.1's divisors: 1 for wavelengths under a quarter of `original_ctx`, `factor` for those over it, a blend of
/// frequencies between.
fn llama3_factors(s: &Shape, factor: f32, original_ctx: f32) -> Vec<f32> {
    let pairs = s.rope_dims / 2;
    let of = |i: u32| {
        let frequency = libm::powf(s.rope_base, -(i as f32) / pairs as f32);
        let turns = original_ctx * frequency / std::f32::consts::TAU;
        let blend = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
        1.0 / ((1.0 - blend) / factor + blend)
    };
    (0..pairs).map(of).collect()
}

impl Tensor {
    /// Fills row `row`.
    fn row(&self, row: u64, bytes: &mut [u8]) {
        let blocks = bytes.len() / self.format.block_bytes();
        let first = row * blocks as u64;
        for (i, block) in bytes.chunks_exact_mut(self.format.block_bytes()).enumerate() {
            match &self.fill {
                Fill::Values(values) => {
                    block.copy_from_slice(&values.get(i).copied().unwrap_or(1.0).to_le_bytes());
                }
                Fill::Random { mean, deviation } => self.block(first + i as u64, *mean, *deviation, block),
            }
        }
    }

    /// Fills block `index` of the tensor.
    fn block(&self, index: u64, mean: f32, deviation: f32, b: &mut [u8]) {
        if self.format.block_len() == 1 {
            let value = mean + deviation * nearly_normal(random(self.seed, index));
            match self.format {
                Format::F16 => b.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                Format::BF16 => b.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                _ => b.copy_from_slice(&value.to_le_bytes()),
            }
            return;
        }
        // No block has more than 32 words.
        for (word, to) in b.chunks_mut(8).enumerate() {
            to.copy_from_slice(&random(self.seed, index * 32 + word as u64).to_le_bytes()[..to.len()]);
        }
        // A random size within ±25% and a random sign, so that quants off centre cancel over the blocks.
        let bits = random(!self.seed, index);
        let spread = 0.75 + (bits & 0xffff) as f32 / 131072.0;
        let sign = if bits >> 63 == 0 { spread } else { -spread };
        quantised(self.format, deviation * spread, deviation * sign, b);
    }
}

/// Turns random bytes into a block whose elements have deviation `|signed|`: sets the scales.
///
/// The figures are the root mean squares of the uniform quants of each format: 4 bits 4.61, 5 bits 9.23, 6 bits 18.5,
/// 8 bits 73.9, 2 bits 1.12, 3 bits 2.29 about their centres; of 6-bit scales 36.4 (unsigned), 18.5 (signed).
fn quantised(format: Format, size: f32, signed: f32, b: &mut [u8]) {
    let mut put = |at: usize, value: f32| b[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
    match format {
        Format::Q4_0 => put(0, signed / 4.61),
        Format::Q5_0 => put(0, signed / 9.23),
        Format::Q8_0 => put(0, signed / 73.9),
        Format::IQ4_NL => put(0, signed / 71.0),
        Format::Q4_1 => {
            put(0, size / 4.61);
            put(2, -7.5 * size / 4.61);
        }
        Format::Q5_1 => {
            put(0, size / 9.23);
            put(2, -15.5 * size / 9.23);
        }
        Format::Q3_K => put(108, size / (18.5 * 2.29)),
        Format::Q6_K => put(208, size / (73.9 * 18.5)),
        Format::IQ4_XS => put(0, size / (18.5 * 71.0)),
        Format::Q2_K => {
            let d = size / (8.8 * 1.12);
            put(80, d);
            put(82, 1.5 * d);
            // Each minimum (high nibble) equal to its scale, so that quants centre on 0.
            b[..16].iter_mut().for_each(|s| *s = (*s & 15) * 17);
        }
        Format::Q4_K | Format::Q5_K => {
            let (centre, deviation) = if format == Format::Q4_K { (7.5, 4.61) } else { (15.5, 9.23) };
            let d = size / (36.4 * deviation);
            put(0, d);
            put(2, centre * d);
            // Minima equal to scales: bytes 0–3 hold four scales and, on top, two bits of the other four; 4–7 the
            // same of the minima; 8–11 the other four's low nibbles, scale below, minimum above.
            b.copy_within(4..8, 8);
            b[12..16].iter_mut().for_each(|s| *s = (*s & 15) * 17);
        }
        Format::F32 | Format::F16 | Format::BF16 => {}
    }
}

/// A number for these texts: FNV-1a.
fn seed(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|t| t.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3))
}

/// Splitmix64's output number `counter`.
fn random(seed: u64, counter: u64) -> u64 {
    let mut z = seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Mean 0, deviation 1: the sum of four uniform 16-bit numbers. Exact integers and one multiplication, so that it is
/// the same on every machine.
fn nearly_normal(bits: u64) -> f32 {
    let sum: i64 = (0..4).map(|i| ((bits >> (16 * i)) & 0xffff) as i64).sum();
    // Deviation of the sum: 65536 · √(4/12).
    (2 * sum - 4 * 65535) as f32 * (0.5 / 37837.227)
}

#[cfg(test)]
mod tests {
    use super::*;
    use drupe::quant::oracle::dequantize;

    fn deviation(format: Format) -> (f32, f32) {
        let fill = Fill::Random { mean: 0.0, deviation: 0.02 };
        let tensor = Tensor { name: "t".into(), dims: vec![16384, 4], format, fill, seed: 7 };
        let mut values = Vec::new();
        let mut bytes = vec![0; format.row_bytes(16384).unwrap()];
        for row in 0..4 {
            tensor.row(row, &mut bytes);
            let mut out = vec![0.0; 16384];
            dequantize(format, &bytes, &mut out);
            values.extend(out);
        }
        let n = values.len() as f32;
        let mean = values.iter().sum::<f32>() / n;
        (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt())
    }

    #[test]
    fn every_format_has_the_deviation_asked_for() {
        for format in Format::ALL {
            let (mean, sd) = deviation(format);
            assert!(mean.abs() < 0.001 && (sd / 0.02 - 1.0).abs() < 0.12, "{}: mean {mean}, sd {sd}", format.name());
        }
    }

    #[test]
    fn every_shape_can_be_made() {
        for shape in crate::shapes::SHAPES {
            for mix in crate::mix::MIXES {
                let mut header = Header::new();
                for t in tensors(&Spec { shape: *shape, mix: *mix }) {
                    header.tensor(&t.name, &t.dims, t.format).unwrap();
                }
                assert!(header.file_len() > 100_000, "{}:{}", shape.name, mix.name);
            }
        }
    }

    #[test]
    fn bytes_do_not_depend_on_the_way_they_are_made() {
        let spec = Spec::parse("tiny-gemma3:q4_k_m").unwrap();
        let a = in_memory(&spec).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let b = pool.install(|| in_memory(&spec)).unwrap();
        assert_eq!(a.len() as u64, Synth::new(&spec).unwrap().file_len());
        assert!(a == b);
    }
}
