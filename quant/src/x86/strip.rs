//! The way for a prefill with 16 registers: the groups of a block are first unpacked into memory (the strip, which stays
//! in the first-level cache), then multiplied with four tokens at a time, whose sums stay in registers. One vector of
//! weights serves four products, and a loop over the tokens is entered once for eight groups.
//!
//! ```text
//! strip : weights [8 groups, 8 vectors] (signed ones: sizes and signs) | scales | minima, or what signs add
//! panel : entries [chunks of 8 groups, tokens] = 32 activations [8 groups] | tail
//! tail  : one by one: (scale f32 | side, 4 bytes) [8 groups]
//!         with sums : scale f32 | sums of activations, i16 × 8 (of 32) or × 16 (of 16)
//! ```
//! A row's last chunk may have fewer groups. Sums and their order are those of [`super::tile`].

use super::ahead::{Ahead, ask_line};
use super::simd::Simd;
use super::tile::{Side, Sink, end_block, float, four};
use crate::act::{ActKind, Acts};

/// Vectors of the strip's parts: weights, or sizes and signs; scales; minima, or what signs add.
const WEIGHTS: usize = 2 * 64;
const SCALES: usize = 16;
const MORE: usize = 8;

/// Bytes of a strip.
pub(super) const fn strip_bytes<S: Simd>() -> usize {
    4 * S::LANES * (WEIGHTS + SCALES + MORE)
}

impl Side {
    /// Bytes of a chunk's entry.
    const fn chunk(self) -> usize {
        match self {
            Side::Offset(_) | Side::Min => 256 + 64,
            Side::Sums => 256 + 20,
            Side::Sums16 => 256 + 36,
        }
    }
}

/// The most bytes that a token's `cols` activations take in a panel.
pub(super) const fn panel_bytes(cols: usize) -> usize {
    cols.div_ceil(256) * 320
}

/// Groups multiplied by the block, with tiles of tokens.
pub(super) struct Strip<S: Simd> {
    groups: usize,
    tokens: usize,
    panel: *const u8,
    /// `[tokens, LANES]`.
    acc: *mut f32,
    strip: *mut S::I,
    /// Groups in the strip.
    held: usize,
    /// The next weights to ask for, and how many bytes of them for each group.
    ahead: *const u8,
    step: usize,
}

/// A chunk of groups in the strip, and what they do to a tile of tokens.
trait Chunk<S: Simd> {
    /// Bytes of an entry.
    const ENTRY: usize;

    /// Adds the chunk to the accumulators of `T` tokens, whose entries and accumulators follow one another.
    ///
    /// # Safety
    /// `T` entries of this chunk must be at `from`, `T` accumulators at `acc`; the conditions of [`super::simd`].
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32);
}

impl<S: Simd> Strip<S> {
    /// Fills the panel with `tokens` tokens from token `first` on, for a format with this `side`.
    ///
    /// # Safety
    /// `panel` has room for `tokens` times [`panel_bytes`], `acc` for `tokens · LANES` floats, `strip` for
    /// [`strip_bytes`].
    #[inline(always)]
    pub unsafe fn fill(
        side: Side,
        acts: &Acts,
        first: usize,
        tokens: usize,
        panel: *mut u8,
        acc: *mut f32,
        strip: *mut u8,
    ) -> Self {
        let stride = acts.kind.stride(acts.cols);
        let (qs, scales, sums) = (acts.qs(first), acts.scales(first), acts.sums(first));
        let groups = acts.cols / 32;
        let shift = if acts.kind == ActKind::Q8K { 3 } else { 0 };
        let mut to = panel;
        for chunk in (0..groups).step_by(8) {
            let here = (groups - chunk).min(8);
            for t in 0..tokens {
                // SAFETY: token `first + t`'s record lies `t · stride` after token `first`'s; the entries are in the panel.
                unsafe {
                    let qs = qs.as_ptr().add(32 * chunk).byte_add(t * stride).cast();
                    core::ptr::copy_nonoverlapping(qs, to, 32 * here);
                    let sums = sums.as_ptr().add(2 * chunk).byte_add(t * stride);
                    // At most 32 · 127.
                    let sum = |g: usize| *sums.add(2 * g) + *sums.add(2 * g + 1);
                    let scale = |g: usize| *scales.as_ptr().add((chunk + g) >> shift).byte_add(t * stride);
                    let tail = to.add(256);
                    match side {
                        Side::Offset(by) => (0..here).for_each(|g| {
                            tail.add(8 * g).cast::<f32>().write(scale(g));
                            tail.add(8 * g + 4).cast::<i32>().write(-by * sum(g) as i32);
                        }),
                        Side::Min => (0..here).for_each(|g| {
                            tail.add(8 * g).cast::<f32>().write(scale(g));
                            tail.add(8 * g + 4).cast::<f32>().write(scale(g) * sum(g) as f32);
                        }),
                        Side::Sums => {
                            tail.cast::<f32>().write(scale(0));
                            (0..8).for_each(|g| tail.add(4).cast::<i16>().add(g).write(sum(g)));
                        }
                        Side::Sums16 => {
                            tail.cast::<f32>().write(scale(0));
                            core::ptr::copy_nonoverlapping(sums, tail.add(4).cast(), 16);
                        }
                    }
                    to = to.add(side.chunk());
                }
            }
        }
        Strip { groups, tokens, panel, acc, strip: strip.cast(), held: 0, ahead: panel, step: 0 }
    }

