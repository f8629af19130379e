//! What a handle is: a model, a session, a tokenizer and a sampler in the caller's memory.

use crate::error::{Code, Done, Message, fail};
use crate::options::{Bytes, Clock, Options, PlanInfo, Progress, Sampling, Stats, Team as CTeam};
use crate::pass::slice;
use core::cell::Cell;
use core::ffi::c_char;
use drupe_core::chat::{ChatFormat, Message as Turn};
use drupe_core::gguf::Gguf;
use drupe_core::model::{self, ModelError};
use drupe_core::plan::PlanError;
use drupe_core::quant::{Isa, Kernels};
use drupe_core::sampler::{Sampler, SamplerConfig, SamplerError};
use drupe_core::session::FeedError;
use drupe_core::tokenizer::{EncodeOptions, Tokenizer, TokenizerError, Utf8Stream};
use drupe_core::{Arena, Engine, InMemory, Model, Plan, Recipe, Session, Solo, Team, Weights};

/// Most tokens that penalties look back over, for which the sampler has memory.
pub const PENALTY_LAST_N: u32 = 256;

/// Most files of a split model.
pub const MOST_PARTS: usize = 64;

/// The files of a model, in memory that the caller keeps.
pub struct Parts {
    list: [&'static [u8]; MOST_PARTS],
    count: usize,
}

impl Parts {
    /// The caller's `parts`.
    ///
    /// # Safety
    /// `parts` points at `count` of them, each of readable bytes that stay as they are while a handle uses them.
    pub unsafe fn of(parts: *const Bytes, count: usize) -> Done<Parts> {
        let mut list: [&'static [u8]; MOST_PARTS] = [&[]; MOST_PARTS];
        if !(1..=MOST_PARTS).contains(&count) {
            return Err(fail(Code::Option, &format_args!("{count} parts; expected 1 to {MOST_PARTS}")));
        }
        // SAFETY: by this function's promise.
        unsafe {
            for (place, part) in list.iter_mut().zip(slice(parts, count)?) {
                *place = slice(part.data.cast::<u8>(), part.len)?;
            }
        }
        Ok(Parts { list, count })
    }

    /// The view of them.
    pub fn gguf(&self) -> Done<Gguf<'_>> {
        Gguf::parse_parts(&self.list[..self.count]).map_err(|e| fail(Code::File, &e))
    }

    /// Bytes that [`Parts::keep`] takes of an arena.
    fn cost(count: usize) -> u64 {
        Arena::cost((count * size_of::<&[u8]>()) as u64)
    }

    /// The list, written to the arena.
    fn keep(&self, arena: &mut Arena<'static>) -> Done<&'static [&'static [u8]]> {
        let words = arena.take::<usize>(self.count * size_of::<&[u8]>() / size_of::<usize>());
        let place = words.map_err(|e| fail(Code::Memory, &e))?.as_mut_ptr().cast::<&'static [u8]>();
        // SAFETY: the words are as many and as aligned as `count` slices need, and nothing else has them.
        unsafe {
            core::ptr::copy_nonoverlapping(self.list.as_ptr(), place, self.count);
            Ok(core::slice::from_raw_parts(place, self.count))
        }
    }
}

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

