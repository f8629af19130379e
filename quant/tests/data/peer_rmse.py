#!/usr/bin/env python3
"""Measures llama.cpp's quantisation error without importance matrix, on the inputs of tests/quantize.rs.

    pip install numpy gguf
    python3 quant/tests/data/peer_rmse.py PATH/libggml-base.so > quant/tests/data/peer_rmse.txt

Each line: format, input, relative error sqrt(Σ(x − y)² / Σx²) of rows of 256. The inputs are made with integer and
IEEE double arithmetic only, so that Rust makes the same bits.
"""

import ctypes
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

N, ROW = 1 << 16, 256
KINDS = [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.IQ4_XS]


def random(seed, start, count):
    """splitmix64 (Steele, Lea, Flood 2014): outputs start..start+count of the stream."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


# Seed 1 makes twelve uniforms per element, whose sum is as good as normal; seed 2 one uniform in [0, 1).
draws = (random(1, 0, 12 * N) >> np.uint64(40)).astype(np.float64).reshape(N, 12)
normal = draws.sum(axis=1) / 2.0**24 - 6.0
uniform = (random(2, 0, N) >> np.uint64(40)).astype(np.float64) / 2.0**24
column = (random(3, 0, ROW) >> np.uint64(40)).astype(np.float64) / 2.0**24
row = (random(4, 0, N // ROW) >> np.uint64(40)).astype(np.float64) / 2.0**24
# As trained matrices look: columns of differing size, a few of them large, rows a little off centre.
gain = np.tile(np.where(column > 0.98, 6.0, 0.5 + column), N // ROW)
shift = np.repeat(row - 0.5, ROW)

INPUTS = {
    "normal": normal,
    "heavy": normal / np.sqrt(uniform + 1e-3),
    "trained": 0.02 * (normal * gain + 0.2 * shift),
    "positive": normal * normal,
    "sparse": np.where(uniform < 0.9, 0.0, normal),
    "small": 1e-3 * normal,
}

lib = ctypes.CDLL(sys.argv[1])
lib.ggml_quantize_chunk.restype = ctypes.c_size_t
lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]

for kind in KINDS:
    length, size = GGML_QUANT_SIZES[kind]
    for name, values in INPUTS.items():
        x = values.astype(np.float32)
        out = np.zeros((N // length, size), dtype=np.uint8)
        lib.ggml_quantize_chunk(kind, x.ctypes.data, out.ctypes.data, 0, N // ROW, ROW, None)
        x, y = x.astype(np.float64), dequantize(out, kind).reshape(-1).astype(np.float64)
        print(kind.name, name, f"{np.sqrt(((x - y) ** 2).sum() / (x**2).sum()):.9f}")
