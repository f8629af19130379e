//! The shapes of models that people run on boards, and tiny ones for tests: what [`crate::synth`] makes files of.
//!
//! Figures are those of the models' published configurations.

use crate::mix::Mix;

/// Long and short rotary divisors, or Llama 3's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Factors {
    /// None.
    None,
    /// `rope_freqs.weight` by Llama 3's rule: wavelengths beyond `original_ctx` are stretched `factor` times.
    Llama3 {
        /// Stretch of the longest wavelengths.
        factor: f32,
        /// Context before stretching.
        original_ctx: u32,
    },
    /// `rope_factors_long.weight` and `rope_factors_short.weight` (LongRoPE), and the magnitude's factor.
    LongShort {
        /// Context up to which the short ones hold.
        original_ctx: u32,
        /// `rope.scaling.attn_factor`.
        attn_factor: f32,
    },
}

/// How the vocabulary is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vocab {
    /// Byte-level BPE with this pre-tokenizer (`tokenizer.ggml.pre`).
    Bpe(&'static str),
    /// SentencePiece, specials in Llama's order.
    Spm,
    /// SentencePiece, specials in Gemma's order.
    GemmaSpm,
}

/// A shape's experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// Of a layer.
    pub count: u32,
    /// That a token takes.
    pub used: u32,
    /// Inner width of the one that all tokens take; 0 for none.
    pub shared_ffn: u32,
}

/// One model's shape. Zero means "not there" where that makes sense.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// As given on the command line.
    pub name: &'static str,
    /// `general.architecture`.
    pub family: &'static str,
    /// Blocks.
    pub layers: u32,
    /// Width of the residual.
    pub width: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Inner width of the feed-forward, or of one of its experts.
    pub ffn: u32,
    /// Experts in place of one feed-forward.
    pub experts: Option<Experts>,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// How it is cut.
    pub tokens: Vocab,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Context of training.
    pub ctx: u32,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Rotated elements of a head.
    pub rope_dims: u32,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// The windowed layers' base, where it differs (Gemma 3's 10000 is implied by the family).
    pub rope_base_windowed: f32,
    /// `rope.scaling.type` and factor.
    pub rope_scaling: Option<(&'static str, f32)>,
    /// `rope.scaling.original_context_length` of the scaling.
    pub rope_original_ctx: u32,
    /// `rope.scaling.yarn_ext_factor`, `yarn_beta_fast`, `yarn_beta_slow` and `attn_factor`, where they are not 1, 32, 1 and 1.
    pub yarn: Option<[f32; 4]>,
    /// Divisors.
    pub factors: Factors,
    /// Sliding window.
    pub window: u32,
    /// Length of the window pattern: the last of each `period` layers is global. Implied by the family, not in the file.
    pub window_period: u32,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// Norms on q and k.
    pub qk_norm: bool,
    /// Whether those are over all heads together.
    pub qk_norm_whole: bool,
    /// Norms after mixer and feed-forward.
    pub post_norm: bool,
    /// q, k and v in one tensor, and gate and up in another.
    pub fused: bool,
    /// Soft caps on attention and output logits.
    pub caps: [f32; 2],
    /// Whether the embedding is multiplied by √width (the family implies it).
    pub sqrt_embedding: bool,
    /// Granite's embedding, residual, attention and logit scales.
    pub scales: Option<[f32; 4]>,
}

const LLAMA: Shape = Shape {
    name: "",
    family: "llama",
    layers: 0,
    width: 0,
    heads: 0,
    kv_heads: 0,
    head_dim: 0,
    ffn: 0,
    vocab: 0,
    tokens: Vocab::Spm,
    tied: false,
    ctx: 2048,
    eps: 1e-5,
    rope_dims: 0,
    rope_base: 10000.0,
    rope_base_windowed: 0.0,
    rope_scaling: None,
    rope_original_ctx: 0,
    yarn: None,
    factors: Factors::None,
    window: 0,
    window_period: 0,
    qkv_bias: false,
    qk_norm: false,
    qk_norm_whole: false,
    experts: None,
    post_norm: false,
    fused: false,
    caps: [0.0; 2],
    sqrt_embedding: false,
    scales: None,
};

