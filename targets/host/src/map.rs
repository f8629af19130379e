//! Opening a model: a GGUF file, or all the files of a split one, mapped read-only.
//!
//! Mapping reads nothing: a page comes from storage when it is first touched. The map is shared with the page cache,
//! so two processes with one model hold one copy.
//!
//! A mapped file that somebody truncates loses its last pages, and touching one raises `SIGBUS`, which ends the
//! process unless it is caught. [`guard`] turns that into a flag and a page of zeros. A streaming source
//! ([`crate::residency`]) reads with `pread` and gets an ordinary error.
#![allow(unsafe_code)]

pub mod guard;

use memmap2::{Advice, Mmap};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The largest number of files that a split model may have.
pub const MAX_PARTS: u32 = 1024;

/// Why a model could not be opened.
#[derive(Debug)]
pub struct OpenError {
    /// The file that it is about.
    pub path: PathBuf,
    /// What is wrong.
    pub kind: OpenErrorKind,
}

/// The kinds of [`OpenError`].
#[derive(Debug)]
pub enum OpenErrorKind {
    /// No such file.
    Missing,
    /// A part of a split model is not beside the others.
    PartMissing {
        /// Number of the part, from 1.
        part: u32,
        /// How many there should be.
        of: u32,
    },
    /// The name says more parts than [`MAX_PARTS`], or part 0.
    PartNumber,
    /// No right to read it.
    Permission,
    /// A directory.
    Directory,
    /// Neither a file nor a link to one.
    NotAFile,
    /// A file of no bytes.
    Empty,
    /// Larger than this process's address space can map.
    TooLarge {
        /// Size in bytes.
        bytes: u64,
    },
    /// Anything else that the system said.
    Io(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.kind {
            OpenErrorKind::Missing => write!(f, "{path}: no such file"),
            OpenErrorKind::PartMissing { part, of } => {
                write!(f, "{path}: part {part} of {of} of this split model is missing")
            }
            OpenErrorKind::PartNumber => {
                write!(f, "{path}: the name says a part outside 1 to {MAX_PARTS}")
            }
            OpenErrorKind::Permission => write!(f, "{path}: no permission to read it"),
            OpenErrorKind::Directory => write!(f, "{path}: is a directory, expected a GGUF file"),
            OpenErrorKind::NotAFile => write!(f, "{path}: is not a regular file, expected a GGUF file"),
            OpenErrorKind::Empty => write!(f, "{path}: is empty, expected a GGUF file"),
            OpenErrorKind::TooLarge { bytes } => {
                write!(f, "{path}: {bytes} bytes are more than this process can map")
            }
            OpenErrorKind::Io(e) => write!(f, "{path}: {e}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            OpenErrorKind::Io(e) => Some(e),
            _ => None,
        }
    }
}

/// One mapped file.
#[derive(Debug)]
pub struct Part {
    /// Where it was opened.
    pub path: PathBuf,
    file: File,
    map: Mmap,
}

impl Part {
    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The open file behind the map.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// A model's files, mapped.
#[derive(Debug)]
pub struct ModelFile {
    parts: Vec<Part>,
}

impl ModelFile {
    /// Maps the file at `path`; if its name ends in `-00001-of-0000N.gguf` (any part of the set), all N of them.
    pub fn open(path: impl AsRef<Path>) -> Result<ModelFile, OpenError> {
        let paths = part_paths(path.as_ref())?;
        let of = paths.len() as u32;
        let open = |(i, p): (usize, PathBuf)| {
            open_part(&p).map_err(|kind| match kind {
                OpenErrorKind::Missing if of > 1 => {
                    OpenError { path: p.clone(), kind: OpenErrorKind::PartMissing { part: i as u32 + 1, of } }
                }
                kind => OpenError { path: p.clone(), kind },
            })
        };
        let parts = paths.into_iter().enumerate().map(open).collect::<Result<_, _>>()?;
        Ok(ModelFile { parts })
    }

    /// The files in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The bytes of each file in order: what [`drupe::weights::InMemory::new`] takes.
    pub fn slices(&self) -> Vec<&[u8]> {
        self.parts.iter().map(Part::bytes).collect()
    }

    /// Bytes of all the files.
    pub fn len(&self) -> u64 {
        self.parts.iter().map(|p| p.map.len() as u64).sum()
    }

