//! A promise over the memory that a process takes at its peak, by the kernel's accounting, and how a model's weights are
//! had within it: all of them, a part of them, or not at all.

use crate::limit::{Limit, LimitSource};
use crate::map::ModelFile;
use crate::residency::{Access, ResidencyPlan, Visit};
use crate::size;
use drupe::gguf::Gguf;
use std::fmt;

/// Code, libraries and stacks, at most.
const PROGRAM: u64 = 8 << 20;

/// How much memory a process may take in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Bytes.
    pub bytes: u64,
    /// What sets it on this machine; `None` if it was asked for.
    pub source: Option<LimitSource>,
}

/// What a process takes beside the weights, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beside {
    /// Keys and values, scratch, activations.
    pub plan: u64,
    /// The program: [`program_bytes`], and whatever else it holds.
    pub program: u64,
}

/// What a program takes for a model beside its weights and its plan: code, libraries, stacks; the file's keys and
/// vocabulary, which are read through the map; `tables` bytes of a tokenizer.
pub fn program_bytes(gguf: &Gguf, tables: u64) -> u64 {
    let head = gguf.tensors().filter(|t| t.part == 0).map(|t| t.offset).min().unwrap_or(0);
    PROGRAM + tables + head
}

/// How weights are had.
#[derive(Clone, Debug)]
pub enum Hold {
    /// All of them can stay, where they are mapped.
    All,
    /// A part stays, the rest is read from storage in each pass.
    Part(ResidencyPlan),
}

/// Tells the system that all weights of `file` stay where they are mapped, and are read by passes that make these
/// `visits`.
pub fn mapped_whole(file: &ModelFile, visits: &[Visit]) {
    let whole = visits.iter().filter(|v| v.access == Access::Whole).map(|v| v.tensor);
    file.ask_for_huge_pages(whole.map(|t| (t.part, t.offset..t.offset.saturating_add(t.bytes()))));
}

/// A promise that cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// The promise.
    pub promise: Promise,
    /// The least that could be promised, in bytes.
    pub least: u64,
    /// Of it, what is not weights.
    pub beside: Beside,
}

impl Promise {
    /// What was `asked` for, or else what this machine really allows.
    pub fn new(asked: Option<u64>) -> Promise {
        match asked {
            Some(bytes) => Promise { bytes, source: None },
            None => {
                let Limit { bytes, source, .. } = Limit::of_this_process();
                Promise { bytes, source: Some(source) }
            }
        }
    }

    /// How `weights` bytes of a model are had, whose passes make these `visits`; none if the weights can be nowhere but
    /// where they are.
    ///
    /// # Errors
    /// They cannot be had within the promise.
    pub fn hold(&self, weights: u64, beside: Beside, visits: Option<&[Visit]>) -> Result<Hold, TooSmall> {
        let others = beside.plan.saturating_add(beside.program);
        let all = weights.saturating_add(others);
        if all <= self.bytes {
            return Ok(Hold::All);
        }
        let too_small = |least| TooSmall { promise: self.clone(), least, beside };
        let visits = visits.ok_or_else(|| too_small(all))?;
        let plan = ResidencyPlan::new(visits, self.bytes.saturating_sub(others));
        let plan = plan.map_err(|e| too_small(e.minimum.saturating_add(others)))?;
        if others > self.bytes { Err(too_small(plan.minimum.saturating_add(others))) } else { Ok(Hold::Part(plan)) }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            None => write!(f, "{} (asked for)", size::show(self.bytes)),
            Some(LimitSource::Unknown) => write!(f, "no known limit"),
            Some(source) => write!(f, "{} ({source})", size::show(self.bytes)),
        }
    }
}

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = size::show(self.least.next_multiple_of(1 << 20));
        let (plan, program) = (size::show(self.beside.plan), size::show(self.beside.program));
        // The figure first: a long name of a group may be cut off.
        write!(
            f,
            "too small a limit: at least {least} are needed ({plan} of plan, {program} of program, the rest for weights); it is {}",
            self.promise
        )
    }
}

impl std::error::Error for TooSmall {}

#[cfg(test)]
mod tests {
    use super::*;
    use drupe::weights::TensorRef;

    const BESIDE: Beside = Beside { plan: 3 << 20, program: 9 << 20 };

    /// 64 MiB of Q8_0 weights.
    fn visits() -> Vec<Visit> {
        let tensor = |i: u64| TensorRef { offset: i * 17_408 * 1024, rows: 16_384, cols: 1024, format_id: 8, part: 0 };
        (0..4).map(|i| Visit { tensor: tensor(i), access: Access::Whole }).collect()
    }

    #[test]
    fn all_a_part_or_refused() {
        let visits = visits();
        let weights: u64 = visits.iter().map(|v| v.tensor.bytes()).sum();
        let hold = |bytes| Promise::new(Some(bytes)).hold(weights, BESIDE, Some(&visits));
        let all = weights + (12 << 20);
        assert!(matches!(hold(all), Ok(Hold::All)) && matches!(hold(u64::MAX), Ok(Hold::All)));
        let Ok(Hold::Part(plan)) = hold(all - 1) else { panic!("a part") };
        assert!(plan.streamed_bytes > 0 && plan.total_bytes + (12 << 20) < all);
        let refused = hold(1).unwrap_err();
        assert!(refused.least > 12 << 20 && refused.least < all / 2, "{refused}");
        assert!(refused.to_string().starts_with("too small a limit: at least ") && refused.to_string().len() < 250);
        assert!(matches!(hold(refused.least), Ok(Hold::Part(_))));
        assert_eq!(hold(refused.least - 1).unwrap_err().least, refused.least);
        // Weights that cannot be streamed.
        let there = Promise::new(Some(all - 1)).hold(weights, BESIDE, None).unwrap_err();
        assert_eq!(there.least, all);
        // Nothing to stream does not make up for a plan that is too large.
        assert!(Promise::new(Some(1 << 20)).hold(0, BESIDE, Some(&[])).is_err());
    }

    #[test]
    fn the_machine_says_who_it_is() {
        let machine = Promise::new(None);
        assert!(machine.bytes > 0 && machine.source.is_some());
        let group = LimitSource::Available;
        assert_eq!(Promise { bytes: 3 << 29, source: Some(group) }.to_string(), "1.5 GiB (available memory)");
    }
}
