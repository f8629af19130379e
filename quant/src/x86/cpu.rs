//! Which instruction sets this CPU has, asked by CPUID, without the standard library.
//!
//! A value of [`Avx2`], [`AvxVnni`] or [`Avx512`] can only be made here, by asking: holding one is the proof.

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

/// Proof of AVX2, FMA and F16C, with registers that the operating system saves.
pub(super) struct Avx2(());
/// Proof of [`Avx2`] and of the VEX-encoded `vpdpbusd`.
pub(super) struct AvxVnni(());
/// Proof of [`Avx2`] and of AVX-512 F, BW, DQ, VL and VNNI.
pub(super) struct Avx512(());

const fn bits(of: u32, wanted: &[u32]) -> bool {
    let (mut i, mut all) = (0, true);
    while i < wanted.len() {
        all &= of >> wanted[i] & 1 == 1;
        i += 1;
    }
    all
}

#[target_feature(enable = "xsave")]
fn saved_registers() -> u32 {
    // SAFETY: XCR0 can be read wherever OSXSAVE is set, which the caller has checked.
    unsafe { _xgetbv(0) as u32 }
}

/// Leaves 1 (ECX) and 7.0 (EBX, ECX) and 7.1 (EAX), and XCR0; zeros where the CPU has no such leaf.
fn ask() -> (u32, u32, u32, u32, u32) {
    let highest = __cpuid(0).eax;
    if highest < 7 {
        return (0, 0, 0, 0, 0);
    }
    let (one, seven) = (__cpuid(1), __cpuid_count(7, 0));
    let seven_one = if seven.eax >= 1 { __cpuid_count(7, 1).eax } else { 0 };
    const OSXSAVE: u32 = 27;
    // SAFETY: OSXSAVE says that the operating system has switched XGETBV on.
    let saved = if bits(one.ecx, &[OSXSAVE]) { unsafe { saved_registers() } } else { 0 };
    (one.ecx, seven.ebx, seven.ecx, seven_one, saved)
}

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        let (ecx1, ebx7, _, _, saved) = ask();
        // FMA, AVX, F16C; AVX2; XMM and YMM saved.
        (bits(ecx1, &[12, 28, 29]) && bits(ebx7, &[5]) && bits(saved, &[1, 2])).then_some(Avx2(()))
    }
}

impl AvxVnni {
    pub(super) fn detect() -> Option<Self> {
        let (_, _, _, eax71, _) = ask();
        (Avx2::detect().is_some() && bits(eax71, &[4])).then_some(AvxVnni(()))
    }
}

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let (_, ebx7, ecx7, _, saved) = ask();
        // F, DQ, BW, VL; VNNI; mask registers and both parts of ZMM saved.
        let has = bits(ebx7, &[16, 17, 30, 31]) && bits(ecx7, &[11]) && bits(saved, &[5, 6, 7]);
        (Avx2::detect().is_some() && has).then_some(Avx512(()))
    }
}
