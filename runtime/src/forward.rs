//! The forward pass: one batch of tokens through every layer, in the order of the papers.
//!
//! Each step is a closure that the whole team runs ([`crate::team`]); its return is the barrier. With one token the
//! short elementwise steps run on the calling thread alone: they cost less than a barrier.

use crate::angles::{Angles, At};
use crate::attention::Attention;
use crate::experts::ExpertBuffers;
use crate::kv::KvShape;
use crate::model::Model;
use crate::quant::{ActKind, Acts, Chunks, Tiles, Unary, oracle};
use crate::recipe::Norm;
use crate::session::FeedError;
use crate::team::Team;
use crate::weights::{TensorRef, Weights};

/// A session's buffers; shapes are of a whole batch.
pub(crate) struct Buffers<'a> {
    /// All layers' keys and values.
    pub cache: &'a mut [u8],
    /// `[batch, width]`: the residual stream.
    pub stream: &'a mut [f32],
    /// `[batch, max(width, heads · key_dim, heads · value_dim)]`: what goes into a matrix, what comes out of a mixer.
    pub normed: &'a mut [f32],
    /// Attention: `q [batch, heads · key_dim] | k | v | out [batch, heads · value_dim]`. Feed-forward: `[batch, ffn]`.
    /// At least `[batch, width]`.
    pub inner: &'a mut [f32],
    /// Quantised activations of a batch.
    pub acts: &'a mut [u8],
    /// Partial results of split attention.
    pub partial: &'a mut [f32],
    /// `[logits, vocab]`.
    pub logits: &'a mut [f32],
    /// For a feed-forward of experts.
    #[cfg_attr(not(feature = "experts"), allow(dead_code))]
    pub experts: ExpertBuffers<'a>,
    /// Every worker's scratch.
    pub scratch: &'a mut [u8],
}

/// The workers and the number of tokens that they work on.
#[derive(Clone, Copy)]
pub(crate) struct Crew<'s> {
    pub team: &'s dyn Team,
    pub n: usize,
}

impl Crew<'_> {
    /// Calls `f(token, row)` for each of the batch's rows of `width` elements.
    pub(crate) fn for_tokens<T: Send>(&self, rows: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let rows = &mut rows[..self.n * width];
        if self.n == 1 || width == 0 {
            return f(0, rows);
        }
        let chunks = Chunks::new(rows, width);
        self.team.run(&|_| {
            while let Some((t, row)) = chunks.claim() {
                f(t, row);
            }
        });
    }
}

/// One pass over one batch.
pub(crate) struct Pass<'s, 'a> {
    pub model: &'s Model<'a>,
    pub crew: Crew<'s>,
    pub weights: &'s mut dyn Weights,
    /// Asked before every [`stretch`] of every matrix; true ends the pass with [`FeedError::Cancelled`].
    pub cancelled: &'s dyn Fn() -> bool,
    /// Position of the batch's first token.
    pub first: u64,
    /// Whether a pass went through before: its weights may still be in memory.
    pub warm: bool,
}

/// Bytes of weights that go by, at most, before the caller is asked again whether to stop: such that this is a tenth of a
/// second. In a session's first pass they may have to come from storage of 20 MB/s; later four Cortex-A53 multiply that
/// many with 48 tokens. Shorter stretches would cost more: each rearranges the activations and waits for all workers.
fn stretch(warm: bool, tokens: usize) -> usize {
    let bytes = if warm { 16 << 20 } else { 2 << 20 };
    bytes / tokens.div_ceil(48).max(1)
}

/// A small tensor's bytes, whole; empty if the model does not have it.
pub(crate) fn small<'w>(weights: &'w mut dyn Weights, t: &TensorRef) -> Result<&'w [u8], FeedError> {
    if t.present() { Ok(weights.rows(t, 0..t.rows)?) } else { Ok(&[]) }
}

