//! Handing disjoint parts of one buffer to many workers, each part exactly once, without locks.
//!
//! A claim is one atomic increment; a slow worker simply claims fewer parts. What is in a part does not depend
//! on who claims it, so results are the same for any number of workers.

use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

/// A counter with cache lines of its own (two: some CPUs fetch them in pairs), so that claims do not slow down those who
/// read what stands beside it.
#[repr(align(128))]
struct Counter(AtomicUsize);

impl Counter {
    /// The next number below `end`, each to one caller only.
    fn claim(&self, end: usize) -> Option<usize> {
        let i = self.0.fetch_add(1, Ordering::Relaxed);
        if i < end {
            return Some(i);
        }
        // Keeps the counter from ever wrapping, however often it is asked: once past the end it never goes below it again.
        self.0.store(end, Ordering::Relaxed);
        None
    }

    /// The next numbers below `end`, as many as `share` says of those that are left (at least one).
    fn claim_some(&self, end: usize, share: impl Fn(usize) -> usize) -> Option<Range<usize>> {
        let mut start = self.0.load(Ordering::Relaxed);
        while start < end {
            let next = start + share(end - start).clamp(1, end - start);
            match self.0.compare_exchange_weak(start, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(start..next),
                Err(now) => start = now,
            }
        }
        None
    }
}

/// A `&mut [T]` cut into chunks that workers claim one at a time.
pub struct Chunks<'a, T> {
    ptr: *mut T,
    len: usize,
    chunk: usize,
    next: Counter,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: a Chunks only ever gives out non-overlapping `&mut [T]`; sending those to other threads needs T: Send.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

impl<'a, T> Chunks<'a, T> {
    /// Cuts `all` into chunks of `chunk` elements (at least 1), the last one shorter.
    pub fn new(all: &'a mut [T], chunk: usize) -> Self {
        Chunks {
            ptr: all.as_mut_ptr(),
            len: all.len(),
            chunk: chunk.max(1),
            next: Counter(AtomicUsize::new(0)),
            life: PhantomData,
        }
    }

    /// The next unclaimed chunk and its index, until none is left.
    pub fn claim(&self) -> Option<(usize, &'a mut [T])> {
        let start = self.next.claim(self.len.div_ceil(self.chunk))? * self.chunk;
        let n = self.chunk.min(self.len - start);
        // SAFETY: start + n <= len, and each start goes to one caller only.
        Some((start / self.chunk, unsafe { core::slice::from_raw_parts_mut(self.ptr.add(start), n) }))
    }

    /// The next unclaimed chunks, as many as [`Tiles::tapering`] would give, and the index of the first. For those that all
    /// claim in this way.
    pub fn claim_tapering(&self, workers: usize) -> Option<(usize, &'a mut [T])> {
        let shares = if workers > 1 { 3 * workers } else { 1 };
        let claimed = self.next.claim_some(self.len.div_ceil(self.chunk), |left| left / shares)?;
        let (start, end) = (claimed.start * self.chunk, self.len.min(claimed.end * self.chunk));
        // SAFETY: start < end <= len, and no index is claimed twice.
        Some((claimed.start, unsafe { core::slice::from_raw_parts_mut(self.ptr.add(start), end - start) }))
    }
}

/// A `[tokens, rows]` f32 output cut into a grid of ranges of rows by ranges of tokens that workers claim.
pub struct Tiles<'a> {
    ptr: *mut f32,
    tokens: usize,
    stride: usize,
    rows: usize,
    row_chunk: usize,
    token_chunk: usize,
    /// See [`Tiles::tapering`].
    shares: usize,
    most: usize,
    next: Counter,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: as for Chunks: tiles never overlap.
unsafe impl Sync for Tiles<'_> {}

/// One claimed tile: the tokens of [`OutTile::token_range`] × the rows of [`OutTile::rows`].
pub struct OutTile<'a> {
    /// Element `[tokens.start][rows.start]` of the output.
    ptr: *mut f32,
    stride: usize,
    tokens: Range<usize>,
    rows: Range<usize>,
    life: PhantomData<&'a mut [f32]>,
}

