//! `drupe chat`: a conversation in which nothing is computed twice.

use crate::args::ChatArgs;
use crate::dialogue::{Message, Prompt};
use crate::engine::{Loaded, Opened, Setup};
use crate::fail::{Done, Fail, usage};
use crate::text::Text;
use crate::{generate, term};
use drupe::tokenizer::EncodeOptions;
use std::io::{BufRead, IsTerminal};

pub fn run(args: &ChatArgs) -> Done {
    let model = args.option.clone().or_else(|| args.model.clone());
    if args.option.is_some() && args.model.is_some() {
        return Err(usage("the model is given twice: with -m and as a word"));
    }
    let setup = Setup::new(&args.how)?;
    let opened = Opened::open(model.as_deref())?;
    let mut text = Text::new(&opened)?;
    let mut loaded = Loaded::new(opened, &setup, &args.how, 1, 1)?;
    let mut sampler = generate::sampler(&args.sample, loaded.plan.recipe.vocab)?;
    let system: Vec<Message> = args.system.iter().map(|s| Message { role: "system", content: s.clone() }).collect();
    let mut messages = system.clone();
    // Every token that the session holds, in order.
    let mut held: Vec<u32> = Vec::new();

    let terminal = std::io::stdin().is_terminal();
    if terminal {
        term::say("Type a message; /reset starts anew, /quit (or Ctrl-D) ends. Ctrl-C stops an answer.");
    }
    for line in std::iter::from_fn(|| read_line(terminal)) {
        let line = line?;
        match line.trim() {
            "" => continue,
            "/quit" | "/exit" => break,
            "/reset" => {
                messages = system.clone();
                term::say("[forgotten]");
                continue;
            }
            _ => messages.push(Message { role: "user", content: line.trim().into() }),
        }
        let prompt = Prompt::of(&loaded.opened, &messages)?;
        let options = EncodeOptions { parse_special: prompt.structured, add_special: !prompt.has_bos };
        let wanted = text.encode(&prompt.text, options)?;
        let fresh = keep_prefix(&mut loaded, &mut held, &wanted);
        if wanted.len() - fresh > loaded.plan.config.ctx as usize {
            messages.pop();
            let (found, ctx) = (wanted.len() - fresh, loaded.plan.config.ctx);
            term::say(&format!(
                "[that is {found} tokens, the context holds {ctx}: shorten it, or start with a larger --ctx]"
            ));
            continue;
        }
        let mut show = |piece: &str| term::bytes(piece.as_bytes());
        let fed = generate::answer(
            &mut loaded,
            &mut text,
            &mut sampler,
            &wanted[fresh..],
            &args.stop,
            args.tokens,
            &mut show,
        );
        term::go_on();
        match fed {
            Ok((answer, fed, figures)) => {
                held = wanted;
                held.extend(fed);
                messages.push(Message { role: "assistant", content: answer });
                term::line("")?;
                term::say(&figures.summary(None));
            }
            // Stopped while reading: what was read stays, and the next message goes on from there.
            Err(Fail::Interrupted) => {
                let position = loaded.session.position() as usize;
                held = wanted;
                held.truncate(position);
                messages.pop();
                term::say("[stopped]");
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Makes the session hold a prefix of `wanted`, as long as it can, and returns its length. At least one token is left
/// to feed.
fn keep_prefix(loaded: &mut Loaded, held: &mut Vec<u32>, wanted: &[u32]) -> usize {
    let common = held.iter().zip(wanted).take_while(|(a, b)| a == b).count().min(wanted.len().saturating_sub(1));
    let kept = if loaded.session.rewind(common as u64).is_ok() {
        common
    } else {
        // What would be seen from there has been overwritten: from the start, then. Position 0 is always possible.
        let _ = loaded.session.rewind(0);
        0
    };
    held.truncate(kept);
    kept
}

/// The next line of standard input; `None` at its end.
fn read_line(terminal: bool) -> Option<Done<String>> {
    if terminal {
        eprint!("> ");
    }
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(0) => None,
        Ok(_) => Some(Ok(line)),
        // Ctrl-C while waiting for a line.
        Err(e) if e.kind() == std::io::ErrorKind::Interrupted => None,
        Err(e) => Some(Err(crate::fail::failed(format!("reading standard input: {e}")))),
    }
}
