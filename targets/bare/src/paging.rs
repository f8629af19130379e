//! The memory map: addresses are what they are; memory is cached, shared between the cores and may be read unaligned, which
//! the kernels do; everything else is devices.

use aarch64_cpu::asm::barrier::{SY, dsb, isb};
use aarch64_cpu::registers::{MAIR_EL1, SCTLR_EL1, TCR_EL1, TTBR0_EL1, Writeable};
use core::cell::UnsafeCell;
use core::ops::Range;

const GIB: u64 = 1 << 30;
const MIB_2: u64 = 2 << 20;

/// One table of the translation, of 512 entries.
#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: written by the first core alone, before the others are let go.
unsafe impl Sync for Table {}

/// Entries of 1 GiB.
static TOP: Table = Table(UnsafeCell::new([0; 512]));
/// Entries of 2 MiB, for the first GiB.
static LOW: Table = Table(UnsafeCell::new([0; 512]));

/// Normal memory, write-back, allocating; devices, nGnRE. Places 0 and 1 of the attributes.
const ATTRIBUTES: u64 = 0x04_ff;

/// What lies at `address`.
fn block(address: u64, memory: &Range<u64>) -> u64 {
    // A block that has been accessed, shared inside the cluster.
    let common = address | 1 << 10 | 3 << 8 | 1;
    // Nothing is executed out of devices.
    if memory.contains(&address) { common } else { common | 1 << 2 | 3 << 53 }
}

/// Describes the first 4 GiB, of which `memory` (of whole 2 MiB, beyond the first GiB of whole GiB) is memory.
///
/// # Safety
/// Called once, by the first core, before [`enter`].
pub unsafe fn describe(memory: &Range<u64>) {
    // SAFETY: nobody else reads or writes the tables yet.
    let (top, low) = unsafe { (&mut *TOP.0.get(), &mut *LOW.0.get()) };
    for (i, entry) in low.iter_mut().enumerate() {
        *entry = block(i as u64 * MIB_2, memory);
    }
    for (i, entry) in top.iter_mut().take(4).enumerate() {
        *entry = block(i as u64 * GIB, memory);
    }
    top[0] = LOW.0.get() as u64 | 3;
}

/// Turns translation and caches on for this core.
///
/// # Safety
/// [`describe`] has been called, and this code and its stack are inside the memory.
pub unsafe fn enter() {
    dsb(SY);
    MAIR_EL1.set(ATTRIBUTES);
    // 39 bits of address in pages of 4 KiB from the lower table alone, tables cached as memory; 40 bits of physical address.
    TCR_EL1.set(2 << 32 | 1 << 23 | 3 << 12 | 1 << 10 | 1 << 8 | 25);
    TTBR0_EL1.set(TOP.0.get() as u64);
    // SAFETY: forgets translations that were never made; touches no memory.
    unsafe { core::arch::asm!("tlbi vmalle1", options(nostack)) };
    dsb(SY);
    isb(SY);
    // The bits that must be one, instruction cache, data cache, translation.
    SCTLR_EL1.set(0x30d0_0800 | 1 << 12 | 1 << 2 | 1);
    isb(SY);
}
