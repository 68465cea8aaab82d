//! The support matrix: real kernels, each byte order and word size, on each
//! machine, their names taken from each place they can be had.
//!
//! Each cell boots a kernel that hangs early under the real program, asks by
//! signal, and compares the report's messages with what the same kernel, not
//! hung, prints on the same machine's console under bare QEMU.
//!
//! ```text
//! cargo test --test matrix [-- WORD...]
//! ```
//!
//! runs the cells that contain every word. `QEMU_LOGBUF_SLOW=1` adds machines
//! whose firmware takes long, `QEMU_LOGBUF_MATRIX=FILE` has the table written
//! there, between the markers if it has them (README.md does). What is not
//! run is said, with the reason, and so in the table.

#[allow(dead_code)]
#[path = "../boot/guest.rs"]
mod guest;
#[allow(dead_code)]
#[path = "../boot/lab.rs"]
mod lab;

mod cells;
mod files;
mod oracle;
mod run;
mod table;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cells::Cell;
use run::{Bench, Outcome};

/// How many cells run at a time.
const TOGETHER: usize = 2;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| !w.starts_with('-')).collect();
    let listed = std::env::args().any(|word| word == "--list");
    let cells: Vec<Cell> = cells::all()
        .into_iter()
        .filter(|cell| words.iter().all(|word| run::name(cell).contains(word.as_str())))
        .collect();
    if listed {
        cells.iter().for_each(|cell| println!("{}: test", run::name(cell)));
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    let bench = Bench::new();
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Outcome>>> = Mutex::new(cells.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..TOGETHER {
            scope.spawn(|| {
                while let Some((number, cell)) = {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    cells.get(number).map(|cell| (number, cell))
                } {
                    let begin = Instant::now();
                    let outcome = bench.run(cell);
                    let seconds = begin.elapsed().as_secs_f32();
                    println!("{}: {outcome} ({seconds:.1} s)", run::name(cell));
                    done.lock().expect("a list")[number] = Some(outcome);
                }
            });
        }
    });
    let outcomes: Vec<Outcome> = done.into_inner().expect("a list").into_iter().flatten().collect();
    let count = |is: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    let slow = count(|outcome| matches!(outcome, Outcome::Slow));
    let table = table::markdown(&cells, &outcomes);
    println!("\n{table}");
    if slow > 0 {
        println!("{slow} cells wait for slow firmware; QEMU_LOGBUF_SLOW=1 runs them");
    }
    let right = outcomes.len() - failed - skipped - slow;
    println!(
        "matrix: {right} right, {failed} wrong, {skipped} skipped, {slow} slow ones not run; {:.0} s",
        start.elapsed().as_secs_f32()
    );
    if let Some(path) = std::env::var_os("QEMU_LOGBUF_MATRIX") {
        table::write(path.as_ref(), &table).expect("the table can be written");
    }
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