impl Pass<'_, '_> {
    /// Runs the batch `tokens` through all layers; the residual stream is left in `b.stream`. `table` takes the rotary
    /// angles.
    pub fn run(&mut self, tokens: &[u32], table: &mut [f32], b: &mut Buffers) -> Result<(), FeedError> {
        let model = self.model;
        let (recipe, config) = (&model.plan.recipe, &model.plan.config);
        self.weights.begin();
        self.embed(tokens, b.stream)?;
        let angles = Angles::fill(recipe, model.frequencies, table, config.batch, config.ctx, self.first, self.crew.n);
        for i in 0..model.layers.len() {
            self.attention(i, &angles, b)?;
            match &recipe.experts {
                #[cfg(feature = "experts")]
                Some(experts) => self.experts(i, experts, b)?,
                _ => self.feed_forward(i, b)?,
            }
        }
        Ok(())
    }

    /// Logits `[count, vocab]` of the batch's tokens from `t` on, into `b.logits`.
    pub fn head(&mut self, t: usize, count: usize, b: &mut Buffers) -> Result<(), FeedError> {
        let model = self.model;
        let recipe = &model.plan.recipe;
        let (width, vocab) = (recipe.width as usize, recipe.vocab as usize);
        self.crew.n = count;
        let logits = &mut b.logits[..count * vocab];
        self.norm(&model.globals.output_norm, &b.stream[t * width..], width, b.normed)?;
        self.linear(&model.globals.output, b.normed, b.acts, None, logits, b.scratch)?;
        let (scale, cap) = (recipe.logit_scale, recipe.logit_soft_cap);
        if scale != 1.0 || cap > 0.0 {
            for v in logits {
                *v *= scale;
                if cap > 0.0 {
                    *v = cap * libm::tanhf(*v / cap);
                }
            }
        }
        Ok(())
    }

    /// `stream[t] = embedding[tokens[t]] · scale`.
    fn embed(&mut self, tokens: &[u32], stream: &mut [f32]) -> Result<(), FeedError> {
        let recipe = &self.model.plan.recipe;
        let table = &self.model.globals.token_embedding;
        for (&id, x) in tokens.iter().zip(stream.chunks_exact_mut(recipe.width as usize)) {
            // Each row may have to come from storage.
            if (self.cancelled)() {
                return Err(FeedError::Cancelled);
            }
            let row = self.weights.rows(table, id..id + 1)?;
            oracle::dequantize(table.format(), row, x);
            if recipe.embedding_scale != 1.0 {
                x.iter_mut().for_each(|v| *v *= recipe.embedding_scale);
            }
        }
        Ok(())
    }

    /// `stream += out(attention(norm(stream)))` of layer `i`.
    fn attention(&mut self, i: usize, angles: &Angles, b: &mut Buffers) -> Result<(), FeedError> {
        let model = self.model;
        let (recipe, tensors, shape) = (&model.plan.recipe, &model.layers[i], model.shapes[i]);
        let (n, width) = (self.crew.n, recipe.width as usize);
        let (heads, kv_heads) = (recipe.heads as usize, recipe.kv_heads as usize);
        let (kd, vd) = (recipe.key_dim as usize, recipe.value_dim as usize);

        let batch = model.plan.config.batch as usize;
        let (q, rest) = b.inner.split_at_mut(batch * heads * kd);
        let (k, rest) = rest.split_at_mut(batch * kv_heads * kd);
        let (v, mixed) = rest.split_at_mut(batch * kv_heads * vd);

        let input = self.input(&tensors.attn_norm, b.stream, width, b.normed)?;
        let mut acts = None;
        for (weight, bias, out) in [
            (&tensors.q, &tensors.q_bias, &mut *q),
            (&tensors.k, &tensors.k_bias, &mut *k),
            (&tensors.v, &tensors.v_bias, &mut *v),
        ] {
            let kind = ActKind::of(weight.format());
            if acts != Some(kind) {
                self.quantize(kind, input, width, b.acts);
                acts = Some(kind);
            }
            self.matrix(weight, b.acts, None, out, b.scratch)?;
            self.add_bias(bias, out, weight.rows as usize)?;
        }
        if recipe.qk_norm {
            let (q_norm, k_norm) = recipe.qk_norm_dims();
            self.norm_heads(&tensors.q_norm, q, heads * kd, q_norm as usize, b.normed)?;
            self.norm_heads(&tensors.k_norm, k, kv_heads * kd, k_norm as usize, b.normed)?;
        }

        let bytes = (shape.bytes(recipe).unwrap_or(0)) as usize;
        let cache = &mut b.cache[shape.offset as usize..][..bytes];
        let layer = recipe.layer(i as u32);
        self.store(layer.rope, &shape, angles, k, v, cache, b.scratch);
        Attention {
            recipe,
            layer,
            shape,
            format: model.plan.config.kv,
            kernels: &model.kernels,
            angles,
            cache,
            q,
            first: self.first,
            n,
        }
        .run(self.crew.team, b.scratch, self.each(), b.partial, mixed);

        self.linear(&tensors.out, mixed, b.acts, None, b.normed, b.scratch)?;
        self.add_bias(&tensors.out_bias, b.normed, width)?;
        self.join(&tensors.post_attn_norm, b.stream, b.normed, b.inner)
    }

