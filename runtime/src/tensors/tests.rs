extern crate std;
use super::*;
use crate::gguf::hostile::tiny;
use crate::gguf::writer::Writer;
use std::{eprintln, format, fs, path::Path, string::ToString, vec, vec::Vec};

fn bind(w: &Writer) -> Result<(Vec<LayerTensors>, GlobalTensors), BindError> {
    let file = w.bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let recipe = Recipe::of(&gguf, 64).unwrap();
    let mut layers = vec![LayerTensors::default(); recipe.layers as usize];
    let globals = bind_tensors(&gguf, &recipe, &mut layers)?;
    Ok((layers, globals))
}

fn error(change: impl FnOnce(&mut Writer)) -> BindError {
    let mut w = tiny("llama");
    change(&mut w);
    let error = bind(&w).unwrap_err();
    assert!(error.to_string().len() > 10, "{error:?}");
    error
}

fn tensor<'w>(w: &'w mut Writer, name: &str) -> &'w mut crate::gguf::writer::Tensor {
    w.tensors.iter_mut().find(|t| t.name == name).unwrap()
}

#[test]
fn every_role_finds_its_tensor() {
    let mut w = tiny("gemma3");
    w.tensor("output.weight", &[8, 6]);
    for (role, len) in [("attn_q", 8), ("attn_k", 4), ("attn_v", 4), ("attn_output", 8), ("ffn_gate", 12)] {
        w.tensor(&format!("blk.1.{role}.bias"), &[len]);
    }
    w.tensor("blk.1.ffn_up.bias", &[12]).tensor("blk.1.ffn_down.bias", &[8]);
    let file = w.bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let (layers, globals) = bind(&w).unwrap();
    let named = |name: &str| gguf.tensor_ref(name).unwrap().unwrap_or_default();
    for (i, l) in layers.iter().enumerate() {
        for (role, found) in [
            ("attn_norm.weight", l.attn_norm),
            ("attn_q.weight", l.q),
            ("attn_k.weight", l.k),
            ("attn_v.weight", l.v),
            ("attn_q.bias", l.q_bias),
            ("attn_k.bias", l.k_bias),
            ("attn_v.bias", l.v_bias),
            ("attn_q_norm.weight", l.q_norm),
            ("attn_k_norm.weight", l.k_norm),
            ("attn_output.weight", l.out),
            ("attn_output.bias", l.out_bias),
            ("post_attention_norm.weight", l.post_attn_norm),
            ("ffn_norm.weight", l.ffn_norm),
            ("ffn_gate.weight", l.gate),
            ("ffn_gate.bias", l.gate_bias),
            ("ffn_up.weight", l.up),
            ("ffn_up.bias", l.up_bias),
            ("ffn_down.weight", l.down),
            ("ffn_down.bias", l.down_bias),
            ("post_ffw_norm.weight", l.post_ffn_norm),
        ] {
            assert_eq!(found, named(&format!("blk.{i}.{role}")), "{role}");
            assert_eq!(found.present(), !role.ends_with("bias") || i == 1, "{role}");
        }
    }
    assert_eq!(globals.token_embedding, named("token_embd.weight"));
    assert_eq!(globals.output_norm, named("output_norm.weight"));
    assert_eq!(globals.output, named("output.weight"));
    assert!(!globals.rope_factors.present());
}

#[test]
fn fused_tensors_are_cut_into_rows() {
    let mut w = tiny("phi3");
    w.tensor("blk.0.attn_qkv.bias", &[16]);
    let file = w.bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let (layers, _) = bind(&w).unwrap();
    let qkv = gguf.tensor_ref("blk.0.attn_qkv.weight").unwrap().unwrap();
    let up = gguf.tensor_ref("blk.0.ffn_up.weight").unwrap().unwrap();
    let bias = gguf.tensor_ref("blk.0.attn_qkv.bias").unwrap().unwrap();
    let l = layers[0];
    // Rows of 8 F32: queries have 2 heads of 4 rows, keys and values one each.
    for (found, fused, start, rows) in
        [(l.q, qkv, 0, 8), (l.k, qkv, 8, 4), (l.v, qkv, 12, 4), (l.gate, up, 0, 12), (l.up, up, 12, 12)]
    {
        let expected = TensorRef { offset: fused.offset + start * 32, rows, ..fused };
        assert_eq!(found, expected);
    }
    for (found, start, cols) in [(l.q_bias, 0, 8), (l.k_bias, 8, 4), (l.v_bias, 12, 4)] {
        assert_eq!(found, TensorRef { offset: bias.offset + start * 4, cols, ..bias });
    }
}

