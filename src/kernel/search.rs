//! Where a kernel's names may be had, in the order in which to ask.
//!
//! 1. the file the user named;
//! 2. the symbol table of the kernel QEMU was given;
//! 3. the `vmlinux` in the build tree that kernel lies in;
//! 4. its debug file, by build id, then by release, under the usual paths;
//! 5. the kallsyms inside it.
//!
//! Each is tried only when those before gave nothing that fits the guest:
//! [`Search`] is an iterator that opens one at a time, and whether a
//! candidate fits is the caller's to say ([`super::identity`]). kallsyms in
//! guest memory and the scan, which come after, need the guest.

#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::banner;
use super::elf::Elf;
use super::error::SourceError;
use super::functions::Functions;
use super::image::Kernel;
use super::input::Input;
use super::names::Names;
use super::resolve::{Place, Resolve};
use super::system_map::SystemMap;

/// Names of a kernel, and where its functions can be had when needed.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The names.
    pub names: Names,
    functions: FunctionSource,
}

/// Files stay open, so that the functions are of the same kernel also after
/// the file was replaced.
#[derive(Clone, Debug)]
enum FunctionSource {
    Elf(Box<Elf>),
    Map(SystemMap),
    /// Packed, and unpacked again: rather than in memory for as long as QEMU
    /// runs.
    Packed(Input, PathBuf),
}

impl Candidate {
    /// The names in a file of any kind: an ELF file, a `System.map`, a packed
    /// kernel.
    ///
    /// # Errors
    /// As the file's kind: see [`SourceError`].
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        Self::open_as(path, What::Anything)
    }

    /// The functions, to name addresses in code. This reads the file again:
    /// milliseconds for a `vmlinux`, up to a second for a packed kernel.
    ///
    /// # Errors
    /// As [`Candidate::open`].
    pub fn functions(&self) -> Result<Functions, SourceError> {
        match &self.functions {
            FunctionSource::Elf(elf) => elf.functions(),
            FunctionSource::Map(map) => map.functions(),
            FunctionSource::Packed(input, path) => {
                Kernel::open(input.clone(), path.clone())?.functions()
            }
        }
    }

    fn open_as(path: &Path, what: What) -> Result<Self, SourceError> {
        let input = Input::open(path)?;
        if what != What::Packed {
            match Self::from_table(&input, path) {
                Err(
                    SourceError::Unknown | SourceError::NoSymbols { .. } | SourceError::NotLinux,
                ) if what == What::Anything => {}
                other => return other,
            }
        }
        let names = Kernel::open(input.clone(), path.to_owned())?.names()?;
        Ok(Self { names, functions: FunctionSource::Packed(input, path.to_owned()) })
    }

    /// From a symbol table or a map.
    fn from_table(input: &Input, path: &Path) -> Result<Self, SourceError> {
        match Elf::parse(input.clone(), path.to_owned()) {
            Ok(elf) => {
                Ok(Self { names: elf.names()?, functions: FunctionSource::Elf(Box::new(elf)) })
            }
            Err(SourceError::Unknown) => {
                let map = match SystemMap::parse(input.clone(), path.to_owned()) {
                    Err(SourceError::NotAMap) => return Err(SourceError::Unknown),
                    other => other?,
                };
                Ok(Self { names: map.names()?, functions: FunctionSource::Map(map) })
            }
            Err(other) => Err(other),
        }
    }
}

impl Resolve for Candidate {
    fn resolve(&self, addresses: &[u64]) -> Result<Vec<Option<Place>>, SourceError> {
        match &self.functions {
            FunctionSource::Elf(elf) => elf.resolve(addresses),
            FunctionSource::Map(map) => map.resolve(addresses),
            FunctionSource::Packed(input, path) => {
                match Kernel::open(input.clone(), path.clone())? {
                    Kernel::Elf(elf) => match elf.resolve(addresses) {
                        Err(SourceError::NoSymbols { .. }) => {
                            Kernel::Elf(elf).kallsyms()?.resolve(addresses)
                        }
                        other => other,
                    },
                    bare @ Kernel::Bare(..) => bare.kallsyms()?.resolve(addresses),
                }
            }
        }
    }
}

