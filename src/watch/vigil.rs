//! The watch over a guest that nobody asks about: it looks at the log again
//! and again, listens to QEMU's events, and reports, shows or ends what it
//! was told to.
//!
//! It works on a thread of its own, which is there only where it has
//! something to do. What is printed shortly before the guest's end counts
//! most, so it is read at that moment: when QEMU says that it ends, its
//! process is stopped for the time of the read, which no other client of
//! QEMU's can notice. (Its parent can: where that is not us, it is read as it
//! runs.) A reset says so only after the image was loaded over
//! the log; for that case the log is copied as it is printed, every 10 ms,
//! and every millisecond while more is coming. (`set-action` could hold the
//! guest before the reset, but adds STOP and SHUTDOWN events for every other
//! client, and cannot be put back to what the user had chosen.)

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::boot::{Boot, begins_panic};
use super::closing::Closing;
use super::follow::Follower;
use super::observer::Access;
use super::orders::{Finding, Order, Ringer};
use super::plan::{Plan, status};
use super::sight::{Console, Look, Sight};
use crate::cli::Follow;
use crate::guest::live::LiveMemory;
use crate::guest::{Cpu, ReadError, cpu};
use crate::monitor::{self, Event, Shared};
use crate::printk::{Log, Progress};
use crate::report::{self, Verdict};
use crate::sys;
use crate::terminal::{Destination, is_terminal};
use crate::trace;

/// How often to look.
const LOOK: Duration = Duration::from_millis(100);

/// How often to look where a reset may put an end to the log.
const CLOSE_LOOK: Duration = Duration::from_millis(10);

/// And while records are coming.
const CLOSEST_LOOK: Duration = Duration::from_millis(1);

/// How long after the last record they are still said to be coming.
const COMING: Duration = Duration::from_millis(50);

/// How long to wait for a QEMU that does not answer.
const PATIENCE: Duration = Duration::from_millis(1000);

/// How often to ask a QEMU whose machine is not there yet.
const RETRY: Duration = Duration::from_millis(500);

/// How long a panic may go on printing before it is reported.
const PANIC_PRINTS: Duration = Duration::from_millis(500);

/// How often to look whether a kernel is in its first stage.
const FIRST_STAGE: Duration = Duration::from_millis(250);

/// How long the report on a guest that is to be ended may take: where it goes
/// may not be read, or not ever.
const REPORTED: Duration = Duration::from_secs(5);

/// A limit to a kernel's silence.
struct Limit {
    time: Duration,
    ends: bool,
    passed: bool,
}

/// The watch.
pub(super) struct Vigil {
    plan: Plan,
    monitor: Shared,
    socket: UnixStream,
    memory: LiveMemory,
    /// QEMU's process, where it is ours to end.
    qemu: Option<Pid>,
    orders: Receiver<Order>,
    /// A byte comes in with every order.
    bell: UnixStream,
    findings: Sender<Finding>,
    /// A byte goes out with every finding.
    desk: UnixStream,

    sight: Sight,
    boot: Boot,
    /// The log of the boot before, until its reset is reported.
    before: Option<Boot>,
    /// A log that a reset left in memory: not the next boot's.
    stale: Option<Progress>,
    limits: Vec<Limit>,
    /// The kernel was in its first stage when it was last looked where it is,
    /// and when that is to be done again.
    first_stage: bool,
    stage_at: Option<Instant>,
    follower: Option<(Follower, Destination)>,
    closing: Option<Closing>,
    /// When to end QEMU though the report before that is not out.
    end_at: Option<Instant>,
    has_verdict: bool,
    /// As of the last look.
    console: Console,
    /// There was a kernel, in this boot or another.
    saw_kernel: bool,
    paused: bool,
    listening: bool,
    ended: bool,
    last_look: Option<Instant>,
    retry_at: Option<Instant>,
}

/// A process that is stopped as long as this lives.
struct Stopped(Pid);

