//! SmolLM3: Llama without positions on every fourth layer (NoPE, arXiv 2501.18795).

use super::RecipeError;
use super::base::recipe;
use super::reader::Reader;
use crate::quant::RopeKind;
use crate::recipe::Recipe;

pub(super) fn read(reader: &mut Reader<'_, '_>) -> Result<Recipe, RecipeError> {
    Ok(Recipe { nope_period: 4, ..recipe(reader, RopeKind::Norm)? })
}
