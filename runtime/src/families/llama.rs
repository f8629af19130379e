//! Llama 1 to 3.3, Mistral, and the many models in their shape.

use super::RecipeError;
use super::base::{recipe, rope_factors, window};
use super::reader::Reader;
use crate::quant::RopeKind;
use crate::recipe::{Recipe, Windows};

pub(super) fn read(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    let mut recipe = recipe(reader, RopeKind::Norm)?;
    rope_factors(reader, &mut recipe)?;
    // Mistral's window: every layer has it.
    if let Some(window) = window(reader, 0)? {
        recipe.windows = Windows::All { window };
    }
    Ok(recipe)
}
