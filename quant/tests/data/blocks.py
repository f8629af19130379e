#!/usr/bin/env python3
"""Makes blocks.bin: random blocks of every format with the values that the `gguf` package's numpy code gives them.

    pip install numpy gguf
    python3 quant/tests/data/blocks.py

Layout, little-endian, for each format in turn: u32 format number, u32 number of blocks, the blocks, their values (f32).
Every byte is random but for the f16 scales, which are finite; one block in each format has them zero.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

BLOCKS = 6
# Where the f16 scales of each format's block lie.
SCALES = {
    T.F32: [], T.F16: [0], T.BF16: [],
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0],
}  # fmt: skip

rng = np.random.default_rng(20240607)
out = bytearray()
for kind, scales in SCALES.items():
    length, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    if kind in (T.F32, T.BF16):
        values = rng.standard_normal(BLOCKS).astype(np.float32).view(np.uint32)
        blocks = (values if kind == T.F32 else (values >> 16).astype(np.uint16)).view(np.uint8).reshape(BLOCKS, size)
    for at in scales:
        halves = rng.standard_normal(BLOCKS).astype(np.float16)
        halves[0] = 0
        blocks[:, at : at + 2] = halves.view(np.uint8).reshape(BLOCKS, 2)
    values = dequantize(blocks, kind).astype(np.float32)
    out += np.array([kind, BLOCKS], dtype=np.uint32).tobytes() + blocks.tobytes() + values.tobytes()
    assert values.size == BLOCKS * length, kind

Path(__file__).with_name("blocks.bin").write_bytes(out)
print(len(out), "bytes")
