//! How fast a model can be expected to decode under a budget, from what a machine measures of itself.
//!
//! Reading storage and computing overlap, so that a token takes as long as the longer of the two. Computing is one pass
//! of the decode kernels over all weights, at the speed that they reach over a matrix too large for the caches: that
//! is memory's speed where memory binds, and the processor's where it does not.

use super::{Access, Visit};
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
}

impl Expected {
    /// For a pass that computes with `weights` bytes ([`pass_bytes`]) of which it reads `streamed` from storage
    /// ([`super::ResidencyPlan::streamed_bytes`]).
    pub fn of(weights: u64, streamed: u64, speeds: &Speeds) -> Expected {
        Expected { compute: weights as f64 / speeds.decode, storage: streamed as f64 / speeds.storage }
    }

    /// Tokens per second.
    pub fn speed(&self) -> f64 {
        1.0 / self.compute.max(self.storage)
    }
}

/// Bytes of weights that one token is computed with.
pub fn pass_bytes(visits: &[Visit]) -> u64 {
    visits.iter().filter(|v| v.access == Access::Whole).map(|v| v.tensor.bytes()).sum()
}

/// Time that each format of matrix is measured.
const TIME: Duration = Duration::from_millis(250);

/// Bytes per job where weights are streamed: about what a piece holds.
pub const PIECE: usize = 1 << 20;

/// Bytes per job where all weights are in memory: about a matrix.
pub const MATRIX: usize = 8 << 20;

/// Speed of the decode kernels with `team`, in bytes of weights per second: over a matrix of `bytes` bytes (which
/// should be several times the last cache) for each format and width that `visits` has, weighted as they occur there, in
/// jobs of `job` bytes, as a pass has them: [`PIECE`] or [`MATRIX`].
///
/// # Errors
/// No memory.
pub fn decode_speed(kernels: &Kernels, team: &dyn Team, visits: &[Visit], bytes: usize, job: usize) -> io::Result<f64> {
    let mut kinds: Vec<(Format, usize, u64)> = Vec::new();
    for t in visits.iter().filter(|v| v.access == Access::Whole && v.tensor.rows > 1).map(|v| &v.tensor) {
        let (format, cols) = (t.format(), t.cols as usize);
        match kinds.iter_mut().find(|k| (k.0, k.1) == (format, cols)) {
            Some(kind) => kind.2 += t.bytes(),
            None => kinds.push((format, cols, t.bytes())),
        }
    }
    let (mut all, mut seconds) = (0.0, 0.0);
    // What is rare among the weights is not worth its time.
    let most = kinds.iter().map(|k| k.2).max().unwrap_or(0);
    for (format, cols, weight) in kinds.into_iter().filter(|k| k.2 >= most / 20) {
        all += weight as f64;
        seconds += weight as f64 / kernel_speed(kernels, team, format, cols, bytes, job)?;
    }
    Ok(if seconds > 0.0 { all / seconds } else { f64::INFINITY })
}

/// The same for one format and width.
fn kernel_speed(
    kernels: &Kernels,
    team: &dyn Team,
    format: Format,
    cols: usize,
    bytes: usize,
    job: usize,
) -> io::Result<f64> {
    let kind = ActKind::of(format);
    let row_bytes = format.row_bytes(cols).filter(|n| *n > 0).ok_or(io::ErrorKind::InvalidInput)?;
    let per_job = (job / row_bytes).max(1);
    let rows = (bytes / row_bytes).next_multiple_of(per_job);
    let mut weights = MmapMut::map_anon(rows * row_bytes)?;
    // As the resident part has them.
    #[cfg(target_os = "linux")]
    let _ = weights.advise(memmap2::Advice::HugePage);
    // As an f16 or f32 this is of ordinary size; pages that were never written would all be one page of zeros.
    weights.fill(0x3c);
    let mut record = MmapMut::map_anon(kind.stride(cols).max(1))?;
    kernels.quantize_act(kind, &vec![0.5; cols], &mut record);
    let each = kernels.matmul_scratch(format, cols, 1).next_multiple_of(64).max(64);
    let mut scratch = MmapMut::map_anon(each * team.workers())?;
    let mut out = vec![0f32; per_job];
    let chunk = kernels.row_chunk(format, per_job, cols, 1);
    let acts = Acts::new(kind, 1, cols, &record).ok_or(io::ErrorKind::InvalidInput)?;
    let mut times: Vec<f64> = Vec::new();
    let begin = Instant::now();
    while times.len() < 3 || begin.elapsed() < TIME {
        let start = Instant::now();
        for job in weights.chunks_exact(per_job * row_bytes) {
            let tiles = Tiles::new(&mut out, 1, per_job, 0, per_job, chunk).ok_or(io::ErrorKind::InvalidInput)?;
            let tiles = tiles.tapering(team.workers(), usize::MAX);
            let slots = Chunks::new(&mut scratch, each);
            team.run(&|_| {
                let Some((_, scratch)) = slots.claim() else { return };
                while let Some(mut tile) = tiles.claim() {
                    let rows = tile.rows();
                    kernels.matmul(
                        format,
                        &job[rows.start * row_bytes..rows.end * row_bytes],
                        &acts,
                        &mut tile,
                        scratch,
                    );
                }
            });
        }
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok((rows * row_bytes) as f64 / times[times.len() / 2])
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
        let speed = decode_speed(&kernels, &drupe::Solo, &visits, 1 << 20, PIECE).unwrap();
        assert!((1e6..1e13).contains(&speed), "{speed}");
        assert_eq!(decode_speed(&kernels, &drupe::Solo, &[], 1 << 20, MATRIX).unwrap(), f64::INFINITY);
    }
}
