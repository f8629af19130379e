"""The network: a Llama (RMSNorm, rotary positions, grouped keys, SwiGLU, tied embeddings), every row a multiple of 256."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Shape:
    vocab: int = 2048
    width: int = 256
    hidden: int = 512
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    base: float = 10000.0
    eps: float = 1e-5
    context: int = 1024


class Norm(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.width))
        self.eps = shape.eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def linear(rows_in, rows_out):
    layer = nn.Linear(rows_in, rows_out, bias=False)
    nn.init.normal_(layer.weight, std=0.5 * rows_in ** -0.5)
    return layer


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s, self.head = s, s.width // s.heads
        self.attn_norm, self.ffn_norm = Norm(s), Norm(s)
        self.q, self.o = linear(s.width, s.width), linear(s.width, s.width)
        self.k, self.v = linear(s.width, s.kv_heads * self.head), linear(s.width, s.kv_heads * self.head)
        self.gate, self.up, self.down = linear(s.width, s.hidden), linear(s.width, s.hidden), linear(s.hidden, s.width)
        nn.init.zeros_(self.o.weight)
        nn.init.zeros_(self.down.weight)

    def forward(self, x, cos, sin, mask):
        b, t, _ = x.shape
        h = self.attn_norm(x)
        q = rotate(self.q(h).view(b, t, -1, self.head), cos, sin).transpose(1, 2)
        k = rotate(self.k(h).view(b, t, -1, self.head), cos, sin).transpose(1, 2)
        v = self.v(h).view(b, t, -1, self.head).transpose(1, 2)
        group = self.s.heads // self.s.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, -1))
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def rotate(x, cos, sin):
    """Rotary positions on neighbouring pairs (0,1), (2,3), …: the layout of the `llama` family in GGUF."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class Network(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.width)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape)
        head = shape.width // shape.heads
        angle = torch.outer(torch.arange(shape.context).float(), shape.base ** (-torch.arange(0, head, 2).float() / head))
        self.register_buffer("cos", angle.cos()[:, None], persistent=False)
        self.register_buffer("sin", angle.sin()[:, None], persistent=False)

    def forward(self, tokens, mask):
        """Last hidden states `[batch, tokens, width]`; `mask` is added to the attention scores."""
        t = tokens.shape[1]
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, self.cos[:t], self.sin[:t], mask)
        return self.norm(x)

    def logits(self, hidden):
        return F.linear(hidden, self.embed.weight)
