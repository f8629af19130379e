//! The families whose feed-forwards are experts: their dense relatives with the experts' keys. (Mixtral is a `llama`.)

use super::RecipeError;
use super::base::{any, experts};
use super::reader::Reader;
use crate::quant::RopeKind;
use crate::recipe::{Experts, Recipe};

/// Qwen 1.5 and 2 with experts: weights as the softmax has them, and an expert for all tokens behind a gate.
pub(super) fn qwen2(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    let mut recipe = any(reader, RopeKind::Neox)?;
    let whole = recipe.ffn;
    let mut experts = by_share(reader, &mut recipe, false)?;
    if experts.shared_ffn == 0 {
        experts.shared_ffn = whole;
    }
    experts.shared_gate = true;
    Ok(Recipe { experts: Some(experts), ..recipe })
}

/// Qwen 3 with experts.
pub(super) fn qwen3(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    let mut recipe = any(reader, RopeKind::Neox)?;
    let experts = by_share(reader, &mut recipe, true)?;
    Ok(Recipe { qk_norm: true, experts: Some(experts), ..recipe })
}

/// OLMoE: norms over whole queries and keys.
pub(super) fn olmoe(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    let mut recipe = any(reader, RopeKind::Neox)?;
    let experts = experts(reader, &mut recipe, false)?;
    Ok(Recipe { qk_norm: true, qk_norm_whole: true, experts: Some(experts), ..recipe })
}

/// Qwen's experts share the feed-forward's width among those that a token takes, unless the file says how wide they are.
fn by_share(reader: &Reader<'_, '_>, recipe: &mut Recipe, normed: bool) -> Result<Experts, RecipeError> {
    let whole = recipe.ffn;
    let experts = experts(reader, recipe, normed)?;
    if reader.size("expert_feed_forward_length", u32::MAX)?.is_none() {
        recipe.ffn = (whole / experts.used).max(1);
    }
    Ok(experts)
}
