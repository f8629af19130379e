//! The C face of drupe. `include/drupe.h` is its documentation: every function's duty, units, ownership, thread rule and
//! errors stand there, once.
//!
//! Two flavours of one source: without the feature `hosted` the library is freestanding (bytes and memory in, nothing but
//! memcpy-class symbols needed), with it model files can be opened by path and threads made.
#![cfg_attr(not(feature = "hosted"), no_std)]
// The header tells each function's contract; to tell it here again would let the two drift apart.
#![allow(clippy::missing_safety_doc, missing_docs)]
// An error carries its text by value: there is no heap to put it on.
#![allow(clippy::result_large_err)]

pub mod calls;
pub mod error;
pub mod face;
#[cfg(feature = "hosted")]
pub mod hosted;
pub mod options;
pub mod pass;

use core::ffi::{c_char, c_int, c_void};
use drupe_core::Arena;
use error::{Code, Done, fail};
use face::{Face, Layout, Parts};
use options::{Bytes, Options, PlanInfo, Sampling};
use pass::{finish_in, guarded, init_sized, put, read_sized, slice_mut, write_sized};

/// The library's version: major · 10000 + minor · 100 + patch.
const VERSION: u32 = 10000 * number(env!("CARGO_PKG_VERSION_MAJOR"))
    + 100 * number(env!("CARGO_PKG_VERSION_MINOR"))
    + number(env!("CARGO_PKG_VERSION_PATCH"));

const fn number(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(n) => n,
        Err(_) => panic!("a version number"),
    }
}

#[cfg(all(not(feature = "hosted"), not(test)))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Nothing that C can pass reaches this; if it did, stopping here is all that a freestanding library can do.
    loop {
        core::hint::spin_loop()
    }
}

/// The precompiled `core` names this symbol in its unwinding tables, although nothing unwinds here.
#[cfg(all(not(feature = "hosted"), not(test)))]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
pub extern "C" fn drupe_version() -> u32 {
    VERSION
}

#[unsafe(no_mangle)]
pub extern "C" fn drupe_error_text(code: c_int) -> *const c_char {
    let found = Code::ALL.iter().find(|(c, ..)| *c as c_int == code);
    found.map_or(c"not an error code of drupe", |(_, _, text)| text).as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_options_init(options: *mut Options, struct_size: usize) -> c_int {
    // SAFETY: the header's contract.
    unsafe { init_sized(options, struct_size, Options::default()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_sampling_init(sampling: *mut Sampling, struct_size: usize) -> c_int {
    // SAFETY: the header's contract.
    unsafe { init_sized(sampling, struct_size, Sampling::default()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_plan(
    parts: *const Bytes,
    count: usize,
    options: *const Options,
    info: *mut PlanInfo,
) -> c_int {
    // SAFETY: the header's contract on each pointer.
    unsafe {
        let done = guarded(|| {
            let parts = Parts::of(parts, count)?;
            let layout = Layout::new(&parts.gguf()?, &read_sized(options, Options::default())?)?;
            write_sized(info, layout.info(count))
        });
        finish_in(done, options)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_largest_ctx(
    parts: *const Bytes,
    count: usize,
    options: *const Options,
    memory: u64,
    ctx: *mut u32,
) -> c_int {
    // SAFETY: the header's contract on each pointer.
    unsafe {
        let done = guarded(|| {
            let (parts, options) = (Parts::of(parts, count)?, read_sized(options, Options::default())?);
            put(ctx, largest_ctx(&parts, count, &options, memory)?)
        });
        finish_in(done, options)
    }
}

fn largest_ctx(parts: &Parts, count: usize, options: &Options, memory: u64) -> Done<u32> {
    let gguf = parts.gguf()?;
    let plan = |ctx: u32| {
        let sinks = options.sinks.min(ctx - 1);
        Layout::new(&gguf, &Options { ctx, sinks, ..*options }).map(|layout| layout.info(count))
    };
    let least = plan(1)?;
    if least.memory > memory {
        let least = least.memory;
        return Err(fail(Code::Memory, &format_args!("{least} bytes are needed for one token, {memory} given")));
    }
    // The total grows with ctx: halve the range (fits, does not fit).
    let (mut fits, mut beyond) = (1, least.train_ctx.max(1).saturating_add(1));
    while beyond - fits > 1 {
        let middle = fits + (beyond - fits) / 2;
        if plan(middle)?.memory <= memory { fits = middle } else { beyond = middle }
    }
    Ok(fits)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_init(
    memory: *mut c_void,
    memory_len: usize,
    parts: *const Bytes,
    count: usize,
    options: *const Options,
    info: *mut PlanInfo,
    handle: *mut *mut Face,
) -> c_int {
    // SAFETY: the header's contract on each pointer.
    unsafe {
        let done = guarded(|| {
            if handle.is_null() || !handle.is_aligned() {
                return Err(fail(Code::Invalid, &"the output pointer is null or misaligned"));
            }
            let read = read_sized(options, Options::default())?;
            let parts = Parts::of(parts, count)?;
            let memory: &'static mut [u8] = slice_mut(memory.cast::<u8>(), memory_len)?;
            let layout = Layout::new(&parts.gguf()?, &read)?;
            let plan = layout.info(count);
            if !info.is_null() {
                write_sized(info, plan)?;
            }
            let needed = plan.memory;
            let skip = memory.as_ptr().align_offset(Arena::ALIGN).min(memory.len());
            let memory = &mut memory[skip..];
            let given = memory.len();
            if (given as u64) < needed {
                let what = format_args!("{needed} bytes are needed, aligned to 64; {given} given");
                return Err(fail(Code::Memory, &what));
            }
            let (own, rest) = memory.split_at_mut(Arena::cost(size_of::<Face>() as u64) as usize);
            let face = Face::new(&parts, layout, &read, rest)?;
            let place = own.as_mut_ptr().cast::<Face>();
            place.write(face);
            handle.write(place);
            Ok(())
        });
        finish_in(done, options)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_close(handle: *mut Face) {
    // SAFETY: the header's contract; a handle owns nothing but the caller's memory.
    unsafe {
        if !handle.is_null() && handle.is_aligned() {
            (*handle).magic = 0;
        }
    }
}
