#!/usr/bin/env python3
"""drupe beside llama.cpp on this machine, in turn: prefill and decode, one table and one plot.

  cargo build --release -p drupe-cli
  benches/side_by_side.py [--models llama3.2-1b:q4_0 FILE.gguf ...] [--isa avx2] [--threads 1,2] [--rounds 3]

llama.cpp comes as the published Python package llama-cpp-python, which pip compiles (some 15 minutes on two cores, with
cmake and a C++ compiler) into a virtual environment under target/side-by-side, one for each instruction set. Models that are
shapes are written there too, by drupe synth. Each round runs one program after the other; the figures are medians of
the rounds, the ratio is the median of the rounds' ratios. Tokens are the same arbitrary ones on both sides, and both
compute every logit of the last token only.
"""
import argparse, json, os, statistics, subprocess, sys, venv
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROOM = HERE / "target" / "side-by-side"
DRUPE = HERE / "target" / "release" / "drupe"
AVX2 = "-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
# What llama.cpp is compiled for, by drupe's name of the instruction set.
BUILDS = {
    "native": "-DGGML_NATIVE=ON",
    "avx2": AVX2,
    "avx512-vnni": AVX2 + " -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON",
}

# Runs inside the environment: prints [prefill tokens/s, decode tokens/s].
PEER = """
import ctypes, json, sys, time
import llama_cpp as l
path, prompt, count, threads = sys.argv[1], *map(int, sys.argv[2:5])
l.llama_backend_init()
quiet = l.llama_log_callback(lambda *_: None)
l.llama_log_set(quiet, ctypes.c_void_p(0))
model = l.llama_model_load_from_file(path.encode(), l.llama_model_default_params())
p = l.llama_context_default_params()
p.n_ctx, p.n_batch, p.n_ubatch, p.n_threads, p.n_threads_batch = prompt + count, 2048, 512, threads, threads
ctx = l.llama_init_from_model(model, p)
vocab = l.llama_vocab_n_tokens(l.llama_model_get_vocab(model))
ids = [((i * 2654435761) % 2**32 >> 8) % vocab for i in range(prompt + count)]
def feed(some):
    tokens = (l.llama_token * len(some))(*some)  # the batch only points to it
    assert l.llama_decode(ctx, l.llama_batch_get_one(tokens, len(some))) == 0
    l.llama_get_logits_ith(ctx, -1)
for counted in (False, True):
    l.llama_memory_clear(l.llama_get_memory(ctx), True)
    start = time.perf_counter()
    feed(ids[:prompt])
    filled = time.perf_counter()
    for i in ids[prompt:]:
        feed([i])
    done = time.perf_counter()
print(json.dumps([prompt / (filled - start), count / (done - filled)]))
"""


def environment(isa):
    """The Python of an environment that has the package, compiled for `isa`; made if it is not there."""
    room = ROOM / f"llama-{isa}"
    python = room / "bin" / "python"
    if not (room / "ready").exists():
        print(f"installing llama-cpp-python for {isa}: this compiles llama.cpp", file=sys.stderr)
        venv.create(room, with_pip=True)
        env = dict(os.environ, CMAKE_ARGS=BUILDS[isa])
        # Only its own wheel is compiled here for certain; the others may come ready-made.
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-cache-dir", "--no-binary", "llama-cpp-python",
                        "llama-cpp-python"], env=env, check=True)
        (room / "ready").touch()
    return python


def output(command):
    """What `command` prints, as JSON; the whole run ends with what it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def model_file(name):
    if Path(name).exists():
        return Path(name)
    path = ROOM / (name.replace(":", "-") + ".gguf")
    if not path.exists():
        subprocess.run([DRUPE, "synth", name, path], check=True)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["llama3.2-1b:q4_0", "llama3.2-1b:q4_k_m", "llama3.2-1b:q8_0"])
    parser.add_argument("--isa", default="native", choices=BUILDS)
    parser.add_argument("--threads", default="1", help="one or more counts, with commas")
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path, default=ROOM / "side-by-side.svg")
    args = parser.parse_args()
    ROOM.mkdir(parents=True, exist_ok=True)
    python = environment(args.isa)
    forced = [] if args.isa == "native" else ["--isa", args.isa]
    print("| model | threads | prefill: llama.cpp | drupe | ratio | decode: llama.cpp | drupe | ratio |\n" + "|---" * 8 + "|")
    rows = []
    for name in args.models:
        path = model_file(name)
        for threads in args.threads.split(","):
            theirs, ours = [], []
            for _ in range(args.rounds):
                run = [python, "-c", PEER, path, str(args.prompt), str(args.tokens), threads]
                theirs.append(output(run))
                run = [DRUPE, "bench", path, "-p", str(args.prompt), "-n", str(args.tokens), "-t", threads, "--runs", "1"]
                d = output([*run, "--json", *forced])
                ours.append([d["prefill"]["tok_s"], d["decode"]["tok_s"]])
            row = [path.stem, int(threads)]
            for k in (0, 1):
                a, b = [t[k] for t in theirs], [o[k] for o in ours]
                row += [statistics.median(a), statistics.median(b), statistics.median(y / x for x, y in zip(a, b))]
            rows.append(row)
            print("| {} | {} | {:.1f} | {:.1f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |".format(*row), flush=True)
    args.plot.write_text(plot(rows, d["cpu"], args.isa))
    print(f"plot: {args.plot}", file=sys.stderr)


def plot(rows, cpu, isa):
    """Two panels of bars, tokens per second."""
    high, left, width = 34 * len(rows) + 70, 210, 300
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + 2 * (width + 60)}" height="{high}" '
           f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
           f'<text x="8" y="18" font-size="13">{cpu}, {isa}, tokens per second</text>']
    for panel, (title, at) in enumerate((("prefill", 2), ("decode", 5))):
        x0 = left + panel * (width + 60)
        most = max(max(r[at], r[at + 1]) for r in rows)
        out.append(f'<text x="{x0}" y="42" font-weight="bold">{title}</text>')
        for i, row in enumerate(rows):
            y = 52 + 34 * i
            if panel == 0:
                out.append(f'<text x="{left - 8}" y="{y + 18}" text-anchor="end">{row[0]}, {row[1]} thr.</text>')
            for k, (value, colour) in enumerate(((row[at], "#9aa3ad"), (row[at + 1], "#1f6f54"))):
                w = width * value / most
                out.append(f'<rect x="{x0}" y="{y + 14 * k}" width="{w:.1f}" height="12" fill="{colour}"/>'
                           f'<text x="{x0 + w + 4:.1f}" y="{y + 14 * k + 10}" font-size="11">{value:.1f}</text>')
    y = high - 10
    out.append(f'<rect x="{left}" y="{y - 9}" width="10" height="10" fill="#9aa3ad"/><text x="{left + 14}" y="{y}">llama.cpp'
               f'</text><rect x="{left + 90}" y="{y - 9}" width="10" height="10" fill="#1f6f54"/>'
               f'<text x="{left + 104}" y="{y}">drupe</text></svg>\n')
    return "\n".join(out)


if __name__ == "__main__":
    main()
