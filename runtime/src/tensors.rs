//! Binding: which tensor of the file plays which role, found in one walk over the directory and checked against the
//! recipe's shapes.

use crate::gguf::{Gguf, GgufError, TensorInfo};
use crate::label::Label;
use crate::quant::Format;
use crate::recipe::{Recipe, RopeFactors};
use crate::weights::TensorRef;
use core::fmt;

/// One layer's tensors. Plain data, so that a table of it fits in an arena; what the file has not is absent
/// ([`TensorRef::present`]). Shapes are `[rows, cols]`; vectors are one row of F32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct LayerTensors {
    /// `[width]`.
    pub attn_norm: TensorRef,
    /// `[heads · key_dim, width]`.
    pub q: TensorRef,
    /// `[kv_heads · key_dim, width]`.
    pub k: TensorRef,
    /// `[kv_heads · value_dim, width]`.
    pub v: TensorRef,
    /// `[heads · key_dim]`, optional.
    pub q_bias: TensorRef,
    /// `[kv_heads · key_dim]`, optional.
    pub k_bias: TensorRef,
    /// `[kv_heads · value_dim]`, optional.
    pub v_bias: TensorRef,
    /// `[key_dim]`, or `[heads · key_dim]` with `qk_norm_whole`, where the recipe has `qk_norm`.
    pub q_norm: TensorRef,
    /// `[key_dim]`, or `[kv_heads · key_dim]` with `qk_norm_whole`, where the recipe has `qk_norm`.
    pub k_norm: TensorRef,
    /// `[width, heads · value_dim]`.
    pub out: TensorRef,
    /// `[width]`, optional.
    pub out_bias: TensorRef,
    /// `[width]`, where the recipe has `post_norm`.
    pub post_attn_norm: TensorRef,
    /// `[width]`.
    pub ffn_norm: TensorRef,
    /// `[experts, width]`, where the recipe has `experts`. Then `gate`, `up` and `down` have those of all experts, one
    /// after the other.
    pub router: TensorRef,
    /// `[ffn, width]`, where the recipe is `gated`.
    pub gate: TensorRef,
    /// `[ffn]`, optional.
    pub gate_bias: TensorRef,
    /// `[ffn, width]`.
    pub up: TensorRef,
    /// `[ffn]`, optional.
    pub up_bias: TensorRef,
    /// `[width, ffn]`.
    pub down: TensorRef,
    /// `[width]`, optional.
    pub down_bias: TensorRef,
    /// `[width]`, where the recipe has `post_norm`.
    pub post_ffn_norm: TensorRef,
    /// `[shared_ffn, width]`, where the recipe has an expert for all tokens.
    pub shared_gate: TensorRef,
    /// `[shared_ffn, width]`, likewise.
    pub shared_up: TensorRef,
    /// `[width, shared_ffn]`, likewise.
    pub shared_down: TensorRef,
    /// `[width]`, where that expert has a gate of its own.
    pub shared_router: TensorRef,
}

/// The tensors outside the layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct GlobalTensors {
    /// `[vocab, width]`.
    pub token_embedding: TensorRef,
    /// `[width]`.
    pub output_norm: TensorRef,
    /// `[vocab, width]`; the embedding itself where the file has no `output.weight`.
    pub output: TensorRef,
    /// `[rope dims / 2]`: the tensor that [`crate::recipe::Rope::factors`] names; absent for none.
    pub rope_factors: TensorRef,
}

