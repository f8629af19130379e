//! [`Team`] on the threads of a `rayon` pool, entered once.
//!
//! A step of the forward pass takes some tens of microseconds, so handing it out must cost far less than one, and
//! nothing may be allocated. The pool's threads are entered when the team is made and from then on wait on one word,
//! the number of the current job. Each worker's index is a claim on that job: the thread that it belongs to takes it
//! if it comes in time, else the caller takes it when it is done with its own. So a thread that is asleep, or that the
//! system has put aside for another process, delays nothing; only one that is in the middle of its part is waited for.
//!
//! Waiting spins for some microseconds, then sleeps on a futex. Spinning longer is worth nothing where the cores are
//! free and harmful where they are not: it burns the time slice that the awaited thread, or this one a moment later,
//! needs. A thread that slept is put on its core again soon after it is woken; one that spun its slice away, or gave it
//! up by `yield`, waits for its next turn. `examples/team_speed.rs` measures it.
#![allow(unsafe_code)]

use crossbeam_utils::CachePadded;
use drupe::team::Team;
use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

mod cores;
pub use cores::{Cores, default_threads};

/// The most workers that a team can have.
pub const MAX_WORKERS: usize = 1024;

/// How long a waiting thread spins before it sleeps.
const SPIN: Duration = Duration::from_micros(20);

type Job<'a> = dyn Fn(usize) + Sync + 'a;

struct Shared {
    /// Number of the current job; wraps. What idle workers wait on.
    seq: CachePadded<AtomicU32>,
    /// Whether a worker may be asleep on `seq`.
    asleep: CachePadded<AtomicBool>,
    /// Parts of the current job that are claimed by workers and not done. What the caller waits on.
    running: CachePadded<AtomicU32>,
    /// Whether the caller sleeps on `running`.
    caller_asleep: CachePadded<AtomicBool>,
    /// For each worker the last job of which its part was claimed: `seq` or `seq − 1`.
    claims: Box<[CachePadded<AtomicU32>]>,
    /// The current job; written by the caller alone, while every claim is taken and `running` is 0.
    job: UnsafeCell<Option<&'static Job<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    /// Pool threads in their loop.
    alive: AtomicU32,
}

// SAFETY: `job` is the only field that is not Sync. It is written only by the one thread that holds `ThreadTeam::caller`,
// after `running` has reached 0 with every claim of the previous job taken, and read only by a thread that has won a
// claim of the current job, before that thread lowers `running`. So a write never meets a read.
unsafe impl Sync for Shared {}
// SAFETY: the job is a reference to something Sync; everything else is Send.
unsafe impl Send for Shared {}

/// A team of threads. Worker 0 is whoever calls [`Team::run`].
///
/// A team serves one caller at a time. A caller that finds it busy (another thread's, or a job that itself calls
/// `run`) does the whole job alone, one worker's part after the other.
pub struct ThreadTeam {
    shared: Arc<Shared>,
    /// Held during a run.
    caller: AtomicBool,
    /// `None` in a team of one. Dropped after the loops have ended.
    _pool: Option<rayon::ThreadPool>,
}

/// Why a team could not be made.
#[derive(Debug)]
pub struct TeamError {
    workers: usize,
    why: rayon::ThreadPoolBuildError,
}

impl fmt::Display for TeamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a team of {} workers could not be started: {}", self.workers, self.why)
    }
}

impl std::error::Error for TeamError {}

impl ThreadTeam {
    /// A team of `workers` (1 to [`MAX_WORKERS`]; others are taken as the nearest), whose threads may run on `cores`.
    ///
    /// All that a team ever allocates is allocated here.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn new(workers: usize, cores: &Cores) -> Result<ThreadTeam, TeamError> {
        let workers = workers.clamp(1, MAX_WORKERS);
        let helpers = workers - 1;
        let shared = Arc::new(Shared {
            seq: CachePadded::new(AtomicU32::new(0)),
            asleep: CachePadded::new(AtomicBool::new(false)),
            running: CachePadded::new(AtomicU32::new(0)),
            caller_asleep: CachePadded::new(AtomicBool::new(false)),
            claims: (0..workers).map(|_| CachePadded::new(AtomicU32::new(0))).collect(),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            alive: AtomicU32::new(0),
        });
        let pool = if helpers == 0 {
            None
        } else {
            let cores = cores.clone();
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(helpers)
                .thread_name(|i| format!("drupe-{}", i + 1))
                // One kernel's frames are all that these stacks hold; pages never touched cost nothing.
                .stack_size(1 << 20)
                .start_handler(move |_| cores.confine_this_thread())
                .build()
                .map_err(|why| TeamError { workers, why })?;
            let theirs = shared.clone();
            pool.spawn_broadcast(move |at| theirs.work(at.index() + 1));
            // Starting a thread allocates: that is over when each has entered its loop.
            shared.wait_until_alive(helpers as u32);
            Some(pool)
        };
        Ok(ThreadTeam { shared, caller: AtomicBool::new(false), _pool: pool })
    }
}

