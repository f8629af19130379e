//! Model families: from a file's keys to a [`Recipe`]. One small file each; the forward pass knows none of them.

mod base;
mod error;
mod gemma;
mod granite;
mod llama;
mod phi3;
mod qwen2;
mod qwen3;
mod reader;
mod smollm3;

#[cfg(test)]
mod tests;

pub use error::RecipeError;

use crate::gguf::{Gguf, Key};
use crate::label::Label;
use crate::recipe::Recipe;
use reader::Reader;

/// What reads a family's keys.
type Read = fn(&mut Reader<'_, '_>) -> Result<Recipe, RecipeError>;

/// The families by GGUF's `general.architecture`.
const FAMILIES: [(&str, Read); 9] = [
    ("llama", llama::read),
    ("qwen2", qwen2::read),
    ("qwen3", qwen3::read),
    ("gemma", gemma::read),
    ("gemma2", gemma::read2),
    ("gemma3", gemma::read3),
    ("phi3", phi3::read),
    ("smollm3", smollm3::read),
    ("granite", granite::read),
];

/// The names of the supported families, as `general.architecture` has them.
pub fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(name, _)| *name)
}

impl Recipe {
    /// What the file's model computes when it runs with `ctx` tokens of context. (LongRoPE chooses its factors by that;
    /// other families do not look at it.)
    pub fn of(gguf: &Gguf<'_>, ctx: u32) -> Result<Recipe, RecipeError> {
        let key = Key::from("general.architecture");
        let found = gguf.str(key)?.ok_or(RecipeError::MissingKey { key })?;
        let (family, read) = FAMILIES
            .into_iter()
            .find(|(name, _)| *name == found)
            .ok_or(RecipeError::UnknownFamily { found: Label::from(found) })?;
        read(&mut Reader { gguf, family, ctx, layers: 0 })
    }
}
