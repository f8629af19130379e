#!/bin/sh
# Builds the workspace's tests for aarch64 Linux and runs them under QEMU as three CPUs: Cortex-A72 (no dot product:
# Pi Zero 2, 3, 4), Cortex-A76 (dot product: Pi 5) and QEMU's "max" (int8 matrices).
#
#   tests/arm.sh [CARGO TEST ARGUMENTS]      e.g. tests/arm.sh -p drupe-quant
#   CPUS="cortex-a76" tests/arm.sh           one CPU only
#
# Needs a cross linker, the arm64 C library and qemu-user; on Debian and Ubuntu, as root, it installs what is missing.
# The Rust target comes from rustup; where rustup cannot fetch it, from Debian's own Rust (rustc-web), as root.
set -eu
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
sysroot=/usr/aarch64-linux-gnu

install() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "tests/arm.sh: needs the packages: $*" >&2
        exit 1
    fi
    echo "tests/arm.sh: installing $*" >&2
    apt-get install -y --no-install-recommends "$@" >&2 ||
        { apt-get update >&2 && apt-get install -y --no-install-recommends "$@" >&2; }
}

command -v aarch64-linux-gnu-gcc >/dev/null || install gcc-aarch64-linux-gnu
[ -e $sysroot/lib/libc.so.6 ] || install libc6-dev-arm64-cross
command -v qemu-aarch64 >/dev/null || install qemu-user

# Debian's Rust, with the arm64 standard library of exactly its version.
debian_rust() {
    [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] || install rustc-web cargo-web
    [ -d /usr/lib/rustlib/$target ] && return
    dpkg --print-foreign-architectures | grep -qx arm64 || { dpkg --add-architecture arm64 && apt-get update >&2; }
    version=$(dpkg-query -W -f '${Version}' rustc-web)
    echo "tests/arm.sh: unpacking libstd-rust-web-dev:arm64 $version" >&2
    unpacked=$(mktemp -d)
    (cd "$unpacked" && apt-get download "libstd-rust-web-dev:arm64=$version" >&2 && dpkg-deb -x ./*.deb .)
    mkdir -p /usr/lib/rustlib
    cp -r "$unpacked/usr/lib/rustlib/$target" /usr/lib/rustlib/
    rm -rf "$unpacked"
}

if command -v rustup >/dev/null && rustup target add $target >/dev/null 2>&1; then
    cargo=cargo
else
    echo "tests/arm.sh: no $target from rustup; taking Debian's Rust" >&2
    debian_rust
    cargo=/usr/bin/cargo
    export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc
fi

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
[ $# -gt 0 ] || set -- --workspace
for cpu in ${CPUS:-cortex-a72 cortex-a76 max}; do
    echo "== $cpu" >&2
    # The library path keeps a C library of the system's own for arm64 out: mixed with this loader, it hangs.
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L $sysroot -E LD_LIBRARY_PATH=$sysroot/lib -cpu $cpu" \
        $cargo test --target $target --lib --bins --tests "$@"
done
