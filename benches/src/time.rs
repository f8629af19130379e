//! Taking times.

use std::time::Instant;

/// Nanoseconds that this thread has been on a processor (Linux), which others on the same cores disturb less than the
/// clock on the wall.
fn on_processor() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

/// The best of a few runs, in seconds: of time on the processor if `alone` (one thread) and the system tells it. A run
/// repeats the work for at least 300 ms, since the system counts in its own steps.
pub fn best(runs: usize, alone: bool, mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    f();
    let repeats = (0.3 / start.elapsed().as_secs_f64().max(1e-9)).ceil().clamp(1.0, 1e6);
    let mut best = f64::MAX;
    for _ in 0..runs {
        let (wall, before) = (Instant::now(), on_processor());
        (0..repeats as usize).for_each(|_| f());
        let busy = before.zip(on_processor()).map(|(a, b)| (b - a) as f64 * 1e-9);
        best = best.min(busy.filter(|b| alone && *b > 0.0).unwrap_or(wall.elapsed().as_secs_f64()));
    }
    best / repeats
}
