//! `drupe plan`: every byte before anything is made.

use crate::args::{ModelArgs, PlanArgs};
use crate::engine::{Opened, Setup};
use crate::fail::Done;
use crate::{size, term};
use drupe::Plan;
use drupe_host::limit::Limit;
use serde_json::json;

pub fn run(args: &PlanArgs) -> Done {
    let setup = Setup::new(&args.how)?;
    let opened = Opened::look(Some(&args.model))?;
    let plan = setup.plan(&opened, &args.how, 1, 1)?;
    let (weights, program) = (opened.bytes(), opened.program_bytes());
    let total = weights + plan.total() + program;
    let limit = Limit::of_this_process();
    let (available, of) = match args.how.memory {
        Some(bytes) => (bytes, "--memory".to_string()),
        None => (limit.bytes, limit.source.to_string()),
    };
    let largest = largest_ctx(&setup, &opened, &args.how, available.saturating_sub(weights + program));
    if args.json {
        let parts: serde_json::Map<_, _> = plan.parts().iter().map(|p| (p.name.to_string(), json!(p.bytes))).collect();
        let document = json!({
            "model": args.model, "ctx": plan.config.ctx, "batch": plan.config.batch, "threads": plan.config.workers,
            "isa": setup.kernels.isa().name(),
            "weights_bytes": weights, "plan_bytes": plan.total(), "kv_bytes": plan.kv_bytes(), "parts": parts,
            "program_bytes": program, "total_bytes": total,
            "limit": { "bytes": available, "kind": of }, "fits": total <= available, "largest_ctx": largest,
        });
        return term::line(&document.to_string());
    }
    let c = &plan.config;
    let mut text = format!("{}, {} tokens of context, {} threads\n\n", args.model, c.ctx, c.workers);
    let mut row = |name: &str, bytes: u64| text += &format!("{name:36} {bytes:>14}  {:>10}\n", size::show(bytes));
    row("weights (mapped)", weights);
    plan.parts().iter().for_each(|p| row(p.name, p.bytes));
    row("plan in all, to the byte", plan.total());
    row("  of it beyond keys and values", plan.total() - plan.kv_bytes());
    row("program, vocabulary (at most)", program);
    row("in all", total);
    text += &if total <= available {
        format!("\nfits in {} ({of})\n", size::show(available))
    } else {
        format!("\ndoes not fit in {} ({of}): {} too much\n", size::show(available), size::show(total - available))
    };
    text += &match largest {
        Some(ctx) => format!("largest context that fits: {ctx} tokens\n"),
        None => "no context fits: a smaller type or model is needed\n".into(),
    };
    term::bytes(text.as_bytes())
}

/// The largest context whose plan takes at most `bytes`, up to what the model was trained on.
fn largest_ctx(setup: &Setup, opened: &Opened, how: &ModelArgs, bytes: u64) -> Option<u32> {
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
