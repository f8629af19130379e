//! Between the first feed and the last token no thread of the process allocates or frees.

use drupe::quant::Kernels;
use drupe::session::never;
use drupe::{Config, Engine, InMemory, Solo};
use drupe_tests::{Memory, argmax, plan, session, shared};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Without the test harness, whose own threads allocate when they please.
fn main() {
    let Some(bytes) = shared("models/stories260K-q4_0.gguf") else { return };
    let kernels = Kernels::detect();
    let plan = plan(&bytes, &kernels, &Config { sinks: 2, ..Config::new(64) });
    let mut memory = Memory::new(plan.total());
    let mut session = session(&bytes, &kernels, &plan, memory.bytes());
    let parts = [bytes.as_slice()];
    let mut weights = InMemory::new(&parts);
    let mut engine = Engine { team: &Solo, weights: &mut weights, cancelled: &never };

    let before = CALLS.load(Ordering::Relaxed);
    let mut next = argmax(session.feed(&mut engine, &[1, 403, 407, 261, 378]).expect("prompt"));
    for _ in 0..200 {
        next = argmax(session.feed(&mut engine, &[next]).expect("token"));
    }
    let calls = CALLS.load(Ordering::Relaxed) - before;
    assert_eq!(calls, 0, "calls of the allocator between the first feed and the last token");
    println!("test result: ok. 1 passed; 0 failed; no call of the allocator in 205 tokens");
}
