#!/bin/sh
# Limits by control groups of the second generation, on a real Linux: Debian's cloud kernel boots under QEMU with this program
# and a small model, once with the memory controller and once without (as Raspberry Pi OS does), and tests/cgroup2_guest.sh
# checks what `drupe` says and what the kernel counts. Several minutes, as the guest is emulated; KVM=1 has KVM run it, where
# that works.
#
#   tests/cgroup2.sh [none] [groups]     one of the two boots, or both
#
# On Debian and Ubuntu, as root, what is missing is installed; else it is skipped, with a line that says so.
set -eu
cd "$(dirname "$0")/.."
. tests/cross.sh

out=$PWD/target/cgroup2
mkdir -p "$out"
skip() {
    echo "skipped: $*"
    exit 77
}

case $(uname -sm) in
"Linux x86_64") arch=amd64 package=qemu-system-x86 qemu=qemu-system-x86_64 machine=q35 console=ttyS0 emulated=max ;;
"Linux aarch64") arch=arm64 package=qemu-system-arm qemu=qemu-system-aarch64 machine=virt console=ttyAMA0 emulated=cortex-a76 ;;
*) skip "a Linux of x86-64 or 64-bit Arm is needed, this is $(uname -sm)" ;;
esac
command -v $qemu >/dev/null || cross_install $package >"$out/install.txt" 2>&1 || true
command -v $qemu >/dev/null || skip "no $qemu (package $package)"
command -v mke2fs >/dev/null || skip "no mke2fs (package e2fsprogs)"

# The kernel with its modules, and the programs of the guest, unpacked and not installed.
if [ ! -e "$out/root/boot" ]; then
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || skip "the guest is made of Debian's packages"
    version=$(apt-cache depends linux-image-cloud-$arch | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
    [ -n "$version" ] || skip "apt knows no linux-image-cloud-$arch"
    mkdir -p "$out/packages"
    (cd "$out/packages" && apt-get download "$version" busybox-static >"$out/install.txt" 2>&1) ||
        skip "no $version or busybox-static from apt: $(tail -1 "$out/install.txt")"
    for deb in "$out"/packages/*.deb; do dpkg-deb -x "$deb" "$out/root"; done
fi
kernel=$(ls "$out"/root/boot/vmlinuz-* | head -1)
busybox=$(ls "$out"/root/bin/busybox "$out"/root/usr/bin/busybox 2>/dev/null | head -1)

echo "-- building"
cargo build --release -q -p drupe-cli
drupe=$PWD/target/release/drupe

# The guest's disk: programs, the libraries that ours needs, and the models.
disk=$out/disk
rm -rf "$disk"
mkdir -p "$disk/bin" "$disk/dev" "$disk/proc" "$disk/sys" "$disk/tmp"
cp "$busybox" "$disk/bin/busybox"
cp "$drupe" "$disk/bin/drupe"
for library in $(ldd "$drupe" | sed -n 's/^[^/]*\(\/[^ ]*\).*/\1/p'); do
    mkdir -p "$disk$(dirname "$library")"
    cp -L "$library" "$disk$library"
done
cp tests/cgroup2_guest.sh "$disk/init"
chmod +x "$disk/init"
$drupe synth smollm2-135m:q4_0 "$disk/model.gguf" 2>/dev/null
mke2fs -q -F -t ext4 -d "$disk" "$out/disk.img" 512M

# The first file system finds the disk; its modules in the order in which they need each other.
initrd=$out/initrd
rm -rf "$initrd"
mkdir -p "$initrd/bin" "$initrd/dev" "$initrd/disk" "$initrd/modules"
cp "$busybox" "$initrd/bin/busybox"
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
    file=$(find "$out/root" -name "$module.ko*" | head -1)
    case $file in
    "") ;;
    *.xz) xz -dc "$file" >"$initrd/modules/$module.ko" ;;
    *) cp "$file" "$initrd/modules/$module.ko" ;;
    esac
done
cat >"$initrd/init" <<'S'
#!/bin/busybox sh
exec 2>&1
/bin/busybox mount -t devtmpfs none /dev
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
    [ ! -e /modules/$module.ko ] || /bin/busybox insmod /modules/$module.ko
done
/bin/busybox mount -t ext4 /dev/vda /disk
exec /bin/busybox switch_root /disk /init
S
chmod +x "$initrd/init"
mkdir -p "$initrd/bin"
(cd "$initrd" && ln -sf bin/busybox busybox && find . | "$busybox" cpio -o -H newc 2>/dev/null) >"$out/initrd.cpio"

accelerator="-accel tcg,thread=multi -cpu $emulated"
[ "${KVM:-0}" = 0 ] || accelerator="-accel kvm -cpu host"

# boot LABEL ARGUMENTS...: runs the guest's checks.
boot() {
    label=$1
    shift
    echo "-- $label"
    timeout 1500 $qemu -machine $machine $accelerator -smp 2 -m 512 -nodefaults -no-user-config -display none -serial "file:$out/console.txt" \
        -no-reboot -kernel "$kernel" -initrd "$out/initrd.cpio" -drive "file=$out/disk.img,format=raw,if=none,id=d,cache=none" \
        -device virtio-blk-pci,drive=d -append "console=$console quiet panic=-1 $*" </dev/null || true
    tr -d '\r' <"$out/console.txt" >"$out/said.txt"
    grep -E '^(ok|skipped|FAILED)' "$out/said.txt" || true
    grep -q '^guest: done, 0 failed$' "$out/said.txt" || {
        tail -15 "$out/said.txt"
        echo "FAILED: $label"
        exit 1
    }
}

for which in ${*:-none groups}; do
    case $which in
    none) boot "no control groups of memory" cgroup_disable=memory drupe=none ;;
    groups) boot "control groups v2" drupe=groups ;;
    *) echo "unknown: $which" >&2 && exit 2 ;;
    esac
done
