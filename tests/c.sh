#!/bin/sh
# The C face: both flavours built; the header as strict C99 and C++17; every example with reference tokens, here and, under QEMU,
# for 64-bit Arm, plain, under AddressSanitizer and under Valgrind; memory short of enough; sequences of random calls; no heap
# where none is promised, and how large that program is; an installation used through pkg-config and CMake.
#
#   SEQUENCES=1000000 FIRST=1 tests/c.sh     so many random sequences under AddressSanitizer, default 4000
#
# On Debian and Ubuntu, as root, what is missing is installed; else the part that needs it is skipped, with a line that says so.
set -eu
cd "$(dirname "$0")/.."
. tests/cross.sh

out=$PWD/target/c-tests
mkdir -p "$out"
cc=${CC:-cc}
c99="-std=c99 -Wall -Wextra -Wpedantic -Werror -D_POSIX_C_SOURCE=200809L -O1 -g -Itargets/c/include"
cxx17="-std=c++17 -Wall -Wextra -Wpedantic -Werror -O1 -g -Itargets/c/include"
examples=targets/c/examples
tests=targets/c/tests
libs="-lpthread -ldl -lm"
host=$(rustc -vV | sed -n 's/^host: //p')
# What a firmware for a model of one family with 4- and 8-bit weights asks for; see targets/c/Cargo.toml.
one_family=llama,byte-bpe,k-quants,dotprod
most_bytes=$((300 * 1024))
most_panics=400

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# has TOOL PACKAGE WHAT-FOR
has() {
    command -v "$1" >/dev/null || cross_install "$2" >"$out/install.txt" 2>&1 || true
    command -v "$1" >/dev/null || { echo "skipped: $3: no $1 (package $2)"; return 1; }
}

has "$cc" gcc "the C face" || exit 77
has c++ g++ "C++" || true
has python3 python3 "Python" || true

# Instruction sets and sizes as firmware has them; one archive for each set of features.
freestanding() {
    cargo rustc -q --profile firmware -p drupe-c --lib --crate-type staticlib --no-default-features "$@"
}

echo "-- building libdrupe.a, hosted and freestanding"
cargo build --release -q -p drupe-c
freestanding --features full
cp target/release/libdrupe.a "$out/hosted.a"
cp target/release/libdrupe.so "$out/libdrupe.so"
cp target/firmware/libdrupe.a "$out/freestanding.a"
cargo build --release -q -p drupe-cli
drupe=target/release/drupe

echo "-- the header"
for compiler in "$cc" clang; do
    command -v "$compiler" >/dev/null || continue
    for define in "" -DDRUPE_HOSTED; do
        echo '#include "drupe.h"' | $compiler $c99 $define -x c -fsyntax-only -
        echo '#include "drupe.hpp"' | $compiler $cxx17 $define -x c++ -fsyntax-only -
    done
    echo "ok: C99 and C++17, $compiler"
done
others=$(nm -D --defined-only "$out/libdrupe.so" | sed 's/.* //' | grep -v '^drupe_' || true)
[ -z "$others" ] || fail "libdrupe.so exports $others"
echo "ok: libdrupe.so exports nothing but drupe_*"

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
printf '%s\n' "$command_text" >"$out/chat.txt"
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
    text=$("$@" 2>"$out/errors.txt") || fail "$label: exit code $?: $(cat "$out/errors.txt")"
    case $text in "$reference"*) ;; *) fail "$label said: $text; expected: $reference" ;; esac
}

