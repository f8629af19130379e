//! Which format each tensor of a model takes: the mixes that files are named after (`q4_0`, `q4_k_m`…), with the same
//! choices as llama.cpp's `llama-quantize` makes without an importance matrix, so that sizes and speeds compare.

use drupe::quant::Format;

/// A named mix of formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Lower-case name: `q4_k_m`.
    pub name: &'static str,
    /// The format of most matrices.
    pub base: Format,
    /// GGUF's `general.file_type`.
    pub file_type: u32,
}

const fn mix(name: &'static str, base: Format, file_type: u32) -> Mix {
    Mix { name, base, file_type }
}

/// Every mix.
pub const MIXES: &[Mix] = &[
    mix("f32", Format::F32, 0),
    mix("f16", Format::F16, 1),
    mix("bf16", Format::BF16, 32),
    mix("q8_0", Format::Q8_0, 7),
    mix("q6_k", Format::Q6_K, 18),
    mix("q5_k_m", Format::Q5_K, 17),
    mix("q5_k_s", Format::Q5_K, 16),
    mix("q5_1", Format::Q5_1, 9),
    mix("q5_0", Format::Q5_0, 8),
    mix("q4_k_m", Format::Q4_K, 15),
    mix("q4_k_s", Format::Q4_K, 14),
    mix("q4_1", Format::Q4_1, 3),
    mix("q4_0", Format::Q4_0, 2),
    mix("iq4_nl", Format::IQ4_NL, 25),
    mix("iq4_xs", Format::IQ4_XS, 30),
    mix("q3_k_l", Format::Q3_K, 13),
    mix("q3_k_m", Format::Q3_K, 12),
    mix("q3_k_s", Format::Q3_K, 11),
    mix("q2_k", Format::Q2_K, 10),
    mix("q2_k_s", Format::Q2_K, 21),
];

/// What the choice depends on besides the tensor.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Blocks of the model.
    pub layers: u32,
    /// Query heads per key/value head.
    pub heads_per_kv: u32,
    /// Experts; 0 if the feed-forward has none.
    pub experts: u32,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
}

impl Mix {
    /// The mix of this name, upper or lower case; `q4_k` means `q4_k_m`, and so on.
    pub fn find(name: &str) -> Option<Mix> {
        let name = name.to_ascii_lowercase();
        let name = match name.as_str() {
            "q3_k" | "q4_k" | "q5_k" => format!("{name}_m"),
            _ => name,
        };
        MIXES.iter().copied().find(|m| m.name == name)
    }

    /// The format that the tensor `name` with `dims` (row's length first) takes; `None` if it keeps the one it has:
    /// everything with one dimension, and what is small and delicate.
    pub fn format(&self, name: &str, dims: &[u64], facts: Facts) -> Option<Format> {
        let matrix = dims.iter().skip(1).any(|&d| d != 1);
        if !matrix || !name.ends_with("weight") || KEPT.iter().any(|part| name.contains(part)) {
            return None;
        }
        if self.base.block_len() == 1 {
            return Some(self.base);
        }
        let fits = |format: Format| dims[0].is_multiple_of(format.block_len() as u64);
        let (layer, part) = layer_and_part(name);
        let is_output = part == "output.weight" || facts.tied && part.ends_with("token_embd.weight");
        let chosen = match is_output {
            // Every row is read for every token, and its errors go straight into the logits.
            true if self.base == Format::Q8_0 || !fits(self.base) => Format::Q8_0,
            true => Format::Q6_K,
            false => self.inner(layer, part, facts),
        };
        if fits(chosen) {
            return Some(chosen);
        }
        // Rows that are no whole number of 256: the nearest format in blocks of 32.
        let fallback = match chosen {
            Format::Q2_K | Format::Q3_K => Format::Q4_0,
            Format::IQ4_XS => Format::IQ4_NL,
            Format::Q4_K => Format::Q5_0,
            Format::Q5_K => Format::Q5_1,
            Format::Q6_K => Format::Q8_0,
            other => other,
        };
        Some(if fits(fallback) { fallback } else { Format::F16 })
    }

