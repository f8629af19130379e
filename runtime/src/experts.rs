//! A feed-forward of experts ([`Experts`]): which of them each token takes, and their sum.

// Without the feature no family has experts: the buffers are empty, and nobody computes in them.
#![cfg_attr(not(feature = "experts"), allow(dead_code, unused_imports))]

use crate::forward::{Buffers, Pass, small};
use crate::quant::ActKind;
use crate::recipe::{Experts, Recipe};
use crate::session::FeedError;
use crate::tensors::LayerTensors;
use crate::weights::{Chosen, TensorRef};

/// Weights are divided by their sum, but by no less than this (the least normal f16, as models were trained).
const LEAST_SUM: f32 = 6.103_515_6e-5;

/// An expert that a token takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Choice {
    pub expert: u32,
    pub weight: f32,
}

/// A session's buffers for experts; empty for a model without.
#[derive(Default)]
pub(crate) struct ExpertBuffers<'a> {
    /// `[batch, experts]`: the router's logits.
    logits: &'a mut [f32],
    /// `[batch, used]`.
    choices: &'a mut [Choice],
    /// `[experts]`: those that any token of the batch takes, ascending.
    chosen: &'a mut [u32],
    /// `[batch]`: the tokens that take the expert at work, ascending.
    tokens: &'a mut [u32],
    /// `[batch, width]`: what goes into the expert at work for those tokens, and what comes out.
    picked: &'a mut [f32],
    /// `[batch, width]`: the sum over the experts.
    sum: &'a mut [f32],
}

/// Elements of the buffers in order, in words of 4 bytes.
fn words(recipe: &Recipe, batch: u32) -> [u64; 6] {
    let Some(e) = &recipe.experts else { return [0; 6] };
    let (batch, count, width) = (batch as u64, e.count as u64, recipe.width as u64);
    [batch * count, batch * e.used as u64 * 2, count, batch, batch * width, batch * width]
}

/// Bytes of all of them together.
pub(crate) fn bytes(recipe: &Recipe, batch: u32) -> u64 {
    4 * words(recipe, batch).iter().sum::<u64>()
}

impl<'a> ExpertBuffers<'a> {
    /// Cuts memory of [`bytes`] for `batch` tokens.
    pub fn cut(recipe: &Recipe, batch: u32, mut memory: &'a mut [u32]) -> ExpertBuffers<'a> {
        let [logits, choices, chosen, tokens, picked, sum] = words(recipe, batch).map(|n| {
            let (part, rest) = core::mem::take(&mut memory).split_at_mut(n as usize);
            memory = rest;
            part
        });
        ExpertBuffers {
            logits: bytemuck::cast_slice_mut(logits),
            choices: bytemuck::cast_slice_mut(choices),
            chosen,
            tokens,
            picked: bytemuck::cast_slice_mut(picked),
            sum: bytemuck::cast_slice_mut(sum),
        }
    }
}

/// Takes the `choices.len()` experts with the largest of `logits`; of equal ones the first.
fn choose(experts: &Experts, logits: &[f32], choices: &mut [Choice]) {
    let most = logits.iter().fold(f32::NEG_INFINITY, |m, l| m.max(*l));
    let total: f32 = logits.iter().map(|l| libm::expf(l - most)).sum();
    let mut kept = 0.0;
    for i in 0..choices.len() {
        let (taken, rest) = choices.split_at_mut(i);
        let mut best: Option<(usize, f32)> = None;
        for (e, l) in logits.iter().enumerate() {
            let larger = best.is_none_or(|(_, most)| *l > most);
            if larger && taken.iter().all(|c| c.expert != e as u32) {
                best = Some((e, *l));
            }
        }
        let (expert, logit) = best.unwrap_or((0, f32::NEG_INFINITY));
        let weight = libm::expf(logit - most) / total;
        kept += weight;
        rest[0] = Choice { expert: expert as u32, weight };
    }
    let scale = if experts.normed { experts.scale / kept.max(LEAST_SUM) } else { experts.scale };
    choices.iter_mut().for_each(|c| c.weight *= scale);
}

#[cfg(feature = "experts")]
impl Pass<'_, '_> {
    /// `stream += Σ weight_e · down_e(f(gate_e(x)) · up_e(x))`, `x = norm(stream)`, of layer `i`.
    ///
    /// Expert by expert, each with all the tokens that take it, so that its weights are read once for a batch. A token's
    /// experts are added in the order of their numbers: its sum does not depend on the batch that it is in.
    pub(crate) fn experts(&mut self, i: usize, experts: &Experts, b: &mut Buffers) -> Result<(), FeedError> {
        let model = self.model;
        let (recipe, tensors, kernels) = (&model.plan.recipe, &model.layers[i], &model.kernels);
        let (n, width) = (self.crew.n, recipe.width as usize);
        let (count, used) = (experts.count as usize, experts.used as usize);
        let x = self.input(&tensors.ffn_norm, b.stream, width, b.normed)?;

        self.linear(&tensors.router, x, b.acts, None, b.experts.logits, b.scratch)?;
        let ExpertBuffers { logits, choices, chosen, tokens, picked, sum } = &mut b.experts;
        self.crew.for_tokens(choices, used, |t, choices| choose(experts, &logits[t * count..][..count], choices));
        let choices = &choices[..n * used];
        let mut any = 0;
        for e in 0..experts.count {
            if choices.iter().any(|c| c.expert == e) {
                chosen[any] = e;
                any += 1;
            }
        }
        let matrices = [tensors.gate, tensors.up, tensors.down];
        self.weights.expect(&Chosen { matrices, count: experts.count, chosen: &chosen[..any] });

        sum[..n * width].fill(0.0);
        // What all tokens take comes first: the others may be on their way from storage.
        if experts.shared_ffn > 0 {
            picked[..n * width].copy_from_slice(&x[..n * width]);
            let LayerTensors { shared_gate, shared_up, shared_down, shared_router, .. } = *tensors;
            self.expert([shared_gate, shared_up, shared_down], picked, b.inner, b.acts, b.scratch)?;
            let router = small(self.weights, &shared_router)?;
            let picked = &*picked;
            self.crew.for_tokens(sum, width, |t, sum| {
                let x = x[t * width..][..width].iter().zip(router.as_chunks::<4>().0);
                let logit: f32 = x.map(|(x, w)| x * f32::from_le_bytes(*w)).sum();
                let gate = if experts.shared_gate { 1.0 / (1.0 + libm::expf(-logit)) } else { 1.0 };
                kernels.add_scaled(sum, &picked[t * width..][..width], gate);
            });
        }
        for &e in &chosen[..any] {
            let weight = |t: usize| choices[t * used..][..used].iter().find(|c| c.expert == e).map(|c| c.weight);
            let mut taking = 0;
            for t in (0..n).filter(|t| weight(*t).is_some()) {
                tokens[taking] = t as u32;
                picked[taking * width..][..width].copy_from_slice(&x[t * width..][..width]);
                taking += 1;
            }
            let part = |t: &TensorRef| {
                let rows = t.rows / experts.count;
                t.slice(e * rows..(e + 1) * rows)
            };
            self.crew.n = taking;
            self.expert(matrices.each_ref().map(part), picked, b.inner, b.acts, b.scratch)?;
            self.crew.n = n;
            let (tokens, picked) = (&tokens[..taking], &*picked);
            self.crew.for_tokens(sum, width, |t, sum| {
                if let (Ok(at), Some(weight)) = (tokens.binary_search(&(t as u32)), weight(t)) {
                    kernels.add_scaled(sum, &picked[at * width..][..width], weight);
                }
            });
        }
        self.join(&tensors.post_ffn_norm, b.stream, b.experts.sum, b.inner)
    }

