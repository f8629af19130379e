//! What C passes in: sized structs and callbacks.

use crate::error::{Code, Done, fail};
use crate::pass::{Sized32, guarded};
use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicBool, Ordering};
use drupe_core::quant::KvFormat;
use drupe_core::sampler::SamplerConfig;
use drupe_core::{Config, Team as CoreTeam};

/// `drupe_options.kv`: how keys and values are stored.
pub const DRUPE_KV_F16: u32 = 0;
pub const DRUPE_KV_Q8_0: u32 = 1;
pub const DRUPE_KV_F32: u32 = 2;

/// `drupe_options.flags`: no tokenizer.
pub const DRUPE_TOKENS_ONLY: u32 = 1;

/// `drupe_options`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Options {
    /// `sizeof(drupe_options)` of the caller.
    pub struct_size: u32,
    /// Tokens of context.
    pub ctx: u32,
    /// Tokens of a batch.
    pub batch: u32,
    /// `DRUPE_KV_…`.
    pub kv: u32,
    /// Tokens that stay when the ring overwrites.
    pub sinks: u32,
    /// Most workers that a team may have.
    pub workers: u32,
    /// [`DRUPE_TOKENS_ONLY`] or 0.
    pub flags: u32,
    /// Bytes of text without a space that tokenizing must have room for.
    pub max_text: u32,
    /// Where the text of an error goes, or null.
    pub message: *mut c_char,
    /// Its size.
    pub message_size: usize,
    /// Bytes that the process may take at its peak, for `drupe_budget_open`; 0 for what the machine allows.
    pub memory: u64,
}

impl Default for Options {
    fn default() -> Options {
        let config = Config::new(2048);
        Options {
            struct_size: size_of::<Options>() as u32,
            ctx: config.ctx,
            batch: config.batch,
            kv: DRUPE_KV_F16,
            sinks: config.sinks,
            workers: config.workers,
            flags: 0,
            max_text: 4096,
            message: core::ptr::null_mut(),
            message_size: 0,
            memory: 0,
        }
    }
}

impl Options {
    /// Whether the handle shall have no tokenizer.
    pub fn tokens_only(&self) -> bool {
        self.flags & DRUPE_TOKENS_ONLY != 0
    }

    /// As the core wants them.
    pub fn config(&self) -> Done<Config> {
        let kv = match self.kv {
            DRUPE_KV_F16 => KvFormat::F16,
            DRUPE_KV_Q8_0 => KvFormat::Q8_0,
            DRUPE_KV_F32 => KvFormat::F32,
            other => {
                return Err(fail(Code::Option, &format_args!("kv is {other}; expected 0 (f16), 1 (q8_0) or 2 (f32)")));
            }
        };
        if self.flags & !DRUPE_TOKENS_ONLY != 0 {
            return Err(fail(Code::Option, &format_args!("flags are {:#x}; only bit 0 is known", self.flags)));
        }
        let Options { ctx, batch, sinks, workers, .. } = *self;
        Ok(Config { ctx, batch, kv, sinks, workers, logits: 1 })
    }
}

/// `drupe_sampling`.
#[derive(Clone, Copy)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Sampling {
    pub struct_size: u32,
    pub top_k: u32,
    pub temperature: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub typical_p: f32,
    pub repeat_penalty: f32,
    pub frequency_penalty: f32,
    pub presence_penalty: f32,
    pub penalty_last_n: u32,
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        let c = SamplerConfig::default();
        Sampling {
            struct_size: size_of::<Sampling>() as u32,
            top_k: c.top_k,
            temperature: c.temperature,
            top_p: c.top_p,
            min_p: c.min_p,
            typical_p: c.typical_p,
            repeat_penalty: c.repeat_penalty,
            frequency_penalty: c.frequency_penalty,
            presence_penalty: c.presence_penalty,
            penalty_last_n: c.penalty_last_n,
            seed: c.seed,
        }
    }
}

impl Sampling {
    /// As the core wants it.
    pub fn config(&self) -> Done<SamplerConfig<'static>> {
        let most = crate::face::PENALTY_LAST_N;
        if self.penalty_last_n > most {
            let found = self.penalty_last_n;
            return Err(fail(Code::Option, &format_args!("penalty_last_n is {found}; expected 0 to {most}")));
        }
        Ok(SamplerConfig {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            penalty_last_n: self.penalty_last_n,
            logit_bias: &[],
            seed: self.seed,
        })
    }
}

/// `drupe_bytes`: a file of the model in memory.
#[derive(Clone, Copy)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Bytes {
    pub data: *const c_void,
    pub len: usize,
}

/// `drupe_plan_info`.
#[derive(Clone, Copy)]
#[repr(C)]
#[allow(missing_docs)]
pub struct PlanInfo {
    pub struct_size: u32,
    pub alignment: u32,
    pub memory: u64,
    pub kv: u64,
    pub tables: u64,
    pub ctx: u32,
    pub vocab: u32,
    pub width: u32,
    pub layers: u32,
    pub train_ctx: u32,
    pub reserved: u32,
}

