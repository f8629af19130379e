//! How fast a model can be expected to decode under a budget, from what a machine measures of itself.
//!
//! Reading storage and computing overlap, so that a token takes as long as the longer of the two. Computing is one pass
//! of the decode kernels over all weights, at the speed that they reach over a matrix too large for the caches: that
//! is memory's speed where memory binds, and the processor's where it does not.

use super::{Access, Visit, storage_speed};
use crate::map::ModelFile;
use drupe::Team;
use drupe::quant::act::{ActKind, Acts};
use drupe::quant::{Chunks, Format, Kernels, Tiles};
use memmap2::MmapMut;
use std::io;
use std::time::{Duration, Instant};

/// Speeds in bytes of weights per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speeds {
    /// Computing one token with weights in memory: [`decode_speed`].
    pub decode: f64,
    /// Reading storage: [`super::Residency::read_speed`] or [`super::storage_speed`].
    pub storage: f64,
}

/// What one token is expected to take, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Computing.
    pub compute: f64,
    /// Reading what is not resident.
    pub storage: f64,
    /// Whether the two go on at the same time. Experts can be read only when a router has chosen them.
    pub at_once: bool,
}

impl Expected {
    /// For a pass that computes with `weights` bytes ([`pass_bytes`]) of which it reads `streamed` from storage
    /// ([`super::ResidencyPlan::streamed_bytes`]).
    pub fn of(weights: u64, streamed: u64, speeds: &Speeds) -> Expected {
        let (compute, storage) = (weights as f64 / speeds.decode, streamed as f64 / speeds.storage);
        Expected { compute, storage, at_once: true }
    }

    /// The same for a pass of these `visits`.
    pub fn of_pass(visits: &[Visit], streamed: u64, speeds: &Speeds) -> Expected {
        let experts = visits.iter().any(|v| matches!(v.access, Access::Experts { .. }));
        Expected { at_once: !experts, ..Expected::of(pass_bytes(visits), streamed, speeds) }
    }

    /// Tokens per second.
    pub fn speed(&self) -> f64 {
        1.0 / if self.at_once { self.compute.max(self.storage) } else { self.compute + self.storage }
    }
}

/// Bytes of weights that one token is computed with.
pub fn pass_bytes(visits: &[Visit]) -> u64 {
    visits.iter().map(|v| v.of_a_token().bytes()).sum()
}

/// Time that each format of matrix is measured.
const TIME: Duration = Duration::from_millis(250);

/// Bytes of a piece where weights are streamed, about.
const PIECE: u64 = 1 << 20;

/// Speed of the decode kernels with `team`, in bytes of weights per second: over at most `bytes` bytes (which should be
/// several times the last cache) for each format and width that `visits` has, weighted as they occur there, in steps of the
/// lengths that a pass of which `streamed` bytes come from storage has them in. Where all weights stay in the files `mapped`
/// it is over the beginning of those, in pages of the size that they have there; else (none given) over made-up ones.
///
/// # Errors
/// No memory.
pub fn decode_speed(
    kernels: &Kernels,
    team: &dyn Team,
    visits: &[Visit],
    bytes: usize,
    streamed: u64,
    mapped: &[&[u8]],
) -> io::Result<f64> {
    let (mut all, mut seconds) = (0.0, 0.0);
    for kind in kinds(visits, streamed) {
        all += kind.bytes as f64;
        seconds += kind.bytes as f64 / Trial::new(kernels, team, kind, bytes, mapped)?.speed()?;
    }
    Ok(if seconds > 0.0 { all / seconds } else { f64::INFINITY })
}

/// Speed of storage in bytes per second while the kernels compute, as they do in a pass that reads `streamed` bytes from
/// `model`: the two share cores, memory and what serves the storage. It is what one pass is expected to take, where that
/// is more than computing: a rehearsal for at least `time`, with `bytes` bytes of memory, `decode` being [`decode_speed`].
///
/// # Errors
/// No memory, or storage fails.
#[allow(clippy::too_many_arguments)]
pub fn streaming_speed(
    kernels: &Kernels,
    team: &dyn Team,
    visits: &[Visit],
    streamed: u64,
    model: &ModelFile,
    bytes: usize,
    decode: f64,
    time: Duration,
) -> io::Result<f64> {
    // The commonest kind of matrix stands for all of them, so much of it as takes the same time.
    let commonest = kinds(visits, streamed).into_iter().max_by_key(|k| k.bytes);
    let Some(kind) = commonest else { return Ok(f64::INFINITY) };
    let mut trial = Trial::new(kernels, team, kind, bytes, &[])?;
    let share = trial.speed()? / decode * pass_bytes(visits) as f64 / streamed.max(1) as f64;
    let mut due = 0.0;
    let mut failed = None;
    let speed = storage_speed(model, streamed.max(32 << 20), time, &mut |piece| {
        due += piece.len() as f64 * share;
        while due > 0.0 && failed.is_none() {
            match trial.step() {
                Ok(done) => due -= done as f64,
                Err(e) => failed = Some(e),
            }
        }
    })?;
    failed.map_or(Ok(speed), Err)
}

