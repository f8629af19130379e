//! Weights of a model that does not fit in the memory left for it.
//!
//! Read through the page cache in a circle, such a model misses on every page: what least-recently-used eviction drops
//! is always what is needed next. Here a fixed part stays in anonymous memory, an equal share of everything, and only
//! the rest is read in each pass, in order, by threads that run ahead of the forward pass and round its end into the
//! next token. A token costs `max(compute, streamed bytes ÷ storage speed)`, which no cache can better on a circular
//! scan.
//!
//! Reads are direct (`O_DIRECT`): nothing of what is streamed enters the page cache, so nothing of it is charged to the
//! process or its control group. Where a file system refuses that, the page cache is told to drop each piece as soon as
//! it is read.
//!
//! The resident part is read on its first use, in the order of the first pass, so that the first token does not wait
//! for a load of its own.

mod plan;
mod ring;
mod source;
mod visits;

pub use plan::{Access, BudgetError, ResidencyPlan, Shape, Visit};
pub use ring::Figures;
pub use visits::visits;

use crate::map::ModelFile;
use drupe::weights::{TensorRef, Weights, WeightsError};
use memmap2::MmapMut;
use plan::{Piece, Place};
use ring::{Buffer, Ring};
use source::{Files, Source, read};
use std::io;
use std::ops::Range;

/// Up to this many bytes are read by themselves when only rows of a table are wanted (embeddings), rather than as a
/// whole piece.
const FEW: u64 = 64 << 10;

/// Weights under a memory budget. Allocates nothing after [`Residency::open`].
pub struct Residency {
    ring: Ring,
    pieces: Box<[Piece]>,
    /// The resident part; empty if there is none.
    arena: Option<MmapMut>,
    /// Which pieces of it have been read.
    loaded: Box<[bool]>,
    to_load: usize,
    /// The piece in use: its index, its buffer and where it starts in it.
    current: Option<(u32, Buffer, usize)>,
    /// For single rows.
    scratch: Buffer,
    /// Step of the pass after the piece taken last.
    step: usize,
    direct: bool,
}

/// Where the bytes asked for lie.
enum Found {
    Arena(Range<usize>),
    Current(Range<usize>),
    Scratch(Range<usize>),
}

impl Residency {
    /// Takes the memory that `plan` says and starts the reading threads. Reads nothing yet.
    ///
    /// # Errors
    /// The system refuses memory or threads.
    pub fn open(plan: &ResidencyPlan, model: &ModelFile) -> io::Result<Residency> {
        let files = Files::of(model)?;
        let direct = files.direct();
        Residency::with_source(plan, Box::new(files), direct)
    }

    fn with_source(plan: &ResidencyPlan, source: Box<dyn Source>, direct: bool) -> io::Result<Residency> {
        let arena = match plan.arena_bytes {
            0 => None,
            n => Some(MmapMut::map_anon(usize::try_from(n).map_err(|_| io::ErrorKind::OutOfMemory)?)?),
        };
        #[cfg(target_os = "linux")]
        if let Some(arena) = &arena {
            let _ = arena.advise(memmap2::Advice::HugePage);
            // Not for a core dump: it is in the file.
            let _ = arena.advise(memmap2::Advice::DontDump);
        }
        let resident = |p: &&Piece| p.place != Place::Streamed;
        Ok(Residency {
            to_load: plan.pieces.iter().filter(resident).count(),
            loaded: vec![false; plan.pieces.len()].into(),
            pieces: plan.pieces.clone().into(),
            arena,
            current: None,
            scratch: MmapMut::map_anon(plan.buffer_bytes as usize)?,
            ring: Ring::new(plan, source)?,
            step: 0,
            direct,
        })
    }

    /// Whether storage is read past the page cache.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// What was read from storage until now.
    pub fn figures(&self) -> Figures {
        self.ring.figures()
    }

    /// The piece that holds byte `offset` of file `part`.
    fn piece_at(&self, part: u32, offset: u64) -> Option<u32> {
        let i = self.pieces.partition_point(|p| (p.part, p.offset) <= (part, offset)).checked_sub(1)?;
        let p = &self.pieces[i];
        (p.part == part && offset - p.offset < p.bytes).then_some(i as u32)
    }

    /// The resident bytes from `offset` on, `want` at most: over successive pieces as long as they are in memory.
    fn resident(&self, first: u32, offset: u64, want: u64) -> Option<Range<usize>> {
        let p = &self.pieces[first as usize];
        let Place::Resident(at) = p.place else { return None };
        let start = at + (offset - p.offset);
        let (part, file_offset) = (p.part, p.offset);
        let mut end = at;
        for (p, _) in self.pieces[first as usize..].iter().zip(&self.loaded[first as usize..]).take_while(|x| *x.1) {
            // Neighbours in the file have been made neighbours in memory, others not.
            if p.place != Place::Resident(end) || (p.part, p.offset) != (part, file_offset + (end - at)) {
                break;
            }
            end += p.bytes;
            if end >= start + want {
                break;
            }
        }
        (end > start).then(|| start as usize..end.min(start + want) as usize)
    }

