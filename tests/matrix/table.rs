//! The outcomes as a table of Markdown.

use std::path::Path;

use super::cells::{COLUMNS, Cell};
use super::run::Outcome;

/// What stands around the table in a file that has more than it.
const MARKERS: [&str; 2] = ["<!-- matrix -->\n", "<!-- /matrix -->"];

/// A row for each kernel on each machine.
pub fn markdown(cells: &[Cell], outcomes: &[Outcome]) -> String {
    let mut table = String::from("| kernel | machine |");
    table.extend(COLUMNS.iter().map(|column| format!(" {column} |")));
    table += "\n|---|---|";
    table += &"---|".repeat(COLUMNS.len());
    table.push('\n');
    let mut all = cells.iter().zip(outcomes).peekable();
    while let Some((cell, outcome)) = all.next() {
        let mut entries = vec![Vec::new(); COLUMNS.len()];
        entries[cell.from.column()].push(outcome.entry(cell));
        let mut release = outcome.release();
        while let Some((other, outcome)) = all.next_if(|(other, _)| {
            std::ptr::eq(other.kernel, cell.kernel) && std::ptr::eq(other.machine, cell.machine)
        }) {
            entries[other.from.column()].push(outcome.entry(other));
            release = release.or(outcome.release());
        }
        let release = release.unwrap_or(cell.kernel.name);
        table += &format!("| {release} ({}) | {} |", cell.kernel.is, cell.machine.is);
        for entries in entries {
            table += &match entries.as_slice() {
                [] => " |".to_owned(),
                entries => format!(" {} |", entries.join(", ")),
            };
        }
        table.push('\n');
    }
    table
}

/// Put the table where the markers are, or make it the whole file.
pub fn write(path: &Path, table: &str) -> std::io::Result<()> {
    let old = std::fs::read_to_string(path).unwrap_or_default();
    let between = old
        .split_once(MARKERS[0])
        .and_then(|(before, rest)| Some((before, rest.split_once(MARKERS[1])?.1)));
    std::fs::write(
        path,
        match between {
            Some((before, after)) => [before, MARKERS[0], table, MARKERS[1], after].concat(),
            None => table.to_owned(),
        },
    )
}