/// The matrices of one format and width.
struct Kind {
    format: Format,
    cols: usize,
    bytes: u64,
    /// Each step of a pass, in order.
    steps: Vec<Step>,
}

/// Rows of a matrix that are computed with at once.
#[derive(Clone, Copy)]
struct Step {
    rows: usize,
    /// Where they lie in the model's files.
    part: usize,
    offset: usize,
}

/// What a pass computes with, of which `streamed` bytes come from storage; what is rare among the weights is left out: it
/// is not worth its time.
fn kinds(visits: &[Visit], streamed: u64) -> Vec<Kind> {
    // What is streamed comes in pieces, and between two of them lies so much that is resident: the two have the same number.
    let run = (pass_bytes(visits) as f64 / streamed as f64 / 2.0 * PIECE as f64).max(PIECE as f64);
    let mut kinds: Vec<Kind> = Vec::new();
    for t in visits.iter().map(Visit::of_a_token).filter(|t| t.rows > 1) {
        let (format, cols) = (t.format(), t.cols as usize);
        let at = kinds.iter().position(|k| (k.format, k.cols) == (format, cols)).unwrap_or(kinds.len());
        if at == kinds.len() {
            kinds.push(Kind { format, cols, bytes: 0, steps: Vec::new() });
        }
        let (kind, rows) = (&mut kinds[at], t.rows as usize);
        kind.bytes += t.bytes();
        let count = ((t.bytes() as f64 / run).ceil() as usize).max(1);
        kind.steps.extend((0..count).map(|i| {
            let (first, last) = (rows * i / count, rows * (i + 1) / count);
            Step { rows: last - first, part: t.part as usize, offset: t.offset as usize + first * t.row_bytes() }
        }));
    }
    let most = kinds.iter().map(|k| k.bytes).max().unwrap_or(0);
    kinds.retain(|k| k.bytes >= most / 20);
    kinds
}

/// Weights to try the decode kernels on.
struct Trial<'a> {
    kernels: &'a Kernels,
    team: &'a dyn Team,
    kind: Kind,
    row_bytes: usize,
    /// Made up; none if those of `mapped` are used.
    own: Option<MmapMut>,
    mapped: &'a [&'a [u8]],
    record: MmapMut,
    scratch: MmapMut,
    each: usize,
    out: Vec<f32>,
    /// The next step, and of made-up weights the byte where its own start.
    next: usize,
    at: usize,
}

