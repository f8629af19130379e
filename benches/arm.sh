#!/bin/sh
# Guest instructions per token of whole runs of `drupe bench` under QEMU, one thread, on the shape arm-100m: as Cortex-A72 (no
# dot product), Cortex-A76 (dot product) and QEMU's "max" (int8 matrices). A repeatable measure of Arm code where there is
# no board; it says nothing of time. The cost of a token is the difference of two runs, so that start-up is out.
#
#   benches/arm.sh [CPU…]                    default: cortex-a72 cortex-a76 max
#   TYPES="q4_0" benches/arm.sh cortex-a76   some of the formats
#   BY=symbol benches/arm.sh cortex-a76      what each function of a decode run and of a prefill run costs, start-up included
#
# What it needs beside a C compiler, and installs where it can: tests/cross.sh.
set -eu
cd "$(dirname "$0")/.."
. tests/cross.sh
cross_setup

build=$PWD/target/arm-bench
mkdir -p "$build"
cc -O2 -shared -fPIC -o "$build/count.so" benches/qemu_count.c
cargo build --release -p drupe-cli
$cross_cargo build --release --target $cross_target -p drupe-cli
drupe=target/$cross_target/release/drupe

# Two passes of each run are the same: `bench` does one that it does not count.
passes=2

# run CPU MODEL PROMPT TOKENS [PLUGIN OPTIONS]: what the plugin prints.
run() {
    $cross_run -cpu "$1" -plugin "$build/count.so$5" $drupe bench "$2" -t 1 -p "$3" -n "$4" --runs 1 2>&1 >"$build/log" |
        grep -E '^(executed: )?[0-9]+'
}

# per_token CPU MODEL PROMPT TOKENS PROMPT TOKENS: millions, of the difference.
per_token() {
    few=$(run "$1" "$2" "$3" "$4" "")
    many=$(run "$1" "$2" "$5" "$6" "")
    echo "$(($5 + $6 - $3 - $4)) ${few#*: } ${many#*: }" | awk -v n=$passes '{ printf "%.1f", ($3 - $2) / $1 / n / 1e6 }'
}

[ $# -gt 0 ] || set -- cortex-a72 cortex-a76 max
[ -n "${BY:-}" ] || printf '%-12s %-8s %18s %18s\n' CPU type 'decode, M/token' 'prefill, M/token'
for type in ${TYPES:-q4_0 q4_k_m q8_0}; do
    model=$build/$type.gguf
    [ -e "$model" ] || target/release/drupe synth arm-100m:"$type" "$model" >&2
    for cpu in "$@"; do
        if [ "${BY:-}" = symbol ]; then
            for lengths in "1 24" "96 1"; do
                echo "== $cpu $type, prompt and tokens: $lengths"
                # shellcheck disable=SC2086
                run "$cpu" "$model" $lengths ",by=symbol" | sort -rn | head -20
            done
            continue
        fi
        # Decode at positions 8 to 24; prefill of two batches of 48 beside one.
        decode=$(per_token "$cpu" "$model" 1 8 1 24)
        prefill=$(per_token "$cpu" "$model" 48 1 96 1)
        printf '%-12s %-8s %18s %18s\n' "$cpu" "$type" "$decode" "$prefill"
    done
done
