//! `drupe bench`: how fast, how evenly, in how much memory.

use crate::args::{BenchArgs, ModelArgs};
use crate::bench_report::{report, table};
use crate::engine::{Loaded, Opened, Setup, Source};
use crate::fail::{Done, failed, usage};
use crate::measure::{median, read_bandwidth, spread};
use crate::text::Text;
use crate::{bench_limit, term};
use drupe_host::limit::Limit;
use drupe_host::map::ModelFile;
use drupe_host::residency::{Visit, decode_speed, storage_speed, visits};
use drupe_host::usage::{Clock, Usage};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Runs further apart than this, as a share of their median, are not steady.
const STEADY: f64 = 0.05;

/// Runs that are not steady are repeated until the last ones are, up to so many times `--runs`.
const PATIENCE: usize = 4;

/// How long storage is read after each run, to know its speed.
const STORAGE: Duration = Duration::from_millis(200);

/// One run: a prompt, then tokens.
struct Run {
    prefill: Duration,
    decode: Duration,
    tokens: Vec<Duration>,
}

/// What was measured.
pub struct Measured {
    /// Runs done in all, the first one left out.
    pub runs: usize,
    /// Of the runs that count, the last ones: tokens per second.
    pub prefill: Vec<f64>,
    /// The same of tokens after the prompt.
    pub decode: Vec<f64>,
    /// Every token's time.
    pub tokens: Vec<Duration>,
    /// The prompt's time in the very first run.
    pub first_prefill: Duration,
    /// Clocks before, during and after.
    pub clocks: Vec<Clock>,
    /// Storage's speed between the runs in bytes per second, if weights are streamed, and what measuring it read.
    pub storage: Option<f64>,
    pub storage_bytes: u64,
    /// Share of the experts chosen that were in memory.
    pub experts_kept: Option<f64>,
}

impl Measured {
    /// Whether the runs that count are alike.
    pub fn steady(&self) -> bool {
        spread(&self.prefill).max(spread(&self.decode)) <= STEADY
    }
}

/// How long a start took: until the model could be fed, and until the first token was there.
#[derive(Clone, Copy)]
pub struct Start {
    pub load: Duration,
    pub first_token: Duration,
}

impl Start {
    pub fn json(&self) -> Value {
        json!({ "load_ms": self.load.as_secs_f64() * 1e3, "ttft_ms": self.first_token.as_secs_f64() * 1e3 })
    }
}

pub fn run(args: &BenchArgs) -> Done {
    if args.prompt == 0 || args.runs == 0 {
        return Err(usage("-p and --runs must be at least 1"));
    }
    // A limit that the kernel enforces is set around a whole process: another one of this program.
    let inside = std::env::var_os(bench_limit::INSIDE).is_some();
    if !inside && (args.sweep.is_some() || args.how.memory.is_some()) {
        return bench_limit::run(args);
    }
    if args.plot.is_some() {
        return Err(usage("--plot draws a --sweep: give both"));
    }
    let cold = !args.warm && !args.start_only && chill(&args.model)?;
    let before = Usage::now();
    let mut loaded = load(args)?;
    if args.start_only {
        let prefill = prefill(args, &mut loaded)?;
        let start = Start { load: loaded.took, first_token: loaded.took + prefill };
        return term::line(&start.json().to_string());
    }
    let measured = measure(args, &mut loaded)?;
    let used = Usage::now().since(&before);
    let mut document = report(args, &loaded, &measured, &used);
    let first = Start { load: loaded.took, first_token: loaded.took + measured.first_prefill };
    if cold {
        document["start"]["cold"] = first.json();
    }
    if inside {
        // Whoever set the limit measures outside of it what would take memory here.
        return term::line(&document.to_string());
    }
    let warm = match loaded.opened.file {
        Some(_) => bench_limit::warm_start(args)?,
        None => Start { first_token: loaded.took + median_time(args.prompt, &measured.prefill), ..first }.json(),
    };
    add_warm(&mut document, warm);
    let streamed = loaded.streamed.as_ref().map_or(0, |plan| plan.streamed_bytes);
    // The weights have been measured; what follows takes memory of its own.
    loaded.weights = Source::Memory(drupe::InMemory::new(&[]));
    if let (true, true, Some(file)) = (streamed > 0, document["storage_gb_s"].is_null(), loaded.opened.file) {
        // Only experts come from storage, and to read others would have thrown out those that were kept.
        let speed = storage_speed(file, u64::MAX, STORAGE, &mut |_| ()).map_err(failed)?;
        document["storage_gb_s"] = json!(speed / 1e9);
    }
    let mapped = if streamed == 0 { loaded.opened.parts } else { &[] };
    let room = room();
    let visits = visits(loaded.session.model());
    let speed = decode_speed(&loaded.kernels, &loaded.team, &visits, room, streamed, mapped).map_err(failed)?;
    add_machine(&mut document, read_bandwidth(&loaded.team, room), speed, &visits);
    if args.json { term::line(&document.to_string()) } else { term::bytes(table(&document).as_bytes()) }
}

