//! What an operating system gives drupe: a mapped model file ([`map`]), a team of threads ([`team`]), the machine's
//! limits ([`limit`]) and a process's own use of it ([`usage`]).
#![deny(unsafe_code)]

pub mod limit;
pub mod map;
pub mod sys;
pub mod team;
pub mod usage;
