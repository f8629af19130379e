//! What a thread team costs and bears: the latency of an empty job, and the speed of a decode-like sequence of jobs
//! (steps of some tens of microseconds, cut into chunks) alone and with one busy process pinned to each core. The steps
//! read what lies in the cores' caches, so that the figures tell of the team and not of the memory.
//!
//! `cargo run --release -p drupe-host --example team_speed [WORKERS]`

use crossbeam_utils::CachePadded;
use drupe::team::{Solo, Team};
use drupe_host::team::{Cores, ThreadTeam, default_threads};
use std::hint::black_box;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes of one step, and steps of one "token".
const STEP: usize = 1 << 20;
const STEPS: usize = 128;

fn main() {
    let mut args = std::env::args().skip(1);
    let first = args.next();
    if first.as_deref() == Some("--busy") {
        pin(args.next().and_then(|c| c.parse().ok()).unwrap_or(0));
        loop {
            black_box(0);
        }
    }
    let workers = first.and_then(|w| w.parse().ok()).unwrap_or_else(default_threads);
    let team = ThreadTeam::new(workers, &Cores::detect()).expect("team");

    for _ in 0..10_000 {
        team.run(&|_| ());
    }
    let start = Instant::now();
    for _ in 0..200_000 {
        team.run(&|_| ());
    }
    println!("empty job, {workers} workers: {:.0} ns", start.elapsed().as_nanos() as f64 / 200_000.0);

    let weights = vec![1u64; STEP / 8];
    let alone = speed(&Solo, &weights);
    let quiet = speed(&team, &weights);
    println!("1 worker:  {alone:.2} GB/s\n{workers} workers: {quiet:.2} GB/s");
    let busy: Vec<Busy> = Cores::all().cpus().iter().map(|c| Busy::on(*c)).collect();
    std::thread::sleep(Duration::from_millis(300));
    let shared = speed(&team, &weights);
    let solo = speed(&Solo, &weights);
    drop(busy);
    println!("with a busy process on each core:");
    println!("1 worker:  {solo:.2} GB/s, {:.0} %", 100.0 * solo / alone);
    println!("{workers} workers: {shared:.2} GB/s, {:.0} %", 100.0 * shared / quiet);
}

/// Bytes per second, in GB.
fn speed(team: &dyn Team, weights: &[u64]) -> f64 {
    token(team, weights);
    let start = Instant::now();
    let mut tokens = 0;
    while start.elapsed() < Duration::from_secs(4) {
        token(team, weights);
        tokens += 1;
    }
    (tokens * STEPS * STEP) as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn token(team: &dyn Team, step: &[u64]) {
    for _ in 0..STEPS {
        let chunk = 4096;
        let next = CachePadded::new(AtomicUsize::new(0));
        team.run(&|_| {
            loop {
                let at = next.fetch_add(1, Relaxed) * chunk;
                let Some(part) = step.get(at..step.len().min(at + chunk)) else { break };
                black_box(part.iter().fold(0u64, |a, b| a ^ b));
            }
        });
    }
}

fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).expect("pin");
}

struct Busy(Child);

impl Busy {
    fn on(cpu: usize) -> Busy {
        let me = std::env::current_exe().expect("own path");
        Busy(Command::new(me).args(["--busy", &cpu.to_string()]).spawn().expect("busy process"))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
