//! `drupe chat`: a conversation in which nothing is computed twice.

use crate::args::ChatArgs;
use crate::dialogue::{Dialogue, Turn};
use crate::engine::{Loaded, Opened, Setup};
use crate::fail::{Done, Fail, usage};
use crate::text::Text;
use crate::{generate, term};
use drupe::chat::Role;
use std::io::IsTerminal;

pub fn run(args: &ChatArgs) -> Done {
    let model = args.option.clone().or_else(|| args.model.clone());
    if args.option.is_some() && args.model.is_some() {
        return Err(usage("the model is given twice: with -m and as a word"));
    }
    let setup = Setup::new(&args.how)?;
    let opened = Opened::open(model.as_deref())?;
    let mut text = Text::new(&opened)?;
    let mut loaded = Loaded::new(opened, &setup, &args.how, 1, 1)?;
    let mut sampler = generate::sampler(&args.sample, &loaded)?;
    let dialogue = Dialogue::new(&loaded.opened, &text);
    let system: Vec<Turn> = args.system.iter().map(|s| Turn { role: Role::System, content: s.clone() }).collect();
    let mut messages = system.clone();
    // Every token that the session holds, in order.
    let mut held: Vec<u32> = Vec::new();

    if std::io::stdin().is_terminal() {
        term::say("Type a message; /reset starts anew, /quit (or Ctrl-D) ends. Ctrl-C stops an answer.");
    }
    while let Some(line) = term::read_line()? {
        match line.trim() {
            "" => continue,
            "/quit" | "/exit" => break,
            "/reset" => {
                messages = system.clone();
                term::say("[forgotten]");
                continue;
            }
            _ => messages.push(Turn { role: Role::User, content: line.trim().into() }),
        }
        let wanted = dialogue.tokens(&mut text, &messages)?;
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
                messages.push(Turn { role: Role::Assistant, content: answer });
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