/// Why the file's tensors are not those of the recipe.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum BindError {
    /// A tensor of an unsupported type, or too large.
    Gguf(GgufError),
    /// The table has another number of layers than the recipe.
    Table { found: usize, expected: usize },
    /// A tensor that the recipe needs is not there; `layer` is its layer.
    Missing { name: &'static str, layer: Option<u32> },
    /// A tensor for which the recipe has no use. To run the model without it would give wrong answers.
    Unexpected { tensor: Label, family: &'static str },
    /// A tensor of another shape, written as in the file: elements of a row first.
    Shape { tensor: Label, found: [u64; 4], expected: [u64; 3] },
    /// A norm, bias or factor that is not F32.
    NotF32 { tensor: Label, found: Format },
    /// A rotary factor that is not a positive finite number.
    Factor { tensor: Label, index: u32, found: f32 },
}

impl From<GgufError> for BindError {
    fn from(error: GgufError) -> BindError {
        BindError::Gguf(error)
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use BindError::*;
        match self {
            Gguf(error) => error.fmt(f),
            Table { found, expected } => write!(f, "a table of {found} layers was given for a model of {expected}"),
            Missing { name, layer: None } => write!(f, "tensor {name} is missing"),
            Missing { name, layer: Some(layer) } => write!(f, "tensor blk.{layer}.{name} is missing"),
            Unexpected { tensor, family } => {
                write!(f, "tensor {tensor} has no place in a {family} model with this file's keys")
            }
            Shape { tensor, found: [a, b, c, d], expected } => {
                write!(f, "tensor {tensor} has shape {a} × {b}")?;
                if (*c, *d) != (1, 1) {
                    write!(f, " × {c} × {d}")?;
                }
                write!(f, "; expected {} × {}", expected[0], expected[1])?;
                if expected[2] == 1 { Ok(()) } else { write!(f, " × {}", expected[2]) }
            }
            NotF32 { tensor, found } => write!(f, "tensor {tensor} has type {}; expected F32", found.name()),
            Factor { tensor, index, found } => {
                write!(f, "element {index} of tensor {tensor} is {found}; expected a positive number")
            }
        }
    }
}

impl core::error::Error for BindError {}

/// Finds every tensor of the recipe in the file. `layers` is the table to fill, one entry for each of the recipe's.
///
/// Every tensor's shape is checked, and no tensor of the file may be left over. Fused tensors are cut into their rows:
/// `attn_qkv` into queries, keys and values; an `ffn_up` of twice the rows, without `ffn_gate`, into gate and up.
pub fn bind_tensors(gguf: &Gguf<'_>, recipe: &Recipe, layers: &mut [LayerTensors]) -> Result<GlobalTensors, BindError> {
    let expected = recipe.layers as usize;
    if layers.len() != expected {
        return Err(BindError::Table { found: layers.len(), expected });
    }
    layers.fill(LayerTensors::default());
    let mut globals = GlobalTensors::default();
    let binder = Binder { gguf, recipe };
    for tensor in gguf.tensors() {
        match layer_and_role(tensor.name) {
            Some((layer, role)) => match layers.get_mut(layer as usize) {
                Some(layer) => binder.layer(&tensor, role, layer)?,
                None => return Err(binder.unexpected(&tensor)),
            },
            None => binder.global(&tensor, &mut globals)?,
        }
    }
    for (i, layer) in (0..).zip(layers.iter()) {
        binder.check_layer(i, layer)?;
    }
    binder.check_globals(&mut globals)?;
    Ok(globals)
}

/// `blk.3.attn_q.weight` is layer 3's `attn_q.weight`. Only the usual way to write the number counts.
fn layer_and_role(name: &str) -> Option<(u32, &str)> {
    let (number, role) = name.strip_prefix("blk.")?.split_once('.')?;
    let usual = number.bytes().all(|b| b.is_ascii_digit()) && (number == "0" || !number.starts_with('0'));
    if usual { Some((number.parse().ok()?, role)) } else { None }
}

struct Binder<'g, 'a> {
    gguf: &'g Gguf<'a>,
    recipe: &'g Recipe,
}

impl Binder<'_, '_> {
    fn layer(&self, tensor: &TensorInfo<'_>, role: &str, layer: &mut LayerTensors) -> Result<(), BindError> {
        let r = self.recipe;
        let (width, ffn) = (r.width, r.ffn);
        let (q, k, v) = (r.heads * r.key_dim, r.kv_heads * r.key_dim, r.kv_heads * r.value_dim);
        let matrix = |slot: &mut TensorRef, rows, cols| self.put(slot, tensor, self.matrix(tensor, rows, cols)?);
        let vector = |slot: &mut TensorRef, len| self.put(slot, tensor, self.vector(tensor, len)?);
        let (q_norm, k_norm) = r.qk_norm_dims();
        if let Some(e) = &r.experts {
            let stack =
                |slot: &mut TensorRef, rows, cols| self.put(slot, tensor, self.stack(tensor, e.count, rows, cols)?);
            match role {
                "ffn_gate_inp.weight" => return matrix(&mut layer.router, e.count, width),
                "ffn_gate_exps.weight" => return stack(&mut layer.gate, ffn, width),
                "ffn_up_exps.weight" => return stack(&mut layer.up, ffn, width),
                "ffn_down_exps.weight" => return stack(&mut layer.down, width, ffn),
                "ffn_gate_shexp.weight" if e.shared_ffn > 0 => {
                    return matrix(&mut layer.shared_gate, e.shared_ffn, width);
                }
                "ffn_up_shexp.weight" if e.shared_ffn > 0 => return matrix(&mut layer.shared_up, e.shared_ffn, width),
                "ffn_down_shexp.weight" if e.shared_ffn > 0 => {
                    return matrix(&mut layer.shared_down, width, e.shared_ffn);
                }
                "ffn_gate_inp_shexp.weight" if e.shared_gate => return vector(&mut layer.shared_router, width),
                // The feed-forward of a dense model, or experts in tensors of their own, as files were made before 2024.
                role if role.starts_with("ffn_") && role != "ffn_norm.weight" => return Err(self.unexpected(tensor)),
                _ => {}
            }
        }
        match role {
            "attn_norm.weight" => vector(&mut layer.attn_norm, width),
            "attn_q.weight" => matrix(&mut layer.q, q, width),
            "attn_k.weight" => matrix(&mut layer.k, k, width),
            "attn_v.weight" => matrix(&mut layer.v, v, width),
            "attn_q.bias" => vector(&mut layer.q_bias, q),
            "attn_k.bias" => vector(&mut layer.k_bias, k),
            "attn_v.bias" => vector(&mut layer.v_bias, v),
            "attn_qkv.weight" => {
                let fused = self.matrix(tensor, q + k + v, width)?;
                self.put(&mut layer.q, tensor, fused.slice(0..q))?;
                self.put(&mut layer.k, tensor, fused.slice(q..q + k))?;
                self.put(&mut layer.v, tensor, fused.slice(q + k..q + k + v))
            }
            "attn_qkv.bias" => {
                let fused = self.vector(tensor, q + k + v)?;
                self.put(&mut layer.q_bias, tensor, elements(&fused, 0, q))?;
                self.put(&mut layer.k_bias, tensor, elements(&fused, q, k))?;
                self.put(&mut layer.v_bias, tensor, elements(&fused, q + k, v))
            }
            "attn_q_norm.weight" if r.qk_norm => vector(&mut layer.q_norm, q_norm),
            "attn_k_norm.weight" if r.qk_norm => vector(&mut layer.k_norm, k_norm),
            "attn_output.weight" => matrix(&mut layer.out, width, r.heads * r.value_dim),
            "attn_output.bias" => vector(&mut layer.out_bias, width),
            "post_attention_norm.weight" if r.post_norm => vector(&mut layer.post_attn_norm, width),
            "ffn_norm.weight" => vector(&mut layer.ffn_norm, width),
            "ffn_gate.weight" if r.gated => matrix(&mut layer.gate, ffn, width),
            "ffn_gate.bias" if r.gated => vector(&mut layer.gate_bias, ffn),
            "ffn_up.weight" if r.gated && tensor.dims[1] == 2 * ffn as u64 => {
                let fused = self.matrix(tensor, 2 * ffn, width)?;
                self.put(&mut layer.gate, tensor, fused.slice(0..ffn))?;
                self.put(&mut layer.up, tensor, fused.slice(ffn..2 * ffn))
            }
            "ffn_up.weight" => matrix(&mut layer.up, ffn, width),
            "ffn_up.bias" => vector(&mut layer.up_bias, ffn),
            "ffn_down.weight" => matrix(&mut layer.down, width, ffn),
            "ffn_down.bias" => vector(&mut layer.down_bias, width),
            "post_ffw_norm.weight" if r.post_norm => vector(&mut layer.post_ffn_norm, width),
            _ => Err(self.unexpected(tensor)),
        }
    }

    fn global(&self, tensor: &TensorInfo<'_>, globals: &mut GlobalTensors) -> Result<(), BindError> {
        let r = self.recipe;
        let (factors, pairs) = (r.ropes[0].factors, r.ropes[0].dims / 2);
        match (tensor.name, factors) {
            ("token_embd.weight", _) => {
                self.put(&mut globals.token_embedding, tensor, self.matrix(tensor, r.vocab, r.width)?)
            }
            ("output_norm.weight", _) => self.put(&mut globals.output_norm, tensor, self.vector(tensor, r.width)?),
            ("output.weight", _) => self.put(&mut globals.output, tensor, self.matrix(tensor, r.vocab, r.width)?),
            ("rope_freqs.weight", RopeFactors::Freqs)
            | ("rope_factors_long.weight", RopeFactors::Long)
            | ("rope_factors_short.weight", RopeFactors::Short) => {
                self.check_factors(tensor)?;
                self.put(&mut globals.rope_factors, tensor, self.vector(tensor, pairs)?)
            }
            // The one of LongRoPE's two that this context does not use.
            ("rope_factors_long.weight", RopeFactors::Short) | ("rope_factors_short.weight", RopeFactors::Long) => {
                Ok(())
            }
            _ => Err(self.unexpected(tensor)),
        }
    }

    fn unexpected(&self, tensor: &TensorInfo<'_>) -> BindError {
        BindError::Unexpected { tensor: Label::from(tensor.name), family: self.recipe.family }
    }

    /// Two tensors may claim a role: a fused one and its parts.
    fn put(&self, slot: &mut TensorRef, tensor: &TensorInfo<'_>, found: TensorRef) -> Result<(), BindError> {
        if slot.present() {
            return Err(self.unexpected(tensor));
        }
        *slot = found;
        Ok(())
    }

    fn matrix(&self, tensor: &TensorInfo<'_>, rows: u32, cols: u32) -> Result<TensorRef, BindError> {
        self.stack(tensor, 1, rows, cols)
    }

    /// `count` matrices, one after the other.
    fn stack(&self, tensor: &TensorInfo<'_>, count: u32, rows: u32, cols: u32) -> Result<TensorRef, BindError> {
        let expected = [cols as u64, rows as u64, count as u64];
        if tensor.dims[..3] != expected || tensor.dims[3] != 1 {
            return Err(BindError::Shape { tensor: Label::from(tensor.name), found: tensor.dims, expected });
        }
        Ok(tensor.to_ref()?)
    }

    fn vector(&self, tensor: &TensorInfo<'_>, len: u32) -> Result<TensorRef, BindError> {
        let found = self.matrix(tensor, 1, len)?;
        match found.format() {
            Format::F32 => Ok(found),
            found => Err(BindError::NotF32 { tensor: Label::from(tensor.name), found }),
        }
    }

    fn check_factors(&self, tensor: &TensorInfo<'_>) -> Result<(), BindError> {
        self.vector(tensor, self.recipe.ropes[0].dims / 2)?;
        for (index, bytes) in (0..).zip(self.gguf.data(tensor).as_chunks::<4>().0) {
            let found = f32::from_le_bytes(*bytes);
            if !(found.is_finite() && found > 0.0) {
                return Err(BindError::Factor { tensor: Label::from(tensor.name), index, found });
            }
        }
        Ok(())
    }

    fn check_layer(&self, i: u32, layer: &LayerTensors) -> Result<(), BindError> {
        let r = self.recipe;
        let (experts, dense) = (r.experts.is_some(), r.experts.is_none());
        let (shared, shared_gate) = r.experts.map_or((false, false), |e| (e.shared_ffn > 0, e.shared_gate));
        let needed = [
            ("attn_norm.weight", &layer.attn_norm, r.pre_norm),
            ("attn_q.weight", &layer.q, true),
            ("attn_k.weight", &layer.k, true),
            ("attn_v.weight", &layer.v, true),
            ("attn_q_norm.weight", &layer.q_norm, r.qk_norm),
            ("attn_k_norm.weight", &layer.k_norm, r.qk_norm),
            ("attn_output.weight", &layer.out, true),
            ("post_attention_norm.weight", &layer.post_attn_norm, r.post_norm),
            ("ffn_norm.weight", &layer.ffn_norm, r.pre_norm),
            ("ffn_gate.weight", &layer.gate, r.gated && dense),
            ("ffn_up.weight", &layer.up, dense),
            ("ffn_down.weight", &layer.down, dense),
            ("ffn_gate_inp.weight", &layer.router, experts),
            ("ffn_gate_exps.weight", &layer.gate, experts),
            ("ffn_up_exps.weight", &layer.up, experts),
            ("ffn_down_exps.weight", &layer.down, experts),
            ("ffn_gate_shexp.weight", &layer.shared_gate, shared),
            ("ffn_up_shexp.weight", &layer.shared_up, shared),
            ("ffn_down_shexp.weight", &layer.shared_down, shared),
            ("ffn_gate_inp_shexp.weight", &layer.shared_router, shared_gate),
            ("post_ffw_norm.weight", &layer.post_ffn_norm, r.post_norm),
        ];
        match needed.into_iter().find(|(_, tensor, needed)| *needed && !tensor.present()) {
            Some((name, ..)) => Err(BindError::Missing { name, layer: Some(i) }),
            None => Ok(()),
        }
    }

    fn check_globals(&self, globals: &mut GlobalTensors) -> Result<(), BindError> {
        if !globals.output.present() {
            globals.output = globals.token_embedding;
        }
        let factors = match self.recipe.ropes[0].factors {
            RopeFactors::None => None,
            RopeFactors::Freqs => Some("rope_freqs.weight"),
            RopeFactors::Long => Some("rope_factors_long.weight"),
            RopeFactors::Short => Some("rope_factors_short.weight"),
        };
        let needed = [
            ("token_embd.weight", &globals.token_embedding, true),
            ("output_norm.weight", &globals.output_norm, true),
            (factors.unwrap_or(""), &globals.rope_factors, factors.is_some()),
        ];
        match needed.into_iter().find(|(_, tensor, needed)| *needed && !tensor.present()) {
            Some((name, ..)) => Err(BindError::Missing { name, layer: None }),
            None => Ok(()),
        }
    }
}

/// `len` elements of a vector of F32, from element `start` on.
fn elements(vector: &TensorRef, start: u32, len: u32) -> TensorRef {
    TensorRef { offset: vector.offset + 4 * start as u64, cols: len, ..*vector }
}

#[cfg(test)]
mod tests;
