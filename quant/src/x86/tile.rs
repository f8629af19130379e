//! Where unpacked groups go ([`Sink`]), and the way for few tokens or many registers ([`Direct`]): a tile of tokens with
//! their activations as the kernels read them (the panel), and what a group of weights, in registers, does to all of them.
//!
//! ```text
//! one by one    : entries [groups, tokens] = 32 activations | their scale f32 | side, 4 bytes
//! with sums     : entries [groups, tokens] = 32 activations
//!                 tails   [blocks, tokens] = scale f32 | sums of activations, i16 × 8 (of 32) or × 16 (of 16)
//! ```
//! "With sums" are the blocks of 256 whose groups have unsigned weights and integer scales. The other way is in
//! [`super::strip`].

use super::ahead::Ahead;
use super::simd::Simd;
use crate::act::{ActKind, Acts};
use core::marker::PhantomData;

/// What a format adds for each token beside `scale · Σ w·a`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// One by one: the weights are too large by this. The side is the integer `-offset · Σa`.
    Offset(i32),
    /// One by one, with a minimum. The side is the float `scale of a · Σa`.
    Min,
    /// With sums of each 32 columns.
    Sums,
    /// With sums of each 16 columns.
    Sums16,
}

impl Side {
    const fn entry(self) -> usize {
        match self {
            Side::Offset(_) | Side::Min => 40,
            Side::Sums | Side::Sums16 => 32,
        }
    }

    const fn tail(self) -> usize {
        match self {
            Side::Offset(_) | Side::Min => 0,
            Side::Sums => 20,
            Side::Sums16 => 36,
        }
    }
}

/// The most bytes that a token's `cols` activations take in a panel: 40 for each 32, since `8 · 32 + 36 < 8 · 40`.
pub(super) const fn panel_bytes(cols: usize) -> usize {
    cols.div_ceil(32) * 40
}

/// Where unpacked groups go: all tokens of a tile. Methods that take a group `g` want one of the row, `w` its columns in
/// 8 registers (see [`super::weights`]).
///
/// Safety of all these methods: `g`, `b` and `t` must be of the row and the tile; the conditions of [`super::simd`].
#[allow(clippy::missing_safety_doc)]
pub(super) trait Sink<S: Simd> {
    /// Before a group of rows, whose memory comes as `ahead` says.
    unsafe fn begin(&mut self, ahead: Ahead);

    /// The sums of token `t`.
    unsafe fn result(&self, t: usize) -> S::F;

    /// 32 columns with an offset.
    unsafe fn offset<const MAX: i32>(&mut self, g: usize, w: &[S::I; 8], scale: S::F);

    /// 32 columns of signed weights.
    unsafe fn signed(&mut self, g: usize, w: &[S::I; 8], scale: S::F);

    /// 32 columns with a minimum.
    unsafe fn min<const MAX: i32>(&mut self, g: usize, w: &[S::I; 8], scale: S::F, min: S::F);

    /// 32 columns of a block with sums.
    unsafe fn scaled<const MAX: i32>(&mut self, g: usize, w: &[S::I; 8], scale: S::I);

    /// Columns `16·h..16·h + 16` of the row, of a block with sums of each 16; `w` is four registers.
    unsafe fn scaled16<const MAX: i32>(&mut self, h: usize, w: &[S::I; 4], scale: S::I);

    /// Both halves of group `g` at once, where there are registers for them.
    #[inline(always)]
    unsafe fn pair16<const MAX: i32>(&mut self, g: usize, w: &[[S::I; 4]; 2], scale: [S::I; 2]) {
        unsafe {
            self.scaled16::<MAX>(2 * g, &w[0], scale[0]);
            self.scaled16::<MAX>(2 * g + 1, &w[1], scale[1]);
        }
    }

    /// The end of block `b` of 256, whose groups were [`Sink::scaled`] or (`P` is 8) [`Sink::scaled16`] with this `MAX`:
    /// what has been summed, times `d`, and `m · Σ pairs · (sums of the activations)`, where lane `r` of `pairs[i]` holds
    /// two i16, one for each of two successive sums.
    unsafe fn finish<const MAX: i32, const P: usize>(&mut self, b: usize, d: S::F, m: S::F, pairs: &[S::I; P]);
}

/// Groups multiplied as they come, each with all tokens. With `ONE` there is a single one, and no loop over tokens.
pub(super) struct Direct<S: Simd, const ONE: bool> {
    tokens: usize,
    entries: *const u8,
    tails: *const u8,
    /// `[tokens, LANES]`, and behind them as many sums of the block ([`Simd::scaled`]), zeros between blocks.
    acc: *mut f32,
    ahead: Ahead,
    lanes: PhantomData<S>,
}

