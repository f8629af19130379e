#!/usr/bin/env python3
"""Decoding under hard memory limits: drupe and, where there is one, llama.cpp's llama-bench, in turn, each from a cold cache.

  cargo build --release -p drupe-host --example residency_speed
  benches/limits.py MODEL.gguf [--limits 90,65,35] [--peer PATH/llama-bench] [--threads 1] [--tokens 32] [--rounds 1]

A limit is a share of the file in percent, set on a control group (v1 or v2; needs the right to make one) in which each
program runs alone. drupe promises to stay under it; with --slack MIB the group's limit is so much higher, so that a
broken promise shows as a peak above it instead of being held back by the kernel. llama.cpp maps the file and does not
repack its weights: repacked they would not fit. `bound` is what max(computing, streamed bytes / storage speed) allows,
all measured in the run itself (storage four times in between the tokens, computing over as much memory as the weights
had), and is also what the plan predicts; `of bound` is the share of it that was reached. `drift` is the median time per
token of the last tenth over that of the first, `growth` what the process grew by meanwhile.
"""
import argparse, json, os, subprocess, sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


class Group:
    """A control group of its own with a memory limit, removed at the end."""

    def __init__(self, limit):
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        v1 = next((path for _, names, path in lines if "memory" in names.split(",")), None)
        base = Path("/sys/fs/cgroup") / ("memory" if v1 is not None else "")
        own = v1 if v1 is not None else next(path for number, _, path in lines if number == "0")
        # In the second generation only groups without processes may have limited children: go up until one may.
        for parent in [base / own.lstrip("/"), *(base / own.lstrip("/")).parents]:
            self.path = parent / f"drupe-limits-{os.getpid()}"
            try:
                self.path.mkdir()
                (self.path / ("memory.limit_in_bytes" if v1 is not None else "memory.max")).write_text(str(limit))
                break
            except OSError:
                if self.path.exists():
                    self.path.rmdir()
                if parent == base:
                    sys.exit("no control group with a memory limit can be made here: run as root, or on Raspberry Pi OS "
                             "add cgroup_enable=memory to the kernel's command line")
        self.peak_file = self.path / ("memory.max_usage_in_bytes" if v1 is not None else "memory.peak")

    def run(self, command, env=None):
        """Output and exit code of a command run inside."""
        inside = lambda: (self.path / "cgroup.procs").write_text(str(os.getpid()))
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=inside, env=env)
        self.peak = int(self.peak_file.read_text())
        self.path.rmdir()
        return done


def chill(model, drop_caches):
    """Drops the file from the page cache, so that whoever reads it pays for it."""
    fd = os.open(model, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    if drop_caches:
        Path("/proc/sys/vm/drop_caches").write_text("1")


def peer_speed(peer, model, threads, tokens, limit):
    """Tokens per second, or why there are none."""
    env = dict(os.environ, LD_LIBRARY_PATH=f"{Path(peer).parent}:{os.environ.get('LD_LIBRARY_PATH', '')}")
    usage = subprocess.run([peer, "--help"], capture_output=True, text=True, env=env).stdout
    mapped = ["-lm", "mmap"] if "--load-mode" in usage else ["-mmp", "1"]
    plain = ["--repack", "0"] if "--repack <" in usage else ["--no-repack", "1"]
    done = Group(limit).run([peer, "-m", model, "-t", str(threads), "-p", "0", "-n", str(tokens), "-r", "1",
                             *mapped, *plain, "-o", "json"], env)
    if done.returncode < 0:
        return None, "killed"
    try:
        return json.loads(done.stdout)[0]["avg_ts"], None
    except (ValueError, IndexError, KeyError):
        return None, f"failed ({done.returncode})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--limits", default="90,65,35", help="percent of the file's size, with commas")
    parser.add_argument("--peer", help="path of llama-bench")
    parser.add_argument("--speed", default=HERE / "target/release/examples/residency_speed", help="drupe's own side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--peer-tokens", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--slack", type=int, default=0, help="MiB by which the group's limit is above the promise")
    parser.add_argument("--way", default="uring", choices=["uring", "threads", "cached"])
    parser.add_argument("--drop-caches", action="store_true", help="drop the whole page cache before each run")
    args = parser.parse_args()
    size = os.path.getsize(args.model)
    columns = ["limit MiB", "of file", "drupe", "peer", "ratio", "bound", "of bound", "compute ms", "storage ms", "p50 ms",
               "p99 ms", "p99/p50", "GB/s disk", "MB/token", "peak MiB", "kept", "drift", "growth KiB"]
    print(" | ".join(f"{c:>10}" for c in columns))
    for _ in range(args.rounds):
        for percent in map(float, args.limits.split(",")):
            promise = int(size * percent / 100) >> 20
            chill(args.model, args.drop_caches)
            group = Group(promise + args.slack << 20)
            done = group.run([args.speed, args.model, str(promise), str(args.threads), str(args.tokens), args.way])
            if done.returncode != 0:
                print(f"{promise:>10} | {percent:>9g}% | {done.stderr.decode().strip()[-300:]} ({done.returncode})")
                continue
            d = json.loads(done.stdout)
            peer, why = None, "-"
            if args.peer:
                chill(args.model, args.drop_caches)
                peer, why = peer_speed(args.peer, args.model, args.threads, args.peer_tokens, promise + args.slack << 20)
            row = [f"{promise}", f"{percent:g}%", f"{d['tok_s']:.2f}", why if peer is None else f"{peer:.2f}",
                   "-" if peer is None else f"{d['tok_s'] / peer:.2f}", f"{d['expected_tok_s']:.2f}", f"{d['of_bound']:.2f}",
                   f"{d['compute_ms']:.1f}", f"{d['storage_ms']:.1f}", f"{d['p50_ms']:.1f}", f"{d['p99_ms']:.1f}",
                   f"{d['p99_ms'] / d['p50_ms']:.2f}", f"{d['storage_gb_s']:.2f}", f"{d['streamed_bytes'] / 1e6:.0f}",
                   f"{group.peak / 2**20:.1f}", "yes" if group.peak <= promise << 20 else "NO",
                   f"{d['drift']:.2f}", f"{d['growth'] / 1024:.0f}"]
            print(" | ".join(f"{c:>10}" for c in row), flush=True)


if __name__ == "__main__":
    main()
