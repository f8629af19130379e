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

pub mod error;
pub mod face;
#[cfg(feature = "hosted")]
pub mod hosted;
pub mod options;

use core::ffi::{c_char, c_int, c_void};
use drupe_core::Arena;
use drupe_core::chat::{Message as Turn, Role};
use drupe_core::gguf::Gguf;
use error::{Code, Done, Failure, fail};
use face::{Face, Layout};
use options::{Cancel, Options, Sampling, Team};

/// The library's version: major · 10000 + minor · 100 + patch.
const VERSION: u32 = 100;

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

/// `drupe_plan_info`.
#[repr(C)]
#[allow(missing_docs)]
pub struct PlanInfo {
    pub struct_size: u32,
    pub alignment: u32,
    pub memory: u64,
    pub kv: u64,
    pub tables: u64,
    pub ctx: u32,
    pub vocab: u32,
    pub width: u32,
    pub layers: u32,
    pub train_ctx: u32,
    pub reserved: u32,
}

/// `drupe_stats`.
#[repr(C)]
#[allow(missing_docs)]
pub struct Stats {
    pub struct_size: u32,
    pub workers: u32,
    pub position: u64,
    pub fed: u64,
    pub memory: u64,
    pub isa: *const c_char,
}

/// `drupe_message`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct ChatMessage {
    pub role: u32,
    pub text: *const c_char,
    pub len: usize,
}

/// Runs `f` so that no panic leaves it.
fn guarded<T>(f: impl FnOnce() -> Done<T>) -> Done<T> {
    #[cfg(feature = "hosted")]
    {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(f))
            .unwrap_or_else(|_| Err(fail(Code::Internal, &"a panic was caught")))
    }
    #[cfg(not(feature = "hosted"))]
    f()
}

/// A slice from C. Null is allowed when `len` is 0.
///
/// # Safety
/// `ptr` points at `len` readable elements that outlive `'a`.
unsafe fn slice<'a, T>(ptr: *const T, len: usize) -> Done<&'a [T]> {
    check_span(ptr, len)?;
    // SAFETY: by this function's promise and the checks above.
    Ok(if len == 0 { &[] } else { unsafe { core::slice::from_raw_parts(ptr, len) } })
}

/// The same, to be written.
///
/// # Safety
/// `ptr` points at `len` writable elements that nothing else uses for `'a`.
unsafe fn slice_mut<'a, T>(ptr: *mut T, len: usize) -> Done<&'a mut [T]> {
    check_span(ptr, len)?;
    // SAFETY: by this function's promise and the checks above.
    Ok(if len == 0 { &mut [] } else { unsafe { core::slice::from_raw_parts_mut(ptr, len) } })
}

fn check_span<T>(ptr: *const T, len: usize) -> Done<()> {
    let bytes = len.checked_mul(size_of::<T>()).filter(|n| *n <= isize::MAX as usize);
    if len > 0 && (ptr.is_null() || !ptr.is_aligned() || bytes.is_none()) {
        return Err(fail(Code::Invalid, &"a null or misaligned pointer, or an impossible length"));
    }
    Ok(())
}

/// Reads a sized struct of the caller's: exactly this version's size is known so far.
///
/// # Safety
/// `ptr` is null or points at a struct whose first field says its size truly.
unsafe fn sized<T: Copy>(ptr: *const T, name: &str) -> Done<T> {
    if ptr.is_null() || !ptr.is_aligned() {
        return Err(fail(Code::Invalid, &format_args!("{name} is null or misaligned")));
    }
    // SAFETY: every sized struct starts with its u32 size.
    let size = unsafe { ptr.cast::<u32>().read() };
    if size as usize != size_of::<T>() {
        let expected = size_of::<T>();
        return Err(fail(Code::Invalid, &format_args!("{name}.struct_size is {size}; expected {expected}")));
    }
    // SAFETY: the struct is whole, as its size says.
    Ok(unsafe { ptr.read() })
}

/// Writes `value` to an output pointer.
///
/// # Safety
/// `out` is null or may be written.
unsafe fn put<T>(out: *mut T, value: T) -> Done<()> {
    if out.is_null() || !out.is_aligned() {
        return Err(fail(Code::Invalid, &"an output pointer is null or misaligned"));
    }
    // SAFETY: checked, and by this function's promise.
    unsafe { out.write(value) };
    Ok(())
}

/// The code of a result without a handle; the text goes to the options' message.
unsafe fn finish(options: *const Options, done: Done<()>) -> c_int {
    let Err(Failure { code, message }) = done else { return Code::Ok as c_int };
    // SAFETY: the caller's promise about `options` and its message buffer.
    unsafe {
        if let Ok(options) = sized(options, "options")
            && let Ok(out) = slice_mut(options.message.cast::<u8>(), options.message_size)
        {
            copy_text(message.text(), out);
        }
    }
    code as c_int
}

