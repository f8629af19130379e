//! `drupe`: small language models on small boards, from the command line.
//!
//! Text goes to standard output and nothing else does; progress, figures and logs go to standard error. Exit codes: 0
//! done, 1 failed, 2 wrong usage.

mod args;
mod bench;
mod bench_limit;
mod bench_report;
mod chat;
mod dialogue;
mod draft;
mod engine;
mod fail;
mod generate;
mod inspect;
mod keep;
mod logits;
mod measure;
mod perplexity;
mod plan;
mod plan_board;
mod plot;
mod quantize;
mod run;
mod synth;
mod term;
mod text;
mod tokenize;

use args::{Command, Drupe};
use clap::{CommandFactory, Parser};
use drupe_host::size;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let started = Instant::now();
    let drupe = Drupe::parse();
    term::listen_for_ctrl_c();
    let done = match drupe.command {
        Command::Run(args) => run::run(&args, started),
        Command::Chat(args) => chat::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
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
