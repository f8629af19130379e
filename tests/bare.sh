#!/bin/sh
# drupe with no operating system: both images are built and run under QEMU, and answer token for token as the program on
# this machine does; no allocator is linked.
#
# Needs aarch64 binutils and qemu-system-aarch64; on Debian and Ubuntu, as root, it installs what is missing. The Rust
# target comes from rustup; where rustup cannot fetch it, core is built from Debian's sources (rust-web-src), as root.
set -eu
cd "$(dirname "$0")/.."

target=aarch64-unknown-none
out=$PWD/target/bare-tests
mkdir -p $out

skip() {
    echo "skipped: $*"
    exit 77
}

install() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        skip "needs the packages: $*"
    fi
    echo "tests/bare.sh: installing $*" >&2
    apt-get install -y --no-install-recommends "$@" >&2 ||
        { apt-get update >&2 && apt-get install -y --no-install-recommends "$@" >&2; } ||
        skip "these packages could not be installed: $*"
}

command -v aarch64-linux-gnu-ld >/dev/null || install binutils-aarch64-linux-gnu
command -v qemu-system-aarch64 >/dev/null || install qemu-system-arm

echo "-- building the images"
flags="-Ctarget-feature=-strict-align -Clinker=aarch64-linux-gnu-ld -Clinker-flavor=ld"
if command -v rustup >/dev/null && timeout 60 rustup target add $target >/dev/null 2>&1; then
    image_cargo="cargo build"
else
    echo "tests/bare.sh: no $target from rustup; building core from Debian's sources" >&2
    [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] || install rustc-web cargo-web
    source=/usr/lib/rustlib/src/rust
    [ -e $source/library/core ] || { install rust-web-src && mkdir -p ${source%/*} && ln -sfn /usr/src/rustc-[0-9]* $source; }
    image_cargo="env RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc /usr/bin/cargo build -Zbuild-std=core"
fi
(cd targets/bare && CARGO_TARGET_AARCH64_UNKNOWN_NONE_RUSTFLAGS="$flags" $image_cargo --release --bins --target $target)
built=$PWD/targets/bare/target/$target/release

echo "-- no allocator"
for file in $built/virt $built/raspi3b $built/deps/libdrupe_bare-*.rlib $built/deps/libdrupe-*.rlib $built/deps/libdrupe_quant-*.rlib; do
    if aarch64-linux-gnu-nm "$file" 2>/dev/null | grep -E '__rust_(alloc|dealloc|realloc)|__rg_|__rdl_| (malloc|calloc|realloc|free)$'; then
        echo "FAILED: $file knows an allocator" >&2
        exit 1
    fi
done
model=targets/model/home.gguf
for image in virt raspi3b; do
    # The Berkeley format's text has the constants in it, and so the model.
    aarch64-linux-gnu-size $built/$image | awk -v model="$(wc -c <$model)" -v image=$image \
        'NR == 2 { print "ok: " image ": text " $1 - model " and data " $2 " bytes beside the model, no allocator" }'
done

echo "-- what this machine answers"
[ -n "${DRUPE:-}" ] || cargo build --release -q -p drupe-cli
drupe=${DRUPE:-target/release/drupe}
first="turn off the heater in the garage in ten minutes"
second="please lock the front door and dim the kitchen lights to 30 percent"
expect() { $drupe run -m $model --temp 0 -n 128 --json "$1" 2>/dev/null >$out/host.json; }
tokens() { sed -n 's/.*"ids":\[\([0-9,]*\)\].*/\1/p' $out/host.json | tr , ' '; }
expect "$first"
first_tokens=$(tokens)
expect "$second"
second_tokens=$(tokens)
[ -n "$first_tokens" ] && [ -n "$second_tokens" ] || { echo "FAILED: the program gave no tokens" >&2; exit 1; }

# All cores of a machine take turns on one thread: on threads of their own, on fewer cores than they are, they would wait for
# each other most of the time.
#
# Boots an image, types the second prompt when it is asked for, then the end.
boot() {
    : >$out/said
    (
        waited=0
        until grep -q '^> ' $out/said || [ $waited = 300 ]; do sleep 0.5; waited=$((waited + 1)); done
        printf '%s\n\004' "$second"
    ) | (cd $out && exec timeout 200 qemu-system-aarch64 "$@" -accel tcg,thread=single -nic none -display none -monitor none -serial stdio \
        -semihosting-config enable=on,target=native) >$out/said 2>$out/qemu.txt || {
        echo "FAILED: exit code $? from qemu-system-aarch64 $*" >&2
        cat $out/said $out/qemu.txt >&2
        exit 1
    }
    tr -d '\r' <$out/said >$out/lines
}

check() {
    name=$1
    image=$built/$2
    shift 2
    boot "$@" -kernel "$image"
    if [ "$(sed -n 's/^tokens: //p' $out/lines)" != "$first_tokens
$second_tokens" ]; then
        echo "FAILED: $name answers otherwise than this machine: $first_tokens; $second_tokens" >&2
        cat $out/lines >&2
        exit 1
    fi
    echo "ok: $name"
    if [ -n "$defmt_print" ]; then
        "$defmt_print" -e "$image" <$out/drupe.defmt >$out/log.txt
        for line in 'arena: ' 'stack of core 0: '; do
            grep -q "$line" $out/log.txt || { echo "FAILED: the log has no '$line':" >&2; cat $out/log.txt >&2; exit 1; }
        done
        echo "ok: the log, decoded by defmt-print: $(wc -l <$out/log.txt) frames"
    fi
    grep -E '^(drupe|kernels|arena|answer|ticks|stack)' $out/lines | sed 's/^/    /'
}

# What reads the log: from the path, or built here once.
defmt_print=$(command -v defmt-print || true)
if [ -z "$defmt_print" ]; then
    [ -x $out/tools/bin/defmt-print ] || cargo install -q --locked --root $out/tools defmt-print --version '^1' ||
        echo "skipped: no defmt-print to decode the log (cargo install defmt-print)"
    [ ! -x $out/tools/bin/defmt-print ] || defmt_print=$out/tools/bin/defmt-print
fi

echo "-- images under QEMU"
check "virt, one Cortex-A76" virt -M virt -cpu cortex-a76 -m 1G
check "virt, four Cortex-A76" virt -M virt -cpu cortex-a76 -m 1G -smp 4
check "raspi3b, four Cortex-A53" raspi3b -M raspi3b