#[test]
fn rotary_factors_are_found_and_checked() {
    let with = |value: f32| {
        let mut w = tiny("phi3");
        w.u32("phi3.rope.scaling.original_context_length", 32);
        w.tensor("rope_factors_long.weight", &[2]).tensor("rope_factors_short.weight", &[2]);
        tensor(&mut w, "rope_factors_long.weight").data[4..].copy_from_slice(&value.to_le_bytes());
        w
    };
    let (_, globals) = bind(&with(2.0)).unwrap();
    assert_eq!((globals.rope_factors.rows, globals.rope_factors.cols), (1, 2));
    for found in [0.0, -1.0, f32::INFINITY] {
        let tensor = Label::from("rope_factors_long.weight");
        assert_eq!(bind(&with(found)).unwrap_err(), BindError::Factor { tensor, index: 1, found });
    }
    let w = with(f32::NAN);
    assert!(bind(&w).unwrap_err().to_string().contains("element 1 of tensor rope_factors_long.weight is NaN"));
}

#[test]
fn refuses_what_is_missing() {
    for (name, layer) in [
        ("attn_norm.weight", Some(1)),
        ("attn_k.weight", Some(0)),
        ("ffn_gate.weight", Some(1)),
        ("ffn_down.weight", Some(1)),
        ("output_norm.weight", None),
    ] {
        let full = layer.map_or(name.into(), |i| format!("blk.{i}.{name}"));
        let missing = error(|w| w.tensors.retain(|t| t.name != full));
        assert_eq!(missing, BindError::Missing { name, layer });
        assert_eq!(missing.to_string(), format!("tensor {full} is missing"));
    }
    let mut w = tiny("qwen3");
    w.tensors.retain(|t| t.name != "blk.1.attn_q_norm.weight");
    assert_eq!(bind(&w).unwrap_err(), BindError::Missing { name: "attn_q_norm.weight", layer: Some(1) });
}

#[test]
fn refuses_what_has_no_place() {
    for name in [
        "blk.2.attn_q.weight",
        "blk.01.attn_q.weight",
        "blk.+1.attn_q.weight",
        "blk.99999999999.attn_q.weight",
        "blk.0.attn_sinks.weight",
        "blk.0.attn_q_norm.weight",
        "blk.0.post_ffw_norm.weight",
        "output.bias",
        "rope_factors_long.weight",
        "blk.0",
        "extra",
    ] {
        let unexpected = error(|w| {
            w.tensor(name, &[8, 8]);
        });
        assert_eq!(unexpected, BindError::Unexpected { tensor: Label::from(name), family: "llama" });
    }
    // A fused tensor beside its parts.
    let found = error(|w| {
        w.tensor("blk.0.attn_qkv.weight", &[8, 16]);
    });
    assert!(matches!(found, BindError::Unexpected { .. }));
    let text = found.to_string();
    assert_eq!(text, "tensor blk.0.attn_qkv.weight has no place in a llama model with this file's keys");
}

#[test]
fn refuses_wrong_shapes_and_types() {
    let found = error(|w| {
        let t = tensor(w, "blk.1.ffn_down.weight");
        (t.dims, t.data) = (vec![12, 9], vec![0; 432]);
    });
    let expected =
        BindError::Shape { tensor: Label::from("blk.1.ffn_down.weight"), found: [12, 9, 1, 1], expected: [12, 8, 1] };
    assert_eq!(found, expected);
    assert_eq!(found.to_string(), "tensor blk.1.ffn_down.weight has shape 12 × 9; expected 12 × 8");
    let found = error(|w| tensor(w, "blk.0.attn_norm.weight").dims = vec![4, 1, 2]);
    assert_eq!(found.to_string(), "tensor blk.0.attn_norm.weight has shape 4 × 1 × 2 × 1; expected 8 × 1");
    let found = error(|w| {
        let t = tensor(w, "blk.0.attn_norm.weight");
        (t.type_id, t.data) = (1, vec![0; 16]);
    });
    let expected = BindError::NotF32 { tensor: Label::from("blk.0.attn_norm.weight"), found: Format::F16 };
    assert_eq!(found, expected);
    let found = error(|w| tensor(w, "blk.0.attn_q.weight").type_id = 24);
    let expected = GgufError::UnsupportedType { tensor: Label::from("blk.0.attn_q.weight"), found: 24 };
    assert_eq!(found, BindError::Gguf(expected));
    assert!(found.to_string().contains("I8 (24), which is not supported; supported: F32"), "{found}");
}

