//! From the command line's words to a session that can be fed: open → recipe → plan → model → session.

use crate::args::ModelArgs;
use crate::fail::{Done, Fail, failed, usage};
use crate::{size, term};
use drupe::gguf::Gguf;
use drupe::quant::{Isa, Kernels};
use drupe::session::FeedError;
use drupe::tokenizer::Tokenizer;
use drupe::weights::{Chosen, TensorRef, WeightsError};
use drupe::{Arena, Config, Engine, InMemory, Model, Plan, Recipe, Session, Weights, model};
use drupe_host::limit::Limit;
use drupe_host::map::{ModelFile, OpenErrorKind};
use drupe_host::promise::{Beside, Hold, Promise, mapped_whole, program_bytes};
use drupe_host::residency::{Residency, ResidencyPlan, visits};
use drupe_host::shapes::Spec;
use drupe_host::synth::Synth;
use drupe_host::team::{Cores, MAX_WORKERS, ThreadTeam};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Weights in memory are aligned as in a file.
#[repr(C, align(64))]
struct Aligned<B: ?Sized>(B);

/// The model in the box: see `targets/model/MODEL_CARD.md`.
static BUILT_IN: &Aligned<[u8]> = &Aligned(*include_bytes!("../../model/home.gguf"));

/// Context without `--ctx`, if the model was trained on as much.
const DEFAULT_CTX: u32 = 4096;

/// A model's bytes and the view over them. They live as long as the process: a command opens one model.
pub struct Opened {
    /// Path or shape.
    pub name: String,
    /// The shape, for a synthetic model.
    pub shape: Option<String>,
    /// The mapped files, where there are any.
    pub file: Option<&'static ModelFile>,
    /// The file's bytes, or its parts'.
    pub parts: &'static [&'static [u8]],
    /// The view.
    pub gguf: Gguf<'static>,
    /// How long opening and checking took.
    pub took: Duration,
}

impl Opened {
    /// Opens a path, makes a shape's model in memory, or takes the built-in model.
    pub fn open(model: Option<&str>) -> Done<Opened> {
        Opened::with(model, make)
    }

    /// The same, to be looked at only: a shape's weights are not made and read as zeros.
    pub fn look(model: Option<&str>) -> Done<Opened> {
        Opened::with(model, |spec| {
            let hollow = Synth::new(spec).and_then(Synth::hollow).map_err(failed)?;
            Ok(&mut Box::leak(Box::new(hollow))[..])
        })
    }

    fn with(model: Option<&str>, make: impl Fn(&Spec) -> Done<&'static mut [u8]>) -> Done<Opened> {
        let mut start = Instant::now();
        let Some(name) = model else {
            let parts: &'static [&'static [u8]] = Vec::leak(vec![&BUILT_IN.0]);
            let gguf = Gguf::parse_parts(parts).map_err(|e| failed(format!("the built-in model: {e}")))?;
            return Ok(Opened { name: "built-in".into(), shape: None, file: None, parts, gguf, took: start.elapsed() });
        };
        let (mut shape, mut mapped) = (None, None);
        let parts: Vec<&'static [u8]> = match ModelFile::open(name) {
            Ok(file) => {
                let file: &'static ModelFile = Box::leak(Box::new(file));
                mapped = Some(file);
                file.slices()
            }
            Err(e) if matches!(e.kind, OpenErrorKind::Missing) => {
                let spec = Spec::parse(name).map_err(|_| {
                    failed(format!("{e}; nor is {name:?} a synthetic model's shape (drupe synth --help lists them)"))
                })?;
                shape = Some(spec.name());
                let bytes = make(&spec)?;
                start = Instant::now();
                vec![bytes]
            }
            Err(e) => return Err(failed(e)),
        };
        let parts: &'static [&'static [u8]] = Vec::leak(parts);
        let gguf = Gguf::parse_parts(parts).map_err(|e| failed(format!("{name}: {e}")))?;
        Ok(Opened { name: name.into(), shape, file: mapped, parts, gguf, took: start.elapsed() })
    }

    /// Whether it is the model in the box.
    pub fn built_in(&self) -> bool {
        self.file.is_none() && self.shape.is_none()
    }

    /// Bytes of the model's files.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|p| p.len() as u64).sum()
    }

    /// What the process takes besides weights and plan.
    pub fn program_bytes(&self) -> u64 {
        program_bytes(&self.gguf, Tokenizer::bytes_needed(&self.gguf).unwrap_or(0) as u64)
    }

    /// What the process takes besides weights, with this plan.
    pub fn beside(&self, plan: &Plan) -> Beside {
        Beside { plan: plan.total(), program: self.program_bytes() }
    }

    /// What the model computes with this context.
    pub fn recipe(&self, ctx: u32) -> Done<Recipe> {
        Recipe::of(&self.gguf, ctx).map_err(|e| failed(format!("{}: {e}", self.name)))
    }
}

