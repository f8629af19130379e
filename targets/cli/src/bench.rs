//! `drupe bench`: how fast, how evenly, in how much memory.

use crate::args::BenchArgs;
use crate::engine::{Loaded, Opened, Setup};
use crate::fail::{Done, failed, usage};
use crate::measure::{Latency, median, read_bandwidth};
use crate::{bench_limit, size, term};
use drupe_host::limit::Limit;
use drupe_host::map::ModelFile;
use drupe_host::usage::{Clock, Usage, cpu_name};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Runs further apart than this are said to be unstable.
const STEADY: f64 = 0.05;

/// What was measured.
struct Measured {
    prefill_tok_s: Vec<f64>,
    decode_tok_s: Vec<f64>,
    first_token: Vec<f64>,
    tokens: Vec<Duration>,
    clocks: Vec<Clock>,
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
    let setup = Setup::new(&args.how)?;
    if args.cold || inside {
        chill(&args.model)?;
    }
    let opened = Opened::open(Some(&args.model))?;
    let ctx = [args.prompt, args.depth, args.tokens].iter().try_fold(1u32, |sum, n| sum.checked_add(*n));
    let ctx = ctx.ok_or_else(|| usage("-p, --depth and -n are too many tokens together"))?;
    let how = crate::args::ModelArgs { ctx: args.how.ctx.or(Some(ctx)), ..args.how.clone() };
    let before = Usage::now();
    let mut loaded = Loaded::new(opened, &setup, &how, ctx, 1)?;
    let measured = measure(args, &mut loaded)?;
    let used = Usage::now().since(&before);
    // After the peak was read: this takes memory of its own. Inside a limit whoever set it does it.
    let least = Limit::of_this_process().bytes / 8;
    let bandwidth = if inside { f64::NAN } else { read_bandwidth(&loaded.team, (256 << 20).min(least as usize)) };
    let document = report(args, &loaded, &measured, &used, bandwidth);
    if args.json { term::line(&document.to_string()) } else { term::bytes(table(&document).as_bytes()) }
}

/// Drops the model's files from the page cache, so that the run starts cold and pays for every page itself.
fn chill(model: &str) -> Done {
    let Ok(file) = ModelFile::open(model) else { return Ok(()) };
    for (i, part) in file.parts().iter().enumerate() {
        file.release(i, 0..part.bytes().len()).map_err(|e| failed(format!("{model}: dropping cached pages: {e}")))?;
    }
    Ok(())
}

fn measure(args: &BenchArgs, loaded: &mut Loaded) -> Done<Measured> {
    let vocab = loaded.plan.recipe.vocab;
    // Any tokens will do, as long as they differ.
    let token = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) % vocab;
    let prompt: Vec<u32> = (0..args.prompt).map(token).collect();
    let filler: Vec<u32> = (0..args.depth).map(|i| token(i + args.prompt)).collect();
    let passes = args.runs as u64 + 1;
    let bar = term::progress(passes * (args.prompt + args.depth + args.tokens) as u64, "measuring", false);
    let mut measured =
        Measured { prefill_tok_s: vec![], decode_tok_s: vec![], first_token: vec![], tokens: vec![], clocks: vec![] };
    for pass in 0..passes {
        loaded.session.rewind(0).map_err(failed)?;
        let start = Instant::now();
        loaded.prefill(&prompt, &mut |_| ())?;
        let prefill = start.elapsed();
        bar.inc(args.prompt as u64);
        if !filler.is_empty() {
            loaded.prefill(&filler, &mut |_| ())?;
            bar.inc(args.depth as u64);
        }
        let begin = Instant::now();
        let mut times = Vec::with_capacity(args.tokens as usize);
        for i in 0..args.tokens {
            let start = Instant::now();
            loaded.feed(&[token(i + args.prompt + args.depth)])?;
            times.push(start.elapsed());
        }
        let decode = begin.elapsed();
        bar.inc(args.tokens as u64);
        measured.clocks.push(Clock::now());
        // The first pass warms caches, page tables and clocks up; it is not counted.
        if pass > 0 {
            measured.prefill_tok_s.push(args.prompt as f64 / prefill.as_secs_f64());
            measured.decode_tok_s.push(args.tokens as f64 / decode.as_secs_f64());
            measured.first_token.push((loaded.took + prefill).as_secs_f64() * 1e3);
            measured.tokens.append(&mut times);
        }
    }
    bar.finish_and_clear();
    Ok(measured)
}

