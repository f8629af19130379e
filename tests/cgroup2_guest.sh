#!/bin/busybox sh
# Process 1 of the guest of tests/cgroup2.sh: what drupe says and takes under limits of control groups, by the kernel's count.
exec 2>&1
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /tmp
groups=/sys/fs/cgroup
model=/model.gguf
failed=0

fail() {
    failed=$((failed + 1))
    echo "FAILED: $*"
}

# expect WHAT TEXT PATTERN
expect() {
    echo "$2" | grep -q "$3" || fail "$1: no \"$3\" in: $2"
}

# number JSON KEY: the first number of that name.
number() { echo "$1" | sed -n "s/.*\"$2\":\([0-9.]*\).*/\1/p" | head -1; }

mib() { echo $(($1 * 1048576)); }

# box NAME FILE=VALUE...: a group with these limits.
box() {
    group=$groups/$1
    shift
    mkdir "$group"
    for limit in "$@"; do echo "${limit#*=}" >"$group/${limit%%=*}"; done
}

# inside COMMAND...: runs it in $group; its words in $said, its exit code in $code, the most that was charged in $peak.
inside() {
    echo 3 >/proc/sys/vm/drop_caches
    code=0
    said=$(sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" "$@" 2>&1) || code=$?
    peak=$(cat "$group/memory.peak")
    killed=$(sed -n 's/^oom_kill //p' "$group/memory.events")
    [ "$killed" = 0 ] || fail "$*: $killed killed"
}

run="drupe run -m $model --raw --temp 0 -n 4 -t 2 --ctx 128"

with_groups() {
    echo "-- before the controller is handed on"
    said=$(drupe bench $model --memory 60M -p 1 -n 2 --runs 1 -t 2 2>&1)
    expect "no controller" "$said" "self-imposed"
    expect "no controller" "$said" "subtree_control"
    echo "ok: the controller is there but not handed on: self-imposed, and how to change that"

    echo +memory >$groups/cgroup.subtree_control

    echo "-- bench --memory, on a Raspberry Pi that has been short of power, as its vcgencmd says"
    printf '#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x50005\n' >/bin/vcgencmd
    chmod +x /bin/vcgencmd
    said=$(drupe bench $model --memory 60M -p 1 -n 2 --runs 1 -t 2 --json 2>/tmp/err) || fail "bench: $(cat /tmp/err)"
    expect "bench" "$said" '"kind":"control group v2"'
    expect "vcgencmd" "$said" '"throttled":\["under-voltage","throttled",'
    peak=$(number "$said" group_peak_bytes)
    [ "${peak:-0}" -gt "$(mib 20)" ] && [ "$peak" -le "$(mib 60)" ] || fail "bench: peak ${peak:-none}"
    [ "$(number "$said" per_token_bytes)" -gt 0 ] || fail "bench: nothing streamed"
    echo "ok: bench --memory 60M: control group v2, memory.peak $peak"
    ls -d $groups/drupe-* >/dev/null 2>&1 && fail "groups are left behind"

    echo "-- bench --sweep"
    said=$(drupe bench $model --sweep 15%..120% -p 1 -n 2 --runs 1 -t 2 --json 2>/tmp/err) || fail "sweep: $(cat /tmp/err)"
    echo "$said" | sed 's/"bandwidth_used"/\n&/g' >/tmp/sweep
    runs=$(grep -o '"group_peak_bytes":[0-9]*' /tmp/sweep | wc -l)
    [ "$runs" = 6 ] || fail "sweep: $runs runs with a peak"
    echo "$said" | grep -q killed && fail "sweep: killed"
    drupe bench $model --sweep 15%..120% -p 1 -n 2 --runs 1 -t 2 2>&1 | tee /tmp/table
    expect "sweep" "$(cat /tmp/table)" "limits: control group v2"
    echo "ok: sweep through control groups v2"

    echo "-- no --memory, in a group with a limit"
    box plain memory.max=$(mib 70)
    inside $run Once
    [ $code = 0 ] || fail "run in 70 MiB: $code: $said"
    expect "run in 70 MiB" "$said" "note: .* needed, there are .*control group /sys/fs/cgroup/plain"
    [ "$peak" -lt "$(mib 70)" ] || fail "run in 70 MiB: peak $peak"
    echo "ok: run, memory.max 70 MiB: peak $peak"
    answer=$(echo "$said" | head -1)

    box above memory.max=$(mib 64)
    echo +memory >$groups/above/cgroup.subtree_control
    box above/below
    inside $run Once
    [ $code = 0 ] || fail "limit of the group above: $code: $said"
    expect "limit of the group above" "$said" "control group /sys/fs/cgroup/above)"
    expect "another limit, another answer" "$said" "$(echo "$answer" | cut -c 1-20)"
    echo "ok: run, memory.max of the group above: peak $peak"

    box high memory.high=$(mib 66)
    inside $run Once
    [ $code = 0 ] || fail "memory.high: $code: $said"
    expect "memory.high" "$said" "control group /sys/fs/cgroup/high"
    [ "$(sed -n 's/^high //p' $groups/high/memory.events)" = 0 ] || fail "memory.high was reached"
    echo "ok: run, memory.high 66 MiB: peak $peak, never throttled"

    box tight memory.max=$(mib 12)
    inside $run Once
    [ $code = 1 ] || fail "12 MiB: exit code $code: $said"
    expect "12 MiB" "$said" "too small a limit: at least .* MiB are needed .*it is .* MiB (memory limit of control group"
    least=$(echo "$said" | sed -n 's/.*at least \([0-9]*\)\.[0-9]* MiB.*/\1/p')
    echo "ok: run, memory.max 12 MiB: refused, at least $least MiB"
    box enough memory.max=$(mib $((least + 4)))
    inside $run Once
    [ $code = 0 ] || fail "$((least + 4)) MiB, the least and a little: $code: $said"
    echo "ok: run, memory.max $((least + 4)) MiB: peak $peak"

    echo "-- --memory in a group without a limit: the promise alone"
    box free
    inside $run --memory 60M Once
    [ $code = 0 ] && [ "$peak" -le "$(mib 60)" ] || fail "run --memory 60M: $code, peak $peak: $said"
    echo "ok: run --memory 60M: peak $peak"
    box free2
    echo "Hello" >/tmp/words
    inside sh -c "drupe chat $model --memory 60M --temp 0 -n 8 -t 2 --ctx 128 </tmp/words"
    [ $code = 0 ] && [ "$peak" -le "$(mib 60)" ] || fail "chat --memory 60M: $code, peak $peak: $said"
    echo "ok: chat --memory 60M: peak $peak"

    echo "-- bench from inside a group that has processes"
    box busy
    inside drupe bench $model --memory 60M -p 1 -n 2 --runs 1 -t 2 --json
    expect "bench from a leaf" "$said" '"kind":"control group v2"'
    echo "ok: bench from inside a group: control group v2"

    echo "-- a user who may make no group"
    code=0
    said=$(su -s /bin/sh nobody -c "drupe bench $model --memory 60M -p 1 -n 2 --runs 1 -t 2" 2>&1) || code=$?
    [ $code = 0 ] || fail "nobody: $code: $said"
    expect "nobody" "$said" "self-imposed"
    expect "nobody" "$said" "may make no control group"
    echo "ok: a user without rights: self-imposed, and why"
}

without_groups() {
    said=$(drupe bench $model --memory 60M -p 1 -n 2 --runs 1 -t 2 2>&1) || fail "bench: $said"
    expect "no groups" "$said" "self-imposed"
    expect "no groups" "$said" "cgroup_enable=memory"
    echo "ok: bench --memory: self-imposed, and how to switch control groups on"
    said=$($run --memory 60M --json Once 2>&1) || fail "run: $said"
    echo "$said"
    # The machine itself: all but some 60 MiB of it is taken.
    free=$(sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p' /proc/meminfo)
    mount -o remount,size=600m /tmp
    dd if=/dev/zero of=/tmp/ballast bs=1M count=$((free / 1024 - 80)) 2>/dev/null
    code=0
    said=$($run Once 2>&1) || code=$?
    [ $code = 0 ] || fail "little memory: $code: $said"
    expect "little memory" "$said" "note: .* needed, there are .* (available memory)"
    dmesg | grep -i "out of memory" && fail "the kernel killed"
    echo "ok: run in what the machine has left, 80 MiB: streamed, nobody killed"
}

echo "root:x:0:0::/:/bin/sh
nobody:x:65534:65534::/:/bin/sh" >/tmp/passwd
mkdir -p /etc
cp /tmp/passwd /etc/passwd
uname -r
case $(cat /proc/cmdline) in
*drupe=groups*) with_groups ;;
*) without_groups ;;
esac
echo "guest: done, $failed failed"
poweroff -f