impl Team for ThreadTeam {
    fn workers(&self) -> usize {
        self.shared.claims.len()
    }

    fn run(&self, job: &Job<'_>) {
        if self.caller.swap(true, Acquire) {
            (0..self.workers()).for_each(job);
            return;
        }
        let all = &self.shared;
        if all.claims.len() == 1 {
            let done = catch_unwind(AssertUnwindSafe(|| job(0)));
            self.caller.store(false, Release);
            return done.unwrap_or_else(|e| resume_unwind(e));
        }
        // SAFETY: only the lifetime changes. The reference is used by holders of a claim of this job alone, and this
        // call returns only after every claim is taken and every part done, panics included.
        let job = unsafe { std::mem::transmute::<&Job<'_>, &'static Job<'static>>(job) };
        // SAFETY: `caller` is held, every claim of the job before is taken and `running` is 0 (see `Sync`).
        unsafe { *all.job.get() = Some(job) };
        // Only the caller writes `seq`. SeqCst orders this store before the look at `asleep`, as the sleeper sets that
        // before its look at `seq`: one of the two sees the other.
        let seq = all.seq.load(Relaxed).wrapping_add(1);
        all.seq.store(seq, SeqCst);
        if all.asleep.load(SeqCst) {
            all.asleep.store(false, SeqCst);
            atomic_wait::wake_all(&*all.seq);
        }
        // Its own part, then every part that nobody has begun.
        for worker in 0..all.claims.len() {
            if all.claim(worker, seq) {
                all.part(job, worker);
            }
        }
        all.wait_for_parts();
        let panic = all.panic().take();
        self.caller.store(false, Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Shared {
    /// Whether the part of `worker` in job `seq` is this thread's to do.
    fn claim(&self, worker: usize, seq: u32) -> bool {
        let claim = &self.claims[worker];
        // `running` is raised first, so that the caller, once it has seen the claim taken, sees it raised too.
        self.running.fetch_add(1, Relaxed);
        let won = claim.compare_exchange(seq.wrapping_sub(1), seq, AcqRel, Acquire).is_ok();
        if !won {
            self.finish();
        }
        won
    }

    /// Does a claimed part.
    fn part(&self, job: &Job, worker: usize) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(worker))) {
            self.panic().get_or_insert(payload);
        }
        self.finish();
    }

    fn finish(&self) {
        if self.running.fetch_sub(1, SeqCst) == 1 && self.caller_asleep.load(SeqCst) {
            atomic_wait::wake_all(&*self.running);
        }
    }

    fn panic(&self) -> MutexGuard<'_, Option<Box<dyn Any + Send>>> {
        self.panic.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The caller's wait at the end of a job.
    fn wait_for_parts(&self) {
        if spin_until(|| self.running.load(Acquire) == 0) {
            return;
        }
        self.caller_asleep.store(true, SeqCst);
        loop {
            match self.running.load(SeqCst) {
                0 => break,
                n => atomic_wait::wait(&self.running, n),
            }
        }
        self.caller_asleep.store(false, Relaxed);
    }

    /// What the thread of `worker` does all its life.
    fn work(&self, worker: usize) {
        let mut seen = 0;
        self.alive.fetch_add(1, Release);
        atomic_wait::wake_all(&self.alive);
        loop {
            seen = self.wait_for_job(seen);
            if self.stop.load(Acquire) {
                break;
            }
            if self.claim(worker, seen) {
                // SAFETY: this thread holds a claim of the current job and has not lowered `running`: the caller does
                // not write the job until it has.
                let job = unsafe { *self.job.get() };
                match job {
                    Some(job) => self.part(job, worker),
                    None => self.finish(),
                }
            }
        }
        self.alive.fetch_sub(1, Release);
        atomic_wait::wake_all(&self.alive);
    }

    /// Waits until `n` threads are in their loops.
    fn wait_until_alive(&self, n: u32) {
        loop {
            match self.alive.load(Acquire) {
                now if now == n => break,
                now => atomic_wait::wait(&self.alive, now),
            }
        }
    }

    /// Waits for a job other than `seen`.
    fn wait_for_job(&self, seen: u32) -> u32 {
        if spin_until(|| self.seq.load(Acquire) != seen) {
            return self.seq.load(Acquire);
        }
        loop {
            self.asleep.store(true, SeqCst);
            match self.seq.load(SeqCst) {
                now if now != seen => return now,
                _ => atomic_wait::wait(&self.seq, seen),
            }
        }
    }
}

/// Spins for [`SPIN`] at most; whether `done` came true.
fn spin_until(done: impl Fn() -> bool) -> bool {
    // Most waits end within the first microsecond: no look at the clock for those.
    for _ in 0..64 {
        if done() {
            return true;
        }
        std::hint::spin_loop();
    }
    let start = Instant::now();
    while start.elapsed() < SPIN {
        for _ in 0..16 {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
    }
    done()
}

impl Drop for ThreadTeam {
    fn drop(&mut self) {
        let all = &self.shared;
        all.stop.store(true, Release);
        all.seq.fetch_add(1, SeqCst);
        atomic_wait::wake_all(&*all.seq);
        all.wait_until_alive(0);
    }
}

impl fmt::Debug for ThreadTeam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadTeam").field("workers", &self.workers()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn team(n: usize) -> ThreadTeam {
        ThreadTeam::new(n, &Cores::all()).unwrap()
    }

