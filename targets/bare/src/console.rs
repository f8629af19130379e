//! The serial port: a PL011, 115200 baud, 8 data bits, no parity.

use arm_pl011_uart::{DataBits, LineConfig, PL011Registers, Parity, StopBits, Uart, UniqueMmioPointer};
use core::fmt::{self, Write};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Where the port's registers are; 0 before it was opened.
static PORT: AtomicUsize = AtomicUsize::new(0);

/// The serial port. Lines end in CR LF, as terminals want.
pub struct Console(Uart<'static>);

impl Console {
    /// Sets the port at `registers` up; its clock runs at `clock` Hz.
    ///
    /// # Safety
    /// A PL011 is at `registers`, and no other [`Console`] is in use.
    pub unsafe fn open(registers: usize, clock: u32) -> Option<Console> {
        PORT.store(registers, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        let mut console = unsafe { Console::reopen() }?;
        let line = LineConfig { data_bits: DataBits::Bits8, parity: Parity::None, stop_bits: StopBits::One };
        console.0.enable(line, 115_200, clock).ok()?;
        Some(console)
    }

    /// The port once more, for last words.
    ///
    /// # Safety
    /// What else held the port is not used any more.
    pub unsafe fn reopen() -> Option<Console> {
        let registers = NonNull::new(PORT.load(Ordering::Relaxed) as *mut PL011Registers)?;
        // SAFETY: the registers are a PL011's, mapped as a device, and ours by the caller's promise.
        Some(Console(Uart::new(unsafe { UniqueMmioPointer::new(registers) })))
    }

    /// Waits for a line, echoing it; `None` at the end of transmission (Ctrl-D). What does not fit is dropped.
    pub fn line<'b>(&mut self, buffer: &'b mut [u8]) -> Option<&'b str> {
        let mut len = 0;
        loop {
            // A byte with a framing error is as good as none.
            let Ok(Some(byte)) = self.0.read_word() else {
                core::hint::spin_loop();
                continue;
            };
            match byte {
                4 => return None,
                b'\r' | b'\n' => {
                    let _ = self.write_str("\n");
                    break;
                }
                8 | 127 => {
                    if len > 0 {
                        len -= 1;
                        let _ = self.write_str("\u{8} \u{8}");
                    }
                }
                _ if len < buffer.len() => {
                    self.send(byte);
                    buffer[len] = byte;
                    len += 1;
                }
                _ => {}
            }
        }
        Some(core::str::from_utf8(&buffer[..len]).unwrap_or(""))
    }

    fn send(&mut self, byte: u8) {
        while self.0.is_tx_fifo_full() {
            core::hint::spin_loop();
        }
        self.0.write_word(byte);
    }

    /// Waits until everything is on the line.
    pub fn flush(&mut self) {
        while self.0.is_busy() {
            core::hint::spin_loop();
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
        Ok(())
    }
}
