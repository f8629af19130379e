//! How a command ends when it does not end well.

use std::process::ExitCode;

/// Why a command stopped.
pub enum Fail {
    /// It was asked for something that makes no sense: exit code 2.
    Usage(String),
    /// It could not be done: exit code 1.
    Failed(String),
    /// The reader of our output went away (`drupe … | head`): no error.
    ReaderGone,
    /// Ctrl-C: 130, as shells expect.
    Interrupted,
}

/// What a command returns.
pub type Done<T = ()> = Result<T, Fail>;

/// Says what went wrong on standard error and gives the exit code.
pub fn exit_code(done: Done) -> ExitCode {
    match done {
        Ok(()) | Err(Fail::ReaderGone) => ExitCode::SUCCESS,
        Err(Fail::Usage(what)) => {
            crate::term::say(&format!("error: {what}"));
            ExitCode::from(2)
        }
        Err(Fail::Failed(what)) => {
            crate::term::say(&format!("error: {what}"));
            ExitCode::from(1)
        }
        Err(Fail::Interrupted) => {
            crate::term::say("stopped");
            ExitCode::from(130)
        }
    }
}

/// A failure with this message.
pub fn failed(what: impl std::fmt::Display) -> Fail {
    Fail::Failed(what.to_string())
}

/// A misuse with this message.
pub fn usage(what: impl std::fmt::Display) -> Fail {
    Fail::Usage(what.to_string())
}
