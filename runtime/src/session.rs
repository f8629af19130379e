//! A conversation with a model: the only thing that changes as tokens go by.

use crate::arena::{Arena, ArenaTooSmall};
use crate::experts::ExpertBuffers;
use crate::forward::{Buffers, Crew, Pass};
use crate::model::Model;
use crate::team::Team;
use crate::weights::{Weights, WeightsError};

/// Why tokens could not be fed. The session stays as it was after the last batch that went through: `position` says
/// how many tokens it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedError {
    /// A token id outside the vocabulary.
    Token {
        /// The id.
        id: u32,
        /// Its index in what was fed.
        index: usize,
        /// Entries of the vocabulary.
        vocab: u32,
    },
    /// No token was given.
    Empty,
    /// The caller asked to stop.
    Cancelled,
    /// The weights could not be had.
    Weights(WeightsError),
    /// A broken promise between parts of this program.
    Internal(&'static str),
}

impl core::fmt::Display for FeedError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            FeedError::Token { id, index, vocab } => {
                write!(f, "token {index} has id {id}; the vocabulary has {vocab} entries")
            }
            FeedError::Empty => write!(f, "no token to feed"),
            FeedError::Cancelled => write!(f, "cancelled"),
            FeedError::Weights(e) => e.fmt(f),
            FeedError::Internal(what) => write!(f, "internal error: {what}"),
        }
    }
}

impl core::error::Error for FeedError {}

impl From<WeightsError> for FeedError {
    fn from(e: WeightsError) -> Self {
        FeedError::Weights(e)
    }
}

/// A position that cannot be gone back to: what its next token would see has been overwritten, or it is in the future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RewindError {
    /// The position asked for.
    pub to: u64,
    /// The session's position.
    pub at: u64,
}

impl core::fmt::Display for RewindError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "cannot go back from position {} to {}: what it would see is no longer in the ring", self.at, self.to)
    }
}

impl core::error::Error for RewindError {}

/// What runs a session: workers and weights, and a way to stop.
pub struct Engine<'s> {
    /// The workers.
    pub team: &'s dyn Team,
    /// The weights.
    pub weights: &'s mut dyn Weights,
    /// Asked all along a pass, after some MiB of weights at most; true makes [`Session::feed`] return
    /// [`FeedError::Cancelled`].
    pub cancelled: &'s dyn Fn() -> bool,
}

/// Never cancels.
pub fn never() -> bool {
    false
}

/// A session: the KV ring and the buffers of a forward pass, all in the arena.
pub struct Session<'a> {
    model: Model<'a>,
    pub(crate) buffers: Buffers<'a>,
    /// Rotary angles of a batch.
    angles: &'a mut [f32],
    progress: Progress,
}

/// How far a session has come.
#[derive(Clone, Copy, Default)]
struct Progress {
    position: u64,
    /// One past the farthest position ever written to the ring.
    written: u64,
    /// Whether a pass went through.
    warm: bool,
}

