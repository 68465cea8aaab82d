//! # qemu-logbuf
//!
//! A drop-in `qemu-system-ppc64` that shows a hung kernel's log with one key.
//!
//! ## The house
//!
//! Data flows one way: a trigger, guest memory, symbols and layout, records,
//! text. Each folder is a noun of the domain:
//!
//! - [`cli`]: which words of the command line are ours, as typed options.
//! - [`launch`]: the real QEMU: find it, read its command line, start it,
//!   pass on its end.
//! - [`terminal`]: what the user types on its way to QEMU, the key among it,
//!   and the report written in one piece.
//! - [`watch`]: when to report, and the way from question to answer; what is
//!   looked out for without being asked about.
//! - [`monitor`]: the QMP connection.
//! - [`guest`]: guest memory, by real and by effective address.
//! - [`kernel`]: what is known of the kernel in the guest: names, identity,
//!   where its log is.
//! - [`printk`]: the log buffer, from bytes to records.
//! - [`report`]: from records to text.
//!
//! `printk` knows nothing of QEMU, `monitor` nothing of kernels, `report`
//! nothing of either. [`sys`] holds the only unsafe code.

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
