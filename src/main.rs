//! The command: our words are told from QEMU's, and QEMU is run to its end.

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use qemu_logbuf::cli::{self, Request};
use qemu_logbuf::{launch, sys, trace, watch};

/// Where the fault is ours and nobody is left to look after QEMU.
const GRIEF: &str = "failed inside itself, and QEMU ends with it; please report this with a --logbuf-debug=FILE of it";

/// Where the fault is ours and QEMU is somebody else's.
const OWN_GRIEF: &str = "failed inside itself, and nothing else is harmed; please report this with a --logbuf-debug=FILE of it";

fn main() -> ExitCode {
    let inheritance = sys::Inheritance::note();
    std::panic::set_hook(Box::new(|fault| trace!("fault: {fault}")));
    let mut arguments = std::env::args_os();
    let argv0 = arguments.next().unwrap_or_else(|| OsString::from("qemu-logbuf"));
    let words = cli::split(arguments);
    let request = match cli::request(&words.ours, |name| std::env::var_os(name)) {
        Ok(request) => request,
        Err(error) => return complain(&error, 2),
    };
    if let Some(path) = request.options().and_then(|options| options.debug.as_ref())
        && let Err(error) = trace::open(path)
    {
        let (path, why) = (path.display(), sys::reason(&error));
        return complain(
            &format!("cannot write {path}: {why}; name another --logbuf-debug file"),
            2,
        );
    }
    let grief = if matches!(request, Request::Run(_)) { GRIEF } else { OWN_GRIEF };
    let answer = || match request {
        Request::Help => say(&cli::help()),
        Request::Version => say(concat!("qemu-logbuf ", env!("CARGO_PKG_VERSION"), "\n")),
        Request::Run(options) => match launch::run(inheritance, &argv0, &words.theirs, options) {
            Ok(end) => end.pass_on(),
            Err(error) => complain(&error, error.status()),
        },
        Request::Attach(..) | Request::Read(..) if !words.theirs.is_empty() => {
            let why = "--logbuf-attach and --logbuf-read run no QEMU; leave its options out";
            complain(&why, 2)
        }
        Request::Attach(target, options) => reported(watch::attach(&target, &options)),
        Request::Read(file, options) => reported(watch::read(&file, &options)),
    };
    // On its way out a fault gives the terminal back.
    std::panic::catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| complain(&grief, 125))
}

/// The status that says whether there was a log.
fn reported(seen: Result<bool, Box<dyn std::fmt::Display>>) -> ExitCode {
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
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            let why = sys::reason(&error);
            complain(&format!("cannot write to standard output: {why}; write to another place"), 1)
        }
    }
}

/// One line on stderr, and the status to end with.
fn complain(error: &dyn std::fmt::Display, status: u8) -> ExitCode {
    use std::io::Write;
    // Nobody may be there to read it; the status says it too.
    let _ = writeln!(std::io::stderr(), "qemu-logbuf: {error}");
    ExitCode::from(status)
}
