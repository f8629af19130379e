//! `drupe plan`: every byte before anything is made.

use crate::args::{ModelArgs, PlanArgs};
use crate::engine::{Opened, Setup, memory};
use crate::fail::{Done, failed, usage};
use crate::plan_board::{self, Place};
use crate::{size, term};
use drupe::{Arena, Model, Plan};
use drupe_host::limit::Limit;
use drupe_host::promise::{Hold, Promise};
use drupe_host::residency::{ResidencyPlan, visits};
use serde_json::json;

/// How weights are had within some memory.
#[derive(Clone, Copy)]
pub enum Fit {
    /// All of them stay.
    Fits,
    /// So many bytes are read from storage for each token.
    Streams(u64),
    /// So much memory is needed at least.
    Refused(u64),
}

impl Fit {
    /// For `model` of `opened` within `available` bytes.
    pub fn of(opened: &Opened, model: &Model, available: u64) -> Fit {
        let promise = Promise::new(Some(available));
        match promise.hold(opened.bytes(), opened.beside(model.plan()), Some(&visits(model))) {
            Ok(Hold::All) => Fit::Fits,
            Ok(Hold::Part(plan)) => Fit::Streams(plan.streamed_bytes),
            Err(e) => Fit::Refused(e.least),
        }
    }

    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Fit::Fits => "fits",
            Fit::Streams(_) => "streams",
            Fit::Refused(_) => "refused",
        }
    }
}

pub fn run(args: &PlanArgs) -> Done {
    let Some(name) = &args.model else { return plan_board::list() };
    let place = args.board.as_deref().map(Place::named).transpose()?;
    let mut how = args.how.clone();
    if let Some(place) = &place {
        how.threads = how.threads.or(Some(place.cores));
    }
    if let (true, Some(place)) = (args.rank, &place) {
        return plan_board::rank(name, &how, place);
    }
    let setup = Setup::new(&how)?;
    let opened = Opened::look(Some(name))?;
    let plan = setup.plan(&opened, &how, 1, 1)?;
    let (weights, program) = (opened.bytes(), opened.program_bytes());
    let total = weights + plan.total() + program;
    let (available, of) = available(&how, place.as_ref());
    let model = bind(&opened, &setup, &plan)?;
    let fit = Fit::of(&opened, &model, available);
    let largest = |weights: u64| largest_ctx(&setup, &opened, &how, available.saturating_sub(weights + program));
    let resident = largest(weights);
    let streaming = ResidencyPlan::new(&visits(&model), 0).map_or_else(|e| e.minimum, |plan| plan.minimum);
    let streaming = largest(streaming);
    let forecast = place.map(|place| plan_board::Forecast::new(&opened, &setup, &model, place, fit)).transpose()?;
    if args.json {
        let parts: serde_json::Map<_, _> = plan.parts().iter().map(|p| (p.name.to_string(), json!(p.bytes))).collect();
        let document = json!({
            "model": name, "ctx": plan.config.ctx, "batch": plan.config.batch, "threads": plan.config.workers,
            "isa": setup.kernels.isa().name(),
            "weights_bytes": weights, "plan_bytes": plan.total(), "kv_bytes": plan.kv_bytes(), "parts": parts,
            "program_bytes": program, "total_bytes": total,
            "limit": { "bytes": available, "kind": of }, "fits": total <= available, "verdict": fit.word(),
            "streamed_bytes": if let Fit::Streams(bytes) = fit { bytes } else { 0 },
            "least_bytes": if let Fit::Refused(least) = fit { Some(least) } else { None },
            "largest_ctx": resident, "largest_ctx_streaming": streaming,
            "board": forecast.as_ref().map(plan_board::Forecast::json),
        });
        return term::line(&document.to_string());
    }
    let c = &plan.config;
    let mut text = format!("{name}, {} tokens of context, {} threads\n\n", c.ctx, c.workers);
    let mut row = |what: &str, bytes: u64| text += &format!("{what:36} {bytes:>14}  {:>10}\n", size::show(bytes));
    row("weights (mapped)", weights);
    plan.parts().iter().for_each(|p| row(p.name, p.bytes));
    row("plan in all, to the byte", plan.total());
    row("  of it beyond keys and values", plan.total() - plan.kv_bytes());
    row("program, vocabulary (at most)", program);
    row("in all", total);
    let memory = format!("{} ({of})", size::show(available));
    text += &match fit {
        Fit::Fits => format!("\nfits in {memory}\n"),
        Fit::Streams(bytes) => {
            format!("\nstreams in {memory}: {} are read from storage for each token\n", size::show(bytes))
        }
        Fit::Refused(least) => format!("\ndoes not fit in {memory}: at least {} are needed\n", size::show(least)),
    };
    text += &match (resident, streaming) {
        (Some(ctx), _) => format!("largest context with all weights in memory: {ctx} tokens\n"),
        (None, Some(ctx)) => format!("largest context, with weights streamed: {ctx} tokens\n"),
        (None, None) => "no context fits: a smaller type or model is needed\n".into(),
    };
    if let Some(forecast) = &forecast {
        text += &forecast.table();
    }
    term::bytes(text.as_bytes())
}

/// The model's tables, to see what a pass reads.
pub fn bind(opened: &Opened, setup: &Setup, plan: &Plan) -> Done<Model<'static>> {
    let mut arena = Arena::new(memory(plan.total())?);
    Model::bind(&opened.gguf, plan, &setup.kernels, &mut arena).map_err(|e| failed(format!("{}: {e}", opened.name)))
}

/// The memory that there is, and whose word that is.
fn available(how: &ModelArgs, place: Option<&Place>) -> (u64, String) {
    match (how.memory, place) {
        (Some(bytes), _) => (bytes, "--memory".into()),
        (None, Some(place)) => (place.usable, place.name.clone()),
        (None, None) => {
            let limit = Limit::of_this_process();
            (limit.bytes, limit.source.to_string())
        }
    }
}

/// The largest context whose plan takes at most `bytes`, up to what the model was trained on.
pub fn largest_ctx(setup: &Setup, opened: &Opened, how: &ModelArgs, bytes: u64) -> Option<u32> {
    let fits = |ctx: u32| {
        let how = ModelArgs { ctx: Some(ctx), ..how.clone() };
        setup.plan(opened, &how, 1, 1).is_ok_and(|p: Plan| p.total() <= bytes)
    };
    let trained = opened.recipe(1).ok()?.train_ctx.max(1);
    if !fits(1) {
        return None;
    }
    let (mut low, mut high) = (1, trained);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    Some(low)
}

/// The shape of a model that was given as one.
pub fn shape(model: &str) -> Done<drupe_host::shapes::Spec> {
    drupe_host::shapes::Spec::parse(model)
        .map_err(|e| usage(format!("--rank compares the quantizations of a shape; {model:?} is none: {e}")))
}
