#!/bin/sh
# Makes the built-in model again, from nothing to home.gguf: vocabulary, training, export, scores.
# Needs Python 3.11 with requirements.txt installed, and the drupe command (for quantize).
# Training resumes from build/checkpoint.pt; `rm -r build` to begin anew. See MODEL_CARD.md for the time it takes.
set -eu
cd "$(dirname "$0")"
mkdir -p build
[ -f build/tokenizer.json ] || python vocabulary.py build/tokenizer.json
# The C library's memory is kept from step to step: else a fourth of the time goes into asking for it anew.
train() {
    MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 \
        torchrun --standalone --nproc-per-node 2 train.py "$@"
}
# Twice: the rate falls to nearly zero, then goes on at its full height and falls again.
train --steps 1500 --fall 0.2
train --steps "${STEPS:-4000}" --fall 0.62
python plot.py build/loss.jsonl loss.svg
python export.py build/home-f32.gguf f32
${DRUPE:-cargo run --release -q --bin drupe --} quantize build/home-f32.gguf home.gguf q8_0
python corpus.py heldout 500 heldout.jsonl
python evaluate.py build/home-f32.gguf home.gguf --stories 20
