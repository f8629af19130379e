//! What can be asked for on the command line.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Small language models on small boards: GGUF files, memory known beforehand, no download needed to try.
#[derive(Parser)]
#[command(name = "drupe", version, max_term_width = 100)]
#[command(after_help = "Text goes to standard output; progress and figures go to standard error.\n\
                        Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.")]
pub struct Drupe {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Write a model of random weights in a real model's shape
    Synth(SynthArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  drupe completions bash > ~/.local/share/bash-completion/completions/drupe")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `drupe synth`
#[derive(Args)]
#[command(after_help = "Example:\n  drupe synth qwen2.5-0.5b:q4_k_m model.gguf")]
pub struct SynthArgs {
    /// A model's shape and type, e.g. llama3.2-1b:q4_0; an unknown one lists those known
    pub shape: String,
    /// The file to write
    pub out: PathBuf,
}
