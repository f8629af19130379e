//! The other cores, as workers of a team.

use aarch64_cpu::asm::barrier::{SY, dsb};
use aarch64_cpu::asm::{sev, wfe};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use drupe::Team;

/// Most cores.
pub const MOST: usize = 4;

/// Not zero once the cores that wait in `start.rs` may go on; they read it uncached.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data")]
static CORES_CALLED: AtomicU32 = AtomicU32::new(0);

/// Workers that have come, the first core included.
static WORKERS: AtomicUsize = AtomicUsize::new(1);

/// Counts steps; a new value means that [`JOB`] is new.
static STEP: AtomicUsize = AtomicUsize::new(0);

/// Workers of the team that have not finished the step.
static BUSY: AtomicUsize = AtomicUsize::new(0);

/// Workers of the team; those beyond it sit out.
static TEAM: AtomicUsize = AtomicUsize::new(1);

struct Job(UnsafeCell<Option<&'static (dyn Fn(usize) + Sync)>>);

// SAFETY: written by the first core while no worker is busy, read by workers after they saw STEP change.
unsafe impl Sync for Job {}

static JOB: Job = Job(UnsafeCell::new(None));

/// How a board's other cores are let go.
#[derive(Clone, Copy)]
pub enum Calling {
    /// They wait in `start.rs`, or in the loader for an entry address in the words from here on, one for each core.
    Table(usize),
    /// The power management interface of Arm switches them on, called by `hvc`.
    Psci,
}

/// Writes through the caches, for cores that read without.
fn clean(address: usize) {
    // SAFETY: writing a cache line back changes no value.
    unsafe { core::arch::asm!("dc civac, {}", in(reg) address, options(nostack)) };
    dsb(SY);
}

unsafe extern "C" {
    fn _start();
}

/// The cores as a team.
pub struct Cores(usize);

impl Cores {
    /// Calls the other cores and waits for them until `late` says that it took too long; a core that does not come is
    /// done without.
    ///
    /// # Safety
    /// Called once, with translation on, and `calling` is how this board does it.
    pub unsafe fn call(calling: Calling, late: impl Fn() -> bool) -> Cores {
        CORES_CALLED.store(1, Ordering::Release);
        clean(CORES_CALLED.as_ptr() as usize);
        for core in 1..MOST {
            match calling {
                Calling::Table(words) => {
                    let word = (words + 8 * core) as *mut usize;
                    // SAFETY: by the caller's promise, these words are the loader's.
                    unsafe { word.write_volatile(_start as *const () as usize) };
                    clean(word as usize);
                }
                // SAFETY: CPU_ON with the core's number, entry and an argument that is not used; the interface keeps all
                // registers but x0 to x3. A core that does not exist is an error code.
                Calling::Psci => unsafe {
                    core::arch::asm!(
                        "hvc #0",
                        inout("x0") 0xc400_0003u64 => _,
                        inout("x1") core => _,
                        inout("x2") _start as *const () as usize => _,
                        inout("x3") 0u64 => _,
                        clobber_abi("C"),
                    );
                },
            }
        }
        sev();
        while WORKERS.load(Ordering::Acquire) < MOST && !late() {
            core::hint::spin_loop();
        }
        let workers = WORKERS.load(Ordering::Acquire);
        TEAM.store(workers, Ordering::Release);
        Cores(workers)
    }
}

impl Team for Cores {
    fn workers(&self) -> usize {
        self.0
    }

    fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        // SAFETY: no worker is busy, so none reads this; and none keeps the job beyond this call, which returns when
        // all have finished with it.
        unsafe {
            let job = core::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(job);
            *JOB.0.get() = Some(job);
        }
        BUSY.store(self.0 - 1, Ordering::Relaxed);
        STEP.fetch_add(1, Ordering::Release);
        dsb(SY);
        sev();
        job(0);
        // The last one to finish sends an event.
        while BUSY.load(Ordering::Acquire) != 0 {
            wfe();
        }
    }
}

/// What a core other than the first one does for good.
///
/// # Safety
/// Called from `start.rs` alone.
pub unsafe extern "C" fn work() -> ! {
    // SAFETY: the first core has described the memory before it called.
    unsafe { crate::paging::enter() };
    let mut seen = STEP.load(Ordering::Acquire);
    let worker = WORKERS.fetch_add(1, Ordering::AcqRel);
    loop {
        let step = STEP.load(Ordering::Acquire);
        if step == seen {
            wfe();
            continue;
        }
        seen = step;
        // One that came too late is not in the team.
        if worker < TEAM.load(Ordering::Acquire) {
            // SAFETY: the step is new, so the job was written for it and stays until this worker is not busy.
            if let Some(job) = unsafe { *JOB.0.get() } {
                job(worker);
            }
            if BUSY.fetch_sub(1, Ordering::AcqRel) == 1 {
                dsb(SY);
                sev();
            }
        }
    }
}
