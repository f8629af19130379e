extern crate std;
use super::{RecipeError, names};
use crate::gguf::Gguf;
use crate::gguf::hostile::tiny;
use crate::gguf::writer::Writer;
use crate::label::Label;
use crate::quant::{RopeKind, Unary};
use crate::recipe::*;
use std::{format, string::ToString, vec::Vec};

fn recipe_at(w: &Writer, ctx: u32) -> Result<Recipe, RecipeError> {
    let file = w.bytes();
    Recipe::of(&Gguf::parse(&file).unwrap(), ctx)
}

fn recipe(w: &Writer) -> Recipe {
    recipe_at(w, 64).unwrap()
}

fn error(w: &Writer) -> RecipeError {
    let error = recipe_at(w, 64).unwrap_err();
    assert!(error.to_string().len() > 10, "{error:?}");
    error
}

/// A tiny model of the family, with this done to it.
fn changed(family: &str, change: impl FnOnce(&mut Writer) -> &mut Writer) -> Writer {
    let mut w = tiny(family);
    if family.starts_with("granite") {
        w.f32(&format!("{family}.logit_scale"), 8.0);
    }
    change(&mut w);
    w
}

fn plain(family: &str) -> Recipe {
    recipe(&changed(family, |w| w))
}

fn windows(recipe: &Recipe, layers: u32) -> Vec<u32> {
    (0..layers).map(|i| recipe.layer(i).window.unwrap_or(0)).collect()
}

/// The model with another number of layers, all alike.
fn layers(family: &str, layers: u32) -> Writer {
    changed(family, |w| w.without(&format!("{family}.block_count")).u32(&format!("{family}.block_count"), layers))
}

#[test]
fn llama_is_the_plain_one() {
    let r = plain("llama");
    assert_eq!((r.family, r.layers, r.width, r.vocab, r.train_ctx), ("llama", 2, 8, 6, 64));
    assert_eq!((r.heads, r.kv_heads, r.key_dim, r.value_dim, r.ffn), (2, 1, 4, 4, 12));
    assert_eq!((r.norm, r.norm_eps, r.pre_norm, r.post_norm, r.qk_norm), (Norm::Rms, 1e-5, true, false, false));
    assert_eq!((r.activation, r.gated, r.mask), (Unary::Silu, true, Mask::Causal));
    assert_eq!((r.attention_scale, r.attention_soft_cap, r.logit_soft_cap), (0.5, 0.0, 0.0));
    assert_eq!((r.embedding_scale, r.residual_scale, r.logit_scale), (1.0, 1.0, 1.0));
    assert_eq!((r.windows, r.nope_period), (Windows::None, 0));
    let rope = Rope {
        dims: 4,
        kind: RopeKind::Norm,
        base: 10000.0,
        scaling: RopeScaling::None,
        factors: RopeFactors::None,
        magnitude: 1.0,
    };
    assert_eq!(r.ropes, [rope; 2]);
    assert_eq!(r.layer(1), Layer { window: None, rope: Some(0) });
}

#[test]
fn the_families_differ_in_what_they_should() {
    let base = plain("llama");
    let neox = [Rope { kind: RopeKind::Neox, ..base.ropes[0] }; 2];
    let experts = Experts { count: 4, used: 2, shared_ffn: 0, shared_gate: false, normed: true, scale: 1.0 };
    for family in names() {
        let r = plain(family);
        let expected = match family {
            "qwen2moe" => {
                let experts = Experts { shared_ffn: 10, shared_gate: true, normed: false, ..experts };
                Recipe { family, ropes: neox, ffn: 6, experts: Some(experts), ..base }
            }
            "qwen3moe" => Recipe { family, ropes: neox, ffn: 6, qk_norm: true, experts: Some(experts), ..base },
            "olmoe" => {
                let experts = Experts { normed: false, ..experts };
                Recipe {
                    family,
                    ropes: neox,
                    ffn: 6,
                    qk_norm: true,
                    qk_norm_whole: true,
                    experts: Some(experts),
                    ..base
                }
            }
            "granitemoe" => {
                let experts = Experts { shared_ffn: 10, ..experts };
                Recipe { family, ffn: 6, logit_scale: 0.125, experts: Some(experts), ..base }
            }
            "llama" => base,
            "qwen2" | "phi3" => Recipe { family, ropes: neox, ..base },
            "qwen3" => Recipe { family, ropes: neox, qk_norm: true, ..base },
            "smollm3" => Recipe { family, nope_period: 4, ..base },
            "granite" => Recipe { family, logit_scale: 0.125, ..base },
            _ => {
                let gemma = Recipe {
                    family,
                    ropes: neox,
                    activation: Unary::Gelu,
                    embedding_scale: libm::sqrtf(8.0),
                    post_norm: family != "gemma",
                    ..base
                };
                match family {
                    "gemma" => gemma,
                    "gemma2" => Recipe {
                        attention_soft_cap: 50.0,
                        logit_soft_cap: 30.0,
                        windows: Windows::Period { window: 4096, period: 2 },
                        ..gemma
                    },
                    _ => Recipe { qk_norm: true, ..gemma },
                }
            }
        };
        assert_eq!(r, expected, "{family}");
    }
}

