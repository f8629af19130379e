//! Handing disjoint parts of one buffer to many workers, each part exactly once, without locks.
//!
//! A claim is one atomic increment; a slow worker simply claims fewer parts. What is in a part does not depend
//! on who claims it, so results are the same for any number of workers.

use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

/// A `&mut [T]` cut into chunks that workers claim one at a time.
pub struct Chunks<'a, T> {
    ptr: *mut T,
    len: usize,
    chunk: usize,
    next: AtomicUsize,
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
            next: AtomicUsize::new(0),
            life: PhantomData,
        }
    }

    /// The next unclaimed chunk and its index, until none is left.
    pub fn claim(&self) -> Option<(usize, &'a mut [T])> {
        let i = self.next.fetch_add(1, Ordering::Relaxed);
        let start = i.checked_mul(self.chunk)?;
        if start >= self.len {
            // Keep the counter from ever wrapping, however often an empty source is asked.
            self.next.store(self.len, Ordering::Relaxed);
            return None;
        }
        let n = self.chunk.min(self.len - start);
        // SAFETY: start + n <= len, and fetch_add gives each i below len/chunk to one caller only: once the counter
        // has passed the end it never goes below len (>= number of chunks) again, so no range is given out twice.
        Some((i, unsafe { core::slice::from_raw_parts_mut(self.ptr.add(start), n) }))
    }
}

/// A `[tokens, rows]` f32 output cut into ranges of rows (for all tokens) that workers claim.
pub struct Tiles<'a> {
    ptr: *mut f32,
    tokens: usize,
    stride: usize,
    rows: usize,
    chunk: usize,
    next: AtomicUsize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: as for Chunks: tiles never overlap.
unsafe impl Sync for Tiles<'_> {}

/// One claimed tile: `tokens` × the rows of [`OutTile::rows`], written by element.
pub struct OutTile<'a> {
    ptr: *mut f32,
    tokens: usize,
    stride: usize,
    rows: Range<usize>,
    life: PhantomData<&'a mut [f32]>,
}

impl<'a> Tiles<'a> {
    /// Tiles over columns `first..first + rows` of `out`, which is `[tokens, stride]`; `chunk` rows each.
    ///
    /// `None` if `out` is too short for that shape or the columns lie outside a row.
    pub fn new(
        out: &'a mut [f32],
        tokens: usize,
        stride: usize,
        first: usize,
        rows: usize,
        chunk: usize,
    ) -> Option<Self> {
        let fits = tokens.checked_mul(stride)? <= out.len() && first.checked_add(rows)? <= stride;
        // SAFETY: first <= stride <= out.len() when tokens > 0; with no tokens nothing is ever dereferenced.
        fits.then(|| Tiles {
            ptr: if tokens == 0 { out.as_mut_ptr() } else { unsafe { out.as_mut_ptr().add(first) } },
            tokens,
            stride,
            rows: if tokens == 0 { 0 } else { rows },
            chunk: chunk.max(1),
            next: AtomicUsize::new(0),
            life: PhantomData,
        })
    }

    /// The next unclaimed tile.
    pub fn claim(&self) -> Option<OutTile<'a>> {
        let i = self.next.fetch_add(1, Ordering::Relaxed);
        let start = i.checked_mul(self.chunk)?;
        if start >= self.rows {
            self.next.store(self.rows, Ordering::Relaxed);
            return None;
        }
        let rows = start..(start + self.chunk).min(self.rows);
        Some(OutTile { ptr: self.ptr, tokens: self.tokens, stride: self.stride, rows, life: PhantomData })
    }
}

impl OutTile<'_> {
    /// The rows of the weights that this tile is for, counted from the first row of the `Tiles`.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Tokens (all of them are in every tile).
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Writes `out[t][rows.start + r]`. Panics outside the tile.
    #[inline(always)]
    pub fn set(&mut self, t: usize, r: usize, value: f32) {
        assert!(t < self.tokens && r < self.rows.len());
        // SAFETY: inside the tile, as asserted; tiles are disjoint and `out` is borrowed mutably for their life.
        unsafe { *self.ptr.add(t * self.stride + self.rows.start + r) = value }
    }

    /// Pointer to `out[t][rows.start]`: `rows().len()` successive f32 may be written there.
    #[inline(always)]
    pub fn row_ptr(&mut self, t: usize) -> *mut f32 {
        assert!(t < self.tokens);
        // SAFETY: t is inside, so the sum stays in `out`.
        unsafe { self.ptr.add(t * self.stride + self.rows.start) }
    }
}
