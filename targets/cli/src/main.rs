//! `drupe`: small language models on small boards, from the command line.
//!
//! Text goes to standard output and nothing else does; progress, figures and logs go to standard error. Exit codes: 0
//! done, 1 failed, 2 wrong usage.

mod args;
mod bench;
mod engine;
mod fail;
mod inspect;
mod logits;
mod measure;
mod plan;
mod quantize;
mod size;
mod synth;
mod term;

use args::{Command, Drupe};
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

fn main() -> ExitCode {
    let drupe = Drupe::parse();
    term::listen_for_ctrl_c();
    let done = match drupe.command {
        Command::Plan(args) => plan::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Synth(args) => synth::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Drupe::command(), "drupe", &mut script);
            term::bytes(&script)
        }
    };
    fail::exit_code(done)
}