# tokens LABEL MODEL COMMAND...: the command must print the reference's ids.
tokens() {
    label=$1
    reference=$(cat "$out/$2.ids")
    shift 2
    text=$("$@" 2>"$out/errors.txt") || fail "$label: exit code $?: $(cat "$out/errors.txt")"
    [ "${text% }" = "$reference" ] || fail "$label gave: $text; expected: $reference"
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

# run_examples BUILD CC CXX LIBRARY RUNNER [FLAGS]: each example with both models. RUNNER is what runs a program, if
# anything.
run_examples() {
    build=$1 compiler=$2 plus=$3 library=$4 runner=$5 flags=${6:-}
    name=$(echo "$build" | tr ' ' -)
    ran="minimal.c slices.c"
    for e in minimal slices chat; do $compiler $c99 $flags $examples/$e.c "$library" $libs -o "$out/$e-$name"; done
    if command -v "$plus" >/dev/null; then
        case $build in *hosted*) hosted=-DDRUPE_HOSTED ;; *) hosted= ;; esac
        $plus $cxx17 $flags $hosted $examples/raii.cpp "$library" $libs -o "$out/raii-$name"
        ran="$ran raii.cpp"
    else
        echo "skipped: raii.cpp, $build: no $plus"
    fi
    for model in home stories; do
        says "minimal.c, $build, $model" $model $runner "$out/minimal-$name" "$(path_of $model)"
        tokens "slices.c, $build, $model" $model $runner "$out/slices-$name" "$(path_of $model)" "$prompt"
        case $ran in *raii*) says "raii.cpp, $build, $model" $model $runner "$out/raii-$name" "$(path_of $model)" ;; esac
    done
    case $build in *hosted*)
        $compiler $c99 $flags $examples/limited.c "$library" $libs -o "$out/limited-$name"
        ran="$ran limited.c"
        for model in home stories; do
            says "limited.c, $build, $model" $model $runner "$out/limited-$name" "$(path_of $model)"
            grep -q "of weights stay" "$out/errors.txt" || fail "limited.c did not tell the limit: $(cat "$out/errors.txt")"
        done
        # Refused, with the least that would do.
        if $runner "$out/limited-$name" $home 1 2>"$out/errors.txt" || ! grep -q "at least .* are needed" "$out/errors.txt"; then
            fail "limited.c, $build, in 1 MiB: $(cat "$out/errors.txt")"
        fi
        ;;
    esac
    text=$($runner "$out/chat-$name" $home <"$out/chat.txt")
    [ "$text" = "$(cat "$out/chat.text")" ] || fail "chat.c, $build, said: $text"
    echo "ok: $build: $ran chat.c"
}

# run_noheap BUILD CC NM LIBRARY RUNNER [FLAGS]: linked at a fixed address, as firmware is.
run_noheap() {
    build=$1 compiler=$2 nm=$3 library=$4 runner=$5 flags=${6:-}
    name=$(echo "$build" | tr ' ' -)
    for model in home stories; do
        program=$out/noheap-$name-$model
        $compiler $c99 $flags -DARENA_BYTES=8388608u $examples/noheap.c $examples/noheap_main.c "$out/$model.s" "$library" \
            -no-pie -Wl,--gc-sections -Wl,-Map="$program.map" -o "$program"
        says "noheap.c, $build, $model" $model $runner "$program"
    done
    [ -z "$flags" ] || { echo "ok: $build: noheap.c" && return; }
    # What the map took in, from the library or from the system; the C library's own start may say what it likes.
    if grep -E 'lib(stdc\+\+|supc\+\+|gcc_eh|unwind|c)\.a|(__rust_alloc|__rg_alloc|_Unwind_|_ZSt|__cxa_throw)' "$program.map" |
        grep -v '^ \*(\|/DISCARD/'; then
        fail "an allocator, an unwinder or libstdc++ is in $program.map"
    fi
    # What it takes from outside, the C library's start and the trap's and print's calls apart.
    outside=$($nm -u "$program" | sed 's/.* //; s/@.*//' | grep -vE \
        '^(__libc_start_main|__gmon_start__|__cxa_finalize|_ITM_.*|abort|write|_exit|memcpy|memmove|memset|memcmp|bcmp|strlen|getauxval)$' || true)
    [ -z "$outside" ] || fail "noheap.c, $build, needs from outside: $outside"
    echo "ok: $build: noheap.c: no allocator, unwinder or libstdc++; nothing but memcpy-class functions from outside"
}

echo "-- examples on this machine"
run_examples "hosted" "$cc" c++ "$out/hosted.a" ""
run_examples "freestanding" "$cc" c++ "$out/freestanding.a" ""
run_noheap "freestanding" "$cc" nm "$out/freestanding.a" ""
if command -v python3 >/dev/null; then
    for model in home stories; do
        says "drupe.py, $model" $model python3 $examples/drupe.py "$out/libdrupe.so" "$(path_of $model)"
        grep -q "of weights stay" "$out/errors.txt" || fail "drupe.py did not tell the limit"
    done
    echo "ok: libdrupe.so: drupe.py"
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
    python3 $tests/split.py $home "$out/home"
    part=$out/home-00002-of-00002.gguf
