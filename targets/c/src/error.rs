//! Error codes, and the text of the last error.

use core::fmt::{self, Write};

/// What a function returns: 0, or one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum Code {
    Ok = 0,
    Invalid = -1,
    Memory = -2,
    File = -3,
    Unsupported = -4,
    Option = -5,
    Token = -6,
    Cancelled = -7,
    Storage = -8,
    Buffer = -9,
    State = -10,
    Rewind = -11,
    Text = -12,
    Sample = -13,
    Chat = -14,
    Internal = -15,
}

impl Code {
    /// Every code with its C name's last part and its text.
    pub const ALL: [(Code, &'static str, &'static core::ffi::CStr); 16] = [
        (Code::Ok, "OK", c"done"),
        (Code::Invalid, "E_INVALID", c"a null pointer, a wrong struct_size, or a handle that is none"),
        (Code::Memory, "E_MEMORY", c"the memory given is smaller than needed"),
        (Code::File, "E_FILE", c"the model is not a whole GGUF file"),
        (Code::Unsupported, "E_UNSUPPORTED", c"the model needs something that this version does not have"),
        (Code::Option, "E_OPTION", c"an option is outside its range"),
        (Code::Token, "E_TOKEN", c"a token outside the vocabulary, or none at all"),
        (Code::Cancelled, "E_CANCELLED", c"the caller's callback asked to stop"),
        (Code::Storage, "E_STORAGE", c"reading the model failed"),
        (Code::Buffer, "E_BUFFER", c"the output buffer is too small; the needed length was written"),
        (Code::State, "E_STATE", c"the saved state is damaged or of another model"),
        (Code::Rewind, "E_REWIND", c"that position is no longer in the ring"),
        (Code::Text, "E_TEXT", c"the text cannot be tokenized"),
        (Code::Sample, "E_SAMPLE", c"no token can be chosen"),
        (Code::Chat, "E_CHAT", c"the model's chat format is not known"),
        (Code::Internal, "E_INTERNAL", c"a defect of this library"),
    ];
}

/// The last error's text, NUL-terminated, cut off when too long.
pub struct Message {
    text: [u8; 256],
    len: usize,
}

impl Default for Message {
    /// No text.
    fn default() -> Message {
        Message { text: [0; 256], len: 0 }
    }
}

impl Message {
    /// Says `what`.
    pub fn set(&mut self, what: &dyn fmt::Display) {
        self.len = 0;
        // Writing never fails: what is too long is cut off.
        let _ = write!(self, "{what}");
    }

    /// The text without its NUL.
    pub fn text(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

impl Write for Message {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = self.text.len() - 1 - self.len;
        let mut cut = room.min(s.len());
        while !s.is_char_boundary(cut) {
            cut -= 1;
        }
        self.text[self.len..self.len + cut].copy_from_slice(&s.as_bytes()[..cut]);
        self.len += cut;
        Ok(())
    }
}

/// An error on its way to C: its code and what there is to say.
pub struct Failure {
    /// The code.
    pub code: Code,
    /// The text.
    pub message: Message,
}

/// A result for C.
pub type Done<T> = Result<T, Failure>;

/// An error with this code that says `what`.
pub fn fail(code: Code, what: &dyn fmt::Display) -> Failure {
    let mut message = Message::default();
    if cfg!(feature = "details") {
        message.set(what);
    }
    Failure { code, message }
}
