//! What this CPU has, read from its identification registers.
//!
//! Linux lets programs read them since 4.11 (it traps the instruction and answers with what programs may use), and a
//! program on bare metal runs where they are readable. Elsewhere nothing beyond NEON is taken for granted.

/// Instructions beyond baseline NEON.
#[derive(Clone, Copy)]
pub(super) struct Features {
    pub dotprod: bool,
    pub i8mm: bool,
}

/// Asks the CPU. On a machine with cores of different kinds, Linux answers with what all of them have.
#[cfg(any(target_os = "linux", target_os = "none"))]
pub(super) fn features() -> Features {
    let (isar0, isar1): (u64, u64);
    // SAFETY: reads two registers that both systems let us read; nothing else is touched. The second one's plain name
    // wants a later architecture from some assemblers.
    unsafe {
        core::arch::asm!(
            "mrs {0}, ID_AA64ISAR0_EL1",
            "mrs {1}, S3_0_C0_C6_1",
            out(reg) isar0, out(reg) isar1,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    Features { dotprod: isar0 >> 44 & 15 != 0, i8mm: isar1 >> 52 & 15 != 0 }
}

/// What the compiler was told, where the registers are out of reach.
#[cfg(not(any(target_os = "linux", target_os = "none")))]
pub(super) fn features() -> Features {
    Features { dotprod: cfg!(target_feature = "dotprod"), i8mm: cfg!(target_feature = "i8mm") }
}
