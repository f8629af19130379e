//! What C passes in: sized structs and callbacks.

use crate::error::{Code, Done, fail};
use core::ffi::{c_char, c_int, c_void};
use drupe_core::quant::KvFormat;
use drupe_core::sampler::SamplerConfig;
use drupe_core::{Config, Team as CoreTeam};

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
    /// 0: f16; 1: q8_0; 2: f32.
    pub kv: u32,
    /// Tokens that stay when the ring overwrites.
    pub sinks: u32,
    /// Most workers that a team may have.
    pub workers: u32,
    /// Bit 0: no tokenizer.
    pub flags: u32,
    /// Bytes of text without a space that tokenizing must have room for.
    pub max_text: u32,
    /// Where the text of an error goes, or null.
    pub message: *mut c_char,
    /// Its size.
    pub message_size: usize,
}

impl Default for Options {
    fn default() -> Options {
        let config = Config::new(2048);
        Options {
            struct_size: size_of::<Options>() as u32,
            ctx: config.ctx,
            batch: config.batch,
            kv: 0,
            sinks: config.sinks,
            workers: config.workers,
            flags: 0,
            max_text: 4096,
            message: core::ptr::null_mut(),
            message_size: 0,
        }
    }
}

impl Options {
    /// Whether the handle shall have no tokenizer.
    pub fn tokens_only(&self) -> bool {
        self.flags & 1 != 0
    }

    /// As the core wants them.
    pub fn config(&self) -> Done<Config> {
        let kv = match self.kv {
            0 => KvFormat::F16,
            1 => KvFormat::Q8_0,
            2 => KvFormat::F32,
            other => {
                return Err(fail(Code::Option, &format_args!("kv is {other}; expected 0 (f16), 1 (q8_0) or 2 (f32)")));
            }
        };
        if self.flags > 1 {
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

/// The callback that is asked whether to stop.
#[derive(Clone, Copy)]
pub struct Cancel {
    /// Null for never.
    pub call: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    /// Passed to it.
    pub user: *mut c_void,
}

impl Default for Cancel {
    fn default() -> Cancel {
        Cancel { call: None, user: core::ptr::null_mut() }
    }
}

impl Cancel {
    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.call.is_some()
    }

    /// Asks it.
    pub fn asked(&self) -> bool {
        // SAFETY: the caller of drupe_on_cancel promised that the function may be called with `user`.
        self.call.is_some_and(|call| unsafe { call(self.user) != 0 })
    }
}

/// `drupe_team`: the caller's threads.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Team {
    /// Passed to `run`.
    pub user: *mut c_void,
    /// How many workers.
    pub workers: u32,
    /// Calls `job(arg, w)` once for every `w` below `workers`, at the same time if it can, and returns when all have
    /// returned.
    pub run: Option<unsafe extern "C" fn(*mut c_void, unsafe extern "C" fn(*mut c_void, u32), *mut c_void)>,
}

// SAFETY: `run` is only ever called from the thread that called into the library; the caller of drupe_use_team promised
// that `user` may be used there.
unsafe impl Sync for Team {}

type Job<'j> = &'j (dyn Fn(usize) + Sync);

unsafe extern "C" fn call_job(arg: *mut c_void, worker: u32) {
    // SAFETY: `arg` is the pointer that Team::run below passed, to a job that lives until `run` returns.
    let job = unsafe { *arg.cast::<Job<'_>>() };
    job(worker as usize)
}

impl CoreTeam for Team {
    fn workers(&self) -> usize {
        self.workers as usize
    }

    fn run(&self, mut job: Job<'_>) {
        match self.run {
            // SAFETY: the caller of drupe_use_team promised this contract.
            Some(run) => unsafe { run(self.user, call_job, (&raw mut job).cast()) },
            None => job(0),
        }
    }
}
