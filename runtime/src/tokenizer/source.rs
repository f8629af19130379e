//! What a tokenizer is made of, as it lies in the file.

use super::TokenizerError;
use crate::gguf::{Array, Gguf, Value, ValueType};

/// An array of strings as GGUF stores it: each a little-endian u64 length, then its bytes.
///
/// A string is named by the offset of its length from the start of the array, which makes it reachable at once.
#[derive(Clone, Copy)]
pub(crate) struct StringArray<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> StringArray<'a> {
    /// `bytes` may go on after the last string.
    pub(crate) fn new(bytes: &'a [u8], len: usize) -> Self {
        StringArray { bytes, len }
    }

    /// Number of strings.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that offsets lie in.
    pub(crate) fn span(&self) -> usize {
        self.bytes.len()
    }

    /// The string at this offset; `None` if the array has been cut short.
    #[inline]
    pub(crate) fn at(&self, offset: usize) -> Option<&'a [u8]> {
        let (len, rest) = self.bytes.get(offset..)?.split_first_chunk::<8>()?;
        rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)
    }

    /// Eight bytes at an offset, little-endian, whatever they belong to; zeros beyond the array.
    #[inline]
    pub(crate) fn word(&self, offset: usize) -> u64 {
        match self.bytes.get(offset..).and_then(|rest| rest.first_chunk()) {
            Some(&word) => u64::from_le_bytes(word),
            None => {
                let rest = self.bytes.get(offset..).unwrap_or(&[]);
                rest.iter().rev().fold(0, |word, &byte| word << 8 | byte as u64)
            }
        }
    }

    /// All strings in order, each with its offset. Ends early if the array has been cut short.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &'a [u8])> + use<'a> {
        let (array, mut offset) = (*self, 0);
        (0..self.len).map_while(move |_| {
            let (start, text) = (offset, array.at(offset)?);
            offset += 8 + text.len();
            Some((start, text))
        })
    }
}

/// An array of 32-bit numbers as GGUF stores it.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a>(pub(crate) &'a [u8]);

impl Words<'_> {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.0.len() / 4
    }

    /// The bits of element `i`.
    pub(crate) fn get(&self, i: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.0.get(i.checked_mul(4)?..)?.first_chunk()?))
    }

    /// The bits of all elements.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes))
    }
}

/// The vocabulary of a file: the values of its `tokenizer.ggml.*` keys, absent ones as `None` or empty.
#[derive(Clone, Copy)]
pub(crate) struct Vocabulary<'a> {
    /// `model`: `llama` or `gpt2`.
    pub(crate) model: &'a [u8],
    /// `pre`: name of the pre-tokenizer.
    pub(crate) pre: &'a [u8],
    /// `general.name`.
    pub(crate) name: &'a [u8],
    /// `tokens`
    pub(crate) tokens: StringArray<'a>,
    /// `scores`, f32
    pub(crate) scores: Option<Words<'a>>,
    /// `token_type`, i32
    pub(crate) types: Option<Words<'a>>,
    /// `merges`
    pub(crate) merges: Option<StringArray<'a>>,
    /// `bos_token_id`
    pub(crate) bos: Option<u32>,
    /// `eos_token_id`
    pub(crate) eos: Option<u32>,
    /// `eot_token_id`
    pub(crate) eot: Option<u32>,
    /// `eom_token_id`
    pub(crate) eom: Option<u32>,
    /// `unknown_token_id`
    pub(crate) unknown: Option<u32>,
    /// `add_bos_token`
    pub(crate) add_bos: Option<bool>,
    /// `add_eos_token`
    pub(crate) add_eos: Option<bool>,
    /// `add_space_prefix`
    pub(crate) add_space_prefix: Option<bool>,
}

