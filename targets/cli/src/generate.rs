//! Answering: read a prompt, choose tokens, show them as they come.

use crate::args::{Draft, SampleArgs};
use crate::draft::{Lookup, MOST};
use crate::engine::Loaded;
use crate::fail::{Done, Fail, failed, usage};
use crate::term;
use crate::text::{Answer, Text};
use drupe::sampler::{Sampler, SamplerConfig};
use drupe_host::usage::Usage;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Prompts with more tokens than this get a progress bar.
const LONG_PROMPT: usize = 128;

/// What an answer took.
pub struct Figures {
    /// Tokens of the prompt that were computed, and that were there already.
    pub prompt: usize,
    pub kept: usize,
    /// Tokens of the answer.
    pub tokens: usize,
    /// From the call to the first token chosen.
    pub first: Duration,
    /// From the first token chosen to the last.
    pub rest: Duration,
    /// `end`, `stop`, `length` or `interrupted`.
    pub reason: &'static str,
    /// The answer's tokens as they were chosen, one that ends it included.
    pub ids: Vec<u32>,
    /// Tokens tried by [`Lookup`], and how many were right.
    pub tried: usize,
    pub right: usize,
}

impl Figures {
    /// Tokens per second after the first one.
    pub fn speed(&self) -> f64 {
        let rest = self.rest.as_secs_f64();
        if self.tokens > 1 && rest > 0.0 { (self.tokens - 1) as f64 / rest } else { 0.0 }
    }

    /// The tokens that say the answer: all that were chosen, less one that ends it.
    pub fn said(&self, text: &Text) -> Vec<u32> {
        let ends = self.ids.last().is_some_and(|id| text.tokenizer.is_end_of_generation(*id));
        self.ids[..self.ids.len() - usize::from(ends)].to_vec()
    }

    /// One line for people.
    pub fn summary(&self, since_start: Option<Duration>) -> String {
        let peak =
            Usage::now().peak_resident.map_or(String::new(), |p| format!(", peak memory {}", crate::size::show(p)));
        let first = since_start.unwrap_or(self.first).as_secs_f64();
        let kept = if self.kept > 0 { format!(" (and {} kept)", self.kept) } else { String::new() };
        let why = if self.reason == "length" { " (stopped at -n)" } else { "" };
        let tried = match self.tried {
            0 => String::new(),
            tried => format!(", {} of {tried} tries right", self.right),
        };
        format!(
            "[{} prompt tokens{kept}, first token after {first:.2} s, {} tokens at {:.1} tok/s{tried}{peak}]{why}",
            self.prompt,
            self.tokens,
            self.speed()
        )
    }
}

/// A sampler for this model with its memory, kept for good.
pub fn sampler(args: &SampleArgs, loaded: &Loaded) -> Done<Sampler<'static>> {
    let vocab = loaded.plan.recipe.vocab;
    // The built-in model turns sentences into actions: there is one right answer.
    let temperature = args.temp.unwrap_or(if loaded.opened.built_in() { 0.0 } else { 0.7 });
    let default = SamplerConfig::default();
    let config = SamplerConfig {
        temperature,
        top_k: args.top_k.unwrap_or(default.top_k),
        top_p: args.top_p.unwrap_or(default.top_p),
        min_p: args.min_p.unwrap_or(default.min_p),
        typical_p: args.typical_p.unwrap_or(default.typical_p),
        repeat_penalty: args.repeat_penalty.unwrap_or(default.repeat_penalty),
        frequency_penalty: args.frequency_penalty.unwrap_or(default.frequency_penalty),
        presence_penalty: args.presence_penalty.unwrap_or(default.presence_penalty),
        seed: args.seed,
        ..default
    };
    let bytes = Sampler::bytes_needed(vocab as usize, &config).map_err(usage)?;
    Sampler::new(vocab as usize, config, Vec::leak(vec![0; bytes])).map_err(usage)
}

/// Positions whose logits are to be had at once.
pub fn logits(draft: Option<Draft>) -> u32 {
    if draft.is_some() { MOST as u32 + 1 } else { 1 }
}

/// A prompt that was read.
pub struct Prompt {
    start: Instant,
    tokens: usize,
    kept: usize,
}

