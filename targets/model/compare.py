"""The model file in llama.cpp, through the published `llama-cpp-python` package: does it load, and answer alike?

    python compare.py home.gguf heldout.jsonl 500

Prints the share of the sentences whose greedy answer there is the expected one, and how many answers differ from the
greedy answers of PyTorch with the same file's weights.
"""

import json
import sys

from llama_cpp import Llama
from tokenizers import Tokenizer

import corpus
from evaluate import load, passes, prompt
from corpus import encode

path, sentences, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = Llama(path, n_ctx=512, n_threads=1, verbose=False)
tokenizer = Tokenizer.from_file("build/tokenizer.json")
net = load(path)
right = ids = 0
answers = []
lines = [json.loads(line) for line in open(sentences)][:count]
for line in lines:
    text = prompt(line["user"])
    ids += model.tokenize(text.encode(), add_bos=False, special=True) != tokenizer.encode(text, add_special_tokens=False).ids
    out = model.create_chat_completion([{"role": "user", "content": line["user"]}], temperature=0, max_tokens=200)
    answer = out["choices"][0]["message"]["content"]
    right += answer == line["assistant"]
    answers.append(corpus.turns(line["user"], answer))
differ = sum(not same for same, _, _ in passes(net, encode(tokenizer, answers)))
print(f"{path}: {right} of {len(lines)} right in llama.cpp; {differ} answers differ from PyTorch's; {ids} tokenizations differ")
