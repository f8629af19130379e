//! Qwen 2 and 2.5: Llama with biases on queries, keys and values, which the tensors tell.

use super::RecipeError;
use super::base::recipe;
use super::reader::Reader;
use crate::quant::RopeKind;
use crate::recipe::Recipe;

pub(super) fn read(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    recipe(reader, RopeKind::Neox)
}
