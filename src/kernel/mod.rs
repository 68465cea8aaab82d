//! What is known of the kernel in the guest: its names, its identity, and
//! where its log is.

#![forbid(unsafe_code)]

pub mod activity;
pub mod banner;
pub mod btf;
pub mod console;
pub mod elf;
pub mod error;
pub mod functions;
pub mod identity;
pub mod image;
pub mod input;
pub mod kallsyms;
pub mod locate;
pub mod names;
pub mod resolve;
pub mod scan;
pub mod search;
pub mod stack;
pub mod system_map;
#[doc(hidden)]
pub mod testing;
pub mod types;
pub mod unpack;
mod wanted;

pub use error::SourceError;
pub use functions::Functions;
pub use identity::{Identity, identify};
pub use input::Input;
pub use kallsyms::Kallsyms;
pub use locate::{LocateError, locate, open_found, salvage_named};
pub use names::{Names, Source, Symbol};
pub use resolve::Resolve;
pub use search::{Candidate, Search};
pub use types::KernelTypes;