/// What a group of columns does to the tokens of a tile, several at a time.
trait Group<S: Simd> {
    /// Bytes of an entry (or tail).
    const ENTRY: usize;

    /// Adds this group to the accumulators (or sums) of `T` tokens, whose entries and accumulators follow one another.
    ///
    /// # Safety
    /// `T` entries of this group must be at `from`, `T` accumulators at `acc`; the conditions of [`super::simd`].
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32);
}

impl<S: Simd, const ONE: bool> Direct<S, ONE> {
    /// Fills the panel with `tokens` tokens from token `first` on, for a format with this `side`.
    ///
    /// # Safety
    /// `panel` has room for `tokens` times [`panel_bytes`], `acc` for `2 · tokens · LANES` floats.
    #[inline(always)]
    pub unsafe fn fill(side: Side, acts: &Acts, first: usize, tokens: usize, panel: *mut u8, acc: *mut f32) -> Self {
        let stride = acts.kind.stride(acts.cols);
        let (qs, scales, sums) = (acts.qs(first), acts.scales(first), acts.sums(first));
        let groups = acts.cols / 32;
        let shift = if acts.kind == ActKind::Q8K { 3 } else { 0 };
        // SAFETY: token `first + t`'s record lies `t · stride` after token `first`'s; the entries are in the panel.
        unsafe {
            let tails = panel.add(groups * tokens * side.entry());
            let mut to = panel;
            for g in 0..groups {
                for t in 0..tokens {
                    core::ptr::copy_nonoverlapping(qs.as_ptr().add(32 * g).byte_add(t * stride).cast(), to, 32);
                    if side.tail() == 0 {
                        let scale = *scales.as_ptr().add(g >> shift).byte_add(t * stride);
                        let sums = sums.as_ptr().add(2 * g).byte_add(t * stride);
                        let sum = *sums as i32 + *sums.add(1) as i32;
                        to.add(32).cast::<f32>().write(scale);
                        match side {
                            Side::Offset(by) => to.add(36).cast::<i32>().write(-by * sum),
                            _ => to.add(36).cast::<f32>().write(scale * sum as f32),
                        }
                    }
                    to = to.add(side.entry());
                }
            }
            let blocks = if side.tail() == 0 { 0 } else { groups / 8 };
            let mut to = tails;
            for b in 0..blocks {
                for t in 0..tokens {
                    to.cast::<f32>().write(*scales.as_ptr().add(b).byte_add(t * stride));
                    let sums = sums.as_ptr().add(16 * b).byte_add(t * stride);
                    let to_sums = to.add(4).cast::<i16>();
                    if side == Side::Sums16 {
                        core::ptr::copy_nonoverlapping(sums, to_sums, 16);
                    } else {
                        // At most 32 · 127.
                        (0..8).for_each(|i| to_sums.add(i).write(*sums.add(2 * i) + *sums.add(2 * i + 1)));
                    }
                    to = to.add(side.tail());
                }
            }
            Direct { tokens, entries: panel, tails, acc, ahead: Ahead::Nothing, lanes: PhantomData }
        }
    }

    #[inline(always)]
    fn tokens(&self) -> usize {
        if ONE { 1 } else { self.tokens }
    }

