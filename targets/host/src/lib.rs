//! What an operating system gives drupe: a mapped model file ([`map`]), a team of threads ([`team`]), weights under a
//! memory budget ([`residency`], [`promise`]), the machine's limits ([`limit`]) and a process's own use of it ([`usage`]),
//! what boards can do ([`board`]), chat templates ([`template`]), saved sessions ([`saved`]); and what is
//! done to files before they are run: smaller formats ([`quantize`]), synthetic models ([`synth`]).
#![deny(unsafe_code)]

pub mod board;
pub mod cage;
pub mod gguf_write;
pub mod limit;
pub mod map;
pub mod mix;
pub mod promise;
pub mod quantize;
pub mod residency;
pub mod saved;
pub mod shapes;
pub mod size;
pub mod synth;
mod synth_vocab;
pub mod sys;
pub mod team;
pub mod template;
pub mod usage;