/// Copies as much text as fits, and a NUL.
fn copy_text(text: &[u8], out: &mut [u8]) {
    if let Some(room) = out.len().checked_sub(1) {
        let n = room.min(text.len());
        out[..n].copy_from_slice(&text[..n]);
        out[n] = 0;
    }
}

/// Runs `f` on a handle; the error's text is kept in it.
///
/// # Safety
/// `handle` is null or what drupe_init gave, and no other thread uses it.
unsafe fn with(handle: *mut Face, f: impl FnOnce(&mut Face) -> Done<()>) -> c_int {
    if handle.is_null() || !handle.is_aligned() {
        return Code::Invalid as c_int;
    }
    // SAFETY: by this function's promise.
    let face = unsafe { &mut *handle };
    if face.magic != Face::MAGIC {
        return Code::Invalid as c_int;
    }
    match guarded(|| f(face)) {
        Ok(()) => Code::Ok as c_int,
        Err(failure) => {
            face.message = failure.message;
            failure.code as c_int
        }
    }
}

/// An answer that may need a larger buffer: its length goes to `len` either way.
unsafe fn sized_answer(answer: Result<usize, usize>, len: *mut usize) -> Done<()> {
    let (n, fits) = match answer {
        Ok(n) => (n, true),
        Err(n) => (n, false),
    };
    // SAFETY: passed on from the caller.
    unsafe { put(len, n)? };
    if fits { Ok(()) } else { Err(fail(Code::Buffer, &format_args!("the buffer must hold {n} elements"))) }
}

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
    if options.is_null() || !options.is_aligned() || struct_size != size_of::<Options>() {
        return Code::Invalid as c_int;
    }
    // SAFETY: not null, aligned, of this size.
    unsafe { options.write(Options::default()) };
    Code::Ok as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_sampling_init(sampling: *mut Sampling, struct_size: usize) -> c_int {
    if sampling.is_null() || !sampling.is_aligned() || struct_size != size_of::<Sampling>() {
        return Code::Invalid as c_int;
    }
    // SAFETY: not null, aligned, of this size.
    unsafe { sampling.write(Sampling::default()) };
    Code::Ok as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_plan(
    model: *const c_void,
    model_len: usize,
    options: *const Options,
    info: *mut PlanInfo,
) -> c_int {
    // SAFETY: the header's contract on each pointer.
    let done = guarded(|| unsafe {
        let gguf = Gguf::parse(slice(model.cast::<u8>(), model_len)?).map_err(|e| fail(Code::File, &e))?;
        let layout = Layout::new(&gguf, &sized(options, "options")?)?;
        if info.is_null() || !info.is_aligned() || (*info).struct_size as usize != size_of::<PlanInfo>() {
            return Err(fail(Code::Invalid, &"info is null or its struct_size is not this version's"));
        }
        let (plan, recipe) = (&layout.plan, &layout.plan.recipe);
        put(
            info,
            PlanInfo {
                struct_size: size_of::<PlanInfo>() as u32,
                alignment: Arena::ALIGN as u32,
                memory: layout.total(),
                kv: plan.kv_bytes(),
                tables: layout.tables(),
                ctx: plan.config.ctx,
                vocab: recipe.vocab,
                width: recipe.width,
                layers: recipe.layers,
                train_ctx: recipe.train_ctx,
                reserved: 0,
            },
        )
    });
    // SAFETY: as above.
    unsafe { finish(options, done) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_largest_ctx(
    model: *const c_void,
    model_len: usize,
    options: *const Options,
    memory: u64,
    ctx: *mut u32,
) -> c_int {
    // SAFETY: the header's contract on each pointer.
    let done = guarded(|| unsafe {
        let gguf = Gguf::parse(slice(model.cast::<u8>(), model_len)?).map_err(|e| fail(Code::File, &e))?;
        let options = sized(options, "options")?;
        let needed = |ctx: u32| {
            let sinks = options.sinks.min(ctx - 1);
            Layout::new(&gguf, &Options { ctx, sinks, ..options }).map(|layout| layout.total())
        };
        let least = needed(1)?;
        if least > memory {
            return Err(fail(Code::Memory, &format_args!("{least} bytes are needed for one token, {memory} given")));
        }
        let train = needed_train_ctx(&gguf, &options)?;
        // The total grows with ctx: halve the range (fits, does not fit).
        let (mut fits, mut beyond) = (1, train.saturating_add(1));
        while beyond - fits > 1 {
            let middle = fits + (beyond - fits) / 2;
            if needed(middle)? <= memory { fits = middle } else { beyond = middle }
        }
        put(ctx, fits)
    });
    // SAFETY: as above.
    unsafe { finish(options, done) }
}

fn needed_train_ctx(gguf: &Gguf, options: &Options) -> Done<u32> {
    Ok(Layout::new(gguf, &Options { ctx: 1, sinks: 0, ..*options })?.plan.recipe.train_ctx.max(1))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_init(
    memory: *mut c_void,
    memory_len: usize,
    model: *const c_void,
    model_len: usize,
    options: *const Options,
    handle: *mut *mut Face,
) -> c_int {
    // SAFETY: the header's contract on each pointer.
    let done = guarded(|| unsafe {
        if handle.is_null() || !handle.is_aligned() {
            return Err(fail(Code::Invalid, &"the output pointer is null or misaligned"));
        }
        let read = sized(options, "options")?;
        let model: &'static [u8] = slice(model.cast::<u8>(), model_len)?;
        let memory: &'static mut [u8] = slice_mut(memory.cast::<u8>(), memory_len)?;
        let gguf = Gguf::parse(model).map_err(|e| fail(Code::File, &e))?;
        let needed = Layout::new(&gguf, &read)?.total();
        let skip = memory.as_ptr().align_offset(Arena::ALIGN).min(memory.len());
        let memory = &mut memory[skip..];
        let given = memory.len();
        if (given as u64) < needed {
            let what = format_args!("{needed} bytes are needed, aligned to 64; {given} given");
            return Err(fail(Code::Memory, &what));
        }
        let (own, rest) = memory.split_at_mut(Arena::cost(size_of::<Face>() as u64) as usize);
        let face = Face::new(model, &read, rest)?;
        let place = own.as_mut_ptr().cast::<Face>();
        place.write(face);
        handle.write(place);
        Ok(())
    });
    // SAFETY: as above.
    unsafe { finish(options, done) }
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

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_last_error(handle: *const Face, text: *mut c_char, size: usize) -> usize {
    if handle.is_null() || !handle.is_aligned() {
        return 0;
    }
    // SAFETY: the header's contract.
    unsafe {
        let message = (*handle).message.text();
        if let Ok(out) = slice_mut(text.cast::<u8>(), size) {
            copy_text(message, out);
        }
        message.len()
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_on_cancel(
    handle: *mut Face,
    call: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    user: *mut c_void,
) -> c_int {
    // SAFETY: the header's contract.
    unsafe {
        with(handle, |face| {
            face.set_cancel(Cancel { call, user });
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_use_team(handle: *mut Face, team: *const Team) -> c_int {
    // SAFETY: the header's contract.
    unsafe { with(handle, |face| face.set_team(team.as_ref().copied())) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_feed(handle: *mut Face, tokens: *const u32, count: usize) -> c_int {
    // SAFETY: the header's contract.
    unsafe { with(handle, |face| face.feed(slice(tokens, count)?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_feed_slice(
    handle: *mut Face,
    tokens: *const u32,
    count: usize,
    taken: *mut usize,
) -> c_int {
    // SAFETY: the header's contract.
    unsafe {
        with(handle, |face| {
            check_span(taken, 1)?;
            let n = face.feed_slice(slice(tokens, count)?)?;
            put(taken, n)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_logits(handle: *mut Face, logits: *mut *mut f32, count: *mut usize) -> c_int {
    // SAFETY: the header's contract.
    unsafe {
        with(handle, |face| {
            check_span(count, 1)?;
            let found = face.session().logits();
            put(logits, found.as_mut_ptr())?;
            put(count, found.len())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_hidden(handle: *mut Face, hidden: *mut *const f32, count: *mut usize) -> c_int {
    // SAFETY: the header's contract.
    unsafe {
        with(handle, |face| {
            check_span(count, 1)?;
            let found = face.session().hidden();
            put(hidden, found.as_ptr())?;
            put(count, found.len())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_set_sampling(handle: *mut Face, sampling: *const Sampling) -> c_int {
    // SAFETY: the header's contract.
    unsafe { with(handle, |face| face.set_sampling(&sized(sampling, "sampling")?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_sample(handle: *mut Face, token: *mut u32) -> c_int {
    // SAFETY: the header's contract.
    unsafe {
        with(handle, |face| {
            check_span(token, 1)?;
            let id = face.sample()?;
            put(token, id)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_generate(
    handle: *mut Face,
    most: u64,
    say: Option<unsafe extern "C" fn(*mut c_void, *const c_char, usize) -> c_int>,
    user: *mut c_void,
    count: *mut u64,
) -> c_int {
    // SAFETY: the header's contract.
    unsafe {
        with(handle, |face| {
            check_span(count, 1)?;
            let n = face
                .generate(most, &mut |text| say.is_some_and(|say| say(user, text.as_ptr().cast(), text.len()) != 0))?;
            put(count, n)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_tokenize(
    handle: *mut Face,
    text: *const c_char,
    len: usize,
    flags: u32,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> c_int {
    // SAFETY: the header's contract.
    unsafe {
        with(handle, |face| {
            let out = slice_mut(tokens, capacity)?;
            let answer = face.tokenize(slice(text.cast::<u8>(), len)?, flags & 1 != 0, flags & 2 != 0, out)?;
            sized_answer(answer, count)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_token_text(
    handle: *mut Face,
    token: u32,
    flags: u32,
    text: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> c_int {
    // SAFETY: the header's contract.
    unsafe {
        with(handle, |face| {
            let answer = face.token_text(token, flags & 1 != 0, slice_mut(text.cast::<u8>(), capacity)?)?;
            sized_answer(answer, len)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_is_end(handle: *mut Face, token: u32, is_end: *mut c_int) -> c_int {
    // SAFETY: the header's contract.
    unsafe {
        with(handle, |face| {
            let end = face.is_end(token)?;
            put(is_end, end as c_int)
        })
    }
}

/// Most messages of one conversation.
const MOST_MESSAGES: usize = 64;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_chat_prompt(
    handle: *mut Face,
    messages: *const ChatMessage,
    count: usize,
    answer: c_int,
    text: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> c_int {
    // SAFETY: the header's contract.
    unsafe {
        with(handle, |face| {
            let mut turns = [Turn { role: Role::User, content: "" }; MOST_MESSAGES];
            let Some(turns) = turns.get_mut(..count) else {
                return Err(fail(Code::Option, &format_args!("{count} messages; at most {MOST_MESSAGES} are taken")));
            };
            for (turn, message) in turns.iter_mut().zip(slice(messages, count)?) {
                let role = match message.role {
                    0 => Role::System,
                    1 => Role::User,
                    2 => Role::Assistant,
                    other => return Err(fail(Code::Option, &format_args!("role {other}; expected 0, 1 or 2"))),
                };
                let content = core::str::from_utf8(slice(message.text.cast::<u8>(), message.len)?)
                    .map_err(|_| fail(Code::Text, &"a message is not UTF-8"))?;
                *turn = Turn { role, content };
            }
            let out = slice_mut(text.cast::<u8>(), capacity)?;
            let needed = face.chat(turns, answer != 0, out)?;
            sized_answer(if needed <= capacity { Ok(needed) } else { Err(needed) }, len)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_position(handle: *mut Face, position: *mut u64) -> c_int {
    // SAFETY: the header's contract.
    unsafe { with(handle, |face| put(position, face.session().position())) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_rewind(handle: *mut Face, position: u64) -> c_int {
    // SAFETY: the header's contract.
    unsafe { with(handle, |face| face.session().rewind(position).map_err(|e| fail(Code::Rewind, &e))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_state_size(handle: *mut Face, size: *mut u64) -> c_int {
    // SAFETY: the header's contract.
    unsafe { with(handle, |face| put(size, face.state_bytes())) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_state_save(handle: *mut Face, state: *mut c_void, size: usize) -> c_int {
    // SAFETY: the header's contract.
    unsafe { with(handle, |face| face.save(slice_mut(state.cast::<u8>(), size)?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_state_restore(handle: *mut Face, state: *const c_void, size: usize) -> c_int {
    // SAFETY: the header's contract.
    unsafe { with(handle, |face| face.restore(slice(state.cast::<u8>(), size)?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_get_stats(handle: *mut Face, stats: *mut Stats) -> c_int {
    // SAFETY: the header's contract.
    unsafe {
        with(handle, |face| {
            if stats.is_null() || !stats.is_aligned() || (*stats).struct_size as usize != size_of::<Stats>() {
                return Err(fail(Code::Invalid, &"stats is null or its struct_size is not this version's"));
            }
            let memory = face.plan().total();
            let (position, fed) = (face.session().position(), face.fed);
            let isa = isa_name(face.session().model().kernels().isa());
            let workers = face.plan().config.workers;
            put(stats, Stats { struct_size: size_of::<Stats>() as u32, workers, position, fed, memory, isa })
        })
    }
}

fn isa_name(isa: drupe_core::quant::Isa) -> *const c_char {
    use drupe_core::quant::Isa::*;
    let name = match isa {
        Scalar => c"scalar",
        Avx2 => c"avx2",
        AvxVnni => c"avx-vnni",
        Avx512Vnni => c"avx512-vnni",
        Neon => c"neon",
        DotProd => c"dotprod",
        I8mm => c"i8mm",
        // With the feature `portable-simd` there is one more.
        #[allow(unreachable_patterns)]
        _ => c"portable",
    };
    name.as_ptr()
}
