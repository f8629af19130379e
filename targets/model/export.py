"""Writes the trained network as GGUF: family `llama`, BPE vocabulary, chat template, metadata.

    python export.py build/home-f32.gguf f32
    python export.py build/home-q8.gguf q8_0            # every matrix in one format
    python export.py build/home.gguf q4_0 --embed q8_0  # the (tied) embeddings in another
"""

import argparse
import json

import gguf
import torch
from gguf import GGMLQuantizationType as Type

from network import Shape

TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
PLACES = {"attn_norm": "attn_norm", "ffn_norm": "ffn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
          "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}


def place(name):
    """A parameter's name in GGUF."""
    if name == "embed.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "output_norm.weight"
    _, layer, part, _ = name.split(".")
    return f"blk.{layer}.{PLACES[part]}.weight"


def main():
    args = argparse.ArgumentParser()
    args.add_argument("out")
    args.add_argument("format", choices=["f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
    args.add_argument("--embed")
    args.add_argument("--build", default="build")
    args = args.parse_args()
    saved = torch.load(f"{args.build}/checkpoint.pt", map_location="cpu")
    s = Shape()
    w = gguf.GGUFWriter(args.out, "llama")
    w.add_name("drupe home")
    w.add_description("Turns sentences about the home into JSON actions, answers questions about its state, tells small stories.")
    w.add_license("MIT OR Apache-2.0")
    w.add_file_type({"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}.get(
        args.format, getattr(gguf.LlamaFileType, "MOSTLY_" + args.format.upper(), gguf.LlamaFileType.ALL_F32)))
    w.add_context_length(s.context)
    w.add_embedding_length(s.width)
    w.add_block_count(s.layers)
    w.add_feed_forward_length(s.hidden)
    w.add_head_count(s.heads)
    w.add_head_count_kv(s.kv_heads)
    w.add_rope_dimension_count(s.width // s.heads)
    w.add_rope_freq_base(s.base)
    w.add_layer_norm_rms_eps(s.eps)
    w.add_vocab_size(s.vocab)

    bpe = json.load(open(f"{args.build}/tokenizer.json"))
    added = {t["content"]: t for t in bpe["added_tokens"]}
    ids = {**bpe["model"]["vocab"], **{text: t["id"] for text, t in added.items()}}
    tokens = sorted(ids, key=ids.get)
    kinds = {text: gguf.TokenType.CONTROL if t["special"] else gguf.TokenType.USER_DEFINED for text, t in added.items()}
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types([kinds.get(t, gguf.TokenType.NORMAL) for t in tokens])
    w.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in bpe["model"]["merges"]])
    w.add_bos_token_id(tokens.index("<|endoftext|>"))
    w.add_eos_token_id(tokens.index("<|im_end|>"))
    w.add_pad_token_id(tokens.index("<|endoftext|>"))
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)

    for name, p in saved["mean"].items():
        data = p.float().numpy()
        kind = "f32" if data.ndim == 1 else args.embed if args.embed and name == "embed.weight" else args.format
        kind = Type[kind.upper()]
        w.add_tensor(place(name), gguf.quants.quantize(data, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
