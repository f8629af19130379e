//! Saved sessions as files: what was computed for a text, and the text, so that neither is lost or computed twice.
//!
//! ```text
//! magic "drupeSE1" | head length u64 | head checksum u64 | zeros to 64 | head: JSON | zeros to a multiple of 64
//! state: see drupe::state
//! ```
//! Little-endian. A file is written whole or not at all. It is mapped to be read, and every length and checksum in it
//! is checked before anything is taken from it; a forged one can put wrong numbers into a session, no more.

use crate::gguf_write::atomically;
use crate::map::{ModelFile, OpenErrorKind};
use drupe::state::StateError;
use drupe::{Session, Weights};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"drupeSE1";
const START: usize = 64;

/// What a file says beside the state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The model's name, for messages.
    pub model: String,
    /// How the session was set up, for messages.
    pub setup: String,
    /// Every token that the session holds.
    pub tokens: Vec<u32>,
    /// Whether the logits are those of the last token, untouched by a sampler: then the next token can be chosen at once.
    pub logits: bool,
    /// The conversation, for whoever wants to go on with it.
    pub turns: Vec<SavedTurn>,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedTurn {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
    /// The tokens that the model chose for it; empty if it did not.
    pub ids: Vec<u32>,
}

/// Why a session could not be saved or taken back. The file, if there was one, is as it was.
#[derive(Debug)]
pub struct SavedError {
    path: PathBuf,
    kind: SavedErrorKind,
}

/// The kinds of [`SavedError`].
#[derive(Debug)]
enum SavedErrorKind {
    Read(io::Error),
    Write(io::Error),
    NotASession,
    Damaged(&'static str),
    State(StateError, String),
}

impl fmt::Display for SavedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.kind {
            SavedErrorKind::Read(e) => write!(f, "reading {path}: {e}"),
            SavedErrorKind::Write(e) => write!(f, "saving the session in {path}: {e}"),
            SavedErrorKind::NotASession => write!(f, "{path} is not a saved session"),
            SavedErrorKind::Damaged(what) => write!(f, "{path}: the saved session is damaged: {what}"),
            SavedErrorKind::State(e, about) => write!(f, "{path}: {e}; it was saved with {about}"),
        }
    }
}

impl std::error::Error for SavedError {}

/// Writes `session` with `head` to `path`, all or nothing. Takes no memory for it but a buffer.
///
/// # Errors
/// What the system says; a full disk leaves the file that was there.
pub fn save(path: &Path, head: &Head, session: &Session, weights: &mut dyn Weights) -> Result<(), SavedError> {
    let error = |kind| SavedError { path: path.into(), kind };
    let json = serde_json::to_vec(head).map_err(|e| error(SavedErrorKind::Write(e.into())))?;
    let mut start = [0; START];
    start[..8].copy_from_slice(MAGIC);
    start[8..16].copy_from_slice(&(json.len() as u64).to_le_bytes());
    start[16..24].copy_from_slice(&checksum(&json).to_le_bytes());
    let mut state = Ok(());
    let written = atomically(path, |out| {
        out.write_all(&start)?;
        out.write_all(&json)?;
        out.write_all(&[0; START][..json.len().next_multiple_of(START) - json.len()])?;
        let mut failure = Ok(());
        state = session.save_to(weights, &mut |bytes| {
            if failure.is_ok() {
                failure = out.write_all(bytes);
            }
        });
        match state {
            Ok(()) => failure,
            // What it was is told below.
            Err(_) => Err(io::ErrorKind::Other.into()),
        }
    });
    state.map_err(|e| error(SavedErrorKind::State(e, head.setup.clone())))?;
    written.map_err(|e| error(SavedErrorKind::Write(e)))
}

/// A file that was opened and whose head was checked.
pub struct Saved {
    path: PathBuf,
    file: ModelFile,
    /// Where the state begins.
    state: usize,
    /// What it says beside the state.
    pub head: Head,
}

impl Saved {
    /// Opens `path`; `None` if there is no such file.
    ///
    /// # Errors
    /// It cannot be read, is no saved session, or is damaged.
    pub fn open(path: &Path) -> Result<Option<Saved>, SavedError> {
        let error = |kind| SavedError { path: path.into(), kind };
        let file = match ModelFile::open(path) {
            Ok(file) => file,
            Err(e) => match e.kind {
                OpenErrorKind::Missing => return Ok(None),
                OpenErrorKind::Directory | OpenErrorKind::NotAFile | OpenErrorKind::Empty => {
                    return Err(error(SavedErrorKind::NotASession));
                }
                OpenErrorKind::Io(e) => return Err(error(SavedErrorKind::Read(e))),
                other => {
                    let e = crate::map::OpenError { path: path.into(), kind: other };
                    return Err(error(SavedErrorKind::Read(io::Error::other(e))));
                }
            },
        };
        let map = file.slices()[0];
        if map.len() < START || &map[..8] != MAGIC {
            return Err(error(SavedErrorKind::NotASession));
        }
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| map[at + i]));
        let cut = || error(SavedErrorKind::Damaged("it is cut short"));
        let end = usize::try_from(word(8)).ok().and_then(|n| n.checked_add(START)).ok_or_else(cut)?;
        let json = map.get(START..end).ok_or_else(cut)?;
        if checksum(json) != word(16) {
            return Err(error(SavedErrorKind::Damaged("its head's checksum does not match")));
        }
        let head =
            serde_json::from_slice(json).map_err(|_| error(SavedErrorKind::Damaged("its head is unreadable")))?;
        let state = end.next_multiple_of(START);
        if state > map.len() {
            return Err(cut());
        }
        Ok(Some(Saved { path: path.into(), file, state, head }))
    }

    /// Puts the state into `session`.
    ///
    /// # Errors
    /// It is of another model or setup, or damaged: `session` holds nothing then, or what it held.
    pub fn restore(&self, session: &mut Session, weights: &mut dyn Weights) -> Result<(), SavedError> {
        let error = |kind| SavedError { path: self.path.clone(), kind };
        let about = || format!("{} ({})", self.head.model, self.head.setup);
        session
            .restore(weights, &self.file.slices()[0][self.state..])
            .map_err(|e| error(SavedErrorKind::State(e, about())))?;
        if self.head.tokens.len() as u64 != session.position() {
            // Position 0 can always be gone back to.
            let _ = session.rewind(0);
            return Err(error(SavedErrorKind::Damaged("it has more or fewer tokens than its state")));
        }
        Ok(())
    }
}

/// FNV-1a: against accidents, not against forgery.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}
