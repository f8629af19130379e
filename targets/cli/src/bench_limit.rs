//! Benchmarks under a hard memory limit: each is a run of this program inside a [`Cage`], one or a sweep of them.

use crate::args::BenchArgs;
use crate::bench_report::table;
use crate::engine::{Opened, Setup};
use crate::fail::{Done, Fail, failed, usage};
use crate::measure::read_bandwidth;
use crate::{bench, plot, size, synth, term};
use drupe::quant::Kernels;
use drupe::{Arena, Model};
use drupe_host::cage::Cage;
use drupe_host::map::ModelFile;
use drupe_host::residency::{Visit, decode_speed, visits};
use drupe_host::shapes::Spec;
use drupe_host::team::{Cores, ThreadTeam};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Set for the runs inside: the word for what limits them.
pub const INSIDE: &str = "DRUPE_BENCH_INSIDE";

/// Limits of a sweep.
const STEPS: u64 = 6;

/// One benchmark under `--memory`, or several under `--sweep`.
pub fn run(args: &BenchArgs) -> Done {
    let (path, _file) = on_storage(&args.model)?;
    let machine = Machine::of(args, &path)?;
    let bytes = ModelFile::open(&path).map_err(failed)?.len();
    let limits = match (&args.sweep, args.how.memory) {
        (Some(range), _) => sweep(range, bytes)?,
        (None, Some(limit)) => vec![limit],
        (None, None) => return Err(usage("no --memory and no --sweep")),
    };
    if args.sweep.is_some() && !args.json {
        term::say(&format!("{} limits for a model of {}", limits.len(), size::show(bytes)));
    }
    let mut documents = Vec::new();
    for limit in limits {
        let mut document = caged(args, &path, limit)?;
        document["limit_of_model"] = json!(limit as f64 / bytes as f64);
        if document["error"].is_null() {
            let streamed = document["streamed"]["per_token_bytes"].as_u64().unwrap_or(0);
            let (bandwidth, kernels) = machine.measure(streamed)?;
            bench::add_machine(&mut document, bandwidth, kernels, &machine.visits);
            document["model"] = json!(args.model);
            if let Ok(spec) = Spec::parse(&args.model) {
                document["shape"] = json!(spec.name());
            }
        }
        if args.sweep.is_some() && !args.json {
            term::line(&row(&document, documents.is_empty()))?;
        }
        documents.push(document);
        if term::stopped() {
            return Err(Fail::Interrupted);
        }
    }
    if let Some(path) = &args.plot {
        let svg = plot::limits(&args.model, &documents).map_err(failed)?;
        std::fs::write(path, svg).map_err(|e| failed(format!("writing {}: {e}", path.display())))?;
        term::say(&format!("plot in {}", path.display()));
    }
    if documents.iter().any(|d| d["limit"]["kind"] == Cage::None.name()) {
        term::say(&format!("note: {}", Cage::why_none()));
    }
    if args.json {
        let document = if args.sweep.is_some() { json!(documents) } else { documents.remove(0) };
        return term::line(&document.to_string());
    }
    match &args.sweep {
        Some(_) => Ok(()),
        None if documents[0]["error"].is_string() => Err(failed(documents[0]["error"].as_str().unwrap_or(""))),
        None => term::bytes(table(&documents[0]).as_bytes()),
    }
}

/// What is measured of the machine outside of any limit.
struct Machine {
    kernels: Kernels,
    team: ThreadTeam,
    visits: Vec<Visit>,
    parts: &'static [&'static [u8]],
}

