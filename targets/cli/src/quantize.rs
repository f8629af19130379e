//! `drupe quantize`: a model file in smaller formats.

use crate::args::QuantizeArgs;
use crate::fail::{Done, Fail, failed, usage};
use crate::{size, term};
use drupe::quant::Format;
use drupe_host::mix::{MIXES, Mix};
use drupe_host::quantize::{QuantizeError, Report, Settings, quantize};
use std::time::Instant;

pub fn run(args: &QuantizeArgs) -> Done {
    let mix = Mix::find(&args.mix).ok_or_else(|| {
        let known: Vec<&str> = MIXES.iter().map(|m| m.name).collect();
        usage(format!("unknown type {:?}; known: {}", args.mix, known.join(" ")))
    })?;
    let threads = rayon::ThreadPoolBuilder::new().num_threads(args.threads.unwrap_or(0)).build().map_err(failed)?;
    term::heed_ctrl_c();
    let (started, bar) = (Instant::now(), term::progress(0, "reading", true));
    let settings = Settings {
        mix,
        overrides: &args.tensor,
        cancel: term::stop_flag(),
        progress: &|p| {
            bar.set_length(p.total);
            bar.set_position(p.done);
        },
    };
    let made = threads.install(|| quantize(&args.input, &args.out, &settings));
    bar.finish_and_clear();
    let report = made.map_err(|e| match e {
        QuantizeError::Cancelled => Fail::Interrupted,
        e => failed(e),
    })?;
    if args.json {
        return term::line(&json(&report, started.elapsed().as_secs_f64()).to_string());
    }
    if !report.fallbacks.is_empty() {
        let mut took: Vec<(Format, usize)> = Vec::new();
        for (_, format) in &report.fallbacks {
            match took.iter_mut().find(|t| t.0 == *format) {
                Some(t) => t.1 += 1,
                None => took.push((*format, 1)),
            }
        }
        let took: Vec<String> = took.iter().map(|(format, n)| format!("{n} took {}", format.name())).collect();
        let (count, base, took) = (report.fallbacks.len(), mix.base.name(), took.join(", "));
        term::say(&format!("the rows of {count} matrices do not fit {base}: {took} (--json names them)"));
    }
    if report.not_finite > 0 {
        term::say(&format!("warning: {} weights are NaN or infinite: is the source damaged?", report.not_finite));
    }
    let types: Vec<String> = report.types.iter().map(|(name, tensors, _)| format!("{tensors} {name}")).collect();
    term::say(&format!(
        "{}: {} from {} in {:.1} s: {}",
        args.out.display(),
        size::show(report.bytes_out),
        size::show(report.bytes_in),
        started.elapsed().as_secs_f64(),
        types.join(", ")
    ));
    Ok(())
}

fn json(report: &Report, seconds: f64) -> serde_json::Value {
    let types = report
        .types
        .iter()
        .map(|(name, tensors, bytes)| serde_json::json!({ "type": name, "tensors": tensors, "bytes": bytes }));
    let fallbacks =
        report.fallbacks.iter().map(|(name, format)| serde_json::json!({ "tensor": name, "type": format.name() }));
    serde_json::json!({
        "bytes_in": report.bytes_in,
        "bytes_out": report.bytes_out,
        "seconds": seconds,
        "types": types.collect::<Vec<_>>(),
        "fallbacks": fallbacks.collect::<Vec<_>>(),
        "not_finite": report.not_finite,
    })
}

/// Reads `attn_v=q8_0`.
pub fn exception(text: &str) -> Result<(String, Format), String> {
    let (part, name) = text.split_once('=').ok_or("expected NAME=FORMAT, e.g. attn_v=q8_0")?;
    let format = Format::ALL.into_iter().find(|f| f.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
        let known: Vec<&str> = Format::ALL.iter().map(|f| f.name()).collect();
        format!("unknown format {name:?}; known: {}", known.join(" "))
    })?;
    if part.is_empty() { Err("the name is empty".into()) } else { Ok((part.into(), format)) }
}
