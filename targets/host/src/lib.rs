//! What an operating system gives drupe.

pub mod gguf_write;
