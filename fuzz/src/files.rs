//! Readers of files: kernels in every wrapping, maps, dumps.

use std::path::PathBuf;
use std::sync::Arc;

use qemu_logbuf::guest::{Memory, dump as dumps};
use qemu_logbuf::kernel::elf::Elf;
use qemu_logbuf::kernel::image::Kernel;
use qemu_logbuf::kernel::system_map::SystemMap;
use qemu_logbuf::kernel::unpack::{LARGEST, Packing};
use qemu_logbuf::kernel::{Input, Names, Resolve};

const ADDRESSES: [u64; 4] =
    [0xc000_0000, 0xc000_0010, 0xc000_0000_0000_0010, 0xc000_0000_0000_f000];

fn input(data: &[u8]) -> Input {
    Input::Bytes(Arc::new(data.to_vec()))
}

fn few(names: &Names) {
    assert!(names.symbols.len() <= qemu_logbuf::kernel::names::WANTED.len());
}

/// A vmlinux.
pub fn elf(data: &[u8]) {
    let Ok(elf) = Elf::parse(input(data), PathBuf::from("vmlinux")) else { return };
    if let Ok(names) = elf.names() {
        few(&names);
    }
    let _ = elf.functions();
    let _ = elf.banner();
    let _ = elf.resolve(&ADDRESSES);
    let mut buf = [0; 100];
    for address in ADDRESSES {
        let _ = elf.read(address, &mut buf);
    }
}

/// A zImage, uImage and the like.
pub fn kernel(data: &[u8]) {
    let Ok(kernel) = Kernel::open(input(data), PathBuf::from("zImage")) else { return };
    let _ = kernel.banner();
    if let Ok(names) = kernel.names() {
        few(&names);
    }
    let _ = kernel.functions();
}

/// A `System.map`.
pub fn system_map(data: &[u8]) {
    let Ok(map) = SystemMap::parse(input(data), PathBuf::from("System.map")) else { return };
    if let Ok(names) = map.names() {
        few(&names);
    }
    let _ = map.functions();
    let _ = map.resolve(&ADDRESSES);
}

/// Dumps: ELF cores, kdump-compressed, flattened.
pub fn dump(data: &[u8]) {
    let Ok(dump) = dumps::of_bytes(data.to_vec(), None) else { return };
    let mut buf = [0; 777];
    for range in dump.ram().iter().take(20) {
        let mut at = range.start;
        while at < range.end && at - range.start < 1 << 16 {
            let len = (range.end - at).min(777);
            let _ = dump.read(at, &mut buf[..len as usize]);
            at += len;
        }
    }
    let _ = dump.read(u64::MAX, &mut buf);
}

/// What kernels are packed with.
pub fn unpack(data: &[u8]) {
    let Some(packing) = Packing::of(data) else { return };
    if let Ok(bytes) = packing.unpack(data) {
        assert!(bytes.len() <= LARGEST);
    }
}
