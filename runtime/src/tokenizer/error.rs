//! Why text cannot be turned into tokens, or tokens into text.

use crate::label::Label;
use core::fmt;

/// What is wrong with a vocabulary, or with what was asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TokenizerError {
    /// The file lacks a key that its tokenizer needs.
    Missing { key: &'static str },
    /// A key holds another type than the tokenizer needs.
    WrongType { key: &'static str, expected: &'static str },
    /// A kind of tokenizer that is not supported.
    UnknownModel { found: Label },
    /// A pre-tokenizer that is not known.
    UnknownPreTokenizer { found: Label },
    /// A table has fewer entries than there are tokens.
    TooShort { key: &'static str, found: usize, expected: usize },
    /// A table has more bytes or entries than can be numbered.
    TooLarge { key: &'static str, found: usize, limit: usize },
    /// A table of strings ends before its last one.
    CutShort { key: &'static str, found: usize, expected: usize },
    /// Far too many entries of a table collide: no vocabulary made in good faith does. `index` is a token, or the offset
    /// of a merge.
    Crowded { key: &'static str, index: usize },
    /// The tables need more memory than was given.
    MemoryTooSmall { needed: usize, found: usize },
    /// A word of the text needs more scratch than was given.
    ScratchTooSmall { needed: usize, found: usize },
    /// The pieces of a text need more room than was given.
    BufferTooSmall { needed: usize, found: usize },
    /// The text is longer than can be handled at once.
    TextTooLong { found: usize, limit: usize },
    /// The result has more elements than there is room for.
    OutputFull { needed: usize, found: usize },
    /// The vocabulary has no token for a byte of the text, and none for what is unknown.
    NoToken { byte: u8 },
    /// A token that the vocabulary does not have.
    BadToken { id: u32, vocabulary: usize },
}

impl fmt::Display for TokenizerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use TokenizerError::*;
        match self {
            Missing { key } => write!(f, "the file has no {key}, which its tokenizer needs"),
            WrongType { key, expected } => write!(f, "{key} is not {expected}"),
            UnknownModel { found } => {
                let supported = if cfg!(feature = "byte-bpe") { "llama, gpt2" } else { "llama" };
                write!(f, "tokenizer.ggml.model is \"{found}\", which is not supported; supported: {supported}")
            }
            UnknownPreTokenizer { found } => {
                write!(f, "tokenizer.ggml.pre is \"{found}\", which is not a known pre-tokenizer")
            }
            TooShort { key, found, expected } => write!(f, "{key} has {found} entries for {expected} tokens"),
            TooLarge { key, found, limit } => write!(f, "{key} has a size of {found}; the limit is {limit}"),
            CutShort { key, found, expected } => {
                write!(f, "{key} ends after {found} of its {expected} entries")
            }
            Crowded { key, index } => {
                write!(f, "the entries of {key} collide too often (at {index}) to be a real vocabulary")
            }
            MemoryTooSmall { needed, found } => {
                write!(f, "the tokenizer needs {needed} bytes of memory, but was given {found}")
            }
            ScratchTooSmall { needed, found } => {
                write!(f, "the longest word of the text needs {needed} bytes of scratch, but there are {found}")
            }
            BufferTooSmall { needed, found } => {
                write!(f, "the pieces of the text need {needed} bytes together, but there are {found}")
            }
            TextTooLong { found, limit } => write!(f, "a text of {found} bytes is too long; the limit is {limit}"),
            OutputFull { needed, found } => {
                write!(f, "the result has {needed} elements, but there is room for {found}")
            }
            NoToken { byte } => write!(f, "the vocabulary has no token for byte {byte:#04x} of the text"),
            BadToken { id, vocabulary } => write!(f, "token {id} is not in the vocabulary of {vocabulary}"),
        }
    }
}

impl core::error::Error for TokenizerError {}
