//! A session's state as bytes: what was computed for a prompt, kept and brought back without computing it again.
//!
//! ```text
//! magic "drupeKV1" | fingerprint u64 | position u64 | written u64 | payload length u64 | checksum u64 | zeros to 64
//! payload: for each layer, for each KV head: keys of the used slots; then the same of the values | logits f32 [vocab]
//! ```
//! Little-endian. The checksum covers what stands before it, and each of the payload's stretches in turn. A state is only ever taken back by a session of the same model, context, batch, sinks and KV format:
//! the fingerprint covers them and a sample of the weights. Every field is checked before anything is changed, so a hostile file
//! can do no more than put wrong numbers into keys and values.

use crate::model::Model;
use crate::session::Session;
use crate::weights::{Weights, WeightsError};
use core::fmt::Write;
use core::ops::Range;

const MAGIC: &[u8; 8] = b"drupeKV1";
const HEADER: usize = 64;
/// Where the checksum stands in the header. Zeros follow.
const CHECKSUM: Range<usize> = 40..48;

/// Positions beyond this are refused: angles would lose their last digits.
const MAX_POSITION: u64 = 1 << 48;

/// Why a state could not be saved or taken back. The session is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateError {
    /// The buffer, or the state, has another length than this session's.
    Length {
        /// Bytes given.
        found: u64,
        /// Bytes needed.
        expected: u64,
    },
    /// The bytes do not begin like a state.
    Magic,
    /// The state is of another model or configuration.
    Fingerprint {
        /// In the state.
        found: u64,
        /// Of this session.
        expected: u64,
    },
    /// A position that no session can have.
    Position {
        /// In the state.
        found: u64,
    },
    /// The payload was damaged.
    Checksum,
    /// The weights could not be sampled.
    Weights(WeightsError),
}

impl core::fmt::Display for StateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            StateError::Length { found, expected } => {
                write!(f, "the state has {found} bytes; this session's has {expected}")
            }
            StateError::Magic => write!(f, "not a saved session: it does not begin with \"drupeKV1\""),
            StateError::Fingerprint { found, expected } => write!(
                f,
                "the state is of another model or configuration (fingerprint {found:016x}, expected {expected:016x})"
            ),
            StateError::Position { found } => write!(f, "the state claims the impossible position {found}"),
            StateError::Checksum => write!(f, "the state is damaged: its checksum does not match"),
            StateError::Weights(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for StateError {}

/// A 64-bit hash in the manner of FNV-1a, eight bytes at a time. Guards against accidents, not against forgery.
struct Hash(u64);

impl Hash {
    fn new() -> Hash {
        Hash(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        let mut step = |word: [u8; 8]| {
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        };
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            step(word);
        }
        let rest = chunks.remainder();
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        word[7] = 0x80 | rest.len() as u8;
        step(word);
    }
}

impl Write for Hash {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        self.add(s.as_bytes());
        Ok(())
    }
}

/// Calls `each` with the range of every used part of the cache, in the order of the payload.
fn used_cache(model: &Model, written: u64, each: &mut dyn FnMut(Range<usize>)) {
    let heads = model.recipe().kv_heads as u64;
    for s in model.shapes {
        let slots = s.slots().max(1) as u64;
        let values = s.offset + heads * s.key_head_bytes;
        for (base, head_bytes) in [(s.offset, s.key_head_bytes), (values, s.value_head_bytes)] {
            let len = (head_bytes / slots * written.min(slots)) as usize;
            for head in 0..heads {
                let start = (base + head * head_bytes) as usize;
                each(start..start + len);
            }
        }
    }
}

