//! Points at which a test ends or freezes the process, in programs that were built for tests.

/// A named point of the program. What happens there says the variable `FAILPOINTS`, in the notation
/// of the `fail` crate: `name=3*off->return` ends the process by SIGKILL the fourth time it comes
/// here, `name=return(STOP)` sends it another signal, `name=pause` holds this thread for good.
///
/// Does nothing, and leaves not even its name, unless the `fail` crate was built with its feature
/// `failpoints`: only this crate's tests ask for that.
#[inline(always)]
pub fn failpoint(name: &'static str) {
    let _ = name;
    fail::fail_point!(name, |signal: Option<String>| {
        if signal.as_deref() == Some("STOP") {
            // It stops this thread, and then the others: sent to the process, the signal may reach another
            // thread first, and this one would run on for a while.
            nix::sys::signal::raise(nix::sys::signal::SIGSTOP).expect("a signal to oneself");
            return;
        }
        let signal = signal.unwrap_or_else(|| "KILL".to_owned());
        let process = std::process::id().to_string();
        let sent = std::process::Command::new("kill").args(["-s", &signal, &process]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{signal} could not be sent at {name}");
    });
}
