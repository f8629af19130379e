#!/bin/sh
# The C face: both flavours built, every example compiled as strict C99 (or C++17) and run here and, under QEMU, for 64-bit
# Arm, against reference tokens; the shared library from Python; no heap where none is promised; the size of the no-heap
# program; sanitizers; an installation used through pkg-config and CMake.
#
#   CALLS=1000000 tests/c.sh     so many random calls under AddressSanitizer, default 20000
set -eu
cd "$(dirname "$0")/.."

out=$PWD/target/c-tests
mkdir -p "$out"
cc=${CC:-cc}
command -v "$cc" >/dev/null || { echo "skipped: no C compiler (cc)"; exit 77; }
c99="-std=c99 -Wall -Wextra -Wpedantic -Werror -D_POSIX_C_SOURCE=200809L -O1 -g -Itargets/c/include"
cxx17="-std=c++17 -Wall -Wextra -Wpedantic -Werror -O1 -g -Itargets/c/include"
examples=targets/c/examples
libs="-lpthread -ldl -lm"
# What a firmware for a model of one family with 4- and 8-bit weights asks for; see targets/c/Cargo.toml.
one_family=llama,byte-bpe,k-quants,dotprod,details
most_bytes=$((300 * 1024))

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

echo "-- building libdrupe.a, hosted and freestanding"
cargo build --release -p drupe-c
cargo rustc --profile firmware -p drupe-c --lib --no-default-features --features full --crate-type staticlib
cp target/release/libdrupe.a "$out/hosted.a"
cp target/release/libdrupe.so "$out/libdrupe.so"
cp target/firmware/libdrupe.a "$out/free.a"
cargo build --release -q -p drupe-cli
drupe=target/release/drupe

echo "-- references"
prompt="Once upon a time"
command_text="turn off the heater in the garage in ten minutes"
home=targets/model/home.gguf
shared=${DRUPE_SHARED:-../shared}
stories=$shared/models/stories260K-f32.gguf
# Of a model, what the program says: 20 ids, and the text up to its first escaped character.
ids() { sed -n 's/.*"ids":\[\([0-9,]*\)\].*/\1/p' "$1" | tr , ' '; }
said() { sed -n 's/.*"text":"\(.*\)","tok_s".*/\1/p' "$1"; }
refer() {
    $drupe run -m "$1" --temp 0 -n 60 --raw --json "$prompt" 2>/dev/null >"$out/$2.json"
    ids "$out/$2.json" | cut -d ' ' -f 1-20 >"$out/$2.ids"
    said "$out/$2.json" | sed 's/\\.*//' >"$out/$2.text"
}
refer $home home
$drupe run -m $home --temp 0 -n 80 --json "$command_text" 2>/dev/null >"$out/chat.json"
said "$out/chat.json" | sed 's/\\"/"/g' >"$out/chat.text"
if [ -f "$stories" ]; then
    # Not by this project: made by llama.cpp.
    expected=${stories%.gguf}.expect.json
    sed -n '/"greedy_tokens"/,/\]/p' "$expected" | tr -dc '0-9\n' | grep . | head -20 | tr '\n' ' ' | sed 's/ $//' >"$out/stories.ids"
    sed -n 's/.*"text": "'"$prompt"'\([^\\]*\).*/\1/p' "$expected" >"$out/stories.text"
else
    echo "skipped: $stories is not here; a synthetic model takes its place"
    stories=$out/stories.gguf
    $drupe synth tiny-llama:f32 "$stories" 2>/dev/null
    refer "$stories" stories
fi
for model in home stories; do
    [ "$(wc -w <"$out/$model.ids")" = 20 ] && [ -s "$out/$model.text" ] || fail "no reference for $model"
done
path_of() { [ "$1" = home ] && echo $home || echo "$stories"; }

# says LABEL MODEL COMMAND...: the command must print the reference text.
says() {
    label=$1
    reference=$(cat "$out/$2.text")
    shift 2
    text=$("$@") || fail "$label: exit code $?"
    case $text in "$reference"*) echo "ok: $label" ;; *) fail "$label said: $text; expected: $reference" ;; esac
}

# tokens LABEL MODEL COMMAND...: the command must print the reference's ids.
tokens() {
    label=$1
    reference=$(cat "$out/$2.ids")
    shift 2
    text=$("$@" 2>"$out/errors.txt" | sed 's/ *$//') || fail "$label: exit code $?"
    [ "$text" = "$reference" ] || fail "$label gave: $text; expected: $reference"
    echo "ok: $label$(sed 's/^/: /' "$out/errors.txt")"
}

