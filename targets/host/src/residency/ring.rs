//! The ring of buffers: reads ahead in the order of the pass, round and round, and one consumer.
//!
//! Every read gets the next number; number `n` uses slot `n mod slots`, so that pieces come out in the order in which
//! they were asked for, whichever read was faster. Whenever a buffer becomes free, the next read is begun with it, so
//! that all but the one in use are on their way.

use super::plan::{Piece, Place, ResidencyPlan};
use super::reader::{Done, Reader, Request};
use super::slab::Buffer;
use std::time::{Duration, Instant};

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
    /// The buffer is with the reader.
    Reading,
    /// The same, and what comes is of no use.
    Useless,
    Full(Read),
    /// The buffer is with the consumer.
    Taken,
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
    /// Time that the forward pass waited for a piece.
    pub waiting: Duration,
    /// Pieces of experts that routers chose, and how many of them were in the cache.
    pub chosen: u64,
    /// See `chosen`.
    pub kept: u64,
}

pub(crate) struct Ring {
    reader: Box<dyn Reader>,
    pieces: Box<[Piece]>,
    order: Box<[u32]>,
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
    /// At first, and after an error, nothing is read until the consumer asks.
    halted: bool,
    figures: Figures,
}

impl Ring {
    /// A ring of these buffers.
    pub(crate) fn new(plan: &ResidencyPlan, buffers: Vec<Buffer>, reader: Box<dyn Reader>) -> Ring {
        Ring {
            reader,
            steps: vec![0; buffers.len()].into(),
            slots: buffers.into_iter().map(Slot::Free).collect(),
            pieces: plan.pieces.clone().into(),
            order: plan.order.clone().into(),
            begun: 0,
            taken: 0,
            next: (!plan.order.is_empty()).then_some(0),
            had: vec![false; plan.pieces.len()].into(),
            halted: true,
            figures: Figures::default(),
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        self.figures
    }

    /// Steps of a pass.
    pub(crate) fn steps(&self) -> usize {
        self.order.len()
    }

    /// The piece of a step.
    pub(crate) fn piece_of(&self, step: usize) -> u32 {
        self.order[step]
    }

    /// Makes sure that the first piece of a pass is the next to come, and that reading goes on.
    pub(crate) fn rewind(&mut self) {
        // Pieces that are in memory already are passed over; one that is on its way there is not.
        let first = self.order.iter().position(|p| !self.had[*p as usize] || self.on_its_way(*p).is_some());
        if let Some(first) = first.filter(|first| self.halted || self.coming() != Some(*first)) {
            self.restart(first);
        }
        self.read_ahead();
    }

    /// Whether `piece` is the next to come.
    pub(crate) fn is_next(&self, piece: u32) -> bool {
        self.coming().is_some_and(|step| self.order[step] == piece)
    }

    /// Waits for the first visit of `piece` at or after step `from` (round the end), starting over there if it is not
    /// on its way. A read ahead that failed says nothing of now: it may be from before this pass began. It is done once
    /// more, and only what fails after it was asked for is told.
    ///
    /// # Errors
    /// Nothing can be read any more. (A read that failed is given like any other.)
    pub(crate) fn take(&mut self, piece: u32, from: usize) -> Result<Read, i32> {
        if let Some(number) = self.on_its_way(piece) {
            // Pieces before it will not be asked for in this pass.
            while self.taken < number {
                let read = self.receive()?;
                self.had[self.order[read.step] as usize] = false;
                self.give_back(read.buffer);
            }
            let read = self.receive()?;
            if read.start.is_ok() {
                return Ok(read);
            }
            self.give_back(read.buffer);
            self.restart(read.step);
        } else if self.halted || !self.is_next(piece) {
            let n = self.order.len();
            let step = (from..n).chain(0..from.min(n)).find(|i| self.order[*i] == piece);
            self.restart(step.ok_or(libc::EIO)?);
        }
        self.receive()
    }

    /// Gives back the buffer of a piece that [`Ring::take`] gave.
    pub(crate) fn give_back(&mut self, buffer: Buffer) {
        if let Some(slot) = self.slots.iter_mut().find(|s| matches!(s, Slot::Taken)) {
            *slot = Slot::Free(buffer);
        }
        self.read_ahead();
    }

    fn slot(&self, number: u64) -> usize {
        (number % self.slots.len() as u64) as usize
    }

    /// The step that comes next.
    fn coming(&self) -> Option<usize> {
        if self.taken < self.begun { Some(self.steps[self.slot(self.taken)]) } else { self.next }
    }

    /// The number under which `piece` comes, if it was begun.
    fn on_its_way(&self, piece: u32) -> Option<u64> {
        (self.taken..self.begun).find(|n| self.order[self.steps[self.slot(*n)]] == piece)
    }

    /// The first step at or after `from`, round the end, whose piece needs reading.
    fn needed_from(&self, from: usize) -> Option<usize> {
        let n = self.order.len();
        (from..n).chain(0..from.min(n)).find(|i| !self.had[self.order[*i] as usize])
    }

    /// Forgets what is on its way; the next read will be of `step`.
    fn restart(&mut self, step: usize) {
        for number in self.taken..self.begun {
            let slot = self.slot(number);
            self.had[self.order[self.steps[slot]] as usize] = false;
            self.slots[slot] = match std::mem::replace(&mut self.slots[slot], Slot::Useless) {
                Slot::Full(read) => Slot::Free(read.buffer),
                _ => Slot::Useless,
            };
        }
        self.figures.restarts += u64::from(!self.halted);
        self.taken = self.begun;
        self.next = Some(step);
        self.halted = false;
    }

    /// Begins as many reads as there are free buffers.
    fn read_ahead(&mut self) {
        // A buffer whose read was given up becomes free when that has ended.
        while let Ok(Some(done)) = self.reader.ended(false) {
            self.settle(done);
        }
        while let (false, Some(step)) = (self.halted, self.next) {
            let slot = self.slot(self.begun);
            let buffer = match std::mem::replace(&mut self.slots[slot], Slot::Reading) {
                Slot::Free(buffer) => buffer,
                other => {
                    self.slots[slot] = other;
                    break;
                }
            };
            let index = self.order[step] as usize;
            let Piece { part, offset, bytes, place, .. } = self.pieces[index];
            self.steps[slot] = step;
            self.begun += 1;
            self.had[index] = matches!(place, Place::Resident(_));
            self.next = self.needed_from(step + 1);
            self.reader.begin(slot, Request { part, offset, bytes }, buffer);
        }
        self.reader.go();
    }

    fn settle(&mut self, done: Done) {
        let Done { slot, buffer, start } = done;
        let step = self.steps[slot];
        self.figures.reads += 1;
        if start.is_ok() {
            self.figures.bytes += self.pieces[self.order[step] as usize].bytes;
        }
        self.slots[slot] = match self.slots[slot] {
            Slot::Useless => Slot::Free(buffer),
            _ => {
                self.halted |= start.is_err();
                Slot::Full(Read { step, buffer, start })
            }
        };
    }

    /// Waits for the next number to be taken.
    fn receive(&mut self) -> Result<Read, i32> {
        let mut since = None;
        loop {
            self.read_ahead();
            let slot = self.slot(self.taken);
            if self.taken < self.begun && matches!(self.slots[slot], Slot::Full(_)) {
                let Slot::Full(read) = std::mem::replace(&mut self.slots[slot], Slot::Taken) else { continue };
                self.taken += 1;
                self.figures.waiting += since.map_or(Duration::ZERO, |t: Instant| t.elapsed());
                if read.start.is_err() {
                    self.had[self.order[read.step] as usize] = false;
                }
                return Ok(read);
            }
            since.get_or_insert_with(Instant::now);
            // With nothing under way nothing would ever come: the reader is broken.
            let done = self.reader.ended(true)?.ok_or(libc::EIO)?;
            self.settle(done);
        }
    }
}
