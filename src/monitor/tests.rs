//! The session against a peer that is scripted, well-behaved or not.

use std::io::{BufRead, BufReader, Write};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::*;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}"#;

/// The other end of the socket, for a script that runs in a thread.
struct Peer {
    lines: BufReader<UnixStream>,
}

impl Peer {
    fn say(&mut self, text: &str) {
        // Whoever hung up meanwhile has had enough.
        let _ = self.lines.get_mut().write_all(format!("{text}\r\n").as_bytes());
    }

    /// The next command's line, as JSON; `Null` at the end.
    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    /// Hear a command and answer it; the command.
    fn answer(&mut self, value: &str) -> Value {
        let command = self.hear();
        self.say(&format!(r#"{{"return": {value}, "id": {}}}"#, command["id"]));
        command
    }

    fn greet(&mut self) {
        self.say(GREETING);
        assert_eq!(self.answer("{}")["execute"], "qmp_capabilities");
    }
}

fn script(act: impl FnOnce(&mut Peer) + Send + 'static) -> (UnixStream, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let peer = thread::spawn(move || act(&mut Peer { lines: BufReader::new(theirs) }));
    (ours, peer)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn shortly() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

fn connected(act: impl FnOnce(&mut Peer) + Send + 'static) -> (Monitor, JoinHandle<()>) {
    let (ours, peer) = script(move |peer| {
        peer.greet();
        act(peer);
    });
    (Monitor::connect(ours, soon()).expect("a session"), peer)
}

#[test]
fn a_session_opens_answers_refuses_and_ends() {
    let (mut monitor, peer) = connected(|peer| {
        let command = peer.answer(r#""VM status: paused\r\n""#);
        assert_eq!(command["arguments"]["command-line"], "info status");
        let command = peer.hear();
        peer.say(&format!(
            r#"{{"id": {}, "error": {{"class": "GenericError", "desc": "no \"x\""}}}}"#,
            command["id"]
        ));
        peer.answer(r#"{"running": true, "status": "running", "singlestep": false}"#);
    });
    assert_eq!(monitor.version().map(|v| v.to_string()).as_deref(), Some("7.2.22"));
    assert!(monitor.is_ready());
    assert_eq!(monitor.hmp("info status", soon()).as_deref(), Ok("VM status: paused\r\n"));
    assert_eq!(monitor.execute("x", None, soon()), Err(Error::Refused("no \"x\"".into())));
    let running = Status { running: true, name: "running".into() };
    assert_eq!(monitor.query_status(soon()), Ok(running));
    peer.join().expect("the script");
    assert_eq!(monitor.execute("y", None, soon()), Err(Error::Gone));
    assert_eq!(monitor.quit(soon()), Ok(()), "who is gone has quit");
    assert!(!monitor.is_ready());
}

#[test]
fn the_opening_exchange_needs_nobody_to_wait_for_it() {
    let (ours, peer) = script(Peer::greet);
    let mut monitor = Monitor::new(ours).expect("a session");
    while !monitor.is_ready() {
        monitor.wire.wait(soon()).expect("bytes");
        match monitor.drain() {
            Ok(events) => assert_eq!(events, []),
            Err(error) => assert_eq!(error, Error::Gone),
        }
        if monitor.phase == Phase::Ready {
            break;
        }
    }
    peer.join().expect("the script");
}

#[test]
fn events_between_are_kept_in_order_and_bounded() {
    let (mut monitor, peer) = connected(|peer| {
        let command = peer.hear();
        for number in 0..EVENTS_KEPT + 2 {
            peer.say(&format!(
                r#"{{"event": "E{number}", "timestamp": {{"seconds": 2, "microseconds": 5}}, "data": {{"reason": "r"}}}}"#
            ));
        }
        peer.say(&format!(r#"{{"return": {{}}, "id": {}}}"#, command["id"]));
        peer.say(r#"{"event": "LAST"}"#);
    });
    monitor.execute("stop", None, soon()).expect("a reply");
    peer.join().expect("the script");
    let events = monitor.drain().expect("events");
    assert_eq!(events.len(), EVENTS_KEPT);
    assert_eq!(monitor.dropped(), 3);
    assert_eq!(events[0].name, "E3");
    assert_eq!(events[0].text("reason"), Some("r"));
    assert_eq!(events[0].micros, Some(2_000_005));
    assert_eq!(events[EVENTS_KEPT - 1].name, "LAST");
    assert_eq!(monitor.drain(), Err(Error::Gone));
}

#[test]
fn a_qemu_about_to_end_is_asked_nothing_unless_it_pauses_instead() {
    let (release, held) = std::sync::mpsc::channel();
    let (mut monitor, peer) = connected(move |peer| {
        let command = peer.hear();
        peer.say(r#"{"event": "GUEST_PANICKED", "data": {"action": "run"}}"#);
        peer.say(&format!(r#"{{"return": {{}}, "id": {}}}"#, command["id"]));
        peer.answer("{}");
        peer.say(r#"{"event": "SHUTDOWN", "data": {"guest": true}}"#);
        held.recv().expect("a turn");
        peer.say(r#"{"event": "STOP"}"#);
        // The one command that was held back is the next that is heard.
        assert_eq!(peer.answer("{}")["execute"], "held-back");
    });
    monitor.execute("a", None, soon()).expect("a reply");
    assert!(!monitor.is_ending(), "the guest runs on");
    monitor.execute("b", None, soon()).expect("a reply");
    while !monitor.is_ending() {
        monitor.drain().expect("events");
    }
    assert_eq!(monitor.execute("never-sent", None, shortly()), Err(Error::Silent));
    release.send(()).expect("a peer");
    monitor.execute("held-back", None, soon()).expect("a reply");
    peer.join().expect("the script");
}

#[test]
fn silence_ends_at_the_deadline_and_the_late_reply_is_not_mistaken() {
    let (release, held) = std::sync::mpsc::channel();
    let (mut monitor, peer) = connected(move |peer| {
        let first = peer.hear();
        held.recv().expect("a word");
        peer.say(&format!(r#"{{"return": "first", "id": {}}}"#, first["id"]));
        // Only now may the next command come.
        assert_eq!(peer.answer(r#""second""#)["execute"], "b");
    });
    let begun = Instant::now();
    assert_eq!(monitor.execute("a", None, shortly()), Err(Error::Silent));
    assert_eq!(monitor.execute("lost", None, shortly()), Err(Error::Silent));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    release.send(()).expect("a listener");
    assert_eq!(monitor.execute("b", None, soon()), Ok("second".into()));
    peer.join().expect("the script");
}

#[test]
fn a_peer_that_never_greets_is_silent_and_may_still_wake() {
    let (release, held) = std::sync::mpsc::channel();
    let (ours, peer) = script(move |peer| {
        held.recv().expect("a word");
        peer.greet();
        peer.answer("1");
    });
    let mut monitor = Monitor::new(ours).expect("a session");
    assert_eq!(monitor.execute("a", None, shortly()), Err(Error::Silent));
    release.send(()).expect("a listener");
    assert_eq!(monitor.execute("b", None, soon()), Ok(json!(1)));
    peer.join().expect("the script");
}

#[test]
fn events_without_end_are_no_reply() {
    let (mut monitor, peer) = connected(|peer| {
        peer.hear();
        let storm = "{\"event\": \"E\"}\n".repeat(1000);
        while peer.lines.get_mut().write_all(storm.as_bytes()).is_ok() {}
    });
    let begun = Instant::now();
    assert_eq!(monitor.execute("a", None, shortly()), Err(Error::Silent));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    monitor.drain().expect("a bounded number of events");
    drop(monitor);
    peer.join().expect("the script");
}

#[test]
fn a_line_without_end_is_given_up() {
    let (mut monitor, peer) = connected(|peer| {
        peer.hear();
        let junk = vec![b'['; 1 << 20];
        while peer.lines.get_mut().write_all(&junk).is_ok() {}
    });
    let error = monitor.execute("a", None, soon()).expect_err("no reply");
    assert_eq!(error, Error::Malformed("a line of more than 4194304 bytes".into()));
    assert_eq!(monitor.execute("a", None, soon()), Err(error.clone()), "it stays given up");
    assert_eq!(monitor.drain(), Err(error));
    drop(monitor);
    peer.join().expect("the script");
}

#[test]
fn an_end_within_a_reply_is_an_end() {
    let (mut monitor, peer) = connected(|peer| {
        peer.hear();
        peer.lines.get_mut().write_all(b"{\"return\": ").expect("a listener");
    });
    assert_eq!(monitor.execute("a", None, soon()), Err(Error::Gone));
    peer.join().expect("the script");
    let (ours, peer) = script(|_| ());
    peer.join().expect("the script");
    assert_eq!(Monitor::connect(ours, soon()).map(drop), Err(Error::Gone));
}

#[test]
fn what_came_before_the_end_still_counts() {
    let (mut monitor, peer) = connected(|peer| {
        peer.answer("7");
        peer.say(r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#);
    });
    let id = monitor.send("a", None).expect("sent");
    peer.join().expect("the script");
    monitor.until(soon(), |monitor| monitor.answered > id).expect("the reply");
    assert_eq!(monitor.reply.take(), Some(Ok(json!(7))));
    assert_eq!(monitor.drain().expect("the event")[0].name, "SHUTDOWN");
    assert_eq!(monitor.drain(), Err(Error::Gone));
}

#[test]
fn garbage_of_every_kind_is_named_and_ends_the_session() {
    for garbage in [
        "QEMU 7.2.22 monitor - type 'help' for more information",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"return": {}}"#,
        r#"{"return": {}, "id": 99}"#,
        r#"{"return": {}, "id": "ours"}"#,
        r#"{"return": {}, "id": -1}"#,
        r#"{"error": {}, "id": 2}"#,
        r#"{"event": 5}"#,
        r#"{"QMP": {}}"#,
        GREETING,
        &"[".repeat(100_000),
        "\u{1b}[31m\u{0}",
    ] {
        let said = garbage.to_owned();
        let (mut monitor, peer) = connected(move |peer| {
            peer.hear();
            peer.say(&said);
            peer.hear();
        });
        let error = monitor.execute("a", None, soon()).expect_err(garbage);
        assert!(matches!(&error, Error::Malformed(_)), "{garbage}: {error}");
        assert!(!error.to_string().contains(char::is_control), "{error}");
        assert!(error.to_string().len() < 300, "{error}");
        drop(monitor);
        peer.join().expect("the script");
    }
}

#[test]
fn an_old_qemu_is_told_nothing_before_something_is_asked() {
    let (ours, peer) = script(|peer| {
        peer.say(&GREETING.replace(r#""major": 7"#, r#""major": 5"#));
        let first = peer.answer("{}");
        assert_eq!(first["execute"], "qmp_capabilities");
        peer.answer(r#"{"running": true, "status": "running"}"#);
    });
    let mut monitor = Monitor::new(ours).expect("a socket");
    assert_eq!(monitor.greeted(soon()), Ok(false));
    assert_eq!(monitor.drain(), Ok(Vec::new()));
    assert!(monitor.query_status(soon()).is_ok_and(|status| status.running));
    peer.join().expect("all was as expected");
}

#[test]
fn a_peer_that_does_not_greet_first_is_no_qemu() {
    for line in ["SSH-2.0-OpenSSH", r#"{"return": {}, "id": 1}"#, r#"{"event": "STOP"}"#] {
        let (ours, peer) = script(move |peer| peer.say(line));
        let error = Monitor::connect(ours, soon()).expect_err(line);
        assert!(matches!(&error, Error::Malformed(_) | Error::Gone), "{line}: {error}");
        peer.join().expect("the script");
    }
}

#[test]
fn a_refusal_without_an_id_is_the_refusal_of_what_was_asked() {
    let (mut monitor, peer) = connected(|peer| {
        peer.hear();
        peer.say(r#"{"error": {"class": "GenericError", "desc": "Invalid JSON syntax"}}"#);
        peer.answer("2");
    });
    let refused = Error::Refused("Invalid JSON syntax".into());
    assert_eq!(monitor.execute("a", None, soon()), Err(refused));
    assert_eq!(monitor.execute("b", None, soon()), Ok(json!(2)));
    peer.join().expect("the script");
}

#[test]
fn a_peer_that_reads_nothing_holds_nobody_up() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (mut monitor, peer) = connected(move |_| {
        let _ = held.recv();
    });
    let huge = json!({ "text": "x".repeat(8 << 20) });
    let begun = Instant::now();
    assert_eq!(monitor.execute("a", Some(huge), shortly()), Err(Error::Silent));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(release);
    peer.join().expect("the script");
    assert_eq!(monitor.execute("b", None, soon()), Err(Error::Gone));
}

#[test]
fn random_bytes_never_panic() {
    use proptest::prelude::*;
    proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..200))| {
        let _ = parse(&bytes);
        let _ = tree::parse(&String::from_utf8_lossy(&bytes));
    });
}

#[test]
fn a_command_that_was_begun_keeps_its_reply_while_others_run() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (mut monitor, peer) = connected(move |peer| {
        peer.answer(r#""CPU#0""#);
        peer.answer(r#"{"arch": "ppc64"}"#);
        let id = peer.hear()["id"].clone();
        // While it has not answered, no other can be begun.
        let _ = held.recv();
        peer.say(&format!(r#"{{"return": "CPU#1", "id": {id}}}"#));
        peer.answer(r#""CPU#2""#);
    });
    let begun = monitor.begin("info registers -a").expect("it is at leisure");
    assert_eq!(monitor.query_target(soon()).as_deref(), Ok("ppc64"));
    assert_eq!(monitor.finish(begun, soon()).as_deref(), Ok("CPU#0"));
    let begun = monitor.begin("info registers -a").expect("it is at leisure");
    assert!(monitor.begin("info registers -a").is_none(), "one at a time");
    drop(release);
    assert_eq!(monitor.finish(begun, soon()).as_deref(), Ok("CPU#1"));
    assert_eq!(monitor.hmp("info registers -a", soon()).as_deref(), Ok("CPU#2"));
    peer.join().expect("the peer");
}

#[test]
fn a_command_that_was_begun_and_given_up_on_holds_up_nobody() {
    let (mut monitor, peer) = connected(|peer| {
        let late = peer.hear();
        assert_eq!(peer.hear(), Value::Null, "nothing more is sent to a silent QEMU");
        assert_eq!(late["execute"], "human-monitor-command");
    });
    let begun = monitor.begin("info registers -a").expect("it is at leisure");
    assert_eq!(monitor.finish(begun, shortly()), Err(Error::Silent));
    assert!(monitor.begin("info registers -a").is_none());
    assert_eq!(monitor.hmp("info registers -a", shortly()), Err(Error::Silent));
    drop(monitor);
    peer.join().expect("the peer");
}

#[test]
fn a_command_that_was_typed_ahead_is_sent_once_and_holds_up_no_other() {
    let (mut monitor, peer) = connected(|peer| {
        assert_eq!(peer.answer(r#""CPU#0""#)["arguments"]["command-line"], "info registers -a");
        assert_eq!(peer.answer(r#""CPU#1""#)["arguments"]["command-line"], "info registers -a");
        assert_eq!(peer.answer(r#"{"arch": "ppc64"}"#)["execute"], "query-target");
        assert_eq!(peer.hear(), Value::Null);
    });
    monitor.prepare_registers();
    monitor.prepare_registers();
    let begun = monitor.begin_registers().expect("it is at leisure");
    assert_eq!(monitor.finish(begun, soon()).as_deref(), Ok("CPU#0"));
    monitor.prepare_registers();
    assert_eq!(monitor.query_target(soon()).as_deref(), Ok("ppc64"), "and not the registers");
    assert_eq!(monitor.drain(), Ok(Vec::new()));
    drop(monitor);
    peer.join().expect("the peer");
}

#[test]
fn a_reply_to_what_is_only_typed_ahead_is_no_reply() {
    let (mut monitor, peer) = connected(|peer| peer.say(r#"{"return": "CPU#0", "id": 2}"#));
    monitor.prepare_registers();
    peer.join().expect("the peer");
    assert!(matches!(monitor.query_target(soon()), Err(Error::Malformed(_) | Error::Gone)));
}