# The models as bytes in a program.
for model in home stories; do
    cat >"$out/$model.s" <<S
    .section .model,"a"
    .balign 64
    .global model_start
    .global model_end
model_start:
    .incbin "$(path_of $model)"
model_end:
    .section .note.GNU-stack,"",%progbits
S
done

# run_examples NAME CC CXX LIBRARY RUNNER: each example with both models.
run_examples() {
    name=$1 compiler=$2 plus=$3 library=$4 runner=$5
    for e in minimal slices chat; do $compiler $c99 $examples/$e.c "$library" $libs -o "$out/$e-$name"; done
    if command -v "$plus" >/dev/null; then $plus $cxx17 $examples/raii.cpp "$library" $libs -o "$out/raii-$name"; fi
    for model in home stories; do
        says "minimal.c, $name, $model" $model $runner "$out/minimal-$name" "$(path_of $model)"
        tokens "slices.c, $name, $model" $model $runner "$out/slices-$name" "$(path_of $model)" "$prompt"
        [ ! -x "$out/raii-$name" ] || says "raii.cpp, $name, $model" $model $runner "$out/raii-$name" "$(path_of $model)"
    done
    [ -x "$out/raii-$name" ] || echo "skipped: no $plus for raii.cpp"
    printf '%s\n' "$command_text" >"$out/chat.txt"
    text=$($runner "$out/chat-$name" $home <"$out/chat.txt")
    [ "$text" = "$(cat "$out/chat.text")" ] || fail "chat.c, $name, said: $text"
    echo "ok: chat.c, $name"
}

# run_noheap NAME CC NM LIBRARY RUNNER: linked at a fixed address, as firmware is.
run_noheap() {
    name=$1 compiler=$2 nm=$3 library=$4 runner=$5
    for model in home stories; do
        $compiler $c99 -DARENA_BYTES=8388608u $examples/noheap.c $examples/noheap_main.c "$out/$model.s" "$library" \
            -no-pie -Wl,--gc-sections -Wl,-Map="$out/noheap-$name.map" -o "$out/noheap-$name-$model"
        says "noheap.c, $name, $model" $model $runner "$out/noheap-$name-$model"
        if $nm "$out/noheap-$name-$model" | grep -E ' [TtWw] .*(__rust_alloc|__rg_alloc|_Unwind_|_ZSt|__cxa_throw)'; then
            fail "an allocator, an unwinder or libstdc++ was linked"
        fi
    done
    # What it takes from outside, the C library's start and the trap's and print's calls apart.
    outside=$($nm -u "$out/noheap-$name-home" | sed 's/.* //; s/@.*//' | grep -vE \
        '^(__libc_start_main|__gmon_start__|__cxa_finalize|_ITM_.*|abort|write|_exit|memcpy|memmove|memset|memcmp|bcmp|strlen|getauxval)$' || true)
    [ -z "$outside" ] || fail "noheap, $name, needs from outside: $outside"
    echo "ok: noheap, $name: no allocator, unwinder or libstdc++; nothing but memcpy-class functions from outside"
}

echo "-- examples on this machine"
run_examples hosted "$cc" c++ "$out/hosted.a" ""
run_examples freestanding "$cc" c++ "$out/free.a" ""
run_noheap freestanding "$cc" nm "$out/free.a" ""
if command -v python3 >/dev/null; then
    for model in home stories; do
        says "drupe.py, $model" $model python3 $examples/drupe.py "$out/libdrupe.so" "$(path_of $model)"
    done
else
    echo "skipped: no python3 for drupe.py"
fi

# A long prompt of the built-in model, in slices of 5 ms of processor time: one in eight may be longer, as the machine has
# other things to do.
long=$(for _ in 1 2 3 4 5 6 7 8; do printf '%s, then tell a story about a dog who lived by the sea, and ' "$command_text"; done)
"$out/slices-hosted" $home "$long" 2>"$out/errors.txt" >/dev/null
sed 's/^\([0-9]*\) tokens in \([0-9]*\) slices.*, \([0-9]*\) over.*/\1 \2 \3/' "$out/errors.txt" | {
    read -r fed slices over
    [ "$fed" -gt 200 ] && [ $((over * 8)) -le "$slices" ] || fail "slices.c: $(cat "$out/errors.txt")"
}
echo "ok: slices of 5 ms: $(cat "$out/errors.txt")"

echo "-- what the examples do not show"
part=
if command -v python3 >/dev/null; then
    python3 targets/c/tests/split.py $home "$out/home"
    part=$out/home-00002-of-00002.gguf
else
    echo "skipped: no python3 to split a model"