    /// The choice within a block of the model, whatever the row's length.
    fn inner(&self, layer: u64, part: &str, facts: Facts) -> Format {
        use Format::*;
        let layers = facts.layers as u64;
        let (shared_kv, eight_experts) = (facts.heads_per_kv >= 4, facts.experts == 8);
        let early = layer < layers / 8;
        // The first and last eighth, and every third layer between, take more bits.
        let more = early || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
        if ["attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"].contains(&part) {
            let chosen = match self.name {
                _ if eight_experts => return Q8_0,
                "q2_k" => [Q3_K, Q4_K][shared_kv as usize],
                "q2_k_s" if shared_kv => Q4_K,
                "q3_k_m" => [Q4_K, Q5_K][(layer < 2) as usize],
                "q3_k_l" => Q5_K,
                "iq4_nl" | "iq4_xs" if shared_kv => Q5_K,
                "q4_k_m" | "q5_k_m" if more => Q6_K,
                "q4_k_s" if layer < 4 => Q5_K,
                _ => self.base,
            };
            // Llama 70B: small beside the rest of a layer, so cheap to keep.
            let is_70b = layers == 80 && facts.heads_per_kv > 1;
            return if is_70b && matches!(chosen, Q3_K | Q4_K) { Q5_K } else { chosen };
        }
        match (part, self.name) {
            ("attn_k.weight", _) if eight_experts => Q8_0,
            (p, "q2_k") if p.contains("ffn_down") => Q3_K,
            (p, "q2_k_s") if p.contains("ffn_down") && early => Q4_K,
            (p, "q3_k_m") if p.contains("ffn_down") => [Q4_K, Q5_K][(layer < layers / 16) as usize],
            (p, "q3_k_l") if p.contains("ffn_down") => Q5_K,
            (p, "q4_k_m" | "q5_k_m") if p.contains("ffn_down") && more => Q6_K,
            (p, "q4_k_s" | "iq4_nl" | "iq4_xs") if p.contains("ffn_down") && early => Q5_K,
            ("attn_output.weight", "q2_k" | "q3_k_s" | "q3_k_m" | "q4_k_s" | "q4_k_m" | "iq4_nl" | "iq4_xs")
                if eight_experts =>
            {
                Q5_K
            }
            ("attn_output.weight", _) if eight_experts => self.base,
            ("attn_output.weight", "q2_k") => Q3_K,
            ("attn_output.weight", "q3_k_m") => Q4_K,
            ("attn_output.weight", "q3_k_l") => Q5_K,
            _ => self.base,
        }
    }
}

/// Parts of the names of matrices that stay as they are: norms, routers, convolutions, position tables, low-rank pieces.
const KEPT: [&str; 21] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "position_embd",
    "token_types.weight",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "attn_rel_b.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_lerp_fused.weight",
];

/// `blk.12.attn_v.weight` → (12, `attn_v.weight`).
fn layer_and_part(name: &str) -> (u64, &str) {
    let in_layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match in_layer.and_then(|(layer, part)| Some((layer.parse().ok()?, part))) {
        Some(found) => found,
        None => (0, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        let facts = Facts { layers: 16, heads_per_kv: 4, experts: 0, tied: true };
        let of = |mix: &str, name: &str, dims: &[u64]| Mix::find(mix).unwrap().format(name, dims, facts);
        assert_eq!(of("q4_0", "token_embd.weight", &[2048, 128256]), Some(Format::Q6_K));
        assert_eq!(of("q4_0", "token_embd.weight", &[896, 151936]), Some(Format::Q8_0));
        assert_eq!(of("Q4_K", "blk.0.attn_v.weight", &[2048, 512]), Some(Format::Q6_K));
        assert_eq!(of("q4_k_m", "blk.2.ffn_down.weight", &[8192, 2048]), Some(Format::Q4_K));
        assert_eq!(of("q4_k_m", "blk.4.ffn_down.weight", &[8192, 2048]), Some(Format::Q6_K));
        assert_eq!(of("q4_k_m", "blk.4.attn_q.weight", &[896, 896]), Some(Format::Q5_0));
        assert_eq!(of("q4_k_m", "blk.4.attn_norm.weight", &[2048]), None);
        assert_eq!(of("f16", "rope_freqs.weight", &[32]), None);
        assert!(Mix::find("q9").is_none());
    }

    /// `tests/data/mixes.py` says what the file holds and how it is made.
    #[test]
    fn choices_are_those_of_llama_quantize() {
        let mut facts = Facts { layers: 0, heads_per_kv: 0, experts: 0, tied: false };
        let (mut mix, mut checked) = (MIXES[0], 0);
        for line in include_str!("../tests/data/mixes.txt").lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |i: usize| words[i].parse::<u32>().unwrap();
            match words[0] {
                "model" => {
                    facts =
                        Facts { layers: number(1), heads_per_kv: number(2), experts: number(3), tied: number(4) == 1 };
                }
                "mix" => mix = Mix::find(words[1]).unwrap(),
                part => {
                    let dims: Vec<u64> = words[1].split('x').map(|d| d.parse().unwrap()).collect();
                    let mut layer = 0;
                    for run in &words[2..] {
                        let (kind, count) = run.split_once('*').unwrap();
                        for _ in 0..count.parse::<u32>().unwrap() {
                            let name = part.replace('*', &layer.to_string());
                            let found = mix.format(&name, &dims, facts).map_or("F32", |f| f.name());
                            assert_eq!(found, kind, "{name} {dims:?} of {} with {facts:?}", mix.name);
                            (layer, checked) = (layer + 1, checked + 1);
                        }
                    }
                }
            }
        }
        assert!(checked > 10_000, "{checked}");
    }
}
