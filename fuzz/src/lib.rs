//! What is fuzzed: one function for each decoder, from any bytes to whatever
//! a user would get to see of them.
//!
//! The fuzzers of `fuzz_targets/` call these, and so does `tests/hostile`,
//! which runs seeds and regressions on any toolchain. Besides not panicking,
//! each function asserts what must hold for any bytes at all: what is shown
//! holds no control character, and is no longer than the memory it came from
//! allows.

mod files;
mod memory;
mod monitor;
pub mod seeds;

/// A decoder's entry.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("ringbuffer", memory::ringbuffer),
    ("variable", memory::variable),
    ("bytes", memory::bytes),
    ("salvage", memory::salvage),
    ("scan", memory::scan),
    ("kallsyms", memory::kallsyms),
    ("btf", memory::btf),
    ("stack", memory::stack),
    ("elf", files::elf),
    ("kernel", files::kernel),
    ("system_map", files::system_map),
    ("dump", files::dump),
    ("unpack", files::unpack),
    ("monitor", monitor::monitor),
];

/// Give `data` to the target of that name.
///
/// # Panics
/// Where the decoder does, where what must hold does not, or where there is
/// no such target.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(other, _)| *other == name).expect("a target");
    target(data);
}
