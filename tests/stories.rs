//! A real trained model against reference tokens and logits made by llama.cpp.

use drupe::quant::{Kernels, KvFormat};
use drupe::session::never;
use drupe::{Config, Engine, InMemory, Solo};
use drupe_tests::{Memory, argmax, plan, relative_l2, session, shared};

struct Reference {
    model: Vec<u8>,
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    logits: Vec<f32>,
}

fn reference(name: &str) -> Option<Reference> {
    let model = shared(&format!("models/stories260K-{name}.gguf"))?;
    let expect: serde_json::Value =
        serde_json::from_slice(&shared(&format!("models/stories260K-{name}.expect.json"))?).expect("JSON");
    let logits = shared(&format!("models/stories260K-{name}.logits.f32"))?;
    let ids = |key: &str| -> Vec<u32> {
        let list = expect[key].as_array().expect("a list of ids");
        list.iter().map(|v| v.as_u64().expect("an id") as u32).collect()
    };
    let logits = logits.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Some(Reference { model, prompt: ids("prompt_tokens"), greedy: ids("greedy_tokens"), logits })
}

#[test]
fn greedy_tokens_of_the_f32_model_are_the_references() {
    let Some(r) = reference("f32") else { return };
    let kernels = Kernels::detect();
    let plan = plan(&r.model, &kernels, &Config::new(512));
    let mut memory = Memory::new(plan.total());
    let mut session = session(&r.model, &kernels, &plan, memory.bytes());
    let parts = [r.model.as_slice()];
    let mut weights = InMemory::new(&parts);
    let mut engine = Engine { team: &Solo, weights: &mut weights, cancelled: &never };
    let mut next = argmax(session.feed(&mut engine, &r.prompt).expect("prompt"));
    for (i, want) in r.greedy.iter().enumerate() {
        assert_eq!(next, *want, "token {i}");
        next = argmax(session.feed(&mut engine, &[next]).expect("token"));
    }
}

#[test]
fn logits_are_near_the_references() {
    for (name, bound) in [("f32", 1e-4), ("q8_0", 3e-2), ("q4_0", 3e-2)] {
        let Some(r) = reference(name) else { return };
        let text: Vec<u32> = r.prompt.iter().chain(&r.greedy).copied().take(64).collect();
        for batch in [48, 5, 1] {
            let kernels = Kernels::detect();
            let config = Config { batch, kv: KvFormat::F32, ..Config::new(128) };
            let plan = plan(&r.model, &kernels, &config);
            let mut memory = Memory::new(plan.total());
            let mut session = session(&r.model, &kernels, &plan, memory.bytes());
            let parts = [r.model.as_slice()];
            let mut weights = InMemory::new(&parts);
            let mut engine = Engine { team: &Solo, weights: &mut weights, cancelled: &never };
            let mut logits = Vec::new();
            session.feed_each(&mut engine, &text, &mut |_, l| logits.extend_from_slice(l)).expect("fed");
            let distance = relative_l2(&logits, &r.logits);
            println!("{name}, batches of {batch}: relative L2 {distance:.2e}");
            assert!(distance < bound, "{name} batch {batch}: relative L2 {distance:e}, at most {bound:e}");
        }
    }
}