    #[test]
    fn every_worker_once_and_all_of_it_seen() {
        for n in [1, 2, 3, 4, 7] {
            let team = team(n);
            assert_eq!(team.workers(), n);
            let mut sums = vec![0u64; n];
            let rounds = 30_000 / n as u64;
            for round in 1..=rounds {
                let cells = drupe::quant::Chunks::new(&mut sums, 1);
                let hits: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                team.run(&|w| {
                    hits[w].fetch_add(1, Relaxed);
                    while let Some((_, cell)) = cells.claim() {
                        cell[0] += round;
                    }
                });
                assert!(hits.iter().all(|h| h.load(Relaxed) == 1), "{n} workers, round {round}");
            }
            assert!(sums.iter().all(|s| *s == rounds * (rounds + 1) / 2), "{n} workers");
        }
    }

    #[test]
    fn millions_of_empty_jobs() {
        let team = team(3);
        let count = CachePadded::new(AtomicUsize::new(0));
        let rounds = 1_000_000;
        for i in 0..rounds {
            team.run(&|_| {
                count.fetch_add(1, Relaxed);
            });
            if i % 100_000 == 0 {
                // Long enough for every worker to fall asleep.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        assert_eq!(count.load(Relaxed), 3 * rounds);
    }

    #[test]
    fn a_panic_ends_the_job_everywhere_and_comes_back() {
        let team = team(3);
        let hush = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        for bad in 0..3 {
            let ran = AtomicUsize::new(0);
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.run(&|w| {
                    ran.fetch_add(1, Relaxed);
                    assert!(w != bad, "worker {w}");
                })
            }));
            let message = *caught.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(message, format!("worker {bad}"));
            assert_eq!(ran.load(Relaxed), 3);
            team.run(&|_| ());
        }
        let solo = super::tests::team(1);
        assert!(catch_unwind(AssertUnwindSafe(|| solo.run(&|_| panic!("alone")))).is_err());
        solo.run(&|_| ());
        std::panic::set_hook(hush);
    }

    #[test]
    fn busy_teams_run_jobs_on_the_caller() {
        let team = team(2);
        let inner = AtomicUsize::new(0);
        team.run(&|_| {
            team.run(&|_| {
                inner.fetch_add(1, Relaxed);
            })
        });
        assert_eq!(inner.load(Relaxed), 4);
        let total = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..20_000 {
                        team.run(&|_| {
                            total.fetch_add(1, Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Relaxed), 4 * 20_000 * 2);
    }

    #[test]
    fn made_and_dropped_often() {
        for i in 0..300 {
            let team = team(1 + i % 5);
            if i % 2 == 0 {
                team.run(&|_| ());
            }
        }
    }
}
