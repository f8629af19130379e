//! What a handle is: a model, a session, a tokenizer and a sampler in the caller's memory.

use crate::error::{Code, Done, Message, fail};
use crate::options::{Cancel, Options, Sampling, Team as CTeam};
use drupe_core::chat::{ChatFormat, Message as Turn};
use drupe_core::gguf::Gguf;
use drupe_core::model::{self, ModelError};
use drupe_core::plan::PlanError;
use drupe_core::quant::Kernels;
use drupe_core::sampler::{Sampler, SamplerConfig, SamplerError};
use drupe_core::session::{FeedError, never};
use drupe_core::tokenizer::{EncodeOptions, Tokenizer, TokenizerError, Utf8Stream};
use drupe_core::{Arena, Engine, InMemory, Model, Plan, Recipe, Session, Solo, Team};

/// Most tokens that penalties look back over, for which the sampler has memory.
pub const PENALTY_LAST_N: u32 = 256;

/// Everything that the memory of a handle will hold.
pub struct Layout {
    /// The session's plan.
    pub plan: Plan,
    kernels: Kernels,
    tokenizer: usize,
    sampler: usize,
    scratch: usize,
}

impl Layout {
    /// Plans a handle for `model`.
    pub fn new(gguf: &Gguf, options: &Options) -> Done<Layout> {
        let config = options.config()?;
        let kernels = Kernels::detect();
        let recipe = Recipe::of(gguf, config.ctx).map_err(|e| fail(Code::Unsupported, &e))?;
        let plan = Plan::new(&recipe, model::formats(gguf), &kernels, &config).map_err(|e| match e {
            PlanError::Unsupported(_) => fail(Code::Unsupported, &e),
            _ => fail(Code::Option, &e),
        })?;
        let sampling = SamplerConfig { penalty_last_n: PENALTY_LAST_N, ..SamplerConfig::default() };
        let sampler =
            Sampler::bytes_needed(recipe.vocab as usize, &sampling).map_err(|e| fail(Code::Unsupported, &e))?;
        let (tokenizer, scratch) = if options.tokens_only() {
            (0, 0)
        } else {
            let bytes = Tokenizer::bytes_needed(gguf).map_err(|e| fail(Code::Unsupported, &e))?;
            (bytes, Tokenizer::most_scratch_for(options.max_text as usize))
        };
        Ok(Layout { plan, kernels, tokenizer, sampler, scratch })
    }

    /// Bytes of memory, aligned to [`Arena::ALIGN`], that a handle takes.
    pub fn total(&self) -> u64 {
        [size_of::<Face>(), self.tokenizer, self.sampler, self.scratch]
            .iter()
            .fold(self.plan.total(), |sum, part| sum.saturating_add(Arena::cost(*part as u64)))
    }

    /// Bytes of the tokenizer's tables.
    pub fn tables(&self) -> u64 {
        Arena::cost(self.tokenizer as u64)
    }
}

/// A handle. Its references are into the caller's memory and the caller's model, which the caller keeps for as long.
pub struct Face {
    /// Tells a handle from other memory.
    pub magic: u64,
    /// The last error.
    pub message: Message,
    /// Tokens fed and sampled.
    pub fed: u64,
    model: &'static [u8],
    session: Session<'static>,
    text: Option<TextTools>,
    sampler: Sampler<'static>,
    sampler_memory: (*mut u8, usize),
    cancel: Cancel,
    team: Option<CTeam>,
}

struct TextTools {
    tokenizer: Tokenizer<'static>,
    chat: Option<&'static ChatFormat>,
    scratch: &'static mut [u8],
}

impl Face {
    /// [`Face::magic`] of a live handle.
    pub const MAGIC: u64 = 0x6472_7570_6500_0001;

