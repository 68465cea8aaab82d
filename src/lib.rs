//! # qemu-logbuf
//!
//! A drop-in `qemu-system-ppc64` that shows a hung kernel's log with one key.
//!
//! ## The house
//!
//! Data flows one way: a trigger, guest memory, symbols and layout, records,
//! text. Each folder is a noun of the domain:
//!
//! - [`cli`]: which words of the command line are ours, as typed options, and
//!   what QEMU's own words say.
//! - [`launch`]: the real QEMU: find it, start it, pass on its end.
//! - [`terminal`]: what the user types on its way to QEMU, the key among it,
//!   and the report written in one piece.
//! - [`watch`]: when to report, and the way from question to answer; what is
//!   looked out for without being asked about.
//! - [`monitor`]: the QMP connection, and the channel it comes by.
//! - [`guest`]: guest memory, by real and by effective address.
//! - [`kernel`]: what is known of the kernel in the guest: names, identity,
//!   where its log is.
//! - [`printk`]: the log buffer, from bytes to records.
//! - [`report`]: from records to text.
//!
//! `printk` knows nothing of QEMU, `monitor` nothing of kernels, `report`
//! nothing of either. [`sys`] holds the only unsafe code, and [`arch`] the
//! word size and byte order that a kernel was compiled for.
//!
//! ## As a library
//!
//! The decoder needs neither the launcher nor a QEMU: [`guest`] has the memory
//! (of a dump, by [`guest::dump::open`], or of whatever implements
//! [`guest::Memory`]), [`kernel`] finds the log in it (by a `vmlinux`'s names,
//! by the names in the memory itself, or without any), [`printk`] decodes it.
//! `tests/library/decode-dump.rs` is a whole program on a dump:
//!
//! ```sh
//! cargo run --release --example decode-dump -- DUMP [VMLINUX]
//! ```
//!
//! Addresses are bytes; real ones are QEMU's physical addresses, effective ones
//! the kernel's. Sizes are in bytes, times in nanoseconds since the guest
//! booted, sequence numbers count records from 0. Errors tell a read that
//! failed ([`guest::ReadError`]) from memory that is no log
//! ([`printk::Error::Malformed`]); nothing panics on what a guest wrote.
//! Layouts are those of the kernel's own sources, whose commits are named
//! where they are decoded.
//!
//! Where the address of a log is known, its decoder can be told directly; here
//! of the oldest format, which is little more than text:
//!
//! ```
//! use qemu_logbuf::arch::Arch;
//! use qemu_logbuf::guest::{AddressRule, Image, View};
//! use qemu_logbuf::printk::bytes::ByteLog;
//!
//! let text = b"<6>[    0.000000] Using pSeries machine description\n".to_vec();
//! let (real, len) = (0x1000, text.len());
//! let memory = Image::new(real, text);
//! let rule = AddressRule::Linear64;
//! let view = View::new(&memory, Arch::PPC64, rule);
//! let log = ByteLog::text(&view, rule.effective(real), len)?.read(&view)?;
//! let record = log.records().next().expect("a record");
//! assert_eq!(record.text, b"Using pSeries machine description");
//! assert_eq!((record.level, record.ts_nsec), (6, Some(0)));
//! # Ok::<(), qemu_logbuf::printk::Error>(())
//! ```

pub mod arch;
pub mod cli;
pub mod fault;
pub mod guest;
pub mod kernel;
pub mod launch;
pub mod monitor;
pub mod printk;
pub mod report;
pub mod sys;
pub mod terminal;
pub mod trace;
pub mod watch;
