//! Experts: read when a router has chosen them, through a cache that keeps the ones that are chosen often.
//!
//! A layer's choice is known before its first expert is asked for, so all that is missing of it is read at once. A slot
//! holds one piece of an expert's matrix. Room is made by the piece that was chosen least, counted over the last passes
//! (counts are halved now and then, so that what a conversation was about before fades), and of equal ones by the one used
//! longest ago. What the layer at work still needs is never thrown out.

use super::plan::{ExpertPlan, Piece};
use super::reader::{Done, Reader, Request};
use super::ring::Figures;
use super::slab::Buffer;
use drupe::weights::Chosen;
use std::ops::Range;
use std::time::{Duration, Instant};

const NONE: u32 = u32::MAX;

/// Reads under way at once, at most.
const UNDER_WAY: usize = 64;

/// Passes after which the counts are halved.
const FADE: u32 = 64;

enum State {
    Free(Buffer),
    /// The buffer is with the reader.
    Reading,
    /// A piece, which starts here.
    Full(Buffer, usize),
    /// The system's error number.
    Failed(Buffer, i32),
    /// Between two of the others.
    Moving,
}

struct Slot {
    state: State,
    piece: u32,
    /// The layer's choice by which it is still needed; see [`ExpertCache::choice`].
    needed: u64,
    /// The choice that used it last.
    used: u64,
}

pub(crate) struct ExpertCache {
    reader: Box<dyn Reader>,
    slots: Box<[Slot]>,
    /// By piece of the model: its slot, or [`NONE`].
    slot_of: Box<[u32]>,
    /// By piece of the model: how often it was chosen lately.
    counts: Box<[u16]>,
    /// The pieces of the layer at work in the order in which they will be asked for; room for a whole layer.
    queue: Vec<u32>,
    /// The first of them whose read has not begun.
    next: usize,
    under_way: usize,
    /// Number of the choice that the queue is of.
    choice: u64,
    /// Choices until the counts are halved.
    fades_in: u32,
    fade: u32,
    /// The slot in use.
    current: usize,
    figures: Figures,
}