/// Feeds `tokens`, of which the session holds the first `kept` already.
pub fn read(loaded: &mut Loaded, sampler: &mut Sampler, tokens: &[u32], kept: usize) -> Done<Prompt> {
    let start = Instant::now();
    let tokens = &tokens[kept..];
    let bar = (tokens.len() > LONG_PROMPT).then(|| term::progress(tokens.len() as u64, "reading the prompt", false));
    let fed = loaded.prefill(tokens, &mut |done| {
        if let Some(bar) = &bar {
            bar.set_position(done as u64);
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    fed?;
    tokens.iter().for_each(|id| sampler.accept(*id));
    Ok(Prompt { start, tokens: tokens.len(), kept })
}

/// How an answer is to be made.
pub struct Wish<'a> {
    /// It ends before any of these texts.
    pub stops: &'a [String],
    /// Most tokens.
    pub most: usize,
    /// Tries what may come next.
    pub lookup: Option<Lookup>,
}

/// Generates an answer after a prompt, each token shown by `show` as soon as it is text. Returns the answer's text, the
/// tokens that were fed of it, and the figures. Ctrl-C ends the answer, not the session.
pub fn answer(
    loaded: &mut Loaded,
    text: &mut Text,
    sampler: &mut Sampler,
    prompt: &Prompt,
    wish: Wish,
    show: &mut dyn FnMut(&str) -> Done,
) -> Done<(String, Vec<u32>, Figures)> {
    let Wish { stops, most, mut lookup } = wish;
    let mut answer = Answer::new(stops, false);
    let mut fed: Vec<u32> = Vec::new();
    let mut figures = Figures {
        prompt: prompt.tokens,
        kept: prompt.kept,
        tokens: 0,
        first: Duration::ZERO,
        rest: Duration::ZERO,
        reason: "length",
        ids: Vec::new(),
        tried: 0,
        right: 0,
    };
    let mut first = Instant::now();
    // Chosen and not yet shown; all but the last were fed.
    let mut chosen = VecDeque::new();
    while figures.tokens < most {
        let id = match chosen.pop_front() {
            Some(id) => id,
            None => choose(sampler, loaded.session.logits())?,
        };
        figures.tokens += 1;
        if figures.tokens == 1 {
            figures.first = prompt.start.elapsed();
            first = Instant::now();
        }
        figures.ids.push(id);
        if let Some(lookup) = &mut lookup {
            lookup.push(id);
        }
        if text.tokenizer.is_end_of_generation(id) {
            figures.reason = "end";
            break;
        }
        show(answer.push(text.piece(id, false)?))?;
        if answer.stopped {
            figures.reason = "stop";
            break;
        }
        if figures.tokens == most {
            break;
        }
        if !chosen.is_empty() {
            continue;
        }
        let room = (most - figures.tokens - 1).min(loaded.plan.config.batch as usize - 1);
        let guess = lookup.as_ref().map_or(Vec::new(), |lookup| lookup.guess(room));
        let next = match guess.is_empty() {
            true => loaded.feed(&[id]).map(|_| VecDeque::new()),
            false => try_out(loaded, sampler, id, &guess),
        };
        match next {
            Ok(next) => {
                chosen = next;
                fed.push(id);
                if !guess.is_empty() {
                    let right = chosen.len() - 1;
                    fed.extend(&guess[..right]);
                    if let Some(lookup) = &mut lookup {
                        lookup.judge(guess.len(), right);
                    }
                }
            }
            Err(Fail::Interrupted) => {
                figures.reason = "interrupted";
                break;
            }
            Err(e) => return Err(e),
        }
    }
    figures.rest = first.elapsed();
    if let Some(lookup) = lookup {
        (figures.tried, figures.right) = (lookup.tried, lookup.right);
    }
    show(answer.finish())?;
    Ok((answer.text, fed, figures))
}

/// The next token, noted by the sampler.
fn choose(sampler: &mut Sampler, logits: &mut [f32]) -> Done<u32> {
    let id = sampler.sample(logits).map_err(failed)?;
    sampler.accept(id);
    Ok(id)
}

/// Feeds `id` and what may follow it at once, and returns what does: the tokens of the guess that were right, then one more.
/// The session holds `id` and the right ones.
fn try_out(loaded: &mut Loaded, sampler: &mut Sampler, id: u32, guess: &[u32]) -> Done<VecDeque<u32>> {
    let before = loaded.session.position();
    let tokens: Vec<u32> = std::iter::once(id).chain(guess.iter().copied()).collect();
    let (mut chosen, mut wrong) = (VecDeque::new(), Ok(()));
    loaded.feed_each(&tokens, &mut |at, logits| {
        // A guess is right as long as it is what would have been chosen, by the same sampler in the same order.
        let on = chosen.len() == at && (at == 0 || chosen.back() == guess.get(at - 1));
        if on && wrong.is_ok() {
            match choose(sampler, logits) {
                Ok(id) => chosen.push_back(id),
                Err(e) => wrong = Err(e),
            }
        }
    })?;
    wrong?;
    // By less than a batch, which is always possible.
    loaded.session.rewind(before + chosen.len() as u64).map_err(failed)?;
    Ok(chosen)
}