impl Stopped {
    fn stop(pid: Pid) -> Self {
        let _ = kill(pid, Signal::SIGSTOP);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

impl Vigil {
    /// Watch over the guest behind `access`, as `plan` says.
    pub(super) fn new(
        plan: Plan,
        access: Access,
        orders: (Receiver<Order>, UnixStream),
        findings: (Sender<Finding>, UnixStream),
    ) -> Self {
        let limit = |time: Option<Duration>, ends| Some(Limit { time: time?, ends, passed: false });
        let limits = [limit(plan.on.stall, false), limit(plan.stop_on.stall, true)];
        let place = match plan.destination() {
            Destination::Stderr if [0, 2].into_iter().all(is_terminal) => Destination::Terminal,
            place => place,
        };
        let follower = plan.follow.map(|what| (Follower::new(what, 0), place));
        Self {
            sight: Sight::new(access.sources),
            monitor: access.monitor,
            socket: access.socket,
            memory: access.memory,
            qemu: access.qemu,
            orders: orders.0,
            bell: orders.1,
            findings: findings.0,
            desk: findings.1,
            boot: Boot::default(),
            before: None,
            stale: None,
            limits: limits.into_iter().flatten().collect(),
            first_stage: false,
            stage_at: None,
            follower,
            closing: None,
            end_at: None,
            has_verdict: false,
            console: Console::Unknown,
            saw_kernel: false,
            paused: false,
            listening: true,
            ended: false,
            last_look: None,
            retry_at: None,
            plan,
        }
    }

    /// Watch until QEMU has ended, or nobody listens any more. Whether there
    /// was a kernel.
    pub(super) fn run(mut self) -> bool {
        loop {
            self.wait();
            if !self.take_orders() {
                return self.saw_kernel;
            }
            self.take_events();
            if self.wait_for_look().is_some_and(|wait| wait.is_zero()) {
                self.look(PATIENCE);
                self.judge();
            }
            if self.ended {
                self.finish();
                return self.saw_kernel;
            }
            if self.end_at.is_some_and(|at| at <= Instant::now()) {
                self.end_qemu();
            }
            self.close();
        }
    }

    /// Sleep until something comes, or it is time to look.
    fn wait(&mut self) {
        let closing = self.closing.as_ref().map_or(self.end_at, Closing::due);
        let closing = closing.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = [self.wait_for_look(), closing].into_iter().flatten().min();
        let timeout = wait.map_or(PollTimeout::NONE, |wait| {
            // Rounded up, or it would spin through the last millisecond.
            let millis = wait.as_nanos().div_ceil(1_000_000);
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        if self.plan.attached {
            fds.push(PollFd::new(sys::standard(1), PollFlags::empty()));
        }
        if self.listening {
            fds.push(PollFd::new(self.socket.as_fd(), PollFlags::POLLIN));
        }
        // A signal's interruption is one more look, no more.
        let _ = poll(&mut fds, timeout);
        // Nobody reads any more what is shown of somebody else's QEMU.
        self.ended |= self.plan.attached && fds.get(1).and_then(PollFd::any).unwrap_or(false);
    }

    /// How long until the next look; `None` for one that nobody needs.
    fn wait_for_look(&self) -> Option<Duration> {
        let now = Instant::now();
        if let Some(at) = self.retry_at {
            return Some(at.saturating_duration_since(now));
        }
        let wanted = self.plan.keeps_log() || self.follower.is_some();
        if !wanted || self.paused || self.ended {
            return None;
        }
        // QEMU may be gone, or the log overwritten, before it is our turn.
        let closely = self.plan.needs_the_last_words()
            && self.sight.is_found()
            && self.memory.process().is_some();
        let interval = match closely {
            true if self.boot.quiet < COMING => CLOSEST_LOOK,
            true => CLOSE_LOOK,
            false => LOOK,
        };
        let due = self.last_look.map(|last| last + interval);
        Some(due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now)))
    }

    /// Do as told; whether to go on.
    fn take_orders(&mut self) -> bool {
        let mut rung = [0; 16];
        while matches!(self.bell.read(&mut rung), Ok(1..)) {}
        loop {
            match self.orders.try_recv() {
                Ok(Order::ToggleFollow(place)) => self.toggle_follow(place),
                Ok(Order::EndQemu) => self.end_qemu(),
                Ok(Order::Ended) => self.ended = true,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn tell(&mut self, finding: Finding) {
        let _ = self.findings.send(finding);
        let _ = self.desk.write(&[Ringer::Vigil.byte()]);
    }
}

/// Looking at the log.
impl Vigil {
    /// See that QEMU said where its memory is.
    fn prepare(&mut self) -> bool {
        if self.memory.is_prepared() {
            self.retry_at = None;
            return true;
        }
        self.memory.begin(PATIENCE);
        let ready = self.monitor.lock().ready(Instant::now() + PATIENCE).is_ok();
        if ready && self.memory.refresh().is_ok() && self.memory.is_prepared() {
            self.retry_at = None;
            return true;
        }
        self.retry_at = Some(Instant::now() + RETRY);
        false
    }

    /// Look at the log, and do what its new records call for. A QEMU that
    /// does not answer is waited for as long as `patience`; with none, its
    /// memory is read without asking it anything.
    fn look(&mut self, patience: Duration) {
        if let Some((seen, gap)) = self.see(patience) {
            self.act(seen, gap);
        }
    }

    /// Look once more, while QEMU stands still on its way out. It goes on
    /// before anything is done about what was seen: that may take its time.
    fn final_look(&mut self) {
        let may_stop = self.plan.is_parent && !self.ended;
        let stopped = self.memory.process().filter(|_| may_stop).map(Stopped::stop);
        let seen = self.see(Duration::ZERO);
        drop(stopped);
        if let Some((seen, gap)) = seen {
            self.act(seen, gap);
        }
    }

    /// What there is to see, and how long it is since the last look.
    fn see(&mut self, patience: Duration) -> Option<(Result<Look, ReadError>, Duration)> {
        let now = Instant::now();
        // A stop of the whole job is no silence of the guest's.
        let gap = self.last_look.map_or(Duration::ZERO, |last| now - last).min(3 * LOOK);
        self.last_look = Some(now);
        if patience > Duration::ZERO && !self.prepare() {
            return None;
        }
        self.memory.begin(patience);
        let before = self.boot.progress.or(self.stale);
        let leisure = patience > Duration::ZERO;
        let seen = self.sight.look(&self.memory, self.boot.resume(), before.as_ref(), leisure);
        Some((seen, gap))
    }

    /// Do what a look calls for.
    fn act(&mut self, seen: Result<Look, ReadError>, gap: Duration) {
        match seen {
            Ok(Look::Nothing) => self.check_first_stage(gap),
            Ok(Look::Gone) => self.begin_boot(),
            // What the boot before the reset left.
            Ok(Look::Same(_)) if self.stale.is_some() && self.boot.progress.is_none() => {}
            Ok(Look::Same(console)) => {
                self.boot.quiet += gap;
                self.console = self.boot.console(console);
                self.follow(None, self.console);
                self.check_silence(self.console);
            }
            Ok(Look::More { log, progress, again, console }) => {
                if again {
                    self.begin_boot();
                }
                self.stale = None;
                let over = self.boot.panic_begun && self.plan.stop_on.panic;
                self.boot.take(&log, progress);
                self.saw_kernel = true;
                self.console = self.boot.console(console);
                self.follow(Some(&log), self.console);
                // What is said after a panic does not save the boot.
                if !over {
                    self.check_words(&log);
                }
            }
            Err(error) => trace!("the vigil cannot read: {error}"),
        }
    }

    /// Another kernel, or the same again, is to come.
    fn begin_boot(&mut self) {
        if self.boot.entered {
            self.before = Some(std::mem::take(&mut self.boot));
        }
        for limit in &mut self.limits {
            limit.passed = false;
        }
        if let Some((follower, _)) = &mut self.follower {
            follower.begin_again();
        }
    }

    /// Whether the log says what is expected.
    fn check_words(&mut self, log: &Log) {
        let Some(expect) = self.plan.expect.clone().filter(|_| !self.has_verdict) else { return };
        for record in log.records() {
            let text = String::from_utf8_lossy(&record.text);
            if expect.is_match(&text) {
                let shown = report::text::clean(&record.text, true);
                let shown = String::from_utf8_lossy(&shown).into_owned();
                // First, as nobody may read what is said.
                self.give_verdict(status::EXPECTED);
                self.end_qemu();
                self.plan.say(&format!("seen in the log: {shown}"));
                return;
            }
            // What is said after a panic does not save the boot.
            if begins_panic(record) && self.plan.stop_on.panic {
                return;
            }
        }
    }

    /// A kernel that hangs in its first stage has no log that could be looked
    /// at; where its processor is tells now and then that it was entered.
    fn check_first_stage(&mut self, gap: Duration) {
        if self.limits.is_empty() {
            return;
        }
        let was_in = self.first_stage;
        if was_in {
            self.boot.quiet += gap;
        }
        let now = Instant::now();
        if self.stage_at.is_none_or(|at| at <= now) {
            self.stage_at = Some(now + FIRST_STAGE);
            let cpu = self.first_cpu().ok().flatten();
            self.first_stage = cpu.is_some_and(|cpu| self.is_in_first_stage(&cpu));
            if !was_in || !self.first_stage {
                self.boot.quiet = Duration::ZERO;
            }
        }
        if self.first_stage {
            self.check_silence(Console::None);
        }
    }

    fn first_cpu(&self) -> Result<Option<Cpu>, monitor::Error> {
        let text = self.monitor.lock().registers(Instant::now() + PATIENCE)?;
        Ok(cpu::parse(&text).into_iter().next())
    }

    fn is_in_first_stage(&self, cpu: &Cpu) -> bool {
        self.sight.is_in_first_stage(&self.memory, cpu)
    }

    fn check_silence(&mut self, console: Console) {
        if console == Console::Registered {
            return;
        }
        let quiet = self.boot.quiet;
        let passed = |limit: &Limit| !limit.passed && quiet >= limit.time;
        if !self.limits.iter().any(passed) {
            return;
        }
        if !self.is_stalled() {
            self.boot.quiet = Duration::ZERO;
            return;
        }
        let mut ends = false;
        let mut time = Duration::ZERO;
        for limit in self.limits.iter_mut().filter(|limit| passed(limit)) {
            limit.passed = true;
            ends |= limit.ends;
            time = time.max(limit.time);
        }
        let consoles = match console {
            Console::Unknown => "whether it has a console its names do not tell",
            _ => "it has no console",
        };
        let time = time.as_secs_f64();
        let note = format!("stall: the kernel has printed nothing for {time} s, and {consoles}");
        self.boot.note_report();
        if ends {
            self.give_verdict(status::STALL);
            self.end_at = Some(Instant::now() + REPORTED);
        }
        self.tell(Finding::Ask { trigger: "stall", note, ends });
    }

    /// Whether a kernel runs at all, and QEMU answers.
    fn is_stalled(&mut self) -> bool {
        let status = self.monitor.lock().query_status(Instant::now() + PATIENCE);
        match status {
            Ok(status) if status.running => {}
            Ok(_) => return false,
            Err(error) => {
                trace!("no stall can be told: {error}");
                return false;
            }
        }
        let Ok(cpu) = self.first_cpu() else { return false };
        if !self.sight.is_found() {
            return cpu.is_some_and(|cpu| self.is_in_first_stage(&cpu));
        }
        // An empty log may be one that was only loaded.
        !(self.boot.is_empty() && cpu.is_some_and(|cpu| self.sight.is_outside(&cpu)))
    }
}

/// Events.
impl Vigil {
    fn take_events(&mut self) {
        if !self.listening {
            return;
        }
        let drained = self.monitor.lock().drain();
        match drained {
            Ok(events) => {
                for event in events {
                    self.take_event(&event);
                }
            }
            Err(_) => {
                self.listening = false;
                self.ended |= self.plan.attached;
            }
        }
    }

    fn take_event(&mut self, event: &Event) {
        let reason = event.text("reason").unwrap_or_default();
        trace!("event {} {reason}", event.name);
        if !self.plan.keeps_log() {
            match event.name.as_str() {
                "STOP" => self.paused = true,
                "RESUME" => self.paused = false,
                "GUEST_PANICKED" | "SHUTDOWN" if self.follower.is_some() => self.final_look(),
                "RESET" if self.follower.is_some() => self.look(Duration::ZERO),
                _ => {}
            }
            return;
        }
        match (event.name.as_str(), reason) {
            ("STOP", _) => self.paused = true,
            ("RESUME", _) => {
                self.paused = false;
                self.boot.quiet = Duration::ZERO;
            }
            ("GUEST_PANICKED", _) => {
                self.final_look();
                self.panicked();
            }
            ("SHUTDOWN", reason) => {
                self.final_look();
                self.of_ended_boot(|vigil| {
                    vigil.judge_now();
                    match reason {
                        "guest-panic" => vigil.panicked(),
                        "guest-reset" => vigil.was_reset(),
                        "guest-shutdown" => vigil.was_shut_down(),
                        _ => {}
                    }
                });
            }
            ("RESET", "snapshot-load" | "subsystem-reset") => self.forget(),
            ("RESET", _) => {
                self.look(Duration::ZERO);
                self.of_ended_boot(|vigil| {
                    vigil.judge_now();
                    vigil.was_reset();
                });
                self.forget();
            }
            _ => {}
        }
    }

    /// What is in memory is not the next boot's log.
    fn forget(&mut self) {
        // A second reset may come before the next kernel has printed.
        self.stale = self.boot.progress.or(self.stale.take());
        self.begin_boot();
        self.before = None;
        self.sight.forget();
    }

    /// After a look: whether the log itself tells of a panic.
    fn judge(&mut self) {
        let boot = &self.boot;
        if boot.panic_done || (boot.panic_begun && boot.quiet >= PANIC_PRINTS) {
            self.panicked();
        }
    }

    /// The boot is over: a panic that has begun to print will not go on.
    fn judge_now(&mut self) {
        if self.boot.panic_begun {
            self.panicked();
        }
    }

    fn panicked(&mut self) {
        if std::mem::replace(&mut self.boot.panicked, true) {
            return;
        }
        self.event("panic", self.plan.on.panic, self.plan.stop_on.panic, status::PANIC);
    }

    /// Do what is to be done about the boot that has ended: where the last look
    /// has found the image over its log already, that is the one before. Where
    /// a kernel is loaded to where it runs (Book E, 32-bit boards) its empty
    /// log looks like that of one that was entered.
    fn of_ended_boot(&mut self, work: impl FnOnce(&mut Self)) {
        match self.before.take_if(|_| self.boot.is_empty()) {
            Some(before) => {
                let next = std::mem::replace(&mut self.boot, before);
                work(self);
                self.boot = next;
            }
            None => work(self),
        }
    }

    fn was_reset(&mut self) {
        self.event("reset", self.plan.on.reset, self.plan.stop_on.reset, status::RESET);
    }

    fn was_shut_down(&mut self) {
        if self.plan.on.shutdown {
            self.report("shutdown");
        }
    }

    /// QEMU has ended.
    fn finish(&mut self) {
        self.of_ended_boot(|vigil| {
            vigil.judge_now();
            // Nothing to add to what was reported of the same end; and a
            // machine that never was has no log.
            if vigil.plan.on.exit && !vigil.boot.is_reported() && vigil.memory.is_prepared() {
                vigil.report("exit");
            }
        });
    }

    fn event(&mut self, trigger: &'static str, report: bool, ends: bool, status: u8) {
        if report || ends {
            self.report(trigger);
        }
        if ends {
            self.give_verdict(status);
            self.end_qemu();
        }
    }

    /// Report the log as it was copied.
    fn report(&mut self, trigger: &'static str) {
        self.boot.note_report();
        let verdict = match self.boot.log() {
            Some(log) => Verdict::Log(log),
            None if self.boot.entered => Verdict::EnteredSilent { format: self.boot.format() },
            None => Verdict::NotEntered { detail: String::new() },
        };
        let mut report = self.sight.report(verdict);
        report.trigger = Some(trigger);
        self.tell(Finding::Report(Box::new(report)));
    }
}

/// Ending QEMU.
impl Vigil {
    fn give_verdict(&mut self, status: u8) {
        if !std::mem::replace(&mut self.has_verdict, true) {
            self.tell(Finding::Status(status));
        }
    }

    /// Begin to end QEMU.
    fn end_qemu(&mut self) {
        if self.closing.is_none() {
            self.closing = Some(Closing::begin(self.qemu));
            self.close();
        }
    }

    /// Go on with it.
    fn close(&mut self) {
        if let Some(closing) = &mut self.closing {
            closing.go_on(&self.monitor);
        }
    }
}

/// Showing records as they are printed.
impl Vigil {
    fn toggle_follow(&mut self, place: Destination) {
        if self.follower.take().is_some() {
            self.plan.press.say("following ended", &place);
            return;
        }
        self.look(PATIENCE);
        let begins = match self.boot.resume() {
            0 => "following the kernel's log".to_owned(),
            next => format!("following the kernel's log from record {next} on"),
        };
        self.plan.press.say(&begins, &place);
        // Asked for by hand, it goes on beside a console that is there.
        let what = match (self.plan.follow, self.console) {
            (Some(Follow::All), _) | (_, Console::Registered) => Follow::All,
            _ => Follow::Console,
        };
        self.follower = Some((Follower::new(what, self.boot.resume()), place));
    }

    fn follow(&mut self, new: Option<&Log>, console: Console) {
        let Some((follower, place)) = &mut self.follower else { return };
        let new = new.map(|log| log.entries.as_slice());
        let shown = follower.take(new, console, Instant::now());
        if !shown.entries.is_empty() {
            self.plan.press.put_entries(&shown.entries, place);
        }
        if shown.hands_over {
            self.plan.press.say("the kernel has a console now, which goes on from here; --logbuf-follow=all shows all", place);
        }
    }
}