impl ExpertCache {
    /// A cache with these buffers for its slots, for a model of `pieces` pieces.
    pub(crate) fn new(plan: &ExpertPlan, pieces: usize, buffers: Vec<Buffer>, reader: Box<dyn Reader>) -> ExpertCache {
        let slot = |buffer| Slot { state: State::Free(buffer), piece: NONE, needed: 0, used: 0 };
        let fade = FADE.saturating_mul(plan.layers.max(1));
        ExpertCache {
            reader,
            slots: buffers.into_iter().map(slot).collect(),
            slot_of: vec![NONE; pieces].into(),
            counts: vec![0; pieces].into(),
            queue: Vec::with_capacity(plan.layer_pieces),
            next: 0,
            under_way: 0,
            choice: 0,
            fades_in: fade,
            fade,
            current: usize::MAX,
            figures: Figures::default(),
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        self.figures
    }

    /// Begins to read what is missing of the experts chosen; `pieces` are the model's, sorted.
    pub(crate) fn expect(&mut self, chosen: &Chosen<'_>, pieces: &[Piece]) {
        self.choice += 1;
        self.queue.clear();
        self.next = 0;
        for expert in chosen.chosen {
            for t in &chosen.matrices {
                let rows = t.rows / chosen.count.max(1);
                let part = t.slice(expert * rows..(expert + 1) * rows);
                let first = pieces.partition_point(|p| (p.part, p.offset) < (part.part, part.offset));
                let end = part.offset + part.bytes();
                let inside = pieces[first..].iter().take_while(|p| p.part == part.part && p.offset < end).count();
                for piece in first..first + inside {
                    self.counts[piece] = self.counts[piece].saturating_add(1);
                    self.figures.chosen += 1;
                    if let Some(slot) = self.slots.get_mut(self.slot_of[piece] as usize) {
                        slot.needed = self.choice;
                        self.figures.kept += 1;
                    }
                    if self.queue.len() < self.queue.capacity() {
                        self.queue.push(piece as u32);
                    }
                }
            }
        }
        self.fades_in -= 1;
        if self.fades_in == 0 {
            self.fades_in = self.fade;
            self.counts.iter_mut().for_each(|n| *n /= 2);
        }
        self.advance(pieces);
    }

    /// Gets `piece`: its slot, and where it starts in that one's bytes.
    ///
    /// # Errors
    /// The system's error number; the piece can be asked for again.
    pub(crate) fn take(&mut self, piece: u32, pieces: &[Piece]) -> Result<(usize, usize), i32> {
        // A long piece is asked for stretch by stretch: until another one is, it must not be thrown out.
        if let Some(slot) = self.slots.get(self.current).filter(|s| s.piece == piece)
            && let State::Full(_, start) = slot.state
        {
            return Ok((self.current, start));
        }
        self.current = usize::MAX;
        let (mut since, mut again) = (None, true);
        loop {
            if self.slot_of[piece as usize] == NONE && !self.queue[self.next.min(self.queue.len())..].contains(&piece) {
                self.read_next(piece);
            }
            self.advance(pieces);
            let at = self.slot_of[piece as usize] as usize;
            if let Some(slot) = self.slots.get_mut(at) {
                match std::mem::replace(&mut slot.state, State::Moving) {
                    State::Full(buffer, start) => {
                        slot.state = State::Full(buffer, start);
                        (slot.needed, slot.used) = (0, self.choice);
                        self.current = at;
                        self.figures.waiting += since.map_or(Duration::ZERO, |t: Instant| t.elapsed());
                        // What it was needed for is done by the time of the next call, not before.
                        return Ok((at, start));
                    }
                    State::Failed(buffer, errno) => {
                        (slot.state, slot.piece) = (State::Free(buffer), NONE);
                        self.slot_of[piece as usize] = NONE;
                        // Begun before it was asked for, maybe in a pass before this one: that says nothing of now.
                        if std::mem::take(&mut again) {
                            continue;
                        }
                        return Err(errno);
                    }
                    other => slot.state = other,
                }
            }
            since.get_or_insert_with(Instant::now);
            match self.reader.ended(true)? {
                Some(done) => self.settle(done, pieces),
                // All slots hold what the layer needs, but what it asks for is not among it: an order of its own.
                None if self.slots.iter().any(|s| s.needed == self.choice) => {
                    self.slots.iter_mut().for_each(|s| s.needed = 0);
                }
                None => return Err(libc::EIO),
            }
        }
    }

    /// Puts a piece first that nobody said would come, or that has to be read again.
    fn read_next(&mut self, piece: u32) {
        match self.next.checked_sub(1) {
            // In place of one that is past: the rest of the layer stays as it is.
            Some(past) if past < self.queue.len() => {
                self.queue[past] = piece;
                self.next = past;
            }
            _ => {
                self.choice += 1;
                self.queue.clear();
                self.queue.push(piece);
                self.next = 0;
            }
        }
    }

    /// The bytes of a slot.
    pub(crate) fn bytes(&self, slot: usize, range: Range<usize>) -> Option<&[u8]> {
        match &self.slots.get(slot)?.state {
            State::Full(buffer, _) => buffer.get(range),
            _ => None,
        }
    }

    /// Begins as many reads of the queue as there is room for.
    fn advance(&mut self, pieces: &[Piece]) {
        while let Ok(Some(done)) = self.reader.ended(false) {
            self.settle(done, pieces);
        }
        while let Some(&piece) = self.queue.get(self.next) {
            let mut at = self.slot_of[piece as usize] as usize;
            if let Some(slot) = self.slots.get_mut(at)
                && !matches!(slot.state, State::Failed(..))
            {
                slot.needed = self.choice;
                self.next += 1;
                continue;
            }
            if self.under_way == UNDER_WAY {
                break;
            }
            if at >= self.slots.len() {
                let Some(room) = self.room() else { break };
                at = room;
            }
            let buffer = match std::mem::replace(&mut self.slots[at].state, State::Reading) {
                State::Free(buffer) | State::Full(buffer, _) | State::Failed(buffer, _) => buffer,
                other => {
                    self.slots[at].state = other;
                    break;
                }
            };
            if let Some(before) = self.slot_of.get_mut(self.slots[at].piece as usize) {
                *before = NONE;
            }
            self.slot_of[piece as usize] = at as u32;
            (self.slots[at].piece, self.slots[at].needed) = (piece, self.choice);
            let Piece { part, offset, bytes, .. } = pieces[piece as usize];
            self.reader.begin(at, Request { part, offset, bytes }, buffer);
            self.under_way += 1;
            self.next += 1;
        }
        self.reader.go();
    }

    /// The slot to read into next.
    fn room(&self) -> Option<usize> {
        let free = |s: &Slot| matches!(s.state, State::Free(_));
        if let Some(at) = self.slots.iter().position(free) {
            return Some(at);
        }
        let can = |(at, s): &(usize, &Slot)| {
            *at != self.current && s.needed != self.choice && matches!(s.state, State::Full(..) | State::Failed(..))
        };
        let worth = |s: &Slot| (self.counts.get(s.piece as usize).copied().unwrap_or(0), s.used);
        self.slots.iter().enumerate().filter(can).min_by_key(|(_, s)| worth(s)).map(|(at, _)| at)
    }

    fn settle(&mut self, done: Done, pieces: &[Piece]) {
        let Done { slot, buffer, start } = done;
        self.under_way -= 1;
        self.figures.reads += 1;
        if start.is_ok() {
            self.figures.bytes += pieces.get(self.slots[slot].piece as usize).map_or(0, |p| p.bytes);
        }
        self.slots[slot].state = match start {
            Ok(start) => State::Full(buffer, start),
            Err(errno) => State::Failed(buffer, errno),
        };
    }
}