fn make(spec: &Spec) -> Done<&'static mut [u8]> {
    let synth = Synth::new(spec).map_err(failed)?;
    let (needed, limit) = (synth.file_len(), Limit::of_this_process());
    if needed > limit.bytes {
        let (name, needed, there, source) = (spec.name(), size::show(needed), size::show(limit.bytes), limit.source);
        return Err(failed(format!(
            "{name} takes {needed}, there are {there} ({source}): write it to storage with drupe synth, and run that file"
        )));
    }
    let bar = term::progress(synth.file_len(), "making random weights", true);
    let bytes = synth.into_bytes(&|done| bar.set_position(done));
    bar.finish_and_clear();
    bytes.map(Vec::leak).map_err(|e| failed(format!("{}: {e}", spec.name())))
}

/// What the options say about how to run, before a model is known.
pub struct Setup {
    /// The kernels.
    pub kernels: Kernels,
    /// Workers.
    pub threads: usize,
}

impl Setup {
    /// Checks the options.
    pub fn new(args: &ModelArgs) -> Done<Setup> {
        let kernels = match &args.isa {
            None => Kernels::detect(),
            Some(name) => {
                let known = || Isa::ALL.map(|(_, n)| n).join(" ");
                let isa = Isa::from_name(name);
                let isa = isa.ok_or_else(|| usage(format!("unknown instruction set {name:?}; known: {}", known())))?;
                Kernels::with(isa).map_err(failed)?
            }
        };
        let threads = args.threads.unwrap_or_else(|| Cores::detect().threads());
        if threads == 0 || threads > MAX_WORKERS {
            return Err(usage(format!("{threads} threads: give 1 to {MAX_WORKERS}")));
        }
        Ok(Setup { kernels, threads })
    }

    /// The plan for `opened`. `logits` positions are kept at once.
    pub fn plan(&self, opened: &Opened, args: &ModelArgs, least_ctx: u32, logits: u32) -> Done<Plan> {
        let trained = opened.recipe(args.ctx.unwrap_or(DEFAULT_CTX))?.train_ctx;
        let ctx = args.ctx.unwrap_or_else(|| DEFAULT_CTX.min(trained.max(1)).max(least_ctx));
        if ctx == 0 {
            return Err(usage("--ctx 0: give at least 1 token of context"));
        }
        let recipe = opened.recipe(ctx)?;
        if args.batch == Some(0) {
            return Err(usage("--batch 0: give at least 1 token"));
        }
        let batch = args.batch.unwrap_or(Config::BATCH).max(logits);
        let config = Config {
            batch,
            kv: args.kv.into(),
            sinks: args.sinks.unwrap_or(Config::new(ctx).sinks.min(ctx - 1)),
            workers: self.threads as u32,
            logits,
            ..Config::new(ctx)
        };
        Plan::new(&recipe, model::formats(&opened.gguf), &self.kernels, &config).map_err(usage)
    }
}

/// Where weights come from.
pub enum Source {
    /// The map, or memory.
    Memory(InMemory<'static>),
    /// A part in memory, the rest from storage.
    Streamed(Box<Residency>),
}

impl Weights for Source {
    fn rows(&mut self, tensor: &TensorRef, rows: Range<u32>) -> Result<&[u8], WeightsError> {
        match self {
            Source::Memory(all) => all.rows(tensor, rows),
            Source::Streamed(part) => part.rows(tensor, rows),
        }
    }

    fn begin(&mut self) {
        match self {
            Source::Memory(all) => all.begin(),
            Source::Streamed(part) => part.begin(),
        }
    }

