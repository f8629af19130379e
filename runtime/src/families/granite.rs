//! Granite 3 and 4, dense: Llama with four scales, and a switch that takes its positions away.

use super::RecipeError;
use super::base::{recipe, rope_factors};
use super::reader::Reader;
use crate::quant::RopeKind;
use crate::recipe::Recipe;

pub(super) fn read(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    let mut recipe = recipe(reader, RopeKind::Norm)?;
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
