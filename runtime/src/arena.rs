//! The one block of memory that everything lives in.
//!
//! ```text
//! | model: layer table | KV ring table | session: kv | stream | mixer/ffn | acts | rope | logits | scratch | ...
//! ^ 64-byte aligned; every part starts at a multiple of 64
//! ```
//! "How much" and "carve" are the same arithmetic: a part of `n` bytes costs [`Arena::cost`]`(n)`.

use bytemuck::Pod;

/// The arena is smaller than the plan, or not aligned to 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaTooSmall {
    /// Bytes that the plan needs from here on.
    pub needed: u64,
    /// Bytes that are left.
    pub given: u64,
}

impl core::fmt::Display for ArenaTooSmall {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the arena is too small: {} bytes needed (aligned to 64), {} given", self.needed, self.given)
    }
}

impl core::error::Error for ArenaTooSmall {}

/// Memory handed in by the caller, given out part by part.
pub struct Arena<'a> {
    rest: &'a mut [u8],
}

impl<'a> Arena<'a> {
    /// Every part starts at a multiple of this.
    pub const ALIGN: usize = 64;

    /// An arena over `memory`. Up to 63 bytes are lost if it is not aligned to 64.
    pub fn new(memory: &'a mut [u8]) -> Self {
        let skip = memory.as_ptr().align_offset(Self::ALIGN).min(memory.len());
        Arena { rest: &mut memory[skip..] }
    }

    /// Bytes that a part of `bytes` takes.
    pub const fn cost(bytes: u64) -> u64 {
        bytes.div_ceil(Self::ALIGN as u64) * Self::ALIGN as u64
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` elements, aligned to 64 bytes, with whatever the memory held.
    pub fn take<T: Pod>(&mut self, n: usize) -> Result<&'a mut [T], ArenaTooSmall> {
        let bytes = (n as u64).checked_mul(size_of::<T>() as u64).unwrap_or(u64::MAX - 64);
        let cost = Self::cost(bytes);
        let too_small = ArenaTooSmall { needed: cost, given: self.rest.len() as u64 };
        let cost = usize::try_from(cost).ok().filter(|c| *c <= self.rest.len()).ok_or(too_small)?;
        let (part, rest) = core::mem::take(&mut self.rest).split_at_mut(cost);
        self.rest = rest;
        bytemuck::try_cast_slice_mut(&mut part[..bytes as usize]).map_err(|_| too_small)
    }
}
