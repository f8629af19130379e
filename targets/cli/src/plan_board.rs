//! `drupe plan --board`: whether a model fits a board, streams there or is refused, and how fast it can be expected to be.

use crate::args::ModelArgs;
use crate::engine::{Opened, Setup};
use crate::fail::{Done, failed, usage};
use crate::measure::read_bandwidth;
use crate::plan::{Fit, bind, largest_ctx, shape};
use crate::{size, term};
use drupe::Model;
use drupe_host::board::{Board, Estimate, Speeds, Work};
use drupe_host::limit::Limit;
use drupe_host::mix::MIXES;
use drupe_host::residency::{decode_speed, storage_speed, streaming_speed, visits};
use drupe_host::shapes::Spec;
use drupe_host::team::{Cores, ThreadTeam};
use serde_json::{Value, json};
use std::time::Duration;

/// How long storage is measured.
const STORAGE_TIME: Duration = Duration::from_secs(2);

/// Where a model is to run.
pub struct Place {
    /// For people.
    pub name: String,
    /// Memory that a program can have.
    pub usable: u64,
    /// Cores that it can use.
    pub cores: usize,
    /// What is known of it; `None` for this machine, which is measured.
    board: Option<Board>,
}

impl Place {
    /// A board by its name, or `this` machine.
    pub fn named(name: &str) -> Done<Place> {
        if name == "this" {
            let limit = Limit::of_this_process();
            let name = format!("this machine: {}", limit.source);
            return Ok(Place { name, usable: limit.bytes, cores: Cores::detect().threads(), board: None });
        }
        let board =
            Board::named(name).ok_or_else(|| usage(format!("unknown board {name:?}: see drupe plan --boards")))?;
        Ok(Place {
            name: board.name.clone(),
            usable: board.usable_bytes,
            cores: board.cores as usize,
            board: Some(board),
        })
    }
}

/// What can be expected of a model somewhere.
pub struct Forecast {
    place: Place,
    fit: Fit,
    ctx: u32,
    batch: u64,
    /// Each storage's name, with the estimates for the first token, for the last that fits the context, and for a prompt.
    by_storage: Vec<(String, [Estimate; 3])>,
}

impl Forecast {
    /// For `model` of `opened`, had in this way.
    pub fn new(opened: &Opened, setup: &Setup, model: &Model, place: Place, fit: Fit) -> Done<Forecast> {
        let streamed = if let Fit::Streams(bytes) = fit { bytes } else { 0 };
        let storages: Vec<(String, Speeds)> = match &place.board {
            Some(board) => {
                board.storage.iter().map(|s| s.name.clone()).zip((0..).map(|i| Speeds::of(board, i))).collect()
            }
            None => vec![("storage".into(), measured(opened, setup, model, streamed)?)],
        };
        let config = &model.plan().config;
        let (ctx, batch) = (config.ctx, u64::from(config.batch));
        let work = [
            Work::decode(model, 0, streamed),
            Work::decode(model, u64::from(ctx) - 1, streamed),
            Work::batch(model, batch, 0, streamed),
        ];
        let by_storage = storages.into_iter().map(|(name, speeds)| (name, work.map(|w| Estimate::of(&w, &speeds))));
        Ok(Forecast { fit, ctx, batch, by_storage: by_storage.collect(), place })
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = format!("\n{}\n", self.place.name);
        if matches!(self.fit, Fit::Refused(_)) {
            return String::new();
        }
        out += &format!("{:28} {:>12} {:>16} {:>12}\n", "expected, tok/s", "first token", "at full context", "prompt");
        let mut row = |name: &str, values: [f64; 3]| {
            let [a, b, c] = values.map(speed);
            out += &format!("{name:28} {a:>12} {b:>16} {c:>12}\n");
        };
        let Some((_, first)) = self.by_storage.first() else { return out };
        row("if memory were all", first.map(|e| e.memory));
        row("if arithmetic were all", first.map(|e| e.compute));
        let streams = matches!(self.fit, Fit::Streams(_));
        for (name, estimates) in self.by_storage.iter().filter(|_| streams) {
            row(&format!("if {name} were all"), estimates.map(|e| e.storage));
        }
        for (name, estimates) in self.by_storage.iter().take(if streams { usize::MAX } else { 1 }) {
            let name = if streams { format!("so, with {name}") } else { "so".into() };
            row(&name, estimates.map(|e| e.expected().0));
        }
        let bounds: Vec<String> = first.iter().map(|e| e.expected().1.to_string()).collect();
        out + &format!("bound by {} | {} | {}\n", bounds[0], bounds[1], bounds[2])
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let finite = |v: f64| v.is_finite().then_some(v);
        let estimate = |e: &Estimate| {
            let (tok_s, bound) = e.expected();
            json!({
                "tok_s": finite(tok_s), "bound": bound.to_string(), "memory_tok_s": finite(e.memory),
                "compute_tok_s": finite(e.compute), "storage_tok_s": finite(e.storage),
            })
        };
        let speeds = self.by_storage.iter().map(|(name, [first, last, prompt])| {
            json!({
                "storage": name, "decode": estimate(first), "decode_at_full_context": estimate(last),
                "prefill": estimate(prompt),
            })
        });
        json!({
            "name": self.place.name, "usable_bytes": self.place.usable, "cores": self.place.cores, "ctx": self.ctx,
            "batch": self.batch,
            "expected": if matches!(self.fit, Fit::Refused(_)) { json!([]) } else { speeds.collect() },
        })
    }

