//! Why a file is no GGUF that can be used.

use super::tensor::type_name;
use super::value::ValueType;
use crate::label::Label;
use crate::quant::Format;
use core::fmt;

/// What is wrong with a GGUF file: found, expected, where. Offsets are bytes from the start of the file (of the part,
/// for a split model).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum GgufError {
    /// The first four bytes are not `GGUF`.
    Magic { found: [u8; 4] },
    /// The file was written for big-endian machines.
    BigEndian,
    /// A version other than 2 and 3.
    Version { found: u32 },
    /// The file ends inside something.
    Truncated { at: u64, needs: u64, len: u64 },
    /// More keys or tensors than any model has.
    TooMany { what: &'static str, found: u64, limit: u64 },
    /// So many items cannot fit in what is left of the file.
    Count { what: &'static str, found: u64, at: u64, left: u64 },
    /// A key or tensor name is empty.
    EmptyName { what: &'static str, at: u64 },
    /// A key or tensor name is longer than the format allows.
    LongName { what: &'static str, at: u64, found: u64, limit: u64 },
    /// A key or tensor name is not UTF-8.
    NotUtf8 { what: &'static str, at: u64 },
    /// A value type that GGUF does not define.
    UnknownType { key: Label, found: u32 },
    /// An array of arrays.
    NestedArray { key: Label },
    /// A truth value other than 0 and 1.
    BadBool { key: Label, found: u8 },
    /// A key twice.
    DuplicateKey { key: Label },
    /// A tensor twice.
    DuplicateTensor { name: Label },
    /// `general.alignment` is not a power of two from 8 to 65536.
    Alignment { found: u64 },
    /// A tensor of more than 4 dimensions.
    Dimensions { tensor: Label, found: u32 },
    /// A tensor of a type that there are no kernels for.
    UnsupportedType { tensor: Label, found: u32 },
    /// A tensor's element count or size overflows.
    TooLarge { tensor: Label },
    /// A row is not a whole number of blocks.
    Blocks { tensor: Label, cols: u64, block: u64 },
    /// A tensor's data does not start at a multiple of the alignment.
    Unaligned { tensor: Label, offset: u64, alignment: u32 },
    /// A tensor's data starts before the end of the data of the one listed before it.
    Overlap { tensor: Label, offset: u64, expected: u64 },
    /// A tensor's data ends beyond the end of the file.
    OutsideFile { tensor: Label, end: u64, len: u64 },
    /// No part was given.
    NoParts,
    /// A split model has another number of parts than were given.
    SplitCount { part: u32, found: u64, expected: u64 },
    /// A part is not the one expected in its place.
    SplitOrder { part: u32, found: u64 },
    /// The parts together have another number of tensors than the first one announces.
    SplitTensors { found: u64, expected: u64 },
    /// A part lacks one of the `split.*` keys.
    SplitKey { part: u32, key: &'static str },
    /// A key holds another type than its reader expects.
    WrongType { key: Label, found: ValueType, expected: &'static str },
    /// A key's number does not fit what its reader expects.
    OutOfRange { key: Label, found: i128, expected: &'static str },
    /// A key's text is not UTF-8.
    BadText { key: Label },
}

impl fmt::Display for GgufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use GgufError::*;
        match self {
            Magic { found } => {
                write!(f, "not a GGUF file: it starts with \"{}\", expected \"GGUF\"", found.escape_ascii())
            }
            BigEndian => f.write_str("the file is big-endian; only little-endian GGUF is supported"),
            Version { found } => write!(f, "GGUF version {found} is not supported; supported: 2, 3"),
            Truncated { at, needs, len } => {
                write!(f, "the file is cut off: byte {at} starts something of {needs} bytes, but the file has {len}")
            }
            TooMany { what, found, limit } => write!(f, "the file announces {found} {what}; the limit is {limit}"),
            Count { what, found, at, left } => {
                write!(f, "byte {at} announces {found} {what}, which cannot fit in the {left} bytes left in the file")
            }
            EmptyName { what, at } => write!(f, "the {what} at byte {at} is empty"),
            LongName { what, at, found, limit } => {
                write!(f, "the {what} at byte {at} has {found} bytes; the limit is {limit}")
            }
            NotUtf8 { what, at } => write!(f, "the {what} at byte {at} is not UTF-8"),
            UnknownType { key, found } => write!(f, "key {key} has the unknown value type {found}; known: 0 to 12"),
            NestedArray { key } => write!(f, "key {key} is an array of arrays, which is not supported"),
            BadBool { key, found } => write!(f, "key {key} has the truth value {found}; expected 0 or 1"),
            DuplicateKey { key } => write!(f, "key {key} appears more than once"),
            DuplicateTensor { name } => write!(f, "tensor {name} appears more than once"),
            Alignment { found } => {
                write!(f, "general.alignment is {found}; expected a power of two from 8 to 65536")
            }
            Dimensions { tensor, found } => {
                write!(f, "tensor {tensor} has {found} dimensions; at most 4 are supported")
            }
            UnsupportedType { tensor, found } => {
                write!(
                    f,
                    "tensor {tensor} has type {} ({found}), which is not supported; supported:",
                    type_name(*found)
                )?;
                let mut built = Format::ALL.into_iter().filter(|format| format.is_built());
                built.try_for_each(|format| write!(f, " {}", format.name()))
            }
            TooLarge { tensor } => write!(f, "the dimensions of tensor {tensor} overflow"),
            Blocks { tensor, cols, block } => {
                write!(f, "tensor {tensor} has rows of {cols} elements, not a multiple of its type's block of {block}")
            }
            Unaligned { tensor, offset, alignment } => {
                write!(f, "the data of tensor {tensor} at byte {offset} is not aligned to {alignment} bytes")
            }
            Overlap { tensor, offset, expected } => write!(
                f,
                "the data of tensor {tensor} starts at byte {offset}, inside other data; expected {expected} or later"
            ),
            OutsideFile { tensor, end, len } => {
                write!(f, "the data of tensor {tensor} ends at byte {end}, but the file has {len} bytes")
            }
            NoParts => f.write_str("a model needs at least one file"),
            SplitCount { part, found, expected } => {
                write!(f, "part {} belongs to a model of {found} parts, but {expected} were given", part + 1)
            }
            SplitOrder { part, found } => {
                write!(f, "part {} was given where part {} belongs", found.saturating_add(1), part + 1)
            }
            SplitTensors { found, expected } => {
                write!(f, "the parts hold {found} tensors together; split.tensors.count says {expected}")
            }
            SplitKey { part, key } => write!(f, "part {} has no {key}", part + 1),
            WrongType { key, found, expected } => write!(f, "key {key} is {}; expected {expected}", found.name()),
            OutOfRange { key, found, expected } => write!(f, "key {key} is {found}; expected {expected}"),
            BadText { key } => write!(f, "the text of key {key} is not UTF-8"),
        }
    }
}

impl core::error::Error for GgufError {}
