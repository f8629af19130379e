//! What several tests need: the optional reference files, and a session over a file in a few lines.

use drupe::gguf::Gguf;
use drupe::model::{self, Model};
use drupe::quant::Kernels;
use drupe::{Arena, Config, Plan, Recipe, Session};
use std::path::PathBuf;

/// The file `name` of the optional reference material beside the checkout (`../shared`), or a line that says that the
/// test skips.
pub fn shared(name: &str) -> Option<Vec<u8>> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(name);
    match std::fs::read(&root) {
        Ok(bytes) => Some(bytes),
        Err(e) => {
            println!("skipped: {} is not here ({e})", root.display());
            None
        }
    }
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// Memory aligned to 64 bytes.
pub struct Memory(Vec<Line>);

impl Memory {
    /// `bytes` of it, rounded up to 64.
    pub fn new(bytes: u64) -> Memory {
        Memory(vec![Line([0; 64]); bytes.div_ceil(64) as usize])
    }

    /// As bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: any bit pattern is a valid byte, and the length is that of the vector.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<u8>(), self.0.len() * 64) }
    }
}

/// A plan for the model in `bytes`.
pub fn plan(bytes: &[u8], kernels: &Kernels, config: &Config) -> Plan {
    let gguf = Gguf::parse(bytes).expect("a whole file");
    let recipe = Recipe::of(&gguf, config.ctx).expect("a supported model");
    Plan::new(&recipe, model::formats(&gguf), kernels, config).expect("a plan")
}

/// A session of that plan.
pub fn session<'a>(bytes: &[u8], kernels: &Kernels, plan: &Plan, memory: &'a mut [u8]) -> Session<'a> {
    let gguf = Gguf::parse(bytes).expect("a whole file");
    let mut arena = Arena::new(memory);
    let model = Model::bind(&gguf, plan, kernels, &mut arena).expect("all tensors");
    let session = Session::new(&model, &mut arena).expect("the planned memory");
    assert_eq!(arena.left(), 0, "the plan counts to the byte");
    session
}

/// `‖a - b‖ / ‖b‖`.
pub fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(*a as f64 - *b as f64)).sum();
    (difference / b.iter().map(|b| square(*b as f64)).sum::<f64>()).sqrt()
}

/// Index of the largest logit, the first of equals.
pub fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best }) as u32
}
