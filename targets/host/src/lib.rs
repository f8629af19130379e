//! What an operating system gives drupe.

pub mod gguf_write;
pub mod mix;
pub mod shapes;
pub mod synth;
mod synth_vocab;