/// Opens the model and gets all ready that an answer needs, the tokenizer's tables included.
fn load(args: &BenchArgs) -> Done<Loaded> {
    let setup = Setup::new(&args.how)?;
    let opened = Opened::open(Some(&args.model))?;
    let (ctx, how) = context(args)?;
    let start = Instant::now();
    let _tables = Text::new(&opened)?;
    let tables = start.elapsed();
    let mut loaded = Loaded::new(opened, &setup, &how, ctx, 1)?;
    loaded.took += tables;
    Ok(loaded)
}

/// The tokens of context that the benchmark needs, and the options with them.
pub fn context(args: &BenchArgs) -> Done<(u32, ModelArgs)> {
    let ctx = [args.prompt, args.depth, args.tokens].iter().try_fold(1u32, |sum, n| sum.checked_add(*n));
    let ctx = ctx.ok_or_else(|| usage("-p, --depth and -n are too many tokens together"))?;
    Ok((ctx, ModelArgs { ctx: args.how.ctx.or(Some(ctx)), ..args.how.clone() }))
}

/// Drops the model's files from the page cache, so that the run starts cold and pays for every page itself. False for
/// a model that is no file.
fn chill(model: &str) -> Done<bool> {
    let Ok(file) = ModelFile::open(model) else { return Ok(false) };
    for (i, part) in file.parts().iter().enumerate() {
        file.release(i, 0..part.bytes().len()).map_err(|e| failed(format!("{model}: dropping cached pages: {e}")))?;
    }
    Ok(true)
}

/// Memory for measuring with: enough that caches do not matter, a small part of what there is.
pub fn room() -> usize {
    (Limit::of_this_process().bytes / 8).min(256 << 20) as usize
}

/// Adds how long a start takes when storage need not be read, which is also what a start takes if nothing more is said.
pub fn add_warm(document: &mut Value, warm: Value) {
    for key in ["load_ms", "ttft_ms"] {
        document[key] = warm[key].clone();
    }
    document["start"]["warm"] = warm;
}

/// Adds what the machine could do: its memory's and its kernels' speeds in bytes per second.
pub fn add_machine(document: &mut Value, bandwidth: f64, kernels: f64, visits: &[Visit]) {
    use drupe_host::residency::{Expected, Speeds};
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let measured = number(&document["decode"]["tok_s"]);
    document["read_bandwidth_gb_s"] = json!(bandwidth / 1e9);
    document["bandwidth_used"] = json!(number(&document["bytes_per_token"]) * measured / bandwidth);
    let storage = document["storage_gb_s"].as_f64().map_or(f64::INFINITY, |s| s * 1e9);
    let streamed = document["streamed"]["per_token_bytes"].as_u64().unwrap_or(0);
    let expected = Expected::of_pass(visits, streamed, &Speeds { decode: kernels, storage });
    document["expected"] = json!({
        "tok_s": expected.speed(), "compute_ms": expected.compute * 1e3, "storage_ms": expected.storage * 1e3,
        "reached": measured / expected.speed(),
    });
}

