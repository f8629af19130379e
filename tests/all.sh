#!/bin/sh
# Every test, as continuous integration runs them. On a fresh Debian or Raspberry Pi OS with Rust and nothing else, as root,
# it installs what the Arm, C and bare-metal stages need and says so; without root it names what is missing and skips
# that stage with a line that begins with "skipped:".
#
#   tests/all.sh                all stages
#   tests/all.sh host arm       some of them: host portable arm c bare docs readme
set -eu
cd "$(dirname "$0")/.."

stages=${*:-host portable c arm bare docs readme}
passed=0
failed=0
skipped=0

stage() {
    case " $stages " in *" $1 "*) ;; *) return 0 ;; esac
    echo "=== $1: $2"
    shift 2
    start=$(date +%s)
    code=0
    "$@" || code=$?
    took=$(($(date +%s) - start))
    case $code in
    0) passed=$((passed + 1)) && echo "=== passed in $took s" ;;
    77) skipped=$((skipped + 1)) && echo "=== skipped after $took s" ;;
    *) failed=$((failed + 1)) && echo "=== FAILED in $took s (exit code $code)" ;;
    esac
}

component() {
    cargo "$1" --version >/dev/null 2>&1 || rustup component add "$2" >/dev/null 2>&1
}

formatted() {
    component fmt rustfmt || { echo "skipped: no rustfmt" && return 77; }
    cargo fmt --all --check
}

linted() {
    component clippy clippy || { echo "skipped: no clippy" && return 77; }
    cargo clippy --workspace --all-targets -- -D warnings
}

host() { cargo test --workspace; }

portable() {
    rustup toolchain list 2>/dev/null | grep -q '^nightly' || { echo "skipped: no nightly toolchain" && return 77; }
    cargo +nightly test -p drupe-quant --features portable-simd
}

documented() { RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps; }

stage host "formatting" formatted
stage host "lints" linted
stage host "tests on this machine" host
stage portable "the kernels over core::simd" portable
stage c "the C face" sh tests/c.sh
stage arm "the kernels on aarch64 under QEMU, three CPUs" sh tests/arm.sh -p drupe-quant
stage bare "no operating system" sh tests/bare.sh
stage docs "documentation" documented
stage readme "the README's commands" sh tests/readme.sh

echo "stages: $passed passed, $failed failed, $skipped skipped"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
