//! What the families have in common: shapes, rotary positions, windows.

use super::RecipeError;
use super::reader::Reader;
use crate::gguf::{Key, Value};
use crate::label::Label;
use crate::quant::{RopeKind, Unary};
#[cfg(feature = "experts")]
use crate::recipe::Experts;
use crate::recipe::{LayerSet, MAX_LAYERS, Mask, Norm, Recipe, Rope, RopeFactors, RopeScaling, Windows};
use crate::rope::yarn_magnitude;

// Beyond these a figure is taken for damage. They also keep products of two of them inside u64, of width and heads
// inside u32.
const MAX_WIDTH: u32 = 1 << 17;
const MAX_HEADS: u32 = 1 << 10;
const MAX_HEAD_DIM: u32 = 1 << 12;
const MAX_FFN: u32 = 1 << 20;
#[cfg(feature = "experts")]
const MAX_EXPERTS: u32 = 1 << 10;
const MAX_CTX: u32 = 1 << 30;
const MAX_VOCAB: u64 = 1 << 24;

/// The recipe of a plain Llama with the file's shapes. A family changes what it does differently.
pub(super) fn recipe(reader: &mut Reader<'_, '_>, kind: RopeKind) -> Result<Recipe, RecipeError> {
    reader.refuse("expert_count")?;
    any(reader, kind)
}

/// The same, for a family that may have experts; they are [`experts`].
pub(super) fn any(reader: &mut Reader<'_, '_>, kind: RopeKind) -> Result<Recipe, RecipeError> {
    reader.layers = reader.need_size("block_count", MAX_LAYERS)?;
    for key in ["nextn_predict_layers", "attention.clamp_kqv", "attention.max_alibi_bias"] {
        reader.refuse(key)?;
    }
    if reader.gguf.bool((reader.family, "attention.causal"))? == Some(false) {
        let (key, found) = (reader.key("attention.causal"), Label::from("false"));
        return Err(RecipeError::Unsupported { key, found, supported: "true" });
    }
    let width = reader.need_size("embedding_length", MAX_WIDTH)?;
    let heads = reader.need_size("attention.head_count", MAX_HEADS)?;
    let kv_heads = reader.size("attention.head_count_kv", MAX_HEADS)?.unwrap_or(heads);
    multiple(reader, "attention.head_count", heads, "the number of key/value heads", kv_heads)?;
    let key_dim = match reader.size("attention.key_length", MAX_HEAD_DIM)? {
        Some(dim) => dim,
        None => {
            multiple(reader, "embedding_length", width, "the number of heads", heads)?;
            width / heads
        }
    };
    let value_dim = reader.size("attention.value_length", MAX_HEAD_DIM)?.unwrap_or(key_dim);
    let train_ctx = reader.need_size("context_length", MAX_CTX)?;
    let rope = rope(reader, kind, key_dim, train_ctx)?;
    let eps = "attention.layer_norm_rms_epsilon";
    Ok(Recipe {
        family: reader.family,
        layers: reader.layers,
        width,
        vocab: vocab(reader, width)?,
        train_ctx,
        heads,
        kv_heads,
        key_dim,
        value_dim: same(reader, "attention.value_length", value_dim, key_dim, "the key length")?,
        ffn: reader.need_size("feed_forward_length", MAX_FFN)?,
        norm: Norm::Rms,
        norm_eps: reader.number(eps, "0 to 1", |x| (0.0..1.0).contains(&x))?.ok_or_else(|| reader.missing(eps))?,
        pre_norm: true,
        post_norm: false,
        qk_norm: false,
        qk_norm_whole: false,
        experts: None,
        activation: Unary::Silu,
        gated: true,
        attention_scale: inverse_root(key_dim),
        attention_soft_cap: 0.0,
        logit_soft_cap: 0.0,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        logit_scale: 1.0,
        mask: Mask::Causal,
        ropes: [rope; 2],
        windows: Windows::None,
        nope_period: 0,
    })
}

