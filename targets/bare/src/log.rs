//! Frames of defmt in the file `drupe.defmt` of the machine that listens through semihosting; `defmt-print -e IMAGE` reads
//! them. Only the first core logs.

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0, Readable};
use core::cell::UnsafeCell;
use defmt::Encoder;
use semihosting::fs::File;
use semihosting::io::Write;

/// Most bytes of a frame; what does not fit of a longer one is lost, and the decoder says so.
const MOST: usize = 256;

struct Frames {
    encoder: Encoder,
    frame: [u8; MOST],
    len: usize,
    file: Option<File>,
}

struct Shared(UnsafeCell<Frames>);

// SAFETY: only the first core logs, and a frame is written without interruption: interrupts are masked for good, and
// panics and faults do not log.
unsafe impl Sync for Shared {}

static FRAMES: Shared =
    Shared(UnsafeCell::new(Frames { encoder: Encoder::new(), frame: [0; MOST], len: 0, file: None }));

impl Frames {
    /// # Safety
    /// Called by the first core alone, and the result is not kept.
    unsafe fn get() -> &'static mut Frames {
        // SAFETY: see Shared.
        unsafe { &mut *FRAMES.0.get() }
    }

    /// Calls `f` with the encoder and a place for its bytes.
    fn encode(&mut self, f: impl FnOnce(&mut Encoder, &mut dyn FnMut(&[u8]))) {
        let Frames { encoder, frame, len, .. } = self;
        f(encoder, &mut |bytes| {
            if let Some(place) = frame.get_mut(*len..*len + bytes.len()) {
                place.copy_from_slice(bytes);
                *len += bytes.len();
            }
        });
    }
}

/// Opens the file; without it, frames are dropped.
pub fn start() {
    // SAFETY: the first core, before it logs.
    unsafe { Frames::get() }.file = File::create(c"drupe.defmt").ok();
}

#[defmt::global_logger]
struct Logger;

// SAFETY: acquire and release stand around each frame, on one core.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        // SAFETY: as above; in all four.
        let frames = unsafe { Frames::get() };
        frames.len = 0;
        frames.encode(|encoder, write| encoder.start_frame(write));
    }

    unsafe fn flush() {}

    unsafe fn release() {
        let frames = unsafe { Frames::get() };
        frames.encode(|encoder, write| encoder.end_frame(write));
        if let Some(file) = &mut frames.file {
            // Logs are not worth stopping for.
            let _ = file.write_all(&frames.frame[..frames.len]);
        }
    }

    unsafe fn write(bytes: &[u8]) {
        unsafe { Frames::get() }.encode(|encoder, write| encoder.write(bytes, write));
    }
}

defmt::timestamp!("{=u64:us}", CNTVCT_EL0.get() * 1_000_000 / CNTFRQ_EL0.get().max(1));
