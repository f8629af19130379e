//! What a benchmark measures besides the model: memory bandwidth, and percentiles of times.

use drupe::Team;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Percentiles of a list of times, in milliseconds.
#[derive(Clone, Copy)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
    /// What a token's time differs from that of the one before, on average.
    pub jitter: f64,
}

impl Latency {
    /// Of these times; zeros if there are none. A percentile is the smallest time that so many are not above.
    pub fn of(times: &[Duration]) -> Latency {
        let mut ms: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1e3).collect();
        let steps: f64 = ms.windows(2).map(|w| (w[1] - w[0]).abs()).sum();
        let jitter = steps / (ms.len().max(2) - 1) as f64;
        ms.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (ms.len() * percent).div_ceil(100).max(1);
            ms.get(rank - 1).copied().unwrap_or(0.0)
        };
        Latency { p50: at(50), p90: at(90), p99: at(99), max: at(100), jitter }
    }
}

/// The middle one; the mean of the two middle ones of an even number; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// How far values are apart, as a share of their median.
pub fn spread(values: &[f64]) -> f64 {
    let (low, high) = values.iter().fold((f64::MAX, 0f64), |(l, h), v| (l.min(*v), h.max(*v)));
    if values.len() < 2 || high <= low { 0.0 } else { (high - low) / median(values) }
}

/// How fast the team reads memory, in bytes per second: the best of some passes, each worker over its own share of
/// `bytes` bytes, as one sequential stream or as [`STREAMS`], in turn: which is faster depends on the prefetchers and on
/// what a page walk costs. That is the ceiling of decoding.
pub fn read_bandwidth(team: &dyn Team, bytes: usize) -> f64 {
    let workers = team.workers();
    let share = bytes / 8 / workers / 8 * 8;
    // Written by the worker that will read it, and not with zeros, which the system may share between pages.
    let parts: Vec<Mutex<Vec<u64>>> = (0..workers).map(|_| Mutex::new(Vec::new())).collect();
    let of = |worker: usize| parts[worker].lock().unwrap_or_else(|e| e.into_inner());
    team.run(&|worker| *of(worker) = (0..share as u64).collect());
    let mut best = Duration::MAX;
    let begin = Instant::now();
    for pass in 0..20 {
        let start = Instant::now();
        team.run(&|worker| {
            let share = of(worker);
            black_box(if pass % 2 == 0 { sum(&share) } else { sum_apart(&share) });
        });
        best = best.min(start.elapsed());
        if pass >= 4 && begin.elapsed() > Duration::from_millis(600) {
            break;
        }
    }
    (share * workers * 8) as f64 / best.as_secs_f64()
}

/// Eight sums at once, so that the additions wait for memory and not for each other.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 8];
    for chunk in words.as_chunks::<8>().0 {
        for (s, w) in sums.iter_mut().zip(chunk) {
            *s = s.wrapping_add(*w);
        }
    }
    sums.iter().fold(0, |a, s| a.wrapping_add(*s))
}

/// Streams of [`sum_apart`].
const STREAMS: usize = 16;

/// The same over equal parts at once, a cache line of each in turn.
fn sum_apart(words: &[u64]) -> u64 {
    let mut parts = words.chunks_exact((words.len() / STREAMS).max(1));
    let lines: [&[[u64; 8]]; STREAMS] = std::array::from_fn(|_| parts.next().unwrap_or_default().as_chunks().0);
    let mut sums = [0u64; 8];
    for i in 0..lines.iter().map(|part| part.len()).min().unwrap_or(0) {
        for part in &lines {
            for (s, w) in sums.iter_mut().zip(&part[i]) {
                *s = s.wrapping_add(*w);
            }
        }
    }
    sums.iter().fold(0, |a, s| a.wrapping_add(*s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_medians() {
        let times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        let l = Latency::of(&times);
        assert_eq!((l.p50, l.p90, l.p99, l.max), (50.0, 90.0, 99.0, 100.0));
        assert!((l.jitter - 1.0).abs() < 1e-9);
        let none = Latency::of(&[]);
        assert_eq!((none.max, none.jitter), (0.0, 0.0));
        assert_eq!((spread(&[2.0, 1.0, 2.0]), spread(&[1.0]), spread(&[0.0, 0.0])), (0.5, 0.0, 0.0));
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[1.0, 2.0]), median(&[])), (2.0, 1.5, 0.0));
    }

    #[test]
    fn bandwidth_is_of_this_world() {
        let read = read_bandwidth(&drupe::Solo, 8 << 20);
        assert!((1e7..1e13).contains(&read), "{read}");
    }
}
