//! Reading many pieces at once: by threads here, by the kernel's own queue in [`super::uring`].

use super::slab::Buffer;
use super::source::{Source, read};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Bytes of a file.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub part: u32,
    pub offset: u64,
    pub bytes: u64,
}

/// A read that ended.
pub(crate) struct Done {
    pub slot: usize,
    pub buffer: Buffer,
    /// Where the bytes start in the buffer, or the system's error number, 0 if the file ends before.
    pub start: Result<usize, i32>,
}

/// Reads pieces into buffers, several at once, while the caller does something else. Allocates nothing once made.
pub(crate) trait Reader: Send {
    /// Begins a read; `slot` has none under way. It may wait for [`Reader::go`].
    fn begin(&mut self, slot: usize, request: Request, buffer: Buffer);

    /// Lets everything begun get under way.
    fn go(&mut self);

    /// A read that has ended, in any order. If there is none: waits for one if `wait`, else, or if none is under way,
    /// `None`.
    ///
    /// # Errors
    /// The system's error number, if it is this way of reading itself that fails.
    fn ended(&mut self, wait: bool) -> Result<Option<Done>, i32>;
}

/// Threads that each read one piece at a time.
pub(crate) struct Threads {
    shared: Arc<Shared>,
    under_way: usize,
    threads: Vec<std::thread::JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    to_threads: Condvar,
    to_caller: Condvar,
    source: Arc<dyn Source>,
}

/// Both lists have room for every slot.
struct Queue {
    begun: VecDeque<(usize, Request, Buffer)>,
    ended: VecDeque<Done>,
    started: u32,
    stop: bool,
}

impl Threads {
    /// `count` threads for `slots` reads at once.
    pub(crate) fn new(count: u32, slots: usize, source: Arc<dyn Source>) -> io::Result<Threads> {
        let (begun, ended) = (VecDeque::with_capacity(slots), VecDeque::with_capacity(slots));
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { begun, ended, started: 0, stop: false }),
            to_threads: Condvar::new(),
            to_caller: Condvar::new(),
            source,
        });
        let mut all = Threads { shared, under_way: 0, threads: Vec::new() };
        for i in 0..count {
            let shared = all.shared.clone();
            let builder = std::thread::Builder::new().name(format!("drupe-read-{i}")).stack_size(64 << 10);
            all.threads.push(builder.spawn(move || shared.read_on())?);
        }
        // Starting a thread allocates; after this nothing does.
        let mut q = all.shared.lock();
        while q.started < count {
            q = all.shared.to_caller.wait(q).unwrap_or_else(|e| e.into_inner());
        }
        drop(q);
        Ok(all)
    }
}

impl Reader for Threads {
    fn begin(&mut self, slot: usize, request: Request, buffer: Buffer) {
        self.under_way += 1;
        self.shared.lock().begun.push_back((slot, request, buffer));
        self.shared.to_threads.notify_one();
    }

    fn go(&mut self) {}

    fn ended(&mut self, wait: bool) -> Result<Option<Done>, i32> {
        let mut q = self.shared.lock();
        loop {
            if let Some(done) = q.ended.pop_front() {
                self.under_way -= 1;
                return Ok(Some(done));
            }
            if !wait || self.under_way == 0 {
                return Ok(None);
            }
            q = self.shared.to_caller.wait(q).unwrap_or_else(|e| e.into_inner());
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.to_threads.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held; if something did, the lists would still be whole.
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What a thread does all its life.
    fn read_on(&self) {
        let mut q = self.lock();
        q.started += 1;
        self.to_caller.notify_one();
        while !q.stop {
            let Some((slot, request, mut buffer)) = q.begun.pop_front() else {
                q = self.to_threads.wait(q).unwrap_or_else(|e| e.into_inner());
                continue;
            };
            drop(q);
            let start = read(&*self.source, &request, &mut buffer);
            q = self.lock();
            q.ended.push_back(Done { slot, buffer, start });
            self.to_caller.notify_one();
        }
    }
}
