//! What stays resident and what is streamed: decided from the tensors' sizes and a number of bytes alone.

use super::slab::{self, Buffer};
use drupe::weights::TensorRef;
use std::fmt;

/// Bytes to which direct reads are aligned: the largest block that storage commonly has.
pub(crate) const ALIGN: u64 = 4096;

/// Tensors up to this size, or a quarter of a piece if that is less, are always resident (norms, biases): streaming
/// them would cost a read each.
const TINY: u64 = 32 << 10;

/// Rows that kernels take at once, at most.
const TILE: u64 = 16;

/// What a reader thread and the tables cost beside the buffers, rounded up.
const PER_READER: u64 = 64 << 10;
const PER_PIECE: u64 = 128;

/// How a pass reads a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// All of it, in order.
    Whole,
    /// Some rows: the embeddings of the tokens fed.
    Rows,
    /// Of `count` equal parts, those that a router chooses: `used` for a token.
    Experts {
        /// Experts of the layer.
        count: u32,
        /// Experts that a token takes.
        used: u32,
    },
}

/// One visit of a pass to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// The tensor. A tensor visited several times appears as often.
    pub tensor: TensorRef,
    /// How it is read.
    pub access: Access,
}

impl Visit {
    /// What one token reads of it, as if it were its first rows; absent where only rows are looked up.
    pub fn of_a_token(&self) -> TensorRef {
        let t = &self.tensor;
        match self.access {
            Access::Whole => *t,
            Access::Rows => TensorRef::default(),
            Access::Experts { count, used } => t.slice(0..t.rows / count.max(1) * used),
        }
    }
}

/// Sizes of what streaming needs beside the resident part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Largest piece in bytes; a tensor's row that is longer makes a longer piece.
    pub piece: u64,
    /// Buffers of the ring.
    pub buffers: u32,
    /// Threads that read, where the kernel has no queue for it.
    pub readers: u32,
}

impl Shape {
    /// What suits a model of so many bytes: several reads under way of a length at which storage reaches its speed
    /// (256 KiB to 1 MiB), in a ring that stays a small part of a small budget. It has twice the buffers that keep storage
    /// busy: one that was just computed with is read into more slowly (in a virtual machine 2.7 against 3.1 GB/s, at times
    /// 1.6 against 2.7), as if its lines were still being fetched from the processor's caches.
    pub fn for_model(bytes: u64) -> Shape {
        Shape { piece: (bytes / 512).clamp(64 << 10, 1 << 20), buffers: 16, readers: 4 }
    }
}

/// Where a piece of a tensor comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At this offset of the resident part.
    Resident(u64),
    /// From storage, each time.
    Streamed,
    /// Through the cache of experts.
    OnDemand,
}

/// Successive rows of one tensor: the unit that is resident or streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub part: u32,
    pub offset: u64,
    pub bytes: u64,
    pub place: Place,
    /// Whether single rows of its tensor are also asked for, out of order.
    pub by_row: bool,
}

/// What a budget buys. Made by [`ResidencyPlan::new`]; says all that [`super::Residency`] will use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResidencyPlan {
    /// Sizes used.
    pub shape: Shape,
    /// Weights kept in memory.
    pub resident_bytes: u64,
    /// Weights read from storage in each pass, once all that is resident has been read.
    pub streamed_bytes: u64,
    /// Bytes of one buffer.
    pub buffer_bytes: u64,
    /// Least budget with which these tensors can be had.
    pub minimum: u64,
    /// All memory taken: the resident part, the buffers, the tables.
    pub total_bytes: u64,
    /// Sorted by part and offset.
    pub(crate) pieces: Vec<Piece>,
    /// Indices of pieces in the order of a pass.
    pub(crate) order: Vec<u32>,
    /// Bytes of the resident part with its padding.
    pub(crate) arena_bytes: u64,
    /// The cache of experts; no slots for a model without.
    pub(crate) experts: ExpertPlan,
}

/// The cache of experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExpertPlan {
    /// Pieces that it holds.
    pub slots: u32,
    /// Bytes of one.
    pub slot_bytes: u64,
    /// Pieces that there are of one layer, at most.
    pub layer_pieces: usize,
    /// Layers with experts.
    pub layers: u32,
}

