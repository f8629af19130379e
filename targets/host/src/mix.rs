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

    /// The format that the tensor `name` with `dims` (row's length first) takes; `None` if it keeps the one it has
    /// (norms, biases, rope factors: everything with one dimension).
    pub fn format(&self, name: &str, dims: &[u64], facts: Facts) -> Option<Format> {
        use Format::*;
        if dims.iter().skip(1).all(|&d| d == 1) || !name.ends_with("weight") || name.contains("_norm.weight") {
            return None;
        }
        if self.base.block_len() == 1 {
            return Some(self.base);
        }
        let fits = |format: Format| dims[0].is_multiple_of(format.block_len() as u64);
        let (layer, part) = layer_and_part(name);
        let layers = facts.layers as u64;
        let shared_kv = facts.heads_per_kv >= 4;
        let early = layer < layers / 8;
        // The first and last eighth, and every third layer between, take more bits.
        let more = early || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
        let chosen = match (part, self.name) {
            ("output.weight", _) => self.output(fits(self.base)),
            ("token_embd.weight", _) if facts.tied => self.output(fits(self.base)),
            ("attn_v.weight", "q2_k") => [Q3_K, Q4_K][shared_kv as usize],
            ("attn_v.weight", "q2_k_s") if shared_kv => Q4_K,
            ("attn_v.weight", "q3_k_m") => [Q4_K, Q5_K][(layer < 2) as usize],
            ("attn_v.weight", "q3_k_l") => Q5_K,
            ("attn_v.weight", "iq4_nl" | "iq4_xs") if shared_kv => Q5_K,
            ("attn_v.weight", "q4_k_m" | "q5_k_m") if more => Q6_K,
            ("attn_v.weight", "q4_k_s") if layer < 4 => Q5_K,
            ("ffn_down.weight", "q2_k") => Q3_K,
            ("ffn_down.weight", "q2_k_s") if early => Q4_K,
            ("ffn_down.weight", "q3_k_m") => [Q4_K, Q5_K][(layer < layers / 16) as usize],
            ("ffn_down.weight", "q3_k_l") => Q5_K,
            ("ffn_down.weight", "q4_k_m" | "q5_k_m") if more => Q6_K,
            ("ffn_down.weight", "q4_k_s" | "iq4_nl" | "iq4_xs") if early => Q5_K,
            ("attn_output.weight", "q2_k") => Q3_K,
            ("attn_output.weight", "q3_k_m") => Q4_K,
            ("attn_output.weight", "q3_k_l") => Q5_K,
            ("attn_qkv.weight", "q3_k_m" | "q3_k_l") => Q4_K,
            ("attn_qkv.weight", "q4_k_m") => Q5_K,
            ("attn_qkv.weight", "q5_k_m") => Q6_K,
            _ => self.base,
        };
        Some(if fits(chosen) {
            chosen
        } else {
            // Rows that are no whole number of 256: the nearest format in blocks of 32.
            let fallback = match chosen {
                Q2_K | Q3_K => Q4_0,
                IQ4_XS => IQ4_NL,
                Q4_K => Q5_0,
                Q5_K => Q5_1,
                Q6_K => Q8_0,
                other => other,
            };
            if fits(fallback) { fallback } else { F16 }
        })
    }

    /// The output matrix, of which every row is read for every token: more bits.
    fn output(&self, base_fits: bool) -> Format {
        if self.base == Format::Q8_0 || !base_fits { Format::Q8_0 } else { Format::Q6_K }
    }
}

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
        let facts = Facts { layers: 16, heads_per_kv: 4, tied: true };
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
}
