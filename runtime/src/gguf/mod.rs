//! A GGUF file, versions 2 and 3, read in place (the format: `ggml/docs/gguf.md` of the GGML project).
//!
//! [`Gguf::parse`] checks everything once: lengths, counts, offsets, names, duplicates. Nothing is copied; what the
//! view hands out borrows the file's bytes. After that no reading fails and none can panic.
//!
//! Stricter than the format: tensors' data must lie in the directory's order without overlap, as every known writer has
//! it; a name that is empty, or appears twice, is refused; so are arrays of arrays.

mod duplicates;
mod error;
mod part;
mod read;
mod tensor;
mod value;

#[cfg(test)]
pub(crate) mod hostile;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod writer;

pub use error::GgufError;
pub use part::Keys;
pub use tensor::{TensorInfo, Tensors, type_name};
pub use value::{Array, Strings, Value, ValueType};

use crate::label::Label;
use crate::weights::TensorRef;
use part::Part;

/// A key to look up: `"general.name"`, or `("llama", "block_count")` for `llama.block_count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'k> {
    family: &'k str,
    rest: &'k str,
}

impl Key<'_> {
    fn is(&self, name: &str) -> bool {
        match self.family {
            "" => name == self.rest,
            family => name.strip_prefix(family).and_then(|n| n.strip_prefix('.')) == Some(self.rest),
        }
    }

    /// The key's text, in short.
    pub fn label(&self) -> Label {
        match self.family {
            "" => Label::from(self.rest),
            family => Label::scoped(family, self.rest),
        }
    }
}

impl core::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.family {
            "" => f.write_str(self.rest),
            family => write!(f, "{family}.{}", self.rest),
        }
    }
}

impl<'k> From<&'k str> for Key<'k> {
    fn from(rest: &'k str) -> Key<'k> {
        Key { family: "", rest }
    }
}

impl<'k> From<(&'k str, &'k str)> for Key<'k> {
    fn from((family, rest): (&'k str, &'k str)) -> Key<'k> {
        Key { family, rest }
    }
}

/// A view over the bytes of a GGUF file, or of the files of a split model.
#[derive(Clone, Copy)]
pub struct Gguf<'a> {
    first: Part<'a>,
    /// All the files of a split model; empty for a single one.
    parts: &'a [&'a [u8]],
    tensors: u32,
}

