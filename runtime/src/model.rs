//! A model bound to its memory: which tensors each layer has, where its cache lies.

use crate::angles;
use crate::arena::{Arena, ArenaTooSmall};
use crate::gguf::Gguf;
use crate::kv::KvShape;
use crate::plan::{Formats, Plan};
use crate::quant::Kernels;
use crate::recipe::Recipe;
use crate::tensors::{BindError, GlobalTensors, LayerTensors, bind_tensors};

/// Why a model could not be bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ModelError {
    /// The arena is smaller than the plan.
    Arena(ArenaTooSmall),
    /// A tensor is missing, misshapen or of an unsupported type.
    Bind(BindError),
}

impl core::fmt::Display for ModelError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ModelError::Arena(e) => e.fmt(f),
            ModelError::Bind(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for ModelError {}

impl From<ArenaTooSmall> for ModelError {
    fn from(e: ArenaTooSmall) -> Self {
        ModelError::Arena(e)
    }
}

impl From<BindError> for ModelError {
    fn from(e: BindError) -> Self {
        ModelError::Bind(e)
    }
}

/// A recipe with its tensors found and checked.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    pub(crate) plan: Plan,
    pub(crate) kernels: Kernels,
    pub(crate) layers: &'a [LayerTensors],
    pub(crate) globals: GlobalTensors,
    pub(crate) shapes: &'a [KvShape],
    pub(crate) frequencies: &'a [f64],
}

impl<'a> Model<'a> {
    /// Finds and checks every tensor of `plan.recipe` in `gguf`; the tables are the first parts of the arena.
    ///
    /// `kernels` must be the ones that the plan was made for.
    pub fn bind(
        gguf: &Gguf<'_>,
        plan: &Plan,
        kernels: &Kernels,
        arena: &mut Arena<'a>,
    ) -> Result<Model<'a>, ModelError> {
        let recipe = &plan.recipe;
        let left = arena.left() as u64;
        if left < plan.total() {
            return Err(ArenaTooSmall { needed: plan.total(), given: left }.into());
        }
        let layers = arena.take::<LayerTensors>(recipe.layers as usize)?;
        let globals = bind_tensors(gguf, recipe, layers)?;
        let shapes = arena.take::<KvShape>(recipe.layers as usize)?;
        let mut offset = 0;
        for (i, shape) in shapes.iter_mut().enumerate() {
            // The plan has done the same arithmetic and found that it fits.
            *shape = KvShape::of(recipe, &plan.config, i as u32, offset).unwrap_or_default();
            offset += shape.bytes(recipe).unwrap_or(0);
        }
        let frequencies = arena.take::<f64>(angles::frequency_len(recipe) as usize)?;
        let f = &globals.rope_factors;
        let factors = gguf.bytes(f.part, f.offset, f.bytes());
        angles::fill_frequencies(recipe, factors, frequencies);
        Ok(Model { plan: *plan, kernels: *kernels, layers, globals, shapes, frequencies })
    }

    /// What the model computes.
    pub fn recipe(&self) -> &Recipe {
        &self.plan.recipe
    }

    /// The plan that it was bound for.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The kernels that it runs on.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Every layer's tensors.
    pub fn layers(&self) -> &[LayerTensors] {
        self.layers
    }

    /// The tensors outside the layers.
    pub fn globals(&self) -> &GlobalTensors {
        &self.globals
    }
}

/// The formats of the model's matrices, for [`Plan::new`].
pub fn formats(gguf: &Gguf<'_>) -> Formats {
    gguf.tensors().filter_map(|t| t.format.ok()).fold(Formats::default(), Formats::with)
}
