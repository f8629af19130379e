//! drupe: small language models from GGUF files, without an allocator.
//!
//! ```text
//! bytes ──Gguf::parse──▶ Gguf<'a>            borrowed, every offset checked once
//!       ──Recipe::of──▶ Recipe               what this family computes, as data
//!       ──Plan::new(recipe, config)──▶ Plan  every buffer's size; total to the byte
//!       ──Model::bind(gguf, arena)──▶ Model<'a>
//!       ──Session::new(model, plan, arena)──▶ Session
//! text ──Tokenizer──▶ ids ──Session::feed(ids)──▶ logits ──Sampler──▶ id ──Tokenizer──▶ bytes
//! ```
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

mod angles;
pub mod arena;
mod attention;
pub mod chat;
mod experts;
pub mod families;
mod forward;
pub mod gguf;
mod heap;
pub mod kv;
pub mod label;
pub mod model;
pub mod plan;
pub mod recipe;
pub mod rope;
pub mod sampler;
pub mod session;
pub mod state;
pub mod team;
pub mod tensors;
pub mod tokenizer;
pub mod weights;

pub use arena::Arena;
pub use model::Model;
pub use plan::{Config, Plan};
pub use recipe::Recipe;
pub use session::{Engine, Session};
pub use team::{Solo, Team};
pub use weights::{InMemory, Weights};

pub use drupe_quant as quant;