    /// `stream += down(f(gate(x)) · up(x))`, `x = norm(stream)`, of layer `i`.
    fn feed_forward(&mut self, i: usize, b: &mut Buffers) -> Result<(), FeedError> {
        let model = self.model;
        let (recipe, tensors) = (&model.plan.recipe, &model.layers[i]);
        let (width, f) = (recipe.width as usize, recipe.activation);
        let input = self.input(&tensors.ffn_norm, b.stream, width, b.normed)?;
        let inner = &mut *b.inner;
        let first = if recipe.gated { &tensors.gate } else { &tensors.up };
        self.linear(first, input, b.acts, None, inner, b.scratch)?;
        if recipe.gated {
            let input = if recipe.pre_norm { &*b.normed } else { &*b.stream };
            let kind = ActKind::of(tensors.up.format());
            if kind != ActKind::of(tensors.gate.format()) {
                self.quantize(kind, input, width, b.acts);
            }
            self.matrix(&tensors.up, b.acts, Some(f), inner, b.scratch)?;
        } else {
            self.add_bias(&tensors.up_bias, inner, recipe.ffn as usize)?;
            let kernels = model.kernels;
            self.crew.for_tokens(inner, recipe.ffn as usize, |_, x| kernels.unary(f, x));
        }
        self.linear(&tensors.down, inner, b.acts, None, b.normed, b.scratch)?;
        self.add_bias(&tensors.down_bias, b.normed, width)?;
        self.join(&tensors.post_ffn_norm, b.stream, b.normed, b.inner)
    }

    /// Bytes of one worker's scratch.
    fn each(&self) -> usize {
        self.model.plan.sizes.scratch_bytes as usize
    }