/// `drupe_stats`.
#[derive(Clone, Copy)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Stats {
    pub struct_size: u32,
    pub workers: u32,
    pub position: u64,
    pub high_water: u64,
    pub fed: u64,
    pub sampled: u64,
    pub feed_ticks: u64,
    pub sample_ticks: u64,
    pub memory: u64,
    pub isa: *const c_char,
}

/// `drupe_message`.
#[derive(Clone, Copy)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ChatMessage {
    pub role: u32,
    pub text: *const c_char,
    pub len: usize,
}

/// `drupe_budget_info`.
#[cfg(feature = "hosted")]
#[derive(Clone, Copy)]
#[repr(C)]
#[allow(missing_docs)]
pub struct BudgetInfo {
    pub struct_size: u32,
    pub asked: u32,
    pub limit: u64,
    pub beside: u64,
    pub resident: u64,
    pub streamed: u64,
    pub line: *const c_char,
}

macro_rules! sized {
    ($type:ident, $name:literal, $first:expr) => {
        // SAFETY: integers, floats and raw pointers: any bytes are a value.
        unsafe impl Sized32 for $type {
            const NAME: &'static str = $name;
            const FIRST: usize = $first;
        }
    };
}
sized!(Options, "options", core::mem::offset_of!(Options, memory));
sized!(Sampling, "sampling", size_of::<Sampling>());
sized!(PlanInfo, "info", size_of::<PlanInfo>());
sized!(Stats, "stats", size_of::<Stats>());
#[cfg(feature = "hosted")]
sized!(BudgetInfo, "info", size_of::<BudgetInfo>());

/// `call(user, done, total)`: tells how far a call has come; non-zero stops it. Null for nothing.
pub type ProgressCall = Option<unsafe extern "C" fn(user: *mut c_void, done: u64, total: u64) -> c_int>;

/// What is told how far a call has come.
#[derive(Clone, Copy)]
pub struct Progress {
    /// What is called.
    pub call: ProgressCall,
    /// Passed to it.
    pub user: *mut c_void,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress { call: None, user: core::ptr::null_mut() }
    }
}

impl Progress {
    /// Tells it; whether to stop.
    pub fn stops(&self, done: u64, total: u64) -> bool {
        // SAFETY: the caller of drupe_on_progress promised that the function may be called with `user`.
        self.call.is_some_and(|call| unsafe { call(self.user, done, total) != 0 })
    }
}

/// `now(user)`: a time in the caller's ticks, which never goes back. Null for none.
pub type ClockCall = Option<unsafe extern "C" fn(user: *mut c_void) -> u64>;

/// The caller's clock.
#[derive(Clone, Copy)]
pub struct Clock {
    /// What is called.
    pub now: ClockCall,
    /// Passed to it.
    pub user: *mut c_void,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock { now: None, user: core::ptr::null_mut() }
    }
}

impl Clock {
    /// The time now; 0 without a clock.
    pub fn now(&self) -> u64 {
        // SAFETY: the caller of drupe_use_clock promised that the function may be called with `user`.
        self.now.map_or(0, |now| unsafe { now(self.user) })
    }
}

/// The work of one step, done by every worker.
pub type JobCall = unsafe extern "C" fn(arg: *mut c_void, worker: u32);

/// Calls `job(arg, w)` once for every `w` below `workers`, at the same time if it can, and returns when all have
/// returned. Null for the calling thread alone.
pub type RunCall = Option<unsafe extern "C" fn(user: *mut c_void, job: JobCall, arg: *mut c_void)>;

/// `drupe_team`: the caller's threads.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Team {
    /// Passed to `run`.
    pub user: *mut c_void,
    /// How many workers.
    pub workers: u32,
    /// Runs them.
    pub run: RunCall,
}

// SAFETY: `run` is only ever called from the thread that called into the library; the caller of drupe_use_team promised
// that `user` may be used there.
unsafe impl Sync for Team {}

/// One step of the work, as [`call_job`] finds it.
struct Step<'j> {
    job: &'j (dyn Fn(usize) + Sync),
    workers: usize,
    failed: AtomicBool,
}

/// The [`JobCall`] that `run` gets. Nothing unwinds into the caller's threads, and a worker that is none does nothing.
unsafe extern "C" fn call_job(arg: *mut c_void, worker: u32) {
    // SAFETY: `arg` is the pointer that Team::run below passed, to a step that lives until `run` returns.
    let step = unsafe { &*arg.cast::<Step<'_>>() };
    let worker = worker as usize;
    let work = || {
        (step.job)(worker);
        Ok(())
    };
    if worker < step.workers && guarded(work).is_err() {
        step.failed.store(true, Ordering::Relaxed);
    }
}

impl CoreTeam for Team {
    fn workers(&self) -> usize {
        self.workers as usize
    }

    fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        let Some(run) = self.run else { return job(0) };
        let step = Step { job, workers: self.workers as usize, failed: AtomicBool::new(false) };
        // SAFETY: the caller of drupe_use_team promised this contract.
        unsafe { run(self.user, call_job, (&raw const step).cast_mut().cast()) };
        // The panic goes on here, on the caller's thread, where the function that was called turns it into a code.
        #[cfg(feature = "hosted")]
        assert!(!step.failed.into_inner(), "a worker panicked");
    }
}
