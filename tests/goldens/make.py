#!/usr/bin/env python3
"""Makes the golden logits of the tiny models with llama.cpp, and checks that every feature matters in them.

    pip install llama-cpp-python numpy
    cargo build --release -p drupe-cli
    python3 tests/goldens/make.py target/release/drupe [NAME…]

For each case, the tiny model is written by `drupe synth`, 64 fixed tokens are evaluated in f32 (cache included) on one
thread, and the logits of eight positions go to `NAME.golden`: a line `DRUPE GOLDEN 1`, a line of JSON (model, sha256 of
its file, context, tokens, positions, vocab), then the logits, f32 little-endian `[positions, vocab]`.

Then each feature is switched off in turn, in the file's keys or in its tensors. The logits must move by more than 1%
(relative L2), else the golden file would not notice an implementation without the feature.
"""

import ctypes
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np
import llama_cpp

HERE = os.path.dirname(os.path.abspath(__file__))
POSITIONS = [0, 1, 7, 15, 23, 31, 47, 63]
CONTEXT = 512
MATTERS = 1e-2

# A case: name, model, context, and what to switch off: (label, {key: value}, {part of a tensor's name: value}).
CASES = [
    ("tiny-llama", "tiny-llama", CONTEXT, [("rope base", {"llama.rope.freq_base": 1000.0}, {})]),
    ("tiny-llama3", "tiny-llama3", CONTEXT, [("rope_freqs", {}, {"rope_freqs": 1.0})]),
    ("tiny-mistral", "tiny-mistral", CONTEXT, [("window", {"granite_swa.attention.sliding_window": 4096}, {})]),
    ("tiny-yarn", "tiny-yarn", CONTEXT, [
        ("yarn", {"llama.rope.scaling.type": "none"}, {}),
        ("yarn taken for linear", {"llama.rope.scaling.type": "linear"}, {}),
        ("original context", {"llama.rope.scaling.original_context_length": 512}, {}),
    ]),
    ("tiny-yarn-ext", "tiny-yarn-ext", CONTEXT, [("attn_factor", {"llama.rope.scaling.attn_factor": 1.0}, {})]),
    ("tiny-linear", "tiny-linear", CONTEXT, [("scaling", {"llama.rope.scaling.factor": 1.0}, {})]),
    ("tiny-qwen2", "tiny-qwen2", CONTEXT, [
        ("q bias", {}, {"attn_q.bias": 0.0}), ("k bias", {}, {"attn_k.bias": 0.0}), ("v bias", {}, {"attn_v.bias": 0.0}),
    ]),
    ("tiny-qwen3", "tiny-qwen3", CONTEXT, [
        ("q norm weight", {}, {"attn_q_norm": 1.0}), ("k norm weight", {}, {"attn_k_norm": 1.0}),
    ]),
    ("tiny-gemma", "tiny-gemma", CONTEXT, [("rope base", {"gemma.rope.freq_base": 1000.0}, {})]),
    ("tiny-gemma2", "tiny-gemma2", CONTEXT, [
        ("window", {"gemma2.attention.sliding_window": 4096}, {}),
        ("attention cap", {"gemma2.attn_logit_softcapping": 1e4}, {}),
        ("logit cap", {"gemma2.final_logit_softcapping": 1e4}, {}),
        ("norm after attention", {}, {"post_attention_norm": 1.0}),
        ("norm after feed-forward", {}, {"post_ffw_norm": 1.0}),
    ]),
    ("tiny-gemma3", "tiny-gemma3", CONTEXT, [
        ("window", {"gemma3.attention.sliding_window": 4096}, {}),
        ("windowed rope base", {"gemma3.rope.freq_base_swa": 10000.0}, {}),
        ("global rope base", {"gemma3.rope.freq_base": 100.0}, {}),
        ("global rope scaling", {"gemma3.rope.scaling.factor": 1.0}, {}),
        ("q norm weight", {}, {"attn_q_norm": 1.0}),
        ("norm after attention", {}, {"post_attention_norm": 1.0}),
    ]),
    ("tiny-phi3-long", "tiny-phi3", CONTEXT, [
        ("long factors", {}, {"rope_factors_long": 1.0}),
        ("magnitude", {"phi3.rope.scaling.attn_factor": 1.0}, {}),
        ("partial rotation", {"phi3.rope.freq_base": 1000.0}, {}),
    ]),
    ("tiny-phi3-short", "tiny-phi3", 256, [("short factors", {}, {"rope_factors_short": 1.0})]),
    ("tiny-smollm3", "tiny-smollm3", CONTEXT, [("rope base", {"smollm3.rope.freq_base": 1000.0}, {})]),
    ("tiny-granite", "tiny-granite", CONTEXT, [
        ("embedding scale", {"granite.embedding_scale": 1.0}, {}),
        ("residual scale", {"granite.residual_scale": 1.0}, {}),
        ("attention scale", {"granite.attention.scale": 0.1}, {}),
        ("logit scale", {"granite.logit_scale": 1.0}, {}),
    ]),
]

