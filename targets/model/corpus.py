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

# Training's shares of each kind of document, and of sentences with one, two and three clauses: at first more stories,
# later more and longer commands, which teach more for each token. The test set has the first lengths.
FIRST = ({"command": 62, "command_state": 7, "answer": 9, "blind": 2, "refusal": 5, "conversation": 5, "story": 4, "text": 3},
         (58, 32, 10))
LATER = ({"command": 66, "command_state": 7, "answer": 9, "blind": 2, "refusal": 5, "conversation": 5, "story": 2, "text": 2},
         (42, 36, 22))
TEST_SEED = 20_000


def document(r, held=False, kind=None, mix=FIRST):
    """One document of training, or with `held` of what training never sees."""
    shares, lengths = mix
    kind = kind or r.choices(list(shares), list(shares.values()))[0]
    if kind == "command":
        pair = commands.command(r, held, lengths)
    elif kind == "command_state":
        return [("system", home.shown(home.state(r)))] + turns(*commands.command(r, held, lengths))
    elif kind == "answer":
        facts = home.state(r)
        return [("system", home.shown(facts))] + turns(*home.ask(r, facts))
    elif kind == "blind":
        pair = home.blind(r)
    elif kind == "refusal":
        if r.random() < 0.25:
            return [("system", home.shown(home.state(r)))] + turns(*home.refusal(r, held))
        pair = home.refusal(r, held)
    elif kind == "conversation":
        return home.conversation(r, held)
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


def held_out_commands(count, seed=TEST_SEED):
    """The test set: `count` different sentences whose every clause is a held-out combination."""
    r = random.Random(seed)
    seen = {}
    while len(seen) < count:
        said, answer = commands.command(r, True)
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
