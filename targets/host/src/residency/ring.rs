//! The ring of buffers: threads that read pieces ahead in the order of the pass, round and round, and one consumer.
//!
//! Every read gets the next number; number `n` uses slot `n mod slots`, so that pieces come out in the order in which
//! they were asked for, whichever thread was faster. Buffers are handed over by value: whoever has one owns it.

use super::plan::{Piece, Place, ResidencyPlan};
use super::source::{Source, read};
use memmap2::MmapMut;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Page-aligned memory.
pub(crate) type Buffer = MmapMut;

/// A piece that was read.
pub(crate) struct Read {
    /// Its place in the order of the pass.
    pub step: usize,
    pub buffer: Buffer,
    /// Where it starts in the buffer, or the system's error number.
    pub start: Result<usize, i32>,
}

enum Slot {
    Free(Buffer),
    /// The buffer is with a reader.
    Reading,
    Full(Read),
    /// The buffer is with the consumer.
    Taken,
}

struct State {
    slots: Box<[Slot]>,
    /// For each slot the step that it was last asked to hold.
    steps: Box<[usize]>,
    /// Number of the next read to begin, and of the next one that the consumer gets. Those between are on their way.
    begun: u64,
    taken: u64,
    /// The next step to read; `None` when nothing is left to read.
    next: Option<usize>,
    /// Pieces that need no more reading: resident, and read or on their way.
    had: Box<[bool]>,
    /// Raised when what is on its way became useless.
    generation: u32,
    /// After an error nothing is read until the consumer asks.
    halted: bool,
    stop: bool,
    /// Reader threads that have begun to live.
    started: u32,
    /// Reads under way, and since when at least one.
    under_way: u32,
    busy_since: Instant,
    figures: Figures,
}

/// What was read from storage, and what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of the pieces read.
    pub bytes: u64,
    /// Reads done.
    pub reads: u64,
    /// Times that reading ahead had to start over somewhere else, because a pass asked out of order or was cut short.
    pub restarts: u64,
    /// Time during which at least one read was under way.
    pub reading: Duration,
    /// Time that the forward pass waited for a piece.
    pub waiting: Duration,
}

struct Shared {
    state: Mutex<State>,
    /// Something became free, or the order changed.
    to_readers: Condvar,
    /// A read ended.
    to_consumer: Condvar,
    source: Box<dyn Source>,
    pieces: Box<[Piece]>,
    order: Box<[u32]>,
}

pub(crate) struct Ring {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Ring {
    pub(crate) fn new(plan: &ResidencyPlan, source: Box<dyn Source>) -> io::Result<Ring> {
        let buffer = |_| Ok(Slot::Free(MmapMut::map_anon(plan.buffer_bytes as usize)?));
        let slots: Box<[Slot]> = (0..plan.shape.buffers).map(buffer).collect::<io::Result<_>>()?;
        let had = vec![false; plan.pieces.len()].into();
        let steps = vec![0; slots.len()].into();
        let next = (!plan.order.is_empty()).then_some(0);
        let state = State {
            slots,
            steps,
            begun: 0,
            taken: 0,
            next,
            had,
            generation: 0,
            // The first pass begins it.
            halted: true,
            stop: false,
            started: 0,
            under_way: 0,
            busy_since: Instant::now(),
            figures: Figures::default(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            to_readers: Condvar::new(),
            to_consumer: Condvar::new(),
            source,
            pieces: plan.pieces.clone().into(),
            order: plan.order.clone().into(),
        });
        let mut ring = Ring { shared, threads: Vec::new() };
        for i in 0..plan.shape.readers {
            let shared = ring.shared.clone();
            let builder = std::thread::Builder::new().name(format!("drupe-read-{i}")).stack_size(64 << 10);
            ring.threads.push(builder.spawn(move || shared.read_on())?);
        }
        // Starting a thread allocates; after this nothing does.
        let mut s = ring.shared.lock();
        while s.started < plan.shape.readers {
            s = ring.shared.to_consumer.wait(s).unwrap_or_else(|e| e.into_inner());
        }
        drop(s);
        Ok(ring)
    }

    pub(crate) fn source(&self) -> &dyn Source {
        &*self.shared.source
    }

    pub(crate) fn figures(&self) -> Figures {
        self.shared.lock().figures
    }

    /// Makes sure that the first piece of a pass is the next to come, and that reading goes on.
    pub(crate) fn rewind(&self) {
        let mut s = self.shared.lock();
        // Pieces that are in memory already are passed over; one that is on its way there is not.
        let order = &self.shared.order;
        let first = order.iter().position(|p| !s.had[*p as usize] || s.on_its_way(*p, order).is_some());
        if let Some(first) = first.filter(|first| s.halted || s.coming() != Some(*first)) {
            self.shared.restart(&mut s, first);
        }
    }

    /// Whether `piece` is the next to come.
    pub(crate) fn is_next(&self, piece: u32) -> bool {
        self.shared.lock().coming().is_some_and(|step| self.shared.order[step] == piece)
    }