impl Machine {
    fn of(args: &BenchArgs, path: &Path) -> Done<Machine> {
        let setup = Setup::new(&args.how)?;
        let (ctx, how) = bench::context(args)?;
        let opened = Opened::look(path.to_str())?;
        let plan = setup.plan(&opened, &how, ctx, 1)?;
        let mut memory = vec![0; plan.total() as usize + Arena::ALIGN];
        let model = Model::bind(&opened.gguf, &plan, &setup.kernels, &mut Arena::new(&mut memory))
            .map_err(|e| failed(format!("{}: {e}", args.model)))?;
        let team = ThreadTeam::new(setup.threads, &Cores::detect()).map_err(failed)?;
        Ok(Machine { kernels: setup.kernels, team, visits: visits(&model), parts: opened.parts })
    }

    /// Bytes per second: of memory, and of the kernels over weights in memory, of which `streamed` come from storage.
    fn measure(&self, streamed: u64) -> Done<(f64, f64)> {
        let room = bench::room();
        let mapped = if streamed == 0 { self.parts } else { &[] };
        let speed = decode_speed(&self.kernels, &self.team, &self.visits, room, streamed, mapped).map_err(failed)?;
        Ok((read_bandwidth(&self.team, room), speed))
    }
}

/// The model as a file: a shape is written to a temporary one, here and not in a folder that may lie in memory.
fn on_storage(model: &str) -> Done<(PathBuf, Option<tempfile::TempPath>)> {
    if std::path::Path::new(model).exists() {
        return Ok((model.into(), None));
    }
    let Ok(spec) = Spec::parse(model) else {
        // Says what is wrong with it.
        return Opened::look(Some(model)).map(|o| (o.name.into(), None));
    };
    let here = |e: std::io::Error| failed(format!("making {} here: {e}", spec.name()));
    let path = tempfile::Builder::new().prefix(".drupe-bench-").suffix(".gguf").tempfile_in(".").map_err(here)?;
    let path = path.into_temp_path();
    synth::write(&spec, &path)?;
    Ok((path.to_path_buf(), Some(path)))
}

/// Runs one benchmark inside a cage and returns its document, or `{ limit, error }`.
fn caged(args: &BenchArgs, path: &Path, limit: u64) -> Done<Value> {
    let cage = Cage::new(limit);
    let inside = || {
        let mut command = cage.command(program()?.as_os_str());
        command.env(INSIDE, cage.name());
        again(&mut command, args, path, Some(limit));
        Ok(command)
    };
    let kind = json!({ "bytes": limit, "kind": cage.name() });
    let mut document = match output(inside()?)? {
        Ok(document) => document,
        Err(why) => {
            return Ok(json!({ "limit": kind, "error": why, "memory": { "group_peak_bytes": cage.peak() } }));
        }
    };
    let mut start = inside()?;
    start.arg("--start-only");
    bench::add_warm(&mut document, output(start)?.unwrap_or_default());
    document["limit"] = kind;
    document["memory"]["group_peak_bytes"] = json!(cage.peak());
    Ok(document)
}

/// How long a start takes with the file in the page cache: in a process of its own, under no limit.
pub fn warm_start(args: &BenchArgs) -> Done<Value> {
    let mut command = Command::new(program()?);
    again(&mut command, args, Path::new(&args.model), None);
    command.arg("--start-only");
    output(command)?.map_err(failed)
}

fn program() -> Done<PathBuf> {
    std::env::current_exe().map_err(failed)
}

/// The words of a benchmark of `path` with these options.
fn again(command: &mut Command, args: &BenchArgs, path: &Path, limit: Option<u64>) {
    command.arg("bench").arg(path);
    for (name, value) in [
        ("--memory", limit),
        ("-p", Some(args.prompt.into())),
        ("-n", Some(args.tokens.into())),
        ("--depth", Some(args.depth.into())),
        ("--runs", Some(args.runs.into())),
        ("--ctx", args.how.ctx.map(u64::from)),
        ("--threads", args.how.threads.map(|t| t as u64)),
        ("--batch", args.how.batch.map(u64::from)),
        ("--sinks", args.how.sinks.map(u64::from)),
    ] {
        if let Some(value) = value {
            command.arg(name).arg(value.to_string());
        }
    }
    if let Some(isa) = &args.how.isa {
        command.args(["--isa", isa]);
    }
    if args.warm {
        command.arg("--warm");
    }
    command.args(["--kv", args.how.kv.name(), "--json"]);
}

