//! The functions that take a handle.

use crate::error::{Code, fail};
use crate::face::Face;
use crate::options::{ChatMessage, Clock, ClockCall, Progress, ProgressCall, Sampling, Stats, Team};
use crate::pass::{check_span, copy_text, put, put_length, read_sized, slice, slice_mut, with, write_sized};
use core::ffi::{c_char, c_int, c_void};
use drupe_core::chat::{Message, Role};

/// `drupe_tokenize`, `drupe_token_text`: control tokens written in the text are meant as such.
pub const DRUPE_PARSE_SPECIAL: u32 = 1;
/// `drupe_tokenize`: begins with the model's start token, if it wants one.
pub const DRUPE_ADD_BOS: u32 = 2;

pub const DRUPE_ROLE_SYSTEM: u32 = 0;
pub const DRUPE_ROLE_USER: u32 = 1;
pub const DRUPE_ROLE_ASSISTANT: u32 = 2;

/// Most messages of one conversation.
const MOST_MESSAGES: usize = 64;

// SAFETY (of every `unsafe` block below): the header's contract on the handle and on each pointer, which the caller of a
// C function keeps; `with` and the functions of `pass` check what can be checked of it.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_last_error(handle: *const Face, text: *mut c_char, size: usize) -> usize {
    if handle.is_null() || !handle.is_aligned() {
        return 0;
    }
    // SAFETY: see above.
    unsafe {
        let message = (*handle).message.text();
        if let Ok(out) = slice_mut(text.cast::<u8>(), size) {
            copy_text(message, out);
        }
        message.len()
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_on_progress(handle: *mut Face, call: ProgressCall, user: *mut c_void) -> c_int {
    // SAFETY: see above.
    unsafe {
        with(handle, |face| {
            face.set_progress(Progress { call, user });
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_use_clock(handle: *mut Face, now: ClockCall, user: *mut c_void) -> c_int {
    // SAFETY: see above.
    unsafe {
        with(handle, |face| {
            face.set_clock(Clock { now, user });
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_use_team(handle: *mut Face, team: *const Team) -> c_int {
    // SAFETY: see above.
    unsafe {
        with(handle, |face| {
            check_span(team, usize::from(!team.is_null()))?;
            face.set_team(team.as_ref().copied())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_feed(handle: *mut Face, tokens: *const u32, count: usize) -> c_int {
    // SAFETY: see above.
    unsafe { with(handle, |face| face.feed(slice(tokens, count)?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_feed_slice(
    handle: *mut Face,
    tokens: *const u32,
    count: usize,
    most: usize,
    taken: *mut usize,
) -> c_int {
    // SAFETY: see above.
    unsafe {
        with(handle, |face| {
            check_span(taken, 1)?;
            put(taken, face.feed_slice(slice(tokens, count)?, most)?)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_logits(handle: *mut Face, logits: *mut *mut f32, count: *mut usize) -> c_int {
    // SAFETY: see above.
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
    // SAFETY: see above.
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
    // SAFETY: see above.
    unsafe { with(handle, |face| face.set_sampling(&read_sized(sampling, Sampling::default())?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_sample(handle: *mut Face, token: *mut u32) -> c_int {
    // SAFETY: see above.
    unsafe {
        with(handle, |face| {
            check_span(token, 1)?;
            put(token, face.sample()?)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_generate(
    handle: *mut Face,
    most: u64,
    say: Option<unsafe extern "C" fn(user: *mut c_void, text: *const c_char, len: usize) -> c_int>,
    user: *mut c_void,
    count: *mut u64,
) -> c_int {
    // SAFETY: see above.
    unsafe {
        with(handle, |face| {
            check_span(count, 1)?;
            let mut said = |text: &[u8]| say.is_some_and(|say| say(user, text.as_ptr().cast(), text.len()) != 0);
            put(count, face.generate(most, &mut said)?)
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
    // SAFETY: see above.
    unsafe {
        with(handle, |face| {
            let (text, out) = (slice(text.cast::<u8>(), len)?, slice_mut(tokens, capacity)?);
            let (special, bos) = (flags & DRUPE_PARSE_SPECIAL != 0, flags & DRUPE_ADD_BOS != 0);
            put_length(face.tokenize(text, special, bos, out)?, count)
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
    // SAFETY: see above.
    unsafe {
        with(handle, |face| {
            let out = slice_mut(text.cast::<u8>(), capacity)?;
            put_length(face.token_text(token, flags & DRUPE_PARSE_SPECIAL != 0, out)?, len)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_is_end(handle: *mut Face, token: u32, is_end: *mut c_int) -> c_int {
    // SAFETY: see above.
    unsafe { with(handle, |face| put(is_end, c_int::from(face.is_end(token)?))) }
}

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
    // SAFETY: see above.
    unsafe {
        with(handle, |face| {
            let mut turns = [Message { role: Role::User, content: "" }; MOST_MESSAGES];
            let Some(turns) = turns.get_mut(..count) else {
                return Err(fail(Code::Option, &format_args!("{count} messages; at most {MOST_MESSAGES} are taken")));
            };
            for (turn, message) in turns.iter_mut().zip(slice(messages, count)?) {
                let role = match message.role {
                    DRUPE_ROLE_SYSTEM => Role::System,
                    DRUPE_ROLE_USER => Role::User,
                    DRUPE_ROLE_ASSISTANT => Role::Assistant,
                    other => return Err(fail(Code::Option, &format_args!("role {other}; expected 0, 1 or 2"))),
                };
                let content = core::str::from_utf8(slice(message.text.cast::<u8>(), message.len)?)
                    .map_err(|_| fail(Code::Text, &"a message is not UTF-8"))?;
                *turn = Message { role, content };
            }
            let out = slice_mut(text.cast::<u8>(), capacity)?;
            let needed = face.chat(turns, answer != 0, out)?;
            put_length(if needed <= capacity { Ok(needed) } else { Err(needed) }, len)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_position(handle: *mut Face, position: *mut u64) -> c_int {
    // SAFETY: see above.
    unsafe { with(handle, |face| put(position, face.session().position())) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_rewind(handle: *mut Face, position: u64) -> c_int {
    // SAFETY: see above.
    unsafe { with(handle, |face| face.session().rewind(position).map_err(|e| fail(Code::Rewind, &e))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_state_size(handle: *mut Face, size: *mut u64) -> c_int {
    // SAFETY: see above.
    unsafe { with(handle, |face| put(size, face.state_bytes())) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_state_save(handle: *mut Face, state: *mut c_void, size: usize) -> c_int {
    // SAFETY: see above.
    unsafe { with(handle, |face| face.save(slice_mut(state.cast::<u8>(), size)?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_state_restore(handle: *mut Face, state: *const c_void, size: usize) -> c_int {
    // SAFETY: see above.
    unsafe { with(handle, |face| face.restore(slice(state.cast::<u8>(), size)?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_get_stats(handle: *mut Face, stats: *mut Stats) -> c_int {
    // SAFETY: see above.
    unsafe { with(handle, |face| write_sized(stats, face.stats())) }
}
