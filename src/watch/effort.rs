//! A look into guest memory that takes long: it is seen on the terminal, and
//! the key that asked for it cancels it. Who asked by signal is told once.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::guest::{Memory, ReadError};
use crate::terminal::Destination;

/// What a look may take without a word.
const QUIET: Duration = Duration::from_secs(1);

/// And where there is no terminal to take the word back from: by then a QEMU
/// that does not answer has been given up on, which is said in one line.
const PATIENT: Duration = Duration::from_millis(2500);

/// How often the word changes.
const OFTEN: Duration = Duration::from_millis(200);

/// What the keyboard's side and the reader's side share.
#[derive(Clone, Debug, Default)]
pub(super) struct Handle(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// The user sees that something takes long.
    shown: AtomicBool,
    cancelled: AtomicBool,
}

impl Handle {
    /// Cancel what the user sees going on; false where nothing is seen, and
    /// the key is one more question.
    pub(super) fn cancel(&self) -> bool {
        let shown = self.0.shown.load(Ordering::Acquire);
        if shown {
            self.0.cancelled.store(true, Ordering::Release);
        }
        shown
    }
}

/// Guest memory, read on behalf of somebody who waits.
pub(super) struct Effort<'a> {
    memory: &'a dyn Memory,
    handle: Handle,
    /// Where to show it, and whether that is a terminal; nowhere in files and
    /// pipes that are for reports alone.
    to: Option<(Destination, bool)>,
    start: Instant,
    drawn: Cell<Option<Instant>>,
    line: RefCell<String>,
    /// Bytes done and bytes there are, as far as known.
    done: Cell<Option<(u64, u64)>>,
}

impl<'a> Effort<'a> {
    /// Begin; `to` is where the answer will go.
    pub(super) fn new(memory: &'a dyn Memory, handle: Handle, to: &Destination) -> Self {
        handle.0.cancelled.store(false, Ordering::Release);
        Self {
            memory,
            handle,
            to: match (to.is_terminal(), to) {
                (true, _) => Some((to.clone(), true)),
                (false, Destination::Stderr | Destination::StderrOf(_)) => {
                    Some((to.clone(), false))
                }
                _ => None,
            },
            start: Instant::now(),
            drawn: Cell::new(None),
            line: RefCell::default(),
            done: Cell::new(None),
        }
    }

    /// So much is done.
    pub(super) fn progress(&self, done: u64, total: u64) {
        self.done.set(Some((done, total)));
    }

    /// Take the line off the terminal.
    pub(super) fn end(&self) {
        self.handle.0.shown.store(false, Ordering::Release);
        let shown = self.drawn.get().is_some();
        if shown && matches!(self.to, Some((_, true))) {
            let blank = " ".repeat(self.line.borrow().len());
            self.write(&format!("\r{blank}\r"));
        }
    }

    fn show(&self) {
        let now = Instant::now();
        let Some((to, true)) = &self.to else { return self.tell(now) };
        let since = self.drawn.get().map_or(self.start + QUIET, |drawn| drawn + OFTEN);
        if now < since {
            return;
        }
        let how_far = match self.done.get() {
            Some((done, total)) => format!(", {} of {} MiB", done >> 20, total >> 20),
            None => String::new(),
        };
        let mut text = format!("qemu-logbuf: looking for the log{how_far}; the key cancels");
        text.truncate(to.columns().map_or(79, |columns| usize::from(columns).saturating_sub(1)));
        let mut line = self.line.borrow_mut();
        // Whatever stands unfinished on the guest's line keeps its line.
        let begin = if self.drawn.get().is_none() { "\r\n" } else { "\r" };
        let rest = " ".repeat(line.len().saturating_sub(text.len()));
        self.write(&format!("{begin}{text}{rest}"));
        *line = text;
        self.drawn.set(Some(now));
        self.handle.0.shown.store(true, Ordering::Release);
    }

    /// Say once, where nothing can be shown, that it takes long.
    fn tell(&self, now: Instant) {
        if self.drawn.get().is_none() && now >= self.start + PATIENT {
            self.write(
                "qemu-logbuf: looking for the log in guest memory takes long; the report follows\n",
            );
            self.drawn.set(Some(now));
        }
    }

    fn write(&self, text: &str) {
        if let Some((to, _)) = &self.to {
            let _ = to.write(text.as_bytes());
        }
    }
}

impl Memory for Effort<'_> {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.show();
        if self.handle.0.cancelled.load(Ordering::Acquire) {
            return Err(ReadError::Cancelled);
        }
        self.memory.read(real, buf)
    }

    fn ram(&self) -> &[Range<u64>] {
        self.memory.ram()
    }
}

impl Drop for Effort<'_> {
    fn drop(&mut self) {
        self.handle.0.shown.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Image;

    #[test]
    fn the_key_cancels_only_what_is_seen() {
        let memory = Image::new(0, vec![7; 64]);
        let handle = Handle::default();
        let effort = Effort::new(&memory, handle.clone(), &Destination::File("x".into()));
        assert!(!handle.cancel(), "nothing is seen: one more question");
        assert!(effort.read(0, &mut [0; 8]).is_ok());
        handle.0.shown.store(true, Ordering::Release);
        assert!(handle.cancel());
        assert!(matches!(effort.read(0, &mut [0; 8]), Err(ReadError::Cancelled)));
        drop(effort);
        assert!(!handle.cancel(), "it is over");
        let again = Effort::new(&memory, handle, &Destination::File("x".into()));
        assert!(again.read(0, &mut [0; 8]).is_ok(), "another try is another one");
    }
}
