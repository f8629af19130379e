# Sourced by tests that build for 64-bit Arm Linux: `cross_setup` finds or installs a cross linker, the arm64 C library,
# QEMU and a Rust target, and sets $cross_cargo and the environment that it needs; it fails where something cannot be had.
#
# On Debian and Ubuntu, as root, packages that are missing are installed. The Rust target comes from rustup; where rustup
# cannot fetch it, from Debian's own Rust (rustc-web), as root.

cross_target=aarch64-unknown-linux-gnu
cross_root=/usr/aarch64-linux-gnu

cross_install() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "needs the packages: $*" >&2
        return 1
    fi
    echo "installing $*" >&2
    apt-get install -y --no-install-recommends "$@" >&2 ||
        { apt-get update >&2 && apt-get install -y --no-install-recommends "$@" >&2; }
}

# Debian's Rust, with the arm64 standard library of exactly its version.
debian_rust() {
    [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] || cross_install rustc-web cargo-web || return 1
    [ -d /usr/lib/rustlib/$cross_target ] && return
    dpkg --print-foreign-architectures | grep -qx arm64 || { dpkg --add-architecture arm64 && apt-get update >&2; }
    version=$(dpkg-query -W -f '${Version}' rustc-web)
    echo "unpacking libstd-rust-web-dev:arm64 $version" >&2
    unpacked=$(mktemp -d)
    (cd "$unpacked" && apt-get download "libstd-rust-web-dev:arm64=$version" >&2 && dpkg-deb -x ./*.deb .) || return 1
    mkdir -p /usr/lib/rustlib
    cp -r "$unpacked/usr/lib/rustlib/$cross_target" /usr/lib/rustlib/
    rm -rf "$unpacked"
}

cross_setup() {
    command -v aarch64-linux-gnu-gcc >/dev/null || cross_install gcc-aarch64-linux-gnu || return 1
    [ -e $cross_root/lib/libc.so.6 ] || cross_install libc6-dev-arm64-cross || return 1
    command -v qemu-aarch64 >/dev/null || cross_install qemu-user || return 1
    if command -v rustup >/dev/null && rustup target add $cross_target >/dev/null 2>&1; then
        cross_cargo=cargo
    else
        echo "no $cross_target from rustup; taking Debian's Rust" >&2
        debian_rust || return 1
        cross_cargo="env RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc /usr/bin/cargo"
    fi
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    # The library path keeps a C library of the system's own for arm64 out: mixed with this loader, it hangs.
    cross_run="qemu-aarch64 -L $cross_root -E LD_LIBRARY_PATH=$cross_root/lib"
}