#[test]
fn experts_are_read_and_checked() {
    let with = |family: &'static str, sizes: &[(&str, u32)]| {
        changed(family, |w| {
            for (key, value) in sizes {
                let key = format!("{family}.{key}");
                *w = w.without(&key).clone();
                w.u32(&key, *value);
            }
            w
        })
    };
    // Mixtral: experts as wide as its feed-forward.
    let mixtral = recipe(&with("llama", &[("expert_count", 4), ("expert_used_count", 2)]));
    let experts = Experts { count: 4, used: 2, shared_ffn: 0, shared_gate: false, normed: true, scale: 1.0 };
    assert_eq!(mixtral, Recipe { ffn: 12, experts: Some(experts), ..plain("llama") });
    // Qwen's share the width of the whole, unless the file says how wide they are.
    let none = |family: &str, key: &str| changed(family, |w| w.without(&format!("{family}.{key}")));
    assert_eq!(recipe(&none("qwen3moe", "expert_feed_forward_length")).ffn, 6);
    assert_eq!(recipe(&with("qwen3moe", &[("expert_used_count", 3)])).ffn, 6);
    let alone = recipe(&none("qwen2moe", "expert_shared_feed_forward_length"));
    assert_eq!(alone.experts.unwrap().shared_ffn, 12);
    let scaled = changed("olmoe", |w| w.f32("olmoe.expert_weights_scale", 2.5));
    assert_eq!(recipe(&scaled).experts.unwrap().scale, 2.5);
    for (w, text) in [
        (none("qwen3moe", "expert_count"), "qwen3moe.expert_count is missing"),
        (with("olmoe", &[("expert_count", 0)]), "olmoe.expert_count is 0; expected 1 to 1024"),
        (with("olmoe", &[("expert_used_count", 5)]), "olmoe.expert_used_count is 5; expected 1 to 4"),
        (with("olmoe", &[("expert_used_count", 0)]), "olmoe.expert_used_count is 0; expected 1 to 4"),
        (with("olmoe", &[("expert_gating_func", 2)]), "olmoe.expert_gating_func is another function, which is not"),
        (changed("olmoe", |w| w.bool("olmoe.expert_weights_norm", true)), "olmoe.expert_weights_norm is not this"),
        (with("olmoe", &[("expert_feed_forward_length", u32::MAX)]), "olmoe.expert_feed_forward_length is 4294967295"),
        (
            with("llama", &[("expert_count", 4), ("expert_used_count", 9)]),
            "llama.expert_used_count is 9; expected 1 to 4",
        ),
    ] {
        let found = error(&w).to_string();
        assert!(found.contains(text), "{found}, expected {text}");
    }
}

#[test]
fn windows_follow_their_patterns() {
    let key = |family: &str, key: &str| format!("{family}.attention.sliding_window{key}");
    for family in ["llama", "phi3"] {
        let w = changed(family, |w| w.u32(&key(family, ""), 5));
        assert_eq!(windows(&recipe(&w), 2), [5, 5]);
        assert_eq!(recipe(&w).layer(0).rope, Some(1));
        let w = changed(family, |w| w.u32(&key(family, ""), 0));
        assert_eq!(windows(&recipe(&w), 2), [0, 0]);
    }
    let mut w = layers("gemma2", 4);
    assert_eq!(windows(&recipe(&w), 4), [4096, 0, 4096, 0]);
    w.u32(&key("gemma2", ""), 7);
    assert_eq!(windows(&recipe(&w), 4), [7, 0, 7, 0]);
    let mut w = layers("gemma3", 8);
    assert_eq!(windows(&recipe(&w), 8), [0; 8]);
    w.u32(&key("gemma3", ""), 512);
    assert_eq!(windows(&recipe(&w), 8), [512, 512, 512, 512, 512, 0, 512, 512]);
    let mut by_number = w.clone();
    by_number.u32(&key("gemma3", "_pattern"), 3);
    assert_eq!(windows(&recipe(&by_number), 8), [512, 512, 0, 512, 512, 0, 512, 512]);
    let mut all = w.clone();
    all.u32(&key("gemma3", "_pattern"), 0);
    assert_eq!(windows(&recipe(&all), 8), [512; 8]);
    w.array(&key("gemma3", "_pattern"), 7, 8, &[1, 0, 0, 1, 1, 0, 0, 1]);
    assert_eq!(windows(&recipe(&w), 8), [512, 0, 0, 512, 512, 0, 0, 512]);
    let short = changed("gemma3", |w| w.u32(&key("gemma3", ""), 5).array(&key("gemma3", "_pattern"), 7, 1, &[1]));
    let pattern = ("gemma3", "attention.sliding_window_pattern").into();
    assert_eq!(error(&short), RecipeError::Length { key: pattern, found: 1, expected: 2 });
}

