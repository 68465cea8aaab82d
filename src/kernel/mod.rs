//! What is known of the kernel in the guest: its names, its identity, and
//! where its log is.

#![forbid(unsafe_code)]

pub mod banner;
pub mod elf;
pub mod error;
pub mod functions;
pub mod identity;
pub mod image;
pub mod input;
pub mod kallsyms;
pub mod names;
pub mod search;
pub mod system_map;
#[cfg(test)]
mod testing;
pub mod unpack;
mod wanted;

pub use error::SourceError;
pub use functions::Functions;
pub use identity::Identity;
pub use input::Input;
pub use kallsyms::Kallsyms;
pub use names::{Names, Source, Symbol};
pub use search::{Candidate, Search};
