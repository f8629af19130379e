//! What an operating system gives drupe: a mapped model file ([`map`]), a team of threads ([`team`]), weights under a
//! memory budget (`residency`), the machine's limits and a process's own use of it ([`limit`], [`usage`]).
#![deny(unsafe_code)]

pub mod map;
pub mod sys;
pub mod team;