impl<'a> Gguf<'a> {
    /// Views a model in a single file.
    pub fn parse(bytes: &'a [u8]) -> Result<Gguf<'a>, GgufError> {
        let gguf = Gguf::open(bytes, 1, 0)?;
        gguf.check_tensor_names()?;
        Ok(gguf)
    }

    /// Views a model split over files (`-00001-of-0000N.gguf`…), given in order. The keys are those of the first, the
    /// tensors those of all.
    pub fn parse_parts(parts: &'a [&'a [u8]]) -> Result<Gguf<'a>, GgufError> {
        let (first, rest) = match parts {
            [] => return Err(GgufError::NoParts),
            [single] => return Gguf::parse(single),
            [first, rest @ ..] => (first, rest),
        };
        let mut gguf = Gguf::open(first, parts.len(), 0)?;
        for (index, bytes) in (1..).zip(rest) {
            let found = gguf.tensors as u64 + Gguf::open(bytes, parts.len(), index)?.tensors as u64;
            if found > part::MAX_TENSORS {
                return Err(GgufError::TooMany { what: "tensors", found, limit: part::MAX_TENSORS });
            }
            gguf.tensors = found as u32;
        }
        let expected = gguf.split_key("split.tensors.count", 0)?;
        if expected != gguf.tensors as u64 {
            return Err(GgufError::SplitTensors { found: gguf.tensors as u64, expected });
        }
        gguf.parts = parts;
        gguf.check_tensor_names()?;
        Ok(gguf)
    }

    /// Checks one file, which is to be part `part` of `parts`.
    fn open(bytes: &'a [u8], parts: usize, part: u32) -> Result<Gguf<'a>, GgufError> {
        let first = Part::scan(bytes)?;
        if let Some(key) = duplicates::find(|| first.entries().map(|(key, _)| key.as_bytes())) {
            return Err(GgufError::DuplicateKey { key: Label::new(key) });
        }
        first.check_data()?;
        let gguf = Gguf { first, parts: &[], tensors: first.tensors };
        if parts > 1 || gguf.get("split.count").is_some() {
            let found = gguf.split_key("split.count", part)?;
            // A split of one part is written without the count, or with 0 or 1.
            if found.max(1) != parts as u64 {
                return Err(GgufError::SplitCount { part, found, expected: parts as u64 });
            }
        }
        if parts > 1 {
            let found = gguf.split_key("split.no", part)?;
            if found != part as u64 {
                return Err(GgufError::SplitOrder { part, found });
            }
        }
        Ok(gguf)
    }

    fn split_key(&self, key: &'static str, part: u32) -> Result<u64, GgufError> {
        self.u64(key)?.ok_or(GgufError::SplitKey { part, key })
    }

    fn check_tensor_names(&self) -> Result<(), GgufError> {
        match duplicates::find(|| self.tensors().names()) {
            Some(name) => Err(GgufError::DuplicateTensor { name: Label::new(name) }),
            None => Ok(()),
        }
    }

    /// The format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.first.version
    }

    /// Tensors' data starts at multiples of this.
    pub fn alignment(&self) -> u32 {
        self.first.alignment
    }

    /// `general.architecture`: the model's family.
    pub fn architecture(&self) -> Option<&'a str> {
        self.str("general.architecture").ok().flatten()
    }

    /// The keys and their values, in the file's order.
    pub fn keys(&self) -> Keys<'a> {
        self.first.entries()
    }

    /// Number of tensors.
    pub fn tensor_count(&self) -> usize {
        self.tensors as usize
    }

    /// The tensors, in the files' order.
    pub fn tensors(&self) -> Tensors<'a> {
        Tensors { parts: self.parts, part: self.first, index: 0, at: self.first.directory, left: self.first.tensors }
    }

    /// The tensor of this name. A walk over the directory: to find many, walk [`Gguf::tensors`] once.
    pub fn tensor(&self, name: &str) -> Option<TensorInfo<'a>> {
        self.tensors().find(|t| t.name == name)
    }

    /// Where the rows of the tensor of this name are.
    pub fn tensor_ref(&self, name: &str) -> Result<Option<TensorRef>, GgufError> {
        self.tensor(name).map(|t| t.to_ref()).transpose()
    }

    /// A tensor's bytes.
    pub fn data(&self, tensor: &TensorInfo<'_>) -> &'a [u8] {
        self.bytes(tensor.part, tensor.offset, tensor.bytes)
    }

    /// So many bytes of a file; empty where it has not so many.
    pub(crate) fn bytes(&self, part: u32, offset: u64, len: u64) -> &'a [u8] {
        let file = if self.parts.is_empty() { Some(&self.first.bytes) } else { self.parts.get(part as usize) };
        let range = usize::try_from(offset).ok().zip(offset.checked_add(len).and_then(|end| usize::try_from(end).ok()));
        file.zip(range).and_then(|(file, (start, end))| file.get(start..end)).unwrap_or(&[])
    }

    /// The value of a key.
    pub fn get<'k>(&self, key: impl Into<Key<'k>>) -> Option<Value<'a>> {
        let key = key.into();
        self.keys().find(|(name, _)| key.is(name)).map(|(_, value)| value)
    }

    /// An integer of any width that fits.
    pub fn u64<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<u64>, GgufError> {
        let (key, expected) = (key.into(), "an integer from 0 to 18446744073709551615");
        let Some(found) = self.typed(key, expected, |v| v.integer())? else { return Ok(None) };
        u64::try_from(found).map(Some).map_err(|_| GgufError::OutOfRange { key: key.label(), found, expected })
    }

    /// An integer of any width that fits.
    pub fn u32<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<u32>, GgufError> {
        let (key, expected) = (key.into(), "an integer from 0 to 4294967295");
        let Some(found) = self.typed(key, expected, |v| v.integer())? else { return Ok(None) };
        u32::try_from(found).map(Some).map_err(|_| GgufError::OutOfRange { key: key.label(), found, expected })
    }

    /// A float; one of 64 bits is rounded.
    pub fn f32<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<f32>, GgufError> {
        self.typed(key.into(), "a float", |v| v.float())
    }

    /// A truth value.
    pub fn bool<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<bool>, GgufError> {
        self.typed(key.into(), "a truth value", |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }

    /// A text.
    pub fn str<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<&'a str>, GgufError> {
        let key = key.into();
        let Some(bytes) = self.typed(key, "a string", |v| if let Value::String(s) = v { Some(*s) } else { None })?
        else {
            return Ok(None);
        };
        core::str::from_utf8(bytes).map(Some).map_err(|_| GgufError::BadText { key: key.label() })
    }

    /// An array.
    pub fn array<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<Array<'a>>, GgufError> {
        self.typed(key.into(), "an array", |v| if let Value::Array(a) = v { Some(*a) } else { None })
    }

    fn typed<T>(
        &self,
        key: Key<'_>,
        expected: &'static str,
        read: impl Fn(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || GgufError::WrongType { key: key.label(), found: value.kind(), expected };
        read(&value).map(Some).ok_or_else(wrong)
    }
}

impl core::fmt::Debug for Gguf<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "GGUF v{}: {} keys, {} tensors", self.version(), self.first.keys, self.tensors)
    }
}