fi
# compile_tests NAME CC HOSTED FREESTANDING [FLAGS]
compile_tests() {
    $2 $c99 ${5:-} -DDRUPE_HOSTED $tests/features.c "$3" $libs -o "$out/features-hosted-$1"
    $2 $c99 ${5:-} $tests/features.c "$4" -o "$out/features-freestanding-$1"
    $2 $c99 ${5:-} $tests/arenas.c "$4" -o "$out/arenas-$1"
}
compile_tests here "$cc" "$out/hosted.a" "$out/freestanding.a"
"$out/features-hosted-here" $home "$stories" $part
"$out/features-freestanding-here" "$stories" $home
"$out/arenas-here" "$stories" $home

echo "-- under AddressSanitizer, the library too"
asan="-fsanitize=address,undefined -fno-sanitize-recover=all"
# The compiler's own sanitizer, which stable Rust keeps behind a flag; what would overflow or break an assertion shows as well.
# sanitized OUT TARGET CARGO [CARGO ARGUMENTS]
sanitized() {
    archive=$1 target=$2 cargo=$3
    shift 3
    RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=$out/asan $cargo rustc -q --profile firmware -p drupe-c \
        --lib --crate-type staticlib --target "$target" --config profile.firmware.lto=false \
        --config profile.firmware.codegen-units=16 --config profile.firmware.debug=1 \
        --config profile.firmware.debug-assertions=true "$@"
    cp "$out/asan/$target/firmware/libdrupe.a" "$out/$archive.a"
}
if echo 'int main(void){return 0;}' | $cc $asan -x c - -o "$out/asan-probe" 2>/dev/null && "$out/asan-probe"; then
    sanitized asan-hosted "$host" cargo --config 'profile.firmware.panic="unwind"'
    sanitized asan-freestanding "$host" cargo --no-default-features --features full
    run_examples "hosted ASan" "$cc" c++ "$out/asan-hosted.a" "" "$asan"
    run_examples "freestanding ASan" "$cc" c++ "$out/asan-freestanding.a" "" "$asan"
    run_noheap "freestanding ASan" "$cc" nm "$out/asan-freestanding.a" "" "$asan -DNO_TRAP"
    compile_tests asan "$cc" "$out/asan-hosted.a" "$out/asan-freestanding.a" "$asan"
    "$out/features-hosted-asan" $home "$stories" $part >/dev/null
    "$out/features-freestanding-asan" "$stories" $home >/dev/null
    "$out/arenas-asan" "$stories" >/dev/null
    echo "ok: features.c, arenas.c"
    # The hosted library: a panic is a code there, and a failure here.
    $cc $c99 $asan $tests/sequences.c "$out/asan-hosted.a" $libs -o "$out/sequences-asan"
    $drupe synth tiny-llama:q8_0 "$out/tiny-llama.gguf" 2>/dev/null
    $drupe synth tiny-gemma2:q4_0 "$out/tiny-gemma2.gguf" 2>/dev/null
    "$out/sequences-asan" "${SEQUENCES:-4000}" "${FIRST:-1}" "$stories" "$out/tiny-llama.gguf" "$out/tiny-gemma2.gguf" 2>"$out/errors.txt" ||
        fail "sequences.c: $(cat "$out/errors.txt")"
else
    echo "skipped: no AddressSanitizer"
fi

echo "-- under Valgrind"
if has valgrind valgrind "Valgrind"; then
    # It does not know AVX-512; it tells the program so, and the kernels follow.
    valgrind="valgrind -q --error-exitcode=9 --leak-check=full"
    run_examples "hosted Valgrind" "$cc" c++ "$out/hosted.a" "$valgrind"
    run_examples "freestanding Valgrind" "$cc" c++ "$out/freestanding.a" "$valgrind"
    run_noheap "freestanding Valgrind" "$cc" nm "$out/freestanding.a" "$valgrind"
    $valgrind "$out/features-hosted-here" "$stories" $home >/dev/null
    echo "ok: features.c"
