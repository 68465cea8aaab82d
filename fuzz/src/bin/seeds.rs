//! Writes the seeds: `seeds DIRECTORY` makes DIRECTORY/TARGET/seed-N.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let into = std::env::args_os().nth(1).expect("usage: seeds DIRECTORY");
    for (number, (target, bytes)) in qemu_logbuf_fuzz::seeds::all().into_iter().enumerate() {
        let folder = Path::new(&into).join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("seed-{number}")), bytes)?;
    }
    Ok(())
}
