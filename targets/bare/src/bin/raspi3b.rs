//! Raspberry Pi 3 and Zero 2, QEMU's `raspi3b`. On the board, `config.txt` needs `arm_64bit=1`, `enable_uart=1`,
//! `dtoverlay=disable-bt` and `init_uart_clock=48000000`.
#![no_std]
#![no_main]

use drupe_bare::{cores::Calling, firmware::Board};

drupe_bare::image!(Board {
    name: "raspi3b",
    memory: 0..0x3f00_0000,
    port: 0x3f20_1000,
    port_clock: 48_000_000,
    calling: Calling::Table(0xd8),
});
