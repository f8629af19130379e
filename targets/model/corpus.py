"""The whole corpus: documents of chat turns and of plain text, in fixed shares, from one seed.

A document is a list of (role, text); the role "text" is plain text with no turns. `render` gives the exact text that the
model sees, in pieces that are either learned (answers, stories) or only read (questions).

    python corpus.py sample 20                # look at some
    python corpus.py heldout 2000 OUT.jsonl   # the test set: held-out combinations alone, its own seed
"""

import json
import random
import sys

import commands
import home
import stories

# Training's shares of each kind of document, of sentences with one, two and three clauses, and of sentences with a typo:
# more long and misspelled sentences than the test has, for they teach more. The test has `commands.command`'s own shares.
SHARES = {"command": 68, "command_state": 6, "answer": 11, "blind": 1, "refusal": 3, "conversation": 5, "story": 3, "text": 3}
LENGTHS, SLIPS = (38, 36, 26), 0.35
TEST_SEED, DEV_SEED = 20_000, 30_000


def document(r, whose="train", kind=None, slips=SLIPS):
    """One document of the part `whose` of all combinations: "train", "dev" or "test"; `slips` counts in training alone."""
    kind = kind or r.choices(list(SHARES), list(SHARES.values()))[0]
    shape = (LENGTHS, slips) if whose == "train" else ()
    if kind == "command":
        pair = commands.command(r, whose, *shape)
    elif kind == "command_state":
        return [("system", home.shown(home.state(r)))] + turns(*commands.command(r, whose, *shape))
    elif kind == "answer":
        facts = home.state(r)
        return [("system", home.shown(facts))] + turns(*home.ask(r, facts))
    elif kind == "blind":
        pair = home.blind(r)
    elif kind == "refusal":
        if r.random() < 0.25:
            return [("system", home.shown(home.state(r)))] + turns(*home.refusal(r, whose))
        pair = home.refusal(r, whose)
    elif kind == "conversation":
        return home.conversation(r, whose)
    elif kind == "story":
        pair = stories.asked_story(r)
    else:
        return [("text", stories.story(r)[1])]
    return turns(*pair)


def turns(said, answer):
    return [("user", said), ("assistant", answer)]


def render(doc):
    """[(text, learned)]: ChatML, as the chat template in the model file writes it."""
    pieces = []
    for role, text in doc:
        if role == "text":
            pieces.append((text + "<|endoftext|>", True))
        elif role == "assistant":
            pieces.append(("<|im_start|>assistant\n", False))
            pieces.append((text + "<|im_end|>", True))
            pieces.append(("\n", False))
        else:
            pieces.append((f"<|im_start|>{role}\n{text}<|im_end|>\n", False))
    return pieces


def encode(tokenizer, docs):
    """[(ids, learned)] for each document; learned[i] says whether token i is an answer's."""
    pieces = [render(d) for d in docs]
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


def held_out_commands(count, whose="test"):
    """`count` different sentences whose every clause is of the part `whose`: the test set, or that for development."""
    r = random.Random({"test": TEST_SEED, "dev": DEV_SEED}[whose])
    seen = {}
    while len(seen) < count:
        said, answer = commands.command(r, whose)
        seen.setdefault(said, answer)
    return list(seen.items())


if __name__ == "__main__":
    if sys.argv[1] == "sample":
        r = random.Random()
        for _ in range(int(sys.argv[2])):
            print("".join(text for text, _ in render(document(r))).rstrip("\n"), end="\n\n")
    else:
        with open(sys.argv[3], "w") as out:
            for said, answer in held_out_commands(int(sys.argv[2])):
                out.write(json.dumps({"user": said, "assistant": answer}) + "\n")