/// Bytes of weights that one decoded token reads: every matrix once, of an embedding that is not also the output one row.
fn bytes_per_token(loaded: &Loaded) -> u64 {
    let gguf = &loaded.opened.gguf;
    let tied = gguf.tensor("output.weight").is_none();
    let read = |t: &drupe::gguf::TensorInfo| match t.name {
        "token_embd.weight" if !tied => t.bytes / t.dims[1].max(1),
        _ => t.bytes,
    };
    gguf.tensors().map(|t| read(&t)).sum()
}

/// How far the runs are apart, as a share of their median.
fn spread(values: &[f64]) -> f64 {
    let (low, high) = values.iter().fold((f64::MAX, 0f64), |(l, h), v| (l.min(*v), h.max(*v)));
    if values.len() < 2 { 0.0 } else { (high - low) / median(values) }
}

fn report(args: &BenchArgs, loaded: &Loaded, m: &Measured, used: &Usage, bandwidth: f64) -> Value {
    let latency = Latency::of(&m.tokens);
    let decode = median(&m.decode_tok_s);
    let limit = Limit::of_this_process();
    let clocks = || m.clocks.iter().filter_map(|c| c.frequency_mhz);
    let throttled: Option<Vec<&str>> = m.clocks.last().and_then(|c| c.clone().ask_firmware().throttled);
    let per_token = bytes_per_token(loaded);
    let steady = spread(&m.decode_tok_s).max(spread(&m.prefill_tok_s)) <= STEADY;
    json!({
        "model": loaded.opened.name,
        "shape": loaded.opened.shape,
        "model_bytes": loaded.opened.bytes(),
        "threads": loaded.plan.config.workers,
        "isa": loaded.kernels.isa().name(),
        "cpu": cpu_name(),
        "ctx": loaded.plan.config.ctx,
        "depth": args.prompt + args.depth,
        "runs": args.runs,
        "prefill": { "tokens": args.prompt, "tok_s": median(&m.prefill_tok_s), "tok_s_runs": m.prefill_tok_s },
        "decode": { "tokens": args.tokens, "tok_s": decode, "tok_s_runs": m.decode_tok_s },
        "steady": steady,
        "ttft_ms": median(&m.first_token),
        "load_ms": loaded.took.as_secs_f64() * 1e3,
        "cold": args.cold || std::env::var_os(bench_limit::INSIDE).is_some(),
        "streamed": loaded.streamed.as_ref().map(|s| json!({
            "resident_bytes": s.resident_bytes, "per_token_bytes": s.streamed_bytes, "buffers_bytes": s.total_bytes,
        })),
        "latency_ms": { "p50": latency.p50, "p90": latency.p90, "p99": latency.p99, "max": latency.max },
        "memory": {
            "plan_bytes": loaded.plan.total(),
            "peak_bytes": used.peak_resident,
            "anon_bytes": used.anonymous,
            "file_bytes": used.file,
        },
        "faults": { "minor": used.minor_faults, "major": used.major_faults },
        "storage_read_bytes": used.storage_read,
        "limit": { "bytes": limit.bytes, "kind": limit.source.to_string() },
        "frequency_mhz": {
            "min": clocks().map(|c| c.0).min(),
            "max": clocks().map(|c| c.1).max(),
        },
        "throttled": throttled,
        "read_bandwidth_gb_s": bandwidth / 1e9,
        "bytes_per_token": per_token,
        "bandwidth_used": per_token as f64 * decode / bandwidth,
    })
}

