//! One file: the walk over its header that checks everything once.

use super::GgufError;
use super::read::Cursor;
use super::tensor::Entry;
use super::value::{Value, ValueType};
use crate::label::Label;

/// More keys or tensors than this are refused: the largest published models have a tenth of either. It bounds the work
/// that a hostile file can cause.
const MAX_KEYS: u64 = 4096;
pub(super) const MAX_TENSORS: u64 = 16_384;
const MAX_KEY_NAME: u64 = 65_535;
const MAX_TENSOR_NAME: u64 = 64;
const DEFAULT_ALIGNMENT: u32 = 32;
/// Magic, version, number of tensors, number of keys.
const HEADER: usize = 24;

/// A file whose header has been walked to its end.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub bytes: &'a [u8],
    pub version: u32,
    pub keys: u32,
    pub tensors: u32,
    pub alignment: u32,
    /// Where the tensor directory starts and the keys end.
    pub directory: usize,
    /// Where the data section starts.
    pub data: usize,
    skips: Skips,
}

impl<'a> Part<'a> {
    /// Walks keys and directory, checking every length against the file. Tensor data and duplicates are checked apart.
    pub fn scan(bytes: &'a [u8]) -> Result<Part<'a>, GgufError> {
        let mut cursor = Cursor::new(bytes, 0);
        let mut found = [0; 4];
        found.copy_from_slice(cursor.take(4)?);
        if &found != b"GGUF" {
            return Err(GgufError::Magic { found });
        }
        let version = cursor.u32()?;
        match version {
            2 | 3 => {}
            _ if matches!(version.swap_bytes(), 1..=3) => return Err(GgufError::BigEndian),
            _ => return Err(GgufError::Version { found: version }),
        }
        // A tensor takes 24 bytes and its name, a key 12 and its name and value.
        let at = cursor.at() as u64;
        let tensors = count(cursor.u64()?, "tensors", MAX_TENSORS, at, 25, cursor.left())?;
        let keys = count(cursor.u64()?, "keys", MAX_KEYS, at + 8, 14, cursor.left())?;

        let mut part = Part {
            bytes,
            version,
            keys,
            tensors,
            alignment: DEFAULT_ALIGNMENT,
            directory: 0,
            data: 0,
            skips: Skips::default(),
        };
        for _ in 0..keys {
            part.scan_key(&mut cursor)?;
        }
        part.directory = cursor.at();
        let mut at = part.directory;
        for _ in 0..tensors {
            at = part.entry(at)?.1;
        }
        // A file without tensors needs no padding. The multiple cannot overflow: a slice ends below isize::MAX.
        part.data = if tensors == 0 { at } else { at.next_multiple_of(part.alignment as usize) };
        Ok(part)
    }

    fn scan_key(&mut self, cursor: &mut Cursor<'a>) -> Result<(), GgufError> {
        let name = name(cursor, "key", MAX_KEY_NAME)?;
        let kind = value_type(cursor, name)?;
        let start = cursor.at();
        match kind {
            ValueType::String => drop(cursor.string()?),
            ValueType::Array => {
                let element = value_type(cursor, name)?;
                let at = cursor.at() as u64;
                let len = cursor.u64()?;
                let (left, least) = (cursor.left(), element.size().unwrap_or(8) as u64);
                if len > left / least {
                    return Err(GgufError::Count { what: "array elements", found: len, at, left });
                }
                match element {
                    ValueType::Array => return Err(GgufError::NestedArray { key: Label::new(name) }),
                    ValueType::String => {
                        for _ in 0..len {
                            cursor.string()?;
                        }
                        self.skips.add(start, cursor.at());
                    }
                    // In bounds and without overflow: len was compared with what is left.
                    _ => truths(element, cursor.take(len as usize * least as usize)?, name)?,
                }
            }
            _ => truths(kind, cursor.take(kind.size().unwrap_or(0))?, name)?,
        }
        if name == b"general.alignment" {
            let value = Value::read(kind, &mut Cursor::new(self.bytes, start));
            let found = value.and_then(|v| v.integer()).ok_or(GgufError::WrongType {
                key: Label::new(name),
                found: kind,
                expected: "an unsigned integer",
            })?;
            self.alignment = match u32::try_from(found) {
                Ok(a) if a.is_power_of_two() && (8..=65_536).contains(&a) => a,
                _ => return Err(GgufError::Alignment { found: found.clamp(0, u64::MAX as i128) as u64 }),
            };
        }
        Ok(())
    }

    /// The directory's entry at a byte offset, and the offset of the next one.
    pub fn entry(&self, at: usize) -> Result<(Entry<'a>, usize), GgufError> {
        let mut cursor = Cursor::new(self.bytes, at);
        let name = name(&mut cursor, "tensor name", MAX_TENSOR_NAME)?;
        let n_dims = cursor.u32()?;
        let mut dims = [1; 4];
        let Some(used) = dims.get_mut(..n_dims as usize) else {
            return Err(GgufError::Dimensions { tensor: Label::new(name), found: n_dims });
        };
        for dim in used {
            *dim = cursor.u64()?;
        }
        let entry = Entry { name, n_dims, dims, type_id: cursor.u32()?, offset: cursor.u64()? };
        Ok((entry, cursor.at()))
    }

    /// Checks that every tensor's data is aligned, inside the file, and after the data of the one listed before.
    pub fn check_data(&self) -> Result<(), GgufError> {
        let len = self.bytes.len() as u64;
        let mut at = self.directory;
        let mut free = 0;
        for _ in 0..self.tensors {
            let (entry, next) = self.entry(at)?;
            at = next;
            let bytes = entry.bytes()?;
            let too_large = || GgufError::TooLarge { tensor: entry.label() };
            let offset = entry.offset.checked_add(self.data as u64).ok_or_else(too_large)?;
            let end = offset.checked_add(bytes).ok_or_else(too_large)?;
            if !entry.offset.is_multiple_of(self.alignment as u64) {
                return Err(GgufError::Unaligned { tensor: entry.label(), offset, alignment: self.alignment });
            }
            if entry.offset < free {
                return Err(GgufError::Overlap {
                    tensor: entry.label(),
                    offset,
                    expected: free.saturating_add(self.data as u64),
                });
            }
            if end > len {
                return Err(GgufError::OutsideFile { tensor: entry.label(), end, len });
            }
            free = entry.offset + bytes;
        }
        Ok(())
    }

    /// The keys and their values, in order.
    pub fn entries(&self) -> Keys<'a> {
        Keys { part: *self, at: HEADER, left: self.keys }
    }
}