#[test]
fn smollm3_and_granite_leave_positions_out() {
    let r = recipe(&layers("smollm3", 8));
    let ropes: Vec<_> = (0..8).map(|i| r.layer(i).rope.is_some()).collect();
    assert_eq!(ropes, [true, true, true, false, true, true, true, false]);
    let r = recipe(&changed("granite", |w| w.bool("granite.rope.scaling.finetuned", false)));
    assert_eq!((r.layer(0).rope, r.layer(1).rope), (None, None));
    let r = recipe(&changed("granite", |w| w.bool("granite.rope.scaling.finetuned", true)));
    assert_eq!(r.layer(0).rope, Some(0));
}

#[test]
fn the_27_billion_gemmas_scale_by_width_per_head() {
    for (family, count) in [("gemma2", 46), ("gemma3", 62)] {
        let mut w = layers(family, count);
        w.u32(&format!("{family}.attention.key_length"), 16).u32(&format!("{family}.attention.value_length"), 16);
        assert_eq!(recipe(&w).attention_scale, 0.5, "{family}");
        w.without(&format!("{family}.block_count")).u32(&format!("{family}.block_count"), 26);
        assert_eq!(recipe(&w).attention_scale, 0.25, "{family}");
    }
}

#[test]
fn gemma3_stretches_the_global_layers_only() {
    let w = changed("gemma3", |w| {
        w.u32("gemma3.attention.sliding_window", 512).f32("gemma3.rope.freq_base", 1e6);
        w.str("gemma3.rope.scaling.type", "linear").f32("gemma3.rope.scaling.factor", 8.0)
    });
    let [global, local] = recipe(&w).ropes;
    assert_eq!((global.base, global.scaling), (1e6, RopeScaling::Linear { factor: 8.0 }));
    assert_eq!((local.base, local.scaling), (10000.0, RopeScaling::None));
    let w =
        changed("gemma3", |w| w.f32("gemma3.rope.freq_base_swa", 500.0).f32("gemma3.final_logit_softcapping", 20.0));
    assert_eq!((recipe(&w).ropes[1].base, recipe(&w).logit_soft_cap), (500.0, 20.0));
}

#[test]
fn granite_scales_four_things() {
    let w = changed("granite", |w| {
        w.f32("granite.embedding_scale", 12.0)
            .f32("granite.residual_scale", 0.22)
            .f32("granite.attention.scale", 0.015625)
    });
    let r = recipe(&w);
    let scales = [r.embedding_scale, r.residual_scale, r.attention_scale, r.logit_scale];
    assert_eq!(scales, [12.0, 0.22, 0.015625, 0.125]);
    // 0 means that there is none.
    let w = changed("granite", |w| w.f32("granite.attention.scale", 0.0).f32("granite.residual_scale", 0.0));
    assert_eq!((recipe(&w).attention_scale, recipe(&w).residual_scale), (0.5, 1.0));
}

