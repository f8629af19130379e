//! Memory that is asked for before it is read.

use core::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

/// Asks for a line of memory. It goes to the second level, which holds more misses than the first and does not lose the
/// rows that are being read.
#[inline(always)]
pub(super) fn ask_line(at: *const u8) {
    // SAFETY: a prefetch never faults, wherever it points.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
}

/// The same into the first level, for what is read soon and comes in short stretches.
#[inline(always)]
pub(super) fn ask_near(at: *const u8) {
    // SAFETY: as above.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

/// What memory to ask for next.
pub(super) enum Ahead {
    /// Nothing.
    Nothing,
    /// Rows side by side: the bytes at this address, so many at each group.
    Side { at: *const u8, step: usize },
    /// Rows `stride` apart: the lanes' lines in turn, so many at each group; the next one is lane `lane`'s, at `at`.
    Apart { at: *const u8, stride: usize, lane: usize, lines: usize },
}

impl Ahead {
    /// Asks for the next weights of `lanes` rows: a few lines at every group, since a burst of them finds no room among the
    /// outstanding misses.
    #[inline(always)]
    pub fn ask(&mut self, lanes: usize) {
        match self {
            Ahead::Nothing => {}
            Ahead::Side { at, step } => {
                for i in (0..*step).step_by(64) {
                    ask_line(at.wrapping_add(i));
                }
                *at = at.wrapping_add(*step);
            }
            Ahead::Apart { at, stride, lane, lines } => {
                (0..*lines).for_each(|i| ask_line(at.wrapping_add(i * *stride)));
                *at = at.wrapping_add(*lines * *stride);
                *lane += *lines;
                // Looked at once: a few lines beyond the last lane cost less than a look at each.
                if *lane >= lanes {
                    *at = at.wrapping_sub(*lane * *stride).wrapping_add(64);
                    *lane = 0;
                }
            }
        }
    }
}
