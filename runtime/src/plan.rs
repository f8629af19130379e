//! Every byte that a session will use, before anything is made.

use crate::arena::Arena;
use crate::kv::KvShape;
use crate::quant::{ActKind, Format, Kernels, KvFormat};
use crate::recipe::{Mask, Recipe};
use crate::tensors::LayerTensors;
use crate::{angles, attention, experts};

/// What the caller chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Tokens that a token can look back on, itself included: the size of the KV ring, sinks included.
    pub ctx: u32,
    /// Most tokens in one forward pass (prefill goes in batches of this many).
    pub batch: u32,
    /// Storage of keys and values.
    pub kv: KvFormat,
    /// First tokens that stay when the ring overwrites its oldest (arXiv 2309.17453).
    pub sinks: u32,
    /// Workers of the team, each with scratch of its own.
    pub workers: u32,
    /// Positions whose logits are kept at once: 1 to generate, more to score texts faster.
    pub logits: u32,
}

impl Config {
    /// Default size of a batch: enough tokens that unpacking weights costs little, few enough that the buffers of a
    /// 1-billion-parameter model stay under 4 MiB.
    pub const BATCH: u32 = 48;

    /// A context of `ctx` tokens, f16 keys and values, 4 sinks, one worker.
    pub fn new(ctx: u32) -> Config {
        Config { ctx, batch: Config::BATCH, kv: KvFormat::F16, sinks: 4, workers: 1, logits: 1 }
    }
}

/// Why there is no plan for this recipe and configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// A field of [`Config`] is outside its range.
    OutOfRange {
        /// The field.
        field: &'static str,
        /// What was asked for.
        found: u64,
        /// Least allowed.
        least: u64,
        /// Most allowed.
        most: u64,
    },
    /// Heads of `dim` elements cannot be stored as Q8_0 (blocks of 32).
    KvFormat {
        /// Elements of a head.
        dim: u32,
    },
    /// The recipe needs something that this version does not compute.
    Unsupported(&'static str),
    /// The total does not fit in 64 bits.
    TooLarge,
}

impl core::fmt::Display for PlanError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            PlanError::OutOfRange { field, found, least, most } => {
                write!(f, "{field} is {found}; expected {least} to {most}")
            }
            PlanError::KvFormat { dim } => {
                write!(f, "heads of {dim} elements cannot be stored as q8_0 (a multiple of 32 is needed): use f16")
            }
            PlanError::Unsupported(what) => write!(f, "this version does not compute {what}"),
            PlanError::TooLarge => write!(f, "the plan's total does not fit in 64 bits"),
        }
    }
}

impl core::error::Error for PlanError {}

/// One buffer of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it holds.
    pub name: &'static str,
    /// Bytes, padding to 64 included.
    pub bytes: u64,
}

/// The formats of a model's matrices, as far as the plan needs them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    present: u64,
}

impl Formats {
    /// With `format` too.
    pub fn with(self, format: Format) -> Formats {
        Formats { present: self.present | 1 << format as u32 }
    }

    /// Those present.
    pub fn iter(self) -> impl Iterator<Item = Format> {
        Format::ALL.into_iter().filter(move |f| self.present & (1 << *f as u32) != 0)
    }
}

/// Sizes of every buffer, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub kv_bytes: u64,
    pub stream: u64,
    pub normed: u64,
    pub inner: u64,
    pub acts_bytes: u64,
    pub angles: u64,
    pub partial: u64,
    pub logits: u64,
    pub experts_bytes: u64,
    /// Of one worker; a multiple of 64.
    pub scratch_bytes: u64,
}

/// Every buffer's size. Pure arithmetic over a [`Recipe`] and a [`Config`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// What was asked for.
    pub config: Config,
    /// What was planned.
    pub recipe: Recipe,
    pub(crate) sizes: Sizes,
}

/// Largest context: positions are exact in f32 well beyond it, and sizes stay far from overflow.
pub const MAX_CTX: u32 = 1 << 24;

