//! Reading pieces of files past the page cache.

use super::plan::ALIGN;
use crate::map::ModelFile;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Where pieces are read from; a trait so that tests can have storage that fails.
pub(crate) trait Source: Send + Sync {
    /// Reads at `offset` of file `part`; may read fewer bytes than asked, 0 at the end.
    fn read_at(&self, part: u32, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// Reads `bytes` bytes at `offset` into `buffer`, which is page-aligned and at least two blocks longer, in whole blocks.
/// Returns where in `buffer` they start.
///
/// # Errors
/// `Err(errno)`; 0 if the file ends before.
pub(crate) fn read(source: &dyn Source, part: u32, offset: u64, bytes: u64, buffer: &mut [u8]) -> Result<usize, i32> {
    let skip = (offset % ALIGN) as usize;
    let start = offset - skip as u64;
    let need = skip + bytes as usize;
    let want = need.next_multiple_of(ALIGN as usize).min(buffer.len());
    let mut got = 0;
    while got < need {
        // Blocks only: after a read that ended inside one, that block is read again.
        let at = got - got % ALIGN as usize;
        match source.read_at(part, start + at as u64, &mut buffer[at..want]) {
            Ok(n) if at + n <= got => return Err(0),
            Ok(n) => got = at + n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
    Ok(skip)
}

/// A model's files, read directly from storage where the file system allows, else through the page cache, which is
/// told at once to drop what was read.
pub(crate) struct Files {
    files: Vec<Direct>,
}

struct Direct {
    file: File,
    direct: AtomicBool,
}

impl Files {
    /// The files of `model`. Their descriptors are shared with the map, which does not care how they are read.
    pub(crate) fn of(model: &ModelFile) -> io::Result<Files> {
        let open = |part: &crate::map::Part| {
            let file = part.file().try_clone()?;
            let direct = set_direct(&file, true).is_ok();
            if !direct {
                by_request_only(&file);
            }
            Ok(Direct { file, direct: AtomicBool::new(direct) })
        };
        Ok(Files { files: model.parts().iter().map(open).collect::<io::Result<_>>()? })
    }

    /// Whether every file is read past the page cache.
    pub(crate) fn direct(&self) -> bool {
        self.files.iter().all(|f| f.direct.load(Relaxed))
    }
}

impl Source for Files {
    fn read_at(&self, part: u32, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let Some(f) = self.files.get(part as usize) else { return Ok(0) };
        if f.direct.load(Relaxed) {
            match f.file.read_at(buffer, offset) {
                // Some file systems take the flag and refuse the read.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                    set_direct(&f.file, false)?;
                    by_request_only(&f.file);
                    f.direct.store(false, Relaxed);
                }
                done => return done,
            }
        }
        let n = f.file.read_at(buffer, offset)?;
        drop_cached(&f.file, offset, n as u64);
        Ok(n)
    }
}

#[cfg(target_os = "linux")]
fn set_direct(file: &File, on: bool) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    let flags = if on { flags | rustix::fs::OFlags::DIRECT } else { flags - rustix::fs::OFlags::DIRECT };
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

/// No reading ahead of what is asked: pieces are large, and what lies behind one may be resident.
#[cfg(target_os = "linux")]
fn by_request_only(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random);
}

#[cfg(target_os = "linux")]
fn drop_cached(file: &File, offset: u64, bytes: u64) {
    let len = std::num::NonZeroU64::new(bytes.next_multiple_of(ALIGN));
    let _ = rustix::fs::fadvise(file, offset, len, rustix::fs::Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
fn set_direct(_: &File, on: bool) -> io::Result<()> {
    if on { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
}

#[cfg(not(target_os = "linux"))]
fn by_request_only(_: &File) {}

#[cfg(not(target_os = "linux"))]
fn drop_cached(_: &File, _: u64, _: u64) {}
