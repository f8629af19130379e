//! From reset to Rust. Every core begins at `_start`, at exception level 3, 2 or 1, and goes on at level 1.

use crate::console::Console;
use crate::firmware;
use core::fmt::Write;

core::arch::global_asm!(
    r#"
    .section .text.start, "ax"
    .global _start
_start:
    msr     daifset, #0xf
    mrs     x0, CurrentEL
    cmp     x0, #(2 << 2)
    b.lt    1f
    b.eq    2f

    // Level 3: below it, 64-bit and not secure.
    mov     x0, #0x5b1
    msr     scr_el3, x0
    msr     cptr_el3, xzr
    mov     x0, #0x3c5
    msr     spsr_el3, x0
    adr     x0, 1f
    msr     elr_el3, x0

    // Level 2: level 1 is 64-bit, sees the real identification, counts time by itself, and has vectors.
2:  mov     x0, #(1 << 31)
    msr     hcr_el2, x0
    mrs     x0, midr_el1
    msr     vpidr_el2, x0
    mrs     x0, mpidr_el1
    msr     vmpidr_el2, x0
    mov     x0, #3
    msr     cnthctl_el2, x0
    msr     cntvoff_el2, xzr
    msr     hstr_el2, xzr
    mov     x0, #0x33ff
    msr     cptr_el2, x0
    mov     x0, #0x3c5
    msr     spsr_el2, x0
    adr     x0, 1f
    msr     elr_el2, x0
    ldr     x0, =0x30d00800
    msr     sctlr_el1, x0
    isb
    eret

    // Level 1: vectors of floats and of exceptions.
1:  msr     spsel, #1
    mov     x0, #(3 << 20)
    msr     cpacr_el1, x0
    adrp    x0, vectors
    add     x0, x0, :lo12:vectors
    msr     vbar_el1, x0
    isb
    mrs     x19, mpidr_el1
    and     x19, x19, #3
    adrp    x1, __stacks_start
    add     x1, x1, :lo12:__stacks_start
    add     x0, x19, #1
    add     x0, x1, x0, lsl #18
    mov     sp, x0
    cbnz    x19, 5f

    // The first core: zeroes what should be zero, paints the stacks.
    adrp    x0, __bss_start
    add     x0, x0, :lo12:__bss_start
    adrp    x2, __bss_end
    add     x2, x2, :lo12:__bss_end
3:  cmp     x0, x2
    b.hs    4f
    stp     xzr, xzr, [x0], #16
    b       3b
4:  adrp    x2, __stacks_end
    add     x2, x2, :lo12:__stacks_end
    ldr     x3, ={paint}
6:  stp     x3, x3, [x1], #16
    cmp     x1, x2
    b.lo    6b
    bl      {first}

    // The others: wait until they are called. This flag is in .data: it is zero from the beginning.
5:  adrp    x1, CORES_CALLED
    add     x1, x1, :lo12:CORES_CALLED
7:  ldr     w0, [x1]
    cbnz    w0, 8f
    wfe
    b       7b
8:  bl      {other}

    .balign 2048
vectors:
    .rept 16
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
    b       {fault}
    .balign 128
    .endr
"#,
    paint = const PAINT,
    first = sym first,
    other = sym crate::cores::work,
    fault = sym fault,
);

/// What unused stack holds.
pub const PAINT: u64 = 0x5ac3_96e1_5ac3_96e1;

/// Bytes of each core's stack, as image.ld has it.
pub const STACK: usize = 0x40000;

unsafe extern "C" {
    static __stacks_start: [[u64; STACK / 8]; crate::cores::MOST];
    fn board_main() -> !;
}

unsafe extern "C" fn first() -> ! {
    // SAFETY: the image's own, made by `image!`.
    unsafe { board_main() }
}

/// Bytes that the stack of `core` has held at most.
pub fn stack_used(core: usize) -> usize {
    let unused = |i: &usize| {
        // SAFETY: inside the stacks that the linker script has; volatile, as the compiler knows of no writer.
        let word = unsafe { (&raw const __stacks_start[core]).cast::<u64>().add(*i).read_volatile() };
        word == PAINT
    };
    let untouched = (0..STACK / 8).take_while(unused);
    STACK - 8 * untouched.count()
}

/// An exception: there is nothing to go on with.
extern "C" fn fault(syndrome: u64, at: u64, address: u64) -> ! {
    // SAFETY: what held the console was interrupted for good.
    if let Some(mut console) = unsafe { Console::reopen() } {
        let _ = writeln!(console, "\nfault: syndrome {syndrome:#x} at {at:#x}, address {address:#x}");
        console.flush();
    }
    firmware::halt(2)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    // SAFETY: what held the console has panicked.
    if let Some(mut console) = unsafe { Console::reopen() } {
        let _ = writeln!(console, "\n{info}");
        console.flush();
    }
    firmware::halt(101)
}
