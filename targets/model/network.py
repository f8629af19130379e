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
        """Attention by plain products: in bfloat16 on a CPU they train several times faster than the fused kernel."""
        b, t, width = x.shape
        d, kv, group = self.head, self.s.kv_heads, self.s.heads // self.s.kv_heads
        h = self.attn_norm(x)
        whole = F.linear(h, torch.cat((halves(self.q.weight, d), halves(self.k.weight, d), self.v.weight)))
        q, k, v = whole.split((width, kv * d, kv * d), -1)
        q = rotate(q.reshape(b, t, kv, group, d), cos[:, None], sin[:, None]).to(whole.dtype)
        k = rotate(k.reshape(b, t, kv, d), cos, sin).to(whole.dtype)
        q = q.permute(0, 2, 3, 1, 4).reshape(b * kv, group * t, d)
        k = k.permute(0, 2, 3, 1).reshape(b * kv, d, t)
        v = v.reshape(b, t, kv, d).transpose(1, 2).reshape(b * kv, t, d)
        score = torch.bmm(q, k).view(b, kv, group, t, t) * d ** -0.5 + mask
        share = score.softmax(-1, dtype=torch.float32).to(whole.dtype)
        a = torch.bmm(share.view(b * kv, group * t, t), v).view(b, kv, group, t, d)
        x = x + self.o(a.permute(0, 3, 1, 2, 4).reshape(b, t, width))
        h = self.ffn_norm(x)
        gate, up = F.linear(h, torch.cat((self.gate.weight, self.up.weight))).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def halves(weight, head):
    """Rows of each head reordered: the first of every rotary pair, then the second.

    Weights are kept as the `llama` family in GGUF has them, with neighbouring pairs (0,1), (2,3), …; the same order of
    rows for queries and keys leaves their products as they are, and halves rotate faster.
    """
    return weight.view(-1, head // 2, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def rotate(x, cos, sin):
    """Rotary positions on heads with their pairs apart, as `halves` lays them."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


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
        """Last hidden states `[batch, tokens, width]`; `mask` is added to the attention scores `[batch, kv, group, to, from]`."""
        t = tokens.shape[1]
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, self.cos[:t], self.sin[:t], mask)
        return self.norm(x)

    def logits(self, hidden):
        return F.linear(hidden, self.embed.weight)