fi

echo "-- installed"
sh tests/c_install.sh "$out" "$stories" "$(cat "$out/stories.text")"

echo "-- 64-bit Arm under QEMU"
if ! cross_setup; then
    echo "skipped: 64-bit Arm: what it needs is not here (see above)"
    exit 0
fi
# Without unwinding tables: nothing unwinds, and they would be a twentieth of the program.
arm_freestanding() {
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-Cforce-unwind-tables=no" $cross_cargo rustc -q --profile firmware \
        -p drupe-c --lib --crate-type staticlib --target $cross_target --no-default-features --features "$1"
    cp target/$cross_target/firmware/libdrupe.a "$out/arm-$2.a"
}
arm_freestanding full full
arm_freestanding $one_family one
$cross_cargo build --release -q -p drupe-c --target $cross_target
cp target/$cross_target/release/libdrupe.a "$out/arm-hosted.a"
arm_cc=aarch64-linux-gnu-gcc
arm_nm=aarch64-linux-gnu-nm
has aarch64-linux-gnu-g++ g++-aarch64-linux-gnu "C++ for 64-bit Arm" || true
run_examples "aarch64 hosted" $arm_cc aarch64-linux-gnu-g++ "$out/arm-hosted.a" "$cross_run -cpu cortex-a76"
run_examples "aarch64 freestanding" $arm_cc aarch64-linux-gnu-g++ "$out/arm-full.a" "$cross_run -cpu cortex-a72"
run_noheap "aarch64 full" $arm_cc $arm_nm "$out/arm-full.a" "$cross_run -cpu cortex-a72"
run_noheap "aarch64 one family" $arm_cc $arm_nm "$out/arm-one.a" "$cross_run -cpu cortex-a76"
# Leaks cannot be looked for under emulation.
asan_run="env ASAN_OPTIONS=detect_leaks=0 $cross_run -cpu cortex-a76"
if echo 'int main(void){return 0;}' | $arm_cc $asan -x c - -o "$out/asan-probe-arm" 2>/dev/null && $asan_run "$out/asan-probe-arm"; then
    sanitized arm-asan $cross_target "$cross_cargo" --no-default-features --features full
    run_examples "aarch64 freestanding ASan" $arm_cc aarch64-linux-gnu-g++ "$out/arm-asan.a" "$asan_run" "$asan"
    run_noheap "aarch64 freestanding ASan" $arm_cc $arm_nm "$out/arm-asan.a" "$asan_run" "$asan -DNO_TRAP"
else
    echo "skipped: no AddressSanitizer for 64-bit Arm"
fi
for set in full one-family; do
    # The Berkeley format's text has the constants in it, and so the model.
    bytes=$(aarch64-linux-gnu-size "$out/noheap-aarch64-$set-home" | awk -v model="$(wc -c <$home)" 'NR == 2 { print $1 - model + $2 }')
    echo "size: noheap.c for aarch64, $set: text and data $bytes bytes beside the model"
done
[ "$bytes" -le $most_bytes ] || fail "the no-heap program of one family takes $bytes bytes; at most $most_bytes are allowed"
echo "ok: features $one_family: $bytes of at most $most_bytes bytes"

# A program with every function of the header, for what can still reach a panic.
every=$($arm_nm -g --defined-only "$out/arm-one.a" 2>/dev/null | sed -n 's/.* T \(drupe_.*\)/-Wl,-u,\1/p')
[ "$(echo "$every" | wc -l)" -ge 29 ] || fail "only these functions are in the library: $every"
$arm_cc $c99 -DARENA_BYTES=8388608u $examples/noheap.c $examples/noheap_main.c "$out/home.s" "$out/arm-one.a" -no-pie \
    -Wl,--gc-sections $every -o "$out/every-function"
sh tests/c_panics.sh aarch64-linux-gnu-objdump "$out/every-function" "$out/panics.txt"
panics=$(sed -n 's/^all: //p' "$out/panics.txt")
[ "$panics" -le $most_panics ] || fail "$panics calls of the panic machinery; at most $most_panics are allowed: $out/panics.txt"
echo "ok: $panics of at most $most_panics calls of the panic machinery, each in a place that targets/c/panics.txt explains"
