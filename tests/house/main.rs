//! The house rules that a compiler does not check: what is documented is
//! there, what is there is documented, and what we depend on is permitted.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use qemu_logbuf::cli;

/// Licences that a static binary under MIT or Apache-2.0 may hold.
const PERMITTED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The options of the program, such as `--logbuf-key`.
fn options() -> BTreeSet<String> {
    cli::command()
        .get_arguments()
        .filter_map(|argument| Some(format!("--{}", argument.get_long()?)))
        .collect()
}

/// The words in a text that look like options of ours.
fn mentioned(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '-';
    text.match_indices("--logbuf-")
        .map(|(at, _)| text[at..].chars().take_while(|c| is_name(*c)).collect::<String>())
        .map(|name| name.trim_end_matches('-').to_owned())
        .filter(|name| name != "--logbuf")
        .collect()
}

#[test]
fn the_manual_documents_every_option_and_no_other() {
    let manual = read("man/qemu-logbuf.1");
    let documented: BTreeSet<String> = manual
        .lines()
        .filter_map(|line| line.strip_prefix(".It Fl -logbuf-"))
        .map(|rest| format!("--logbuf-{}", rest.split(' ').next().unwrap_or_default()))
        .collect();
    assert_eq!(documented, options());
}

#[test]
fn help_and_readme_speak_of_options_that_exist() {
    assert_eq!(mentioned(&cli::help()), options());
    // `--logbuf-x` stands for any of them.
    let mut strange = mentioned(&read("README.md"));
    strange.retain(|name| !options().contains(name) && name != "--logbuf-x");
    assert!(strange.is_empty(), "{strange:?}");
}

/// Our words in an example of a shell, as the program would get them.
fn words_in(line: &str) -> Vec<std::ffi::OsString> {
    line.split(' ')
        .filter(|word| word.starts_with("--logbuf-"))
        .map(|word| word.replace('\'', "").into())
        .collect()
}

#[test]
fn examples_are_understood() {
    let manual = read("man/qemu-logbuf.1");
    let examples = manual.lines().filter_map(|line| line.strip_prefix(".Dl "));
    // Blanks within quotes would take a shell to read.
    let examples = examples.map(|line| line.replace("'Run /init'", "'/init'"));
    let examples: Vec<_> = examples.filter(|line| line.contains("--logbuf-")).collect();
    assert!(examples.len() >= 4, "{examples:?}");
    for example in examples {
        let request = cli::request(&words_in(&example), |_| None);
        assert!(request.is_ok(), "{example}: {request:?}");
    }
}

#[test]
fn what_the_documents_link_to_is_there() {
    for name in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = read(name);
        let after = |mark| text.split(mark).skip(1);
        let links = after("](").filter_map(|rest| rest.split(')').next());
        let pictures = after("src=\"").chain(after("srcset=\""));
        let pictures = pictures.filter_map(|rest| rest.split('"').next());
        let local = links.chain(pictures).filter(|link| !link.starts_with("https://"));
        // As forges name headings: in small letters, with hyphens for blanks.
        let headings: BTreeSet<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .map(|heading| format!("#{}", heading.to_lowercase().replace(' ', "-")))
            .collect();
        for link in local {
            if link.starts_with('#') {
                assert!(headings.contains(link), "{name} has no heading {link}");
                continue;
            }
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(link);
            assert!(path.exists(), "{name} links to {link}");
        }
    }
}

/// The values of a word that a completion must offer, and the program takes.
fn fixed_values() -> Vec<(String, BTreeSet<String>)> {
    let names = options().into_iter();
    let all = names.map(|option| {
        let choices = cli::choices(option.trim_start_matches("--logbuf-"));
        (option, choices.iter().map(|choice| (*choice).to_owned()).collect::<BTreeSet<_>>())
    });
    all.filter(|(_, choices)| !choices.is_empty()).collect()
}

/// What a shell says, one word a line; `None` where there is no such shell.
fn shell(name: &str, script: &str) -> Option<BTreeSet<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/completions");
    match Command::new(name).args(["-c", script]).current_dir(folder).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout).expect("text");
            let words = text.lines().map(|line| line.split('\t').next().unwrap_or_default());
            // What precedes the value, and what a value follows.
            let words =
                words.map(|word| word.trim_end_matches('=').rsplit('=').next().unwrap_or(word));
            Some(words.map(str::to_owned).collect())
        }
        Err(_) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: no {name}");
            None
        }
        Err(error) => panic!("{name}: {error}; tests/run-all installs it"),
    }
}

#[test]
fn bash_completes_every_option_and_value_and_no_other() {
    let ask = |words: &str, last: usize| {
        shell(
            "bash",
            &format!(
                "source ./qemu-logbuf.bash; COMP_WORDS=(qemu-logbuf {words}); COMP_CWORD={last}
                _qemu_logbuf qemu-logbuf; printf '%s\\n' \"${{COMPREPLY[@]}}\""
            ),
        )
    };
    let Some(offered) = ask("--logbuf-", 1) else { return };
    assert_eq!(offered, options());
    for (option, values) in fixed_values() {
        // As bash splits words, and as it does without = in COMP_WORDBREAKS.
        assert_eq!(ask(&format!("{option} ="), 2).as_ref(), Some(&values), "{option}");
        assert_eq!(ask(&format!("{option}="), 1).as_ref(), Some(&values), "{option}");
    }
    let others = "complete -W other qemu-system-ppc64; source ./qemu-logbuf.bash
        complete -p qemu-system-ppc64";
    let kept = shell("bash", others).expect("bash");
    assert!(kept.iter().all(|line| line.contains("other")), "{kept:?}");
}

