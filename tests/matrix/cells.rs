//! The table: which kernel, on which machine, named by what.

/// A kernel of the lab.
#[derive(Debug)]
pub struct Kernel {
    /// Its folder in the lab.
    pub name: &'static str,
    /// What it is, for the table.
    pub is: &'static str,
    /// Whether it keeps the names of its data (`CONFIG_KALLSYMS_ALL`).
    pub kallsyms_all: bool,
    /// What its build wraps around it, a file beside it in the lab.
    pub wrapped: Option<&'static str>,
    /// Its log is laid out as no kernel's was: its BTF has to tell.
    pub told: bool,
}

/// A machine of QEMU's, and the command line a kernel gets there.
#[derive(Debug)]
pub struct Machine {
    /// For the table.
    pub is: &'static str,
    /// The program, in PATH.
    pub qemu: &'static str,
    /// The lab's QEMU of that Debian release, where an older lacks the
    /// machine.
    pub release: Option<&'static str>,
    /// Its words.
    pub words: &'static [&'static str],
    /// The kernel's.
    pub append: &'static str,
    /// Where on this machine a kernel is made to hang.
    pub hang: Hang,
    /// Its firmware alone takes ten seconds and more.
    pub slow: bool,
}

/// Where a kernel hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hang {
    /// Before the first console, in `register_early_udbg_console`.
    Early,
    /// In `vfs_caches_init_early`, right after the log has moved to a larger
    /// buffer, and before ftrace looks at the functions and misses what the
    /// hang overwrote.
    Moved,
}

impl Hang {
    /// The function it hangs in.
    pub const fn function(self) -> &'static str {
        match self {
            Self::Early => "register_early_udbg_console",
            Self::Moved => "vfs_caches_init_early",
        }
    }

    /// A message that a hung kernel's log must hold.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Early => "Linux version ",
            Self::Moved => "early log buf free",
        }
    }
}

/// What the kernel's names can be taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The symbol table of `-kernel`.
    Kernel,
    /// `--logbuf-vmlinux=System.map`, beside a stripped `-kernel`.
    Map,
    /// `--logbuf-vmlinux=vmlinux.gz`, beside a stripped `-kernel`.
    Packed,
    /// A stripped `-kernel`.
    Stripped,
    /// A `-kernel` in the form U-Boot loads: no ELF, gzipped.
    UImage,
    /// A zImage, as the kernel's own build wraps it.
    ZImage,
    /// The same where it was built, with the vmlinux it was made from.
    BuildTree,
    /// A kernel that our command line does not name.
    Unnamed,
    /// The same, from the PReP partition of a disk.
    Disk,
    /// The same, a zImage there.
    DiskZImage,
    /// The same, loaded from a disk by GRUB, which is in that partition.
    Grub,
    /// The same, as QEMU's `-bios`.
    Firmware,
    /// The same, put into memory by `-device loader`.
    Loader,
    /// `--logbuf-vmlinux` of the lab's kernel of that name, which is another
    /// than the guest's.
    Wrong(&'static str),
    /// The symbol table of `-kernel`, whose BTF was wiped out.
    Untold,
    /// A kernel that our command line does not name, without BTF either.
    UnnamedUntold,
}

impl Origin {
    /// The column of the table it is in.
    pub const fn column(self) -> usize {
        match self {
            Self::Kernel | Self::Untold => 0,
            Self::Map => 1,
            Self::Packed | Self::UImage | Self::ZImage | Self::BuildTree => 2,
            Self::Stripped => 3,
            Self::Unnamed
            | Self::Disk
            | Self::DiskZImage
            | Self::Grub
            | Self::Firmware
            | Self::Loader
            | Self::UnnamedUntold => 4,
            Self::Wrong(_) => 5,
        }
    }

    /// Whether the kernel comes without QEMU's `-kernel`, and so without
    /// `-append`.
    pub const fn is_own(self) -> bool {
        matches!(self, Self::Disk | Self::DiskZImage | Self::Grub | Self::Firmware | Self::Loader)
    }

    /// Whether the guest has no BTF.
    pub const fn is_untold(self) -> bool {
        matches!(self, Self::Untold | Self::UnnamedUntold)
    }

    /// The file of the lab it needs beside the kernel, and its folder.
    pub const fn needs(self, kernel: &Kernel) -> Option<(&'static str, Option<&'static str>)> {
        match self {
            Self::ZImage | Self::BuildTree | Self::DiskZImage => {
                Some((kernel.name, kernel.wrapped))
            }
            Self::Grub => Some(("grub", Some("core.elf"))),
            _ => None,
        }
    }

