//! Model families: from a file's keys to a [`Recipe`]. One small file each; the forward pass knows none of them.

// Families that are left out leave some of their helpers unused.
#[cfg_attr(not(feature = "full"), allow(dead_code))]
mod base;
mod error;
#[cfg(feature = "experts")]
mod experts;
#[cfg(feature = "gemma")]
mod gemma;
#[cfg(feature = "granite")]
mod granite;
#[cfg(feature = "llama")]
mod llama;
#[cfg(feature = "phi3")]
mod phi3;
#[cfg(feature = "qwen2")]
mod qwen2;
#[cfg(feature = "qwen3")]
mod qwen3;
#[cfg_attr(not(feature = "full"), allow(dead_code))]
mod reader;
#[cfg(feature = "smollm3")]
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
const FAMILIES: &[(&str, Read)] = &[
    #[cfg(feature = "llama")]
    ("llama", llama::read),
    #[cfg(feature = "qwen2")]
    ("qwen2", qwen2::read),
    #[cfg(feature = "qwen3")]
    ("qwen3", qwen3::read),
    #[cfg(feature = "experts")]
    ("qwen2moe", experts::qwen2),
    #[cfg(feature = "experts")]
    ("qwen3moe", experts::qwen3),
    #[cfg(feature = "experts")]
    ("olmoe", experts::olmoe),
    #[cfg(feature = "gemma")]
    ("gemma", gemma::read),
    #[cfg(feature = "gemma")]
    ("gemma2", gemma::read2),
    #[cfg(feature = "gemma")]
    ("gemma3", gemma::read3),
    #[cfg(feature = "phi3")]
    ("phi3", phi3::read),
    #[cfg(feature = "smollm3")]
    ("smollm3", smollm3::read),
    #[cfg(feature = "granite")]
    ("granite", granite::read),
    #[cfg(all(feature = "granite", feature = "experts"))]
    ("granitemoe", granite::read_experts),
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
        let &(family, read) = FAMILIES
            .iter()
            .find(|(name, _)| *name == found)
            .ok_or(RecipeError::UnknownFamily { found: Label::from(found) })?;
        read(&mut Reader { gguf, family, ctx, layers: 0 })
    }
}