/// The budget is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetError {
    /// What was given.
    pub budget: u64,
    /// What is needed at least.
    pub minimum: u64,
}

impl fmt::Display for BudgetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BudgetError { budget, minimum } = self;
        write!(f, "{budget} bytes for weights are too few: streaming this model needs at least {minimum}")
    }
}

impl std::error::Error for BudgetError {}

impl ResidencyPlan {
    /// Plans `visits`, the tensors of one pass in order, within `budget` bytes.
    ///
    /// Tiny tensors stay; then those visited more than once; then those that would make short reads; then an equal
    /// share of everything, spread over the pass so that reading and computing overlap all along. What is read by row
    /// only is never kept: a row costs one small read.
    ///
    /// # Errors
    /// The budget does not hold the tiny tensors and the buffers.
    pub fn new(visits: &[Visit], budget: u64) -> Result<ResidencyPlan, BudgetError> {
        let mut tensors: Vec<TensorRef> = visits.iter().map(|v| v.tensor).filter(|t| t.present()).collect();
        tensors.sort_by_key(|t| (t.part, t.offset));
        tensors.dedup();
        let bytes = tensors.iter().map(TensorRef::bytes).fold(0, u64::saturating_add);
        ResidencyPlan::with_shape(visits, budget, Shape::for_model(bytes))
    }

    /// The same with sizes given.
    ///
    /// # Errors
    /// As [`ResidencyPlan::new`].
    pub fn with_shape(visits: &[Visit], budget: u64, shape: Shape) -> Result<ResidencyPlan, BudgetError> {
        let shape = Shape {
            piece: shape.piece.max(ALIGN),
            readers: shape.readers.clamp(1, 16),
            // One in use, one being filled by each reader, one ready.
            buffers: shape.buffers.clamp(shape.readers.clamp(1, 16) + 2, 1024),
        };
        let mut cut = cut(visits, shape.piece);
        let longest =
            |class: fn(Class) -> bool| cut.iter().filter(|c| class(c.class)).map(|c| c.piece.bytes).max().unwrap_or(0);
        let (longest, expert) = (longest(|c| c != Class::Expert), longest(|c| c == Class::Expert));
        let experts = cut.iter().filter(|c| c.class == Class::Expert).count() as u64;
        let slot_bytes = if experts == 0 { 0 } else { (expert + 2 * ALIGN).next_multiple_of(ALIGN) };
        // As few as keep storage busy.
        let least_slots = experts.min(u64::from(shape.readers) + 2);
        // A piece starts and ends anywhere within a block. One buffer more for single rows.
        let buffer_bytes = (longest + 2 * ALIGN).next_multiple_of(ALIGN);
        let fixed = buffer_bytes
            .saturating_mul(u64::from(shape.buffers) + 1)
            .saturating_add(least_slots.saturating_mul(slot_bytes))
            .saturating_add(u64::from(shape.readers) * PER_READER * (1 + u64::from(experts > 0)))
            .saturating_add(cut.len() as u64 * PER_PIECE);
        // Padding between runs of resident pieces, at most.
        let padded = |c: &Cut| c.piece.bytes + PAD;
        let tiny: u64 = cut.iter().filter(|c| c.class == Class::Tiny).map(padded).fold(0, u64::saturating_add);
        let minimum = fixed.saturating_add(tiny).next_multiple_of(ALIGN);
        let Some(mut left) = budget.checked_sub(minimum) else { return Err(BudgetError { budget, minimum }) };

        for c in cut.iter_mut().filter(|c| c.class == Class::Tiny) {
            c.piece.place = Place::Resident(0);
        }
        for class in [Class::Often, Class::Short, Class::Rest] {
            left -= spread(&mut cut, class, left);
        }
        // What all tokens use comes first; experts have what is left.
        let slots = experts.min(least_slots + left.checked_div(slot_bytes).unwrap_or(0));
        let fixed = fixed + (slots - least_slots) * slot_bytes;
        let (layers, layer_pieces) = expert_layers(visits, &cut);
        let experts = ExpertPlan { slots: slots as u32, slot_bytes, layer_pieces, layers };
        Ok(ResidencyPlan::lay_out(visits, cut, shape, experts, buffer_bytes, fixed, minimum))
    }

