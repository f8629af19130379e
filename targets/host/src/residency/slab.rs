//! The memory that storage is read into: one mapping, cut into equal buffers.
//!
//! One mapping and not one each, so that the kernel can back it with huge pages: a direct read pins every page that it
//! touches, and of 2 MiB pages there are 512 times fewer.
#![allow(unsafe_code)]

use memmap2::{MmapMut, MmapRaw};
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A part of the mapping. Whoever has it owns its bytes.
pub(crate) struct Buffer {
    map: Arc<MmapRaw>,
    at: usize,
    len: usize,
}

/// `count` page-aligned buffers of `each` bytes (a multiple of the page size), zeroed.
pub(crate) fn buffers(count: usize, each: usize) -> io::Result<Vec<Buffer>> {
    let all = count.checked_mul(each).ok_or(io::ErrorKind::OutOfMemory)?;
    let map = MmapMut::map_anon(all.max(1))?;
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    let map = Arc::new(MmapRaw::from(map));
    Ok((0..count).map(|i| Buffer { map: map.clone(), at: i * each, len: each }).collect())
}

impl Buffer {
    /// Where it starts, for a system call that is given the buffer by address.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        // SAFETY: `at` lies inside the mapping.
        unsafe { self.map.as_mut_ptr().add(self.at) }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `buffers` alone makes these, with disjoint ranges inside the mapping, which lives as long as any of
        // them; the bytes are initialised (zeros at first). So they are this buffer's, and borrowed as it is.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.at), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.at), self.len) }
    }
}
