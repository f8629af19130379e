#!/bin/sh
# Installs the C library under OUT, and builds the minimal example with nothing but what was installed: through pkg-config
# and through CMake, each target of the package. Called by tests/c.sh: tests/c_install.sh OUT MODEL EXPECTED-TEXT
set -eu
cd "$(dirname "$0")/.."
out=$1
model=$2
expected=$3
cc=${CC:-cc}
root=$out/installed
rm -rf "$root"

expect() {
    label=$1
    shift
    text=$("$@" "$model") || { echo "FAILED: $label: exit code $?" >&2 && exit 1; }
    case $text in
    "$expected"*) echo "ok: $label" ;;
    *) echo "FAILED: $label said: $text" >&2 && exit 1 ;;
    esac
}

# Staged first, as packages are made: nothing may be written to the prefix itself.
PREFIX=/opt/drupe DESTDIR=$root/staged sh targets/c/install.sh
[ -f "$root/staged/opt/drupe/lib/libdrupe.a" ] && grep -q '^prefix=/opt/drupe$' "$root/staged/opt/drupe/lib/pkgconfig/drupe.pc"
PREFIX=$root/usr sh targets/c/install.sh

. tests/cross.sh
for tool in pkg-config cmake make; do
    command -v $tool >/dev/null || cross_install $tool >"$out/install.txt" 2>&1 || true
done
if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH="$root/usr/lib/pkgconfig"
    version=$(pkg-config --modversion drupe)
    # shellcheck disable=SC2046
    $cc targets/c/examples/minimal.c $(pkg-config --cflags --libs drupe) -o "$out/minimal-shared"
    expect "minimal.c, drupe $version through pkg-config, shared" env LD_LIBRARY_PATH="$root/usr/lib" "$out/minimal-shared"
    # shellcheck disable=SC2046
    $cc targets/c/examples/minimal.c $(pkg-config --cflags drupe) "$root/usr/lib/libdrupe.a" \
        $(pkg-config --static --libs-only-l drupe | sed 's/-ldrupe//') -o "$out/minimal-static"
    expect "minimal.c, through pkg-config, static" "$out/minimal-static"
else
    echo "skipped: no pkg-config"
fi

if ! command -v cmake >/dev/null || ! command -v make >/dev/null; then
    echo "skipped: no cmake or no make"
    exit 0
fi
mkdir -p "$out/cmake-source"
cat >"$out/cmake-source/CMakeLists.txt" <<C
cmake_minimum_required(VERSION 3.13)
project(consumer C)
find_package(drupe $(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\([0-9]*\.[0-9]*\).*"/\1/p' Cargo.toml) REQUIRED)
foreach(flavour drupe shared freestanding)
    add_executable(minimal-\${flavour} $PWD/targets/c/examples/minimal.c)
    target_link_libraries(minimal-\${flavour} drupe::\${flavour})
endforeach()
C
rm -rf "$out/cmake-build"
cmake -S "$out/cmake-source" -B "$out/cmake-build" -DCMAKE_PREFIX_PATH="$root/usr" >"$out/cmake.txt" 2>&1 ||
    { cat "$out/cmake.txt" >&2 && exit 1; }
cmake --build "$out/cmake-build" >"$out/cmake.txt" 2>&1 || { cat "$out/cmake.txt" >&2 && exit 1; }
for flavour in drupe shared freestanding; do
    expect "minimal.c, drupe::$flavour through CMake" "$out/cmake-build/minimal-$flavour"
done
sed -i "s/find_package(drupe [0-9.]*/find_package(drupe 99.0/" "$out/cmake-source/CMakeLists.txt"
if cmake -S "$out/cmake-source" -B "$out/cmake-build" >"$out/cmake.txt" 2>&1; then
    echo "FAILED: the CMake package says that it is version 99.0" >&2
    exit 1
fi
