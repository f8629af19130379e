//! Every family, and every format, against logits that llama.cpp computed (`goldens/make.py`).

use drupe::quant::{Kernels, KvFormat};
use drupe::recipe::{RopeScaling, Windows};
use drupe::session::never;
use drupe::{Config, Engine, InMemory, Plan, Recipe, Solo, gguf::Gguf, model};
use drupe_host::shapes::Spec;
use drupe_tests::{Memory, relative_l2, session};
use sha2::{Digest, Sha256};

/// One `.golden` file and the model that it is of.
struct Golden {
    name: String,
    model: Vec<u8>,
    ctx: u32,
    tokens: Vec<u32>,
    positions: Vec<usize>,
    logits: Vec<f32>,
}

fn goldens(prefix: &str) -> Vec<Golden> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/goldens");
    let files = std::fs::read_dir(folder).expect("the goldens' folder").map(|f| f.expect("an entry").path());
    let mut paths: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "golden")).collect();
    paths.sort();
    paths.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)));
    assert!(!paths.is_empty(), "no goldens named {prefix}…");
    paths.iter().map(|p| read(p)).collect()
}

fn read(path: &std::path::Path) -> Golden {
    let bytes = std::fs::read(path).expect("a golden");
    let mut lines = bytes.splitn(3, |b| *b == b'\n');
    assert_eq!(lines.next(), Some(&b"DRUPE GOLDEN 1"[..]));
    let head: serde_json::Value = serde_json::from_slice(lines.next().expect("a head")).expect("JSON");
    let list = |key: &str| -> Vec<u64> {
        head[key].as_array().expect("a list").iter().map(|v| v.as_u64().expect("a number")).collect()
    };
    let spec = Spec::parse(head["model"].as_str().expect("a name")).expect("a shape");
    let model = drupe_host::synth::in_memory(&spec).expect("a model");
    let sha: String = Sha256::digest(&model).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(sha, head["sha256"].as_str().unwrap_or(""), "{}: synth makes other bytes than before", spec.name());
    Golden {
        name: path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        model,
        ctx: head["context"].as_u64().expect("a number") as u32,
        tokens: list("tokens").iter().map(|t| *t as u32).collect(),
        positions: list("positions").iter().map(|t| *t as usize).collect(),
        logits: lines.next().expect("logits").as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}

/// The logits at the golden's positions, with `change` made to the recipe.
fn logits(golden: &Golden, batch: u32, change: &dyn Fn(&mut Recipe)) -> Vec<f32> {
    let kernels = Kernels::detect();
    let gguf = Gguf::parse(&golden.model).expect("a whole file");
    let mut recipe = Recipe::of(&gguf, golden.ctx).expect("a supported model");
    change(&mut recipe);
    let config = Config { batch, kv: KvFormat::F32, ..Config::new(golden.ctx) };
    let plan = Plan::new(&recipe, model::formats(&gguf), &kernels, &config).expect("a plan");
    let mut memory = Memory::new(plan.total());
    let mut session = session(&golden.model, &kernels, &plan, memory.bytes());
    let parts = [golden.model.as_slice()];
    let mut weights = InMemory::new(&parts);
    let mut engine = Engine { team: &Solo, weights: &mut weights, cancelled: &never };
    let mut found = Vec::new();
    let mut keep = |at: usize, l: &mut [f32]| {
        if golden.positions.contains(&at) {
            found.extend_from_slice(l);
        }
    };
    session.feed_each(&mut engine, &golden.tokens, &mut keep).expect("fed");
    found
}

#[test]
fn every_family_agrees() {
    let mut wrong = Vec::new();
    for golden in goldens("tiny-").iter().filter(|g| !g.name.starts_with("tiny-wide")) {
        for batch in [48, 7, 1] {
            let distance = relative_l2(&logits(golden, batch, &|_| ()), &golden.logits);
            println!("{}, batches of {batch}: relative L2 {distance:.2e}", golden.name);
            if distance.is_nan() || distance >= 1e-3 {
                wrong.push(format!("{} batch {batch}: {distance:.2e}", golden.name));
            }
        }
    }
    assert!(wrong.is_empty(), "relative L2 of 1e-3 or more: {wrong:#?}");
}

#[test]
fn every_format_agrees() {
    let mut wrong = Vec::new();
    for golden in goldens("tiny-wide") {
        let distance = relative_l2(&logits(&golden, 48, &|_| ()), &golden.logits);
        println!("{}: relative L2 {distance:.2e}", golden.name);
        if distance.is_nan() || distance >= 3e-2 {
            wrong.push(format!("{}: {distance:.2e}", golden.name));
        }
    }
    assert!(wrong.is_empty(), "relative L2 of 3e-2 or more: {wrong:#?}");
}

/// What `make.py` cannot switch off in llama.cpp is switched off here: the golden must notice. (A norm that the recipe
/// lacks cannot go unnoticed: its tensor is then refused.)
#[test]
fn a_wrong_recipe_is_noticed() {
    type Change = fn(&mut Recipe);
    let changes: [(&str, &str, Change); 10] = [
        ("tiny-llama", "kind of pairs", |r| {
            use drupe::quant::RopeKind::*;
            r.ropes[0].kind = if r.ropes[0].kind == Neox { Norm } else { Neox };
        }),
        ("tiny-mistral", "window one longer", |r| {
            if let Windows::All { window } = &mut r.windows {
                *window += 1;
            }
        }),
        ("tiny-yarn", "magnitude", |r| r.ropes[0].magnitude *= 1.05),
        ("tiny-linear", "scaling", |r| r.ropes[0].scaling = RopeScaling::None),
        ("tiny-gemma", "embedding scale", |r| r.embedding_scale = 1.0),
        ("tiny-gemma", "activation", |r| r.activation = drupe::quant::Unary::Silu),
        ("tiny-gemma2", "window pattern", |r| {
            if let Windows::Period { period, .. } = &mut r.windows {
                *period = 3;
            }
        }),
        ("tiny-gemma3", "the windowed layers' base", |r| r.ropes[1].base = r.ropes[0].base),
        ("tiny-smollm3", "layers without position", |r| r.nope_period = 0),
        ("tiny-granite", "residual scale", |r| r.residual_scale = 1.0),
    ];
    for (name, what, change) in changes {
        let golden = &goldens(name)[0];
        let distance = relative_l2(&logits(golden, 48, &change), &golden.logits);
        println!("{name}, wrong {what}: relative L2 {distance:.2e}");
        assert!(distance > 1e-2, "{name}: a wrong {what} goes unnoticed ({distance:e})");
    }
}