fn median_time(tokens: u32, speeds: &[f64]) -> Duration {
    Duration::from_secs_f64(f64::from(tokens) / median(speeds))
}

/// Any tokens will do, as long as they differ.
fn token(loaded: &Loaded, i: u32) -> u32 {
    (i.wrapping_mul(2_654_435_761) >> 8) % loaded.plan.recipe.vocab
}

/// Feeds the prompt from nothing.
fn prefill(args: &BenchArgs, loaded: &mut Loaded) -> Done<Duration> {
    let prompt: Vec<u32> = (0..args.prompt).map(|i| token(loaded, i)).collect();
    loaded.session.rewind(0).map_err(failed)?;
    let start = Instant::now();
    loaded.prefill(&prompt, &mut |_| ())?;
    Ok(start.elapsed())
}

fn one_run(args: &BenchArgs, loaded: &mut Loaded) -> Done<Run> {
    let filler: Vec<u32> = (0..args.depth).map(|i| token(loaded, i + args.prompt)).collect();
    let prefill = prefill(args, loaded)?;
    if !filler.is_empty() {
        loaded.prefill(&filler, &mut |_| ())?;
    }
    let begin = Instant::now();
    let mut tokens = Vec::with_capacity(args.tokens as usize);
    for i in 0..args.tokens {
        let start = Instant::now();
        loaded.feed(&[token(loaded, i + args.prompt + args.depth)])?;
        tokens.push(start.elapsed());
    }
    Ok(Run { prefill, decode: begin.elapsed(), tokens })
}

/// Runs until the last `--runs` ones are alike, or patience ends.
fn measure(args: &BenchArgs, loaded: &mut Loaded) -> Done<Measured> {
    let wanted = args.runs as usize;
    let bar = term::progress(wanted as u64 + 1, "measuring", false);
    let mut clocks = vec![Clock::now()];
    // The first run warms caches, page tables and clocks up; it is not counted.
    let first = one_run(args, loaded)?;
    bar.inc(1);
    let (mut prefill, mut decode, mut runs): (Vec<f64>, Vec<f64>, Vec<Run>) = (vec![], vec![], vec![]);
    let (mut storage, mut storage_bytes) = (vec![], 0);
    let last = |list: &[f64]| list[list.len().saturating_sub(wanted)..].to_vec();
    loop {
        clocks.push(Clock::now());
        let run = one_run(args, loaded)?;
        bar.inc(1);
        prefill.push(f64::from(args.prompt) / run.prefill.as_secs_f64());
        // Nothing generated, no speed.
        decode.push(if args.tokens == 0 { 0.0 } else { f64::from(args.tokens) / run.decode.as_secs_f64() });
        runs.push(run);
        if let Source::Streamed(weights) = &mut loaded.weights {
            let before = weights.figures().bytes;
            storage.extend(weights.read_speed(STORAGE).map_err(failed)?);
            storage_bytes += weights.figures().bytes - before;
        }
        let apart = spread(&last(&prefill)).max(spread(&last(&decode)));
        if runs.len() >= wanted && (apart <= STEADY || runs.len() >= wanted * PATIENCE) {
            break;
        }
        bar.set_length((runs.len().max(wanted) + 1) as u64);
    }
    clocks.push(Clock::now());
    bar.finish_and_clear();
    let counted = runs.len() - wanted;
    Ok(Measured {
        runs: runs.len(),
        prefill: last(&prefill),
        decode: last(&decode),
        tokens: runs.drain(counted..).flat_map(|r| r.tokens).collect(),
        first_prefill: first.prefill,
        clocks,
        storage: (!storage.is_empty()).then(|| median(&storage)),
        storage_bytes,
        experts_kept: match &loaded.weights {
            Source::Streamed(weights) => {
                let f = weights.figures();
                (f.chosen > 0).then(|| f.kept as f64 / f.chosen as f64)
            }
            Source::Memory(_) => None,
        },
    })
}
