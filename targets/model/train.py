"""Trains the network on documents made as they are needed; seeded, resumable, on CPU or GPU.

    torchrun --standalone --nproc-per-node 2 train.py    # carries on from build/checkpoint.pt where there is one

Each process takes rows of its own, one thread to each: on a busy machine they wait for each other once a step, not at every
product. Documents are packed whole into rows and see only themselves; further processes make them ahead. The loss is on answers and
stories alone. Products are in bfloat16, weights in float32. Matrices are trained with Muon (momentum, then Newton-Schulz),
the rest with Adam; the rate is flat, then falls to zero over the last part of the steps. What is exported is a running mean
of the weights.
"""

import argparse
import json
import os
import random
import time

import torch
from tokenizers import Tokenizer
from torch import distributed
from torch.nn import functional as F

import corpus
from network import Network, Shape

WIDTH = 192  # tokens in a packed row
LEARNED = 0.45  # the most tokens of a step that can be learned, of all


class Batches(torch.utils.data.Dataset):
    """For each step its packed rows: tokens, owners (which document; -1 none), places learned from, what is to follow."""

    def __init__(self, tokenizer, seed, rank, rows, first, steps):
        self.tokenizer, self.seed, self.rank, self.rows, self.first, self.steps = tokenizer, seed, rank, rows, first, steps

    def __len__(self):
        return self.steps - self.first

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError
        r, rows = random.Random(f"{self.seed}/{self.first + index}/{self.rank}"), self.rows
        room, packed, failed = [WIDTH] * rows, [[] for _ in range(rows)], 0
        while failed < 12:
            for ids, learned in corpus.encode(self.tokenizer, [corpus.document(r) for _ in range(16)]):
                row = next((i for i in range(rows) if room[i] >= len(ids)), None)
                if row is None:
                    failed += 1
                    continue
                room[row] -= len(ids)
                packed[row].append((ids, learned))
        tokens = torch.zeros(rows, WIDTH, dtype=torch.long)
        follow = torch.full((rows, WIDTH), -1)
        owner = torch.full((rows, WIDTH), -1)
        for i, docs in enumerate(packed):
            at = 0
            for k, (ids, learned) in enumerate(docs):
                n = len(ids)
                tokens[i, at:at + n] = torch.tensor(ids)
                follow[i, at:at + n - 1] = torch.tensor([t if on else -1 for t, on in zip(ids[1:], learned[1:])])
                owner[i, at:at + n] = k
                at += n
        follow = follow.flatten()
        most = int(LEARNED * rows * WIDTH)  # always as many places, those without a token to follow among them
        places = torch.cat(((follow >= 0).nonzero()[:, 0], (follow < 0).nonzero()[:, 0]))[:most].sort().values
        return tokens, owner, places, follow[places]


def loss_of(net, tokens, owner, places, follow):
    """Mean cross-entropy at `places`; products in bfloat16."""
    seen = (owner[:, :, None] == owner[:, None, :]).tril()[:, None, None]
    with torch.autocast(tokens.device.type, torch.bfloat16):
        mask = torch.zeros(seen.shape, dtype=torch.bfloat16, device=tokens.device).masked_fill(~seen, -1e9)
        logits = net.logits(net(tokens, mask).flatten(0, 1)[places])
    return F.cross_entropy(logits.float(), follow, ignore_index=-1)


def orthogonal(m):
    """Newton-Schulz iteration: the nearest orthogonal matrices, roughly (Muon, Jordan et al. 2024), in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (m / (m.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(5):
        y = x @ x.mT
        x = a * x + (b * y + c * y @ y) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """A parameter group holds the matrices of one shape, which are taken together."""

    def __init__(self, params, lr, momentum=0.95, decay=0.01):
        shapes = {}
        for p in params:
            shapes.setdefault(p.shape, []).append(p)
        super().__init__([{"params": ps} for ps in shapes.values()], {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            params, first = group["params"], group["params"][0]
            gradients = torch.stack([p.grad for p in params])
            buffer = self.state[first].setdefault("momentum", torch.zeros_like(gradients))
            buffer.lerp_(gradients, 1 - group["momentum"])
            updates = orthogonal(gradients.lerp(buffer, group["momentum"]))
            torch._foreach_mul_(params, 1 - group["lr"] * group["decay"])
            scale = group["lr"] * max(1, first.shape[0] / first.shape[1]) ** 0.5
            torch._foreach_add_(params, list(updates.unbind()), alpha=-scale)


def share_gradients(params):
    """Gives every process the mean of all processes' gradients."""
    gradients = [p.grad for p in params]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    torch._foreach_copy_(gradients, [x.view_as(g) for x, g in zip(flat.split([g.numel() for g in gradients]), gradients)])


