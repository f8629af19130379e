//! The workers that a forward pass runs on.
//!
//! The forward pass is written as a sequence of steps; each step is one closure that every worker runs at once
//! ([`Team::run`]) and that claims its work in chunks ([`crate::quant::Chunks`], [`crate::quant::Tiles`]). The
//! return of `run` is the barrier. A team of one ([`Solo`]) is the bare-metal case.

/// Runs one closure on every worker at once.
pub trait Team: Sync {
    /// Number of workers, at least 1.
    fn workers(&self) -> usize;

    /// Calls `job(worker)` once for each worker `0..workers()`, and returns when all calls have returned. What the
    /// calls wrote is visible after it returns. Worker 0 is the calling thread.
    fn run(&self, job: &(dyn Fn(usize) + Sync));
}

/// A team of one: the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Team for Solo {
    fn workers(&self) -> usize {
        1
    }

    fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        job(0)
    }
}