    #[inline(always)]
    unsafe fn put(&mut self, at: usize, x: S::I) {
        // SAFETY: inside the strip, which is aligned to 64.
        unsafe { self.strip.add(at).write(x) }
    }

    /// Keeps a group's weights.
    #[inline(always)]
    unsafe fn hold(&mut self, w: &[S::I; 8]) {
        for (j, w) in w.iter().enumerate() {
            unsafe { self.put(8 * self.held + j, *w) }
        }
    }

    /// Whether group `g` of the row makes the strip full, or is the last.
    #[inline(always)]
    fn full(&mut self, g: usize) -> bool {
        self.held += 1;
        self.held == 8 || g + 1 == self.groups
    }

    /// The chunk with group `g`, with all tokens: by fours, then one by one. The next weights are asked for in
    /// between, as in [`super::tile`].
    #[inline(always)]
    unsafe fn run<C: Chunk<S>>(&mut self, g: usize, chunk: &C) {
        let next = self.ahead.wrapping_add(self.step * self.held);
        let (mut t, mut ahead) = (0, self.ahead);
        // SAFETY: inside the panel and the accumulators.
        unsafe {
            let panel = self.panel.add(g / 8 * self.tokens * C::ENTRY);
            while t + 4 <= self.tokens {
                chunk.add::<4>(panel.add(t * C::ENTRY), self.acc.add(t * S::LANES));
                ahead = ask(ahead, next, 2);
                t += 4;
            }
            while t < self.tokens {
                chunk.add::<1>(panel.add(t * C::ENTRY), self.acc.add(t * S::LANES));
                t += 1;
            }
        }
        ask(ahead, next, usize::MAX);
        self.ahead = next;
        self.held = 0;
    }
}

/// Asks for up to `lines` lines; returns where it stopped.
#[inline(always)]
fn ask(mut at: *const u8, end: *const u8, lines: usize) -> *const u8 {
    let mut left = lines;
    while at < end && left > 0 {
        ask_line(at);
        at = at.wrapping_add(64);
        left -= 1;
    }
    at
}

// SAFETY (of the blocks): the conditions of [`Sink`]; the strip has room for 8 groups.
impl<S: Simd> Sink<S> for Strip<S> {
    #[inline(always)]
    unsafe fn begin(&mut self, ahead: Ahead) {
        if let Ahead::Side { at, step } = ahead {
            (self.ahead, self.step) = (at, step);
        }
        for t in 0..self.tokens {
            unsafe { S::store_f(self.acc.add(t * S::LANES), S::splat_f(0.0)) };
        }
    }

    #[inline(always)]
    unsafe fn result(&self, t: usize) -> S::F {
        unsafe { S::load_f(self.acc.add(t * S::LANES)) }
    }

    #[inline(always)]
    unsafe fn offset<const MAX: i32>(&mut self, g: usize, w: &[S::I; 8], scale: S::F) {
        unsafe {
            self.hold(w);
            self.put(WEIGHTS + self.held, S::as_i(scale));
            if self.full(g) {
                self.run(g, &Offset::<S, MAX> { strip: self.strip, groups: self.held })
            }
        }
    }

