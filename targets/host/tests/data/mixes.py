#!/usr/bin/env python3
"""Makes mixes.txt: which type llama.cpp's llama-quantize gives every tensor of some small models, for every mix.

    pip install numpy gguf
    python3 targets/host/tests/data/mixes.py PATH/llama-quantize > targets/host/tests/data/mixes.txt

A line `model LAYERS HEADS_PER_KV EXPERTS TIED` opens a model, `mix NAME` a mix; the others are
`TENSOR DIMxDIM… TYPE*LAYERS TYPE*LAYERS…`, the layers in order, of the tensors that are not one-dimensional.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

MIXES = (
    "F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K_L Q3_K_M Q3_K_S Q2_K".split()
)
# Family, layers, heads, KV heads, row length, experts, tied.
MODELS = [
    ("llama", 18, 8, 2, 256, 0, False),
    ("llama", 7, 4, 4, 256, 0, True),
    ("llama", 80, 8, 1, 256, 0, False),
    ("llama", 3, 4, 2, 288, 0, True),
    ("llama", 2, 2, 1, 40, 0, False),
    ("phi3", 9, 4, 4, 256, 0, True),
    ("llama", 5, 8, 2, 256, 8, False),
    ("llama", 9, 8, 4, 256, 4, False),
]


def model(path, family, layers, heads, kv, width, experts, tied):
    w = gguf.GGUFWriter(path, family)
    w.add_block_count(layers)
    w.add_context_length(64)
    w.add_embedding_length(width)
    w.add_feed_forward_length(512)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(width // heads)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(2)
        w.add_expert_feed_forward_length(512)
    w.add_tokenizer_model("none")
    w.add_vocab_size(32)

    def add(name, *shape):
        w.add_tensor(name, np.zeros(shape, dtype=np.float32))

    head = width // heads
    add("token_embd.weight", 32, width)
    if not tied:
        add("output.weight", 32, width)
    add("output_norm.weight", width)
    ffn = 512 if width % 32 == 0 else 72
    for i in range(layers):
        b = f"blk.{i}."
        add(b + "attn_norm.weight", width)
        if family == "phi3":
            add(b + "attn_qkv.weight", width + 2 * kv * head, width)
            add(b + "ffn_up.weight", 2 * ffn, width)
        else:
            add(b + "attn_q.weight", width, width)
            add(b + "attn_k.weight", kv * head, width)
            add(b + "attn_v.weight", kv * head, width)
            add(b + "attn_v.bias", kv * head)
        add(b + "attn_output.weight", width, width)
        if experts:
            add(b + "ffn_gate_inp.weight", experts, width)
            for part, shape in (("gate", (ffn, width)), ("up", (ffn, width)), ("down", (width, ffn))):
                add(b + f"ffn_{part}_exps.weight", experts, *shape)
        elif family == "phi3":
            add(b + "ffn_down.weight", width, ffn)
        else:
            for part, shape in (("gate", (ffn, width)), ("up", (ffn, width)), ("down", (width, ffn))):
                add(b + f"ffn_{part}.weight", *shape)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


with tempfile.TemporaryDirectory() as folder:
    for spec in MODELS:
        _, layers, heads, kv, _, experts, tied = spec
        src, dst = Path(folder) / "in.gguf", Path(folder) / "out.gguf"
        model(src, *spec)
        print("model", layers, heads // kv, experts, int(tied))
        for mix in MIXES:
            subprocess.run([sys.argv[1], src, dst, mix], check=True, capture_output=True)
            print("mix", mix)
            runs = {}
            by_layer = lambda t: int(t.name.split(".")[1]) if t.name.startswith("blk.") else -1
            for t in sorted(gguf.GGUFReader(dst).tensors, key=by_layer):
                if len(t.shape) > 1:
                    name = re.sub(r"^blk\.\d+\.", "blk.*.", t.name)
                    key = name + " " + "x".join(str(d) for d in t.shape)
                    run = runs.setdefault(key, [])
                    if run and run[-1][0] == t.tensor_type.name:
                        run[-1][1] += 1
                    else:
                        run.append([t.tensor_type.name, 1])
            for key, run in runs.items():
                print(key, *(f"{kind}*{count}" for kind, count in run))
