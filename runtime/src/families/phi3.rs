//! Phi-3, Phi-3.5 mini and Phi-4: fused tensors, LongRoPE (arXiv 2402.13753).

use super::RecipeError;
use super::base::{recipe, rope_factors, window};
use super::reader::Reader;
use crate::quant::RopeKind;
use crate::recipe::{Recipe, Windows};

pub(super) fn read(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    let mut recipe = recipe(reader, RopeKind::Neox)?;
    rope_factors(reader, &mut recipe)?;
    if let Some(window) = window(reader, 0)? {
        recipe.windows = Windows::All { window };
    }
    Ok(recipe)
}