#[test]
fn refuses_a_table_of_another_size() {
    let file = tiny("llama").bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let recipe = Recipe::of(&gguf, 64).unwrap();
    for found in [0, 1, 3] {
        let error = bind_tensors(&gguf, &recipe, &mut vec![LayerTensors::default(); found]).unwrap_err();
        assert_eq!(error, BindError::Table { found, expected: 2 });
    }
}

#[test]
fn the_stories_models_bind() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    for name in ["stories260K-f32", "stories260K-q8_0", "stories260K-q4_0"] {
        let Ok(bytes) = fs::read(folder.join(name).with_extension("gguf")) else {
            eprintln!("skipped: {name} is not there");
            continue;
        };
        let gguf = Gguf::parse(&bytes).unwrap();
        let recipe = Recipe::of(&gguf, 128).unwrap();
        assert_eq!((recipe.family, recipe.layers, recipe.width, recipe.vocab), ("llama", 5, 64, 512));
        assert_eq!((recipe.heads, recipe.kv_heads, recipe.key_dim, recipe.ffn), (8, 4, 8, 172));
        let mut layers = vec![LayerTensors::default(); 5];
        let globals = bind_tensors(&gguf, &recipe, &mut layers).unwrap();
        assert!(globals.output.present() && layers.iter().all(|l| l.down.rows == 64 && l.down.cols == 172));
        assert_eq!(Some(layers[3].k), gguf.tensor_ref("blk.3.attn_k.weight").unwrap());
    }
}

#[test]
fn experts_are_stacked_and_nothing_else_has_a_place() {
    let (layers, _) = bind(&tiny("qwen2moe")).unwrap();
    let [first, second] = [layers[0], layers[1]];
    assert_eq!((first.gate.rows, first.gate.cols, first.down.rows, first.down.cols), (24, 8, 32, 6));
    assert_eq!((second.router.rows, second.shared_down.cols, second.shared_router.cols), (4, 10, 8));
    let text = |change: &dyn Fn(&mut Writer)| {
        let mut w = tiny("qwen2moe");
        change(&mut w);
        bind(&w).unwrap_err().to_string()
    };
    for (found, expected) in [
        (
            text(&|w| tensor(w, "blk.0.ffn_up_exps.weight").dims = [8, 6, 2].into()),
            "tensor blk.0.ffn_up_exps.weight has shape 8 × 6 × 2 × 1; expected 8 × 6 × 4",
        ),
        (
            text(&|w| w.tensors.retain(|t| t.name != "blk.1.ffn_down_shexp.weight")),
            "blk.1.ffn_down_shexp.weight is missing",
        ),
        (
            text(&|w| w.tensors.retain(|t| t.name != "blk.1.ffn_gate_inp.weight")),
            "blk.1.ffn_gate_inp.weight is missing",
        ),
        (text(&|w| _ = w.tensor("blk.0.ffn_gate.weight", &[8, 12])), "blk.0.ffn_gate.weight has no place"),
        (text(&|w| _ = w.tensor("blk.0.ffn_gate.0.weight", &[8, 6])), "blk.0.ffn_gate.0.weight has no place"),
    ] {
        assert!(found.contains(expected), "{found}, expected {expected}");
    }
    let mut dense = tiny("llama");
    dense.tensor("blk.0.ffn_gate_inp.weight", &[8, 4]);
    assert!(matches!(bind(&dense), Err(BindError::Unexpected { .. })));
}