    /// Finds at least `row` and at most `want` bytes at `offset` of file `part`.
    fn find(&mut self, part: u32, offset: u64, row: u64, want: u64) -> Result<Found, i32> {
        let Some(index) = self.piece_at(part, offset) else { return self.alone(part, offset, row, want) };
        let piece = self.pieces[index as usize];
        let skip = offset - piece.offset;
        // A row that no piece holds whole: not one of the tensors planned for.
        if skip + row > piece.bytes {
            return self.alone(part, offset, row, want);
        }
        if let Some(range) = self.resident(index, offset, want) {
            return Ok(Found::Arena(range));
        }
        if self.current.as_ref().is_none_or(|c| c.0 != index) {
            if piece.by_row && want <= FEW && !self.ring.is_next(index) {
                return self.alone(part, offset, row, want);
            }
            self.fetch(index, piece)?;
        }
        match (&self.current, self.resident(index, offset, want)) {
            (_, Some(range)) => Ok(Found::Arena(range)),
            (Some((_, _, start)), None) => {
                let at = start + skip as usize;
                Ok(Found::Current(at..at + want.min(piece.bytes - skip) as usize))
            }
            (None, None) => self.alone(part, offset, row, want),
        }
    }

    /// Gets a piece from the ring: into its place if it is to stay, else to be the current one.
    fn fetch(&mut self, index: u32, piece: Piece) -> Result<(), i32> {
        if let Some((_, buffer, _)) = self.current.take() {
            self.ring.give_back(buffer);
        }
        let got = self.ring.take(index, self.step);
        self.step = got.step + 1;
        let start = match got.start {
            Ok(start) => start,
            Err(errno) => {
                self.ring.give_back(got.buffer);
                return Err(errno);
            }
        };
        let Place::Resident(at) = piece.place else {
            self.current = Some((index, got.buffer, start));
            return Ok(());
        };
        let (at, n) = (at as usize, piece.bytes as usize);
        if let Some(place) = self.arena.as_mut().and_then(|a| a.get_mut(at..at + n)) {
            place.copy_from_slice(&got.buffer[start..start + n]);
        }
        self.ring.give_back(got.buffer);
        self.loaded[index as usize] = true;
        self.to_load -= 1;
        if self.to_load == 0
            && let Some(arena) = &self.arena
        {
            // Kept from being swapped, where the limit on locked memory allows it. Without, it is anonymous memory like
            // any other: it stays as long as the budget is within what the machine has.
            let _ = arena.lock();
        }
        Ok(())
    }

    /// Reads bytes by themselves, at least a row.
    fn alone(&mut self, part: u32, offset: u64, row: u64, want: u64) -> Result<Found, i32> {
        let most = self.scratch.len() as u64 - 2 * plan::ALIGN;
        let n = want.min(FEW.max(row)).min(most).checked_div(row).map_or(0, |rows| rows * row);
        if n == 0 {
            return Err(libc::E2BIG);
        }
        let start = read(self.ring.source(), part, offset, n, &mut self.scratch)?;
        Ok(Found::Scratch(start..start + n as usize))
    }
}

impl Weights for Residency {
    fn rows(&mut self, tensor: &TensorRef, rows: Range<u32>) -> Result<&[u8], WeightsError> {
        let row = tensor.row_bytes() as u64;
        let bad = |offset| WeightsError::OutOfBounds { offset, len: u64::MAX };
        let place = |r: u32| row.checked_mul(u64::from(r)).and_then(|n| n.checked_add(tensor.offset));
        let start = place(rows.start).ok_or(bad(tensor.offset))?;
        let want = place(rows.end).and_then(|end| end.checked_sub(start)).filter(|n| *n > 0).ok_or(bad(start))?;
        let found = self.find(tensor.part, start, row, want);
        let bytes = match found.map_err(|errno| WeightsError::Storage { offset: start, errno })? {
            Found::Arena(range) => self.arena.as_deref().and_then(|a| a.get(range)),
            Found::Current(range) => self.current.as_ref().and_then(|c| c.1.get(range)),
            Found::Scratch(range) => self.scratch.get(range),
        };
        let bytes = bytes.ok_or(bad(start))?;
        Ok(&bytes[..bytes.len() / row as usize * row as usize])
    }

    fn begin(&mut self) {
        self.step = 0;
        self.ring.rewind();
    }
}

impl Drop for Residency {
    fn drop(&mut self) {
        if let Some((_, buffer, _)) = self.current.take() {
            self.ring.give_back(buffer);
        }
    }
}

#[cfg(test)]
mod tests;
