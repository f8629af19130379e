//! Weights of a model that does not fit in the memory left for it.
//!
//! Read through the page cache in a circle, such a model misses on every page: what least-recently-used eviction drops
//! is always what is needed next. Here a fixed part stays in anonymous memory, an equal share of everything, and only
//! the rest is read in each pass, in order, ahead of the forward pass and round its end into the next token. A token
//! costs `max(compute, streamed bytes ÷ storage speed)`, which no cache can better on a circular scan.
//!
//! Several reads are always under way, or storage would idle between them: in the kernel's queue (`io_uring`), or where
//! there is none, each in a thread. They are direct (`O_DIRECT`): nothing of what is streamed enters the page cache, so
//! nothing of it is charged to the process or its control group. Where a file system refuses that, the page cache is
//! told to drop each piece as soon as it is read.
//!
//! The resident part is read on its first use, in the order of the first pass, so that the first token does not wait
//! for a load of its own.

mod expect;
mod experts;
mod plan;
mod reader;
mod ring;
mod slab;
mod source;
// Where its bindings exist: as in Cargo.toml.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
mod uring;
mod visits;

pub use expect::{Expected, Speeds, decode_speed, pass_bytes, streaming_speed};
pub use plan::{Access, BudgetError, ResidencyPlan, Shape, Visit};
pub use ring::Figures;
pub use visits::visits;

use crate::map::ModelFile;
use drupe::weights::{Chosen, TensorRef, Weights, WeightsError};
use experts::ExpertCache;
use memmap2::MmapMut;
use plan::{Piece, Place};
use reader::{Reader, Request, Threads};
use ring::Ring;
use slab::Buffer;
use source::{Files, Source, read};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Up to this many bytes are read by themselves when only rows of a table are wanted (embeddings), rather than as a
/// whole piece.
const FEW: u64 = 64 << 10;

/// Weights under a memory budget. Allocates nothing after [`Residency::open`].
pub struct Residency {
    ring: Ring,
    /// For a model that has experts.
    experts: Option<ExpertCache>,
    source: Arc<dyn Source>,
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
    way: Way,
}

/// How storage is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Directly, by the kernel's queue of requests.
    Uring,
    /// Directly, by threads.
    Threads,
    /// By threads through the page cache, which is told to drop what was read.
    Cached,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Uring => "direct reads by io_uring",
            Way::Threads => "direct reads by threads",
            Way::Cached => "reads through the page cache by threads",
        })
    }
}

/// Speed of the storage that `model` lies on, in bytes per second: the beginning of its first file, `bytes` long, is read
/// as weights are streamed, in the same lengths and as many at once, over and over for at least `time`, once at least
/// (what is between a system and its storage may keep what was read before). After each piece
/// `meanwhile` is given its bytes: what it does takes place while the next pieces are read, as computing does.
///
/// # Errors
/// No memory, or storage fails.
pub fn storage_speed(
    model: &ModelFile,
    bytes: u64,
    time: Duration,
    meanwhile: &mut dyn FnMut(&[u8]),
) -> io::Result<f64> {
    const COLS: u32 = 16 << 10;
    let whole = model.parts().first().map_or(0, |p| p.bytes().len() as u64);
    let bytes = bytes.min(whole).min(1 << 30);
    // As if it were one matrix of 64 KiB rows in F32.
    let rows = (bytes / (u64::from(COLS) * 4)).max(1) as u32;
    let cols = if bytes < u64::from(COLS) * 4 { (bytes / 4) as u32 } else { COLS };
    let visit = Visit { tensor: TensorRef { offset: 0, rows, cols, format_id: 0, part: 0 }, access: Access::Whole };
    let plan = |budget| ResidencyPlan::with_shape(&[visit], budget, Shape::for_model(whole));
    let least = plan(0).err().map_or(0, |e| e.minimum);
    let plan = plan(least).map_err(io::Error::other)?;
    let speed = Residency::open(&plan, model)?.read(time, meanwhile).map_err(io::Error::other)?;
    Ok(speed.unwrap_or(f64::INFINITY))
}

/// Where the bytes asked for lie.
enum Found {
    Arena(Range<usize>),
    Current(Range<usize>),
    Scratch(Range<usize>),
    Expert(usize, Range<usize>),
}

impl Residency {
    /// Takes the memory that `plan` says and gets ready to read, in the best way that this system has. Reads no piece
    /// yet.
    ///
    /// # Errors
    /// The system refuses memory or threads, or the file cannot be read.
    pub fn open(plan: &ResidencyPlan, model: &ModelFile) -> io::Result<Residency> {
        Residency::open_by(plan, model, Way::Uring)
    }

    /// The same, in no better way than `best`.
    ///
    /// # Errors
    /// As [`Residency::open`].
    pub fn open_by(plan: &ResidencyPlan, model: &ModelFile, best: Way) -> io::Result<Residency> {
        let files = Arc::new(Files::of(model, best != Way::Cached)?);
        let (mut buffers, mut slots) = (plan.buffers()?, plan.expert_slots()?);
        #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
        if best == Way::Uring
            && files.direct()
            && let Ok(uring) = uring::Uring::new(&mut buffers, files.clone())
            && let Ok(for_experts) = uring::Uring::new(&mut slots, files.clone())
        {
            let readers: [Box<dyn Reader>; 2] = [Box::new(uring), Box::new(for_experts)];
            return Residency::assemble(plan, files, [buffers, slots], readers, Way::Uring);
        }
        let way = if files.direct() { Way::Threads } else { Way::Cached };
        buffers.shrink_to_fit();
        slots.shrink_to_fit();
        let readers = Residency::threads(plan, files.clone())?;
        Residency::assemble(plan, files, [buffers, slots], readers, way)
    }