    /// All tokens: by fours (by twos where there are 16 registers only), so that the sums of one token do not wait for
    /// each other, then one by one.
    #[inline(always)]
    unsafe fn each<G: Group<S>>(&self, mut from: *const u8, mut acc: *mut f32, group: &G) {
        if ONE {
            return unsafe { group.add::<1>(from, acc) };
        }
        let together = if S::LANES == 16 { 4 } else { 2 };
        let mut left = self.tokens();
        // SAFETY: inside the panel and the accumulators.
        unsafe {
            while left >= together {
                if S::LANES == 16 {
                    group.add::<4>(from, acc)
                } else {
                    group.add::<2>(from, acc)
                }
                from = from.wrapping_add(together * G::ENTRY);
                acc = acc.wrapping_add(together * S::LANES);
                left -= together;
            }
            while left > 0 {
                group.add::<1>(from, acc);
                from = from.wrapping_add(G::ENTRY);
                acc = acc.wrapping_add(S::LANES);
                left -= 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn each_entry<G: Group<S>>(&mut self, g: usize, group: &G) {
        self.ahead.ask(S::LANES);
        unsafe { self.each(self.entries.add(g * self.tokens() * G::ENTRY), self.acc, group) }
    }

    #[inline(always)]
    unsafe fn each_sum<G: Group<S>>(&mut self, g: usize, group: &G) {
        self.ahead.ask(S::LANES);
        unsafe {
            let sums = self.acc.add(self.tokens() * S::LANES);
            self.each(self.entries.add(g * self.tokens() * G::ENTRY), sums, group)
        }
    }
}

// SAFETY (of the blocks): the conditions of [`Sink`].
impl<S: Simd, const ONE: bool> Sink<S> for Direct<S, ONE> {
    #[inline(always)]
    unsafe fn begin(&mut self, ahead: Ahead) {
        self.ahead = ahead;
        for t in 0..self.tokens() {
            unsafe {
                S::store_f(self.acc.add(t * S::LANES), S::splat_f(0.0));
                S::store_f(self.acc.add((self.tokens() + t) * S::LANES), S::splat_f(0.0));
            }
        }
    }

    #[inline(always)]
    unsafe fn result(&self, t: usize) -> S::F {
        // SAFETY: `t` is a token of the tile.
        unsafe { S::load_f(self.acc.add(t * S::LANES)) }
    }

    #[inline(always)]
    unsafe fn offset<const MAX: i32>(&mut self, g: usize, w: &[S::I; 8], scale: S::F) {
        unsafe { self.each_entry(g, &Offset::<S, MAX> { w, scale }) }
    }

    #[inline(always)]
    unsafe fn signed(&mut self, g: usize, w: &[S::I; 8], scale: S::F) {
        unsafe { self.each_entry(g, &Offset::<S, SIGNED> { w, scale }) }
    }

    #[inline(always)]
    unsafe fn min<const MAX: i32>(&mut self, g: usize, w: &[S::I; 8], scale: S::F, min: S::F) {
        unsafe { self.each_entry(g, &Min::<S, MAX> { w, scale, min }) }
    }

    #[inline(always)]
    unsafe fn scaled<const MAX: i32>(&mut self, g: usize, w: &[S::I; 8], scale: S::I) {
        unsafe { self.each_sum(g, &Scaled::<S, 8, MAX> { w, scale: S::scale(scale) }) }
    }

    #[inline(always)]
    unsafe fn scaled16<const MAX: i32>(&mut self, h: usize, w: &[S::I; 4], scale: S::I) {
        if h.is_multiple_of(2) {
            self.ahead.ask(S::LANES);
        }
        unsafe {
            let entries = self.entries.add(h / 2 * self.tokens() * Scaled::<S, 4, MAX>::ENTRY + h % 2 * 16);
            let sums = self.acc.add(self.tokens() * S::LANES);
            self.each(entries, sums, &Scaled::<S, 4, MAX> { w, scale: S::scale(scale) })
        }
    }

    #[inline(always)]
    unsafe fn pair16<const MAX: i32>(&mut self, g: usize, w: &[[S::I; 4]; 2], scale: [S::I; 2]) {
        unsafe {
            let scale = [S::scale(scale[0]), S::scale(scale[1])];
            self.each_sum(g, &Pair16::<S, MAX> { w, scale })
        }
    }

    #[inline(always)]
    unsafe fn finish<const MAX: i32, const P: usize>(&mut self, b: usize, d: S::F, m: S::F, pairs: &[S::I; P]) {
        unsafe {
            let tails = self.tails.add(b * self.tokens() * Finish::<S, P>::ENTRY);
            self.each(tails, self.acc, &Finish { d, m, pairs, sums: self.tokens() * S::LANES })
        }
    }
}

/// Instead of a largest weight: signed weights.
const SIGNED: i32 = -1;

/// The float at `at`, in every lane.
#[inline(always)]
pub(super) unsafe fn float<S: Simd>(at: *const u8) -> S::F {
    // SAFETY: inside an entry.
    unsafe { S::splat_f(*at.cast::<f32>()) }
}

/// The four bytes at `at`, in every lane.
#[inline(always)]
pub(super) unsafe fn four<S: Simd>(at: *const u8) -> S::I {
    // SAFETY: inside an entry.
    unsafe { S::splat(*at.cast::<i32>()) }
}

struct Offset<'w, S: Simd, const MAX: i32> {
    w: &'w [S::I; 8],
    scale: S::F,
}

// SAFETY (of the blocks in this and the next implementations): the conditions of [`Group::add`].
impl<S: Simd, const MAX: i32> Group<S> for Offset<'_, S, MAX> {
    const ENTRY: usize = Side::Offset(0).entry();

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            let mut dot = [S::splat(0); T];
            for (t, dot) in dot.iter_mut().enumerate() {
                *dot = four::<S>(from.add(t * Self::ENTRY + 36));
            }
            let dot = if MAX == SIGNED {
                S::dot_signed::<T, 8>(dot, self.w, from.cast(), Self::ENTRY)
            } else {
                S::dot::<T, 8, MAX>(dot, self.w, from.cast(), Self::ENTRY)
            };
            for (t, dot) in dot.into_iter().enumerate() {
                let at = acc.add(t * S::LANES);
                let scale = S::mulf(self.scale, float::<S>(from.add(t * Self::ENTRY + 32)));
                S::store_f(at, S::fma(S::to_f(dot), scale, S::load_f(at)));
            }
        }
    }
}

