//! What may differ between two runs of anything, taken out of their output:
//! process ids, pty numbers and the directory; and what is ours by design: the
//! one line that `info chardev` has more, and our keys beneath QEMU's help.

use std::path::Path;

/// Output, made comparable.
pub fn normal(bytes: &[u8], directory: &Path) -> String {
    let text = String::from_utf8_lossy(bytes).replace(&*directory.to_string_lossy(), "CWD");
    let mut lines = Vec::new();
    for line in text.split_inclusive('\n') {
        let ours = line.starts_with("qemu-logbuf: filename=")
            || line.trim_end().ends_with("(qemu-logbuf)");
        if !ours {
            // QEMU looks its killer's name up, which may be gone by then.
            let line = without_numbers(line)
                .replace("from pid N ()", "from pid N (bash)")
                .replace("from pid N (<unknown process>)", "from pid N (bash)");
            // The name of a temporary file; bash's table of a pipeline.
            let line = match line.split_once("/vl.") {
                Some((head, tail)) if tail.len() > 6 && tail.is_char_boundary(6) => {
                    format!("{head}/vl.{}", &tail[6..])
                }
                _ => line,
            };
            match line.trim_start().split_once(' ') {
                Some((pid, rest)) if line.starts_with("    ") && pid.parse::<u32>().is_ok() => {
                    lines.push(format!("    N {rest}"));
                }
                _ => lines.push(line),
            }
        }
    }
    lines.concat()
}

/// A file: as output, or a process id and nothing else.
pub fn normal_file(bytes: &[u8], directory: &Path) -> String {
    let text = normal(bytes, directory);
    match text.trim_end().parse::<u32>() {
        Ok(_) => "PID\n".to_owned(),
        Err(_) => text,
    }
}

/// A line with the numbers after these words taken out.
fn without_numbers(line: &str) -> String {
    // bash gives a process id five columns or more.
    let mut line = match line.split_once("line 1: ") {
        Some((head, tail)) => format!("{head}line 1: {}", tail.trim_start()),
        None => line.to_owned(),
    };
    for word in [
        "pid ",
        "/dev/pts/",
        "] ",
        "PID: ",
        "thread_id=",
        "seconds\": ",
        "thread-id\": ",
        "line 1: ",
        "#block",
        "[00:00:00.",
    ] {
        let mut out = String::new();
        let mut rest = line.as_str();
        while let Some(at) = rest.find(word) {
            let (head, tail) = rest.split_at(at + word.len());
            out.push_str(head);
            let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
            if digits > 0 {
                out.push('N');
            }
            rest = &tail[digits..];
        }
        out.push_str(rest);
        line = out;
    }
    line
}
