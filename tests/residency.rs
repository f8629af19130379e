//! A model larger than its memory budget: the same logits to the bit, read in the order planned, and no call of the
//! allocator on any thread between the first feed and the last token, the team's and the readers' included.

use drupe::model::Model;
use drupe::quant::Kernels;
use drupe::session::never;
use drupe::{Arena, Config, Engine, InMemory, Session, Solo, Weights};
use drupe_host::map::ModelFile;
use drupe_host::residency::{Residency, ResidencyPlan, Shape, visits};
use drupe_host::shapes::Spec;
use drupe_host::team::{Cores, ThreadTeam};
use drupe_tests::{Memory, argmax, plan, shared};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const PROMPT: [u32; 5] = [1, 403, 407, 261, 378];
const TOKENS: usize = 100;

/// Greedy tokens and the bits of every logit on the way, and calls of the allocator meanwhile.
fn run(session: &mut Session, engine: &mut Engine, out: &mut Vec<u32>, bits: &mut Vec<u32>) -> u64 {
    let vocab = session.model().recipe().vocab;
    let before = CALLS.load(Ordering::Relaxed);
    let mut next = argmax(session.feed(engine, &PROMPT.map(|id| id % vocab)).expect("prompt"));
    for _ in 0..TOKENS {
        out.push(next);
        let logits = session.feed(engine, &[next]).expect("token");
        bits.extend(logits.iter().map(|x| x.to_bits()));
        next = argmax(logits);
    }
    CALLS.load(Ordering::Relaxed) - before
}

/// Without the test harness, whose own threads allocate when they please.
fn main() {
    // Experts come on demand, and one that all tokens take.
    let spec = Spec::parse("tiny-qwen2moe:q8_0").expect("a shape");
    let experts = drupe_host::synth::in_memory(&spec).expect("a model");
    let stories = ["stories260K-q4_0.gguf", "stories260K-f32.gguf"];
    let trained = stories.iter().map_while(|name| Some((*name, shared(&format!("models/{name}"))?)));
    for (name, bytes) in [("experts.gguf", experts)].into_iter().chain(trained) {
        let dir = std::env::temp_dir().join(format!("drupe-residency-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temporary folder");
        let path = dir.join(name);
        std::fs::write(&path, &bytes).expect("temporary file");
        check(&bytes, &ModelFile::open(&path).expect("a model"));
        std::fs::remove_dir_all(&dir).expect("temporary folder");
    }
    println!("test result: ok. 1 passed; 0 failed");
}

fn check(bytes: &[u8], file: &ModelFile) {
    let kernels = Kernels::detect();
    let config = Config { workers: 3, batch: 4, ..Config::new(128) };
    let plan = plan(bytes, &kernels, &config);
    let gguf = drupe::gguf::Gguf::parse(bytes).expect("a whole file");
    let room = || (Vec::with_capacity(TOKENS), Vec::with_capacity(TOKENS * plan.recipe.vocab as usize));
    let team = ThreadTeam::new(3, &Cores::all()).expect("a team");
    let shape = Shape { piece: 8 << 10, buffers: 4, readers: 2 };

    let mut memory = Memory::new(plan.total());
    let mut arena = Arena::new(memory.bytes());
    let model = Model::bind(&gguf, &plan, &kernels, &mut arena).expect("all tensors");
    let visits = visits(&model);
    let mut session = Session::new(&model, &mut arena).expect("the planned memory");
    let parts = [bytes];
    let (mut tokens, mut bits) = room();
    let mut in_memory = InMemory::new(&parts);
    run(&mut session, &mut Engine { team: &Solo, weights: &mut in_memory, cancelled: &never }, &mut tokens, &mut bits);

    let least = ResidencyPlan::with_shape(&visits, 0, shape).expect_err("no budget").minimum;
    let all = ResidencyPlan::with_shape(&visits, u64::MAX >> 8, shape).expect("a large budget");
    for share in [0, 30, 60, 100] {
        let budget = least + (all.total_bytes - least) * share / 100;
        let budgeted = ResidencyPlan::with_shape(&visits, budget, shape).expect("enough");
        assert!(share == 100 || budgeted.streamed_bytes > 0);
        let mut weights = Residency::open(&budgeted, file).expect("a source");
        session.rewind(0).expect("a fresh start");
        let (mut same, mut same_bits) = room();
        let source: &mut dyn Weights = &mut weights;
        let mut engine = Engine { team: &team, weights: source, cancelled: &never };
        let calls = run(&mut session, &mut engine, &mut same, &mut same_bits);
        assert_eq!(calls, 0, "calls of the allocator");
        assert!(tokens == same && bits == same_bits, "other logits under {budget} bytes");
        let figures = weights.figures();
        // Batches of the prompt but the last have no head; nothing else is out of the order planned.
        let batches = PROMPT.len().div_ceil(config.batch as usize) as u64;
        assert!(figures.restarts < batches, "{} restarts", figures.restarts);
        let passes = TOKENS as u64 + batches;
        if model.recipe().experts.is_some() {
            assert!(figures.chosen > 0 && (share < 100 || figures.kept > figures.chosen / 2), "{figures:?}");
        } else {
            let most = all.resident_bytes + (passes + 2) * budgeted.streamed_bytes;
            assert!(figures.bytes <= most, "{} bytes read, at most {most} expected", figures.bytes);
        }
        println!("{budget} bytes: {} resident, {} read", budgeted.resident_bytes, figures.bytes);
    }
}
