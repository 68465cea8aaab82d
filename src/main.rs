//! The command: our words are told from QEMU's, and QEMU is run to its end.

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use qemu_logbuf::cli::{self, Request};
use qemu_logbuf::{launch, sys, trace, watch};

/// Where the fault is ours and nobody is left to look after QEMU.
const GRIEF: &str = "failed inside itself, and QEMU ends with it; please report this with a --logbuf-debug=FILE of it";

fn main() -> ExitCode {
    let inheritance = sys::Inheritance::note();
    std::panic::set_hook(Box::new(|fault| trace!("fault: {fault}")));
    let mut arguments = std::env::args_os();
    let argv0 = arguments.next().unwrap_or_else(|| OsString::from("qemu-logbuf"));
    let words = cli::split(arguments);
    let request = match cli::request(&words.ours, |name| std::env::var_os(name)) {
        Ok(Request::Help) => return say(&cli::help()),
        Ok(Request::Version) => {
            return say(concat!("qemu-logbuf ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        Ok(request) => request,
        Err(error) => return complain(&error, 2),
    };
    let (Request::Run(options) | Request::Attach(_, options) | Request::Read(_, options)) =
        &request
    else {
        return ExitCode::SUCCESS;
    };
    if let Some(path) = &options.debug
        && let Err(error) = trace::open(path)
    {
        return complain(
            &format!(
                "cannot write {}: {}; name another --logbuf-debug file",
                path.display(),
                sys::reason(&error)
            ),
            2,
        );
    }
    let seen = match request {
        Request::Attach(target, options) if words.theirs.is_empty() => {
            watch::attach(&target, &options)
        }
        Request::Read(file, options) if words.theirs.is_empty() => watch::read(&file, &options),
        Request::Attach(..) | Request::Read(..) => {
            let why = "--logbuf-attach and --logbuf-read run no QEMU; leave its options out";
            return complain(&why, 2);
        }
        Request::Run(options) => {
            let run = || launch::run(inheritance, &argv0, &words.theirs, options);
            // On its way out a fault gives the terminal back.
            return match std::panic::catch_unwind(AssertUnwindSafe(run)) {
                Ok(Ok(end)) => end.pass_on(),
                Ok(Err(error)) => complain(&error, error.status()),
                Err(_) => complain(&GRIEF, 125),
            };
        }
        Request::Help | Request::Version => Ok(true),
    };
    match seen {
        Ok(true) => ExitCode::SUCCESS,
        // The report itself says why.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => complain(&error, 1),
    }
}

/// Answer a question about ourselves on stdout.
fn say(text: &str) -> ExitCode {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// One line on stderr, and the status to end with.
fn complain(error: &dyn std::fmt::Display, status: u8) -> ExitCode {
    use std::io::Write;
    // Nobody may be there to read it; the status says it too.
    let _ = writeln!(std::io::stderr(), "qemu-logbuf: {error}");
    ExitCode::from(status)
}