/// The experts of a file that has them. Where it does not say how wide they are, each is as wide as the whole
/// feed-forward.
#[cfg(feature = "experts")]
pub(super) fn experts(reader: &Reader<'_, '_>, recipe: &mut Recipe, normed: bool) -> Result<Experts, RecipeError> {
    let count = reader.need_size("expert_count", MAX_EXPERTS)?;
    let used = reader.need_size("expert_used_count", count)?;
    let func = reader.tokens("expert_gating_func")?.unwrap_or(0);
    if func > 1 {
        let (key, found) = (reader.key("expert_gating_func"), Label::from("another function"));
        return Err(RecipeError::Unsupported { key, found, supported: "1, the softmax over all" });
    }
    if reader.gguf.bool((reader.family, "expert_weights_norm"))?.is_some_and(|found| found != normed) {
        let (key, found) = (reader.key("expert_weights_norm"), Label::from("not this family's"));
        return Err(RecipeError::Unsupported { key, found, supported: "as the family was trained, or no such key" });
    }
    for key in ["expert_group_count", "leading_dense_block_count", "interleave_moe_layer_step"] {
        reader.refuse(key)?;
    }
    if let Some(ffn) = reader.size("expert_feed_forward_length", MAX_FFN)? {
        recipe.ffn = ffn;
    }
    let scale = reader.scale("expert_weights_scale")?.unwrap_or(1.0);
    let shared_ffn = reader.optional_size("expert_shared_feed_forward_length", MAX_FFN)?;
    Ok(Experts { count, used, shared_ffn, shared_gate: false, normed, scale })
}

/// `1 / √n`, the usual attention scale for heads of `n` elements.
pub(super) fn inverse_root(n: u32) -> f32 {
    1.0 / libm::sqrtf(n as f32)
}

/// Rows of the embedding, which the vocabulary, if the file has one, must match.
fn vocab(reader: &Reader<'_, '_>, width: u32) -> Result<u32, RecipeError> {
    let name = "token_embd.weight";
    let tensor = reader.gguf.tensor(name).ok_or(RecipeError::MissingTensor { name })?;
    let (cols, rows) = (tensor.dims[0], tensor.dims[1]);
    if cols != width as u64 {
        let (key, of) = (Key::from("the row length of token_embd.weight"), "the embedding length");
        return Err(RecipeError::Inconsistent { key, found: cols, expected: width as u64, of });
    }
    if rows == 0 || rows > MAX_VOCAB {
        let key = Key::from("the number of rows of token_embd.weight");
        return Err(RecipeError::Size { key, found: rows, limit: MAX_VOCAB });
    }
    let tokens = "tokenizer.ggml.tokens";
    if let Some(array) = reader.gguf.array(tokens)?
        && array.len() as u64 != rows
    {
        let (key, of) = (Key::from("the length of tokenizer.ggml.tokens"), "the number of rows of token_embd.weight");
        return Err(RecipeError::Inconsistent { key, found: array.len() as u64, expected: rows, of });
    }
    Ok(rows as u32)
}

fn rope(reader: &Reader<'_, '_>, kind: RopeKind, key_dim: u32, train_ctx: u32) -> Result<Rope, RecipeError> {
    let dims = reader.size("rope.dimension_count", key_dim)?.unwrap_or(key_dim);
    multiple(reader, "rope.dimension_count", dims, "the elements of a pair", 2)?;
    let base = reader.number("rope.freq_base", "more than 1", |x| x > 1.0)?.unwrap_or(10000.0);
    reader.refuse("rope.scaling.alpha")?;
    let name = reader.gguf.str((reader.family, "rope.scaling.type"))?.unwrap_or("linear");
    // Either key, the second being the older; 0 and 1 for none.
    let factor = match reader.scale("rope.scaling.factor")? {
        Some(factor) => factor,
        None => reader.scale("rope.scale_linear")?.unwrap_or(1.0),
    };
    let positive = |key| reader.number(key, "more than 0", |x| x > 0.0);
    let attn_factor = positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let ext = "rope.scaling.yarn_ext_factor";
    let ext_factor = reader.number(ext, "at least 0", |x| x >= 0.0)?;
    // With it YaRN's own magnitude replaces this factor; without, the stretch is linear and the factor all there is.
    let own = "rope.scaling.yarn_attn_factor";
    let own_factor = positive(own)?.unwrap_or(1.0);
    let unsupported =
        |key, supported| Err(RecipeError::Unsupported { key: reader.key(key), found: Label::from("set"), supported });
    let linear = name == "yarn" && ext_factor == Some(0.0);
    if own_factor != 1.0 && !linear {
        return unsupported(own, "1, or no such key, unless rope.scaling.yarn_ext_factor is 0");
    }
    if name != "yarn" && ext_factor.is_some_and(|x| x != 0.0) {
        return unsupported(ext, "0, or no such key, unless rope.scaling.type is yarn");
    }
    let (scaling, magnitude) = match name {
        "none" => (RopeScaling::None, attn_factor),
        // LongRoPE's stretch lies in its factors; a plain stretch may come on top.
        "linear" | "longrope" if factor == 1.0 => (RopeScaling::None, attn_factor),
        "linear" | "longrope" => (RopeScaling::Linear { factor }, attn_factor),
        "yarn" if linear && factor == 1.0 => (RopeScaling::None, own_factor * attn_factor),
        "yarn" if linear => (RopeScaling::Linear { factor }, own_factor * attn_factor),
        "yarn" => {
            let scaling = RopeScaling::Yarn {
                factor,
                original_ctx: original_ctx(reader, train_ctx)?,
                beta_fast: positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                ext_factor: ext_factor.unwrap_or(1.0),
            };
            reader.refuse("rope.scaling.yarn_log_multiplier")?;
            (scaling, yarn_magnitude(factor) * attn_factor)
        }
        _ => {
            let (key, found) = (reader.key("rope.scaling.type"), Label::from(name));
            return Err(RecipeError::Unsupported { key, found, supported: "none linear yarn longrope" });
        }
    };
    Ok(Rope { dims, kind, base, scaling, factors: RopeFactors::None, magnitude })
}