#[test]
fn fish_completes_every_option_and_value_and_no_other() {
    let ask = |words: &str| {
        shell("fish", &format!("source ./qemu-logbuf.fish; complete -C 'qemu-logbuf {words}'"))
    };
    let Some(offered) = ask("--logbuf-") else { return };
    assert_eq!(offered, options());
    for (option, values) in fixed_values() {
        assert_eq!(ask(&format!("{option}=")).as_ref(), Some(&values), "{option}");
    }
}

#[test]
fn zsh_completion_holds_every_option_and_value_and_no_other() {
    let text = read("man/completions/_qemu-logbuf");
    assert_eq!(mentioned(&text), options());
    for (option, values) in fixed_values() {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{option}=*)")));
        let offered =
            line.and_then(|line| line.split_once("compadd ")).expect("a line of values").1;
        let offered: BTreeSet<_> =
            offered.trim_end_matches(" ;;").split(' ').map(str::to_owned).collect();
        assert_eq!(offered, values, "{option}");
    }
}

#[test]
fn the_manual_is_well_formed() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/qemu-logbuf.1");
    match Command::new("mandoc").args(["-Tlint", "-Wwarning"]).arg(manual).output() {
        Ok(lint) => {
            assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
        }
        Err(_) if std::env::var_os("CI").is_none() => eprintln!("skipped: no mandoc"),
        Err(error) => panic!("mandoc: {error}; tests/run-all installs it"),
    }
}

#[test]
fn every_dependency_has_a_permissive_licence() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 10);
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("none");
        let name = package["name"].as_str().unwrap_or_default();
        assert!(is_permitted(licence), "{name} is under {licence}");
    }
}

/// Whether an SPDX expression offers a choice of permitted licences.
fn is_permitted(licence: &str) -> bool {
    let plain = licence.replace(['(', ')'], "").replace('/', " OR ");
    plain.split(" AND ").all(|part| part.split(" OR ").any(|name| PERMITTED.contains(&name.trim())))
}

#[test]
fn every_dependency_is_pinned_and_from_the_one_registry() {
    const REGISTRY: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    for (lock, ours) in [("Cargo.lock", 1), ("fuzz/Cargo.lock", 2)] {
        let text = read(lock);
        let lines = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        let theirs = lines("[[package]]") - ours;
        assert!(theirs > 10, "{lock}");
        let found = (lines(REGISTRY), lines("source = "), lines("checksum = "));
        assert_eq!(found, (theirs, theirs, theirs), "{lock}");
    }
}

/// The scripts of the repository: files that begin with `#!`.
fn scripts(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let skipped = ["target", "corpus", "seeds", "regressions", "artifacts"];
        if path.is_dir() {
            let name = entry.file_name();
            if !skipped.iter().any(|skipped| name == *skipped) {
                scripts(&path, found);
            }
        } else if let Ok(text) = std::fs::read_to_string(&path)
            && text.starts_with("#!")
        {
            found.push((path.display().to_string(), text));
        }
    }
}

#[test]
fn every_script_uses_the_lock_file() {
    let mut found = Vec::new();
    for folder in [".ci", "tests", "fuzz"] {
        scripts(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
    }
    assert!(found.len() > 5, "{found:?}");
    let builds = ["build", "test", "run", "clippy", "doc", "check", "bench", "metadata"];
    for (path, text) in found {
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let mut words = line.split_whitespace().skip_while(|word| *word != "cargo").skip(1);
            let verb = words.find(|word| !word.contains('+'));
            let needs = verb.is_some_and(|verb| builds.contains(&verb));
            assert!(!needs || line.contains("--locked"), "{path}: {line}");
        }
    }
}

/// A file's text without its unit tests, which come last.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default()
}

#[test]
fn no_program_is_run_but_qemu_and_no_shell() {
    let mut found = 0;
    visit_sources(&mut |path, text| {
        for (at, call) in without_tests(text).match_indices("Command::new(") {
            let rest = &text[at + call.len()..];
            // The second is clap's.
            let known = ["&qemu.path)", "\"qemu-logbuf\")"];
            assert!(known.iter().any(|known| rest.starts_with(known)), "{}", path.display());
            found += 1;
        }
        for word in ["libc::system", "libc::popen", "libc::exec", "/bin/sh", "\"sh\"", "\"-c\""] {
            assert!(!without_tests(text).contains(word), "{} has {word}", path.display());
        }
    });
    assert!(found > 2, "{found}");
}

/// Show each source file to `look`.
fn visit_sources(look: &mut impl FnMut(&Path, &str)) {
    fn visit(folder: &Path, look: &mut impl FnMut(&Path, &str)) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                visit(&path, look);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                look(&path, &std::fs::read_to_string(&path).expect("text"));
            }
        }
    }
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), look);
}

#[test]
fn only_sys_holds_unsafe_code() {
    let mut found = Vec::new();
    visit_sources(&mut |path, text| {
        assert!(text.starts_with("//!"), "{} has no header", path.display());
        let uses = text.lines().any(|line| line.trim_start().starts_with("unsafe "));
        if uses || text.contains("unsafe {") {
            found.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    });
    assert_eq!(found, ["sys.rs"]);
}