    fn expect(&mut self, experts: &Chosen<'_>) {
        match self {
            Source::Memory(all) => all.expect(experts),
            Source::Streamed(part) => part.expect(experts),
        }
    }
}

/// A session, ready to be fed.
pub struct Loaded {
    /// Its model's bytes.
    pub opened: Opened,
    /// Its plan.
    pub plan: Plan,
    /// The kernels.
    pub kernels: Kernels,
    /// The session.
    pub session: Session<'static>,
    /// The workers.
    pub team: ThreadTeam,
    /// The weights.
    pub weights: Source,
    /// How they are streamed, if they are.
    pub streamed: Option<ResidencyPlan>,
    /// From opening the file to here.
    pub took: Duration,
}

impl Loaded {
    /// Plans and binds `opened`.
    pub fn new(opened: Opened, setup: &Setup, args: &ModelArgs, least_ctx: u32, logits: u32) -> Done<Loaded> {
        let start = Instant::now();
        let plan = setup.plan(&opened, args, least_ctx, logits)?;
        let arena = memory(plan.total())?;
        let mut arena = Arena::new(arena);
        let model = Model::bind(&opened.gguf, &plan, &setup.kernels, &mut arena)
            .map_err(|e| failed(format!("{}: {e}", opened.name)))?;
        let session = Session::new(&model, &mut arena).map_err(failed)?;
        let team = ThreadTeam::new(setup.threads, &Cores::detect()).map_err(failed)?;
        let (weights, streamed) = weights(args.memory, &opened, &model)?;
        let took = opened.took + start.elapsed();
        term::heed_ctrl_c();
        Ok(Loaded { opened, plan, kernels: setup.kernels, session, team, weights, streamed, took })
    }

    /// Feeds `tokens` and returns the logits of the last; Ctrl-C ends it.
    pub fn feed(&mut self, tokens: &[u32]) -> Done<&mut [f32]> {
        let mut engine = Engine { team: &self.team, weights: &mut self.weights, cancelled: &term::stopped };
        self.session.feed(&mut engine, tokens).map_err(fed)
    }

    /// Feeds `tokens` batch by batch, telling `progress` how many are done.
    pub fn prefill(&mut self, tokens: &[u32], progress: &mut dyn FnMut(usize)) -> Done<&mut [f32]> {
        let mut engine = Engine { team: &self.team, weights: &mut self.weights, cancelled: &term::stopped };
        let mut done = 0;
        while done < tokens.len() {
            done += self.session.feed_slice(&mut engine, &tokens[done..]).map_err(fed)?;
            progress(done);
        }
        Ok(self.session.logits())
    }

    /// Feeds `tokens` and hands the logits after each to `each(index, logits)`.
    pub fn feed_each(&mut self, tokens: &[u32], each: &mut dyn FnMut(usize, &mut [f32])) -> Done {
        let mut engine = Engine { team: &self.team, weights: &mut self.weights, cancelled: &term::stopped };
        self.session.feed_each(&mut engine, tokens, each).map_err(fed)
    }
}

fn fed(e: FeedError) -> Fail {
    match e {
        FeedError::Cancelled => Fail::Interrupted,
        FeedError::Token { .. } => usage(e),
        e => failed(e),
    }
}

/// Where the weights come from under `--memory`, or else under what this machine has: the map if all fits, else a fixed
/// part in memory and the rest streamed.
fn weights(asked: Option<u64>, opened: &Opened, model: &Model) -> Done<(Source, Option<ResidencyPlan>)> {
    let promise = Promise::new(asked);
    let (beside, visits) = (opened.beside(model.plan()), visits(model));
    let hold = promise.hold(opened.bytes(), beside, opened.file.map(|_| &visits[..]));
    let hold = hold.map_err(|e| failed(format!("{e}; a smaller --ctx or --kv q8_0 lowers the plan")))?;
    let (Hold::Part(plan), Some(file)) = (hold, opened.file) else {
        if let Some(file) = opened.file {
            mapped_whole(file, &visits);
        }
        return Ok((Source::Memory(InMemory::new(opened.parts)), None));
    };
    let residency = Residency::open(&plan, file).map_err(failed)?;
    if asked.is_none() {
        let needed = size::show(opened.bytes() + beside.plan + beside.program);
        let per_token = size::show(plan.streamed_bytes);
        term::say(&format!(
            "note: {needed} needed, there are {promise}: {per_token} are read from storage for each token"
        ));
    }
    Ok((Source::Streamed(Box::new(residency)), Some(plan)))
}

/// Zeroed memory aligned to 64 bytes, kept for good.
pub fn memory(bytes: u64) -> Done<&'static mut [u8]> {
    let memory = usize::try_from(bytes).ok().and_then(|len| drupe_host::map::zeroed(len).ok());
    memory.ok_or_else(|| failed(format!("no memory for the plan's {}: try a smaller --ctx", size::show(bytes))))
}
