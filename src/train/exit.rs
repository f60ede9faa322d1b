//! The end of a process in which libtorch may hang.

/// Ends the process at once, without the exit handlers of the C libraries: those of libtorch and of
/// a device's driver tear down what a thread that is left may be using, or wait for it.
#[allow(unsafe_code)]
pub fn end_process(code: u8) -> ! {
    // SAFETY: `_exit` takes any status and never returns; standard error is not buffered, and
    // nothing else that this process holds needs an orderly end.
    unsafe { libc::_exit(code.into()) }
}
