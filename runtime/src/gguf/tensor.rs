//! The tensor directory.

use super::GgufError;
use super::part::Part;
use crate::label::Label;
use crate::quant::Format;
use crate::weights::TensorRef;

/// A tensor of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// Its name, at most 64 bytes.
    pub name: &'a str,
    /// Its format; the type's number where this crate has no kernels for it.
    pub format: Result<Format, u32>,
    /// Elements along each dimension, the fastest first; 1 for those that it does not have.
    pub dims: [u64; 4],
    /// Dimensions that it has.
    pub n_dims: u32,
    /// Which file of a split model.
    pub part: u32,
    /// Byte offset of its data in that file.
    pub offset: u64,
    /// Bytes of its data; 0 for a type that GGML does not define either.
    pub bytes: u64,
}

impl TensorInfo<'_> {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        // Cannot overflow: checked when the file was parsed.
        self.dims.iter().product()
    }

    /// The name of its type, as GGML has it.
    pub fn type_name(&self) -> &'static str {
        match self.format {
            Ok(format) => format.name(),
            Err(id) => other_type(id).map_or("unknown", |t| t.1),
        }
    }

    /// Where its rows are: `dims[0]` columns, and as rows the product of the other dimensions.
    pub fn to_ref(&self) -> Result<TensorRef, GgufError> {
        let tensor = Label::from(self.name);
        let format = self.format.map_err(|found| GgufError::UnsupportedType { tensor, found })?;
        let rows: u64 = self.dims[1..].iter().product();
        match (u32::try_from(rows), u32::try_from(self.dims[0])) {
            (Ok(rows), Ok(cols)) => {
                Ok(TensorRef { offset: self.offset, rows, cols, format_id: format as u32, part: self.part })
            }
            _ => Err(GgufError::TooLarge { tensor }),
        }
    }
}

/// An entry of the directory as it is written.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub name: &'a [u8],
    pub n_dims: u32,
    pub dims: [u64; 4],
    pub type_id: u32,
    /// From the start of the data section.
    pub offset: u64,
}

impl<'a> Entry<'a> {
    pub fn label(&self) -> Label {
        Label::new(self.name)
    }

    /// Bytes of its data.
    pub fn bytes(&self) -> Result<u64, GgufError> {
        let too_large = || GgufError::TooLarge { tensor: self.label() };
        let mut elements: u64 = 1;
        for dim in self.dims {
            // Zero elements must not hide an overflow of the other dimensions.
            elements = elements.checked_mul(dim.max(1)).ok_or_else(too_large)?;
        }
        let elements = if self.dims.contains(&0) { 0 } else { elements };
        let Some((block, bytes)) = block_of(self.type_id) else { return Ok(0) };
        if !self.dims[0].is_multiple_of(block) {
            return Err(GgufError::Blocks { tensor: self.label(), cols: self.dims[0], block });
        }
        (elements / block).checked_mul(bytes).ok_or_else(too_large)
    }

    pub fn info(&self, part: u32, data: u64) -> Option<TensorInfo<'a>> {
        Some(TensorInfo {
            name: core::str::from_utf8(self.name).ok()?,
            format: Format::from_id(self.type_id).filter(|f| f.is_built()).ok_or(self.type_id),
            dims: self.dims,
            n_dims: self.n_dims,
            part,
            offset: data.checked_add(self.offset)?,
            bytes: self.bytes().ok()?,
        })
    }
}

/// GGML's types that have no kernels here: number, name, elements and bytes of a block.
static OTHER_TYPES: [(u32, &str, u64, u64); 23] = [
    (9, "Q8_1", 32, 36),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (31, "Q4_0_4_4", 32, 18),
    (32, "Q4_0_4_8", 32, 18),
    (33, "Q4_0_8_8", 32, 18),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
];

fn other_type(id: u32) -> Option<&'static (u32, &'static str, u64, u64)> {
    OTHER_TYPES.iter().find(|t| t.0 == id)
}

/// The name of a tensor type by its number, supported or not.
pub fn type_name(id: u32) -> &'static str {
    match Format::from_id(id) {
        Some(format) => format.name(),
        None => other_type(id).map_or("unknown", |t| t.1),
    }
}

/// Elements and bytes of a block.
fn block_of(id: u32) -> Option<(u64, u64)> {
    match Format::from_id(id) {
        Some(format) => Some((format.block_len() as u64, format.block_bytes() as u64)),
        None => other_type(id).map(|t| (t.2, t.3)),
    }
}

/// The tensors of a model, in the order of its files.
#[derive(Clone)]
pub struct Tensors<'a> {
    pub(super) parts: &'a [&'a [u8]],
    pub(super) part: Part<'a>,
    pub(super) index: u32,
    pub(super) at: usize,
    pub(super) left: u32,
}

impl<'a> Tensors<'a> {
    fn entry(&mut self) -> Option<Entry<'a>> {
        while self.left == 0 {
            self.index = self.index.saturating_add(1);
            // Scanning again costs a walk over the part's own few keys; nothing has to be kept for it.
            self.part = Part::scan(self.parts.get(self.index as usize)?).ok()?;
            (self.at, self.left) = (self.part.directory, self.part.tensors);
        }
        self.left -= 1;
        let (entry, at) = self.part.entry(self.at).ok()?;
        self.at = at;
        Some(entry)
    }

    /// Their names only.
    pub(super) fn names(mut self) -> impl Iterator<Item = &'a [u8]> {
        core::iter::from_fn(move || self.entry().map(|entry| entry.name))
    }
}

impl<'a> Iterator for Tensors<'a> {
    type Item = TensorInfo<'a>;

    fn next(&mut self) -> Option<TensorInfo<'a>> {
        let entry = self.entry()?;
        entry.info(self.index, self.part.data as u64)
    }
}
