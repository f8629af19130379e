//! What the hosted library adds: files by path, threads, a limit on the memory that weights take.

use crate::error::{Code, Done, fail};
use crate::face::Face;
use crate::options::{BudgetInfo, Bytes, JobCall, Team};
use crate::pass::{code_of, finish, guarded, put, with, write_sized};
use core::ffi::{CStr, c_char, c_int, c_void};
use drupe_core::{Team as _, Weights};
use drupe_host::map::ModelFile;
use drupe_host::promise::{Beside, Hold, Promise, mapped_whole, program_bytes};
use drupe_host::residency::{Residency, ResidencyPlan, visits};
use drupe_host::size;
use drupe_host::team::{Cores, MAX_WORKERS, ThreadTeam};
use drupe_host::usage::{Usage, resident_in};
use std::ffi::CString;

/// `drupe_file`: a model's files, mapped.
pub struct File {
    files: ModelFile,
    parts: Box<[Bytes]>,
}

/// `drupe_threads`.
pub struct Threads(ThreadTeam);

/// `drupe_budget`.
pub struct Budget {
    /// None where all weights can stay in the mapped file.
    weights: Option<Residency>,
    info: BudgetInfo,
    /// What `info.line` points at.
    _line: CString,
}

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

impl Budget {
    /// For the model of `face`, which came from `file`: of `memory` bytes for weights alone, or if that is 0 within what
    /// the options of `face` allow the whole process.
    fn open(face: &mut Face, file: &ModelFile, memory: u64) -> Done<Budget> {
        let visits = visits(face.session().model());
        let weights = file.len();
        let (hold, beside, within) = if memory > 0 {
            let plan = ResidencyPlan::new(&visits, memory).map_err(|e| fail(Code::Memory, &e))?;
            let within = format!("{} for weights (asked for)", size::show(memory));
            (Hold::Part(plan), 0, (true, memory, within))
        } else {
            let beside = beside(face)?;
            let promise = Promise::new((face.allowed > 0).then_some(face.allowed));
            let hold = promise.hold(weights, beside, Some(&visits)).map_err(|e| fail(Code::Memory, &e))?;
            (hold, beside.plan + beside.program, (promise.source.is_none(), promise.bytes, promise.to_string()))
        };
        let (asked, limit, words) = within;
        let (resident, streamed, source) = match hold {
            Hold::All => {
                mapped_whole(file, &visits);
                (weights, 0, None)
            }
            Hold::Part(plan) => {
                let source = Residency::open(&plan, file).map_err(|e| fail(Code::Storage, &e))?;
                (plan.total_bytes, plan.streamed_bytes, Some(source))
            }
        };
        let sizes = match streamed {
            0 => format!("all {} of weights stay in memory", size::show(weights)),
            n => format!("{} for weights, {} are read for each token", size::show(resident), size::show(n)),
        };
        let line = CString::new(format!("{words}: {sizes}")).unwrap_or_default();
        let (struct_size, asked) = (size_of::<BudgetInfo>() as u32, u32::from(asked));
        let info = BudgetInfo { struct_size, asked, limit, beside, resident, streamed, line: line.as_ptr() };
        Ok(Budget { weights: source, info, _line: line })
    }
}

/// What the process takes beside weights: the handle, the library, and what else it holds by now.
fn beside(face: &Face) -> Done<Beside> {
    let gguf = face.gguf()?;
    let start = (&raw const *face) as usize;
    let own = resident_in(start..start + face.memory as usize).unwrap_or(0);
    let others = Usage::now().anonymous.unwrap_or(0).saturating_sub(own);
    // The tokenizer's tables are in the handle.
    Ok(Beside { plan: face.memory, program: program_bytes(&gguf, 0).saturating_add(others) })
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
            let made = Budget::open(face, &(*file).files, memory)?;
            put(budget, Box::into_raw(Box::new(made)))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_use_budget(handle: *mut Face, budget: *mut Budget) -> c_int {
    // SAFETY: the header's contract: the budget lives while the handle uses it, and no other handle does.
    unsafe {
        with(handle, |face| {
            let weights = budget.as_mut().and_then(|budget| budget.weights.as_mut());
            face.set_weights(weights.map(|weights| (&raw mut *weights) as *mut dyn Weights));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_budget_get_info(budget: *const Budget, info: *mut BudgetInfo) -> c_int {
    // SAFETY: the header's contract on each pointer.
    code_of(guarded(|| unsafe {
        not_null(&[budget])?;
        write_sized(info, (*budget).info)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn drupe_budget_close(budget: *mut Budget) {
    // SAFETY: it came from drupe_budget_open, by the header's contract.
    unsafe { give_back(budget) }
}
