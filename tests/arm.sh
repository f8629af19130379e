#!/bin/sh
# Builds the workspace's tests for aarch64 Linux and runs them under QEMU as three CPUs: Cortex-A72 (no dot product:
# Pi Zero 2, 3, 4), Cortex-A76 (dot product: Pi 5) and QEMU's "max" (int8 matrices).
#
#   tests/arm.sh [CARGO TEST ARGUMENTS]      e.g. tests/arm.sh -p drupe-quant
#   CPUS="cortex-a76" tests/arm.sh           one CPU only
#
# What it needs, and installs where it can: tests/cross.sh.
set -eu
cd "$(dirname "$0")/.."
. tests/cross.sh
cross_setup

[ $# -gt 0 ] || set -- --workspace
for cpu in ${CPUS:-cortex-a72 cortex-a76 max}; do
    echo "== $cpu" >&2
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$cross_run -cpu $cpu" \
        $cross_cargo test --target $cross_target --lib --bins --tests "$@"
done