    /// Builds everything in `memory`.
    pub fn new(model: &'static [u8], options: &Options, memory: &'static mut [u8]) -> Done<Face> {
        let gguf = Gguf::parse(model).map_err(|e| fail(Code::File, &e))?;
        let layout = Layout::new(&gguf, options)?;
        let mut arena = Arena::new(memory);
        let small = |e: &dyn core::fmt::Display| fail(Code::Memory, e);
        let bound = Model::bind(&gguf, &layout.plan, &layout.kernels, &mut arena).map_err(|e| match e {
            ModelError::Arena(e) => small(&e),
            ModelError::Bind(e) => fail(Code::Unsupported, &e),
        })?;
        let session = Session::new(&bound, &mut arena).map_err(|e| small(&e))?;
        let text = if options.tokens_only() {
            None
        } else {
            let tables = arena.take(layout.tokenizer).map_err(|e| small(&e))?;
            let scratch = arena.take(layout.scratch).map_err(|e| small(&e))?;
            let tokenizer = Tokenizer::new(&gguf, tables).map_err(|e| fail(Code::Unsupported, &e))?;
            let template = gguf.str("tokenizer.chat_template").ok().flatten();
            Some(TextTools { tokenizer, chat: template.and_then(ChatFormat::detect), scratch })
        };
        let memory = arena.take::<u8>(layout.sampler).map_err(|e| small(&e))?;
        let sampler_memory = (memory.as_mut_ptr(), memory.len());
        let sampler = Sampler::new(layout.plan.recipe.vocab as usize, SamplerConfig::default(), memory)
            .map_err(|e| fail(Code::Internal, &e))?;
        Ok(Face {
            magic: Face::MAGIC,
            message: Message::default(),
            fed: 0,
            model,
            session,
            text,
            sampler,
            sampler_memory,
            cancel: Cancel::default(),
            team: None,
        })
    }