/// The document for people.
pub fn table(d: &Value) -> String {
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let bytes = |v: &Value| v.as_u64().map_or("unknown".into(), size::show);
    let count = |v: &Value| v.as_u64().map_or("unknown".into(), |n| n.to_string());
    let text = |v: &Value| v.as_str().unwrap_or("unknown").to_string();
    let mut out = format!(
        "{} ({})\n{}, {} threads, {}\n\n",
        text(&d["model"]),
        bytes(&d["model_bytes"]),
        text(&d["cpu"]),
        count(&d["threads"]),
        text(&d["isa"])
    );
    let mut row = |name: &str, value: String| out += &format!("{name:22} {value}\n");
    let pair = |v: &Value| format!("{:.2} tok/s ({} tokens)", number(&v["tok_s"]), count(&v["tokens"]));
    row("prefill", pair(&d["prefill"]));
    row("decode", pair(&d["decode"]));
    let l = &d["latency_ms"];
    row(
        "per token",
        format!(
            "p50 {:.2}, p90 {:.2}, p99 {:.2}, max {:.2} ms",
            number(&l["p50"]),
            number(&l["p90"]),
            number(&l["p99"]),
            number(&l["max"])
        ),
    );
    row("load", format!("{:.1} ms", number(&d["load_ms"])));
    row("time to first token", format!("{:.1} ms (load and prefill)", number(&d["ttft_ms"])));
    let memory = &d["memory"];
    row(
        "memory",
        format!(
            "peak {}, of it now anonymous {}, file {}; planned {}",
            bytes(&memory["peak_bytes"]),
            bytes(&memory["anon_bytes"]),
            bytes(&memory["file_bytes"]),
            bytes(&memory["plan_bytes"])
        ),
    );
    if let Some(peak) = memory["group_peak_bytes"].as_u64() {
        row("peak of the group", format!("{} by the kernel's accounting, file pages included", size::show(peak)));
    }
    if d["streamed"].is_object() {
        let streamed = &d["streamed"];
        row(
            "weights",
            format!(
                "{} resident, {} streamed per token",
                bytes(&streamed["resident_bytes"]),
                bytes(&streamed["per_token_bytes"])
            ),
        );
    }
    row("page faults", format!("{} minor, {} major", count(&d["faults"]["minor"]), count(&d["faults"]["major"])));
    row("read from storage", bytes(&d["storage_read_bytes"]));
    row("limit", format!("{} ({})", bytes(&d["limit"]["bytes"]), text(&d["limit"]["kind"])));
    if let (Some(min), Some(max)) = (d["frequency_mhz"]["min"].as_u64(), d["frequency_mhz"]["max"].as_u64()) {
        row("clock", format!("{min} to {max} MHz"));
    }
    if let Some(reasons) = d["throttled"].as_array() {
        let reasons: Vec<&str> = reasons.iter().filter_map(Value::as_str).collect();
        row("throttled", if reasons.is_empty() { "no".into() } else { reasons.join(", ") });
    }
    row(
        "memory bandwidth",
        format!(
            "{:.1} GB/s measured, {:.0}% used by decode ({} per token)",
            number(&d["read_bandwidth_gb_s"]),
            100.0 * number(&d["bandwidth_used"]),
            bytes(&d["bytes_per_token"])
        ),
    );
    if d["steady"] == false {
        let runs = |v: &Value| {
            let runs = v["tok_s_runs"].as_array().into_iter().flatten().filter_map(Value::as_f64);
            runs.map(|x| format!("{x:.1}")).collect::<Vec<_>>().join(" ")
        };
        let (prefill, decode) = (runs(&d["prefill"]), runs(&d["decode"]));
        out += &format!("\nnot steady: runs differ by more than 5% (prefill {prefill}; decode {decode} tok/s)\n");
    }
    out
}