CASES += [
    ("tiny-mixtral", "tiny-mixtral", CONTEXT, [
        ("router", {}, {"ffn_gate_inp": 0.0}), ("experts", {"llama.expert_used_count": 1}, {}),
    ]),
    ("tiny-qwen2moe", "tiny-qwen2moe", CONTEXT, [
        ("experts", {"qwen2moe.expert_used_count": 2}, {}), ("gate of the shared expert", {}, {"ffn_gate_inp_shexp": 1e-4}),
        ("shared expert", {}, {"ffn_down_shexp": 0.0}),
    ]),
    ("tiny-qwen3moe", "tiny-qwen3moe", CONTEXT, [
        ("experts", {"qwen3moe.expert_used_count": 3}, {}), ("q norm weight", {}, {"attn_q_norm": 1.0}),
    ]),
    ("tiny-olmoe", "tiny-olmoe", CONTEXT, [
        ("experts", {"olmoe.expert_used_count": 1}, {}), ("q norm weight", {}, {"attn_q_norm": 1.0}),
    ]),
    ("tiny-granitemoe", "tiny-granitemoe", CONTEXT, [
        ("experts", {"granitemoe.expert_used_count": 2}, {}), ("shared expert", {}, {"ffn_down_shexp": 0.0}),
        ("residual scale", {"granitemoe.residual_scale": 1.0}, {}),
    ]),
]

# Every format, in a model with rows long enough for blocks of 256.
MIXES = ("f16 bf16 q8_0 q6_k q5_k_m q5_1 q5_0 q4_k_m q4_1 q4_0 iq4_nl iq4_xs q3_k_m q2_k").split()
CASES += [(f"tiny-wide-{mix}", f"tiny-wide:{mix}", CONTEXT, []) for mix in MIXES]


# llama.cpp reads these keys of a file for some families only, not for this one; it takes them as parameters for all.
# Each in turn is left at what it is without.
PARAMETERS = {"tiny-yarn-ext": {"yarn_ext_factor": 0.4, "yarn_beta_fast": 8.0, "yarn_beta_slow": 2.0}}


def fixed_tokens(vocab):
    return [(i * i * 31 + 17 * i + 7) % vocab for i in range(64)]


class Gguf:
    """As much of a GGUF file as is needed to rename keys and to overwrite f32 tensors."""

    SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def __init__(self, data):
        self.data = data
        self.at = 4
        _, tensors, keys = self.take("<IQQ")
        self.keys = [self.key() for _ in range(keys)]
        infos_at = self.at
        self.tensors = [self.tensor() for _ in range(tensors)]
        self.infos = data[infos_at:self.at]
        self.body = data[(self.at + 31) // 32 * 32:]

    def take(self, form):
        values = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return values

    def string(self):
        (length,) = self.take("<Q")
        self.at += length
        return self.data[self.at - length:self.at]

    def skip(self, kind):
        if kind == 8:
            self.string()
        elif kind == 9:
            of, length = self.take("<IQ")
            for _ in range(length):
                self.skip(of)
        else:
            self.at += self.SIZES[kind]

    def key(self):
        name = self.string().decode()
        start = self.at
        self.skip(self.take("<I")[0])
        return name, bytes(self.data[start:self.at])

    def tensor(self):
        name = self.string().decode()
        dims = self.take("<" + "Q" * self.take("<I")[0])
        kind, offset = self.take("<IQ")
        return name, dims, kind, offset

    def bytes(self, body=None):
        def text(s):
            return struct.pack("<Q", len(s)) + s
        head = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.keys))
        head += b"".join(text(k.encode()) + v for k, v in self.keys) + bytes(self.infos)
        return head + bytes(-len(head) % 32) + bytes(self.body if body is None else body)

    def add(self, name, values):
        offset, raw = len(self.body), values.tobytes()
        self.tensors.append((name, values.shape, 0, offset))
        info = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<IQIQ", 1, len(values), 0, offset)
        self.infos = bytes(self.infos) + info
        self.body = bytes(self.body) + raw + bytes(-len(raw) % 32)

    def with_tensors(self, values):
        body = bytearray(self.body)
        for part, value in values.items():
            found = [t for t in self.tensors if part in t[0]]
            assert found, part
            for name, dims, kind, offset in found:
                assert kind == 0, name
                count = int(np.prod(dims))
                body[offset:offset + 4 * count] = np.full(count, value, "<f4").tobytes()
        return self.bytes(body)


