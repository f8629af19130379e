#!/bin/sh
# The C face: both flavours built, every example compiled as strict C99 (or C++17) and run, the shared library from Python,
# no heap where none is promised, sanitizers.
set -eu
cd "$(dirname "$0")/.."

out=target/c-tests
mkdir -p $out
cc=${CC:-cc}
command -v "$cc" >/dev/null || { echo "skipped: no C compiler (cc)"; exit 77; }
c99="-std=c99 -Wall -Wextra -Wpedantic -Werror -D_POSIX_C_SOURCE=200809L -O1 -g -Itargets/c/include"
examples=targets/c/examples

echo "-- building libdrupe.a, hosted and freestanding"
cargo build --release -p drupe-c
cp target/release/libdrupe.a $out/libdrupe-hosted.a
cp target/release/libdrupe.so $out/libdrupe.so
cargo rustc --release -p drupe-c --lib --no-default-features --crate-type staticlib --target-dir target/freestanding -- -C panic=abort
cp target/freestanding/release/libdrupe.a $out/libdrupe-free.a

# The reference model when it is here, else a synthetic one: then only the two flavours and the program are compared.
model=../shared/models/stories260K-f32.gguf
story="there was a little girl named Lily. She loved to play outside in the park."
if [ ! -f $model ]; then
    echo "skipped: $model is not here; the examples' text is only compared with each other's"
    cargo run --release -q -p drupe-cli -- synth tiny-llama:f32 $out/tiny.gguf
    model=$out/tiny.gguf
    story=""
fi

libs="-lpthread -ldl -lm"
expect() {
    case "$2" in
    *"$story"*) echo "ok: $1" ;;
    *) echo "FAILED: $1 said: $2" >&2 && exit 1 ;;
    esac
}

echo "-- examples, hosted"
for e in minimal slices chat; do $cc $c99 $examples/$e.c $out/libdrupe-hosted.a $libs -o $out/$e; done
said=$($out/minimal $model)
expect "minimal.c" "$said"
first=$said
$out/slices $model >$out/slices.txt
[ -s $out/slices.txt ] && echo "ok: slices.c: $(cat $out/slices.txt)"
if [ -f targets/model/home.gguf ]; then
    printf 'turn off the heater in the garage in ten minutes\n' | $out/chat targets/model/home.gguf
    echo "ok: chat.c"
fi

if command -v c++ >/dev/null; then
    c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror -O1 -Itargets/c/include $examples/raii.cpp $out/libdrupe-hosted.a $libs -o $out/raii
    said=$($out/raii $model)
    [ "$said" = "$first" ] && echo "ok: raii.cpp" || { echo "FAILED: raii.cpp said: $said" >&2; exit 1; }
fi

if command -v python3 >/dev/null; then
    said=$(python3 $examples/drupe.py $out/libdrupe.so $model)
    [ "$said" = "$first" ] && echo "ok: drupe.py" || { echo "FAILED: drupe.py said: $said" >&2; exit 1; }
fi

echo "-- freestanding: no heap, no unwinder"
cat >$out/model.s <<S
    .section .rodata
    .balign 64
    .global model_start
    .global model_end
model_start:
    .incbin "$model"
model_end:
    .section .note.GNU-stack,"",%progbits
S
$cc $c99 -DARENA_BYTES=8388608u $examples/noheap.c $examples/noheap_main.c $out/model.s $out/libdrupe-free.a -Wl,--gc-sections -Wl,-Map=$out/noheap.map -lm -o $out/noheap
said=$($out/noheap)
[ "$said" = "$first" ] && echo "ok: noheap.c" || { echo "FAILED: noheap.c said: $said" >&2; exit 1; }
if nm $out/noheap | grep -E ' [TtWw] .*(__rust_alloc|__rg_alloc|_Unwind_RaiseException|_ZSt)'; then
    echo "FAILED: an allocator, an unwinder or libstdc++ was linked" >&2
    exit 1
fi
echo "ok: no allocator, unwinder or libstdc++ linked"

echo "-- under AddressSanitizer"
if echo 'int main(void){return 0;}' | $cc -fsanitize=address -x c - -o $out/asan-probe 2>/dev/null && $out/asan-probe; then
    for e in minimal slices; do
        $cc $c99 -fsanitize=address,undefined $examples/$e.c $out/libdrupe-free.a -lm -o $out/$e-asan
        $out/$e-asan $model >/dev/null
        echo "ok: $e.c"
    done
    $cc $c99 -fsanitize=address,undefined targets/c/tests/calls.c $out/libdrupe-free.a -lm -o $out/calls-asan
    $out/calls-asan $model ${CALLS:-20000}
else
    echo "skipped: no AddressSanitizer"
fi
if command -v valgrind >/dev/null; then
    # Valgrind does not know AVX-512; it tells the program so, and the kernels follow.
    valgrind -q --error-exitcode=9 --leak-check=full $out/slices $model >/dev/null && echo "ok: valgrind"
else
    echo "skipped: no valgrind"
fi
