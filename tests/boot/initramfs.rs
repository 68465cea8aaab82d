//! A guest's user space of one program, made without any tool.

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// One file of an archive in cpio's "newc" form, as an initramfs is.
fn member(archive: &mut Vec<u8>, name: &str, mode: usize, content: &[u8]) {
    let fields = [1, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0]
        .map(|field: usize| format!("{field:08x}"));
    archive.extend_from_slice(format!("070701{}{name}\0", fields.concat()).as_bytes());
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// An initramfs of one program.
pub fn initramfs(program: &Path, to: &Path) {
    let mut archive = Vec::new();
    member(&mut archive, "init", 0o100_755, &std::fs::read(program).expect("a program"));
    member(&mut archive, "TRAILER!!!", 0, &[]);
    File::create(to).and_then(|mut file| file.write_all(&archive)).expect("an archive");
}