    /// What the report's header says for the kernel; its beginning.
    pub const fn source(self, kernel: &Kernel) -> &'static str {
        match self {
            Self::Kernel | Self::Untold | Self::Wrong(_) | Self::Packed | Self::BuildTree => {
                "symbols of "
            }
            Self::Map => "/",
            Self::Stripped | Self::UImage | Self::ZImage if kernel.kallsyms_all => "kallsyms of ",
            _ if kernel.kallsyms_all => "kallsyms in guest memory",
            _ => "a scan of guest memory",
        }
    }

    /// Who says how the log is laid out, as the report's header does.
    pub const fn layout(self, kernel: &Kernel) -> Option<&'static str> {
        match self {
            _ if !kernel.told || self.is_untold() => None,
            Self::Kernel | Self::Packed => Some("laid out by the BTF of that file"),
            _ => Some("laid out by the BTF in guest memory"),
        }
    }
}

/// The table's columns.
pub const COLUMNS: [&str; 6] =
    ["`-kernel`", "`System.map`", "packed", "stripped `-kernel`", "no `-kernel`", "wrong vmlinux"];

macro_rules! kernel {
    ($id:ident, $name:literal, $is:literal, $all:literal) => {
        kernel!($id, $name, $is, $all, None);
    };
    ($id:ident, $name:literal, $is:literal, $all:literal, $wrapped:expr) => {
        static $id: Kernel =
            Kernel { name: $name, is: $is, kallsyms_all: $all, wrapped: $wrapped, told: false };
    };
}

kernel!(BOOKWORM, "bookworm", "Debian 12, ppc64le", false);
kernel!(TRIXIE, "trixie", "Debian 13, ppc64le", true);
kernel!(SID, "sid", "Debian sid, ppc64le", true);
kernel!(LE64_5_10, "le64-5.10", "built, ppc64le", true, Some("zImage.pseries"));
kernel!(BE64_6_1, "be64-6.1", "built, ppc64", true, Some("zImage.pseries"));
kernel!(RELOCATED, "be64-6.1-relocated", "built, ppc64, runs where it was loaded", true);
kernel!(BE64_5_10, "be64-5.10", "built, ppc64", true);
kernel!(LE64_5_4, "le64-5.4-caller", "built, ppc64le, `PRINTK_CALLER`", true);
kernel!(PPC32_5_4, "ppc32-5.4-caller", "built, ppc, `PRINTK_CALLER`", true);
kernel!(BE64_4_4, "be64-4.4", "built, ppc64", true);
kernel!(BE64_4_4_BARE, "be64-4.4-bare", "built, ppc64, no kallsyms", false);
kernel!(BE64_3_4, "be64-3.4", "built, ppc64", true);
kernel!(BE64_3_4_BARE, "be64-3.4-bare", "built, ppc64, no kallsyms", false);
static RING: Kernel = Kernel {
    name: "le64-6.1-ring",
    is: "built, ppc64le, ring laid out as none",
    kallsyms_all: false,
    wrapped: None,
    told: true,
};
kernel!(PPC32, "ppc32-6.1", "built, ppc", true);
kernel!(G5, "g5-6.1", "built, ppc64, PowerMac", true);
kernel!(PPC32_CALLER, "ppc32-6.1-caller", "built, ppc, `PRINTK_CALLER`", true);
kernel!(E500, "e500-6.1", "built, ppc64, Book3E", true);
kernel!(E500MC, "e500mc-6.1", "built, ppc, e500mc", true);

kernel!(PPC44X, "ppc44x-6.1", "built, ppc, 44x", true);
kernel!(PPC40X, "ppc40x-6.1", "built, ppc, 40x", true, Some("cuImage.hotfoot.elf"));

const PPC64: &str = "qemu-system-ppc64";
const PPC: &str = "qemu-system-ppc";
const HVC: &str = "console=hvc0 ignore_loglevel printk.time=1";
const SERIAL: &str = "console=ttyS0 ignore_loglevel printk.time=1";
const SCC: &str = "console=ttyPZ0 ignore_loglevel printk.time=1";

const fn machine(
    is: &'static str,
    words: &'static [&'static str],
    append: &'static str,
) -> Machine {
    Machine { is, qemu: PPC64, release: None, words, append, hang: Hang::Early, slow: false }
}

const fn slow(machine: Machine) -> Machine {
    Machine { slow: true, ..machine }
}

const fn moved(machine: Machine) -> Machine {
    Machine { hang: Hang::Moved, ..machine }
}

const fn narrow(machine: Machine) -> Machine {
    Machine { qemu: PPC, ..machine }
}

static VOF: Machine = machine("pseries", &["-M", "pseries,x-vof=on", "-m", "512"], HVC);
static POWER7: Machine =
    machine("pseries, POWER7", &["-M", "pseries,x-vof=on", "-m", "512", "-cpu", "power7"], HVC);
