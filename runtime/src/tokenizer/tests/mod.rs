//! Tokenizers against published vocabularies, and against vocabularies made to break them.

mod files;
mod hardness;
mod published;
