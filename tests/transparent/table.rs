//! The table of cases by QEMU version, in a file of the repository: a run
//! writes into the column of its own QEMU, what it ran, and leaves the rest.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::run::{Case, Outcome};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transparent/CASES.md");

const HEAD: &str = "# Each case on each QEMU

Written by `QEMU_LOGBUF_CASES=README.md cargo test --test transparent`, a column
by each run (`QEMU_UNDER_TEST=PATH` names the QEMU). Every case is run on bare
QEMU and through qemu-logbuf, as its parent and with its pid: *same* means that
output, end, terminal modes and files were those of the bare run both times, –
that this QEMU, or the machine of the run, has not what the case takes. `$Q` is
`qemu-system-ppc64` where no other target is named.
";

const SAME: &str = "same";
const ABSENT: &str = "–";
const DIFFERS: &str = "**differs**";

/// By case, what came of it by version.
type Cells = BTreeMap<String, BTreeMap<Version, String>>;

/// Numbers, for their order; and as they are written.
type Version = (Vec<u32>, String);

fn version(word: &str) -> Version {
    (word.split('.').filter_map(|part| part.parse().ok()).collect(), word.to_owned())
}

/// How many cases of one QEMU were the same as bare, are not for it, differ.
pub struct Counts {
    pub same: usize,
    pub absent: usize,
    pub differ: usize,
}

/// Put what came of the cases that were `wanted`, which are those of `groups`
/// or some of them, into the table; what its column now holds.
pub fn write(
    qemu: &str,
    groups: &[(&str, Vec<Case>)],
    wanted: &[Case],
    ran: &[(Case, Vec<Outcome>)],
) -> Counts {
    let mut cells = read(&std::fs::read_to_string(PATH).unwrap_or_default());
    let this = version(qemu.trim_start_matches("QEMU version ").split(' ').next().unwrap_or("?"));
    for by_version in cells.values_mut() {
        by_version.retain(|other, _| *other == this || other.0.get(..2) != this.0.get(..2));
    }
    for case in wanted {
        let row = ran.iter().find(|(other, _)| other.name == case.name);
        let differs = |one: &Outcome| matches!(one, Outcome::Differs(_));
        let cell = match row {
            None => ABSENT,
            Some((_, row)) if row.iter().any(differs) => DIFFERS,
            Some(_) => SAME,
        };
        cells.entry(escaped(case.name)).or_default().insert(this.clone(), cell.to_owned());
    }
    std::fs::write(PATH, render(groups, &cells)).expect("the table is written");
    let count = |what: &str| {
        let names = groups.iter().flat_map(|(_, cases)| cases).map(|case| escaped(case.name));
        names
            .filter(|name| {
                cells.get(name).is_some_and(|row| row.get(&this).is_some_and(|cell| cell == what))
            })
            .count()
    };
    Counts { same: count(SAME), absent: count(ABSENT), differ: count(DIFFERS) }
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

/// What an earlier run has written.
fn read(text: &str) -> Cells {
    let (mut cells, mut versions) = (Cells::new(), Vec::new());
    for line in text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")) {
        let fields: Vec<&str> = line.split(" | ").collect();
        let [name, _, by_version @ ..] = fields.as_slice() else { continue };
        if *name == "case" {
            versions = by_version.iter().map(|word| version(word)).collect();
        } else {
            let found =
                versions.iter().cloned().zip(by_version.iter().map(|cell| (*cell).to_owned()));
            cells.insert((*name).to_owned(), found.collect());
        }
    }
    cells
}

fn render(groups: &[(&str, Vec<Case>)], cells: &Cells) -> String {
    let versions: std::collections::BTreeSet<&Version> =
        cells.values().flat_map(BTreeMap::keys).collect();
    let mut text = HEAD.to_owned();
    for (title, cases) in groups {
        let _ = write!(text, "\n## {title}\n\n| case | run as |");
        for (_, word) in &versions {
            let _ = write!(text, " {word} |");
        }
        let _ = writeln!(text, "\n|---|---|{}", "---|".repeat(versions.len()));
        for case in cases {
            let name = escaped(case.name);
            let _ = write!(text, "| {name} | {} |", escaped(&run_as(case)));
            for version in &versions {
                let cell = cells.get(&name).and_then(|by_version| by_version.get(*version));
                // Not run since there is such a case.
                let _ = write!(text, " {} |", cell.map_or("not run", String::as_str));
            }
            text.push('\n');
        }
    }
    text
}

/// The line of the script that QEMU is in, as far as it is short; what is
/// typed to the shell that runs it otherwise.
fn run_as(case: &Case) -> String {
    const WIDTH: usize = 90;
    let typed = |step: &super::run::Step| match step {
        super::run::Step::Type(text) if text.contains("$Q") => Some(text.trim_end()),
        _ => None,
    };
    let line = case.script.lines().find(|line| line.contains("$Q")).or_else(|| match case.place {
        super::run::Place::Terminal(steps) => steps.iter().find_map(typed),
        super::run::Place::Files => None,
    });
    let line = line.unwrap_or(case.script).trim().trim_start_matches("exec ");
    match line.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("`{} …`", &line[..at]),
        None => format!("`{line}`"),
    }
}