#[test]
fn rotary_scaling_is_read() {
    let scaled = |kind: &str, factor: f32| {
        recipe(&changed("llama", |w| w.str("llama.rope.scaling.type", kind).f32("llama.rope.scaling.factor", factor)))
            .ropes[0]
    };
    assert_eq!(scaled("none", 4.0).scaling, RopeScaling::None);
    assert_eq!(scaled("linear", 4.0).scaling, RopeScaling::Linear { factor: 4.0 });
    assert_eq!(scaled("linear", 1.0).scaling, RopeScaling::None);
    assert_eq!(scaled("linear", 0.0).scaling, RopeScaling::None);
    assert_eq!(scaled("longrope", 2.0).scaling, RopeScaling::Linear { factor: 2.0 });
    let yarn = scaled("yarn", 4.0);
    let (factor, beta_slow, ext_factor) = (4.0, 1.0, 1.0);
    let expected = RopeScaling::Yarn { factor, original_ctx: 64, beta_fast: 32.0, beta_slow, ext_factor };
    assert_eq!(yarn.scaling, expected);
    assert!((yarn.magnitude - 1.138_629_4).abs() < 1e-6);
    let w = changed("qwen2", |w| {
        w.str("qwen2.rope.scaling.type", "yarn").f32("qwen2.rope.scaling.factor", 4.0);
        w.u32("qwen2.rope.scaling.original_context_length", 32).f32("qwen2.rope.scaling.attn_factor", 0.5);
        w.f32("qwen2.rope.scaling.yarn_beta_fast", 16.0).u32("qwen2.rope.dimension_count", 2)
    });
    let rope = recipe(&w).ropes[0];
    let expected = RopeScaling::Yarn { factor, original_ctx: 32, beta_fast: 16.0, beta_slow, ext_factor };
    assert_eq!((rope.scaling, rope.dims), (expected, 2));
    assert!((rope.magnitude - 0.569_314_7).abs() < 1e-6);
    // Without extrapolation YaRN is a linear stretch with a magnitude of its own; else that magnitude is YaRN's.
    let yarn = |kind: &str, ext: f32, own: f32| {
        changed("llama", |w| {
            w.str("llama.rope.scaling.type", kind).f32("llama.rope.scaling.factor", 4.0);
            w.f32("llama.rope.scaling.yarn_ext_factor", ext).f32("llama.rope.scaling.yarn_attn_factor", own)
        })
    };
    let rope = recipe(&yarn("yarn", 0.0, 0.75)).ropes[0];
    assert_eq!((rope.scaling, rope.magnitude), (RopeScaling::Linear { factor: 4.0 }, 0.75));
    let scaling = recipe(&yarn("yarn", 0.5, 1.0)).ropes[0].scaling;
    assert!(matches!(scaling, RopeScaling::Yarn { ext_factor: 0.5, .. }), "{scaling:?}");
    for (w, key) in [
        (yarn("yarn", 1.0, 0.75), "llama.rope.scaling.yarn_attn_factor"),
        (yarn("linear", 0.0, 0.75), "llama.rope.scaling.yarn_attn_factor"),
        (yarn("linear", 1.0, 1.0), "llama.rope.scaling.yarn_ext_factor"),
        (yarn("yarn", -1.0, 1.0), "llama.rope.scaling.yarn_ext_factor"),
        (yarn("yarn", f32::NAN, 1.0), "llama.rope.scaling.yarn_ext_factor"),
    ] {
        let text = error(&w).to_string();
        assert!(text.starts_with(key), "{text}, expected {key}");
    }
    // The older key for a linear stretch.
    let w = changed("llama", |w| w.f32("llama.rope.scale_linear", 2.0));
    assert_eq!(recipe(&w).ropes[0].scaling, RopeScaling::Linear { factor: 2.0 });
    let w = changed("llama", |w| w.str("llama.rope.scaling.type", "spiral"));
    let (key, found) = (("llama", "rope.scaling.type").into(), Label::from("spiral"));
    assert_eq!(error(&w), RecipeError::Unsupported { key, found, supported: "none linear yarn longrope" });
}

#[test]
fn rotary_factors_are_chosen_by_the_context() {
    let w = changed("llama", |w| w.tensor("rope_freqs.weight", &[2]));
    assert_eq!(recipe(&w).ropes[0].factors, RopeFactors::Freqs);
    for family in ["phi3", "llama", "granite"] {
        let w = changed(family, |w| {
            w.u32(&format!("{family}.rope.scaling.original_context_length"), 32);
            w.f32(&format!("{family}.rope.scaling.attn_factor"), 1.19);
            w.tensor("rope_factors_long.weight", &[2]).tensor("rope_factors_short.weight", &[2])
        });
        for (ctx, expected) in [(16, RopeFactors::Short), (32, RopeFactors::Short), (33, RopeFactors::Long)] {
            let [global, windowed] = recipe_at(&w, ctx).unwrap().ropes;
            assert_eq!((global.factors, global.magnitude, windowed), (expected, 1.19, global), "{family}");
        }
    }
    // Other families have no use for them: binding refuses the tensor.
    let w = changed("qwen2", |w| w.tensor("rope_freqs.weight", &[2]));
    assert_eq!(recipe(&w).ropes[0].factors, RopeFactors::None);
}