/// What a file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A symbol table or a map, else kallsyms.
    Anything,
    /// A symbol table or a map.
    Table,
    /// Kallsyms.
    Packed,
}

/// Why a file was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The user named it.
    Given,
    /// QEMU was given it.
    Kernel,
    /// It lies in the same build tree as QEMU's kernel.
    BuildTree,
    /// It is installed for QEMU's kernel's build id.
    BuildId,
    /// It is installed for the release.
    Release,
    /// QEMU was given it, and it carries kallsyms.
    KernelKallsyms,
}

/// One file that was asked.
#[derive(Debug)]
pub struct Attempt {
    /// The file.
    pub path: PathBuf,
    /// Why it was asked.
    pub role: Role,
    /// What it gave.
    pub result: Result<Candidate, SourceError>,
}

/// What is known when the search begins.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The file the user named (`--logbuf-vmlinux`).
    pub given: Option<PathBuf>,
    /// QEMU's `-kernel`.
    pub kernel: Option<PathBuf>,
    /// The guest's release, where known: "6.1.0-37-powerpc64le". It comes
    /// from guest memory, so it is checked before it becomes part of a path.
    pub release: Option<String>,
    /// What the usual paths are relative to, for tests; `None` is `/`.
    pub root: Option<PathBuf>,
}

/// The files to ask, opened one at a time. Files that nobody named and that
/// don't exist are passed over.
#[derive(Debug)]
pub struct Search {
    request: Request,
    queue: VecDeque<(PathBuf, Role)>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Files,
    Installed,
    Kallsyms,
    Done,
}

impl Search {
    /// A search that has opened nothing yet.
    #[must_use]
    pub fn new(request: Request) -> Self {
        let mut queue = VecDeque::new();
        queue.extend(request.given.clone().map(|path| (path, Role::Given)));
        if let Some(kernel) = &request.kernel {
            queue.push_back((kernel.clone(), Role::Kernel));
            queue.extend(build_tree(kernel).into_iter().map(|path| (path, Role::BuildTree)));
        }
        Self { request, queue, stage: Stage::Files }
    }

    fn next_stage(&mut self) {
        self.stage = match self.stage {
            Stage::Files => {
                self.queue.extend(self.installed());
                Stage::Installed
            }
            Stage::Installed => {
                let kernel = self.request.kernel.clone();
                self.queue.extend(kernel.map(|path| (path, Role::KernelKallsyms)));
                Stage::Kallsyms
            }
            Stage::Kallsyms | Stage::Done => Stage::Done,
        };
    }

    /// Where the files for QEMU's kernel are installed. To know its build id
    /// and release it may have to be unpacked, which is why it is done only
    /// now.
    fn installed(&self) -> Vec<(PathBuf, Role)> {
        let kernel = self.request.kernel.as_ref();
        let kernel =
            kernel.and_then(|path| Kernel::open(Input::open(path).ok()?, path.clone()).ok());
        let root = self.request.root.as_deref().unwrap_or(Path::new("/"));
        let mut files = Vec::new();
        if let Some(id) = kernel.as_ref().and_then(Kernel::build_id) {
            files.extend(by_build_id(root, id).map(|path| (path, Role::BuildId)));
        }
        let own = kernel.and_then(|kernel| kernel.banner().ok()?);
        let own = own.as_deref().and_then(banner::release).map(str::to_owned);
        let mut releases: Vec<_> = own.into_iter().chain(self.request.release.clone()).collect();
        releases.dedup();
        for release in releases.iter().filter(|release| is_plain(release)) {
            files.extend(by_release(root, release).into_iter().map(|p| (p, Role::Release)));
        }
        files
    }
}

impl Iterator for Search {
    type Item = Attempt;

    fn next(&mut self) -> Option<Attempt> {
        loop {
            let Some((path, role)) = self.queue.pop_front() else {
                if self.stage == Stage::Done {
                    return None;
                }
                self.next_stage();
                continue;
            };
            let named = matches!(role, Role::Given | Role::Kernel | Role::KernelKallsyms);
            if !named && !path.is_file() {
                continue;
            }
            let what = match role {
                Role::Given => What::Anything,
                Role::KernelKallsyms => What::Packed,
                Role::Kernel | Role::BuildTree | Role::BuildId | Role::Release => What::Table,
            };
            return Some(Attempt { result: Candidate::open_as(&path, what), path, role });
        }
    }
}

