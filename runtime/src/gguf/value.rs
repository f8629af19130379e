//! Keys' values, and arrays read in place.

use super::read::Cursor;

/// The types that GGUF's values may have, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// The type with this number.
    pub fn from_id(id: u32) -> Option<ValueType> {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(id as usize).copied()
    }

    /// Bytes of a value; `None` for strings and arrays, whose sizes vary.
    pub fn size(self) -> Option<usize> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }

    /// For messages: "a 32-bit unsigned integer".
    pub fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            U8 => "an 8-bit unsigned integer",
            I8 => "an 8-bit integer",
            U16 => "a 16-bit unsigned integer",
            I16 => "a 16-bit integer",
            U32 => "a 32-bit unsigned integer",
            I32 => "a 32-bit integer",
            F32 => "a 32-bit float",
            Bool => "a truth value",
            String => "a string",
            Array => "an array",
            U64 => "a 64-bit unsigned integer",
            I64 => "a 64-bit integer",
            F64 => "a 64-bit float",
        }
    }
}

/// A key's value. Strings are bytes: the format says UTF-8, but files break that.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a [u8]),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// Reads a value of fixed size from exactly its bytes.
    fn fixed(kind: ValueType, b: &'a [u8]) -> Option<Value<'a>> {
        Some(match kind {
            ValueType::U8 => Value::U8(u8::from_le_bytes(b.try_into().ok()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(b.try_into().ok()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(b.try_into().ok()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(b.try_into().ok()?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(b.try_into().ok()?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(b.try_into().ok()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(b.try_into().ok()?)),
            ValueType::Bool => Value::Bool(*b.first()? != 0),
            ValueType::U64 => Value::U64(u64::from_le_bytes(b.try_into().ok()?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(b.try_into().ok()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(b.try_into().ok()?)),
            ValueType::String | ValueType::Array => return None,
        })
    }

    /// Reads the value of type `kind` that starts at the cursor, in a section that was checked when the file was parsed.
    pub(super) fn read(kind: ValueType, cursor: &mut Cursor<'a>) -> Option<Value<'a>> {
        match kind {
            ValueType::String => cursor.string().ok().map(Value::String),
            ValueType::Array => {
                let element = ValueType::from_id(cursor.u32().ok()?)?;
                let len = usize::try_from(cursor.u64().ok()?).ok()?;
                let offset = cursor.at();
                let bytes = match element.size() {
                    Some(size) => cursor.rest().get(..len.checked_mul(size)?)?,
                    None => cursor.rest(),
                };
                Some(Value::Array(Array { element, len, offset, bytes }))
            }
            _ => Value::fixed(kind, cursor.take(kind.size()?).ok()?),
        }
    }

    /// Its type.
    pub fn kind(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The number, if it is an integer of whatever width.
    pub fn integer(&self) -> Option<i128> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => Some(v.into()),
            Value::I64(v) => Some(v.into()),
            _ => None,
        }
    }

    /// The number, if it is a float (a 64-bit one rounded).
    pub fn float(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }
}

/// An array, read in place.
///
/// Elements of fixed size are reached by index ([`Array::get`]). Strings vary in length: they come in order
/// ([`Array::strings`]), each with its offset, and an offset leads back to the string at once ([`Array::string_at`]).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Array<'a> {
    element: ValueType,
    len: usize,
    offset: usize,
    /// Of fixed-size elements, exactly theirs. Of strings, from the first to the end of the file's keys.
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The elements' type.
    pub fn element(&self) -> ValueType {
        self.element
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Byte offset of the first element in the file.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Element `i` of an array of numbers or truth values; `None` past the end and for strings.
    pub fn get(&self, i: usize) -> Option<Value<'a>> {
        let size = self.element.size()?;
        let start = i.checked_mul(size)?;
        Value::fixed(self.element, self.bytes.get(start..start.checked_add(size)?)?)
    }

    /// The bytes from the first element on: of numbers exactly theirs, of strings up to the end of the file's keys.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements of an array of numbers or truth values, in order; empty for strings.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + Clone + use<'a> {
        let (element, bytes) = (self.element, if self.element.size().is_some() { self.bytes } else { &[] });
        bytes.chunks_exact(element.size().unwrap_or(1)).filter_map(move |b| Value::fixed(element, b))
    }

    /// The elements of an array of floats; empty for other types.
    pub fn f32s(&self) -> impl Iterator<Item = f32> + Clone + use<'a> {
        self.values().filter_map(|v| v.float())
    }

    /// The elements of an array of integers of whatever width; empty for other types. One that does not fit saturates.
    pub fn i32s(&self) -> impl Iterator<Item = i32> + Clone + use<'a> {
        self.values().filter_map(|v| v.integer()).map(|v| v.clamp(i32::MIN as i128, i32::MAX as i128) as i32)
    }

    /// The same, as unsigned numbers; negative ones become 0.
    pub fn u32s(&self) -> impl Iterator<Item = u32> + Clone + use<'a> {
        self.values().filter_map(|v| v.integer()).map(|v| v.clamp(0, u32::MAX as i128) as u32)
    }

    /// The elements of an array of truth values; empty for other types.
    pub fn bools(&self) -> impl Iterator<Item = bool> + Clone + use<'a> {
        self.values().filter_map(|v| if let Value::Bool(b) = v { Some(b) } else { None })
    }

    /// The elements of an array of strings, in order; empty for other types.
    pub fn strings(&self) -> Strings<'a> {
        let left = if self.element == ValueType::String { self.len } else { 0 };
        Strings { cursor: Cursor::new(self.bytes, 0), left }
    }

    /// The string at an offset that [`Strings::offset`] gave for this array. Any other offset gives `None` or some other
    /// bytes of the file's keys.
    pub fn string_at(&self, offset: usize) -> Option<&'a [u8]> {
        if self.element != ValueType::String {
            return None;
        }
        Cursor::new(self.bytes, offset).string().ok()
    }
}

impl core::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "[{:?}; {}] at byte {}", self.element, self.len, self.offset)
    }
}

/// The strings of an array, in order.
#[derive(Clone)]
pub struct Strings<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

impl Strings<'_> {
    /// Where the next string is, in bytes from the array's start: what [`Array::string_at`] takes.
    pub fn offset(&self) -> usize {
        self.cursor.at()
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        self.cursor.string().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}
