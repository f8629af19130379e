"""Scores a model file with PyTorch from the file's own (dequantised) weights.

    python evaluate.py build/home-f32.gguf home.gguf

Exact: share of the 2,000 held-out sentences whose greedy answer is the expected JSON, character for character. A greedy
answer equals the expected one exactly when, fed with the expected tokens, the likeliest token is the next expected one
at every place up to and with `<|im_end|>`; so one pass per sentence tells. Perplexity is per token of held-out stories.
"""

import argparse
import collections
import json
import math
import random

import gguf
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

import corpus
from corpus import encode
from export import place
from network import Network, Shape


def load(path):
    """The network with the weights of a GGUF file, or of a training checkpoint."""
    net = Network(Shape())
    if path.endswith(".pt"):
        net.load_state_dict(torch.load(path)["mean"])
        return net.eval()
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    with torch.no_grad():
        for name, p in net.named_parameters():
            t = tensors[place(name)]
            p.copy_(torch.tensor(gguf.quants.dequantize(t.data, t.tensor_type)).reshape(p.shape))
    return net.eval()


@torch.no_grad()
def passes(net, docs, rows=32):
    """For each document (ids, learned): (every learned token the likeliest?, sum of their -log p, their number)."""
    order = sorted(range(len(docs)), key=lambda i: len(docs[i][0]))
    out = [None] * len(docs)
    for at in range(0, len(order), rows):
        some = order[at:at + rows]
        t = max(len(docs[i][0]) for i in some)
        tokens = torch.zeros(len(some), t, dtype=torch.long)
        want = torch.full((len(some), t), -1, dtype=torch.long)
        for k, i in enumerate(some):
            ids, learned = docs[i]
            tokens[k, :len(ids)] = torch.tensor(ids)
            want[k, :len(ids) - 1] = torch.tensor([x if on else -1 for x, on in zip(ids[1:], learned[1:])])
        mask = torch.full((t, t), -1e9).triu(1)
        logits = net.logits(net(tokens, mask))
        best = logits.argmax(-1)
        loss = F.cross_entropy(logits.transpose(1, 2), want, ignore_index=-1, reduction="none").sum(1)
        for k, i in enumerate(some):
            on = want[k] >= 0
            out[i] = (bool((best[k][on] == want[k][on]).all()), loss[k].item(), int(on.sum()))
    return out


@torch.no_grad()
def generate(net, tokenizer, text, limit=200):
    """The greedy continuation of a text, up to a stop."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    stop = {tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")}
    start = len(ids)
    while len(ids) - start < limit:
        mask = torch.full((len(ids), len(ids)), -1e9).triu(1)
        best = int(net.logits(net(torch.tensor([ids]), mask)[0, -1]).argmax())
        if best in stop:
            break
        ids.append(best)
    return tokenizer.decode(ids[start:])


def prompt(said, system=None):
    """The text before an answer."""
    return (f"<|im_start|>system\n{system}<|im_end|>\n" if system else "") + \
        f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"


def main():
    args = argparse.ArgumentParser()
    args.add_argument("files", nargs="+")
    args.add_argument("--build", default="build")
    args.add_argument("--count", type=int, default=2000)
    args.add_argument("--stories", type=int, default=0, help="print this many greedy stories")
    args.add_argument("--wrong", type=int, default=0, help="print this many wrong answers")
    args.add_argument("--dev", action="store_true", help="the sentences for development in place of the test's")
    args = args.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(f"{args.build}/tokenizer.json")
    whose = "dev" if args.dev else "test"
    test = corpus.held_out_commands(args.count, whose)
    commands = encode(tokenizer, [corpus.turns(*t) for t in test])
    r = random.Random((corpus.DEV_SEED if args.dev else corpus.TEST_SEED) + 1)
    stories = encode(tokenizer, [corpus.document(r, kind="text") for _ in range(args.count // 10)])
    others = {k: encode(tokenizer, [corpus.document(r, whose, kind=k) for _ in range(args.count // 8)])
              for k in ("command_state", "answer", "blind", "refusal", "conversation")}
    for path in args.files:
        net = load(path)
        scored = passes(net, commands)
        parts = collections.defaultdict(list)
        for (_, answer), (ok, _, _) in zip(test, scored):
            parts[len(json.loads(answer))].append(ok)
        told = passes(net, stories)
        print(f"{path}: exact {100 * sum(s[0] for s in scored) / len(scored):.2f}%; by number of actions "
              + ", ".join(f"{k}: {100 * sum(v) / len(v):.1f}% of {len(v)}" for k, v in sorted(parts.items()))
              + f"; story perplexity {math.exp(sum(s[1] for s in told) / sum(s[2] for s in told)):.4f}; "
              + ", ".join(f"{k} {100 * sum(s[0] for s in passes(net, d)) / len(d):.1f}%" for k, d in others.items()))
        wrong = [t for t, s in zip(test, scored) if not s[0]]
        for said, answer in wrong[:args.wrong]:
            print(f"  {said}\n    want {answer}\n    gave {generate(net, tokenizer, prompt(said))}")
        r = random.Random(99)
        for i in range(args.stories):
            if i % 2:
                said = "Once upon a time there was a " + r.choice(["shy mouse", "brave girl", "little owl", "kind bear", "quiet boy"])
                print(f"  [{said}]{generate(net, tokenizer, said)}")
            else:
                said = corpus.stories.asked_story(r)[0]
                print(f"  ({said}) {generate(net, tokenizer, prompt(said))}")


if __name__ == "__main__":
    main()