impl Session<'_> {
    /// Bytes of the payload when `written` positions have been written.
    fn payload_len(&self, written: u64) -> u64 {
        let mut sum = 4 * self.model().recipe().vocab as u64;
        used_cache(self.model(), written, &mut |range| sum += range.len() as u64);
        sum
    }

    /// Bytes that [`Session::save`] writes now.
    pub fn state_bytes(&self) -> u64 {
        HEADER as u64 + self.payload_len(self.written())
    }

    fn fingerprint(&self, weights: &mut dyn Weights) -> Result<u64, StateError> {
        let mut hash = Hash::new();
        let c = self.model().plan().config;
        // The writer cannot fail.
        let _ = write!(hash, "{:?} {} {} {} {:?}", self.model().recipe(), c.ctx, c.batch, c.sinks, c.kv);
        let layers = self.model().layers();
        let globals = self.model().globals();
        let sample = [Some(&globals.token_embedding), Some(&globals.output_norm)];
        let inner = [layers.first().map(|l| &l.q), layers.get(layers.len() / 2).map(|l| &l.down)];
        for tensor in sample.into_iter().chain(inner).flatten().filter(|t| t.present()) {
            hash.add(weights.rows(tensor, 0..1).map_err(StateError::Weights)?);
        }
        Ok(hash.0)
    }

    /// Writes the state into `out`, which has exactly [`Session::state_bytes`] bytes. `weights` is sampled to tell models
    /// apart.
    pub fn save(&self, weights: &mut dyn Weights, out: &mut [u8]) -> Result<(), StateError> {
        let expected = self.state_bytes();
        if out.len() as u64 != expected {
            return Err(StateError::Length { found: out.len() as u64, expected });
        }
        let mut rest = out;
        self.save_to(weights, &mut |bytes| {
            let (part, others) = core::mem::take(&mut rest).split_at_mut(bytes.len());
            part.copy_from_slice(bytes);
            rest = others;
        })
    }

    /// Hands the state to `put`, stretch by stretch, straight from where it lies: [`Session::state_bytes`] in all.
    pub fn save_to(&self, weights: &mut dyn Weights, put: &mut dyn FnMut(&[u8])) -> Result<(), StateError> {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        let fields = [self.fingerprint(weights)?, self.position(), self.written(), self.payload_len(self.written())];
        for (slot, field) in header[8..CHECKSUM.start].chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        let mut hash = Hash::new();
        hash.add(&header[..CHECKSUM.start]);
        self.each_stretch(&mut |bytes| hash.add(bytes));
        header[CHECKSUM].copy_from_slice(&hash.0.to_le_bytes());
        put(&header);
        self.each_stretch(put);
        Ok(())
    }

    /// The payload, stretch by stretch.
    fn each_stretch(&self, each: &mut dyn FnMut(&[u8])) {
        used_cache(self.model(), self.written(), &mut |range| each(&self.buffers.cache[range]));
        each(bytemuck::cast_slice(&self.buffers.logits[..self.model().recipe().vocab as usize]));
    }

    /// The checksum that a header and a payload of the right length for `written` positions should have.
    fn checksum(&self, written: u64, header: &[u8], payload: &[u8]) -> u64 {
        let mut hash = Hash::new();
        hash.add(&header[..CHECKSUM.start]);
        let mut rest = payload;
        used_cache(self.model(), written, &mut |range| {
            let (part, others) = rest.split_at(range.len());
            hash.add(part);
            rest = others;
        });
        hash.add(rest);
        hash.0
    }

    /// Takes a state back. On an error nothing has changed.
    pub fn restore(&mut self, weights: &mut dyn Weights, state: &[u8]) -> Result<(), StateError> {
        let Some((header, payload)) = state.split_at_checked(HEADER) else {
            return Err(StateError::Length { found: state.len() as u64, expected: HEADER as u64 });
        };
        if &header[..8] != MAGIC {
            return Err(StateError::Magic);
        }
        let field = |i: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&header[8 + 8 * i..16 + 8 * i]);
            u64::from_le_bytes(word)
        };
        let (found, position, written, len, sum) = (field(0), field(1), field(2), field(3), field(4));
        let expected = self.fingerprint(weights)?;
        if found != expected {
            return Err(StateError::Fingerprint { found, expected });
        }
        if position > written || written > MAX_POSITION {
            return Err(StateError::Position { found: position.max(written) });
        }
        let expected = self.payload_len(written);
        if len != expected || payload.len() as u64 != expected {
            return Err(StateError::Length {
                found: state.len() as u64,
                expected: expected.saturating_add(HEADER as u64),
            });
        }
        if self.checksum(written, header, payload) != sum || header[CHECKSUM.end..].iter().any(|b| *b != 0) {
            return Err(StateError::Checksum);
        }
        if !self.model().shapes.iter().all(|s| s.can_rewind(position, written)) {
            return Err(StateError::Position { found: position });
        }
        let model = *self.model();
        let mut rest = payload;
        let mut copy = |out: &mut [u8]| {
            let (part, others) = rest.split_at(out.len());
            out.copy_from_slice(part);
            rest = others;
        };
        used_cache(&model, written, &mut |range| copy(&mut self.buffers.cache[range]));
        copy(bytemuck::cast_slice_mut(&mut self.buffers.logits[..model.recipe().vocab as usize]));
        self.set_position(position, written);
        Ok(())
    }
}
