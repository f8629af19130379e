//! The one door through which weights come.
//!
//! The forward pass asks for rows of a tensor when it needs them and holds them until it asks again: the borrow
//! on the source ends there. A mapped file or a flash address answers at once; a source that streams under a
//! memory budget answers when its buffer is full and starts on the next piece.

use crate::quant::Format;
use core::ops::Range;

/// Where a tensor's bytes lie. Plain data, so that tables of it fit in an arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct TensorRef {
    /// Byte offset of row 0 in its file; checked against the file's length when the model was bound.
    pub offset: u64,
    /// Rows (the product of all dimensions but the first).
    pub rows: u32,
    /// Elements of a row; 0 marks an absent tensor.
    pub cols: u32,
    /// GGUF number of the format ([`Format::from_id`]).
    pub format_id: u32,
    /// Which file of a split model.
    pub part: u32,
}

impl TensorRef {
    /// Whether the file has this tensor.
    pub fn present(&self) -> bool {
        self.cols != 0
    }

    /// Its format; F32 for an absent one.
    pub fn format(&self) -> Format {
        Format::from_id(self.format_id).unwrap_or(Format::F32)
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.format().row_bytes(self.cols as usize).unwrap_or(0)
    }

    /// Bytes of the whole tensor.
    pub fn bytes(&self) -> u64 {
        self.row_bytes() as u64 * self.rows as u64
    }

    /// The tensor made of these rows.
    pub fn slice(&self, rows: Range<u32>) -> TensorRef {
        let offset = self.offset + rows.start as u64 * self.row_bytes() as u64;
        TensorRef { offset, rows: rows.end - rows.start, ..*self }
    }
}

/// Why weights could not be had. The source that answers so stays usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightsError {
    /// The tensor lies outside the bytes that this source has.
    OutOfBounds {
        /// File offset asked for.
        offset: u64,
        /// Bytes that the source has.
        len: u64,
    },
    /// Reading from storage failed.
    Storage {
        /// File offset asked for.
        offset: u64,
        /// The system's error number; 0 for an unexpected end of file.
        errno: i32,
    },
}

impl core::fmt::Display for WeightsError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            WeightsError::OutOfBounds { offset, len } => {
                write!(f, "weights at byte {offset} lie outside the {len} bytes of the model")
            }
            WeightsError::Storage { offset, errno: 0 } => {
                write!(f, "the model file ends before byte {offset}: it was truncated while in use")
            }
            WeightsError::Storage { offset, errno } => {
                write!(f, "reading the model at byte {offset} failed: system error {errno}")
            }
        }
    }
}

impl core::error::Error for WeightsError {}

/// The experts that a layer's router chose.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'c> {
    /// The layer's matrices, each with the rows of all experts one after the other.
    pub matrices: [TensorRef; 3],
    /// Experts of the layer.
    pub count: u32,
    /// Those that were chosen, ascending.
    pub chosen: &'c [u32],
}

/// A source of weights.
pub trait Weights {
    /// The bytes of the first rows of `rows` in file order: all of them, or as many (at least one) as the source
    /// hands out at once. The caller asks again for the rest.
    ///
    /// `rows` must be non-empty and inside the tensor.
    fn rows(&mut self, tensor: &TensorRef, rows: Range<u32>) -> Result<&[u8], WeightsError>;

    /// Told at the start of every forward pass, so that a streaming source can start reading from the first layer.
    fn begin(&mut self) {}

    /// Told which experts are asked for next: one after the other, each one's rows of all matrices in turn. A streaming
    /// source can start reading them all.
    fn expect(&mut self, _experts: &Chosen<'_>) {}
}

/// Weights that are all in memory: a mapped file (or the files of a split model), bytes in flash.
#[derive(Clone, Copy)]
pub struct InMemory<'a> {
    parts: &'a [&'a [u8]],
}

impl<'a> InMemory<'a> {
    /// `parts` are the whole files, in order.
    pub fn new(parts: &'a [&'a [u8]]) -> Self {
        InMemory { parts }
    }
}

impl Weights for InMemory<'_> {
    fn rows(&mut self, tensor: &TensorRef, rows: Range<u32>) -> Result<&[u8], WeightsError> {
        let part = self.parts.get(tensor.part as usize).copied().unwrap_or(&[]);
        let row = tensor.row_bytes() as u64;
        let start = tensor.offset + rows.start as u64 * row;
        let end = tensor.offset + rows.end as u64 * row;
        let found = usize::try_from(start).ok().zip(usize::try_from(end).ok()).and_then(|(s, e)| part.get(s..e));
        found.ok_or(WeightsError::OutOfBounds { offset: start, len: part.len() as u64 })
    }
}