// QEMU 9.2 and later.
static POWER11: Machine = Machine {
    release: Some("trixie"),
    ..machine(
        "pseries, POWER11, QEMU 10.0",
        &["-M", "pseries,x-vof=on", "-m", "512", "-cpu", "power11"],
        HVC,
    )
};
static POWER8: Machine =
    machine("pseries, POWER8", &["-M", "pseries,x-vof=on", "-m", "512", "-cpu", "power8"], HVC);
static POWER10: Machine =
    machine("pseries, POWER10", &["-M", "pseries,x-vof=on", "-m", "512", "-cpu", "power10"], HVC);
static LARGE: Machine = machine("pseries, 4 GiB", &["-M", "pseries,x-vof=on", "-m", "4G"], HVC);
static MANY: Machine =
    moved(machine("pseries, 32 CPUs", &["-M", "pseries,x-vof=on", "-m", "512", "-smp", "32"], HVC));
static LONG: Machine = moved(machine(
    "pseries, `log_buf_len=1M`",
    &["-M", "pseries,x-vof=on", "-m", "512"],
    "console=hvc0 ignore_loglevel printk.time=1 log_buf_len=1M",
));
static POWER7_LONG: Machine = moved(machine(
    "pseries, POWER7, `log_buf_len=1M`",
    &["-M", "pseries,x-vof=on", "-m", "512", "-cpu", "power7"],
    "console=hvc0 ignore_loglevel printk.time=1 log_buf_len=1M",
));
static LARGE_LONG: Machine = moved(machine(
    "pseries, 4 GiB, `log_buf_len=1M`",
    &["-M", "pseries,x-vof=on", "-m", "4G"],
    "console=hvc0 ignore_loglevel printk.time=1 log_buf_len=1M",
));
static SLOF: Machine = slow(machine("pseries, SLOF", &["-M", "pseries", "-m", "512"], HVC));
static DISK: Machine = slow(machine(
    "pseries, SLOF, disk",
    &["-M", "pseries", "-m", "512", "-nodefaults", "-serial", "stdio", "-device", "spapr-vscsi"],
    "",
));
static POWERNV8: Machine = slow(machine("powernv8", &["-M", "powernv8", "-m", "1G"], HVC));
static POWERNV9: Machine = slow(machine("powernv9", &["-M", "powernv9", "-m", "1G"], HVC));
static POWERNV10: Machine = slow(machine("powernv10", &["-M", "powernv10", "-m", "1G"], HVC));
static MAC99: Machine = machine(
    "mac99",
    &["-M", "mac99", "-cpu", "7400", "-m", "256", "-prom-env", "output-device=ttya"],
    SCC,
);
static MAC99_WIDE: Machine = machine(
    "mac99, 970fx",
    &["-M", "mac99", "-cpu", "970fx", "-m", "512", "-prom-env", "output-device=ttya"],
    SCC,
);
static MAC99_NARROW: Machine = narrow(machine(
    "mac99 of qemu-system-ppc",
    &["-M", "mac99", "-m", "256", "-prom-env", "output-device=ttya"],
    SCC,
));
static G3BEIGE: Machine = narrow(machine(
    "g3beige of qemu-system-ppc",
    &["-M", "g3beige", "-m", "256", "-prom-env", "output-device=ttya"],
    SCC,
));
static E5500: Machine =
    machine("ppce500, e5500", &["-M", "ppce500", "-cpu", "e5500", "-m", "256"], SERIAL);
static E6500: Machine =
    machine("ppce500, e6500", &["-M", "ppce500", "-cpu", "e6500", "-m", "256"], SERIAL);
static E500MC_BOARD: Machine =
    machine("ppce500, e500mc", &["-M", "ppce500", "-cpu", "e500mc", "-m", "256"], SERIAL);

static BAMBOO: Machine = narrow(machine("bamboo", &["-M", "bamboo"], SERIAL));
// Its kernel prints on the second.
static REF405EP: Machine = narrow(machine(
    "ref405ep",
    &["-M", "ref405ep", "-nodefaults", "-serial", "null", "-serial", "stdio"],
    SERIAL,
));
static SAM460EX: Machine = narrow(machine("sam460ex", &["-M", "sam460ex"], SERIAL));

/// One cell.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// The machine.
    pub machine: &'static Machine,
    /// Where its names are to come from.
    pub from: Origin,
}