    /// What a block reads: the normed stream, or the stream itself where the family norms only what a block adds.
    pub(crate) fn input<'x>(
        &mut self,
        weight: &TensorRef,
        stream: &'x [f32],
        width: usize,
        normed: &'x mut [f32],
    ) -> Result<&'x [f32], FeedError> {
        if !self.model.plan.recipe.pre_norm {
            return Ok(stream);
        }
        self.norm(weight, stream, width, normed)?;
        Ok(normed)
    }

    /// `stream += scale · x`, `x` normed first (into `spare`) where the family does so.
    pub(crate) fn join(
        &mut self,
        post_norm: &TensorRef,
        stream: &mut [f32],
        x: &[f32],
        spare: &mut [f32],
    ) -> Result<(), FeedError> {
        let recipe = &self.model.plan.recipe;
        let (kernels, width) = (&self.model.kernels, recipe.width as usize);
        let x = if recipe.post_norm {
            self.norm(post_norm, x, width, spare)?;
            &*spare
        } else {
            x
        };
        self.crew.for_tokens(stream, width, |t, stream| {
            kernels.add_scaled(stream, &x[t * width..][..width], recipe.residual_scale);
        });
        Ok(())
    }

    /// `out = norm(x)`, row by row of `width`.
    fn norm(&mut self, weight: &TensorRef, x: &[f32], width: usize, out: &mut [f32]) -> Result<(), FeedError> {
        let (recipe, kernels) = (&self.model.plan.recipe, &self.model.kernels);
        let w = small(self.weights, weight)?;
        self.crew.for_tokens(out, width, |t, out| {
            let x = &x[t * width..][..width];
            match recipe.norm {
                Norm::Rms => kernels.rms_norm(x, w, recipe.norm_eps, out),
                Norm::Layer => kernels.layer_norm(x, w, &[], recipe.norm_eps, out),
            }
        });
        Ok(())
    }

    /// RMS-norms each `dim` elements of rows of `width`, by way of `spare`.
    fn norm_heads(
        &mut self,
        weight: &TensorRef,
        x: &mut [f32],
        width: usize,
        dim: usize,
        spare: &mut [f32],
    ) -> Result<(), FeedError> {
        let (recipe, kernels) = (&self.model.plan.recipe, &self.model.kernels);
        let w = small(self.weights, weight)?;
        let all = &*x;
        self.crew.for_tokens(spare, width, |t, out| {
            let heads = all[t * width..][..width].chunks_exact(dim).zip(out.chunks_exact_mut(dim));
            heads.for_each(|(head, out)| kernels.rms_norm(head, w, recipe.norm_eps, out));
        });
        x[..self.crew.n * width].copy_from_slice(&spare[..self.crew.n * width]);
        Ok(())
    }

    /// Adds a bias `[width]`, f32, to each row; nothing if the model does not have it.
    fn add_bias(&mut self, bias: &TensorRef, rows: &mut [f32], width: usize) -> Result<(), FeedError> {
        let bytes = small(self.weights, bias)?;
        for row in rows.chunks_exact_mut(width.max(1)).take(self.crew.n) {
            for (x, b) in row.iter_mut().zip(bytes.chunks_exact(4)) {
                *x += f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Ok(())
    }

    /// Rotates the keys at their positions and stores keys and values. Workers take a KV head each.
    #[allow(clippy::too_many_arguments)]
    fn store(
        &self,
        rope: Option<usize>,
        shape: &KvShape,
        angles: &Angles,
        k: &[f32],
        v: &[f32],
        cache: &mut [u8],
        scratch: &mut [u8],
    ) {
        let (recipe, kernels) = (&self.model.plan.recipe, &self.model.kernels);
        let (format, first, n) = (self.model.plan.config.kv, self.first, self.crew.n);
        let heads = recipe.kv_heads as usize;
        let (kd, vd) = (recipe.key_dim as usize, recipe.value_dim as usize);
        let slot = |t: usize, bytes: usize| {
            let start = shape.slot(first + t as u64) as usize * bytes;
            start..start + bytes
        };
        let (keys, values) = cache.split_at_mut(shape.key_head_bytes as usize * heads);
        let key_heads = Chunks::new(keys, shape.key_head_bytes as usize);
        let value_heads = Chunks::new(values, shape.value_head_bytes as usize);
        let slots = Chunks::new(scratch, self.each());
        let job = |_: usize| {
            let Some((_, scratch)) = slots.claim() else { return };
            let key: &mut [f32] = bytemuck::cast_slice_mut(&mut scratch[..4 * kd]);
            while let Some((head, out)) = key_heads.claim() {
                for t in 0..n {
                    key.copy_from_slice(&k[(t * heads + head) * kd..][..kd]);
                    if let Some(rope) = rope {
                        let (cos, sin) = angles.of(rope, At::Text, t);
                        kernels.rope(recipe.ropes[rope].kind, key, cos, sin);
                    }
                    kernels.store_kv(format, key, &mut out[slot(t, format.head_bytes(kd).unwrap_or(0))]);
                }
            }
            while let Some((head, out)) = value_heads.claim() {
                for t in 0..n {
                    let v = &v[(t * heads + head) * vd..][..vd];
                    kernels.store_kv(format, v, &mut out[slot(t, format.head_bytes(vd).unwrap_or(0))]);
                }
            }
        };
        if n == 1 { job(0) } else { self.crew.team.run(&job) }
    }

    /// Quantises rows `[n, cols]`.
    pub(crate) fn quantize(&self, kind: ActKind, x: &[f32], cols: usize, acts: &mut [u8]) {
        let kernels = &self.model.kernels;
        self.crew.for_tokens(acts, kind.stride(cols), |t, record| {
            kernels.quantize_act(kind, &x[t * cols..][..cols], record);
        });
    }

    /// [`Pass::quantize`] as `tensor` wants it, then [`Pass::matrix`].
    pub(crate) fn linear(
        &mut self,
        tensor: &TensorRef,
        x: &[f32],
        acts: &mut [u8],
        gate: Option<Unary>,
        out: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), FeedError> {
        self.quantize(ActKind::of(tensor.format()), x, tensor.cols as usize, acts);
        self.matrix(tensor, acts, gate, out, scratch)
    }

    /// `out[t][r] = tensor[r] · acts[t]`, `out` being `[n, tensor.rows]`. With `gate`, `out` is multiplied instead:
    /// `out[t][r] = f(out[t][r]) · (tensor[r] · acts[t])`.
    pub(crate) fn matrix(
        &mut self,
        tensor: &TensorRef,
        acts: &[u8],
        gate: Option<Unary>,
        out: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), FeedError> {
        let (format, width, row_bytes) = (tensor.format(), tensor.rows as usize, tensor.row_bytes());
        let (kernels, each) = (&self.model.kernels, self.each());
        let Some(acts) = Acts::new(ActKind::of(format), self.crew.n, tensor.cols as usize, acts) else {
            return Err(FeedError::Internal("the activation buffer does not fit its plan"));
        };
        let at_once =
            (stretch(self.warm, self.crew.n) / row_bytes.max(1)).next_multiple_of(64).clamp(64, width.max(64));
        let chunk = kernels.row_chunk(format, width.min(at_once), acts.cols, self.crew.n);
        let own = kernels.matmul_scratch(format, acts.cols, self.crew.n);
        // With a gate a worker's scratch holds its tile too.
        let most = if gate.is_some() { each.saturating_sub(own) / 4 / self.crew.n.max(1) } else { usize::MAX };
        let mut row = 0;
        while row < tensor.rows {
            if (self.cancelled)() {
                return Err(FeedError::Cancelled);
            }
            let bytes = self.weights.rows(tensor, row..tensor.rows.min(row.saturating_add(at_once as u32)))?;
            let got = bytes.len() / row_bytes.max(1);
            let (Some(tiles), true) = (Tiles::new(out, self.crew.n, width, row as usize, got, chunk), got > 0) else {
                return Err(FeedError::Internal("a source of weights handed out no whole row"));
            };
            let tiles = tiles.tapering(self.crew.team.workers(), most);
            let slots = Chunks::new(scratch, each);
            self.crew.team.run(&|_| {
                let Some((_, scratch)) = slots.claim() else { return };
                while let Some(mut tile) = tiles.claim() {
                    let rows = tile.rows();
                    let w = &bytes[rows.start * row_bytes..rows.end * row_bytes];
                    let Some(f) = gate else {
                        kernels.matmul(format, w, &acts, &mut tile, scratch);
                        continue;
                    };
                    let (scratch, factor) = scratch.split_at_mut(own);
                    let factor: &mut [f32] = bytemuck::cast_slice_mut(factor);
                    let inner = Tiles::new(factor, tile.tokens(), rows.len(), 0, rows.len(), rows.len());
                    let Some(mut inner) = inner.and_then(|t| t.claim()) else { continue };
                    kernels.matmul(format, w, &acts, &mut inner, scratch);
                    for t in 0..tile.tokens() {
                        kernels.gated(f, tile.row_mut(t), inner.row_mut(t));
                    }
                }
            });
            row += got as u32;
        }
        Ok(())
    }
}
