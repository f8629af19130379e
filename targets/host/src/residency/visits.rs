//! The order in which a forward pass asks for a model's tensors.

use super::{Access, Visit};
use drupe::Model;

/// The visits of one pass of `model`, for [`super::ResidencyPlan::new`]: a wrong order would cost time, not answers.
pub fn visits(model: &Model) -> Vec<Visit> {
    let globals = model.globals();
    let mut list = vec![Visit { tensor: globals.token_embedding, access: Access::Rows }];
    let mut whole = |tensor| list.push(Visit { tensor, access: Access::Whole });
    for l in model.layers() {
        [l.attn_norm, l.q, l.q_bias, l.k, l.k_bias, l.v, l.v_bias, l.q_norm, l.k_norm].into_iter().for_each(&mut whole);
        [l.out, l.out_bias, l.post_attn_norm, l.ffn_norm, l.gate, l.gate_bias, l.up, l.up_bias]
            .into_iter()
            .for_each(&mut whole);
        [l.down, l.down_bias, l.post_ffn_norm].into_iter().for_each(&mut whole);
    }
    whole(globals.output_norm);
    whole(globals.output);
    list.retain(|v| v.tensor.present());
    list
}