    #[inline(always)]
    unsafe fn signed(&mut self, g: usize, w: &[S::I; 8], scale: S::F) {
        unsafe {
            let (sizes, signs, more) = S::sizes(w);
            self.hold(&sizes);
            for (j, sign) in signs.iter().enumerate() {
                self.put(WEIGHTS / 2 + 8 * self.held + j, *sign);
            }
            self.put(WEIGHTS + self.held, S::as_i(scale));
            self.put(WEIGHTS + SCALES + self.held, more);
            if self.full(g) {
                self.run(g, &Signed::<S> { strip: self.strip, groups: self.held })
            }
        }
    }

    #[inline(always)]
    unsafe fn min<const MAX: i32>(&mut self, g: usize, w: &[S::I; 8], scale: S::F, min: S::F) {
        unsafe {
            self.hold(w);
            self.put(WEIGHTS + self.held, S::as_i(scale));
            self.put(WEIGHTS + SCALES + self.held, S::as_i(min));
            if self.full(g) {
                self.run(g, &Min::<S, MAX> { strip: self.strip, groups: self.held })
            }
        }
    }

    #[inline(always)]
    unsafe fn scaled<const MAX: i32>(&mut self, g: usize, w: &[S::I; 8], scale: S::I) {
        unsafe {
            self.held = g % 8;
            self.hold(w);
            self.put(WEIGHTS + self.held, S::scale(scale));
        }
    }

    #[inline(always)]
    unsafe fn scaled16<const MAX: i32>(&mut self, h: usize, w: &[S::I; 4], scale: S::I) {
        unsafe {
            for (j, w) in w.iter().enumerate() {
                self.put(4 * (h % 16) + j, *w);
            }
            self.put(WEIGHTS + h % 16, S::scale(scale));
        }
    }

    #[inline(always)]
    unsafe fn finish<const MAX: i32, const P: usize>(&mut self, b: usize, d: S::F, m: S::F, pairs: &[S::I; P]) {
        self.held = 8;
        unsafe { self.run(8 * b, &Sums::<S, MAX, P> { strip: self.strip, d, m, pairs }) }
    }
}

/// Eight vectors of the strip.
#[inline(always)]
unsafe fn eight<'s, S: Simd>(strip: *const S::I, at: usize) -> &'s [S::I; 8] {
    // SAFETY: inside the strip, which is aligned to 64 and not written while a chunk runs.
    unsafe { &*strip.add(at).cast() }
}

struct Offset<S: Simd, const MAX: i32> {
    strip: *const S::I,
    groups: usize,
}

// SAFETY (of the blocks in this and the next implementations): the conditions of [`Chunk::add`].
impl<S: Simd, const MAX: i32> Chunk<S> for Offset<S, MAX> {
    const ENTRY: usize = Side::Offset(0).chunk();

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            let mut sums = load::<S, T>(acc);
            let mut tail = from.add(256);
            for g in 0..self.groups {
                let mut dot = [S::splat(0); T];
                for (t, dot) in dot.iter_mut().enumerate() {
                    *dot = four::<S>(tail.add(t * Self::ENTRY + 4));
                }
                let dot = S::dot::<T, 8, MAX>(dot, eight::<S>(self.strip, 8 * g), from.add(32 * g).cast(), Self::ENTRY);
                one_by_one::<S, T>(&mut sums, dot, *self.strip.add(WEIGHTS + g), tail);
                tail = tail.add(8);
            }
            store::<S, T>(acc, sums);
        }
    }
}

struct Signed<S: Simd> {
    strip: *const S::I,
    groups: usize,
}

impl<S: Simd> Chunk<S> for Signed<S> {
    const ENTRY: usize = Side::Offset(0).chunk();

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            let mut sums = load::<S, T>(acc);
            let mut tail = from.add(256);
            for g in 0..self.groups {
                let (sizes, signs) = (eight::<S>(self.strip, 8 * g), eight::<S>(self.strip, WEIGHTS / 2 + 8 * g));
                let more = *self.strip.add(WEIGHTS + SCALES + g);
                let dot = S::dot_sizes::<T>([more; T], sizes, signs, from.add(32 * g).cast(), Self::ENTRY);
                one_by_one::<S, T>(&mut sums, dot, *self.strip.add(WEIGHTS + g), tail);
                tail = tail.add(8);
            }
            store::<S, T>(acc, sums);
        }
    }
}