#[test]
fn arrays_by_layer_are_read_where_all_are_alike() {
    let with = |values: [u8; 8], len: u64| {
        let elements: &[u8] = &values[..4 * len as usize];
        changed("llama", |w| {
            w.without("llama.attention.head_count_kv").array("llama.attention.head_count_kv", 4, len, elements)
        })
    };
    let key = ("llama", "attention.head_count_kv").into();
    assert_eq!(recipe(&with([2, 0, 0, 0, 2, 0, 0, 0], 2)).kv_heads, 2);
    assert_eq!(error(&with([2, 0, 0, 0, 1, 0, 0, 0], 2)), RecipeError::Varying { key });
    assert_eq!(error(&with([2, 0, 0, 0, 1, 0, 0, 0], 1)), RecipeError::Length { key, found: 1, expected: 2 });
}

#[test]
fn refuses_unknown_families_by_name() {
    let w = changed("llama", |w| w.without("general.architecture").str("general.architecture", "mamba2"));
    let unknown = error(&w);
    assert_eq!(unknown, RecipeError::UnknownFamily { found: Label::from("mamba2") });
    let text = unknown.to_string();
    assert!(text.starts_with("model family mamba2 is not supported"), "{text}");
    assert!(names().all(|name| text.contains(name)), "{text}");
    let w = changed("llama", |w| w.without("general.architecture"));
    assert_eq!(error(&w), RecipeError::MissingKey { key: "general.architecture".into() });
}

#[test]
fn refuses_missing_and_senseless_keys() {
    for key in [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    ] {
        let missing = changed("llama", |w| w.without(&format!("llama.{key}")));
        assert_eq!(error(&missing), RecipeError::MissingKey { key: ("llama", key).into() });
        if key == "attention.layer_norm_rms_epsilon" {
            continue;
        }
        for found in [0, u32::MAX] {
            let absurd = changed("llama", |w| w.without(&format!("llama.{key}")).u32(&format!("llama.{key}"), found));
            let error = error(&absurd);
            let is_size = matches!(error, RecipeError::Size { key: k, found: f, .. }
                if k == ("llama", key).into() && f == found as u64);
            assert!(is_size, "{key} {found}: {error:?}");
        }
    }
    let set = |key: &str, value: u32| {
        changed("llama", |w| w.without(&format!("llama.{key}")).u32(&format!("llama.{key}"), value))
    };
    for (w, text) in [
        (
            set("attention.head_count_kv", 3),
            "llama.attention.head_count is 2, not a multiple of the number of key/value",
        ),
        (set("attention.head_count", 3), "llama.embedding_length is 8, not a multiple of the number of heads, 3"),
        (set("attention.value_length", 5), "llama.attention.value_length is 5; expected 4, the key length"),
        (set("rope.dimension_count", 3), "llama.rope.dimension_count is 3, not a multiple of"),
        (set("rope.dimension_count", 6), "llama.rope.dimension_count is 6; expected 1 to 4"),
        (set("embedding_length", 16), "the row length of token_embd.weight is 8; expected 16"),
        (set("expert_count", 8), "key llama.expert_used_count is missing"),
        (set("expert_count", 1025), "llama.expert_count is 1025; expected 1 to 1024"),
        (changed("qwen2", |w| w.u32("qwen2.expert_count", 8)), "qwen2.expert_count is set, which is not supported"),
        (changed("llama", |w| w.bool("llama.attention.causal", false)), "llama.attention.causal is false"),
        (
            changed("llama", |w| w.without("tokenizer.ggml.tokens").strings("tokenizer.ggml.tokens", &["a"])),
            "is 1; expected 6",
        ),
        (
            changed("llama", |w| w.f32("llama.rope.freq_base", f32::NAN)),
            "llama.rope.freq_base is NaN; expected more than 1",
        ),
        (changed("llama", |w| w.f32("llama.rope.freq_base", 0.0)), "llama.rope.freq_base is 0; expected more than 1"),
        (changed("llama", |w| w.f32("llama.rope.scaling.factor", f32::INFINITY)), "llama.rope.scaling.factor is inf"),
        (changed("granite", |w| w.f32("granite.residual_scale", f32::NAN)), "granite.residual_scale is NaN"),
        (changed("gemma2", |w| w.f32("gemma2.attn_logit_softcapping", -1.0)), "gemma2.attn_logit_softcapping is -1"),
        (
            changed("llama", |w| w.str("llama.rope.freq_base", "x")),
            "key llama.rope.freq_base is a string; expected a float",
        ),
    ] {
        let found = error(&w).to_string();
        assert!(found.contains(text), "{found}, expected {text}");
    }
    let mut w = tiny("llama");
    w.tensors.remove(0);
    assert_eq!(error(&w), RecipeError::MissingTensor { name: "token_embd.weight" });
}
