//! The order in which a forward pass asks for a model's tensors.

use super::{Access, Visit};
use drupe::Model;
use drupe::weights::TensorRef;

/// The visits of one pass of `model`, for [`super::ResidencyPlan::new`]: a wrong order would cost time, not answers.
pub fn visits(model: &Model) -> Vec<Visit> {
    let globals = model.globals();
    let mut list = vec![Visit { tensor: globals.token_embedding, access: Access::Rows }];
    let mut visit = |tensor: TensorRef, access| list.push(Visit { tensor, access });
    let matrices = match &model.recipe().experts {
        Some(e) => Access::Experts { count: e.count, used: e.used },
        None => Access::Whole,
    };
    for l in model.layers() {
        let mut whole = |tensor| visit(tensor, Access::Whole);
        [l.attn_norm, l.q, l.q_bias, l.k, l.k_bias, l.v, l.v_bias, l.q_norm, l.k_norm].into_iter().for_each(&mut whole);
        [l.out, l.out_bias, l.post_attn_norm, l.ffn_norm, l.router].into_iter().for_each(&mut whole);
        for (tensor, access) in [
            (l.gate, matrices),
            (l.gate_bias, Access::Whole),
            (l.up, matrices),
            (l.up_bias, Access::Whole),
            (l.down, matrices),
            (l.down_bias, Access::Whole),
        ] {
            visit(tensor, access);
        }
        let mut whole = |tensor| visit(tensor, Access::Whole);
        [l.shared_gate, l.shared_up, l.shared_down, l.shared_router, l.post_ffn_norm].into_iter().for_each(&mut whole);
    }
    visit(globals.output_norm, Access::Whole);
    visit(globals.output, Access::Whole);
    list.retain(|v| v.tensor.present());
    list
}
