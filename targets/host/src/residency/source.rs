//! Reading pieces of files past the page cache.

use super::plan::ALIGN;
use super::reader::Request;
use super::slab;
use crate::map::ModelFile;
use std::fs::File;
use std::io;

/// Where pieces are read from; a trait so that tests can have storage that fails.
pub(crate) trait Source: Send + Sync {
    /// Reads at `offset` of file `part`; may read fewer bytes than asked, 0 at the end.
    fn read_at(&self, part: u32, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// The whole blocks that hold `request`: bytes before it in the first, where that starts in the file, and their length,
/// at most `room`.
pub(crate) fn blocks(request: &Request, room: usize) -> (usize, u64, usize) {
    let skip = request.offset % ALIGN;
    let want = (skip + request.bytes).next_multiple_of(ALIGN);
    (skip as usize, request.offset - skip, (want as usize).min(room))
}

/// Reads `request` into `buffer`, which is page-aligned and at least two blocks longer, in whole blocks. Returns where
/// in `buffer` it starts.
///
/// # Errors
/// `Err(errno)`; 0 if the file ends before.
pub(crate) fn read(source: &dyn Source, request: &Request, buffer: &mut [u8]) -> Result<usize, i32> {
    let (skip, start, want) = blocks(request, buffer.len());
    let need = skip + request.bytes as usize;
    let mut got = 0;
    while got < need {
        // Blocks only: after a read that ended inside one, that block is read again.
        let at = got - got % ALIGN as usize;
        match source.read_at(request.part, start + at as u64, &mut buffer[at..want]) {
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
    files: Vec<File>,
    direct: bool,
}

impl Files {
    /// The files of `model`. Their descriptors are shared with the map, which does not care how they are read.
    /// Reads are direct if that is wanted and every file allows it.
    pub(crate) fn of(model: &ModelFile, direct: bool) -> io::Result<Files> {
        let clone = |part: &crate::map::Part| part.file().try_clone();
        let files: Vec<File> = model.parts().iter().map(clone).collect::<io::Result<_>>()?;
        let direct = direct && files.iter().all(reads_directly);
        for file in &files {
            // Reading the file's head through the map made the kernel read on, into pages that are charged to us.
            drop_cached(file, 0, model.len());
            if !direct {
                let _ = set_direct(file, false);
                by_request_only(file);
            }
        }
        Ok(Files { files, direct })
    }

    /// Whether every file is read past the page cache.
    pub(crate) fn direct(&self) -> bool {
        self.direct
    }

    /// The descriptor of file `part`; −1, which is never open, if there is none such.
    #[cfg(unix)]
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn descriptor(&self, part: u32) -> std::os::fd::RawFd {
        use std::os::fd::AsRawFd;
        self.files.get(part as usize).map_or(-1, |f| f.as_raw_fd())
    }
}

/// Makes reads of `file` direct; false if its file system does not take the flag, or takes it and refuses the read.
fn reads_directly(file: &File) -> bool {
    use std::os::unix::fs::FileExt;
    let works = |mut blocks: Vec<slab::Buffer>| blocks.iter_mut().all(|b| file.read_at(b, 0).is_ok());
    set_direct(file, true).is_ok() && slab::buffers(1, ALIGN as usize).is_ok_and(works)
}

impl Source for Files {
    fn read_at(&self, part: u32, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let Some(f) = self.files.get(part as usize) else { return Ok(0) };
        let n = f.read_at(buffer, offset)?;
        if !self.direct {
            drop_cached(f, offset, n as u64);
        }
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
