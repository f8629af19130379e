//! `drupe logits`: the logits after every one of the given tokens.

use crate::args::LogitsArgs;
use crate::engine::{Loaded, Opened, Setup};
use crate::fail::{Done, failed, usage};
use crate::term;
use drupe::Config;
use drupe_host::gguf_write::atomically;
use std::io::{self, Write};

pub fn run(args: &LogitsArgs) -> Done {
    let setup = Setup::new(&args.how)?;
    let tokens = parse_ids(&args.tokens)?;
    let opened = Opened::open(Some(&args.model))?;
    let mut loaded = Loaded::new(opened, &setup, &args.how, tokens.len() as u32, Config::BATCH.min(16))?;
    let ctx = loaded.plan.config.ctx;
    if tokens.len() as u64 > ctx as u64 {
        return Err(usage(format!("{} tokens do not fit --ctx {ctx}", tokens.len())));
    }
    let bar = term::progress(tokens.len() as u64, "feeding", false);
    let mut stop = None;
    let written = atomically(&args.out, |out| {
        let mut failure: io::Result<()> = Ok(());
        let fed = loaded.feed_each(&tokens, &mut |at, logits| {
            if failure.is_ok() {
                let bytes: Vec<u8> = logits.iter().flat_map(|l| l.to_le_bytes()).collect();
                failure = out.write_all(&bytes);
                bar.set_position(at as u64 + 1);
            }
        });
        failure?;
        // Nothing is left behind by a feed that failed; its own words are kept.
        fed.map_err(|e| {
            stop = Some(e);
            io::Error::other("stopped")
        })
    });
    bar.finish_and_clear();
    if let Some(fail) = stop {
        return Err(fail);
    }
    written.map_err(|e| failed(format!("writing {}: {e}", args.out.display())))?;
    let vocab = loaded.plan.recipe.vocab;
    term::say(&format!("f32 little-endian [{}, {vocab}] in {}", tokens.len(), args.out.display()));
    Ok(())
}

/// Token ids separated by commas or white space.
fn parse_ids(text: &str) -> Done<Vec<u32>> {
    let words = text.split([',', ' ', '\n', '\t']).filter(|w| !w.is_empty());
    let ids: Vec<u32> = words
        .map(|w| w.parse().map_err(|_| usage(format!("{w:?} is no token id: give numbers, e.g. --tokens 1,2,3"))))
        .collect::<Done<_>>()?;
    if ids.is_empty() { Err(usage("--tokens is empty: give at least one id")) } else { Ok(ids) }
}
