//! From the model's bytes to answers, in one block of memory. Everything that is said goes to the console as text.

use core::fmt::{self, Write};
use drupe::chat::{ChatFormat, Message, Piece, Role};
use drupe::gguf::Gguf;
use drupe::quant::Kernels;
use drupe::sampler::{Sampler, SamplerConfig};
use drupe::session::never;
use drupe::tokenizer::{Tokenizer, Utf8Stream};
use drupe::{Arena, Config, Engine, InMemory, Model, Plan, Recipe, Session, Team, model};

/// Most bytes of a prompt.
pub const MOST_PROMPT: usize = 512;

/// Most tokens of an answer.
pub const MOST_ANSWER: usize = 128;

/// Context in tokens, if the model was trained on as much.
const CTX: u32 = 1024;

/// Most tokens of a prompt in the model's chat form: each byte may be one, and the form's marks come on top.
const MOST_TOKENS: usize = MOST_PROMPT + 64;

/// What went wrong, already said on the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// A clock: ticks now, and how many make a second.
#[derive(Clone, Copy)]
pub struct Clock {
    /// Ticks since some moment.
    pub now: fn() -> u64,
    /// Ticks in a second.
    pub frequency: u64,
}

/// A model that answers.
pub struct Answerer<'a> {
    weights: &'a [u8],
    session: Session<'a>,
    tokenizer: Tokenizer<'a>,
    chat: Option<&'static ChatFormat>,
    sampler: Sampler<'a>,
    text: &'a mut [u8],
    scratch: &'a mut [u8],
    tokens: &'a mut [u32],
    /// Bytes of the memory that are in use.
    pub used: usize,
}

/// Says an error and forgets it.
fn said<T, E: fmt::Display>(result: Result<T, E>, console: &mut dyn Write) -> Result<T, Failed> {
    result.map_err(|e| {
        // A console that does not work cannot be told so.
        let _ = writeln!(console, "error: {e}");
        Failed
    })
}

impl<'a> Answerer<'a> {
    /// Builds everything in `memory`, for a team of `workers`.
    pub fn new(
        weights: &'a [u8],
        workers: usize,
        memory: &'a mut [u8],
        console: &mut dyn Write,
    ) -> Result<Answerer<'a>, Failed> {
        let gguf = said(Gguf::parse(weights), console)?;
        let kernels = Kernels::detect();
        let trained = said(Recipe::of(&gguf, CTX), console)?.train_ctx;
        let ctx = CTX.min(trained.max(1));
        let recipe = said(Recipe::of(&gguf, ctx), console)?;
        let config = Config { workers: workers as u32, ..Config::new(ctx) };
        let config = Config { sinks: config.sinks.min(ctx - 1), ..config };
        let plan = said(Plan::new(&recipe, model::formats(&gguf), &kernels, &config), console)?;
        let sampling = SamplerConfig { temperature: 0.0, ..SamplerConfig::default() };

        let given = memory.len();
        let mut arena = Arena::new(memory);
        let bound = said(Model::bind(&gguf, &plan, &kernels, &mut arena), console)?;
        let session = said(Session::new(&bound, &mut arena), console)?;
        let tables = said(Tokenizer::bytes_needed(&gguf), console)?;
        let tables = said(arena.take(tables), console)?;
        let tokenizer = said(Tokenizer::new(&gguf, tables), console)?;
        let sampler = said(Sampler::bytes_needed(recipe.vocab as usize, &sampling), console)?;
        let sampler = said(arena.take(sampler), console)?;
        let sampler = said(Sampler::new(recipe.vocab as usize, sampling, sampler), console)?;
        let text = said(arena.take(2 * MOST_PROMPT), console)?;
        let scratch = said(arena.take(tokenizer.scratch_for(2 * MOST_PROMPT)), console)?;
        let tokens = said(arena.take(MOST_TOKENS), console)?;
        let template = said(gguf.str("tokenizer.chat_template"), console)?;
        let chat = template.and_then(ChatFormat::detect);
        let used = given - arena.left();
        let _ = writeln!(console, "kernels: {}", kernels.isa().name());
        let _ = writeln!(console, "model: {} bytes, context {ctx} tokens", weights.len());
        Ok(Answerer { weights, session, tokenizer, chat, sampler, text, scratch, tokens, used })
    }

    /// Answers a prompt, greedily and from a clean start: the text as it comes, then its tokens, then the time.
    pub fn answer(
        &mut self,
        prompt: &str,
        team: &dyn Team,
        clock: Clock,
        console: &mut dyn Write,
    ) -> Result<(), Failed> {
        let prompt = prompt.trim();
        if prompt.is_empty() || prompt.len() > MOST_PROMPT {
            let _ = writeln!(console, "error: a prompt has 1 to {MOST_PROMPT} bytes; found {}", prompt.len());
            return Err(Failed);
        }
        let parts = [self.weights];
        let mut weights = InMemory::new(&parts);
        let mut engine = Engine { team, weights: &mut weights, cancelled: &never };

        let count = said(self.encode(prompt), console)?;
        said(self.session.rewind(0), console)?;
        self.sampler.reset();
        let start = (clock.now)();
        said(self.session.feed(&mut engine, &self.tokens[..count]).map(|_| ()), console)?;
        self.tokens[..count].iter().for_each(|id| self.sampler.accept(*id));
        let fed = (clock.now)() - start;

        let _ = write!(console, "answer: ");
        let mut stream = Utf8Stream::new(self.tokenizer.adds_space() && self.chat.is_none());
        let mut ids = [0; MOST_ANSWER];
        let mut len = 0;
        let start = (clock.now)();
        while len < MOST_ANSWER {
            let id = said(self.sampler.sample(self.session.logits()), console)?;
            self.sampler.accept(id);
            ids[len] = id;
            len += 1;
            if self.tokenizer.is_end_of_generation(id) {
                break;
            }
            let written = said(self.tokenizer.decode(id, false, self.text), console)?;
            stream.push(&self.text[..written], |text| {
                let _ = write!(console, "{text}");
            });
            said(self.session.feed(&mut engine, &[id]).map(|_| ()), console)?;
        }
        let ticks = (clock.now)() - start;
        let _ = write!(console, "\ntokens:");
        for id in &ids[..len] {
            let _ = write!(console, " {id}");
        }
        let _ = writeln!(
            console,
            "\nticks per token: {} of the prompt's {count}, {} of the answer's {len}; {} in a second",
            fed / count.max(1) as u64,
            ticks / len.max(1) as u64,
            clock.frequency
        );
        Ok(())
    }

    /// The prompt's tokens, in the model's chat form if it has one.
    fn encode(&mut self, prompt: &str) -> Result<usize, drupe::tokenizer::TokenizerError> {
        let Some(chat) = self.chat else {
            let plain = [Piece { text: prompt, structure: false }];
            return self.tokenizer.encode_pieces(plain.into_iter(), true, self.text, self.scratch, self.tokens);
        };
        let eos = self.tokenizer.eos().map_or(&b""[..], |id| self.tokenizer.string(id));
        let eos = core::str::from_utf8(eos).unwrap_or("");
        let messages = [Message { role: Role::User, content: prompt }];
        let pieces = chat.pieces(&messages, eos, true);
        self.tokenizer.encode_pieces(pieces, true, self.text, self.scratch, self.tokens)
    }
}