const LLAMA3: Shape = Shape {
    tokens: Vocab::Bpe("llama-bpe"),
    tied: true,
    ctx: 131072,
    rope_base: 500000.0,
    factors: Factors::Llama3 { factor: 32.0, original_ctx: 8192 },
    ..LLAMA
};

const QWEN2: Shape = Shape {
    family: "qwen2",
    tokens: Vocab::Bpe("qwen2"),
    tied: true,
    ctx: 32768,
    eps: 1e-6,
    rope_base: 1e6,
    qkv_bias: true,
    ..LLAMA
};

const QWEN3: Shape = Shape { family: "qwen3", ctx: 40960, qkv_bias: false, qk_norm: true, ..QWEN2 };

const SMOLLM2: Shape = Shape { tokens: Vocab::Bpe("smollm"), tied: true, ctx: 8192, rope_base: 100000.0, ..LLAMA };

const GEMMA: Shape =
    Shape { family: "gemma", tokens: Vocab::GemmaSpm, tied: true, ctx: 8192, eps: 1e-6, sqrt_embedding: true, ..LLAMA };

const GEMMA2: Shape =
    Shape { family: "gemma2", window: 4096, window_period: 2, post_norm: true, caps: [50.0, 30.0], ..GEMMA };

const GEMMA3: Shape = Shape {
    family: "gemma3",
    ctx: 32768,
    rope_base: 1e6,
    rope_base_windowed: 10000.0,
    window: 512,
    window_period: 6,
    qk_norm: true,
    post_norm: true,
    ..GEMMA
};

const PHI3: Shape = Shape {
    family: "phi3",
    ctx: 131072,
    factors: Factors::LongShort { original_ctx: 4096, attn_factor: 1.190_238_1 },
    fused: true,
    ..LLAMA
};

const SMOLLM3: Shape = Shape {
    family: "smollm3",
    tokens: Vocab::Bpe("smaug-bpe"),
    tied: true,
    ctx: 65536,
    eps: 1e-6,
    rope_base: 5e6,
    ..LLAMA
};

const GRANITE: Shape = Shape {
    family: "granite",
    tokens: Vocab::Bpe("refact"),
    tied: true,
    ctx: 131072,
    rope_base: 1e7,
    scales: Some([12.0, 0.22, 0.015_625, 8.0]),
    ..LLAMA
};

const fn experts(count: u32, used: u32, shared_ffn: u32) -> Option<Experts> {
    Some(Experts { count, used, shared_ffn })
}

const QWEN2MOE: Shape = Shape { family: "qwen2moe", tied: false, experts: experts(60, 4, 5632), ..QWEN2 };

const QWEN3MOE: Shape = Shape { family: "qwen3moe", tied: false, experts: experts(128, 8, 0), ..QWEN3 };

const OLMOE: Shape = Shape {
    family: "olmoe",
    tokens: Vocab::Bpe("olmo"),
    ctx: 4096,
    qk_norm: true,
    qk_norm_whole: true,
    experts: experts(64, 8, 0),
    ..LLAMA
};

const GRANITEMOE: Shape = Shape { family: "granitemoe", rope_base: 10000.0, experts: experts(32, 8, 0), ..GRANITE };

/// Sets the six sizes that every shape has of its own: layers, width, heads, kv heads, head, ffn, vocab.
const fn sized(name: &'static str, base: Shape, s: [u32; 7]) -> Shape {
    Shape {
        name,
        layers: s[0],
        width: s[1],
        heads: s[2],
        kv_heads: s[3],
        head_dim: s[4],
        rope_dims: s[4],
        ffn: s[5],
        vocab: s[6],
        ..base
    }
}

/// The tiny models' common size, with more layers where a pattern needs them.
const fn tiny(name: &'static str, base: Shape, layers: u32) -> Shape {
    Shape { ctx: 512, ..sized(name, base, [layers, 128, 4, 2, 32, 320, 384]) }
}

