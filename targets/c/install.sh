#!/bin/sh
# Builds the C library and installs it: headers, libdrupe.a and libdrupe.so (hosted), libdrupe-freestanding.a, a pkg-config
# file and a CMake package.
#
#   PREFIX=/usr/local DESTDIR= targets/c/install.sh
#
# TARGET     a Rust target other than this machine's (rustup target add …); then CC's linker is to be told to cargo
# FEATURES   parts of the freestanding library (targets/c/Cargo.toml), default full: e.g. llama,byte-bpe,k-quants,dotprod
set -eu
cd "$(dirname "$0")/../.."
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}$prefix
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
major_minor=${version%.*}
target=${TARGET:+--target $TARGET}
built=${CARGO_TARGET_DIR:-target}/${TARGET:+$TARGET/}

# shellcheck disable=SC2086
cargo build --release -p drupe-c $target
# shellcheck disable=SC2086
cargo rustc --profile firmware -p drupe-c --lib --crate-type staticlib --no-default-features \
    --features "${FEATURES:-full}" $target

fill() {
    sed -e "s|@prefix@|$prefix|g" -e "s|@version@|$version|g" -e "s|@major_minor@|$major_minor|g" \
        -e "s|@major_minor_regex@|$(echo "$major_minor" | sed 's/\./\\\\\\\\./g')|g" "targets/c/$1.in" >"$2/$1"
    chmod 644 "$2/$1"
}

mkdir -p "$root/include" "$root/lib/pkgconfig" "$root/lib/cmake/drupe"
install -m 644 targets/c/include/drupe.h targets/c/include/drupe.hpp "$root/include/"
install -m 644 "${built}release/libdrupe.a" "$root/lib/libdrupe.a"
install -m 644 "${built}firmware/libdrupe.a" "$root/lib/libdrupe-freestanding.a"
if [ -f "${built}release/libdrupe.so" ]; then
    install -m 755 "${built}release/libdrupe.so" "$root/lib/libdrupe.so.$version"
    ln -sf "libdrupe.so.$version" "$root/lib/libdrupe.so.$major_minor"
    ln -sf "libdrupe.so.$major_minor" "$root/lib/libdrupe.so"
fi
fill drupe.pc "$root/lib/pkgconfig"
fill drupe-config.cmake "$root/lib/cmake/drupe"
fill drupe-config-version.cmake "$root/lib/cmake/drupe"
echo "drupe $version is installed in $root"
