//! Standard output, standard error, progress bars and Ctrl-C.

use crate::fail::{Done, Fail, failed};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

static STOP: AtomicBool = AtomicBool::new(false);

/// Whether the command looks at [`stopped`].
static HEEDED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C asks a command that heeds it ([`heed_ctrl_c`]) to stop; the second, or any one that nobody heeds,
/// ends the process at once.
pub fn listen_for_ctrl_c() {
    let heard = ctrlc::set_handler(|| {
        if STOP.swap(true, Relaxed) || !HEEDED.load(Relaxed) {
            std::process::exit(130);
        }
    });
    // Without a handler Ctrl-C ends the process: good enough.
    drop(heard);
}

/// Promises that the command looks at [`stopped`] from now on, often.
pub fn heed_ctrl_c() {
    HEEDED.store(true, Relaxed);
}

/// Whether Ctrl-C was pressed.
pub fn stopped() -> bool {
    STOP.load(Relaxed)
}

/// The flag that Ctrl-C sets.
pub fn stop_flag() -> &'static AtomicBool {
    &STOP
}

/// Forgets a Ctrl-C that was obeyed: the next one is a first again.
pub fn go_on() {
    STOP.store(false, Relaxed);
}

/// Writes bytes to standard output, at once.
pub fn bytes(bytes: &[u8]) -> Done {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Fail::ReaderGone),
        Err(e) => Err(failed(format!("writing to standard output: {e}"))),
    }
}

/// Writes a line to standard output.
pub fn line(text: &str) -> Done {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes a line to standard error; there is no one to tell if that fails.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Bytes of the longest text that is read: far more than any context holds, far less than a device gives without end.
const LONGEST_TEXT: u64 = 256 << 20;

/// All that `input` has, as text; bytes that are no UTF-8 are replaced.
fn text(input: impl Read, name: &str) -> Done<String> {
    let mut bytes = Vec::new();
    let read =
        input.take(LONGEST_TEXT + 1).read_to_end(&mut bytes).map_err(|e| failed(format!("reading {name}: {e}")))?;
    if read as u64 > LONGEST_TEXT {
        return Err(failed(format!("{name} is longer than {} MiB", LONGEST_TEXT >> 20)));
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    })
}

/// The text of a file.
pub fn text_of(path: &Path) -> Done<String> {
    let name = path.display().to_string();
    text(File::open(path).map_err(|e| failed(format!("reading {name}: {e}")))?, &name)
}

/// What is piped into standard input; `None` if it is a terminal.
pub fn piped_input() -> Done<Option<String>> {
    let input = io::stdin();
    if input.is_terminal() { Ok(None) } else { text(input, "standard input").map(Some) }
}

/// What came of waiting for a line.
pub enum Asked {
    /// A line.
    Line(String),
    /// There is no more.
    End,
    /// Ctrl-C.
    Interrupted,
}

/// The lines of standard input, read by a thread of their own so that Ctrl-C ends the waiting.
pub struct Lines(Receiver<io::Result<String>>);

impl Lines {
    /// Takes standard input.
    pub fn new() -> Lines {
        let (sender, receiver) = sync_channel(0);
        std::thread::spawn(move || {
            let mut input = io::stdin().lock();
            let mut line = Vec::new();
            loop {
                line.clear();
                let read = input.read_until(b'\n', &mut line);
                let ends = !matches!(read, Ok(n) if n > 0);
                let line = read.map(|_| String::from_utf8_lossy(&line).into_owned());
                // An empty line stands for the end.
                if sender.send(line).is_err() || ends {
                    return;
                }
            }
        });
        Lines(receiver)
    }

    /// The next line, after a prompt if a person is there to see it.
    pub fn next(&mut self) -> Done<Asked> {
        if io::stdin().is_terminal() {
            let _ = write!(io::stderr(), "> ");
        }
        loop {
            match self.0.recv_timeout(Duration::from_millis(50)) {
                Ok(Ok(line)) if line.is_empty() => return Ok(Asked::End),
                Ok(Ok(line)) => return Ok(Asked::Line(line)),
                Ok(Err(e)) => return Err(failed(format!("reading standard input: {e}"))),
                Err(RecvTimeoutError::Disconnected) => return Ok(Asked::End),
                Err(RecvTimeoutError::Timeout) if stopped() => return Ok(Asked::Interrupted),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// A writer that fails once Ctrl-C was pressed.
pub struct Stoppable<W>(pub W);

impl<W: Write> Write for Stoppable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if stopped() { Err(io::Error::other("stopped")) } else { self.0.write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A progress bar on standard error, hidden where that is no terminal.
pub fn progress(len: u64, what: &'static str, bytes: bool) -> ProgressBar {
    let bar = ProgressBar::new(len);
    let form = if bytes {
        "{msg} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}"
    } else {
        "{msg} {wide_bar} {pos}/{len} {per_sec} {eta}"
    };
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar.with_message(what)
}