/// Every shape by name.
pub const SHAPES: &[Shape] = &[
    sized("llama3.2-1b", LLAMA3, [16, 2048, 32, 8, 64, 8192, 128256]),
    sized("llama3.2-3b", LLAMA3, [28, 3072, 24, 8, 128, 8192, 128256]),
    sized("qwen2.5-0.5b", QWEN2, [24, 896, 14, 2, 64, 4864, 151936]),
    sized("qwen2.5-1.5b", QWEN2, [28, 1536, 12, 2, 128, 8960, 151936]),
    sized("qwen3-0.6b", QWEN3, [28, 1024, 16, 8, 128, 3072, 151936]),
    sized("qwen3-1.7b", QWEN3, [28, 2048, 16, 8, 128, 6144, 151936]),
    sized("gemma3-270m", GEMMA3, [18, 640, 4, 1, 256, 2048, 262144]),
    sized("gemma3-1b", GEMMA3, [26, 1152, 4, 1, 256, 6912, 262144]),
    sized("gemma2-2b", GEMMA2, [26, 2304, 8, 4, 256, 9216, 256000]),
    sized("smollm2-135m", SMOLLM2, [30, 576, 9, 3, 64, 1536, 49152]),
    sized("smollm2-360m", SMOLLM2, [32, 960, 15, 5, 64, 2560, 49152]),
    sized("smollm3-3b", SMOLLM3, [36, 2048, 16, 4, 128, 11008, 128256]),
    sized("phi3.5-mini", PHI3, [32, 3072, 32, 32, 96, 8192, 32064]),
    sized("tinyllama-1.1b", LLAMA, [22, 2048, 32, 4, 64, 5632, 32000]),
    sized("granite3-2b", GRANITE, [40, 2048, 32, 8, 64, 8192, 49159]),
    sized("qwen1.5-moe-a2.7b", Shape { ctx: 8192, ..QWEN2MOE }, [24, 2048, 16, 16, 128, 1408, 151936]),
    sized("qwen3-30b-a3b", QWEN3MOE, [48, 2048, 32, 4, 128, 768, 151936]),
    sized("olmoe-1b-7b", OLMOE, [16, 2048, 16, 16, 128, 1024, 50304]),
    sized("granite3-1b-a400m", GRANITEMOE, [24, 1024, 16, 8, 64, 512, 49155]),
    // Small enough to run under emulation, large enough that its matrices dominate.
    Shape { tied: true, ..sized("arm-100m", LLAMA, [8, 1024, 16, 8, 64, 3072, 8192]) },
    // For tests: windows, caps, scales and stretches so strong that a wrong one shows within 64 tokens.
    tiny("tiny-llama", LLAMA, 2),
    // Rows of whole blocks of 256, for the formats that have them.
    Shape { ctx: 512, ..sized("tiny-wide", LLAMA, [2, 256, 4, 2, 64, 512, 384]) },
    Shape {
        factors: Factors::Llama3 { factor: 8.0, original_ctx: 64 },
        rope_base: 10000.0,
        ..tiny("tiny-llama3", LLAMA3, 2)
    },
    Shape { window: 12, ..tiny("tiny-mistral", LLAMA, 3) },
    Shape { rope_scaling: Some(("yarn", 4.0)), rope_original_ctx: 256, ..tiny("tiny-yarn", LLAMA, 2) },
    Shape {
        rope_scaling: Some(("yarn", 4.0)),
        rope_original_ctx: 256,
        yarn: Some([0.4, 8.0, 2.0, 1.25]),
        ..tiny("tiny-yarn-ext", LLAMA, 2)
    },
    Shape { rope_scaling: Some(("linear", 4.0)), ..tiny("tiny-linear", LLAMA, 2) },
    tiny("tiny-qwen2", QWEN2, 2),
    // Heads wider than the residual's share, as in the real ones.
    Shape { head_dim: 64, rope_dims: 64, ..tiny("tiny-qwen3", QWEN3, 2) },
    Shape { kv_heads: 1, head_dim: 64, rope_dims: 64, ..tiny("tiny-gemma", GEMMA, 2) },
    Shape { window: 12, caps: [3.0, 4.0], ..tiny("tiny-gemma2", GEMMA2, 4) },
    Shape {
        window: 12,
        rope_base: 10000.0,
        rope_base_windowed: 100.0,
        rope_scaling: Some(("linear", 4.0)),
        ..tiny("tiny-gemma3", GEMMA3, 7)
    },
    Shape {
        rope_dims: 24,
        factors: Factors::LongShort { original_ctx: 256, attn_factor: 1.25 },
        ..tiny("tiny-phi3", PHI3, 2)
    },
    Shape { rope_base: 10000.0, ..tiny("tiny-smollm3", SMOLLM3, 5) },
    Shape { rope_base: 10000.0, scales: Some([6.0, 0.4, 0.05, 3.0]), ..tiny("tiny-granite", GRANITE, 2) },
    Shape { ffn: 96, experts: experts(4, 2, 0), ..tiny("tiny-mixtral", LLAMA, 2) },
    Shape { ffn: 64, experts: experts(8, 3, 160), ..tiny("tiny-qwen2moe", QWEN2MOE, 2) },
    Shape { ffn: 64, experts: experts(16, 4, 0), ..tiny("tiny-qwen3moe", QWEN3MOE, 2) },
    Shape { kv_heads: 4, ffn: 96, experts: experts(8, 2, 0), ..tiny("tiny-olmoe", OLMOE, 2) },
    Shape {
        ffn: 64,
        experts: experts(8, 3, 96),
        scales: Some([6.0, 0.4, 0.05, 3.0]),
        ..tiny("tiny-granitemoe", GRANITEMOE, 2)
    },
    // Rows of whole blocks of 256.
    Shape { ctx: 512, experts: experts(8, 2, 0), ..sized("tiny-wide-experts", LLAMA, [2, 256, 4, 2, 64, 256, 384]) },
];