    /// The session.
    pub fn session(&mut self) -> &mut Session<'static> {
        &mut self.session
    }

    /// What the handle was planned as.
    pub fn plan(&self) -> &Plan {
        self.session.model().plan()
    }

    /// Sets what is asked whether to stop.
    pub fn set_cancel(&mut self, cancel: Cancel) {
        self.cancel = cancel;
    }

    /// Sets the workers.
    pub fn set_team(&mut self, team: Option<CTeam>) -> Done<()> {
        let most = self.plan().config.workers;
        match team {
            Some(team) if !(1..=most).contains(&team.workers) => {
                Err(fail(Code::Option, &format_args!("a team of {} workers; planned for 1 to {most}", team.workers)))
            }
            team => {
                self.team = team;
                Ok(())
            }
        }
    }

    /// Sets how tokens are chosen, and forgets the tokens that penalties looked back on.
    pub fn set_sampling(&mut self, sampling: &Sampling) -> Done<()> {
        let config = sampling.config()?;
        let vocab = self.plan().recipe.vocab as usize;
        Sampler::bytes_needed(vocab, &config).map_err(|e| fail(Code::Option, &e))?;
        let (start, len) = self.sampler_memory;
        // SAFETY: the range was taken from the arena for the sampler alone, and the sampler that used it is replaced here: its
        // references are not used between this line and the assignment.
        let memory = unsafe { core::slice::from_raw_parts_mut(start, len) };
        self.sampler = Sampler::new(vocab, config, memory).map_err(|e| fail(Code::Option, &e))?;
        Ok(())
    }

    /// Calls `f` with the session and an engine of this handle's team, weights and callback.
    fn run<R>(&mut self, f: impl FnOnce(&mut Session<'static>, &mut Engine) -> Result<R, FeedError>) -> Done<R> {
        let cancel = self.cancel;
        let cancelled = move || cancel.asked();
        let parts = [self.model];
        let mut weights = InMemory::new(&parts);
        let team: &dyn Team = match &self.team {
            Some(team) => team,
            None => &Solo,
        };
        let cancelled: &dyn Fn() -> bool = if cancel.is_set() { &cancelled } else { &never };
        let mut engine = Engine { team, weights: &mut weights, cancelled };
        f(&mut self.session, &mut engine).map_err(|e| {
            let code = match e {
                FeedError::Token { .. } | FeedError::Empty => Code::Token,
                FeedError::Cancelled => Code::Cancelled,
                FeedError::Weights(_) => Code::Storage,
                FeedError::Internal(_) => Code::Internal,
            };
            fail(code, &e)
        })
    }

    /// Feeds all of `tokens`.
    pub fn feed(&mut self, tokens: &[u32]) -> Done<()> {
        let before = self.session.position();
        let done = self.run(|session, engine| session.feed(engine, tokens).map(|_| ()));
        self.fed += self.session.position() - before;
        done
    }

    /// Feeds at most one batch.
    pub fn feed_slice(&mut self, tokens: &[u32]) -> Done<usize> {
        let taken = self.run(|session, engine| session.feed_slice(engine, tokens))?;
        self.fed += taken as u64;
        Ok(taken)
    }

    /// Chooses a token by the last logits, and remembers it.
    pub fn sample(&mut self) -> Done<u32> {
        let id = self.sampler.sample(self.session.logits()).map_err(|e| match e {
            SamplerError::NothingToChoose => fail(Code::Sample, &e),
            _ => fail(Code::Internal, &e),
        })?;
        self.sampler.accept(id);
        Ok(id)
    }

    fn text(&mut self) -> Done<&mut TextTools> {
        self.text.as_mut().ok_or_else(|| fail(Code::Text, &"this handle was made with DRUPE_TOKENS_ONLY"))
    }

    /// Turns text into tokens; the error for a short `out` carries the number needed.
    pub fn tokenize(
        &mut self,
        text: &[u8],
        special: bool,
        add_bos: bool,
        out: &mut [u32],
    ) -> Done<Result<usize, usize>> {
        let tools = self.text()?;
        let options = EncodeOptions { add_special: add_bos, parse_special: special };
        match tools.tokenizer.encode(text, options, tools.scratch, out) {
            Ok(n) => Ok(Ok(n)),
            Err(TokenizerError::OutputFull { needed, .. }) => Ok(Err(needed)),
            Err(e) => Err(fail(Code::Text, &e)),
        }
    }

    /// A token's bytes.
    pub fn token_text(&mut self, id: u32, special: bool, out: &mut [u8]) -> Done<Result<usize, usize>> {
        match self.text()?.tokenizer.decode(id, special, out) {
            Ok(n) => Ok(Ok(n)),
            Err(TokenizerError::OutputFull { needed, .. }) => Ok(Err(needed)),
            Err(e) => Err(fail(Code::Token, &e)),
        }
    }

    /// Whether a token ends an answer.
    pub fn is_end(&mut self, id: u32) -> Done<bool> {
        Ok(self.text()?.tokenizer.is_end_of_generation(id))
    }

    /// Writes a conversation as the model was trained to read it; returns the bytes that it takes.
    pub fn chat(&mut self, turns: &[Turn], answer: bool, out: &mut [u8]) -> Done<usize> {
        let tools = self.text()?;
        let chat = tools.chat.ok_or_else(|| fail(Code::Chat, &"the file has no chat template that is known"))?;
        let eos = tools.tokenizer.eos().map_or(&b""[..], |id| tools.tokenizer.string(id));
        let eos = core::str::from_utf8(eos).unwrap_or("");
        let mut len = 0usize;
        for piece in chat.pieces(turns, eos, answer) {
            let text = piece.text.as_bytes();
            if let Some(room) = out.get_mut(len..len + text.len()) {
                room.copy_from_slice(text);
            }
            len += text.len();
        }
        Ok(len)
    }

    /// Samples and feeds until `most` tokens, an end token, or `say` returns true. Returns the number of tokens.
    pub fn generate(&mut self, most: u64, say: &mut dyn FnMut(&[u8]) -> bool) -> Done<u64> {
        let mut stream = Utf8Stream::new(false);
        for done in 0..most {
            let id = self.sample()?;
            if self.is_end(id)? {
                return Ok(done);
            }
            let tools = self.text()?;
            let mut piece = [0; 512];
            let len = tools.tokenizer.decode(id, false, &mut piece).map_err(|e| fail(Code::Text, &e))?;
            let mut stop = false;
            stream.push(&piece[..len], |text| stop |= say(text.as_bytes()));
            self.feed(&[id])?;
            if stop {
                return Ok(done + 1);
            }
        }
        Ok(most)
    }

    /// Bytes of [`Face::save`].
    pub fn state_bytes(&self) -> u64 {
        self.session.state_bytes()
    }

    /// Writes the session's state.
    pub fn save(&mut self, out: &mut [u8]) -> Done<()> {
        let parts = [self.model];
        self.session.save(&mut InMemory::new(&parts), out).map_err(|e| fail(Code::State, &e))
    }

    /// Takes a state back.
    pub fn restore(&mut self, state: &[u8]) -> Done<()> {
        let parts = [self.model];
        self.session.restore(&mut InMemory::new(&parts), state).map_err(|e| fail(Code::State, &e))
    }
}
