//! Granite 3 and 4, dense or with experts: Llama with four scales, and a switch that takes its positions away.

use super::RecipeError;
#[cfg(feature = "experts")]
use super::base::{any, experts};
use super::base::{recipe, rope_factors};
use super::reader::Reader;
use crate::quant::RopeKind;
use crate::recipe::Recipe;

pub(super) fn read(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    let recipe = recipe(reader, RopeKind::Norm)?;
    scaled(reader, recipe)
}

/// Granite 3 with experts, and one that all tokens take where the file has it.
#[cfg(feature = "experts")]
pub(super) fn read_experts(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    let mut recipe = any(reader, RopeKind::Norm)?;
    recipe.experts = Some(experts(reader, &mut recipe, true)?);
    scaled(reader, recipe)
}

fn scaled(reader: &Reader<'_, '_>, mut recipe: Recipe) -> Result<Recipe, RecipeError> {
    rope_factors(reader, &mut recipe)?;
    recipe.embedding_scale = reader.scale("embedding_scale")?.unwrap_or(1.0);
    recipe.residual_scale = reader.scale("residual_scale")?.unwrap_or(1.0);
    recipe.attention_scale = reader.scale("attention.scale")?.unwrap_or(recipe.attention_scale);
    // Logits are divided by this one.
    let key = "logit_scale";
    let divisor = reader.number(key, "more than 0", |x| x > 0.0)?.ok_or_else(|| reader.missing(key))?;
    recipe.logit_scale = 1.0 / divisor;
    // Granite's use of this key: whether there are rotary positions at all.
    if reader.gguf.bool((reader.family, "rope.scaling.finetuned"))? == Some(false) {
        recipe.nope_period = 1;
    }
    Ok(recipe)
}
