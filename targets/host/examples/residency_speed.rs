//! Decoding under a memory budget, beside what bounds it, all measured in this one run: the storage's speed read in the
//! same way, the kernels' speed with weights in memory. One line of JSON.
//!
//! `cargo run --release -p drupe-host --example residency_speed MODEL LIMIT [THREADS [TOKENS [uring|threads|cached]]]`
//!
//! LIMIT is a promise over the whole process, in MiB. TOKENS may be thousands: `drift` is the median time per token of
//! the last tenth over that of the first, `growth` what the process grew by meanwhile, in bytes.

use drupe::gguf::Gguf;
use drupe::quant::Kernels;
use drupe::{Arena, Config, Engine, Model, Plan, Recipe, Session, Solo, Team, model};
use drupe_host::map::ModelFile;
use drupe_host::residency::{Expected, Residency, ResidencyPlan, Speeds, Way, decode_speed, pass_bytes, visits};
use drupe_host::team::{Cores, ThreadTeam};
use drupe_host::usage::Usage;
use std::error::Error;
use std::time::{Duration, Instant};

/// The program's own memory: code, stacks, this example's few tables.
const PROGRAM: u64 = 8 << 20;

/// Storage's speed is measured so many times, in between the tokens: it changes with what else a machine does.
const ROUNDS: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| args.get(i).map_or(Ok(default), |a| a.parse());
    let (Some(path), limit) = (args.first(), number(1, 0)?) else { return Err("MODEL LIMIT".into()) };
    let (threads, tokens) = (number(2, 1)?, number(3, 32)?.max(10));
    let way = match args.get(4).map(String::as_str) {
        None | Some("uring") => Way::Uring,
        Some("threads") => Way::Threads,
        Some(_) => Way::Cached,
    };
    let file = ModelFile::open(path)?;
    let parts = file.slices();
    let gguf = Gguf::parse_parts(&parts)?;
    let kernels = Kernels::detect();
    let team = ThreadTeam::new(threads, &Cores::detect())?;
    let config = Config { workers: threads as u32, batch: 8, logits: 1, ..Config::new(256) };
    let plan = Plan::new(&Recipe::of(&gguf, config.ctx)?, model::formats(&gguf), &kernels, &config)?;
    let mut memory = memmap2::MmapMut::map_anon(plan.total() as usize)?;
    let mut arena = Arena::new(&mut memory);
    let bound = Model::bind(&gguf, &plan, &kernels, &mut arena)?;
    let mut session = Session::new(&bound, &mut arena)?;
    let visits = visits(&bound);
    let head = gguf.tensors().map(|t| t.offset).min().unwrap_or(0);
    let budget = ((limit as u64) << 20).saturating_sub(plan.total() + PROGRAM + head);
    let held = ResidencyPlan::new(&visits, budget)?;
    let mut weights = Residency::open_by(&held, &file, way)?;
    let way = weights.way();

    let team: &dyn Team = if threads == 1 { &Solo } else { &team };
    let vocab = plan.recipe.vocab;
    let mut token = |i: usize, weights: &mut Residency| -> Result<Duration, Box<dyn Error>> {
        let mut engine = Engine { team, weights, cancelled: &drupe::session::never };
        let start = Instant::now();
        session.feed(&mut engine, &[(i as u32).wrapping_mul(2_654_435_761) % vocab])?;
        Ok(start.elapsed())
    };
    // The first pass reads what is to stay.
    let first = token(0, &mut weights)?;
    token(1, &mut weights)?;
    let before = Usage::now();
    let mut times: Vec<f64> = Vec::with_capacity(tokens);
    let (mut waiting, mut restarts, mut storage) = (Duration::ZERO, 0, Vec::with_capacity(ROUNDS));
    for round in 0..ROUNDS {
        if round > 0 {
            // Measuring has left the reading ahead in the middle of a pass: a token puts it right, and does not count.
            token(tokens + round + 2, &mut weights)?;
        }
        let figures = weights.figures();
        for i in tokens * round / ROUNDS..tokens * (round + 1) / ROUNDS {
            times.push(token(i + 2, &mut weights)?.as_secs_f64());
        }
        waiting += weights.figures().waiting - figures.waiting;
        restarts += weights.figures().restarts - figures.restarts;
        storage.push(weights.read_speed(Duration::from_millis(200))?.unwrap_or(f64::INFINITY));
    }
    let after = Usage::now();
    storage.sort_by(f64::total_cmp);
    let storage = storage[ROUNDS / 2];
    drop(weights);
    // Of the memory that the weights have left, as much as they had: in less, large caches would hold it.
    let room = (held.total_bytes as usize / 10 * 9).clamp(1 << 20, 512 << 20);
    let speeds = Speeds { decode: decode_speed(&kernels, team, &visits, room, held.streamed_bytes, &[])?, storage };
    let expected = Expected::of(pass_bytes(&visits), held.streamed_bytes, &speeds);

    let tenth = tokens / 10;
    let middle = |list: &[f64]| {
        let mut sorted = list.to_vec();
        sorted.sort_by(f64::total_cmp);
        (sorted[sorted.len() / 2], sorted[(sorted.len() * 99).div_ceil(100) - 1])
    };
    let (p50, p99) = middle(&times);
    let drift = middle(&times[tokens - tenth..]).0 / middle(&times[..tenth]).0;
    let speed = tokens as f64 / times.iter().sum::<f64>();
    let growth = after.anonymous.unwrap_or(0) as i64 - before.anonymous.unwrap_or(0) as i64;
    println!(
        "{{\"limit_mib\": {limit}, \"way\": \"{way}\", \"tok_s\": {speed:.3}, \"expected_tok_s\": {:.3}, \
         \"of_bound\": {:.3}, \"compute_ms\": {:.1}, \"storage_ms\": {:.1}, \"p50_ms\": {:.1}, \"p99_ms\": {:.1}, \
         \"first_ms\": {:.1}, \"streamed_bytes\": {}, \"storage_gb_s\": {:.3}, \"decode_gb_s\": {:.3}, \
         \"waiting_share\": {:.3}, \"restarts\": {}, \"peak_bytes\": {}, \"group_peak_bytes\": {}, \"drift\": {drift:.3}, \
         \"growth\": {growth}}}",
        expected.speed(),
        speed / expected.speed(),
        expected.compute * 1e3,
        expected.storage * 1e3,
        p50 * 1e3,
        p99 * 1e3,
        first.as_secs_f64() * 1e3,
        held.streamed_bytes,
        storage / 1e9,
        speeds.decode / 1e9,
        waiting.as_secs_f64() / times.iter().sum::<f64>(),
        restarts,
        after.peak_resident.unwrap_or(0),
        after.group_peak.unwrap_or(0),
    );
    Ok(())
}
