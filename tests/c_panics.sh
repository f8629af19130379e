#!/bin/sh
# Lists the functions of PROGRAM that call the panic machinery, and refuses those that no line of targets/c/panics.txt explains.
# Called by tests/c.sh: tests/c_panics.sh OBJDUMP PROGRAM LIST-OUT
set -eu
cd "$(dirname "$0")/.."
"$1" -dC --no-show-raw-insn "$2" | awk -v explained=targets/c/panics.txt '
    BEGIN {
        while ((getline line <explained) > 0) if (line !~ /^#/ && match(line, /   */)) place[substr(line, 1, RSTART - 1)] = 0
        machinery = "core::panicking::|core::(option|result)::(expect|unwrap)_failed|core::slice::(index::|copy_from_slice_impl::).*_fail|core::str::slice_error_fail|bytemuck::internal::something_went_wrong"
    }
    /^[0-9a-f]+ <.*>:$/ { caller = $0; sub(/^[0-9a-f]+ </, "", caller); sub(/>:$/, "", caller); next }
    !match($0, "\tbl?\t[0-9a-f]+ <(" machinery ")") || caller ~ "^(" machinery ")" { next }
    { calls[caller]++; all++ }
    END {
        for (caller in calls) {
            known = 0
            for (start in place) if (index(caller, start) == 1) { known = 1; place[start]++ }
            print calls[caller], caller
            if (!known) { print "FAILED: nothing in " explained " says why " caller " does not panic" >"/dev/stderr"; bad = 1 }
        }
        # Closures have names that do not say whose they are.
        for (start in place) if (place[start] == 0) print "unused: " start
        print "all: " all
        exit bad
    }' >"$3"
