//! What a model family computes, as data. One forward pass interprets it.

use crate::quant::{RopeKind, Unary};

/// A recipe has at most so many layers.
pub const MAX_LAYERS: u32 = 512;

/// The normalisation of a whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// RMSNorm (arXiv 1910.07467).
    Rms,
    /// LayerNorm with optional bias.
    Layer,
}

/// Which tokens a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Itself and the ones before.
    Causal,
    /// All of the prompt; causal after it.
    Prefix,
    /// All (encoders).
    None,
}

/// How rotary frequencies are stretched beyond the context that the model was trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions divided by `factor` (arXiv 2306.15595).
    Linear {
        /// Stretch.
        factor: f32,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// Stretch.
        factor: f32,
        /// Context of training.
        original_ctx: u32,
        /// Rotations above which a dimension is left alone.
        beta_fast: f32,
        /// Rotations below which a dimension is interpolated.
        beta_slow: f32,
        /// How far dimensions that turn often are left alone: 1 wholly, as in the paper.
        ext_factor: f32,
    },
}

/// Which tensor of the file divides the rotary frequencies, dimension by dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeFactors {
    /// None.
    None,
    /// `rope_freqs.weight` (Llama 3).
    Freqs,
    /// `rope_factors_long.weight` (Phi-3, context beyond training).
    Long,
    /// `rope_factors_short.weight` (Phi-3, context within training).
    Short,
}

/// One kind of rotary position (arXiv 2104.09864) that layers may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Elements of a head that are rotated, even; the first ones.
    pub dims: u32,
    /// Which elements make a pair.
    pub kind: RopeKind,
    /// Base of the geometric progression of frequencies.
    pub base: f32,
    /// Stretching.
    pub scaling: RopeScaling,
    /// Per-dimension divisors.
    pub factors: RopeFactors,
    /// Multiplies the rotated elements: LongRoPE's and YaRN's magnitude correction in full; 1 for none.
    pub magnitude: f32,
}

/// Sliding windows over the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// Every layer sees the whole context.
    None,
    /// Every layer sees `window` tokens.
    All {
        /// Tokens seen, the query's own included.
        window: u32,
    },
    /// Of every `period` layers the last sees the whole context, the others `window` tokens.
    Period {
        /// Tokens seen by the windowed layers.
        window: u32,
        /// Length of the pattern.
        period: u32,
    },
    /// The layers of a set see `window` tokens, the others the whole context.
    Layers {
        /// Tokens seen by the windowed layers.
        window: u32,
        /// The windowed layers.
        set: LayerSet,
    },
}

/// A feed-forward of experts, of which each token takes a few (arXiv 1701.06538): `Σ weight_e · expert_e(x)`, the weights
/// being the softmax over all experts' router logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// Experts of a layer.
    pub count: u32,
    /// Experts that a token takes: those with the largest weights.
    pub used: u32,
    /// Width of the inside of one that every token takes beside them; 0 for none.
    pub shared_ffn: u32,
    /// Whether that one is multiplied by a gate of its own, `sigmoid(w · x)`.
    pub shared_gate: bool,
    /// Whether the weights of those taken are divided by their sum.
    pub normed: bool,
    /// Multiplies the weights.
    pub scale: f32,
}

/// A set of layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerSet([u64; MAX_LAYERS as usize / 64]);

impl LayerSet {
    /// Adds a layer below [`MAX_LAYERS`]; others are ignored.
    pub fn insert(&mut self, layer: u32) {
        if let Some(word) = self.0.get_mut(layer as usize / 64) {
            *word |= 1 << (layer % 64);
        }
    }

    /// Whether the set has this layer.
    pub fn contains(&self, layer: u32) -> bool {
        self.0.get(layer as usize / 64).is_some_and(|word| word >> (layer % 64) & 1 == 1)
    }
}

/// What one layer does: read by the forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layer {
    /// Tokens that attention sees; `None` for the whole context.
    pub window: Option<u32>,
    /// Index into [`Recipe::ropes`]; `None` for no position (NoPE).
    pub rope: Option<usize>,
}

/// A model as data: shapes, and which of the known steps its forward pass takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// GGUF's `general.architecture`.
    pub family: &'static str,
    /// Blocks.
    pub layers: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Entries of the vocabulary (rows of the embedding).
    pub vocab: u32,
    /// Context of training.
    pub train_ctx: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads; divides `heads`.
    pub kv_heads: u32,
    /// Elements of a query or key head.
    pub key_dim: u32,
    /// Elements of a value head.
    pub value_dim: u32,
    /// Width of the inside of the feed-forward, or of one of its experts.
    pub ffn: u32,
    /// The feed-forward's experts; `None` if it is one for all tokens.
    pub experts: Option<Experts>,
    /// Normalisation.
    pub norm: Norm,
    /// Its epsilon.
    pub norm_eps: f32,
    /// A norm before each mixer and each feed-forward (`attn_norm`, `ffn_norm`).
    pub pre_norm: bool,
    /// A norm after each, before it joins the residual (`post_attention_norm`, `post_ffw_norm`).
    pub post_norm: bool,
    /// Norms over each query and key head before rotation (`attn_q_norm`, `attn_k_norm`).
    pub qk_norm: bool,
    /// Whether those norms are over all heads of a token together.
    pub qk_norm_whole: bool,
    /// Activation of the feed-forward.
    pub activation: Unary,
    /// Whether the feed-forward has a gate (`down(f(gate) · up)`), else `down(f(up))`.
    pub gated: bool,
    /// Multiplies query·key before softmax.
    pub attention_scale: f32,
    /// `cap · tanh(x / cap)` on attention logits; 0 for none.
    pub attention_soft_cap: f32,
    /// The same on output logits.
    pub logit_soft_cap: f32,
    /// Multiplies the embedding rows.
    pub embedding_scale: f32,
    /// Multiplies what a mixer or a feed-forward adds to the residual.
    pub residual_scale: f32,
    /// Multiplies output logits.
    pub logit_scale: f32,
    /// The mask.
    pub mask: Mask,
    /// Rotary kinds: `[global, windowed]`; the second is used by windowed layers.
    pub ropes: [Rope; 2],
    /// Windows.
    pub windows: Windows,
    /// Every `nope_period`-th layer has no position (SmolLM3: 4); 0 for never.
    pub nope_period: u32,
}

impl Recipe {
    /// Width of the widest feed-forward's inside.
    pub(crate) fn widest_ffn(&self) -> u32 {
        self.ffn.max(self.experts.map_or(0, |e| e.shared_ffn))
    }

    /// Elements of a query norm's weights and of a key norm's.
    pub(crate) fn qk_norm_dims(&self) -> (u32, u32) {
        if self.qk_norm_whole {
            (self.heads * self.key_dim, self.kv_heads * self.key_dim)
        } else {
            (self.key_dim, self.key_dim)
        }
    }

    /// What layer `i` does.
    pub fn layer(&self, i: u32) -> Layer {
        let window = match self.windows {
            Windows::None => None,
            Windows::All { window } => Some(window),
            Windows::Period { window, period } => (!(i + 1).is_multiple_of(period.max(1))).then_some(window),
            Windows::Layers { window, set } => set.contains(i).then_some(window),
        };
        let nope = self.nope_period > 0 && (i + 1).is_multiple_of(self.nope_period);
        Layer { window, rope: (!nope).then_some(window.is_some() as usize) }
    }
}
