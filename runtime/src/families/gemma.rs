//! Gemma 1, 2 and 3. The file's norm weights already have the 1 added that the papers add at run time.

use super::RecipeError;
use super::base::{inverse_root, recipe, window, window_pattern};
use super::reader::Reader;
use crate::quant::{RopeKind, Unary};
use crate::recipe::{Recipe, RopeScaling, Windows};

/// GELU in the feed-forward, embeddings times `√width` (in f32: the models were trained with it rounded to bf16, but
/// files are made and compared with the unrounded one).
pub(super) fn read(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    let recipe = recipe(reader, RopeKind::Neox)?;
    Ok(Recipe { activation: Unary::Gelu, embedding_scale: libm::sqrtf(recipe.width as f32), ..recipe })
}

/// Norms on both sides, soft caps, a window on every other layer.
pub(super) fn read2(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    let mut recipe = read(reader)?;
    recipe.post_norm = true;
    // The 27B model, known by its layers, scales by the width per head instead of by the head's own.
    if recipe.layers == 46 {
        recipe.attention_scale = inverse_root(recipe.width / recipe.heads);
    }
    recipe.attention_soft_cap = soft_cap(reader, "attn_logit_softcapping", 50.0)?;
    recipe.logit_soft_cap = soft_cap(reader, "final_logit_softcapping", 30.0)?;
    if let Some(window) = window(reader, 4096)? {
        recipe.windows = window_pattern(reader, window, 2)?;
    }
    if let Some(base) = local_base(reader)? {
        recipe.ropes[1].base = base;
    }
    Ok(recipe)
}

/// Query and key norms instead of attention caps; windowed layers, five of six, have their own rotary base and are not
/// stretched.
pub(super) fn read3(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    let mut recipe = read(reader)?;
    recipe.post_norm = true;
    recipe.qk_norm = true;
    // As in Gemma 2.
    if recipe.layers == 62 {
        recipe.attention_scale = inverse_root(recipe.width / recipe.heads);
    }
    recipe.logit_soft_cap = soft_cap(reader, "final_logit_softcapping", 0.0)?;
    recipe.windows = match window(reader, 0)? {
        Some(window) => window_pattern(reader, window, 6)?,
        None => Windows::None,
    };
    let local = &mut recipe.ropes[1];
    local.base = local_base(reader)?.unwrap_or(10000.0);
    local.scaling = RopeScaling::None;
    local.magnitude = 1.0;
    Ok(recipe)
}

fn soft_cap(reader: &Reader<'_, '_>, key: &'static str, default: f32) -> Result<f32, RecipeError> {
    Ok(reader.number(key, "a finite number, at least 0", |x| x >= 0.0)?.unwrap_or(default))
}

fn local_base(reader: &Reader<'_, '_>) -> Result<Option<f32>, RecipeError> {
    reader.number("rope.freq_base_swa", "more than 1", |x| x > 1.0)
}
