//! Llama 1 to 3.3, Mistral, Mixtral (the one with experts), and the many models in their shape.

use super::RecipeError;
#[cfg(not(feature = "experts"))]
use super::base::recipe;
#[cfg(feature = "experts")]
use super::base::{any, experts};
use super::base::{rope_factors, window};
use super::reader::Reader;
use crate::quant::RopeKind;
use crate::recipe::{Recipe, Windows};

pub(super) fn read(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    #[cfg(feature = "experts")]
    let mut recipe = any(reader, RopeKind::Norm)?;
    #[cfg(not(feature = "experts"))]
    let mut recipe = recipe(reader, RopeKind::Norm)?;
    rope_factors(reader, &mut recipe)?;
    #[cfg(feature = "experts")]
    if reader.gguf.u64((reader.family, "expert_count"))?.is_some_and(|n| n > 0) {
        recipe.experts = Some(experts(reader, &mut recipe, true)?);
    }
    // Mistral's window: every layer has it.
    if let Some(window) = window(reader, 0)? {
        recipe.windows = Windows::All { window };
    }
    Ok(recipe)
}