    /// The ring's buffers.
    pub(crate) fn buffers(&self) -> std::io::Result<Vec<Buffer>> {
        slab::buffers(self.shape.buffers as usize, self.buffer_bytes as usize)
    }

    /// The cache's slots.
    pub(crate) fn expert_slots(&self) -> std::io::Result<Vec<Buffer>> {
        slab::buffers(self.experts.slots as usize, self.experts.slot_bytes as usize)
    }

    fn lay_out(
        visits: &[Visit],
        cut: Vec<Cut>,
        shape: Shape,
        experts: ExpertPlan,
        buffer: u64,
        fixed: u64,
        minimum: u64,
    ) -> ResidencyPlan {
        let mut pieces: Vec<Piece> = cut.into_iter().map(|c| c.piece).collect();
        pieces.sort_by_key(|p| (p.part, p.offset));
        let (mut at, mut resident) = (0u64, 0u64);
        let mut before: Option<Piece> = None;
        for p in &mut pieces {
            if let Place::Resident(place) = &mut p.place {
                // Neighbours in the file are neighbours here, so that they can be handed out together.
                let joins = before.is_some_and(|b| {
                    matches!(b.place, Place::Resident(_)) && (b.part, b.offset + b.bytes) == (p.part, p.offset)
                });
                at = if joins { at } else { at.next_multiple_of(PAD) };
                *place = at;
                at += p.bytes;
                resident += p.bytes;
            }
            before = Some(*p);
        }
        let mut order = Vec::new();
        for v in visits.iter().filter(|v| v.tensor.present() && v.access == Access::Whole) {
            let (start, end) = (v.tensor.offset, v.tensor.offset + v.tensor.bytes());
            let first = pieces.partition_point(|p| (p.part, p.offset) < (v.tensor.part, start));
            let of_tensor = |(_, p): &(usize, &Piece)| p.part == v.tensor.part && p.offset < end;
            order.extend(pieces.iter().enumerate().skip(first).take_while(of_tensor).map(|(i, _)| i as u32));
        }
        let streamed = |i: &&u32| pieces[**i as usize].place == Place::Streamed;
        let streamed_bytes: u64 = order.iter().filter(streamed).map(|i| pieces[*i as usize].bytes).sum();
        // As if all experts were chosen equally often; in truth it is less.
        let on_demand = pieces.iter().filter(|p| p.place == Place::OnDemand).count() as f64;
        let of_a_token: u64 =
            visits.iter().filter(|v| matches!(v.access, Access::Experts { .. })).map(|v| v.of_a_token().bytes()).sum();
        let missed = of_a_token as f64 * (1.0 - f64::from(experts.slots) / on_demand.max(1.0)).max(0.0);
        let streamed_bytes = streamed_bytes + missed as u64;
        let arena_bytes = at.next_multiple_of(ALIGN);
        ResidencyPlan {
            shape,
            resident_bytes: resident,
            streamed_bytes,
            buffer_bytes: buffer,
            minimum,
            total_bytes: fixed + arena_bytes,
            pieces,
            order,
            arena_bytes,
            experts,
        }
    }
}

/// Runs of resident pieces start at a multiple of this: a cache line, and what any element's alignment divides.
const PAD: u64 = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Tiny,
    Often,
    Short,
    Rest,
    /// Parts of it, as a router says.
    Expert,
    /// Read by row only.
    Never,
}

#[derive(Clone, Copy)]
struct Cut {
    piece: Piece,
    class: Class,
}