    /// What a handle takes, for a model in `parts` files. The memory must be aligned to [`Arena::ALIGN`].
    pub fn info(&self, parts: usize) -> PlanInfo {
        let (plan, recipe) = (&self.plan, &self.plan.recipe);
        let own = [size_of::<Face>(), self.tokenizer, self.sampler, self.scratch];
        let memory = own
            .iter()
            .fold(plan.total().saturating_add(Parts::cost(parts)), |sum, n| sum.saturating_add(Arena::cost(*n as u64)));
        PlanInfo {
            struct_size: size_of::<PlanInfo>() as u32,
            alignment: Arena::ALIGN as u32,
            memory,
            kv: plan.kv_bytes(),
            tables: Arena::cost(self.tokenizer as u64),
            ctx: plan.config.ctx,
            vocab: recipe.vocab,
            width: recipe.width,
            layers: recipe.layers,
            train_ctx: recipe.train_ctx,
            reserved: 0,
        }
    }
}

/// A handle. Its references are into the caller's memory and the caller's model, which the caller keeps for as long.
pub struct Face {
    /// Tells a handle from other memory.
    pub magic: u64,
    /// The last error.
    pub message: Message,
    stats: Counts,
    parts: &'static [&'static [u8]],
    /// Where weights come from instead of the parts.
    weights: Option<*mut dyn Weights>,
    session: Session<'static>,
    text: Option<TextTools>,
    sampler: Sampler<'static>,
    sampler_memory: (*mut u8, usize),
    progress: Progress,
    clock: Clock,
    team: Option<CTeam>,
    /// Bytes that the handle takes, itself and its tables included.
    pub memory: u64,
    /// [`Options::memory`].
    pub allowed: u64,
}

/// Figures since the handle was made.
#[derive(Clone, Copy, Default)]
struct Counts {
    fed: u64,
    sampled: u64,
    high_water: u64,
    feed_ticks: u64,
    sample_ticks: u64,
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
    pub fn new(parts: &Parts, layout: Layout, options: &Options, memory: &'static mut [u8]) -> Done<Face> {
        let whole = layout.info(parts.count).memory;
        let mut arena = Arena::new(memory);
        let small = |e: &dyn core::fmt::Display| fail(Code::Memory, e);
        let parts = parts.keep(&mut arena)?;
        // Once more over the parts' own list, which stays as long as the handle does.
        let gguf = Gguf::parse_parts(parts).map_err(|e| fail(Code::File, &e))?;
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
            stats: Counts::default(),
            parts,
            weights: None,
            session,
            text,
            sampler,
            sampler_memory,
            progress: Progress::default(),
            clock: Clock::default(),
            team: None,
            memory: whole,
            allowed: options.memory,
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

    /// Sets what is told how far a call has come.
    pub fn set_progress(&mut self, progress: Progress) {
        self.progress = progress;
    }

    /// Sets the clock.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// The view of the model's parts.
    #[cfg(feature = "hosted")]
    pub fn gguf(&self) -> Done<Gguf<'static>> {
        Gguf::parse_parts(self.parts).map_err(|e| fail(Code::File, &e))
    }