impl<'a> Trial<'a> {
    fn new(
        kernels: &'a Kernels,
        team: &'a dyn Team,
        mut kind: Kind,
        bytes: usize,
        mapped: &'a [&'a [u8]],
    ) -> io::Result<Trial<'a>> {
        let (format, cols, act) = (kind.format, kind.cols, ActKind::of(kind.format));
        let row_bytes = format.row_bytes(cols).filter(|n| *n > 0).ok_or(io::ErrorKind::InvalidInput)?;
        let rows = (bytes / row_bytes).max(1);
        // A step longer than the memory here, steps beyond it.
        kind.steps.iter_mut().for_each(|s| s.rows = s.rows.clamp(1, rows));
        let mut sum = 0;
        kind.steps.retain(|s| {
            sum += s.rows;
            mapped.is_empty() || sum <= rows
        });
        let own = if mapped.is_empty() { Some(made_up(rows * row_bytes)?) } else { None };
        let mut record = MmapMut::map_anon(act.stride(cols).max(1))?;
        kernels.quantize_act(act, &vec![0.5; cols], &mut record);
        let each = kernels.matmul_scratch(format, cols, 1).next_multiple_of(64).max(64);
        let scratch = MmapMut::map_anon(each * team.workers())?;
        let out = vec![0f32; kind.steps.iter().map(|s| s.rows).max().unwrap_or(1)];
        Ok(Trial { kernels, team, kind, row_bytes, own, mapped, record, scratch, each, out, next: 0, at: 0 })
    }

    /// Computes the next step, and says how many bytes of weights it had.
    fn step(&mut self) -> io::Result<usize> {
        let Trial { kernels, team, row_bytes, .. } = *self;
        let (format, cols) = (self.kind.format, self.kind.cols);
        let bad = || io::Error::from(io::ErrorKind::InvalidInput);
        let Step { rows, part, offset } = *self.kind.steps.get(self.next).ok_or_else(bad)?;
        self.next = (self.next + 1) % self.kind.steps.len();
        let bytes = rows * row_bytes;
        let weights = match &self.own {
            Some(own) => {
                let at = if self.at + bytes > own.len() { 0 } else { self.at };
                self.at = at + bytes;
                own.get(at..at + bytes)
            }
            None => self.mapped.get(part).and_then(|file| file.get(offset..offset + bytes)),
        };
        let weights = weights.ok_or_else(bad)?;
        let chunk = kernels.row_chunk(format, rows, cols, 1);
        let acts = Acts::new(ActKind::of(format), 1, cols, &self.record).ok_or_else(bad)?;
        let tiles = Tiles::new(&mut self.out[..rows], 1, rows, 0, rows, chunk).ok_or_else(bad)?;
        let tiles = tiles.tapering(team.workers(), usize::MAX);
        let slots = Chunks::new(&mut self.scratch, self.each);
        team.run(&|_| {
            let Some((_, scratch)) = slots.claim() else { return };
            while let Some(mut tile) = tiles.claim() {
                let rows = tile.rows();
                let weights = &weights[rows.start * row_bytes..rows.end * row_bytes];
                kernels.matmul(format, weights, &acts, &mut tile, scratch);
            }
        });
        Ok(bytes)
    }

    /// Bytes of weights per second: the median of some rounds of all steps, or over all made-up weights.
    fn speed(&mut self) -> io::Result<f64> {
        let steps: usize = self.kind.steps.iter().map(|s| s.rows * self.row_bytes).sum();
        let round = self.own.as_ref().map_or(steps, |own| own.len());
        if self.own.is_none() {
            // Into the page cache, and into this process's page tables.
            for _ in 0..self.kind.steps.len() {
                self.step()?;
            }
        }
        let mut speeds: Vec<f64> = Vec::new();
        let begin = Instant::now();
        while speeds.len() < 3 || begin.elapsed() < TIME {
            let (start, mut done) = (Instant::now(), 0);
            while done < round {
                done += self.step()?;
            }
            speeds.push(done as f64 / start.elapsed().as_secs_f64());
        }
        speeds.sort_by(f64::total_cmp);
        Ok(speeds[speeds.len() / 2])
    }
}

/// Weights of ordinary size, in memory such as the resident part has.
fn made_up(bytes: usize) -> io::Result<MmapMut> {
    let mut weights = MmapMut::map_anon(bytes)?;
    #[cfg(target_os = "linux")]
    let _ = weights.advise(memmap2::Advice::HugePage);
    // Pages that were never written would all be one page of zeros; this is as an f16 or f32 of ordinary size.
    weights.fill(0x3c);
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use drupe::weights::TensorRef;

    #[test]
    fn the_slower_of_two() {
        let speeds = Speeds { decode: 10e9, storage: 1e9 };
        let at = |streamed| Expected::of(1_000_000_000, streamed, &speeds).speed();
        assert_eq!((at(0), at(50_000_000), at(100_000_000)), (10.0, 10.0, 10.0));
        assert!((at(500_000_000) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn kernels_have_a_speed_in_every_format() {
        let kernels = Kernels::detect();
        let visit = |format_id, cols| {
            let tensor = TensorRef { offset: 0, rows: 64, cols, format_id, part: 0 };
            Visit { tensor, access: Access::Whole }
        };
        let visits = [visit(2, 512), visit(14, 1024), visit(0, 256)];
        assert!(pass_bytes(&visits) > 0);
        let speed = decode_speed(&kernels, &drupe::Solo, &visits, 1 << 20, 1 << 10, &[]).unwrap();
        assert!((1e6..1e13).contains(&speed), "{speed}");
        let file = vec![0x3c; 1 << 20];
        let mapped = decode_speed(&kernels, &drupe::Solo, &visits, 1 << 20, 0, &[&file]).unwrap();
        assert!((1e6..1e13).contains(&mapped), "{mapped}");
        assert!(decode_speed(&kernels, &drupe::Solo, &visits, 1 << 20, 0, &[&file[..100]]).is_err(), "beyond the file");
        assert_eq!(decode_speed(&kernels, &drupe::Solo, &[], 1 << 20, 0, &[]).unwrap(), f64::INFINITY);
    }
}