fn original_ctx(reader: &Reader<'_, '_>, train_ctx: u32) -> Result<u32, RecipeError> {
    Ok(reader.size("rope.scaling.original_context_length", MAX_CTX)?.unwrap_or(train_ctx))
}

/// Takes up the tensors that divide the rotary frequencies, where the file has them: Llama 3's one, or LongRoPE's two,
/// of which the context asked for decides.
pub(super) fn rope_factors(reader: &Reader<'_, '_>, recipe: &mut Recipe) -> Result<(), RecipeError> {
    let factors = if reader.gguf.tensor("rope_freqs.weight").is_some() {
        RopeFactors::Freqs
    } else if reader.ctx > original_ctx(reader, recipe.train_ctx)? {
        RopeFactors::Long
    } else {
        RopeFactors::Short
    };
    let present = match factors {
        RopeFactors::Long => reader.gguf.tensor("rope_factors_long.weight").is_some(),
        RopeFactors::Short => reader.gguf.tensor("rope_factors_short.weight").is_some(),
        _ => true,
    };
    if present {
        recipe.ropes.iter_mut().for_each(|rope| rope.factors = factors);
    }
    Ok(())
}

/// The sliding window, `default` where the file has no such key; `None` where there is none.
pub(super) fn window(reader: &Reader<'_, '_>, default: u32) -> Result<Option<u32>, RecipeError> {
    let window = reader.tokens("attention.sliding_window")?.unwrap_or(default);
    Ok((window > 0).then_some(window))
}

/// Which layers have the window: every `period`-th has not, unless the file says otherwise, by a number or by an array
/// with an entry for each layer.
pub(super) fn window_pattern(reader: &Reader<'_, '_>, window: u32, period: u32) -> Result<Windows, RecipeError> {
    let key = "attention.sliding_window_pattern";
    match reader.gguf.get((reader.family, key)) {
        None => Ok(Windows::Period { window, period }),
        Some(Value::Array(array)) => {
            let (found, expected) = (array.len() as u64, reader.layers as u64);
            if found != expected {
                return Err(RecipeError::Length { key: reader.key(key), found, expected });
            }
            let mut set = LayerSet::default();
            for (layer, value) in (0..).zip(array.values()) {
                if value == Value::Bool(true) || value.integer().is_some_and(|i| i != 0) {
                    set.insert(layer);
                }
            }
            Ok(Windows::Layers { window, set })
        }
        Some(_) => match reader.tokens(key)?.unwrap_or(period) {
            0 => Ok(Windows::All { window }),
            period => Ok(Windows::Period { window, period }),
        },
    }
}

fn multiple(
    reader: &Reader<'_, '_>,
    key: &'static str,
    found: u32,
    of: &'static str,
    expected: u32,
) -> Result<(), RecipeError> {
    if found.is_multiple_of(expected) {
        return Ok(());
    }
    Err(RecipeError::Multiple { key: reader.key(key), found: found as u64, of, expected: expected as u64 })
}

fn same(
    reader: &Reader<'_, '_>,
    key: &'static str,
    found: u32,
    expected: u32,
    of: &'static str,
) -> Result<u32, RecipeError> {
    if found == expected {
        return Ok(found);
    }
    Err(RecipeError::Inconsistent { key: reader.key(key), found: found as u64, expected: expected as u64, of })
}