impl<'a> Vocabulary<'a> {
    /// The vocabulary of a file. Keys of the wrong type are refused, not passed over.
    pub(crate) fn of(gguf: &Gguf<'a>) -> Result<Vocabulary<'a>, TokenizerError> {
        let keys = Keys(gguf);
        let missing = |key| TokenizerError::Missing { key };
        Ok(Vocabulary {
            model: keys.text(MODEL)?.ok_or(missing(MODEL))?,
            pre: keys.text("tokenizer.ggml.pre")?.unwrap_or(&[]),
            name: keys.text("general.name")?.unwrap_or(&[]),
            tokens: keys.strings(TOKENS)?.ok_or(missing(TOKENS))?,
            scores: keys.numbers(SCORES, &[ValueType::F32])?,
            types: keys.numbers(TYPES, &[ValueType::I32, ValueType::U32])?,
            merges: keys.strings(MERGES)?,
            bos: keys.id("tokenizer.ggml.bos_token_id")?,
            eos: keys.id("tokenizer.ggml.eos_token_id")?,
            eot: keys.id("tokenizer.ggml.eot_token_id")?,
            eom: keys.id("tokenizer.ggml.eom_token_id")?,
            unknown: keys.id("tokenizer.ggml.unknown_token_id")?,
            add_bos: keys.truth("tokenizer.ggml.add_bos_token")?,
            add_eos: keys.truth("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: keys.truth("tokenizer.ggml.add_space_prefix")?,
        })
    }
}

pub(super) const MODEL: &str = "tokenizer.ggml.model";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";

/// Typed reading of a file's keys.
struct Keys<'g, 'a>(&'g Gguf<'a>);

impl<'a> Keys<'_, 'a> {
    fn typed<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, TokenizerError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or(TokenizerError::WrongType { key, expected })
    }

    fn text(&self, key: &'static str) -> Result<Option<&'a [u8]>, TokenizerError> {
        self.typed(key, "a string", |v| if let Value::String(text) = v { Some(text) } else { None })
    }

    /// A token id. Negative ones are written by some converters for "none"; what is beyond 32 bits is no token either.
    fn id(&self, key: &'static str) -> Result<Option<u32>, TokenizerError> {
        let id = self.typed(key, "an integer", |v| v.integer())?;
        Ok(id.and_then(|id| u32::try_from(id).ok()))
    }

    fn truth(&self, key: &'static str) -> Result<Option<bool>, TokenizerError> {
        self.typed(key, "a truth value", |v| if let Value::Bool(truth) = v { Some(truth) } else { None })
    }

    fn strings(&self, key: &'static str) -> Result<Option<StringArray<'a>>, TokenizerError> {
        self.typed(key, "an array of strings", |v| {
            array(v, &[ValueType::String]).map(|array| StringArray::new(array.bytes(), array.len()))
        })
    }

    fn numbers(&self, key: &'static str, kinds: &[ValueType]) -> Result<Option<Words<'a>>, TokenizerError> {
        self.typed(key, "an array of 32-bit numbers of its kind", |v| array(v, kinds).map(|array| Words(array.bytes())))
    }
}

fn array<'a>(value: Value<'a>, kinds: &[ValueType]) -> Option<Array<'a>> {
    if let Value::Array(array) = value { Some(array).filter(|a| kinds.contains(&a.element())) } else { None }
}

/// What a token is for (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for what the vocabulary cannot express.
    Unknown,
    /// Structure, not text: begin and end marks, turns of a chat.
    Control,
    /// Text that is kept whole wherever it stands.
    UserDefined,
    /// In the table but not in use.
    Unused,
    /// One byte, written `<0xNN>`.
    Byte,
}

impl TokenKind {
    /// The kind with this number; what is not defined counts as unused.
    pub(crate) fn from_id(id: u32) -> TokenKind {
        match id {
            1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            6 => TokenKind::Byte,
            _ => TokenKind::Unused,
        }
    }

    /// Whether text can become this token by merging.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused)
    }

    /// Whether the token is looked for in a text before anything else.
    pub(crate) fn is_special(self) -> bool {
        matches!(self, TokenKind::Unknown | TokenKind::Control | TokenKind::UserDefined)
    }
}