    /// Threads that read, for the ring and for experts.
    fn threads(plan: &ResidencyPlan, source: Arc<dyn Source>) -> io::Result<[Box<dyn Reader>; 2]> {
        let slots = plan.experts.slots as usize;
        let readers = if slots > 0 { plan.shape.readers } else { 0 };
        let ring = Threads::new(plan.shape.readers, plan.shape.buffers as usize, source.clone())?;
        Ok([Box::new(ring), Box::new(Threads::new(readers, slots, source)?)])
    }

    /// Buffers and readers are the ring's and those of the experts.
    fn assemble(
        plan: &ResidencyPlan,
        source: Arc<dyn Source>,
        [buffers, slots]: [Vec<Buffer>; 2],
        [reader, for_experts]: [Box<dyn Reader>; 2],
        way: Way,
    ) -> io::Result<Residency> {
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
        let resident = |p: &&Piece| matches!(p.place, Place::Resident(_));
        let experts = ExpertCache::new(&plan.experts, plan.pieces.len(), slots, for_experts);
        Ok(Residency {
            to_load: plan.pieces.iter().filter(resident).count(),
            loaded: vec![false; plan.pieces.len()].into(),
            pieces: plan.pieces.clone().into(),
            arena,
            current: None,
            scratch: slab::buffers(1, plan.buffer_bytes as usize)?.remove(0),
            ring: Ring::new(plan, buffers, reader),
            experts: (plan.experts.slots > 0).then_some(experts),
            source,
            step: 0,
            way,
        })
    }

    /// How storage is read.
    pub fn way(&self) -> Way {
        self.way
    }

    /// Speed of storage in bytes per second, measured as streaming reads it: the streamed pieces in the order of the
    /// pass, as many under way, and nothing computed, for at least `time`. The pieces that are to stay are read first,
    /// where that has not been done yet, and count too. `None` if nothing is streamed.
    ///
    /// # Errors
    /// Storage fails.
    pub fn read_speed(&mut self, time: Duration) -> Result<Option<f64>, WeightsError> {
        self.read(time, &mut |_| ())
    }

    fn read(&mut self, time: Duration, meanwhile: &mut dyn FnMut(&[u8])) -> Result<Option<f64>, WeightsError> {
        self.begin();
        let (start, before) = (Instant::now(), self.figures().bytes);
        let steps = self.ring.steps();
        let mut step = 0;
        let mut read_any = false;
        while step < steps || (read_any && start.elapsed() < time) {
            let index = self.ring.piece_of(step % steps);
            let piece = self.pieces[index as usize];
            if piece.place == Place::Streamed || !self.loaded[index as usize] {
                let failed = |errno| WeightsError::Storage { offset: piece.offset, errno };
                self.fetch(index, piece).map_err(failed)?;
                read_any |= piece.place == Place::Streamed;
                if let Some((_, buffer, start)) = &self.current {
                    meanwhile(&buffer[*start..start + piece.bytes as usize]);
                }
            }
            step += 1;
        }
        self.let_go();
        let bytes = self.figures().bytes - before;
        Ok(read_any.then(|| bytes as f64 / start.elapsed().as_secs_f64()))
    }

    /// What was read from storage until now.
    pub fn figures(&self) -> Figures {
        let (mut all, experts) = (self.ring.figures(), self.experts.as_ref().map(ExpertCache::figures));
        let of = experts.unwrap_or_default();
        all.bytes += of.bytes;
        all.reads += of.reads;
        all.waiting += of.waiting;
        Figures { chosen: of.chosen, kept: of.kept, ..all }
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
            self.let_go();
            return Ok(Found::Arena(range));
        }
        if let (Place::OnDemand, Some(experts)) = (piece.place, &mut self.experts) {
            let (slot, start) = experts.take(index, &self.pieces)?;
            self.let_go();
            let at = start + skip as usize;
            return Ok(Found::Expert(slot, at..at + want.min(piece.bytes - skip) as usize));
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
        self.let_go();
        let got = self.ring.take(index, self.step)?;
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

    /// Ends the use of the current piece, so that its buffer can be read into while the next ones are computed with.
    fn let_go(&mut self) {
        if let Some((_, buffer, _)) = self.current.take() {
            self.ring.give_back(buffer);
        }
    }

    /// Reads bytes by themselves, at least a row.
    fn alone(&mut self, part: u32, offset: u64, row: u64, want: u64) -> Result<Found, i32> {
        let most = self.scratch.len() as u64 - 2 * plan::ALIGN;
        let n = want.min(FEW.max(row)).min(most).checked_div(row).map_or(0, |rows| rows * row);
        if n == 0 {
            return Err(libc::E2BIG);
        }
        let start = read(&*self.source, &Request { part, offset, bytes: n }, &mut self.scratch)?;
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
            Found::Expert(slot, range) => self.experts.as_ref().and_then(|e| e.bytes(slot, range)),
        };
        let bytes = bytes.ok_or(bad(start))?;
        Ok(&bytes[..bytes.len() / row as usize * row as usize])
    }

    fn begin(&mut self) {
        self.step = 0;
        self.ring.rewind();
    }

    fn expect(&mut self, chosen: &Chosen<'_>) {
        if let Some(experts) = &mut self.experts {
            experts.expect(chosen, &self.pieces);
        }
    }
}

#[cfg(test)]
mod tests;
