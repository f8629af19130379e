//! Reading many pieces at once by Linux's `io_uring`: requests go to storage from the thread that computes, with one
//! system call for many, and no other thread has to be woken to take the answers.
#![allow(unsafe_code)]

use super::reader::{Done, Reader, Request};
use super::slab::Buffer;
use super::source::{Files, blocks, read};
use io_uring::{IoUring, opcode, types};
use std::io;
use std::mem::ManuallyDrop;
use std::sync::Arc;

/// System calls that may fail in a row, with a pause after each, before this way of reading is given up.
const TRIES: u32 = 1000;

/// Reads under way at once, at most.
pub(crate) const QUEUE: usize = 1024;

pub(crate) struct Uring {
    ring: IoUring,
    /// By slot. A buffer that is here may be written to by the kernel.
    under_way: Box<[Option<ManuallyDrop<Flight>>]>,
    count: usize,
    /// Requests put into the queue that the kernel has not been told of.
    untold: bool,
    /// Whether the buffers are known to the kernel, so that it need not look their pages up for each read.
    registered: bool,
    files: Arc<Files>,
}

struct Flight {
    request: Request,
    buffer: Buffer,
}

impl Uring {
    /// A queue for reads into `buffers`, of which number `i` is for slot `i`, at most [`QUEUE`] at once.
    ///
    /// # Errors
    /// The kernel has none, or this process may not have one.
    pub(crate) fn new(buffers: &mut [Buffer], files: Arc<Files>) -> io::Result<Uring> {
        let entries =
            u32::try_from(buffers.len().min(QUEUE).next_power_of_two()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // Completions wait for the next system call or tick of the computing thread instead of interrupting it. Kernels
        // before 5.19 do not know that.
        let ring = IoUring::builder().setup_coop_taskrun().build(entries).or_else(|_| IoUring::new(entries))?;
        let parts: Vec<libc::iovec> =
            buffers.iter_mut().map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() }).collect();
        // SAFETY: the buffers' mapping outlives the ring or is never unmapped: each read under way owns its buffer,
        // which keeps the mapping, and the kernel writes only where a read under way says.
        let registered = unsafe { ring.submitter().register_buffers(&parts) }.is_ok();
        let under_way = buffers.iter().map(|_| None).collect();
        Ok(Uring { ring, under_way, count: 0, untold: false, registered, files })
    }

    /// Tells the kernel of new requests; waits for an end if `wait`.
    fn enter(&mut self, wait: bool) -> io::Result<()> {
        self.ring.submit_and_wait(usize::from(wait))?;
        self.untold = false;
        Ok(())
    }
}

impl Reader for Uring {
    fn begin(&mut self, slot: usize, request: Request, mut buffer: Buffer) {
        let (_, start, want) = blocks(&request, buffer.len());
        let fd = types::Fd(self.files.descriptor(request.part));
        let (at, len) = (buffer.as_mut_ptr(), want as u32);
        let entry = if self.registered {
            opcode::ReadFixed::new(fd, at, len, slot as u16).offset(start).build()
        } else {
            opcode::Read::new(fd, at, len).offset(start).build()
        };
        self.under_way[slot] = Some(ManuallyDrop::new(Flight { request, buffer }));
        self.count += 1;
        // SAFETY: the buffer is kept in `under_way`, where nothing touches it, until the kernel says that the read has
        // ended, and the file is open as long as `files`.
        let full = unsafe { self.ring.submission().push(&entry.user_data(slot as u64)) }.is_err();
        // There is an entry for every slot, and a slot has one read at most.
        debug_assert!(!full);
        self.untold = true;
    }

    fn go(&mut self) {
        if self.untold {
            // Should it fail, the next wait tries again.
            let _ = self.enter(false);
        }
    }

    fn ended(&mut self, wait: bool) -> Result<Option<Done>, i32> {
        for _ in 0..TRIES {
            let end = self.ring.completion().next().map(|e| (e.user_data() as usize, e.result()));
            if let Some((slot, result)) = end {
                let Some(flight) = self.under_way.get_mut(slot).and_then(Option::take) else { continue };
                self.count -= 1;
                let Flight { request, mut buffer } = ManuallyDrop::into_inner(flight);
                let (skip, ..) = blocks(&request, buffer.len());
                let whole = usize::try_from(result).is_ok_and(|n| n as u64 >= skip as u64 + request.bytes);
                // What did not go well is tried once more, by a plain read that tells what is the matter.
                let start = if whole { Ok(skip) } else { read(&*self.files, &request, &mut buffer) };
                return Ok(Some(Done { slot, buffer, start }));
            }
            if !wait || self.count == 0 {
                return Ok(None);
            }
            if let Err(e) = self.enter(true)
                && e.kind() != io::ErrorKind::Interrupted
            {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        Err(libc::EIO)
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // A buffer whose read cannot be waited for is never freed (`ManuallyDrop`).
        while let Ok(Some(_)) = self.ended(true) {}
    }
}
