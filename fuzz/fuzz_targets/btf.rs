#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qemu_logbuf_fuzz::run("btf", data));
