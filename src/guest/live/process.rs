//! Reading another process's memory.

use std::fs;
use std::io::{self, IoSliceMut};

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

/// Fill `buf` from `address` in process `pid`.
pub(super) fn read(pid: Pid, address: u64, buf: &mut [u8]) -> io::Result<()> {
    let mut base = usize::try_from(address).map_err(io::Error::other)?;
    let mut rest = buf;
    while !rest.is_empty() {
        let remote = [RemoteIoVec { base, len: rest.len() }];
        let read = match process_vm_readv(pid, &mut [IoSliceMut::new(rest)], &remote) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(nix::Error::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        // Less than asked for: up to a page that is not there, or 2 GiB.
        base += read;
        rest = rest.get_mut(read..).unwrap_or_default();
    }
    Ok(())
}

/// Whether `error` says that the host does not let us, now or ever.
pub(super) fn is_forbidden(error: &io::Error) -> bool {
    const NOT_IN_THIS_KERNEL: i32 = nix::Error::ENOSYS as i32;
    error.kind() == io::ErrorKind::PermissionDenied
        || error.raw_os_error() == Some(NOT_IN_THIS_KERNEL)
}

/// Whether `error` says that the process has ended.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::Error::ESRCH as i32)
}

/// The process that the thread of id `thread` belongs to.
pub(super) fn of_thread(thread: i32) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    group.trim().parse().ok().map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_reads_as_it_is_and_a_hole_is_an_error() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let mut copy = vec![0; bytes.len()];
        read(Pid::this(), bytes.as_ptr() as u64, &mut copy).expect("our own memory");
        assert_eq!(copy, bytes);
        let error = read(Pid::this(), 0, &mut copy).expect_err("nothing at zero");
        assert!(!is_forbidden(&error) && !is_gone(&error), "{error}");
        let error = read(Pid::from_raw(i32::MAX), 0, &mut copy).expect_err("no such process");
        assert!(is_gone(&error), "{error}");
        assert_eq!(of_thread(nix::unistd::gettid().as_raw()), Some(Pid::this()));
        assert_eq!(of_thread(i32::MAX), None);
    }
}