/// Every cell, row by row.
pub fn all() -> Vec<Cell> {
    use self::Origin::{
        BuildTree, Disk, DiskZImage, Firmware, Grub, Kernel, Loader, Map, Packed, Stripped, UImage,
        Unnamed, UnnamedUntold, Untold, Wrong, ZImage,
    };
    let rows: &[(&'static self::Kernel, &'static Machine, &[Origin])] = &[
        (
            &BOOKWORM,
            &VOF,
            &[Kernel, Map, Packed, Stripped, Unnamed, Wrong("trixie"), Wrong("be64-6.1")],
        ),
        (&BOOKWORM, &POWER8, &[Kernel, Unnamed]),
        (&BOOKWORM, &POWER10, &[Kernel]),
        (&BOOKWORM, &LARGE, &[Unnamed]),
        (&BOOKWORM, &MANY, &[Kernel, Unnamed]),
        (&BOOKWORM, &LARGE_LONG, &[Unnamed]),
        (&BOOKWORM, &SLOF, &[Kernel, Unnamed]),
        (&BOOKWORM, &DISK, &[Grub]),
        (&BOOKWORM, &POWERNV8, &[Kernel]),
        (&BOOKWORM, &POWERNV9, &[Kernel, Stripped, Loader]),
        (&BOOKWORM, &POWERNV10, &[Kernel]),
        (&TRIXIE, &VOF, &[Kernel, Map, Packed, Stripped, Unnamed, Wrong("bookworm")]),
        (&TRIXIE, &LONG, &[Kernel, Unnamed]),
        (&TRIXIE, &POWERNV9, &[Loader]),
        (&SID, &VOF, &[Kernel, Map, Packed, Stripped, Unnamed]),
        (&SID, &LONG, &[Unnamed]),
        (&SID, &POWER11, &[Kernel, Unnamed]),
        (&SID, &POWERNV10, &[Kernel]),
        (&LE64_5_10, &VOF, &[Kernel, Map, Packed, ZImage, BuildTree, Stripped, Unnamed]),
        (&BE64_6_1, &VOF, &[Kernel, Map, Packed, Stripped, Unnamed, Wrong("bookworm")]),
        (&BE64_6_1, &POWER7, &[Kernel, Unnamed]),
        (&BE64_6_1, &POWER8, &[Kernel]),
        (&BE64_6_1, &LONG, &[Kernel, Unnamed]),
        (&BE64_6_1, &DISK, &[Disk, DiskZImage]),
        (&RELOCATED, &VOF, &[Kernel, Map, Packed, Stripped, Unnamed]),
        (&BE64_5_10, &VOF, &[Kernel, Map, Packed, Stripped, Unnamed]),
        (&RING, &VOF, &[Kernel, Untold, Map, Packed, Stripped, Unnamed, UnnamedUntold]),
        (&LE64_5_4, &VOF, &[Kernel, Map, Packed, Stripped, Unnamed]),
        (&PPC32_5_4, &MAC99, &[Kernel, Map, Packed, Stripped, Unnamed]),
        (&BE64_4_4, &VOF, &[Kernel, Map, Packed, Stripped, Unnamed]),
        (&BE64_4_4, &LONG, &[Kernel, Unnamed]),
        (&BE64_4_4_BARE, &VOF, &[Kernel, Stripped, Unnamed]),
        (&BE64_4_4_BARE, &LONG, &[Unnamed]),
        (&BE64_3_4, &POWER7, &[Kernel, Map, Packed, Stripped, Unnamed]),
        (&BE64_3_4, &POWER7_LONG, &[Kernel, Unnamed]),
        (&BE64_3_4_BARE, &POWER7, &[Kernel, Stripped, Unnamed]),
        (&BE64_3_4_BARE, &POWER7_LONG, &[Unnamed]),
        (&PPC32, &MAC99, &[Kernel, Map, Packed, Stripped, Unnamed]),
        (&PPC32, &MAC99_NARROW, &[Kernel]),
        (&PPC32, &G3BEIGE, &[Kernel, Unnamed]),
        (&G5, &MAC99_WIDE, &[Kernel, Map, Packed, Stripped, Unnamed]),
        (&PPC32_CALLER, &MAC99, &[Kernel, Unnamed]),
        (&E500, &E5500, &[Kernel, Map, Packed, Stripped, UImage, Firmware, Unnamed]),
        (&E500, &E6500, &[Kernel, Unnamed]),
        (&E500MC, &E500MC_BOARD, &[Kernel, Map, Packed, Stripped, UImage, Firmware]),
        (&PPC44X, &BAMBOO, &[Kernel, Map, Packed, UImage, Stripped, Unnamed]),
        (&PPC44X, &SAM460EX, &[Kernel, UImage, Stripped, Unnamed]),
        (&PPC40X, &REF405EP, &[ZImage, BuildTree]),
    ];
    let cells = |&(kernel, machine, from): &(_, _, &[Origin])| {
        from.iter().map(move |&from| Cell { kernel, machine, from }).collect::<Vec<_>>()
    };
    rows.iter().flat_map(cells).collect()
}
