"""Trains the network on documents made as they are needed; seeded, resumable, on CPU or GPU.

    python train.py --steps 1900          # carries on from build/checkpoint.pt where there is one

Documents are packed whole into rows and see only themselves. The loss is on answers and stories alone. Matrices are
trained with Muon (momentum, then Newton-Schulz), the rest with Adam; the rate is flat, then falls to zero over the last
part of the steps. What is exported is a running mean of the weights.
"""

import argparse
import json
import math
import os
import random
import time

import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

import corpus
from network import Network, Shape

WIDTH = 192  # tokens in a packed row


def encode(tokenizer, docs):
    """[(ids, learned)] for each document; learned[i] says whether token i is an answer's."""
    pieces = [corpus.render(d) for d in docs]
    flat = iter(tokenizer.encode_batch([text for doc in pieces for text, _ in doc], add_special_tokens=False))
    out = []
    for doc in pieces:
        ids, learned = [], []
        for _, on in doc:
            some = next(flat).ids
            ids += some
            learned += [on] * len(some)
        out.append((ids, learned))
    return out


def batch(tokenizer, seed, rows, mix):
    """Packed rows: tokens, targets (-1: not learned), and an additive mask that keeps documents apart."""
    r = random.Random(seed)
    room, packed, failed = [WIDTH] * rows, [[] for _ in range(rows)], 0
    while failed < 12:
        for ids, learned in encode(tokenizer, [corpus.document(r, mix=mix) for _ in range(16)]):
            row = next((i for i in range(rows) if room[i] >= len(ids)), None)
            if row is None:
                failed += 1
                continue
            room[row] -= len(ids)
            packed[row].append((ids, learned))
    tokens = torch.zeros(rows, WIDTH, dtype=torch.long)
    targets = torch.full((rows, WIDTH), -1, dtype=torch.long)
    owner = torch.full((rows, WIDTH), -1, dtype=torch.long)
    for i, docs in enumerate(packed):
        at = 0
        for k, (ids, learned) in enumerate(docs):
            n = len(ids)
            tokens[i, at:at + n] = torch.tensor(ids)
            targets[i, at:at + n - 1] = torch.tensor([t if on else -1 for t, on in zip(ids[1:], learned[1:])])
            owner[i, at:at + n] = k
            at += n
    allowed = (owner[:, :, None] == owner[:, None, :]) & torch.ones(WIDTH, WIDTH, dtype=torch.bool).tril()
    mask = torch.zeros(rows, 1, WIDTH, WIDTH).masked_fill(~allowed[:, None], -1e9)
    return tokens, targets, mask


def orthogonal(m):
    """Newton-Schulz iteration: the nearest orthogonal matrix, roughly (Muon, Jordan et al. 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = m / (m.norm() + 1e-7)
    wide = x.shape[0] > x.shape[1]
    if wide:
        x = x.T
    for _ in range(5):
        y = x @ x.T
        x = a * x + (b * y + c * y @ y) @ x
    return x.T if wide else x


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, decay=0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def rate(step, steps, fall):
    """Share of the full rate: a short rise, flat, then a straight fall over the last `fall` of the steps."""
    return min(1.0, (step + 1) / 50, max(0.02, (steps - step) / (fall * steps)))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--build", default="build")
    args.add_argument("--steps", type=int, default=1900)
    args.add_argument("--first", type=int, default=1100, help="steps with the first mix of documents")
    args.add_argument("--rows", type=int, default=22)
    args.add_argument("--fall", type=float, default=0.43)
    args.add_argument("--lr", type=float, default=0.02)
    args.add_argument("--seed", type=int, default=7)
    args.add_argument("--threads", type=int, default=1)
    args.add_argument("--compile", action="store_true")
    args.add_argument("--until", type=int, default=0, help="stop after this step (a measurement)")
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = Tokenizer.from_file(f"{args.build}/tokenizer.json")
    net = Network(Shape()).to(device)
    matrices = [p for n, p in net.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in net.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = Muon(matrices, lr=args.lr)
    adam = torch.optim.Adam(others, lr=args.lr / 5, betas=(0.9, 0.98))
    mean = {n: p.detach().clone() for n, p in net.named_parameters()}
    first, seen, spent = 0, 0, 0.0
    path, log = f"{args.build}/checkpoint.pt", f"{args.build}/loss.jsonl"
    if os.path.exists(path):
        saved = torch.load(path, map_location=device)
        net.load_state_dict(saved["net"])
        muon.load_state_dict(saved["muon"])
        adam.load_state_dict(saved["adam"])
        mean, first, seen, spent = saved["mean"], saved["step"], saved["seen"], saved["spent"]
        open(log, "a").close()
        kept = [line for line in open(log) if json.loads(line)["step"] <= first]
        open(log, "w").writelines(kept)
    print(f"{sum(p.numel() for p in net.parameters())} parameters, from step {first}", flush=True)
    run = torch.compile(net) if args.compile else net
    began, recent = time.time(), []

    def save(step):
        torch.save({"net": net.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict(), "mean": mean, "step": step,
                    "seen": seen, "spent": spent + time.time() - began}, path + ".new")
        os.replace(path + ".new", path)

    for step in range(first, args.steps):
        tokens, targets, mask = (x.to(device) for x in batch(
            tokenizer, f"{args.seed}/{step}", args.rows, corpus.FIRST if step < args.first else corpus.LATER))
        learned = targets >= 0
        loss = F.cross_entropy(net.logits(run(tokens, mask)[learned]), targets[learned])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        share = rate(step, args.steps, args.fall)
        muon.param_groups[0]["lr"], adam.param_groups[0]["lr"] = args.lr * share, args.lr / 5 * share
        muon.step()
        adam.step()
        net.zero_grad(set_to_none=True)
        keep = min(0.995, 1 - 1 / (step + 1))
        with torch.no_grad():
            for n, p in net.named_parameters():
                mean[n].lerp_(p, 1 - keep)
        seen += int((tokens != 0).sum())
        recent.append(loss.item())
        if (step + 1) % 25 == 0:
            line = {"step": step + 1, "loss": round(sum(recent) / len(recent), 4), "tokens": seen,
                    "seconds": round(spent + time.time() - began)}
            recent = []
            print(line, flush=True)
            with open(log, "a") as out:
                out.write(json.dumps(line) + "\n")
        if (step + 1) % 100 == 0:
            save(step + 1)
        if args.until and step + 1 == args.until:
            return
    save(args.steps)


if __name__ == "__main__":
    main()