struct Min<'w, S: Simd, const MAX: i32> {
    w: &'w [S::I; 8],
    scale: S::F,
    min: S::F,
}

impl<S: Simd, const MAX: i32> Group<S> for Min<'_, S, MAX> {
    const ENTRY: usize = Side::Min.entry();

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            let dot = S::dot::<T, 8, MAX>([S::splat(0); T], self.w, from.cast(), Self::ENTRY);
            for (t, dot) in dot.into_iter().enumerate() {
                let (token, at) = (from.add(t * Self::ENTRY), acc.add(t * S::LANES));
                let sum = S::fma(S::to_f(dot), S::mulf(self.scale, float::<S>(token.add(32))), S::load_f(at));
                S::store_f(at, S::fma(self.min, float::<S>(token.add(36)), sum));
            }
        }
    }
}

#[inline(always)]
unsafe fn load<S: Simd, const T: usize>(sums: *const f32) -> [S::I; T] {
    // SAFETY: the conditions of [`Group::add`].
    unsafe {
        let mut all = [S::splat(0); T];
        for (t, x) in all.iter_mut().enumerate() {
            *x = S::load(sums.add(t * S::LANES).cast());
        }
        all
    }
}

#[inline(always)]
unsafe fn store<S: Simd, const T: usize>(sums: *mut f32, all: [S::I; T]) {
    for (t, x) in all.into_iter().enumerate() {
        // SAFETY: the conditions of [`Group::add`].
        unsafe { S::store_f(sums.add(t * S::LANES), S::as_f(x)) }
    }
}

/// `4 · N` columns with one scale. Entries of both kinds with sums are of the same size.
struct Scaled<'w, S: Simd, const N: usize, const MAX: i32> {
    w: &'w [S::I; N],
    scale: S::I,
}

impl<S: Simd, const N: usize, const MAX: i32> Group<S> for Scaled<'_, S, N, MAX> {
    const ENTRY: usize = Side::Sums.entry();

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            let sums = load::<S, T>(acc);
            store::<S, T>(acc, S::scaled::<T, N, MAX>(sums, self.w, self.scale, from.cast(), Self::ENTRY));
        }
    }
}

struct Pair16<'w, S: Simd, const MAX: i32> {
    w: &'w [[S::I; 4]; 2],
    scale: [S::I; 2],
}

impl<S: Simd, const MAX: i32> Group<S> for Pair16<'_, S, MAX> {
    const ENTRY: usize = Side::Sums16.entry();

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            let from: *const i8 = from.cast();
            let sums = load::<S, T>(acc);
            let sums = S::scaled::<T, 4, MAX>(sums, &self.w[0], self.scale[0], from, Self::ENTRY);
            store::<S, T>(acc, S::scaled::<T, 4, MAX>(sums, &self.w[1], self.scale[1], from.add(16), Self::ENTRY));
        }
    }
}

/// The end of a block of 256: its `sum` times `d`, less or more what its minima (or offsets) make with the activations'
/// sums at `tail`, times the activations' scale, onto the accumulator at `at`.
#[inline(always)]
pub(super) unsafe fn end_block<S: Simd, const P: usize>(
    at: *mut f32,
    sum: S::I,
    tail: *const u8,
    (d, m): (S::F, S::F),
    pairs: &[S::I; P],
) {
    // SAFETY: the conditions of [`Group::add`]; a tail's scale is followed by its sums.
    unsafe {
        // At most 16 · 2^12 · 2^11 in size.
        let mut corrections = S::splat(0);
        for (i, pair) in pairs.iter().enumerate() {
            corrections = S::add(corrections, S::madd16(*pair, four::<S>(tail.add(4 + 4 * i))));
        }
        let sum = S::fma(S::to_f(corrections), m, S::mulf(S::total(sum), d));
        S::store_f(at, S::fma(sum, float::<S>(tail), S::load_f(at)));
    }
}

struct Finish<'w, S: Simd, const P: usize> {
    d: S::F,
    m: S::F,
    pairs: &'w [S::I; P],
    /// Floats from an accumulator to its sum.
    sums: usize,
}

impl<S: Simd, const P: usize> Group<S> for Finish<'_, S, P> {
    const ENTRY: usize = 4 + 4 * P;

    #[inline(always)]
    unsafe fn add<const T: usize>(&self, from: *const u8, acc: *mut f32) {
        unsafe {
            for t in 0..T {
                let at = acc.add(t * S::LANES);
                let sum = S::load(at.add(self.sums).cast());
                S::store_f(at.add(self.sums), S::splat_f(0.0));
                end_block::<S, P>(at, sum, from.add(t * Self::ENTRY), (self.d, self.m), self.pairs);
            }
        }
    }
}