impl<'a> Tiles<'a> {
    /// Tiles over columns `first..first + rows` of `out`, which is `[tokens, stride]`: `row_chunk` rows each, all tokens.
    ///
    /// `None` if `out` is too short for that shape or the columns lie outside a row.
    pub fn new(
        out: &'a mut [f32],
        tokens: usize,
        stride: usize,
        first: usize,
        rows: usize,
        row_chunk: usize,
    ) -> Option<Self> {
        if tokens.checked_mul(stride)? > out.len() || first.checked_add(rows)? > stride {
            return None;
        }
        let empty = tokens == 0 || rows == 0;
        Some(Tiles {
            // SAFETY: when not empty, first < stride <= out.len().
            ptr: if empty { out.as_mut_ptr() } else { unsafe { out.as_mut_ptr().add(first) } },
            tokens,
            stride,
            rows: if empty { 0 } else { rows },
            row_chunk: row_chunk.max(1),
            token_chunk: tokens.max(1),
            shares: usize::MAX,
            most: 1,
            next: Counter(AtomicUsize::new(0)),
            life: PhantomData,
        })
    }

    /// The same tiles, further cut into `tokens` tokens each; row tiles of one range of tokens come first.
    pub fn by_tokens(self, tokens: usize) -> Self {
        Tiles { token_chunk: tokens.max(1), ..self }
    }

    /// Tiles that begin large and end small, for `workers`: each is a third of a worker's share of what is left, of
    /// whole row chunks, at least one, and at most `most` rows. Long runs of rows keep the memory's prefetchers busy;
    /// a slow worker holds up the others by a chunk at the end. With one worker there is nothing to share. Not
    /// together with [`Tiles::by_tokens`].
    pub fn tapering(self, workers: usize, most: usize) -> Self {
        let shares = if workers > 1 { 3 * workers } else { 1 };
        Tiles { shares, most: (most / self.row_chunk).max(1), ..self }
    }

    /// The next unclaimed tile.
    pub fn claim(&self) -> Option<OutTile<'a>> {
        let (wide, high) = (self.rows.div_ceil(self.row_chunk), self.tokens.div_ceil(self.token_chunk));
        let of_row = if high == 1 { (self.shares, self.most) } else { (usize::MAX, 1) };
        let claimed = self.next.claim_some(wide * high, |left| (left / of_row.0).min(of_row.1))?;
        let (r, t) = (claimed.start % wide * self.row_chunk, claimed.start / wide * self.token_chunk);
        let rows = r..(r + claimed.len() * self.row_chunk).min(self.rows);
        let tokens = t..(t + self.token_chunk).min(self.tokens);
        // SAFETY: t < tokens and r < rows, so the element lies inside `out`; claims of several chunks stay in the one row of tiles
        // that there is then; wide * high <= out.len() cannot overflow.
        let ptr = unsafe { self.ptr.add(t * self.stride + r) };
        Some(OutTile { ptr, stride: self.stride, tokens, rows, life: PhantomData })
    }
}

impl OutTile<'_> {
    /// The rows that this tile is for, counted from the first row of the [`Tiles`].
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// The tokens that this tile is for.
    pub fn token_range(&self) -> Range<usize> {
        self.tokens.clone()
    }

    /// Number of tokens in this tile.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Writes element `[t][r]`, both counted inside the tile. Panics outside it.
    #[inline(always)]
    pub fn set(&mut self, t: usize, r: usize, value: f32) {
        self.row_mut(t)[r] = value;
    }

    /// The tile's rows for token `t`, counted inside the tile: `rows().len()` successive f32. Panics outside it.
    #[inline(always)]
    pub fn row_mut(&mut self, t: usize) -> &mut [f32] {
        // SAFETY: t is inside the tile (row_ptr asserts it); tiles are disjoint and `out` is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.row_ptr(t), self.rows.len()) }
    }

    /// Pointer to element `[t][0]` of the tile: `rows().len()` successive f32 may be written there.
    #[inline(always)]
    pub fn row_ptr(&mut self, t: usize) -> *mut f32 {
        assert!(t < self.tokens.len());
        // SAFETY: t is inside, so the sum stays in `out`.
        unsafe { self.ptr.add(t * self.stride) }
    }
}