    /// Sets where weights come from: none for the model's parts.
    ///
    /// # Safety
    /// The source lives, and is used by nothing else, until another is set or the handle is used no more.
    #[cfg(feature = "hosted")]
    pub unsafe fn set_weights(&mut self, weights: Option<*mut dyn Weights>) {
        self.weights = weights;
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        let (plan, Counts { fed, sampled, high_water, feed_ticks, sample_ticks }) = (self.plan(), self.stats);
        Stats {
            struct_size: size_of::<Stats>() as u32,
            workers: plan.config.workers,
            position: self.session.position(),
            high_water,
            fed,
            sampled,
            feed_ticks,
            sample_ticks,
            memory: plan.total(),
            isa: isa_name(self.session.model().kernels().isa()),
        }
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

    /// Calls `f` with the session and its weights.
    fn with_weights<R>(&mut self, f: impl FnOnce(&mut Session<'static>, &mut dyn Weights) -> R) -> R {
        match self.weights {
            // SAFETY: the promise of `set_weights`.
            Some(weights) => f(&mut self.session, unsafe { &mut *weights }),
            None => f(&mut self.session, &mut InMemory::new(self.parts)),
        }
    }

    /// Feeds at most `most` of `tokens`, and no more than a batch; the call that it is part of has done `done` of `total`.
    fn feed_some(&mut self, tokens: &[u32], most: usize, done: u64, total: u64) -> Done<usize> {
        let (progress, team, start) = (self.progress, self.team, self.clock.now());
        let stopped = Cell::new(false);
        // Once it has asked to stop, it is not called again.
        let cancelled = || {
            stopped.get() || {
                stopped.set(progress.stops(done, total));
                stopped.get()
            }
        };
        let team: &dyn Team = match &team {
            Some(team) => team,
            None => &Solo,
        };
        let taken = self.with_weights(|session, weights| {
            session.feed_some(&mut Engine { team, weights, cancelled: &cancelled }, tokens, most)
        });
        let taken = taken.map_err(|e| {
            let code = match e {
                FeedError::Token { .. } | FeedError::Empty => Code::Token,
                FeedError::Cancelled => Code::Cancelled,
                FeedError::Weights(_) => Code::Storage,
                FeedError::Internal(_) => Code::Internal,
            };
            fail(code, &e)
        })?;
        let stats = &mut self.stats;
        stats.fed += taken as u64;
        stats.high_water = stats.high_water.max(self.session.position());
        stats.feed_ticks += self.clock.now().wrapping_sub(start);
        Ok(taken)
    }

    /// Feeds all of `tokens`.
    pub fn feed(&mut self, tokens: &[u32]) -> Done<()> {
        self.check(tokens)?;
        let mut done = 0;
        while done < tokens.len() {
            done += self.feed_some(&tokens[done..], usize::MAX, done as u64, tokens.len() as u64)?;
        }
        Ok(())
    }

    /// Feeds at most one batch, and at most `most` (0: a batch).
    pub fn feed_slice(&mut self, tokens: &[u32], most: usize) -> Done<usize> {
        self.check(tokens)?;
        self.feed_some(tokens, if most == 0 { usize::MAX } else { most }, 0, tokens.len() as u64)
    }

    /// Whether all of `tokens` can be fed: nothing is fed if not.
    fn check(&self, tokens: &[u32]) -> Done<()> {
        let vocab = self.plan().recipe.vocab;
        let error = match tokens.iter().position(|id| *id >= vocab) {
            Some(index) => FeedError::Token { id: tokens[index], index, vocab },
            None if tokens.is_empty() => FeedError::Empty,
            None => return Ok(()),
        };
        Err(fail(Code::Token, &error))
    }

    /// Chooses a token by the last logits, and remembers it.
    pub fn sample(&mut self) -> Done<u32> {
        let start = self.clock.now();
        let id = self.sampler.sample(self.session.logits()).map_err(|e| match e {
            SamplerError::NothingToChoose => fail(Code::Sample, &e),
            _ => fail(Code::Internal, &e),
        })?;
        self.sampler.accept(id);
        self.stats.sampled += 1;
        self.stats.sample_ticks += self.clock.now().wrapping_sub(start);
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
            let end = len.saturating_add(text.len());
            if let Some(room) = out.get_mut(len..end) {
                room.copy_from_slice(text);
            }
            len = end;
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
            self.feed_some(&[id], 1, done, most)?;
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
        self.with_weights(|session, weights| session.save(weights, out)).map_err(|e| fail(Code::State, &e))
    }

    /// Takes a state back.
    pub fn restore(&mut self, state: &[u8]) -> Done<()> {
        let done = self.with_weights(|session, weights| session.restore(weights, state));
        self.stats.high_water = self.stats.high_water.max(self.session.position());
        done.map_err(|e| fail(Code::State, &e))
    }
}

/// Bytes of the longest name of an instruction set and its NUL.
const ISA_NAME: usize = 16;

/// The names of [`Isa::ALL`], ended as C wants them.
static ISA_NAMES: [[u8; ISA_NAME]; Isa::ALL.len()] = {
    let mut names = [[0; ISA_NAME]; Isa::ALL.len()];
    let mut i = 0;
    while i < names.len() {
        let name = Isa::ALL[i].1.as_bytes();
        assert!(name.len() < ISA_NAME);
        names[i].split_at_mut(name.len()).0.copy_from_slice(name);
        i += 1;
    }
    names
};

fn isa_name(isa: Isa) -> *const c_char {
    let found = Isa::ALL.iter().zip(&ISA_NAMES).find(|((other, _), _)| *other == isa);
    found.map_or(c"".as_ptr(), |(_, name)| name.as_ptr().cast())
}
