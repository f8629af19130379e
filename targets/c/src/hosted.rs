//! What the hosted library adds: files by path, threads, a limit on the memory that weights take.

use crate::error::{Code, Done, fail};
use crate::face::Face;
use crate::options::{Bytes, JobCall, Team};
use crate::pass::{code_of, finish, guarded, put, with};
use core::ffi::{CStr, c_char, c_int, c_void};
use drupe_core::Team as _;
use drupe_host::map::ModelFile;
use drupe_host::residency::{Residency, ResidencyPlan, visits};
use drupe_host::team::{Cores, MAX_WORKERS, ThreadTeam};

/// `drupe_file`: a model's files, mapped.
pub struct File {
    files: ModelFile,
    parts: Box<[Bytes]>,
}

/// `drupe_threads`.
pub struct Threads(ThreadTeam);

/// `drupe_budget`.
pub struct Budget(Residency);

fn not_null<T>(pointers: &[*const T]) -> Done<()> {
    if pointers.iter().any(|p| p.is_null()) { Err(fail(Code::Invalid, &"a null pointer")) } else { Ok(()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_file_open(
    path: *const c_char,
    file: *mut *mut File,
    parts: *mut *const Bytes,
    count: *mut usize,
    message: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the header's contract on each pointer.
    unsafe {
        let done = guarded(|| {
            not_null::<c_void>(&[path.cast(), file.cast(), parts.cast(), count.cast()])?;
            let path = CStr::from_ptr(path).to_str().map_err(|_| fail(Code::Invalid, &"the path is not UTF-8"))?;
            let files = ModelFile::open(path).map_err(|e| fail(Code::Storage, &e))?;
            let bytes = |part: &[u8]| Bytes { data: part.as_ptr().cast(), len: part.len() };
            let list = files.slices().into_iter().map(bytes).collect();
            let opened = Box::new(File { files, parts: list });
            put(parts, opened.parts.as_ptr())?;
            put(count, opened.parts.len())?;
            put(file, Box::into_raw(opened))
        });
        finish(done, message, size)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_file_close(file: *mut File) {
    // SAFETY: it came from drupe_file_open, by the header's contract.
    unsafe { give_back(file) }
}

/// Drops what was given to C.
///
/// # Safety
/// `given` is null or came from `Box::into_raw` and is given back once.
unsafe fn give_back<T>(given: *mut T) {
    if !given.is_null() {
        // SAFETY: by this function's promise.
        drop(unsafe { Box::from_raw(given) });
    }
}

unsafe extern "C" fn run_threads(user: *mut c_void, job: JobCall, arg: *mut c_void) {
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
    code_of(guarded(|| unsafe {
        not_null::<c_void>(&[threads.cast(), team.cast()])?;
        if !(1..=MAX_WORKERS).contains(&(workers as usize)) {
            return Err(fail(Code::Option, &format_args!("{workers} workers; expected 1 to {MAX_WORKERS}")));
        }
        let made = ThreadTeam::new(workers as usize, &Cores::detect()).map_err(|e| fail(Code::Option, &e))?;
        let made = Box::into_raw(Box::new(Threads(made)));
        put(team, Team { user: made.cast(), workers, run: Some(run_threads) })?;
        put(threads, made)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_threads_stop(threads: *mut Threads) {
    // SAFETY: it came from drupe_threads_start, by the header's contract.
    unsafe { give_back(threads) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_budget_open(
    handle: *mut Face,
    file: *const File,
    memory: u64,
    budget: *mut *mut Budget,
) -> c_int {
    // SAFETY: the header's contract on each pointer.
    unsafe {
        with(handle, |face| {
            not_null::<c_void>(&[file.cast(), budget.cast()])?;
            let visits = visits(face.session().model());
            let plan = ResidencyPlan::new(&visits, memory).map_err(|e| fail(Code::Memory, &e))?;
            let made = Residency::open(&plan, &(*file).files).map_err(|e| fail(Code::Storage, &e))?;
            put(budget, Box::into_raw(Box::new(Budget(made))))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_use_budget(handle: *mut Face, budget: *mut Budget) -> c_int {
    // SAFETY: the header's contract: the budget lives while the handle uses it, and no other handle does.
    unsafe {
        with(handle, |face| {
            face.set_weights(budget.as_mut().map(|budget| &raw mut budget.0 as *mut _));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_budget_close(budget: *mut Budget) {
    // SAFETY: it came from drupe_budget_open, by the header's contract.
    unsafe { give_back(budget) }
}