/// The `vmlinux` of the build tree that a kernel lies in: of
/// `arch/powerpc/boot/zImage` and the like, and of a kernel at the top.
fn build_tree(kernel: &Path) -> Vec<PathBuf> {
    // A link to a zImage in a build tree leads to that tree.
    let real = std::fs::canonicalize(kernel).ok();
    let mut found: Vec<PathBuf> = Vec::new();
    let same = |a: &Path, b: &Path| {
        let real = |path| std::fs::canonicalize(path).ok();
        a == b || real(a).is_some_and(|a| real(b) == Some(a))
    };
    for kernel in [Some(kernel), real.as_deref()].into_iter().flatten() {
        let Some(directory) = kernel.parent() else { continue };
        let top = directory
            .ancestors()
            .find(|above| above.ends_with("arch/powerpc/boot"))
            .and_then(|boot| boot.ancestors().nth(3));
        let candidates = [directory.join("vmlinux"), top.unwrap_or(directory).join("vmlinux")];
        for path in candidates {
            if !same(&path, kernel) && !found.iter().any(|found| same(found, &path)) {
                found.push(path);
            }
        }
    }
    found
}

/// Where debug files are by build id, as gdb looks for them.
fn by_build_id(root: &Path, id: &[u8]) -> Option<PathBuf> {
    let (first, rest) = id.split_first()?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let directory = root.join("usr/lib/debug/.build-id").join(hex(&[*first]));
    Some(directory.join(format!("{}.debug", hex(rest))))
}

/// Where distributions and `make install` put a release's files.
fn by_release(root: &Path, release: &str) -> Vec<PathBuf> {
    [
        // Debian's and Ubuntu's debug packages; Fedora's.
        format!("usr/lib/debug/boot/vmlinux-{release}"),
        format!("usr/lib/debug/lib/modules/{release}/vmlinux"),
        // A plain vmlinux: Debian's powerpc kernels.
        format!("boot/vmlinux-{release}"),
        format!("lib/modules/{release}/build/vmlinux"),
        format!("usr/lib/debug/boot/System.map-{release}"),
        format!("boot/System.map-{release}"),
        format!("lib/modules/{release}/System.map"),
    ]
    .map(|path| root.join(path))
    .to_vec()
}