/// The pieces of all tensors, each once, in the order of their first visit.
fn cut(visits: &[Visit], piece: u64) -> Vec<Cut> {
    let mut all: Vec<Cut> = Vec::new();
    let mut seen = std::collections::HashMap::<(u32, u64), std::ops::Range<usize>>::new();
    let mut whole = std::collections::HashMap::<(u32, u64), u32>::new();
    for v in visits.iter().filter(|v| v.tensor.present() && v.tensor.bytes() > 0) {
        let t = &v.tensor;
        let key = (t.part, t.offset);
        let made = seen.entry(key).or_insert_with(|| {
            let first = all.len();
            match v.access {
                Access::Experts { count, .. } => {
                    let rows = t.rows / count.max(1);
                    for expert in 0..count {
                        cut_rows(&t.slice(expert * rows..(expert + 1) * rows), piece, Place::OnDemand, &mut all);
                    }
                }
                _ => cut_rows(t, piece, Place::Streamed, &mut all),
            }
            first..all.len()
        });
        let visits = whole.entry(key).or_insert(0);
        *visits += u32::from(v.access == Access::Whole);
        let class = match () {
            () if matches!(v.access, Access::Experts { .. }) => Class::Expert,
            () if *visits == 0 => Class::Never,
            () if t.bytes() <= TINY.min(piece / 4) => Class::Tiny,
            () if *visits > 1 => Class::Often,
            () if t.bytes() < piece / 4 => Class::Short,
            () => Class::Rest,
        };
        for c in &mut all[made.clone()] {
            c.class = class;
            c.piece.by_row |= v.access == Access::Rows;
        }
    }
    all
}

/// Adds the pieces of `t`.
fn cut_rows(t: &TensorRef, piece: u64, place: Place, all: &mut Vec<Cut>) {
    let row = t.row_bytes() as u64;
    let count = t.bytes().div_ceil(piece).clamp(1, u64::from(t.rows.max(1)));
    let mut done = 0;
    for i in 1..=count {
        // Nearly equal numbers of rows, whole tiles of the kernels where there are enough; below 2^32 each.
        let upto = u64::from(t.rows) * i / count;
        let upto = if i < count && u64::from(t.rows) >= count * TILE { upto / TILE * TILE } else { upto };
        let (offset, bytes) = (t.offset + done * row, (upto - done) * row);
        let piece = Piece { part: t.part, offset, bytes, place, by_row: false };
        all.push(Cut { piece, class: Class::Never });
        done = upto;
    }
}

/// Layers with experts, and the most pieces that one of them has. A layer's matrices of experts come together.
fn expert_layers(visits: &[Visit], cut: &[Cut]) -> (u32, usize) {
    let pieces = |t: &TensorRef| {
        let inside = |c: &&Cut| c.piece.part == t.part && (t.offset..t.offset + t.bytes()).contains(&c.piece.offset);
        cut.iter().filter(inside).count()
    };
    let stacks = visits.iter().filter(|v| matches!(v.access, Access::Experts { .. }) && v.tensor.present());
    let counts: Vec<usize> = stacks.map(|v| pieces(&v.tensor)).collect();
    let layers = counts.chunks(3).map(|c| c.iter().sum()).max().unwrap_or(0);
    (counts.len().div_ceil(3) as u32, layers)
}

/// Makes pieces of `class` resident, within `left` bytes, the same share all along the pass; returns the bytes taken.
fn spread(cut: &mut [Cut], class: Class, left: u64) -> u64 {
    let total: u64 = cut.iter().filter(|c| c.class == class).map(|c| c.piece.bytes + PAD).sum();
    let share = left.min(total);
    let (mut due, mut taken) = (0u128, 0u64);
    for c in cut.iter_mut().filter(|c| c.class == class) {
        let bytes = c.piece.bytes + PAD;
        // `due` counts bytes × total, so that nothing is lost to rounding.
        due += u128::from(bytes) * u128::from(share);
        let cost = u128::from(bytes) * u128::from(total);
        if due >= cost && taken + bytes <= share {
            due -= cost;
            taken += bytes;
            c.piece.place = Place::Resident(0);
        }
    }
    for c in cut.iter_mut().filter(|c| c.class == class && c.piece.place == Place::Streamed) {
        if taken + c.piece.bytes + PAD <= share {
            taken += c.piece.bytes + PAD;
            c.piece.place = Place::Resident(0);
        }
    }
    taken
}

#[cfg(test)]
mod tests;
