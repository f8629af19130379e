//! `drupe chat`: a conversation in which nothing is computed twice.

use crate::args::ChatArgs;
use crate::dialogue::{Dialogue, Turn};
use crate::draft::Lookup;
use crate::engine::{Loaded, Opened, Setup};
use crate::fail::{Done, Fail, usage};
use crate::generate::Wish;
use crate::keep::Held;
use crate::term::{Asked, Lines};
use crate::text::Text;
use crate::{generate, term};
use drupe::chat::Role;
use drupe::sampler::Sampler;
use std::io::IsTerminal;

pub fn run(args: &ChatArgs) -> Done {
    let model = args.option.clone().or_else(|| args.model.clone());
    if args.option.is_some() && args.model.is_some() {
        return Err(usage("the model is given twice: with -m and as a word"));
    }
    let setup = Setup::new(&args.how)?;
    let held = Held::new(args.session.as_deref())?;
    let opened = Opened::open(model.as_deref())?;
    let text = Text::new(&opened)?;
    let loaded = Loaded::new(opened, &setup, &args.how, 1, generate::logits(args.draft))?;
    let sampler = generate::sampler(&args.sample, &loaded)?;
    let dialogue = Dialogue::new(&loaded.opened, &text);
    Chat { args, text, loaded, sampler, dialogue, messages: Vec::new(), held, fresh: true }.run()
}

struct Chat<'a> {
    args: &'a ChatArgs,
    text: Text,
    loaded: Loaded,
    sampler: Sampler<'static>,
    dialogue: Dialogue,
    messages: Vec<Turn>,
    held: Held,
    /// Whether the sampler has not yet seen what is held.
    fresh: bool,
}

impl Chat<'_> {
    fn run(mut self) -> Done {
        self.messages = self.held.restore(&mut self.loaded)?;
        let system = |turn: &Turn| turn.role == Role::System;
        if !self.messages.is_empty() {
            let (turns, tokens) = (self.messages.iter().filter(|t| !system(t)).count(), self.held.len());
            term::say(&format!("[{turns} turns of an earlier conversation, {tokens} tokens]"));
        }
        if let Some(words) = &self.args.system {
            self.messages.retain(|turn| !system(turn));
            self.messages.insert(0, Turn::new(Role::System, words));
        }
        if std::io::stdin().is_terminal() {
            let save = if self.args.session.is_some() { "/save keeps the conversation now; " } else { "" };
            term::say(&format!(
                "Type a message; /reset starts anew, {save}/quit (or Ctrl-D) ends. Ctrl-C stops an answer."
            ));
        }
        let mut lines = Lines::new();
        let end = loop {
            let line = match lines.next()? {
                Asked::Line(line) => line,
                Asked::End => break Ok(()),
                Asked::Interrupted => break Err(Fail::Interrupted),
            };
            match line.trim() {
                "" => {}
                "/quit" | "/exit" => break Ok(()),
                "/save" => match self.held.save(&mut self.loaded, &self.messages) {
                    Err(Fail::Failed(why)) => term::say(&format!("[{why}]")),
                    saved => saved?,
                },
                "/reset" => {
                    self.messages.retain(system);
                    term::say("[forgotten]");
                }
                words => self.turn(words)?,
            }
        };
        if self.held.len() > 0 {
            self.held.save(&mut self.loaded, &self.messages)?;
        }
        end
    }

    /// One message and its answer.
    fn turn(&mut self, words: &str) -> Done {
        self.messages.push(Turn::new(Role::User, words));
        let Some((wanted, kept)) = self.fit()? else { return Ok(()) };
        if std::mem::take(&mut self.fresh) {
            wanted[..kept].iter().for_each(|id| self.sampler.accept(*id));
        }
        let read = generate::read(&mut self.loaded, &mut self.sampler, &wanted, kept);
        // Also of what was read before it was stopped.
        let position = self.loaded.session.position() as usize;
        self.held.extend(&wanted[kept..position.clamp(kept, wanted.len())]);
        let read = match read {
            // The next message goes on from there.
            Err(Fail::Interrupted) => {
                self.messages.pop();
                term::go_on();
                term::say("[stopped]");
                return Ok(());
            }
            read => read?,
        };
        let mut show = |piece: &str| term::bytes(piece.as_bytes());
        let lookup = self.args.draft.map(|_| Lookup::new(&wanted));
        let wish = Wish { stops: &self.args.stop, most: self.args.tokens, lookup };
        let (loaded, sampler) = (&mut self.loaded, &mut self.sampler);
        let (content, fed, figures) = generate::answer(loaded, &mut self.text, sampler, &read, wish, &mut show)?;
        term::go_on();
        self.held.extend(&fed);
        // What a stop text cut off is no part of the conversation: then the words decide.
        let ids = if figures.reason == "stop" { Vec::new() } else { figures.said(&self.text) };
        self.messages.push(Turn { role: Role::Assistant, content, ids });
        term::line("")?;
        term::say(&figures.summary(None));
        Ok(())
    }

    /// The conversation's tokens, and how many of them the session holds; the rest fits the context. Where it would not,
    /// the oldest turns are left out; if the last message alone is too long, it is taken back and said so.
    fn fit(&mut self) -> Done<Option<(Vec<u32>, usize)>> {
        let ctx = self.loaded.plan.config.ctx as usize;
        let mut left_out = 0;
        loop {
            let wanted = self.dialogue.tokens(&mut self.text, &self.messages)?;
            let kept = self.held.keep_prefix(&mut self.loaded, &wanted);
            if wanted.len() - kept <= ctx {
                if left_out > 0 {
                    term::say(&format!("[the first {left_out} turns no longer fit the context and are forgotten]"));
                }
                return Ok(Some((wanted, kept)));
            }
            let first = self.messages.iter().take_while(|turn| turn.role == Role::System).count();
            let next = self.messages.iter().skip(first + 1).position(|turn| turn.role == Role::User);
            let Some(next) = next else {
                self.messages.pop();
                let found = wanted.len() - kept;
                term::say(&format!(
                    "[that is {found} tokens, the context holds {ctx}: shorten it, or start with a larger --ctx]"
                ));
                return Ok(None);
            };
            left_out += next + 1;
            self.messages.drain(first..first + 1 + next);
        }
    }
}
