//! Faults of our own, made to order: that the terminal and QEMU are unharmed
//! by one can be seen by a test in no other way.
//!
//! Only in builds with debug assertions; a release holds none of it.

/// Panic, if `QEMU_LOGBUF_FAULT` names this place.
///
/// # Panics
/// That is what it is for.
#[cfg(debug_assertions)]
pub fn inject(place: &str) {
    if std::env::var_os("QEMU_LOGBUF_FAULT").is_some_and(|wanted| wanted == place) {
        panic!("wanted in {place}");
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub const fn inject(_: &str) {}