def windowed_llama(gguf):
    """llama.cpp gives the `llama` family no window (Mistral's); its `granite_swa` with all scales 1 computes the same."""
    layers = next(struct.unpack_from("<I", v, 4)[0] for k, v in gguf.keys if k == "llama.block_count")
    renamed = [(k.replace("llama.", "granite_swa.", 1) if k.startswith("llama.") else k, v) for k, v in gguf.keys]
    arch = struct.pack("<IQ", 8, len(b"granite_swa")) + b"granite_swa"
    renamed = [(k, arch if k == "general.architecture" else v) for k, v in renamed]
    renamed.append(("granite_swa.logit_scale", struct.pack("<If", 6, 1.0)))
    pattern = struct.pack("<IIQ", 9, 7, layers) + b"\1" * layers
    renamed.append(("granite_swa.attention.sliding_window_pattern", pattern))
    gguf.keys = renamed
    # That family also wants sinks; at -1e30 they take no share of the softmax.
    heads = next(struct.unpack_from("<I", v, 4)[0] for k, v in renamed if k.endswith("attention.head_count"))
    for layer in range(layers):
        gguf.add(f"blk.{layer}.attn_sinks.weight", np.full(heads, -1e30, "<f4"))
    return gguf


def logits(data, context, overrides=None, parameters=None):
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        model = llama_cpp.Llama(file.name, n_ctx=context, n_threads=1, n_threads_batch=1, n_batch=64, n_ubatch=64,
                                logits_all=True, type_k=0, type_v=0, flash_attn=False, verbose=False,
                                kv_overrides=overrides or None, **(parameters or {}))
        tokens = fixed_tokens(model.n_vocab())
        model.eval(tokens)
        return tokens, np.array(model.scores[:len(tokens)], dtype="<f4")[POSITIONS]


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    drupe, only = sys.argv[1], sys.argv[2:]
    libs = os.environ.get("LLAMA_CPP_LIB_PATH")
    if libs:
        # A build of llama.cpp with its CPU back ends as separate libraries loads none by itself.
        ggml = ctypes.CDLL(os.path.join(libs, "libggml.so"))
        if hasattr(ggml, "ggml_backend_load_all_from_path"):
            ggml.ggml_backend_load_all_from_path(libs.encode())
    weak = []
    for name, shape, context, features in CASES:
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.gguf")
            subprocess.run([drupe, "synth", shape, path], check=True, stderr=subprocess.DEVNULL)
            data = open(path, "rb").read()
        gguf = Gguf(data)
        if shape == "tiny-mistral":
            gguf = windowed_llama(gguf)
        parameters = PARAMETERS.get(name, {})
        tokens, golden = logits(gguf.bytes(), context, None, parameters)
        head = {
            "model": shape if ":" in shape else shape + ":f32", "sha256": hashlib.sha256(data).hexdigest(), "context": context,
            "tokens": tokens, "positions": POSITIONS, "vocab": golden.shape[1],
        }
        with open(os.path.join(HERE, name + ".golden"), "wb") as out:
            out.write(b"DRUPE GOLDEN 1\n" + json.dumps(head).encode() + b"\n" + golden.tobytes())
        print(f"{name:18} deviation {golden.std():.2f}")
        features = [(label, keys, tensors, parameters) for label, keys, tensors in features]
        features += [(one, {}, {}, {k: v for k, v in parameters.items() if k != one}) for one in parameters]
        for label, keys, tensors, others in features:
            _, other = logits(gguf.with_tensors(tensors), context, keys, others)
            moved = float(np.linalg.norm(other - golden) / np.linalg.norm(golden))
            print(f"  without {label:26} {moved:9.4f}" + ("" if moved > MATTERS else "  TOO SMALL"))
            if moved <= MATTERS:
                weak.append(f"{name}: {label}")
    if weak:
        sys.exit("these features do not matter enough: " + ", ".join(weak))


if __name__ == "__main__":
    main()
