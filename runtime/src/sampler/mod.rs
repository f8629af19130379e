//! Choosing the next token from a model's logits, in memory that the caller gives.
//!
//! The steps, each left out when its option is at its neutral value: logit bias, penalties for what was said lately,
//! [top-k](candidates), [typical](candidates), top-p, min-p, temperature, and a draw. A temperature of 0 takes the best
//! token after bias and penalties.
//!
//! The same seed and the same logits give the same tokens on every machine: all arithmetic is IEEE and in one order,
//! exponentials come from `libm`, and the random numbers are SplitMix64 (Steele, Lea, Flood 2014): the n-th draw is a
//! hash of `seed + n · 0x9E3779B97F4A7C15`.

mod candidates;

#[cfg(test)]
mod tests;

use crate::heap;
use candidates::{Candidate, Candidates};
use core::fmt;

/// How to choose. The default is greedy, without penalties.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerConfig<'a> {
    /// Divides the logits: 0 takes the best token, 1 leaves the model's distribution, more flattens it.
    pub temperature: f32,
    /// Keeps this many of the best tokens; 0 for all.
    pub top_k: u32,
    /// Keeps the best tokens that together have this probability; 1 for all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the best; 0 for all.
    pub min_p: f32,
    /// Keeps the tokens whose surprise is nearest to the expected one, up to this probability together
    /// (arXiv 2202.00666); 1 for all.
    pub typical_p: f32,
    /// Divides positive logits, and multiplies negative ones, of tokens among the last ones; 1 for none.
    pub repeat_penalty: f32,
    /// Subtracted from a token's logit for each time that it is among the last ones.
    pub frequency_penalty: f32,
    /// Subtracted once from the logit of every token among the last ones.
    pub presence_penalty: f32,
    /// How many tokens the penalties look back.
    pub penalty_last_n: u32,
    /// Added to the logits of these tokens; minus infinity forbids one.
    pub logit_bias: &'a [(u32, f32)],
    /// Start of the random numbers.
    pub seed: u64,
}

impl Default for SamplerConfig<'_> {
    fn default() -> Self {
        SamplerConfig {
            temperature: 0.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_last_n: 64,
            logit_bias: &[],
            seed: 0,
        }
    }
}

/// What cannot be done.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum SamplerError {
    /// An option outside its range.
    Option { name: &'static str, found: f32, expected: &'static str },
    /// A bias for a token that does not exist.
    BiasedToken { id: u32, vocabulary: usize },
    /// More tokens than can be numbered.
    Vocabulary { found: usize },
    /// Less memory than [`Sampler::bytes_needed`].
    MemoryTooSmall { needed: usize, found: usize },
    /// Logits of another length than the vocabulary.
    Logits { found: usize, expected: usize },
    /// No token has a logit that is a number, or all are forbidden.
    NothingToChoose,
}

impl fmt::Display for SamplerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use SamplerError::*;
        match self {
            Option { name, found, expected } => write!(f, "{name} is {found}; expected {expected}"),
            BiasedToken { id, vocabulary } => write!(f, "a bias for token {id}, but the vocabulary has {vocabulary}"),
            Vocabulary { found } => write!(f, "a vocabulary of {found} tokens is too large to sample from"),
            MemoryTooSmall { needed, found } => write!(f, "the sampler needs {needed} bytes, but was given {found}"),
            Logits { found, expected } => write!(f, "{found} logits for a vocabulary of {expected}"),
            NothingToChoose => f.write_str("no token can be chosen: every logit is forbidden or not a number"),
        }
    }
}

impl core::error::Error for SamplerError {}

/// Chooses tokens; remembers the last ones for the penalties.
pub struct Sampler<'a> {
    config: SamplerConfig<'a>,
    vocabulary: usize,
    /// The last tokens, a ring.
    last: &'a mut [u32],
    /// How many tokens were ever put into the ring.
    accepted: usize,
    /// The ring's tokens, sorted: counted before each choice.
    sorted: &'a mut [u32],
    candidates: &'a mut [Candidate],
    draws: u64,
}

/// Elements of each array in the sampler's memory.
struct Layout {
    last: usize,
    candidates: usize,
}

