//! Preloaded, it puts a process's calendar clock ten minutes ahead. Other clocks go on as they are.

use std::ffi::{c_char, c_int, c_long, c_void};

const CLOCK_REALTIME: c_int = 0;
/// `RTLD_NEXT`: the one that stands behind this library.
const NEXT: *mut c_void = -1_isize as *mut c_void;

#[repr(C)]
pub struct Time {
    seconds: i64,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// # Safety
/// As the C library's: `time` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Time) -> c_int {
    type ClockGettime = unsafe extern "C" fn(c_int, *mut Time) -> c_int;
    // SAFETY: the function of this name has this type in each C library, and is there.
    unsafe {
        let real: ClockGettime = std::mem::transmute(dlsym(NEXT, c"clock_gettime".as_ptr()));
        let result = real(clock, time);
        if result == 0 && clock == CLOCK_REALTIME {
            (*time).seconds += 600;
        }
        result
    }
}