/// Whether a release, which the guest may have made up, is one path
/// component.
fn is_plain(release: &str) -> bool {
    let name = Path::new(release).file_name();
    name == Some(OsStr::new(release)) && release.len() <= 64 && !release.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;

    use super::super::names::Source;
    use super::super::testing::Kernel as Made;
    use super::*;
    use crate::arch::Arch;

    const BANNER: &str = "Linux version 6.1.0-test (a@b) (gcc 12) #1 SMP Thu";

    fn vmlinux(stripped: bool) -> Vec<u8> {
        let mut kernel = Made::new(Arch::PPC64LE).with_banner(BANNER);
        kernel.local("prb", kernel.base + 0x140);
        kernel.stripped = stripped;
        kernel.build()
    }

    fn zimage() -> Vec<u8> {
        let mut wrapper = Made::new(Arch::PPC32);
        let (mut packed, kernel) = (Vec::new(), vmlinux(true));
        let mut packer =
            flate2::read::GzEncoder::new(kernel.as_slice(), flate2::Compression::fast());
        packer.read_to_end(&mut packed).expect("packed");
        wrapper.extra = Some((".kernel:vmlinux.strip", packed));
        wrapper.function("_zimage_start", wrapper.base, 4);
        wrapper.build()
    }

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[(&str, &[u8])]) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            for (path, contents) in files {
                let path = dir.path().join(path);
                fs::create_dir_all(path.parent().expect("a parent")).expect("made");
                fs::write(path, contents).expect("written");
            }
            Self(dir)
        }

        fn search(&self, kernel: &str, release: Option<&str>) -> Vec<(String, Role, bool)> {
            let request = Request {
                given: None,
                kernel: Some(self.0.path().join(kernel)).filter(|_| !kernel.is_empty()),
                release: release.map(str::to_owned),
                root: Some(self.0.path().to_owned()),
            };
            Search::new(request)
                .map(|attempt| {
                    let path = attempt.path.strip_prefix(self.0.path()).expect("below");
                    let ok = attempt.result.is_ok();
                    (path.to_string_lossy().into_owned(), attempt.role, ok)
                })
                .collect()
        }
    }

    fn row(path: &str, role: Role, ok: bool) -> (String, Role, bool) {
        (path.to_owned(), role, ok)
    }

    #[test]
    fn a_vmlinux_with_symbols_is_the_first_answer() {
        let tree = Tree::new(&[("vmlinux", &vmlinux(false))]);
        let attempts = tree.search("vmlinux", None);
        assert_eq!(attempts.first(), Some(&row("vmlinux", Role::Kernel, true)));
    }

    #[test]
    fn a_zimage_leads_to_the_vmlinux_of_its_build_tree() {
        let boot = "build/arch/powerpc/boot/zImage";
        let tree = Tree::new(&[(boot, &zimage()), ("build/vmlinux", &vmlinux(false))]);
        let attempts = tree.search(boot, None);
        assert_eq!(attempts.first(), Some(&row(boot, Role::Kernel, false)));
        assert_eq!(attempts.get(1), Some(&row("build/vmlinux", Role::BuildTree, true)));
    }

    #[test]
    fn a_build_tree_reached_by_two_ways_is_one() {
        let tree =
            Tree::new(&[("tree/stripped", &vmlinux(true)), ("tree/vmlinux", &vmlinux(false))]);
        std::os::unix::fs::symlink("tree", tree.0.path().join("link")).expect("a link");
        let attempts = tree.search("link/stripped", None);
        let of_the_tree = attempts.iter().filter(|(_, role, _)| *role == Role::BuildTree);
        assert_eq!(of_the_tree.count(), 1, "{attempts:?}");
    }

    #[test]
    fn the_release_inside_a_zimage_leads_to_its_debug_files() {
        let debug = "usr/lib/debug/boot/vmlinux-6.1.0-test";
        let map = "boot/System.map-6.1.0-test";
        let stub = b"ffffffffffffffff B The real System.map is in the package";
        let tree = Tree::new(&[("zImage", &zimage()), (debug, &vmlinux(false)), (map, stub)]);
        let expected = [
            row("zImage", Role::Kernel, false),
            row(debug, Role::Release, true),
            row(map, Role::Release, false),
            row("zImage", Role::KernelKallsyms, false),
        ];
        assert_eq!(tree.search("zImage", None), expected);
    }

    #[test]
    fn the_guests_release_leads_to_debug_files_but_not_out_of_their_place() {
        let boot = "boot/vmlinux-6.1.0-test";
        let tree = Tree::new(&[(boot, &vmlinux(false)), ("secret", b"")]);
        assert_eq!(tree.search("", Some("6.1.0-test")), [row(boot, Role::Release, true)]);
        for release in ["../../secret", "", "..", ".", "x/../y", "a\0b"] {
            assert_eq!(tree.search("", Some(release)), [], "{release:?}");
        }
    }

    #[test]
    fn a_missing_file_that_was_named_is_an_answer() {
        let request = Request { given: Some("/nonexistent".into()), ..Request::default() };
        let attempts: Vec<_> = Search::new(request).collect();
        assert!(matches!(
            attempts.as_slice(),
            [Attempt { role: Role::Given, result: Err(SourceError::Io(_)), .. }]
        ));
    }

    #[test]
    fn any_kind_of_file_can_be_given() {
        let map = b"c000000000000000 T _stext\nc000000000000140 d prb\n";
        let tree = Tree::new(&[("vmlinux", &vmlinux(false)), ("System.map", map)]);
        let open = |name| Candidate::open(&tree.0.path().join(name)).expect("names");
        assert!(matches!(open("vmlinux").names.source, Source::Elf(_)));
        assert!(matches!(open("System.map").names.source, Source::SystemMap(_)));
        assert!(open("vmlinux").functions().is_ok());
        let pipe = Candidate::open(Path::new("/dev/null"));
        assert!(matches!(pipe, Err(SourceError::Io(_))), "{pipe:?}");
    }
}
