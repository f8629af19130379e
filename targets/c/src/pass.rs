//! What passes between C and Rust: pointers with lengths, sized structs, codes. Everything is checked that can be.

use crate::error::{Code, Done, Failure, fail};
use crate::face::Face;
use crate::options::Options;
use core::ffi::{c_char, c_int};

/// Runs `f` so that no panic leaves it.
pub fn guarded<T>(f: impl FnOnce() -> Done<T>) -> Done<T> {
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
pub unsafe fn slice<'a, T>(ptr: *const T, len: usize) -> Done<&'a [T]> {
    check_span(ptr, len)?;
    // SAFETY: by this function's promise and the checks above.
    Ok(if len == 0 { &[] } else { unsafe { core::slice::from_raw_parts(ptr, len) } })
}

/// The same, to be written.
///
/// # Safety
/// `ptr` points at `len` writable elements that nothing else uses for `'a`.
pub unsafe fn slice_mut<'a, T>(ptr: *mut T, len: usize) -> Done<&'a mut [T]> {
    check_span(ptr, len)?;
    // SAFETY: by this function's promise and the checks above.
    Ok(if len == 0 { &mut [] } else { unsafe { core::slice::from_raw_parts_mut(ptr, len) } })
}

/// Whether so many elements can be at `ptr`.
pub fn check_span<T>(ptr: *const T, len: usize) -> Done<()> {
    let bytes = len.checked_mul(size_of::<T>()).filter(|n| *n <= isize::MAX as usize);
    if len > 0 && (ptr.is_null() || !ptr.is_aligned() || bytes.is_none()) {
        return Err(fail(Code::Invalid, &"a null or misaligned pointer, or an impossible length"));
    }
    Ok(())
}

/// A struct that begins with its own size, a u32: a later version may have more fields at its end.
///
/// # Safety
/// Any bytes are a value of it.
pub unsafe trait Sized32: Copy {
    /// Its C name.
    const NAME: &'static str;
    /// Its size in the first version that had it: what the oldest callers pass. Fields added since are of whole words of
    /// eight bytes.
    const FIRST: usize;
}

/// The size that the caller says a struct has, if it is one that this version knows.
///
/// # Safety
/// `ptr` is null or points at a struct whose first field says its size truly.
unsafe fn said_size<T: Sized32>(ptr: *const T) -> Done<usize> {
    let name = T::NAME;
    if ptr.is_null() || !ptr.is_aligned() {
        return Err(fail(Code::Invalid, &format_args!("{name} is null or misaligned")));
    }
    // SAFETY: the size comes first, by the trait's promise.
    let size = unsafe { ptr.cast::<u32>().read() } as usize;
    check_size::<T>(size)?;
    Ok(size)
}

/// Refuses sizes that no version up to this one has.
pub fn check_size<T: Sized32>(size: usize) -> Done<()> {
    let (name, first, last) = (T::NAME, T::FIRST, size_of::<T>());
    if !(first..=last).contains(&size) || !(size - first).is_multiple_of(8) {
        return Err(fail(
            Code::Invalid,
            &format_args!("{name}.struct_size is {size}; this version knows {first} to {last}"),
        ));
    }
    Ok(())
}

/// Reads a sized struct of the caller's; fields that the caller's version lacks are as in `default`.
///
/// # Safety
/// `ptr` is null or points at a struct whose first field says its size truly.
pub unsafe fn read_sized<T: Sized32>(ptr: *const T, default: T) -> Done<T> {
    let mut value = default;
    // SAFETY: so many bytes are there, as the struct says, and they fit; any bytes are a value.
    unsafe {
        let size = said_size(ptr)?;
        core::ptr::copy_nonoverlapping(ptr.cast::<u8>(), (&raw mut value).cast::<u8>(), size);
    }
    Ok(value)
}

/// Writes as much of `value` as the caller's version of the struct has; its size stays what it was.
///
/// # Safety
/// `ptr` is null or points at a writable struct whose first field says its size truly.
pub unsafe fn write_sized<T: Sized32>(ptr: *mut T, value: T) -> Done<()> {
    // SAFETY: so many bytes are there, as the struct says.
    unsafe {
        let size = said_size(ptr)?;
        core::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), ptr.cast::<u8>(), size);
        ptr.cast::<u32>().write(size as u32);
    }
    Ok(())
}

/// Writes the defaults of a struct of which the caller knows `size` bytes.
///
/// # Safety
/// `ptr` is null or points at `size` writable bytes.
pub unsafe fn init_sized<T: Sized32>(ptr: *mut T, size: usize, default: T) -> c_int {
    if check_size::<T>(size).is_err() || ptr.is_null() || !ptr.is_aligned() {
        return Code::Invalid as c_int;
    }
    // SAFETY: of a size that this version knows, aligned, writable.
    unsafe {
        ptr.cast::<u32>().write(size as u32);
        code_of(write_sized(ptr, default))
    }
}

/// Writes `value` to an output pointer.
///
/// # Safety
/// `out` is null or may be written.
pub unsafe fn put<T>(out: *mut T, value: T) -> Done<()> {
    if out.is_null() || !out.is_aligned() {
        return Err(fail(Code::Invalid, &"an output pointer is null or misaligned"));
    }
    // SAFETY: checked, and by this function's promise.
    unsafe { out.write(value) };
    Ok(())
}

/// An answer that may need a larger buffer: its length goes to `len` either way.
///
/// # Safety
/// `len` is null or may be written.
pub unsafe fn put_length(answer: Result<usize, usize>, len: *mut usize) -> Done<()> {
    // SAFETY: passed on from the caller.
    unsafe { put(len, answer.unwrap_or_else(|needed| needed))? };
    answer.map(|_| ()).map_err(|n| fail(Code::Buffer, &format_args!("the buffer must hold {n} elements")))
}

/// Copies as much text as fits, and a NUL.
pub fn copy_text(text: &[u8], out: &mut [u8]) {
    if let Some(room) = out.len().checked_sub(1) {
        let n = room.min(text.len());
        out[..n].copy_from_slice(&text[..n]);
        out[n] = 0;
    }
}

/// A result's code, its text forgotten.
pub fn code_of(done: Done<()>) -> c_int {
    done.err().map_or(Code::Ok, |failure| failure.code) as c_int
}

/// The code of a result; its text goes to the caller's buffer.
///
/// # Safety
/// `text` is null or has `size` writable bytes.
pub unsafe fn finish(done: Done<()>, text: *mut c_char, size: usize) -> c_int {
    let Err(Failure { code, message }) = done else { return Code::Ok as c_int };
    // SAFETY: the caller's promise.
    if let Ok(out) = unsafe { slice_mut(text.cast::<u8>(), size) } {
        copy_text(message.text(), out);
    }
    code as c_int
}

/// The same, into the buffer that the options name.
///
/// # Safety
/// `options` is null or a sized struct, and so on as the header says.
pub unsafe fn finish_in(done: Done<()>, options: *const Options) -> c_int {
    // SAFETY: the caller's promise about `options` and its message buffer.
    unsafe {
        match read_sized(options, Options::default()) {
            Ok(options) => finish(done, options.message, options.message_size),
            Err(_) => code_of(done),
        }
    }
}

/// Runs `f` on a handle; the error's text is kept in it.
///
/// # Safety
/// `handle` is null or what drupe_init gave, and no other thread uses it.
pub unsafe fn with(handle: *mut Face, f: impl FnOnce(&mut Face) -> Done<()>) -> c_int {
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
