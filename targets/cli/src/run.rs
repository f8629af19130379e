//! `drupe run`: one answer, streamed.

use crate::args::RunArgs;
use crate::dialogue::{Dialogue, Turn};
use crate::draft::Lookup;
use crate::engine::{Loaded, Opened, Setup};
use crate::fail::{Done, Fail, usage};
use crate::generate::Wish;
use crate::keep::Held;
use crate::text::Text;
use crate::{generate, term};
use drupe::chat::Role;
use drupe::tokenizer::EncodeOptions;
use drupe_host::shapes::Spec;
use drupe_host::usage::Usage;
use serde_json::json;
use std::path::Path;
use std::time::Instant;

pub fn run(args: &RunArgs, started: Instant) -> Done {
    let (model, prompt) = model_and_prompt(args)?;
    let setup = Setup::new(&args.how)?;
    let mut held = Held::new(args.session.as_deref())?;
    let opened = Opened::open(model.as_deref())?;
    let mut text = Text::new(&opened)?;
    let tokens = encode(&mut text, &opened, args, &prompt)?;
    if tokens.is_empty() {
        return Err(usage("the prompt is empty: give some text"));
    }
    let mut loaded = Loaded::new(opened, &setup, &args.how, 1, generate::logits(args.draft))?;
    let ctx = loaded.plan.config.ctx;
    if tokens.len() > ctx as usize {
        return Err(usage(format!(
            "the prompt has {} tokens, the context holds {ctx}: shorten it, or give --ctx {} or more",
            tokens.len(),
            tokens.len() + args.tokens
        )));
    }
    let mut sampler = generate::sampler(&args.sample, &loaded)?;
    held.restore(&mut loaded)?;
    let kept = held.keep_prefix(&mut loaded, &tokens);
    tokens[..kept].iter().for_each(|id| sampler.accept(*id));
    let before = started.elapsed();
    let read = generate::read(&mut loaded, &mut sampler, &tokens, kept)?;
    // The answer comes even if there is no room to keep what it took.
    let mut saved = Ok(());
    if kept < tokens.len() {
        held.extend(&tokens[kept..]);
        held.logits_are_there();
        saved = held.save(&mut loaded, &[]);
    }
    let mut show = |piece: &str| if args.json { Ok(()) } else { term::bytes(piece.as_bytes()) };
    let lookup = args.draft.map(|_| Lookup::new(&tokens));
    let wish = Wish { stops: &args.stop, most: args.tokens, lookup };
    let (answer, _, figures) = generate::answer(&mut loaded, &mut text, &mut sampler, &read, wish, &mut show)?;
    let first = before + figures.first;
    if args.json {
        let used = Usage::now();
        let document = json!({
            "model": loaded.opened.name, "text": answer, "prompt_tokens": figures.prompt, "kept_tokens": figures.kept,
            "tokens": figures.tokens, "ids": figures.ids, "reason": figures.reason,
            "start_ms": before.as_secs_f64() * 1e3, "ttft_ms": first.as_secs_f64() * 1e3, "tok_s": figures.speed(),
            "tried": figures.tried, "right": figures.right,
            "peak_bytes": used.peak_resident, "anon_bytes": used.anonymous, "plan_bytes": loaded.plan.total(),
        });
        term::line(&document.to_string())?;
    } else {
        term::line("")?;
    }
    term::say(&figures.summary(Some(first)));
    if figures.reason == "interrupted" { Err(Fail::Interrupted) } else { saved }
}

/// The prompt's tokens: in the model's chat form, or as it is with `--raw`.
fn encode(text: &mut Text, opened: &Opened, args: &RunArgs, prompt: &str) -> Done<Vec<u32>> {
    if args.raw {
        return text.encode(prompt, EncodeOptions { parse_special: false, add_special: true });
    }
    let mut turns: Vec<Turn> = args.system.iter().map(|s| Turn::new(Role::System, s)).collect();
    turns.push(Turn::new(Role::User, prompt));
    Dialogue::new(opened, text).tokens(text, &turns)
}

/// Sorts out `[MODEL] PROMPT`, `-m`, `--prompt-file` and what is piped in.
fn model_and_prompt(args: &RunArgs) -> Done<(Option<String>, String)> {
    let file = args.prompt_file.as_deref().map(term::text_of).transpose()?;
    let (model, word) = match (&args.model, &args.words[..]) {
        (Some(_), [_, _, ..]) => return Err(usage("the model is given twice: with -m and as a word")),
        (Some(model), words) => (Some(model.clone()), words.first().cloned()),
        (None, []) => (None, None),
        (None, [one]) if is_model(one) => (Some(one.clone()), None),
        (None, [one]) => (None, Some(one.clone())),
        (None, [model, prompt, ..]) => (Some(model.clone()), Some(prompt.clone())),
    };
    // Standard input is read only if nothing else is the prompt: a program that runs us may leave a pipe open.
    let prompt = match (word, file) {
        (Some(_), Some(_)) => return Err(usage("the prompt is given twice: as a word and with --prompt-file")),
        (Some(word), None) => Some(word),
        (None, Some(text)) => Some(text),
        (None, None) => term::piped_input()?,
    };
    let prompt = prompt.filter(|p| !p.trim().is_empty());
    let prompt =
        prompt.ok_or_else(|| usage("no prompt: write it as the last word, pipe it in, or use --prompt-file"))?;
    Ok((model, prompt))
}

/// Whether a single word names a model rather than being a prompt.
fn is_model(word: &str) -> bool {
    word.ends_with(".gguf") || Path::new(word).is_file() || Spec::parse(word).is_ok()
}
