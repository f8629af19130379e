//! The tokens that may be chosen, and the steps that make them fewer.

use crate::heap::{self, heapify, sift};

/// A token and its logit.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Candidate {
    logit: f32,
    id: u32,
}

impl Candidate {
    /// Whether this one goes before the other: a higher logit, or the same and a lower id.
    fn before(&self, other: &Candidate) -> bool {
        self.logit > other.logit || (self.logit == other.logit && self.id < other.id)
    }
}

/// What may be chosen: no NaN, no minus infinity. Plus infinity counts as the largest number, so that differences stay
/// numbers; minus zero as zero.
fn usable(logit: f32) -> Option<f32> {
    (logit > f32::NEG_INFINITY).then(|| logit.min(f32::MAX) + 0.0)
}

/// The best token.
pub(super) fn best(logits: &[f32]) -> Option<u32> {
    let mut best: Option<Candidate> = None;
    for (id, &logit) in logits.iter().enumerate() {
        if best.is_none_or(|best| logit > best.logit) && logit > f32::NEG_INFINITY {
            best = Some(Candidate { logit, id: id as u32 });
        }
    }
    best.map(|best| best.id)
}

/// Candidates in a buffer, the best one first if there is any; all in order if `sorted`.
pub(super) struct Candidates<'c> {
    list: &'c mut [Candidate],
    sorted: bool,
}

impl<'c> Candidates<'c> {
    /// As many of the best as the buffer holds.
    pub(super) fn best_of(logits: &[f32], buffer: &'c mut [Candidate]) -> Candidates<'c> {
        let room = buffer.len();
        let all = room >= logits.len();
        let (mut len, mut worst) = (0, f32::NEG_INFINITY);
        for (id, &logit) in logits.iter().enumerate() {
            // Most logits end here: once the buffer is full, only one better than its worst gets in.
            if logit <= worst || logit.is_nan() {
                continue;
            }
            let Some(logit) = usable(logit) else { continue };
            let candidate = Candidate { logit, id: id as u32 };
            if len < room {
                buffer[len] = candidate;
                len += 1;
                if len == room && !all {
                    heapify(buffer, |a, b| b.before(a));
                    worst = buffer[0].logit;
                }
            } else if let Some(first) = buffer.first_mut() {
                *first = candidate;
                sift(buffer, 0, |a, b| b.before(a));
                worst = buffer[0].logit;
            }
        }
        let list = &mut buffer[..len];
        if all {
            // Order costs time with a whole vocabulary; the steps that need it make it.
            if let Some(best) = (0..len).reduce(|best, i| if list[i].before(&list[best]) { i } else { best }) {
                list.swap(0, best);
            }
        } else {
            heap::sort(list, Candidate::before);
        }
        Candidates { list, sorted: !all }
    }

    /// Weight of a candidate relative to the best one's.
    fn weight(&self, candidate: &Candidate) -> f64 {
        libm::expf(candidate.logit - self.list[0].logit) as f64
    }

    fn total(&self) -> f64 {
        self.list.iter().map(|candidate| self.weight(candidate)).sum()
    }

    fn keep(&mut self, len: usize) {
        let list = core::mem::take(&mut self.list);
        self.list = &mut list[..len];
    }

    /// Keeps the candidates whose surprise (−ln p) is nearest to the expected one (the entropy), until together they
    /// have the probability `p`; at least one.
    pub(super) fn typical(&mut self, p: f32) {
        if p >= 1.0 || self.list.is_empty() {
            return;
        }
        let (best, total) = (self.list[0].logit, self.total());
        let log_total = libm::log(total);
        let surprise = |logit: f32| log_total - (logit - best) as f64;
        let entropy: f64 = self
            .list
            .iter()
            .map(|candidate| self.weight(candidate) / total * surprise(candidate.logit))
            .filter(|term| !term.is_nan())
            .sum();
        let distance = |candidate: &Candidate| (surprise(candidate.logit) - entropy).abs();
        heap::sort(self.list, |a, b| {
            let order = distance(a).total_cmp(&distance(b));
            order.is_lt() || (order.is_eq() && a.before(b))
        });
        let (mut sum, mut len) = (0.0, 0);
        for candidate in self.list.iter() {
            sum += libm::expf(candidate.logit - best) as f64 / total;
            len += 1;
            if sum > p as f64 {
                break;
            }
        }
        self.keep(len);
        heap::sort(self.list, Candidate::before);
        self.sorted = true;
    }

    /// Keeps the best candidates that together have the probability `p`; at least one.
    pub(super) fn top_p(&mut self, p: f32) {
        if p >= 1.0 || self.list.is_empty() {
            return;
        }
        let enough = p as f64 * self.total();
        let best = self.list[0].logit;
        let weight = |candidate: &Candidate| libm::expf(candidate.logit - best) as f64;
        let mut sum = 0.0;
        if self.sorted {
            let last = self.list.iter().position(|candidate| {
                sum += weight(candidate);
                sum >= enough
            });
            return self.keep(last.map_or(self.list.len(), |last| last + 1));
        }
        // Of a whole vocabulary few are kept: they are taken off a heap one by one, to the end of the list.
        heapify(self.list, Candidate::before);
        let mut left = self.list.len();
        while left > 0 {
            left -= 1;
            self.list.swap(0, left);
            sift(&mut self.list[..left], 0, Candidate::before);
            sum += weight(&self.list[left]);
            if sum >= enough {
                break;
            }
        }
        let list = core::mem::take(&mut self.list);
        self.list = &mut list[left..];
        self.list.reverse();
        self.sorted = true;
    }

    /// Keeps the candidates at least `p` times as probable as the best.
    pub(super) fn min_p(&mut self, p: f32) {
        let Some(best) = self.list.first().map(|best| best.logit) else { return };
        if p <= 0.0 {
            return;
        }
        let least = best + libm::logf(p);
        let mut len = 0;
        for i in 0..self.list.len() {
            if i == 0 || self.list[i].logit >= least {
                self.list[len] = self.list[i];
                len += 1;
            }
        }
        self.keep(len);
    }

    /// One of the candidates, by their probabilities at this temperature (above 0). `chance` is uniform in [0, 1).
    pub(super) fn draw(&self, temperature: f32, chance: f64) -> Option<u32> {
        let best = self.list.first()?.logit;
        let weight = |candidate: &Candidate| libm::expf((candidate.logit - best) / temperature) as f64;
        let mut left = chance * self.list.iter().map(weight).sum::<f64>();
        for candidate in self.list.iter() {
            left -= weight(candidate);
            if left < 0.0 {
                return Some(candidate.id);
            }
        }
        // Rounding can leave a rest after the last one; the best one takes it.
        self.list.first().map(|best| best.id)
    }
}
