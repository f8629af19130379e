"""Draws the training loss: python plot.py build/loss.jsonl loss.svg"""

import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "drupe", "svg.fonttype": "none"})
import matplotlib.pyplot as plt

lines = [json.loads(line) for line in open(sys.argv[1])]
plt.figure(figsize=(7, 3.5))
plt.plot([x["tokens"] / 1e6 for x in lines], [x["loss"] for x in lines], linewidth=1)
plt.yscale("log")
plt.xlabel("million tokens")
plt.ylabel("loss, nats per learned token")
plt.grid(alpha=0.3, which="both")
plt.tight_layout()
plt.savefig(sys.argv[2], metadata={"Date": None})