    /// The expected speed of decoding at the start, with the best storage.
    fn decode(&self) -> f64 {
        let best = self.by_storage.iter().map(|(_, e)| e[0].expected().0).fold(0.0, f64::max);
        if matches!(self.fit, Fit::Refused(_)) { 0.0 } else { best }
    }
}

/// This machine's speeds: of the decode kernels over the model's formats, and, if weights are streamed, of storage where
/// the model lies there, while the kernels compute.
fn measured(opened: &Opened, setup: &Setup, model: &Model, streamed: u64) -> Done<Speeds> {
    let team = ThreadTeam::new(setup.threads, &Cores::detect()).map_err(failed)?;
    let visits = visits(model);
    // The bytes of a shape that is only looked at are not there.
    let mapped = if opened.file.is_some() && streamed == 0 { opened.parts } else { &[] };
    let bytes = (256 << 20).min((Limit::of_this_process().bytes / 8) as usize);
    let decode = decode_speed(&setup.kernels, &team, &visits, bytes, streamed, mapped).map_err(failed)?;
    let reads = read_bandwidth(&team, bytes);
    let (mut storage, mut words) = (f64::INFINITY, String::new());
    if let Some(file) = opened.file {
        storage = if streamed == 0 {
            storage_speed(file, u64::MAX, STORAGE_TIME, &mut |_| ()).map_err(failed)?
        } else {
            // Where computing takes longer than reading, this is computing.
            streaming_speed(&setup.kernels, &team, &visits, streamed, file, bytes, decode, STORAGE_TIME)
                .map_err(failed)?
        };
        let when = if streamed == 0 { "" } else { " while computing" };
        words = format!(", storage {:.2} GB/s{when}", storage / 1e9);
    }
    term::say(&format!(
        "measured: memory {:.1} GB/s, kernels over weights {:.1} GB/s{words}",
        reads / 1e9,
        decode / 1e9
    ));
    // The kernels' speed has memory's and arithmetic's share in it; of prompts nothing was measured.
    Ok(Speeds { memory: decode, products: f64::INFINITY, storage })
}

/// A speed with three digits.
fn speed(v: f64) -> String {
    match v {
        v if !v.is_finite() => "-".into(),
        v if v < 1.0 => format!("{v:.3}"),
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// `drupe plan SHAPE --board NAME --rank`: a shape in every type there is.
pub fn rank(model: &str, how: &ModelArgs, place: &Place) -> Done {
    let Spec { shape, .. } = shape(model)?;
    let setup = Setup::new(how)?;
    let available = how.memory.unwrap_or(place.usable);
    let mut rows = Vec::new();
    for mix in MIXES {
        let name = Spec { shape, mix: *mix }.name();
        let opened = Opened::look(Some(&name))?;
        let plan = setup.plan(&opened, how, 1, 1)?;
        let beside = opened.bytes() + opened.program_bytes();
        let largest = largest_ctx(&setup, &opened, how, available.saturating_sub(beside));
        let model = bind(&opened, &setup, &plan)?;
        let fit = Fit::of(&opened, &model, available);
        let here = Place { name: place.name.clone(), board: place.board.clone(), ..*place };
        rows.push((mix.name, opened.bytes(), largest, Forecast::new(&opened, &setup, &model, here, fit)?));
    }
    rows.sort_by(|a, b| b.3.decode().total_cmp(&a.3.decode()));
    let ctx = rows[0].3.ctx;
    let mut out = format!("{} on {}, {ctx} tokens of context, fastest first\n\n", shape.name, place.name);
    out += &format!(
        "{:8} {:>10} {:>9} {:>14} {:>14} {:>14}\n",
        "type", "weights", "", "largest ctx", "decode tok/s", "prompt tok/s"
    );
    for (name, bytes, largest, forecast) in &rows {
        let fit = forecast.fit.word();
        let prompt = forecast.by_storage.iter().map(|(_, e)| e[2].expected().0).fold(0.0, f64::max);
        let speed = |v: f64| if fit == "refused" { "-".into() } else { speed(v) };
        let largest = largest.map_or("-".into(), |ctx| ctx.to_string());
        let (decode, prompt, bytes) = (speed(forecast.decode()), speed(prompt), size::show(*bytes));
        out += &format!("{name:8} {bytes:>10} {fit:>9} {largest:>14} {decode:>14} {prompt:>14}\n");
    }
    let finest = rows.iter().filter(|r| matches!(r.3.fit, Fit::Fits)).max_by_key(|r| r.1);
    out += &match finest {
        Some((name, ..)) => format!("\nthe finest that fits: {name}\n"),
        None => "\nnone fits: what streams is bound by storage\n".into(),
    };
    term::bytes(out.as_bytes())
}

/// `drupe plan --boards`: every board, and where its figures are from.
pub fn list() -> Done {
    let mut out = String::new();
    let mut last = String::new();
    for b in Board::all() {
        let family = b.id.rsplit_once('-').map_or("", |(name, _)| name).to_string();
        if family != last {
            let storage: Vec<String> = b.storage.iter().map(|s| format!("{} {} GB/s", s.name, s.gb_s)).collect();
            out += &format!(
                "\n{}: {} × {} at {} GHz ({}), memory {} GB/s by one core, {} by all, {} G int8 products/s, {}\n",
                family,
                b.cores,
                b.core,
                b.ghz,
                b.isa,
                b.read_gb_s.one,
                b.read_gb_s.all,
                b.int8_gmac_s,
                storage.join(", ")
            );
            for (figure, source) in &b.sources {
                out += &format!("    {figure}: {source}\n");
            }
            last = family;
        }
        out += &format!("  {:22} {}, {} usable\n", b.id, b.name, size::show(b.usable_bytes));
    }
    term::bytes(out.trim_start().as_bytes())
}