/// The document that a run of this program prints, or why it did not.
fn output(mut command: Command) -> Done<Result<Value, String>> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().map_err(failed)?;
    if output.status.success() {
        return serde_json::from_slice(&output.stdout).map(Ok).map_err(failed);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().rev().find_map(|l| l.strip_prefix("error: "));
    Ok(Err(match (said, output.status.code()) {
        (Some(said), _) => said.to_string(),
        (None, Some(code)) => format!("ended with code {code}"),
        (None, None) => "killed: the limit was broken".to_string(),
    }))
}

/// `25%..120%` of the model's bytes, or `400M..1G`, in equal steps.
fn sweep(range: &str, model: u64) -> Done<Vec<u64>> {
    let wrong = |why: String| usage(format!("--sweep {range:?}: {why}; write e.g. 25%..120% or 400M..1G"));
    let end = |text: &str| match text.trim().strip_suffix('%') {
        Some(percent) => {
            let percent: f64 = percent.trim().parse().map_err(|_| wrong(format!("{text:?} is no percentage")))?;
            Ok((model as f64 * percent / 100.0) as u64)
        }
        None => size::parse(text).map_err(wrong),
    };
    let (low, high) = range.split_once("..").ok_or_else(|| wrong("no range".into()))?;
    let (low, high) = (end(low)?, end(high)?);
    if low == 0 || high <= low {
        return Err(wrong("the second end must be above the first, and that above 0".into()));
    }
    Ok((0..STEPS).map(|i| low + (high - low) / (STEPS - 1) * i).collect())
}

/// A line of the sweep's table.
fn row(d: &Value, first: bool) -> String {
    let limit = size::show(d["limit"]["bytes"].as_u64().unwrap_or(0));
    let share = 100.0 * d["limit_of_model"].as_f64().unwrap_or(0.0);
    let head = if first {
        let kind = d["limit"]["kind"].as_str().unwrap_or("");
        format!(
            "limits: {kind}\n{:>10} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>12} {:>12}\n{:>29} {:>9} {:>9} {:>9} {:>9}\n",
            "limit",
            "of file",
            "prefill",
            "decode",
            "expected",
            "p50",
            "p99",
            "streamed",
            "peak",
            "tok/s",
            "tok/s",
            "tok/s",
            "ms",
            "ms"
        )
    } else {
        String::new()
    };
    if let Some(why) = d["error"].as_str() {
        return format!("{head}{limit:>10} {share:>7.0}%  {why}");
    }
    let number = |pointer: &str| d.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0);
    let peak = d["memory"]["group_peak_bytes"].as_u64().or(d["memory"]["peak_bytes"].as_u64()).unwrap_or(0);
    format!(
        "{head}{limit:>10} {share:>7.0}% {:>9.1} {:>9.2} {:>9.2} {:>9.1} {:>9.1} {:>12} {:>12}{}",
        number("/prefill/tok_s"),
        number("/decode/tok_s"),
        number("/expected/tok_s"),
        number("/latency_ms/p50"),
        number("/latency_ms/p99"),
        size::show(number("/streamed/per_token_bytes") as u64),
        size::show(peak),
        if d["steady"] == false { "  (not steady)" } else { "" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps() {
        assert_eq!(sweep("20%..120%", 1000).ok(), Some(vec![200, 400, 600, 800, 1000, 1200]));
        assert_eq!(sweep("1K..6K", 1).ok().map(|s| s[5]), Some(6 << 10));
        for wrong in ["", "25%", "50%..25%", "a..b", "0..1M", "25%..x%"] {
            assert!(matches!(sweep(wrong, 1000), Err(Fail::Usage(_))), "{wrong}");
        }
    }
}