    /// Never: an empty file is refused.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Tells the kernel how `range` of file `part` will be read. Advice that this kernel does not know is no error.
    pub fn advise(&self, part: usize, range: Range<usize>, access: Access) -> io::Result<()> {
        let Some(p) = self.parts.get(part) else { return Err(io::ErrorKind::InvalidInput.into()) };
        let end = range.end.min(p.map.len());
        // madvise wants a page-aligned start; memmap2 rounds the start down and the length with it.
        let Some(len) = end.checked_sub(range.start) else { return Ok(()) };
        if len == 0 {
            return Ok(());
        }
        let advice = match access {
            Access::Sequential => Advice::Sequential,
            Access::Random => Advice::Random,
            Access::Soon => Advice::WillNeed,
            #[cfg(target_os = "linux")]
            Access::HugePages => Advice::HugePage,
            #[cfg(not(target_os = "linux"))]
            Access::HugePages => return Ok(()),
        };
        match p.map.advise_range(advice, range.start, len) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
            other => other,
        }
    }

    /// Asks for huge pages for `ranges` (file, bytes) that every pass reads from end to end: where the file system has
    /// large folios the kernel then reads and maps 2 MiB at a time, which spares page walks (13 to 18 GB/s in a virtual
    /// machine). Not for files on a memory card or a USB stick, where the wait for 2 MiB would be felt.
    pub fn ask_for_huge_pages(&self, ranges: impl IntoIterator<Item = (u32, Range<u64>)>) {
        let slow: Vec<bool> = self.parts.iter().map(|p| on_slow_storage(&p.file)).collect();
        for (part, range) in ranges {
            if slow.get(part as usize) == Some(&false) {
                // Only a hint: without it the pages are small.
                let _ = self.advise(part as usize, range.start as usize..range.end as usize, Access::HugePages);
            }
        }
    }

    /// Gives the pages wholly inside `range` of file `part` back to the system, and drops them from the page cache
    /// where nobody else maps them. Touching them again reads them again.
    pub fn release(&self, part: usize, range: Range<usize>) -> io::Result<()> {
        let Some(p) = self.parts.get(part) else { return Err(io::ErrorKind::InvalidInput.into()) };
        let page = rustix::param::page_size();
        let start = range.start.div_ceil(page) * page;
        // The page with the file's last byte counts as whole.
        let end = if range.end >= p.map.len() { p.map.len() } else { range.end / page * page };
        if start >= end {
            return Ok(());
        }
        // SAFETY: DontNeed on a shared read-only file map loses nothing: the next touch maps the file's page again.
        // start..end lies inside the map.
        unsafe { p.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)? };
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(
            &p.file,
            start as u64,
            std::num::NonZeroU64::new((end - start) as u64),
            rustix::fs::Advice::DontNeed,
        )?;
        Ok(())
    }
}

/// How mapped bytes will be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// From first to last: read far ahead.
    Sequential,
    /// In no order: read nothing ahead.
    Random,
    /// Soon: start reading now, in the background.
    Soon,
    /// Often: by huge pages where the file system has them.
    HugePages,
}

/// Whether the device under `file` is an SD card, eMMC or behind USB; false where that cannot be told.
#[cfg(target_os = "linux")]
fn on_slow_storage(file: &File) -> bool {
    let Ok(stat) = rustix::fs::fstat(file) else { return false };
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let Ok(device) = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")) else { return false };
    let device = device.to_string_lossy();
    device.contains("/mmc") || device.contains("/usb")
}

#[cfg(not(target_os = "linux"))]
fn on_slow_storage(_: &File) -> bool {
    true
}

/// The files of the model at `path`, in order.
fn part_paths(path: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let alone = || Ok(vec![path.to_path_buf()]);
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return alone() };
    let Some((stem, part, of)) = split_name(name) else { return alone() };
    if of == 0 || of > MAX_PARTS || part == 0 || part > of {
        return Err(OpenError { path: path.to_path_buf(), kind: OpenErrorKind::PartNumber });
    }
    Ok((1..=of).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{of:05}.gguf"))).collect())
}

/// `("model", 1, 3)` for `model-00001-of-00003.gguf`, the naming of llama.cpp's gguf-split.
fn split_name(name: &str) -> Option<(&str, u32, u32)> {
    let number = |s: &str| (s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok()).flatten();
    let (rest, of) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    Some((stem, number(part)?, number(of)?))
}

fn open_part(path: &Path) -> Result<Part, OpenErrorKind> {
    let refuse = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => OpenErrorKind::Missing,
        io::ErrorKind::PermissionDenied => OpenErrorKind::Permission,
        _ => OpenErrorKind::Io(e),
    };
    let regular = |m: &std::fs::Metadata| match () {
        () if m.is_dir() => Err(OpenErrorKind::Directory),
        () if !m.is_file() => Err(OpenErrorKind::NotAFile),
        () if m.len() == 0 => Err(OpenErrorKind::Empty),
        () => Ok(m.len()),
    };
    // Looked at before opening, since opening a pipe waits for its writer; and after, since it may have changed.
    regular(&std::fs::metadata(path).map_err(refuse)?)?;
    let file = File::open(path).map_err(refuse)?;
    let bytes = regular(&file.metadata().map_err(refuse)?)?;
    let too_large = OpenErrorKind::TooLarge { bytes };
    let Some(len) = usize::try_from(bytes).ok().filter(|n| *n <= isize::MAX as usize) else { return Err(too_large) };
    // SAFETY: the map is read-only and shared; that nobody changes the file meanwhile cannot be had from the system.
    // Changed bytes are changed weights: everything read from them later is checked where it is used as an index or
    // size. Truncation is what `guard` is for.
    let map = unsafe { memmap2::MmapOptions::new().len(len).map(&file) };
    let map = map.map_err(|e| match e.kind() {
        io::ErrorKind::OutOfMemory => too_large,
        _ => OpenErrorKind::Io(e),
    })?;
    Ok(Part { path: path.to_path_buf(), file, map })
}

