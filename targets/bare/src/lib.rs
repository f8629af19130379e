//! drupe with no operating system.
//!
//! The images (`src/bin/`) carry a model as bytes, answer a prompt chosen when they were built, and then every line that
//! comes over the serial port. [`answer`] is all that they compute and runs anywhere; the rest brings a board up:
//!
//! ```text
//! start.rs     from reset to Rust: exception level, vector unit, stacks; the other cores wait
//! paging.rs    memory is cached and allows unaligned access, devices are neither
//! cores.rs     the other cores become workers of the team
//! console.rs   the serial port
//! log.rs       frames of defmt through semihosting
//! firmware.rs  all of it in order
//! ```
#![no_std]

pub mod answer;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod cores;
#[cfg(target_os = "none")]
pub mod firmware;
#[cfg(all(target_os = "none", feature = "semihosting"))]
mod log;
#[cfg(target_os = "none")]
mod paging;
#[cfg(target_os = "none")]
mod start;

/// The model that was chosen when this was built.
pub static MODEL: &[u8] = &MODEL_BYTES.0;

/// Aligned as the widest loads of the kernels like it.
#[repr(C, align(64))]
struct Aligned<T>(T);

static MODEL_BYTES: Aligned<[u8; include_bytes!(env!("DRUPE_MODEL_FILE")).len()]> =
    Aligned(*include_bytes!(env!("DRUPE_MODEL_FILE")));

/// The prompt that is answered first; `DRUPE_PROMPT` at build time.
pub const PROMPT: &str = match option_env!("DRUPE_PROMPT") {
    Some(prompt) => prompt,
    None => "turn off the heater in the garage in ten minutes",
};

/// Memory for the model's tables, the session and the tokenizer.
pub const ARENA_BYTES: usize = 16 << 20;

/// A static arena, with whatever the memory held.
#[repr(C, align(64))]
pub struct ArenaMemory(pub [u8; ARENA_BYTES]);