fi
$cc $c99 -DDRUPE_HOSTED targets/c/tests/features.c "$out/hosted.a" $libs -o "$out/features-hosted"
"$out/features-hosted" $home "$stories" $part
$cc $c99 targets/c/tests/features.c "$out/free.a" -o "$out/features-freestanding"
"$out/features-freestanding" "$stories" $home

echo "-- under AddressSanitizer and Valgrind"
if echo 'int main(void){return 0;}' | $cc -fsanitize=address -x c - -o "$out/asan-probe" 2>/dev/null && "$out/asan-probe"; then
    asan="-fsanitize=address,undefined -fno-sanitize-recover=all"
    for e in minimal slices; do
        for flavour in hosted free; do
            $cc $c99 $asan $examples/$e.c "$out/$flavour.a" $libs -o "$out/$e-asan"
            for model in home stories; do "$out/$e-asan" "$(path_of $model)" >/dev/null 2>"$out/errors.txt" || fail "$e: $(cat "$out/errors.txt")"; done
        done
    done
    $cc $c99 $asan $examples/chat.c "$out/hosted.a" $libs -o "$out/chat-asan"
    "$out/chat-asan" $home <"$out/chat.txt" >/dev/null
    $cc $c99 $asan -DDRUPE_HOSTED targets/c/tests/features.c "$out/hosted.a" $libs -o "$out/features-asan"
    "$out/features-asan" $home "$stories" $part >/dev/null
    echo "ok: minimal, slices, chat and features under AddressSanitizer"
    $cc $c99 $asan targets/c/tests/calls.c "$out/free.a" -o "$out/calls-asan"
    "$out/calls-asan" "$stories" ${CALLS:-20000} ${SEED:-1}
else
    echo "skipped: no AddressSanitizer"
fi
if command -v valgrind >/dev/null; then
    # Valgrind does not know AVX-512; it tells the program so, and the kernels follow.
    for e in minimal slices raii; do
        for flavour in hosted freestanding; do
            [ -x "$out/$e-$flavour" ] || continue
            valgrind -q --error-exitcode=9 --leak-check=full "$out/$e-$flavour" "$stories" >/dev/null 2>"$out/errors.txt" ||
                fail "$e, $flavour: $(cat "$out/errors.txt")"
        done
    done
    valgrind -q --error-exitcode=9 --leak-check=full "$out/noheap-freestanding-stories" >/dev/null 2>"$out/errors.txt" ||
        fail "noheap: $(cat "$out/errors.txt")"
    echo "ok: minimal, slices, raii and noheap under Valgrind"
else
    echo "skipped: no valgrind"
fi

echo "-- installed"
sh tests/c_install.sh "$out" "$stories" "$(cat "$out/stories.text")"

echo "-- 64-bit Arm under QEMU"
. tests/cross.sh
if ! cross_setup; then
    echo "skipped: 64-bit Arm: what it needs is not here (see above)"
    exit 0
fi
# Without unwinding tables: nothing unwinds, and they would be a twentieth of the program.
arm_free() {
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-Cforce-unwind-tables=no" $cross_cargo rustc --profile firmware \
        -p drupe-c --lib --no-default-features --features "$1" --crate-type staticlib --target $cross_target
    cp target/$cross_target/firmware/libdrupe.a "$out/arm-$2.a"
}
$cross_cargo build --release -p drupe-c --target $cross_target
cp target/$cross_target/release/libdrupe.a "$out/arm-hosted.a"
arm_free full full
arm_free $one_family one
arm_cc=aarch64-linux-gnu-gcc
command -v aarch64-linux-gnu-g++ >/dev/null || cross_install g++-aarch64-linux-gnu || true
run_examples arm-hosted $arm_cc aarch64-linux-gnu-g++ "$out/arm-hosted.a" "$cross_run -cpu cortex-a76"
run_examples arm-freestanding $arm_cc aarch64-linux-gnu-g++ "$out/arm-full.a" "$cross_run -cpu cortex-a72"
for set in full one; do
    run_noheap arm-$set $arm_cc aarch64-linux-gnu-nm "$out/arm-$set.a" "$cross_run -cpu cortex-a76"
    # The Berkeley format's text has the constants in it, and so the model.
    bytes=$(aarch64-linux-gnu-size "$out/noheap-arm-$set-home" | awk -v model="$(wc -c <$home)" 'NR == 2 { print $1 - model + $2 }')
    echo "size: noheap.c for aarch64, $set: text and data $bytes bytes beside the model"
done
[ "$bytes" -le $most_bytes ] || fail "the no-heap program of one family takes $bytes bytes; at most $most_bytes are allowed"
echo "ok: features $one_family: $bytes of at most $most_bytes bytes"