    /// `x = down(f(gate(x)) · up(x))`.
    fn expert(
        &mut self,
        [gate, up, down]: [TensorRef; 3],
        x: &mut [f32],
        inner: &mut [f32],
        acts: &mut [u8],
        scratch: &mut [u8],
    ) -> Result<(), FeedError> {
        let f = self.model.plan.recipe.activation;
        self.linear(&gate, x, acts, None, inner, scratch)?;
        let kind = ActKind::of(up.format());
        if kind != ActKind::of(gate.format()) {
            self.quantize(kind, x, up.cols as usize, acts);
        }
        self.matrix(&up, acts, Some(f), inner, scratch)?;
        self.linear(&down, inner, acts, None, x, scratch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPERTS: Experts =
        Experts { count: 5, used: 2, shared_ffn: 0, shared_gate: false, normed: false, scale: 1.0 };

    fn chosen<const N: usize>(experts: &Experts, logits: &[f32]) -> [Choice; N] {
        let mut choices = [Choice::default(); N];
        choose(experts, logits, &mut choices);
        choices
    }

    #[test]
    fn the_largest_are_taken_by_their_share_of_the_softmax() {
        let logits = [0.0, 3.0, -1.0, 2.0, 3.0];
        let total: f32 = logits.iter().map(|l: &f32| libm::expf(*l)).sum();
        let [a, b] = chosen(&EXPERTS, &logits);
        assert_eq!((a.expert, b.expert), (1, 4));
        assert!((a.weight - libm::expf(3.0) / total).abs() < 1e-6 && a.weight == b.weight);
        let [a, b, c] = chosen(&Experts { normed: true, scale: 2.5, ..EXPERTS }, &logits);
        assert_eq!((a.expert, b.expert, c.expert), (1, 4, 3));
        assert!((a.weight + b.weight + c.weight - 2.5).abs() < 1e-6);
    }

    #[test]
    fn whatever_the_logits_different_experts_are_taken() {
        for logits in [[f32::NAN; 5], [f32::INFINITY; 5], [f32::NEG_INFINITY; 5], [0.0, f32::NAN, 1.0, f32::NAN, 2.0]] {
            let mut found = chosen::<5>(&Experts { used: 5, ..EXPERTS }, &logits).map(|c| c.expert);
            found.sort_unstable();
            assert_eq!(found, [0, 1, 2, 3, 4], "{logits:?}");
        }
    }
}
