//! What happens when a mapped file is truncated while in use.
//!
//! The kernel raises `SIGBUS` at the first touch of a lost page. With [`install`], that page becomes zeros and
//! [`truncated`] says so from then on: the pass that was running ends with useless numbers instead of ending the
//! process, and whoever asked for it can see that and report it.
//!
//! A signal handler is the process's, not a library's: nothing here happens unless a program asks.

use super::ModelFile;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};

/// How many mapped files can be watched at once.
const SLOTS: usize = 64;

struct Slot {
    start: AtomicUsize,
    len: AtomicUsize,
}

static WATCHED: [Slot; SLOTS] = [const { Slot { start: AtomicUsize::new(0), len: AtomicUsize::new(0) } }; SLOTS];
static INSTALLED: AtomicBool = AtomicBool::new(false);
static TRUNCATED: AtomicBool = AtomicBool::new(false);
static PAGE: AtomicUsize = AtomicUsize::new(4096);

/// Whether a watched file was found truncated since the process started.
pub fn truncated() -> bool {
    TRUNCATED.load(Relaxed)
}

/// Watches the maps of `model` until the result is dropped, and takes over `SIGBUS` for this process. Faults
/// anywhere else end the process as they would have.
///
/// # Errors
/// The system's refusal, or more files than can be watched.
pub fn install(model: &ModelFile) -> io::Result<Guard<'_>> {
    PAGE.store(rustix::param::page_size(), Relaxed);
    let mut guard = Guard { slots: Vec::new(), model };
    for part in model.parts() {
        let bytes = part.bytes();
        let free = |s: &&Slot| s.start.compare_exchange(0, bytes.as_ptr() as usize, AcqRel, Relaxed).is_ok();
        let slot = WATCHED.iter().find(free).ok_or(io::ErrorKind::QuotaExceeded)?;
        slot.len.store(bytes.len(), Release);
        guard.slots.push(slot);
    }
    if !INSTALLED.swap(true, AcqRel) {
        take_sigbus().inspect_err(|_| INSTALLED.store(false, Release))?;
    }
    Ok(guard)
}

/// A model's maps being watched.
pub struct Guard<'a> {
    slots: Vec<&'static Slot>,
    #[allow(dead_code, reason = "keeps the maps alive as long as they are watched")]
    model: &'a ModelFile,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        for slot in &self.slots {
            slot.len.store(0, Release);
            slot.start.store(0, Release);
        }
    }
}

fn take_sigbus() -> io::Result<()> {
    // SAFETY: a zeroed sigaction is a valid one; the handler has the three-argument form that SA_SIGINFO asks for and
    // calls only what a handler may (atomics, mmap, sigaction). SA_NODEFER is not set: a fault inside the handler is fatal.
    let rc = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid siginfo to a SA_SIGINFO handler, and SIGBUS sets the address.
    let address = unsafe { (*info).si_addr() } as usize;
    let inside = |s: &Slot| {
        let (start, len) = (s.start.load(Acquire), s.len.load(Acquire));
        start != 0 && address >= start && address - start < len
    };
    if WATCHED.iter().any(inside) {
        let page = PAGE.load(Relaxed);
        let start = address / page * page;
        // SAFETY: replaces one page of a read-only map of ours by a page of zeros at the same address. References
        // into it stay valid to read; that its bytes change is the truncation's doing.
        let p = unsafe {
            libc::mmap(
                start as *mut libc::c_void,
                page,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if p != libc::MAP_FAILED {
            TRUNCATED.store(true, Relaxed);
            return;
        }
    }
    // SAFETY: restores the default action; returning repeats the access, which now ends the process as it should.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_becomes_a_flag() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, vec![7u8; 64 << 10]).unwrap();
        let model = ModelFile::open(&path).unwrap();
        let _guard = install(&model).unwrap();
        let bytes = model.slices()[0];
        assert_eq!(std::hint::black_box(bytes)[40_000], 7);
        assert!(!truncated());
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
        assert_eq!(std::hint::black_box(bytes)[100], 7);
        assert_eq!(std::hint::black_box(bytes)[40_000], 0);
        assert!(truncated());
    }
}