struct Min<S: Simd, const MAX: i32> {
    strip: *const S::I,
    groups: usize,
}

impl<S: Simd, const MAX: i32> Chunk<S> for Min<S, MAX> {
    const ENTRY: usize = Side::Min.chunk();

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            let mut sums = load::<S, T>(acc);
            let mut tail = from.add(256);
            for g in 0..self.groups {
                let w = eight::<S>(self.strip, 8 * g);
                let dot = S::dot::<T, 8, MAX>([S::splat(0); T], w, from.add(32 * g).cast(), Self::ENTRY);
                one_by_one::<S, T>(&mut sums, dot, *self.strip.add(WEIGHTS + g), tail);
                let min = S::as_f(*self.strip.add(WEIGHTS + SCALES + g));
                for (t, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(min, float::<S>(tail.add(t * Self::ENTRY + 4)), *sum);
                }
                tail = tail.add(8);
            }
            store::<S, T>(acc, sums);
        }
    }
}

struct Sums<'p, S: Simd, const MAX: i32, const P: usize> {
    strip: *const S::I,
    d: S::F,
    m: S::F,
    pairs: &'p [S::I; P],
}

impl<S: Simd, const MAX: i32, const P: usize> Chunk<S> for Sums<'_, S, MAX, P> {
    const ENTRY: usize = if P == 8 { Side::Sums16.chunk() } else { Side::Sums.chunk() };

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            let mut sums = [S::splat(0); T];
            for g in 0..8 {
                let (w, from): (_, *const i8) = (eight::<S>(self.strip, 8 * g), from.add(32 * g).cast());
                if P == 8 {
                    let [low, high]: &[[S::I; 4]; 2] = &*core::ptr::from_ref(w).cast();
                    sums = S::scaled::<T, 4, MAX>(sums, low, *self.strip.add(WEIGHTS + 2 * g), from, Self::ENTRY);
                    let scale = *self.strip.add(WEIGHTS + 2 * g + 1);
                    sums = S::scaled::<T, 4, MAX>(sums, high, scale, from.add(16), Self::ENTRY);
                } else {
                    sums = S::scaled::<T, 8, MAX>(sums, w, *self.strip.add(WEIGHTS + g), from, Self::ENTRY);
                }
            }
            for (t, sum) in sums.into_iter().enumerate() {
                let tail = from.add(256 + t * Self::ENTRY);
                end_block::<S, P>(acc.add(t * S::LANES), sum, tail, (self.d, self.m), self.pairs);
            }
        }
    }
}

/// `sums += dot · (scale · the activations' scales)`.
#[inline(always)]
unsafe fn one_by_one<S: Simd, const T: usize>(sums: &mut [S::F; T], dot: [S::I; T], scale: S::I, tail: *const u8) {
    // SAFETY: the conditions of [`Chunk::add`].
    unsafe {
        for (t, (sum, dot)) in sums.iter_mut().zip(dot).enumerate() {
            let scale = S::mulf(S::as_f(scale), float::<S>(tail.add(t * Side::Min.chunk())));
            *sum = S::fma(S::to_f(dot), scale, *sum);
        }
    }
}

#[inline(always)]
unsafe fn load<S: Simd, const T: usize>(acc: *const f32) -> [S::F; T] {
    // SAFETY: the conditions of [`Chunk::add`].
    unsafe {
        let mut all = [S::splat_f(0.0); T];
        for (t, x) in all.iter_mut().enumerate() {
            *x = S::load_f(acc.add(t * S::LANES));
        }
        all
    }
}

#[inline(always)]
unsafe fn store<S: Simd, const T: usize>(acc: *mut f32, all: [S::F; T]) {
    for (t, x) in all.into_iter().enumerate() {
        // SAFETY: the conditions of [`Chunk::add`].
        unsafe { S::store_f(acc.add(t * S::LANES), x) }
    }
}