def rate(step, steps, fall):
    """Share of the full rate: a short rise, flat, then a straight fall over the last `fall` of the steps."""
    return min(1.0, (step + 1) / 50, max(0.02, (steps - step) / (fall * steps)))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--build", default="build")
    args.add_argument("--steps", type=int, default=4000)
    args.add_argument("--rows", type=int, default=16, help="rows of a step in each process")
    args.add_argument("--fall", type=float, default=0.62)
    args.add_argument("--lr", type=float, default=0.02)
    args.add_argument("--seed", type=int, default=7)
    args = args.parse_args()
    torch.set_num_threads(1)
    distributed.init_process_group()
    rank = distributed.get_rank()
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(f"{args.build}/tokenizer.json")
    net = Network(Shape()).to(device)
    matrices = [p for n, p in net.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in net.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = Muon(matrices, lr=args.lr)
    adam = torch.optim.Adam(others, lr=args.lr / 5, betas=(0.9, 0.98), fused=True)
    mean = {n: p.detach().clone() for n, p in net.named_parameters()}
    first, seen, spent = 0, 0, 0.0
    path, log = f"{args.build}/checkpoint.pt", f"{args.build}/loss.jsonl"
    if os.path.exists(path):
        saved = torch.load(path, map_location=device)
        net.load_state_dict(saved["net"])
        muon.load_state_dict(saved["muon"])
        adam.load_state_dict(saved["adam"])
        mean, first, seen, spent = saved["mean"], saved["step"], saved["seen"], saved["spent"]
        if rank == 0 and os.path.exists(log):
            kept = [line for line in open(log) if json.loads(line)["step"] <= first]
            open(log, "w").writelines(kept)
    print(f"{sum(p.numel() for p in net.parameters())} parameters, from step {first}", flush=True)
    run = torch.compile(loss_of)
    ahead = torch.utils.data.DataLoader(Batches(tokenizer, args.seed, rank, args.rows, first, args.steps), batch_size=None,
                                        num_workers=1, prefetch_factor=16)
    began, recent = time.time(), []

    def save(step):
        torch.save({"net": net.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict(), "mean": mean, "step": step,
                    "seen": seen, "spent": spent + time.time() - began}, path + ".new")
        os.replace(path + ".new", path)

    for step, some in enumerate(ahead, first):
        tokens, owner, places, follow = (x.to(device) for x in some)
        loss = run(net, tokens, owner, places, follow)
        loss.backward()
        share_gradients(list(net.parameters()))
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        share = rate(step, args.steps, args.fall)
        for group in muon.param_groups:
            group["lr"] = args.lr * share
        adam.param_groups[0]["lr"] = args.lr / 5 * share
        muon.step()
        adam.step()
        net.zero_grad(set_to_none=True)
        keep = min(0.995, 1 - 1 / (step + 1))
        with torch.no_grad():
            torch._foreach_lerp_(list(mean.values()), list(net.parameters()), 1 - keep)
        seen += int((owner >= 0).sum())
        recent.append(loss.item())
        if rank == 0 and (step + 1) % 25 == 0:
            line = {"step": step + 1, "loss": round(sum(recent) / len(recent), 4), "tokens": seen * distributed.get_world_size(),
                    "seconds": round(spent + time.time() - began)}
            recent = []
            print(line, flush=True)
            with open(log, "a") as out:
                out.write(json.dumps(line) + "\n")
        if rank == 0 and (step + 1) % 100 == 0:
            save(step + 1)
    if rank == 0:
        save(args.steps)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
