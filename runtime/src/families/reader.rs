//! Reading a family's keys, each checked for sense.

use super::RecipeError;
use crate::gguf::{Gguf, Key, Value};
use crate::label::Label;

/// A family's keys, and the context that the model is to run with.
#[derive(Clone, Copy)]
pub(super) struct Reader<'g, 'a> {
    pub gguf: &'g Gguf<'a>,
    /// The prefix of the family's keys.
    pub family: &'static str,
    /// Tokens of context asked for.
    pub ctx: u32,
    /// Entries that arrays by layer have.
    pub layers: u32,
}

impl Reader<'_, '_> {
    pub fn key(&self, key: &'static str) -> Key<'static> {
        Key::from((self.family, key))
    }

    pub fn missing(&self, key: &'static str) -> RecipeError {
        RecipeError::MissingKey { key: self.key(key) }
    }

    /// A size from 1 to `limit`: one number, or an array with the same number for every layer.
    pub fn size(&self, key: &'static str, limit: u32) -> Result<Option<u32>, RecipeError> {
        let found = match self.gguf.get((self.family, key)) {
            None => return Ok(None),
            Some(Value::Array(array)) => {
                let (found, expected) = (array.len() as u64, self.layers as u64);
                if found != expected {
                    return Err(RecipeError::Length { key: self.key(key), found, expected });
                }
                let mut sizes = array.values().map(|v| v.integer());
                let first = sizes.next().flatten();
                if sizes.any(|size| size != first) {
                    return Err(RecipeError::Varying { key: self.key(key) });
                }
                first.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)
            }
            Some(_) => self.gguf.u64((self.family, key))?.unwrap_or(0),
        };
        match u32::try_from(found) {
            Ok(size) if (1..=limit).contains(&size) => Ok(Some(size)),
            _ => Err(RecipeError::Size { key: self.key(key), found, limit: limit as u64 }),
        }
    }

    pub fn need_size(&self, key: &'static str, limit: u32) -> Result<u32, RecipeError> {
        self.size(key, limit)?.ok_or_else(|| self.missing(key))
    }

    /// A size up to `limit`, where a missing key and 0 both mean that there is none.
    #[cfg(feature = "experts")]
    pub fn optional_size(&self, key: &'static str, limit: u32) -> Result<u32, RecipeError> {
        if self.gguf.u64((self.family, key))? == Some(0) { Ok(0) } else { Ok(self.size(key, limit)?.unwrap_or(0)) }
    }

    /// A number of tokens, 0 for none of it; a missing key is `None`.
    pub fn tokens(&self, key: &'static str) -> Result<Option<u32>, RecipeError> {
        Ok(self.gguf.u32((self.family, key))?)
    }

    /// A finite number that `holds` accepts, described by `expected`.
    pub fn number(
        &self,
        key: &'static str,
        expected: &'static str,
        holds: fn(f32) -> bool,
    ) -> Result<Option<f32>, RecipeError> {
        match self.gguf.f32((self.family, key))? {
            Some(found) if !found.is_finite() || !holds(found) => {
                Err(RecipeError::Number { key: self.key(key), found, expected })
            }
            number => Ok(number),
        }
    }

    /// A scale or cap, where a missing key and 0 both mean none.
    pub fn scale(&self, key: &'static str) -> Result<Option<f32>, RecipeError> {
        Ok(self.number(key, "a finite number, at least 0", |x| x >= 0.0)?.filter(|x| *x != 0.0))
    }

    /// Refuses a file in which this number is neither missing nor 0.
    pub fn refuse(&self, key: &'static str) -> Result<(), RecipeError> {
        let set = match self.gguf.get((self.family, key)) {
            None => false,
            Some(Value::Array(array)) => array.values().any(|v| v.integer().is_none_or(|i| i != 0)),
            Some(value) => match (value.integer(), value.float()) {
                (Some(i), _) => i != 0,
                (_, Some(x)) => x != 0.0,
                _ => true,
            },
        };
        if !set {
            return Ok(());
        }
        Err(RecipeError::Unsupported { key: self.key(key), found: Label::from("set"), supported: "0, or no such key" })
    }
}
