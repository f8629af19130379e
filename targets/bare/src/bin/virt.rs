//! QEMU's `virt` machine with any 64-bit CPU.
#![no_std]
#![no_main]

use drupe_bare::{cores::Calling, firmware::Board};

drupe_bare::image!(Board {
    name: "virt",
    memory: 0x4000_0000..0x8000_0000,
    port: 0x0900_0000,
    port_clock: 24_000_000,
    calling: Calling::Psci,
});