impl Plan {
    /// Plans a session of `recipe`, whose matrices have these `formats`, on these `kernels`.
    pub fn new(recipe: &Recipe, formats: Formats, kernels: &Kernels, config: &Config) -> Result<Plan, PlanError> {
        let r = recipe;
        let within = |field, found: u32, least: u32, most: u32| {
            let error = PlanError::OutOfRange { field, found: found.into(), least: least.into(), most: most.into() };
            (least..=most).contains(&found).then_some(()).ok_or(error)
        };
        within("ctx", config.ctx, 1, MAX_CTX)?;
        within("batch", config.batch, 1, 4096)?;
        within("sinks", config.sinks, 0, config.ctx - 1)?;
        within("workers", config.workers, 1, 1024)?;
        within("logits", config.logits, 1, config.batch)?;
        if r.mask != Mask::Causal {
            return Err(PlanError::Unsupported("attention that is not causal"));
        }
        if r.heads / r.kv_heads.max(1) > attention::MAX_QUERIES as u32 {
            return Err(PlanError::Unsupported(attention::TOO_MANY_QUERIES));
        }
        for dim in [r.key_dim, r.value_dim] {
            config.kv.head_bytes(dim as usize).ok_or(PlanError::KvFormat { dim })?;
        }
        let batch = config.batch as u64;
        let queries = r.heads as u64 * r.key_dim as u64;
        let values = r.heads as u64 * r.value_dim as u64;
        let kv_width = r.kv_heads as u64 * (r.key_dim + r.value_dim) as u64;
        let widest = (r.width as u64).max(values).max(r.widest_ffn() as u64);

        let mut acts = 0;
        let mut matmul = 0;
        for format in formats.iter() {
            let cols = widest as usize;
            acts = acts.max(ActKind::of(format).stride(cols) as u64);
            matmul = matmul.max(kernels.matmul_scratch(format, cols, config.batch as usize) as u64);
            // A feed-forward tile of the second factor, before it is multiplied into the first.
            let rows = |ffn| kernels.row_chunk(format, ffn as usize, r.width as usize, config.batch as usize) as u64;
            let rows = rows(r.ffn).max(rows(r.widest_ffn()));
            matmul = matmul.max(
                kernels.matmul_scratch(format, r.width as usize, config.batch as usize) as u64
                    + Arena::cost(4 * rows * batch),
            );
        }
        let scratch = matmul
            .max(attention::scratch_bytes(recipe, kernels, config.batch as usize) as u64)
            .max(4 * widest.max(r.key_dim as u64));
        let kv_bytes = KvShape::total(recipe, config).ok_or(PlanError::TooLarge)?;
        let sizes = Sizes {
            kv_bytes,
            stream: batch * r.width as u64,
            normed: batch * (r.width as u64).max(queries).max(values),
            inner: batch * (queries + kv_width + values).max(r.widest_ffn() as u64).max(r.width as u64),
            acts_bytes: batch * acts,
            angles: angles::table_len(recipe, config.batch),
            partial: attention::partial_len(recipe, config),
            logits: config.logits as u64 * r.vocab as u64,
            experts_bytes: experts::bytes(recipe, config.batch),
            scratch_bytes: Arena::cost(scratch),
        };
        let plan = Plan { config: *config, recipe: *recipe, sizes };
        let total = plan.parts().iter().try_fold(0u64, |sum, p| sum.checked_add(p.bytes));
        total.map(|_| plan).ok_or(PlanError::TooLarge)
    }

    /// Every buffer, in the order in which the arena gives them out.
    pub fn parts(&self) -> [Part; 12] {
        let (r, s) = (&self.recipe, &self.sizes);
        let part = |name, elements: u64, size: usize| Part {
            name,
            bytes: elements.checked_mul(size as u64).map_or(u64::MAX / 16, Arena::cost),
        };
        [
            part("layer table", r.layers as u64, size_of::<LayerTensors>()),
            part("kv table", r.layers as u64, size_of::<KvShape>()),
            part("rope frequencies", angles::frequency_len(r), 8),
            part("keys and values", s.kv_bytes, 1),
            part("residual stream", s.stream, 4),
            part("normed", s.normed, 4),
            part("attention or feed-forward", s.inner, 4),
            part("quantised activations", s.acts_bytes, 1),
            part("rope angles and partial attention", s.angles + s.partial, 4),
            part("logits", s.logits, 4),
            part("experts", s.experts_bytes, 1),
            part("scratch of the workers", self.config.workers as u64 * s.scratch_bytes, 1),
        ]
    }

    /// Bytes of arena that [`crate::Model::bind`] and [`crate::Session::new`] take together, to the byte, if the arena
    /// is aligned to 64 (else up to 63 more).
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|p| p.bytes).sum()
    }

    /// Bytes of keys and values.
    pub fn kv_bytes(&self) -> u64 {
        Arena::cost(self.sizes.kv_bytes)
    }
}