impl Layout {
    fn of(vocabulary: usize, config: &SamplerConfig<'_>) -> Result<Layout, SamplerError> {
        let range = |name, found: f32, within: bool, expected| {
            if within { Ok(()) } else { Err(SamplerError::Option { name, found, expected }) }
        };
        let fraction = |name, value: f32| range(name, value, (0.0..=1.0).contains(&value), "a number from 0 to 1");
        let finite = |name, value: f32| range(name, value, value.is_finite(), "a finite number");
        let temperature = config.temperature;
        range("temperature", temperature, temperature >= 0.0 && temperature.is_finite(), "a number from 0")?;
        fraction("top-p", config.top_p)?;
        fraction("min-p", config.min_p)?;
        fraction("typical-p", config.typical_p)?;
        let repeat = config.repeat_penalty;
        range("repeat penalty", repeat, repeat > 0.0 && repeat.is_finite(), "a number above 0")?;
        finite("frequency penalty", config.frequency_penalty)?;
        finite("presence penalty", config.presence_penalty)?;
        if vocabulary >= 1 << 28 {
            return Err(SamplerError::Vocabulary { found: vocabulary });
        }
        for &(id, bias) in config.logit_bias {
            range("logit bias", bias, !bias.is_nan(), "a number")?;
            if id as usize >= vocabulary {
                return Err(SamplerError::BiasedToken { id, vocabulary });
            }
        }
        if config.penalty_last_n >= 1 << 28 {
            let found = config.penalty_last_n as f32;
            return Err(SamplerError::Option { name: "penalty length", found, expected: "fewer than 2^28 tokens" });
        }
        let penalties = repeat != 1.0 || config.frequency_penalty != 0.0 || config.presence_penalty != 0.0;
        let top_k = if config.top_k == 0 { vocabulary } else { vocabulary.min(config.top_k as usize) };
        Ok(Layout {
            last: if penalties { config.penalty_last_n as usize } else { 0 },
            candidates: if temperature == 0.0 { 0 } else { top_k },
        })
    }

    fn bytes(&self) -> usize {
        8 * self.last + size_of::<Candidate>() * self.candidates + 3
    }
}

impl<'a> Sampler<'a> {
    /// Bytes of memory that [`Self::new`] needs, wherever the memory lies: eight for each candidate (`top_k`, or the
    /// vocabulary without it; none at temperature 0) and for each token that penalties look back at.
    pub fn bytes_needed(vocabulary: usize, config: &SamplerConfig<'_>) -> Result<usize, SamplerError> {
        Ok(Layout::of(vocabulary, config)?.bytes())
    }

    /// A sampler over `vocabulary` logits.
    pub fn new(vocabulary: usize, config: SamplerConfig<'a>, mem: &'a mut [u8]) -> Result<Self, SamplerError> {
        let layout = Layout::of(vocabulary, &config)?;
        let error = SamplerError::MemoryTooSmall { needed: layout.bytes(), found: mem.len() };
        let words = bytemuck::pod_align_to_mut::<u8, u32>(mem).1;
        let (last, rest) = words.split_at_mut_checked(layout.last).ok_or(error)?;
        let (sorted, rest) = rest.split_at_mut_checked(layout.last).ok_or(error)?;
        let candidates = rest.get_mut(..2 * layout.candidates).ok_or(error)?;
        // A candidate is two words, so that this cannot fail.
        let candidates = bytemuck::try_cast_slice_mut(candidates).map_err(|_| error)?;
        Ok(Sampler { config, vocabulary, last, accepted: 0, sorted, candidates, draws: 0 })
    }

    /// Forgets the last tokens and starts the random numbers again.
    pub fn reset(&mut self) {
        (self.accepted, self.draws) = (0, 0);
    }

    /// Takes note of a token that is now part of the text: of the prompt's, if penalties are to see them, and of each one
    /// chosen.
    pub fn accept(&mut self, id: u32) {
        if let Some(at) = self.accepted.checked_rem(self.last.len()) {
            self.last[at] = id;
            // Stays right after a wrap of the counter, which no text reaches.
            self.accepted = self.accepted.wrapping_add(1).max(1);
        }
    }

    /// Chooses a token. Bias and penalties are applied to `logits` in place. A logit that is not a number, or is minus
    /// infinity, is never chosen; of equally good ones the lowest id goes first.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32, SamplerError> {
        if logits.len() != self.vocabulary {
            return Err(SamplerError::Logits { found: logits.len(), expected: self.vocabulary });
        }
        for &(id, bias) in self.config.logit_bias {
            logits[id as usize] += bias;
        }
        self.penalise(logits);
        let config = self.config;
        if config.temperature == 0.0 {
            return candidates::best(logits).ok_or(SamplerError::NothingToChoose);
        }
        let chance = self.next_random();
        let mut candidates = Candidates::best_of(logits, self.candidates);
        candidates.typical(config.typical_p);
        candidates.top_p(config.top_p);
        candidates.min_p(config.min_p);
        candidates.draw(config.temperature, chance).ok_or(SamplerError::NothingToChoose)
    }

    fn penalise(&mut self, logits: &mut [f32]) {
        let len = self.accepted.min(self.last.len());
        let sorted = &mut self.sorted[..len];
        sorted.copy_from_slice(&self.last[..len]);
        heap::sort(sorted, |a, b| a < b);
        for same in sorted.chunk_by(|a, b| a == b) {
            let Some(logit) = logits.get_mut(same[0] as usize) else { continue };
            let repeat = self.config.repeat_penalty;
            *logit = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
            *logit -= same.len() as f32 * self.config.frequency_penalty + self.config.presence_penalty;
        }
    }

    /// Uniform in [0, 1), of 53 bits.
    fn next_random(&mut self) -> f64 {
        self.draws = self.draws.wrapping_add(1);
        let mut z = self.config.seed.wrapping_add(self.draws.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
