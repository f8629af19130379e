//! An image's life: the board is brought up, the first prompt is answered, then every line.

use crate::answer::{Answerer, Clock, MOST_PROMPT};
use crate::console::Console;
use crate::cores::{Calling, Cores};
use crate::{ARENA_BYTES, ArenaMemory, MODEL, PROMPT, paging, start};
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0, Readable};
use core::fmt::Write;
use core::ops::Range;
use drupe::Team;

/// What differs from board to board.
pub struct Board {
    /// Its name.
    pub name: &'static str,
    /// Addresses that are memory; all others below 4 GiB are devices.
    pub memory: Range<u64>,
    /// The registers of its PL011.
    pub port: usize,
    /// The PL011's clock in Hz.
    pub port_clock: u32,
    /// How its other cores are called.
    pub calling: Calling,
}

/// Makes an image of a [`Board`].
#[macro_export]
macro_rules! image {
    ($board:expr) => {
        /// Where `start.rs` goes on to.
        #[unsafe(no_mangle)]
        extern "C" fn board_main() -> ! {
            // SAFETY: called once, by the first core, from reset.
            unsafe { $crate::firmware::main(&$board) }
        }
    };
}

#[unsafe(link_section = ".noinit")]
static mut ARENA: core::mem::MaybeUninit<ArenaMemory> = core::mem::MaybeUninit::uninit();

/// What an image does from its first to its last line of Rust.
///
/// # Safety
/// Called once, by the first core, on this board.
pub unsafe fn main(board: &Board) -> ! {
    // SAFETY: first thing, on the first core; the image is inside the board's memory.
    unsafe {
        paging::describe(&board.memory);
        paging::enter();
    }
    // SAFETY: the board's port; nobody else has it.
    let Some(mut console) = (unsafe { Console::open(board.port, board.port_clock) }) else { halt(3) };
    let clock = Clock { now: || CNTVCT_EL0.get(), frequency: CNTFRQ_EL0.get() };
    let start = (clock.now)();
    // SAFETY: once, and as this board does it.
    let cores = unsafe { Cores::call(board.calling, || (clock.now)() - start > clock.frequency / 10) };
    let _ = writeln!(console, "drupe {} on {}, {} cores", env!("CARGO_PKG_VERSION"), board.name, cores.workers());
    #[cfg(feature = "semihosting")]
    {
        crate::log::start();
        defmt::info!("{=str}: {=usize} cores", board.name, cores.workers());
    }
    let code = match serve(&mut console, &cores, clock) {
        Ok(()) => 0,
        Err(crate::answer::Failed) => 1,
    };
    console.flush();
    halt(code)
}

fn serve(console: &mut Console, cores: &Cores, clock: Clock) -> Result<(), crate::answer::Failed> {
    // SAFETY: this is the only reference, and its bytes get a value first.
    let memory = unsafe {
        let bytes = (&raw mut ARENA).cast::<u8>();
        core::ptr::write_bytes(bytes, 0, ARENA_BYTES);
        core::slice::from_raw_parts_mut(bytes, ARENA_BYTES)
    };
    let mut answerer = Answerer::new(MODEL, cores.workers(), memory, console)?;
    let _ = writeln!(console, "arena: {} of {ARENA_BYTES} bytes", answerer.used);
    #[cfg(feature = "semihosting")]
    defmt::info!("arena: {=usize} of {=usize} bytes", answerer.used, ARENA_BYTES);
    let _ = writeln!(console, "prompt: {PROMPT}");
    answerer.answer(PROMPT, cores, clock, console)?;
    for core in 0..cores.workers() {
        let used = start::stack_used(core);
        let _ = writeln!(console, "stack of core {core}: {used} of {} bytes", start::STACK);
        #[cfg(feature = "semihosting")]
        defmt::info!("stack of core {=usize}: {=usize} of {=usize} bytes", core, used, start::STACK);
    }
    let mut line = [0; MOST_PROMPT];
    loop {
        let _ = write!(console, "> ");
        let Some(prompt) = console.line(&mut line) else { return Ok(()) };
        if !prompt.trim().is_empty() {
            // Said on the console; the next line may do better.
            let _ = answerer.answer(prompt, cores, clock, console);
        }
    }
}

/// The end: an exit code where somebody listens, else sleep.
pub fn halt(code: i32) -> ! {
    #[cfg(feature = "semihosting")]
    semihosting::process::exit(code);
    #[cfg(not(feature = "semihosting"))]
    {
        let _ = code;
        loop {
            aarch64_cpu::asm::wfe();
        }
    }
}
