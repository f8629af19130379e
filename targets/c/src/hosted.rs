//! What the hosted library adds: files by path, threads.

use crate::error::{Code, Done, fail};
use crate::options::Team;
use crate::{copy_text, guarded, put, slice_mut};
use core::ffi::{CStr, c_char, c_int, c_void};
use drupe_core::Team as _;
use drupe_host::map::ModelFile;
use drupe_host::team::{Cores, ThreadTeam};

/// `drupe_file`: keeps the file mapped.
pub struct File(#[expect(dead_code, reason = "held for its drop")] ModelFile);

/// `drupe_threads`.
pub struct Threads(ThreadTeam);

fn code(done: Done<()>, message: *mut c_char, size: usize) -> c_int {
    let Err(failure) = done else { return Code::Ok as c_int };
    // SAFETY: the header's contract on the message buffer.
    if let Ok(out) = unsafe { slice_mut(message.cast::<u8>(), size) } {
        copy_text(failure.message.text(), out);
    }
    failure.code as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_file_open(
    path: *const c_char,
    file: *mut *mut File,
    model: *mut *const c_void,
    len: *mut usize,
    message: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the header's contract on each pointer.
    let done = guarded(|| unsafe {
        if path.is_null() || file.is_null() || model.is_null() || len.is_null() {
            return Err(fail(Code::Invalid, &"a null pointer"));
        }
        let path = CStr::from_ptr(path).to_str().map_err(|_| fail(Code::Invalid, &"the path is not UTF-8"))?;
        let opened = ModelFile::open(path).map_err(|e| fail(Code::Storage, &e))?;
        let parts = opened.slices();
        let [bytes] = parts[..] else {
            return Err(fail(Code::Unsupported, &"a model in several files: join them first"));
        };
        put(model, bytes.as_ptr().cast())?;
        put(len, bytes.len())?;
        put(file, Box::into_raw(Box::new(File(opened))))
    });
    code(done, message, size)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_file_close(file: *mut File) {
    if !file.is_null() {
        // SAFETY: it came from drupe_file_open and is given back once, by the header's contract.
        drop(unsafe { Box::from_raw(file) });
    }
}

unsafe extern "C" fn run_threads(user: *mut c_void, job: unsafe extern "C" fn(*mut c_void, u32), arg: *mut c_void) {
    struct Arg(*mut c_void);
    // SAFETY: the library's own job is Sync; drupe_team.run passes it to every worker.
    unsafe impl Sync for Arg {}
    let arg = Arg(arg);
    // SAFETY: `user` is the threads that drupe_threads_start gave out.
    let threads = unsafe { &*user.cast::<Threads>() };
    threads.0.run(&|worker| {
        let arg = &arg;
        // SAFETY: the job's contract, as in drupe_team.run.
        unsafe { job(arg.0, worker as u32) }
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_threads_start(workers: u32, threads: *mut *mut Threads, team: *mut Team) -> c_int {
    // SAFETY: the header's contract on each pointer.
    let done = guarded(|| unsafe {
        if threads.is_null() || team.is_null() {
            return Err(fail(Code::Invalid, &"a null pointer"));
        }
        let made = ThreadTeam::new(workers as usize, &Cores::detect()).map_err(|e| fail(Code::Option, &e))?;
        let made = Box::into_raw(Box::new(Threads(made)));
        put(team, Team { user: made.cast(), workers, run: Some(run_threads) })?;
        put(threads, made)
    });
    code(done, core::ptr::null_mut(), 0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_threads_stop(threads: *mut Threads) {
    if !threads.is_null() {
        // SAFETY: it came from drupe_threads_start and is given back once, by the header's contract.
        drop(unsafe { Box::from_raw(threads) });
    }
}