/// Checks that so many items can fit in what is left of the file, each taking at least `least` bytes.
fn count(found: u64, what: &'static str, limit: u64, at: u64, least: u64, left: u64) -> Result<u32, GgufError> {
    if found > left / least {
        return Err(GgufError::Count { what, found, at, left });
    }
    if found > limit {
        return Err(GgufError::TooMany { what, found, limit });
    }
    Ok(found as u32)
}

fn name<'a>(cursor: &mut Cursor<'a>, what: &'static str, limit: u64) -> Result<&'a [u8], GgufError> {
    let at = cursor.at() as u64;
    let name = cursor.string()?;
    let found = name.len() as u64;
    if name.is_empty() {
        return Err(GgufError::EmptyName { what, at });
    }
    if found > limit {
        return Err(GgufError::LongName { what, at, found, limit });
    }
    match core::str::from_utf8(name) {
        Ok(_) => Ok(name),
        Err(_) => Err(GgufError::NotUtf8 { what, at }),
    }
}

fn value_type(cursor: &mut Cursor<'_>, key: &[u8]) -> Result<ValueType, GgufError> {
    let found = cursor.u32()?;
    ValueType::from_id(found).ok_or_else(|| GgufError::UnknownType { key: Label::new(key), found })
}

/// Checks that truth values are 0 or 1.
fn truths(kind: ValueType, bytes: &[u8], key: &[u8]) -> Result<(), GgufError> {
    match bytes.iter().find(|b| kind == ValueType::Bool && **b > 1) {
        Some(&found) => Err(GgufError::BadBool { key: Label::new(key), found }),
        None => Ok(()),
    }
}

/// Where the longest arrays of strings end, so that a lookup passes over a vocabulary in one step.
#[derive(Clone, Copy, Default)]
struct Skips([(usize, usize); 8]);

impl Skips {
    fn add(&mut self, start: usize, end: usize) {
        let shortest = self.0.iter_mut().min_by_key(|s| s.1 - s.0);
        if let Some(slot) = shortest.filter(|s| s.1 - s.0 < end - start) {
            *slot = (start, end);
        }
    }

    fn end(&self, start: usize) -> Option<usize> {
        self.0.iter().find(|s| s.0 == start && s.1 != 0).map(|s| s.1)
    }
}

/// The keys of a file, in order, each with its value.
#[derive(Clone)]
pub struct Keys<'a> {
    part: Part<'a>,
    at: usize,
    left: u32,
}

impl<'a> Keys<'a> {
    fn read(&mut self) -> Option<(&'a [u8], Value<'a>)> {
        // What a value may reach ends with the keys.
        let mut cursor = Cursor::new(self.part.bytes.get(..self.part.directory)?, self.at);
        let key = cursor.string().ok()?;
        let kind = ValueType::from_id(cursor.u32().ok()?)?;
        let start = cursor.at();
        let value = Value::read(kind, &mut cursor)?;
        self.at = match value {
            Value::Array(array) => match array.element().size() {
                Some(size) => array.offset() + array.len() * size,
                None => self.part.skips.end(start).unwrap_or_else(|| {
                    let mut strings = array.strings();
                    strings.by_ref().for_each(drop);
                    array.offset() + strings.offset()
                }),
            },
            _ => cursor.at(),
        };
        Some((key, value))
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = (&'a str, Value<'a>);

    fn next(&mut self) -> Option<(&'a str, Value<'a>)> {
        self.left = self.left.checked_sub(1)?;
        let (key, value) = self.read()?;
        Some((core::str::from_utf8(key).ok()?, value))
    }
}