    /// Waits for the first visit of `piece` at or after step `from` (round the end), starting over there if it is not
    /// on its way.
    pub(crate) fn take(&self, piece: u32, from: usize) -> Read {
        let all = &*self.shared;
        let mut s = all.lock();
        if !s.halted && s.coming().is_some_and(|step| all.order[step] == piece) {
            return all.receive(s).1;
        }
        let Some(number) = s.on_its_way(piece, &all.order) else {
            let after = (from..all.order.len()).chain(0..from.min(all.order.len()));
            let step = after.into_iter().find(|i| all.order[*i] == piece).unwrap_or(0);
            all.restart(&mut s, step);
            return all.receive(s).1;
        };
        // Pieces before it will not be asked for in this pass.
        while s.taken < number {
            let (now, read) = all.receive(s);
            s = now;
            s.had[all.order[read.step] as usize] = false;
            s.put_back(read.buffer);
            all.to_readers.notify_one();
        }
        all.receive(s).1
    }

    /// Gives back the buffer of a piece that [`Ring::take`] gave.
    pub(crate) fn give_back(&self, buffer: Buffer) {
        let mut s = self.shared.lock();
        s.put_back(buffer);
        self.shared.to_readers.notify_one();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.to_readers.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl State {
    fn slot(&self, number: u64) -> usize {
        (number % self.slots.len() as u64) as usize
    }

    /// Makes the one taken slot free again.
    fn put_back(&mut self, buffer: Buffer) {
        if let Some(slot) = self.slots.iter_mut().find(|s| matches!(s, Slot::Taken)) {
            *slot = Slot::Free(buffer);
        }
    }

    /// The step that comes next.
    fn coming(&self) -> Option<usize> {
        if self.taken < self.begun { Some(self.steps[self.slot(self.taken)]) } else { self.next }
    }

    /// The number under which `piece` comes, if it was begun.
    fn on_its_way(&self, piece: u32, order: &[u32]) -> Option<u64> {
        (self.taken..self.begun).find(|n| order[self.steps[self.slot(*n)]] == piece)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if something did, the state would still be whole between statements.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The first step at or after `from`, round the end, whose piece needs reading.
    fn needed_from(&self, s: &State, from: usize) -> Option<usize> {
        let n = self.order.len();
        (from..n).chain(0..from.min(n)).find(|i| !s.had[self.order[*i] as usize])
    }

    /// Forgets what is on its way and reads on from `step`.
    fn restart(&self, s: &mut State, step: usize) {
        for number in s.taken..s.begun {
            let slot = s.slot(number);
            // What a reader still has comes back as free, see `read_on`.
            s.had[self.order[s.steps[slot]] as usize] = false;
            s.slots[slot] = match std::mem::replace(&mut s.slots[slot], Slot::Taken) {
                Slot::Full(read) => Slot::Free(read.buffer),
                other => other,
            };
        }
        s.figures.restarts += u64::from(!s.halted);
        s.generation = s.generation.wrapping_add(1);
        s.taken = s.begun;
        s.next = Some(step);
        s.halted = false;
        self.to_readers.notify_all();
    }

    /// Waits for the next number to be taken.
    fn receive<'a>(&self, mut s: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, Read) {
        let mut start = None;
        loop {
            let slot = s.slot(s.taken);
            if s.taken < s.begun {
                match std::mem::replace(&mut s.slots[slot], Slot::Taken) {
                    Slot::Full(read) => {
                        s.taken += 1;
                        s.figures.waiting += start.map_or(Duration::ZERO, |t: Instant| t.elapsed());
                        if read.start.is_err() {
                            s.had[self.order[read.step] as usize] = false;
                        }
                        return (s, read);
                    }
                    other => s.slots[slot] = other,
                }
            }
            start.get_or_insert_with(Instant::now);
            s = self.to_consumer.wait(s).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// What a reader thread does all its life.
    fn read_on(&self) {
        let mut s = self.lock();
        s.started += 1;
        self.to_consumer.notify_one();
        loop {
            let slot = s.slot(s.begun);
            let ready = !s.halted && s.next.is_some() && matches!(s.slots[slot], Slot::Free(_));
            if s.stop {
                return;
            }
            if !ready {
                s = self.to_readers.wait(s).unwrap_or_else(|e| e.into_inner());
                continue;
            }
            let (Some(step), Slot::Free(mut buffer)) = (s.next, std::mem::replace(&mut s.slots[slot], Slot::Reading))
            else {
                return;
            };
            let index = self.order[step] as usize;
            let piece = self.pieces[index];
            s.steps[slot] = step;
            s.begun += 1;
            s.had[index] = piece.place != Place::Streamed;
            s.next = self.needed_from(&s, step + 1);
            let generation = s.generation;
            if s.under_way == 0 {
                s.busy_since = Instant::now();
            }
            s.under_way += 1;
            drop(s);

            let read_at = read(&*self.source, piece.part, piece.offset, piece.bytes, &mut buffer);

            s = self.lock();
            s.under_way -= 1;
            if s.under_way == 0 {
                let busy = s.busy_since.elapsed();
                s.figures.reading += busy;
            }
            s.figures.reads += 1;
            s.figures.bytes += if read_at.is_ok() { piece.bytes } else { 0 };
            if s.generation == generation {
                s.halted |= read_at.is_err();
                s.slots[slot] = Slot::Full(Read { step, buffer, start: read_at });
                self.to_consumer.notify_one();
            } else {
                s.slots[slot] = Slot::Free(buffer);
                self.to_readers.notify_all();
            }
        }
    }
}