/// A shape and the formats of its tensors: `llama3.2-1b:q4_0`.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The shape.
    pub shape: Shape,
    /// The formats.
    pub mix: Mix,
}

/// Why a text names no synthetic model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecError {
    /// No shape of this name.
    Shape(String),
    /// No mix of this name.
    Mix(String),
}

impl std::fmt::Display for SpecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |names: Vec<&str>| names.join(" ");
        match self {
            SpecError::Shape(found) => {
                write!(f, "unknown shape {found:?}; known: {}", list(SHAPES.iter().map(|s| s.name).collect()))
            }
            SpecError::Mix(found) => {
                write!(f, "unknown type {found:?}; known: {}", list(crate::mix::MIXES.iter().map(|m| m.name).collect()))
            }
        }
    }
}

impl std::error::Error for SpecError {}

impl Spec {
    /// Reads `SHAPE` (all f32 for a tiny one, else q4_0) or `SHAPE:TYPE`.
    pub fn parse(text: &str) -> Result<Spec, SpecError> {
        let (shape, mix) = match text.split_once(':') {
            Some((shape, mix)) => (shape, mix),
            None if text.starts_with("tiny-") => (text, "f32"),
            None => (text, "q4_0"),
        };
        let found = SHAPES.iter().find(|s| s.name.eq_ignore_ascii_case(shape));
        let shape = *found.ok_or_else(|| SpecError::Shape(shape.into()))?;
        let mix = Mix::find(mix).ok_or_else(|| SpecError::Mix(mix.into()))?;
        Ok(Spec { shape, mix })
    }

    /// `llama3.2-1b:q4_0`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.shape.name, self.mix.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        assert_eq!(Spec::parse("Llama3.2-1B:Q4_K").unwrap().name(), "llama3.2-1b:q4_k_m");
        assert_eq!(Spec::parse("tiny-llama").unwrap().name(), "tiny-llama:f32");
        assert_eq!(Spec::parse("llama9").unwrap_err(), SpecError::Shape("llama9".into()));
        assert!(Spec::parse("llama3.2-1b:q4_x").unwrap_err().to_string().contains("q4_k_m"));
    }
}
