//! The suite's result on one QEMU, as a row of a table in a file.

use std::path::Path;

use super::table::Counts;

const MARKERS: [&str; 2] = ["<!-- cases -->\n", "<!-- /cases -->"];
const HEAD: &str = "| QEMU | same as bare | not in this QEMU | differs |\n|---|---|---|---|\n";

/// Put the result into the table between the markers in `path`, in the place
/// of the same QEMU's last one.
pub fn write(path: &Path, version: &str, counts: &Counts) {
    let text = std::fs::read_to_string(path).expect("a file with a table");
    let (before, rest) = text.split_once(MARKERS[0]).expect("the table's beginning");
    let (table, after) = rest.split_once(MARKERS[1]).expect("the table's end");
    let Counts { same, absent, differ } = counts;
    let version = version.trim_start_matches("QEMU version ");
    let number = |line: &str| -> Vec<u32> {
        let word = line.trim_start_matches("| ").split(' ').next().unwrap_or_default();
        word.split('.').filter_map(|part| part.parse().ok()).collect()
    };
    let row = format!("| {version} | {same} | {absent} | {differ} |");
    let other = |line: &&str| number(line).get(..2) != number(&row).get(..2);
    let mut lines: Vec<&str> = table.lines().skip(2).filter(other).collect();
    lines.push(&row);
    lines.sort_by_key(|line| number(line));
    let text = format!("{before}{}{HEAD}{}\n{}{after}", MARKERS[0], lines.join("\n"), MARKERS[1]);
    std::fs::write(path, text).expect("the file is written");
}
