//! Why no recipe could be made of a file.

use crate::gguf::{GgufError, Key};
use crate::label::Label;
use core::fmt;

/// What in the file's keys keeps it from being run: found, expected, which key.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum RecipeError {
    /// A key could not be read as what it should be.
    Gguf(GgufError),
    /// `general.architecture` names a family that is not supported.
    UnknownFamily { found: Label },
    /// A required key is missing.
    MissingKey { key: Key<'static> },
    /// A required tensor is missing.
    MissingTensor { name: &'static str },
    /// A size outside what is sensible.
    Size { key: Key<'static>, found: u64, limit: u64 },
    /// A number that is not finite or outside its bounds.
    Number { key: Key<'static>, found: f32, expected: &'static str },
    /// Layers that differ in what must be the same for all.
    Varying { key: Key<'static> },
    /// An array of another length than there are layers.
    Length { key: Key<'static>, found: u64, expected: u64 },
    /// Two figures that do not go together.
    Inconsistent { key: Key<'static>, found: u64, expected: u64, of: &'static str },
    /// `key` must be a multiple of another figure.
    Multiple { key: Key<'static>, found: u64, of: &'static str, expected: u64 },
    /// The file asks for something that is not supported.
    Unsupported { key: Key<'static>, found: Label, supported: &'static str },
}

impl From<GgufError> for RecipeError {
    fn from(error: GgufError) -> RecipeError {
        RecipeError::Gguf(error)
    }
}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use RecipeError::*;
        match self {
            Gguf(error) => error.fmt(f),
            UnknownFamily { found } => {
                write!(f, "model family {found} is not supported; supported:")?;
                super::names().try_for_each(|name| write!(f, " {name}"))
            }
            MissingKey { key } => write!(f, "key {key} is missing"),
            MissingTensor { name } => write!(f, "tensor {name} is missing"),
            Size { key, found, limit } => write!(f, "{key} is {found}; expected 1 to {limit}"),
            Number { key, found, expected } => write!(f, "{key} is {found}; expected {expected}"),
            Varying { key } => write!(f, "{key} differs from layer to layer, which is not supported"),
            Length { key, found, expected } => {
                write!(f, "{key} has {found} entries; expected one for each of the {expected} layers")
            }
            Inconsistent { key, found, expected, of } => write!(f, "{key} is {found}; expected {expected}, {of}"),
            Multiple { key, found, of, expected } => {
                write!(f, "{key} is {found}, not a multiple of {of}, {expected}")
            }
            Unsupported { key, found, supported } => {
                write!(f, "{key} is {found}, which is not supported; supported: {supported}")
            }
        }
    }
}

impl core::error::Error for RecipeError {}