impl<'a> Session<'a> {
    /// Takes the rest of what [`crate::Plan::total`] counted from `arena`.
    pub fn new(model: &Model<'a>, arena: &mut Arena<'a>) -> Result<Session<'a>, ArenaTooSmall> {
        let (s, workers) = (&model.plan.sizes, model.plan.config.workers as u64);
        let buffers = Buffers {
            cache: arena.take(s.kv_bytes as usize)?,
            stream: arena.take(s.stream as usize)?,
            normed: arena.take(s.normed as usize)?,
            inner: arena.take(s.inner as usize)?,
            acts: arena.take(s.acts_bytes as usize)?,
            // One part of the plan, cut in two: see Plan::parts.
            partial: &mut [],
            logits: &mut [],
            experts: ExpertBuffers::default(),
            scratch: &mut [],
        };
        let (angles, partial) = arena.take::<f32>((s.angles + s.partial) as usize)?.split_at_mut(s.angles as usize);
        let logits = arena.take(s.logits as usize)?;
        let experts =
            ExpertBuffers::cut(&model.plan.recipe, model.plan.config.batch, arena.take(s.experts_bytes as usize / 4)?);
        let scratch = arena.take((workers * s.scratch_bytes) as usize)?;
        let buffers = Buffers { partial, logits, experts, scratch, ..buffers };
        // What may be read before anything was fed: not what the caller's memory held.
        buffers.logits.fill(0.0);
        buffers.normed.fill(0.0);
        Ok(Session { model: *model, buffers, angles, progress: Progress::default() })
    }

    /// The model.
    pub fn model(&self) -> &Model<'a> {
        &self.model
    }

    /// Tokens fed so far, less those gone back over.
    pub fn position(&self) -> u64 {
        self.progress.position
    }

    /// Feeds `tokens` after those fed before, and returns the logits `[vocab]` of the last one.
    ///
    /// Work is cut into batches; on any error the session holds the batches that were done
    /// ([`Session::position`]) and can go on.
    pub fn feed(&mut self, engine: &mut Engine, tokens: &[u32]) -> Result<&mut [f32], FeedError> {
        self.check(tokens)?;
        let batch = self.model.plan.config.batch as usize;
        let count = tokens.len().div_ceil(batch);
        for (i, tokens) in tokens.chunks(batch).enumerate() {
            let mut pass = pass(&self.model, self.angles, &mut self.buffers, &mut self.progress, engine, tokens)?;
            if i + 1 == count {
                pass.head(tokens.len() - 1, 1, &mut self.buffers)?;
            }
            self.advance(tokens.len());
        }
        let vocab = self.model.plan.recipe.vocab as usize;
        Ok(&mut self.buffers.logits[..vocab])
    }

    /// Feeds at most one batch of `tokens` and returns how many were taken, for callers that work in slices; logits are
    /// computed when it was all of them ([`Session::logits`]).
    pub fn feed_slice(&mut self, engine: &mut Engine, tokens: &[u32]) -> Result<usize, FeedError> {
        self.feed_some(engine, tokens, usize::MAX)
    }

    /// [`Session::feed_slice`] of at most `most` tokens, at least one: a slice that takes less time than a whole batch.
    pub fn feed_some(&mut self, engine: &mut Engine, tokens: &[u32], most: usize) -> Result<usize, FeedError> {
        let n = tokens.len().min(self.model.plan.config.batch as usize).min(most.max(1));
        self.check(&tokens[..n])?;
        let mut pass = pass(&self.model, self.angles, &mut self.buffers, &mut self.progress, engine, &tokens[..n])?;
        if n == tokens.len() {
            pass.head(n - 1, 1, &mut self.buffers)?;
        }
        self.advance(n);
        Ok(n)
    }

    /// Feeds `tokens` and calls `each(index, logits)` with the logits `[vocab]` after every one of them;
    /// [`crate::Config::logits`] positions are computed at once.
    pub fn feed_each(
        &mut self,
        engine: &mut Engine,
        tokens: &[u32],
        each: &mut dyn FnMut(usize, &mut [f32]),
    ) -> Result<(), FeedError> {
        self.check(tokens)?;
        let (batch, rows) = (self.model.plan.config.batch as usize, self.model.plan.config.logits as usize);
        let vocab = self.model.plan.recipe.vocab as usize;
        for (i, tokens) in tokens.chunks(batch).enumerate() {
            let mut pass = pass(&self.model, self.angles, &mut self.buffers, &mut self.progress, engine, tokens)?;
            for t in (0..tokens.len()).step_by(rows) {
                let count = rows.min(tokens.len() - t);
                pass.head(t, count, &mut self.buffers)?;
                for (r, logits) in self.buffers.logits.chunks_exact_mut(vocab).take(count).enumerate() {
                    each(i * batch + t + r, logits);
                }
            }
            self.advance(tokens.len());
        }
        Ok(())
    }

    /// The logits `[vocab]` that the last successful [`Session::feed`] computed; zeros before it.
    pub fn logits(&mut self) -> &mut [f32] {
        &mut self.buffers.logits[..self.model.plan.recipe.vocab as usize]
    }

    /// The last token's final hidden state `[width]`, normed: what the output matrix saw in the last successful
    /// [`Session::feed`]. An embedding of the text so far.
    pub fn hidden(&self) -> &[f32] {
        &self.buffers.normed[..self.model.plan.recipe.width as usize]
    }

    /// Goes back to `position`, forgetting what came after. Always possible by fewer than `batch` tokens, and to any
    /// position while the session has not outgrown its context.
    pub fn rewind(&mut self, position: u64) -> Result<(), RewindError> {
        let fits = self.model.shapes.iter().all(|s| s.can_rewind(position, self.progress.written));
        if position > self.progress.position || !(fits || position == 0) {
            return Err(RewindError { to: position, at: self.progress.position });
        }
        self.progress.position = position;
        if position == 0 {
            self.progress.written = 0;
        }
        Ok(())
    }

    fn check(&self, tokens: &[u32]) -> Result<(), FeedError> {
        let vocab = self.model.plan.recipe.vocab;
        if tokens.is_empty() {
            return Err(FeedError::Empty);
        }
        match tokens.iter().position(|id| *id >= vocab) {
            Some(index) => Err(FeedError::Token { id: tokens[index], index, vocab }),
            None => Ok(()),
        }
    }

    /// One past the farthest position ever written to the ring.
    pub(crate) fn written(&self) -> u64 {
        self.progress.written
    }

    pub(crate) fn set_position(&mut self, position: u64, written: u64) {
        self.progress = Progress { position, written, ..self.progress };
    }

    fn advance(&mut self, n: usize) {
        self.progress.position += n as u64;
        self.progress.warm = true;
    }
}

/// Runs one batch through the layers; what is left to do is [`Pass::head`].
fn pass<'s, 'a>(
    model: &'s Model<'a>,
    angles: &mut [f32],
    buffers: &mut Buffers,
    progress: &mut Progress,
    engine: &'s mut Engine<'_>,
    tokens: &[u32],
) -> Result<Pass<'s, 'a>, FeedError> {
    // Counted before it happens: a pass that fails half-way has written too.
    let Progress { position: first, warm, .. } = *progress;
    progress.written = progress.written.max(first + tokens.len() as u64);
    let crew = Crew { team: engine.team, n: tokens.len() };
    let mut pass = Pass { model, crew, weights: &mut *engine.weights, cancelled: engine.cancelled, first, warm };
    pass.run(tokens, angles, buffers)?;
    Ok(pass)
}
