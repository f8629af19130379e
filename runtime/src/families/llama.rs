//! Llama 1 to 3.3, Mistral, Mixtral (the one with experts), and the many models in their shape.

use super::RecipeError;
#[cfg(feature = "experts")]
use super::base::experts;
use super::base::{any, rope_factors, window};
use super::reader::Reader;
use crate::quant::RopeKind;
use crate::recipe::{Recipe, Windows};

pub(super) fn read(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    let mut recipe = any(reader, RopeKind::Norm)?;
    #[cfg(not(feature = "experts"))]
    reader.refuse("expert_count")?;
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
