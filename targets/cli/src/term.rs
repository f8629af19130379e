//! Standard output, standard error, progress bars and Ctrl-C.

use crate::fail::{Done, Fail, failed};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{BufRead, ErrorKind, IsTerminal, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static STOP: AtomicBool = AtomicBool::new(false);

/// Whether a person is being waited for.
static WAITING: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C asks the command to stop; the second, or one while a person is waited for, ends the
/// process at once.
pub fn listen_for_ctrl_c() {
    let heard = ctrlc::set_handler(|| {
        if STOP.swap(true, Relaxed) || WAITING.load(Relaxed) {
            std::process::exit(130);
        }
    });
    // Without a handler Ctrl-C ends the process: good enough.
    drop(heard);
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

/// What is piped into standard input; `None` if it is a terminal.
pub fn piped_input() -> Done<Option<String>> {
    let mut input = std::io::stdin();
    if input.is_terminal() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|e| failed(format!("reading standard input: {e}")))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The next line of standard input, after a prompt if a person is there to see it; `None` at the end.
pub fn read_line() -> Done<Option<String>> {
    let mut input = std::io::stdin().lock();
    if std::io::stdin().is_terminal() {
        let _ = write!(std::io::stderr(), "> ");
    }
    let mut line = Vec::new();
    WAITING.store(true, Relaxed);
    let read = input.read_until(b'\n', &mut line);
    WAITING.store(false, Relaxed);
    match read.map_err(|e| failed(format!("reading standard input: {e}")))? {
        0 => Ok(None),
        _ => Ok(Some(String::from_utf8_lossy(&line).into_owned())),
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
