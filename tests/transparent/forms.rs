//! Version, help and list forms, and start-up errors: everything QEMU says
//! before there is a machine.

use crate::run::Case;

/// A line of QEMU's, run as it is.
macro_rules! forms {
    ($($line:literal),* $(,)?) => { vec![$(Case::files($line, concat!("$Q ", $line))),*] };
}

pub fn cases() -> Vec<Case> {
    forms![
        "-version",
        "--version",
        "-h",
        "-M help",
        "-M pseries,help",
        "-cpu help",
        "-accel help",
        "-device help",
        "-device spapr-vty,help",
        "-object help",
        "-object memory-backend-ram,help",
        "-netdev help",
        "-chardev help",
        "-display help",
        "-audiodev help",
        "-vga help",
        "-d help",
        "-trace help",
        "-global help",
        "-drive format=help",
        "-bogus",
        "-append",
        "--",
        "-",
        "-x=y",
        "-version -bogus",
        "missing.img",
        "-M bogus",
        "-cpu bogus",
        "-m bogus",
        "-smp bogus",
        "-kernel missing",
        "-initrd missing -kernel /dev/null",
        "-serial bogus",
        "-chardev stdio",
        "-monitor bogus",
        "-serial mon:stdio -serial mon:stdio",
        "-M none -dump-vmstate states",
        "-readconfig missing",
        "-runas bogus",
        "-chroot missing",
        "-incoming bogus:x -nographic",
        "-nographic -daemonize",
        "-device bogus",
        "-drive file=missing,if=none",
        "-nographic -display curses -M none -vga bogus",
        "-append $'\\xff\\xfe' -bogus",
        "-pidfile /missing/p -M none -display none",
        "-plugin missing",
    ]
}
