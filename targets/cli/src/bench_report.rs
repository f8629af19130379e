//! What `drupe bench` tells: a document for programs, and the same as a table for people.

use crate::args::BenchArgs;
use crate::bench::Measured;
use crate::engine::Loaded;
use crate::measure::{Latency, median};
use crate::size;
use drupe_host::limit::Limit;
use drupe_host::residency::{pass_bytes, visits};
use drupe_host::usage::{Usage, cpu_name};
use serde_json::{Value, json};

/// The document, without what is measured afterwards.
pub fn report(args: &BenchArgs, loaded: &Loaded, m: &Measured, used: &Usage) -> Value {
    let latency = Latency::of(&m.tokens);
    let limit = Limit::of_this_process();
    let clocks = || m.clocks.iter().filter_map(|c| c.frequency_mhz);
    let throttled: Option<Vec<&str>> = m.clocks.last().and_then(|c| c.clone().ask_firmware().throttled);
    json!({
        "model": loaded.opened.name,
        "shape": loaded.opened.shape,
        "model_bytes": loaded.opened.bytes(),
        "threads": loaded.plan.config.workers,
        "isa": loaded.kernels.isa().name(),
        "cpu": cpu_name(),
        "ctx": loaded.plan.config.ctx,
        "depth": args.prompt + args.depth,
        "runs": { "counted": m.decode.len(), "done": m.runs },
        "prefill": { "tokens": args.prompt, "tok_s": median(&m.prefill), "tok_s_runs": m.prefill },
        "decode": { "tokens": args.tokens, "tok_s": median(&m.decode), "tok_s_runs": m.decode },
        "steady": m.steady(),
        "start": { "cold": null, "warm": null },
        "streamed": loaded.streamed.as_ref().map(|s| json!({
            "resident_bytes": s.resident_bytes, "per_token_bytes": s.streamed_bytes, "buffers_bytes": s.total_bytes,
            "experts_kept": m.experts_kept,
        })),
        "latency_ms": {
            "p50": latency.p50, "p90": latency.p90, "p99": latency.p99, "max": latency.max, "jitter": latency.jitter,
        },
        "memory": {
            "plan_bytes": loaded.plan.total(),
            "peak_bytes": used.peak_resident,
            "anon_bytes": used.anonymous,
            "file_bytes": used.file,
            "shared_bytes": used.shared,
        },
        "faults": { "minor": used.minor_faults, "major": used.major_faults },
        "storage_read_bytes": used.storage_read.map(|n| n.saturating_sub(m.storage_bytes)),
        "storage_gb_s": m.storage.map(|s| s / 1e9),
        "limit": { "bytes": limit.bytes, "kind": limit.source.to_string() },
        "frequency_mhz": {
            "min": clocks().map(|c| c.0).min(),
            "max": clocks().map(|c| c.1).max(),
        },
        "celsius": m.clocks.iter().filter_map(|c| c.celsius).reduce(f32::max),
        "throttled": throttled,
        "bytes_per_token": pass_bytes(&visits(loaded.session.model())),
    })
}

/// The document for people.
pub fn table(d: &Value) -> String {
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let bytes = |v: &Value| v.as_u64().map_or("unknown".into(), size::show);
    let count = |v: &Value| v.as_u64().map_or("unknown".into(), |n| n.to_string());
    let text = |v: &Value| v.as_str().unwrap_or("unknown").to_string();
    let ms = |v: &Value| format!("{:.1} ms", number(v));
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
    let (l, e) = (&d["latency_ms"], &d["expected"]);
    row(
        "per token",
        format!(
            "p50 {:.2}, p90 {:.2}, p99 {:.2}, max {:.2} ms; from one to the next ±{:.2} ms",
            number(&l["p50"]),
            number(&l["p90"]),
            number(&l["p99"]),
            number(&l["max"]),
            number(&l["jitter"])
        ),
    );
    if e.is_object() {
        let storage = d["storage_gb_s"]
            .as_f64()
            .map_or(String::new(), |speed| format!(", reading storage {} at {speed:.2} GB/s", ms(&e["storage_ms"])));
        row(
            "expected",
            format!("{:.2} tok/s: computing {}{storage} per token", number(&e["tok_s"]), ms(&e["compute_ms"])),
        );
    }
    for (key, name) in [("cold", "start, cold"), ("warm", "start, warm")] {
        let start = &d["start"][key];
        if start.is_object() {
            row(name, format!("first token after {}, {} of it to load", ms(&start["ttft_ms"]), ms(&start["load_ms"])));
        }
    }
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
        if let Some(kept) = streamed["experts_kept"].as_f64() {
            row("experts", format!("{:.0}% of those chosen were in memory", 100.0 * kept));
        }
    }
    row("page faults", format!("{} minor, {} major", count(&d["faults"]["minor"]), count(&d["faults"]["major"])));
    row("read from storage", bytes(&d["storage_read_bytes"]));
    row("limit", format!("{} ({})", bytes(&d["limit"]["bytes"]), text(&d["limit"]["kind"])));
    if let (Some(min), Some(max)) = (d["frequency_mhz"]["min"].as_u64(), d["frequency_mhz"]["max"].as_u64()) {
        row("clock", format!("{min} to {max} MHz"));
    }
    if let Some(heat) = d["celsius"].as_f64() {
        row("temperature", format!("up to {heat:.0} °C"));
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
        out += &unsteady(d);
    }
    out
}

fn unsteady(d: &Value) -> String {
    let runs = |v: &Value| {
        let runs = v["tok_s_runs"].as_array().into_iter().flatten().filter_map(Value::as_f64);
        runs.map(|x| format!("{x:.1}")).collect::<Vec<_>>().join(" ")
    };
    let (prefill, decode) = (runs(&d["prefill"]), runs(&d["decode"]));
    format!(
        "\nnot steady: after {} runs the last ones still differ by more than 5% (prefill {prefill}; decode {decode} \
         tok/s). Something else runs here, or the clock changes.\n",
        d["runs"]["done"]
    )
}
