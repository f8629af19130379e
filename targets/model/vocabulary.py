"""Trains the vocabulary: byte-level BPE of 2048 entries with the `qwen2` pre-tokenizer (digits stand alone).

The last entries are user-defined: pieces of an action list, found in a text before it is cut into words.

    python vocabulary.py build/tokenizer.json
"""

import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import corpus

SIZE = 2048
SHARES = {**corpus.SHARES, "story": 6, "text": 4}  # somewhat more stories than in training, for their words
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# What stands between the words of an action list, each piece one token: answers are half as long for it.
PIECES = ['[{"device":"', '"},{"device":"', '},{"device":"', '","room":"', '","action":"', '","value":"', '","value":', '","day":"',
          '","in":"', '","at":"', '","for":"', ',"in":"', ',"at":"', ',"for":"']
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def train(documents=60_000, seed=1):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    r = random.Random(seed)
    kinds, weights = list(SHARES), list(SHARES.values())
    docs = (corpus.document(r, kind=r.choices(kinds, weights)[0], slips=0) for _ in range(documents))
    texts = (text for doc in docs for _, text in doc)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=SIZE - len(PIECES), special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in PIECES])
    assert tokenizer.get_vocab_size() == SIZE
    return tokenizer


if __name__ == "__main__":
    train().save(sys.argv[1])
