//! Qwen 3, dense: norms over each query and key head.

use super::RecipeError;
use super::base::recipe;
use super::reader::Reader;
use crate::quant::RopeKind;
use crate::recipe::Recipe;

pub(super) fn read(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    Ok(Recipe { qk_norm: true, ..recipe(reader, RopeKind::Neox)? })
}