/// `len` zeroed bytes of anonymous memory, kept for good, by huge pages where the system grants them: attention at a depth of
/// 4096 tokens reads several megabytes of keys and values per layer and would walk the page tables for each 4 KiB. Memory that
/// is never touched costs nothing, to within a huge page.
///
/// # Errors
/// The system has no such stretch of addresses.
pub fn zeroed(len: usize) -> io::Result<&'static mut [u8]> {
    let map = memmap2::MmapMut::map_anon(len.max(1))?;
    #[cfg(target_os = "linux")]
    // Only a hint.
    let _ = map.advise(Advice::HugePage);
    Ok(&mut Box::leak(Box::new(map))[..len])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn kind(path: &Path) -> OpenErrorKind {
        ModelFile::open(path).unwrap_err().kind
    }

    #[test]
    fn refuses_what_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(kind(&dir.path().join("none.gguf")), OpenErrorKind::Missing));
        assert!(matches!(kind(dir.path()), OpenErrorKind::Directory));
        let empty = dir.path().join("empty.gguf");
        File::create(&empty).unwrap();
        assert!(matches!(kind(&empty), OpenErrorKind::Empty));
        #[cfg(target_os = "linux")]
        {
            assert!(matches!(kind(Path::new("/dev/zero")), OpenErrorKind::NotAFile));
            let pipe = dir.path().join("pipe");
            rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
            assert!(matches!(kind(&pipe), OpenErrorKind::NotAFile));
        }
    }

    #[test]
    fn refuses_what_may_not_be_read() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret.gguf");
        std::fs::write(&path, b"GGUF").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
        if File::open(&path).is_ok() {
            println!("skipped: this user may read everything");
            return;
        }
        assert!(matches!(kind(&path), OpenErrorKind::Permission));
    }

    #[test]
    fn finds_all_parts_of_a_split_model() {
        let dir = tempfile::tempdir().unwrap();
        let name = |i: u32| dir.path().join(format!("m-{i:05}-of-00003.gguf"));
        for i in 1..=3 {
            File::create(name(i)).unwrap().write_all(&vec![i as u8; 10 * i as usize]).unwrap();
        }
        for i in 1..=3 {
            let model = ModelFile::open(name(i)).unwrap();
            assert_eq!(model.len(), 60);
            assert_eq!(model.slices().iter().map(|s| s[0]).collect::<Vec<_>>(), [1, 2, 3]);
        }
        std::fs::remove_file(name(2)).unwrap();
        let e = ModelFile::open(name(1)).unwrap_err();
        assert!(matches!(e.kind, OpenErrorKind::PartMissing { part: 2, of: 3 }), "{e}");
        assert!(matches!(kind(&dir.path().join("m-00004-of-00003.gguf")), OpenErrorKind::PartNumber));
        assert!(matches!(kind(&dir.path().join("m-00001-of-99999.gguf")), OpenErrorKind::PartNumber));
    }

    #[test]
    fn split_names() {
        assert_eq!(split_name("a-b-00002-of-00010.gguf"), Some(("a-b", 2, 10)));
        for plain in ["a.gguf", "a-1-of-2.gguf", "a-00001-of-00002.bin", "-of-.gguf", "a-0000x-of-00002.gguf", "é.gguf"]
        {
            assert_eq!(split_name(plain), None, "{plain}");
        }
    }

    #[test]
    fn advice_and_release_keep_the_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let bytes: Vec<u8> = (0..100_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let model = ModelFile::open(&path).unwrap();
        for access in [Access::Sequential, Access::Random, Access::Soon, Access::HugePages] {
            for range in [0..100_000, 5000..9001, 99_999..200_000, 7..7, 300_000..400_000] {
                model.advise(0, range, access).unwrap();
            }
        }
        assert_eq!(model.slices()[0], bytes);
        for range in [0..100_000, 1..4096, 5000..20_000, 90_000..usize::MAX, 8..8] {
            model.release(0, range).unwrap();
            assert_eq!(model.slices()[0], bytes);
        }
    }
}
