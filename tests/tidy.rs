//! Keeps the house in order: the walls between modules and the length of files. It reads the sources as text and
//! starts nothing. Documents: `documents.rs`.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 600;

/// What `protocol` and `ws` do without: tasks, clocks, randomness, sockets, files, threads.
const NOT_IN_ROW_0: &[&str] =
    &["tokio", "Instant", "SystemTime", "getrandom", "std::net", "std::fs", "std::io", "std::thread", "tracing"];

/// Where an event passes, nothing locks.
const WITHOUT_LOCKS: &[&str] = &["shard", "publish", "inbox", "ingress", "protocol", "ws"];

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file under `src`, its path from there, in order.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.strip_prefix(&root).unwrap().to_owned(), read(&path)));
            }
        }
    }
    assert!(found.len() > 30, "only {} files were found", found.len());
    found.sort();
    found
}

/// `shard/conn.rs` and `shard.rs` belong to the module `shard`.
fn module(path: &Path) -> String {
    path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The lines that are code, numbered: no whole lines of comment, nor the unit tests at the end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().take_while(|line| *line != "mod tests {").enumerate();
    lines.map(|(index, line)| (index + 1, line)).filter(|(_, line)| !line.trim().starts_with("//"))
}

/// The table of rows in ARCHITECTURE.md.
fn rows() -> HashMap<String, u32> {
    let mut rows = HashMap::new();
    for line in read("ARCHITECTURE.md").lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, row, modules, _] = cells[..] else { continue };
        let Ok(row) = row.parse::<u32>() else { continue };
        for name in modules.split(',') {
            assert_eq!(rows.insert(name.trim().trim_matches('`').to_owned(), row), None, "{name} has two rows");
        }
    }
    rows
}

/// The modules that `crate::…` names in a line, also those of `use crate::{…}`.
fn used(line: &str) -> Vec<String> {
    let names = line.split("crate::").skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        Some(group) => group.split('}').next().unwrap().split(',').map(str::trim).collect(),
        None => vec![rest],
    });
    names.map(|name| name.split(|c: char| c != '_' && !c.is_alphanumeric()).next().unwrap().to_owned()).collect()
}

#[test]
fn modules_use_lower_rows_only() {
    let rows = rows();
    let row = |name: &str| *rows.get(name).unwrap_or_else(|| panic!("{name} has no row in ARCHITECTURE.md"));
    let mut wrong = Vec::new();
    let mut uses = 0;
    for (path, text) in sources() {
        let own = module(&path);
        if own == "lib" {
            continue;
        }
        for (number, line) in code(&text) {
            for name in used(line).iter().filter(|name| **name != own) {
                uses += 1;
                if row(name) >= row(&own) {
                    wrong.push(format!("src/{}:{number}: {own} uses {name}", path.display()));
                }
            }
        }
    }
    assert!(uses > 50, "only {uses} uses were found");
    assert!(wrong.is_empty(), "against the rows of ARCHITECTURE.md:\n{}", wrong.join("\n"));
    assert_eq!(used("use crate::{a, b::c}; crate::d::E"), ["a", "b", "d"]);
}

#[test]
fn the_protocol_has_no_io_clock_or_randomness_and_delivery_no_lock() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let own = module(&path);
        let mut refused = Vec::new();
        if matches!(own.as_str(), "protocol" | "ws") {
            refused.extend(NOT_IN_ROW_0);
        }
        if WITHOUT_LOCKS.contains(&own.as_str()) {
            refused.extend(["Mutex", "RwLock"]);
        }
        for (number, line) in code(&text) {
            for word in refused.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("src/{}:{number}: {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "not here:\n{}", wrong.join("\n"));
}

#[test]
fn files_stay_readable() {
    for (path, text) in sources().into_iter().filter(|(path, _)| !path.ends_with("tests.rs")) {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "src/{} has {lines} lines: it holds two ideas", path.display());
    }
}

/// Where the wall clock is asked: it jumps, so nothing that waits or counts may depend on it. Times of requests and
/// of webhooks, and between which there is a gap, are told to others; a node's id, the age of the process and the log's lines only look like a time.
const WALL_CLOCK: &[&str] = &[
    "cli/bench/publish.rs",
    "cli/demo/application.rs",
    "cli/demo/standin.rs",
    "cluster.rs",
    "cluster/message.rs",
    "doctor/clock.rs",
    "fuzzing.rs",
    "http/api/legacy.rs",
    "http/api/mod.rs",
    "http/api/signed.rs",
    "http/operations.rs",
    "ingress.rs",
    "log/json.rs",
    "metrics.rs",
    "server/reload.rs",
    "shard/resume/mod.rs",
    "tap.rs",
    "tls/expiry.rs",
    "webhook/courier.rs",
];

#[test]
fn the_wall_clock_is_asked_in_few_places() {
    let mut asked: Vec<String> = Vec::new();
    for (path, text) in sources() {
        if code(&text).any(|(_, line)| line.contains("SystemTime")) {
            asked.push(path.display().to_string());
        }
    }
    let new: Vec<_> = asked.iter().filter(|path| !WALL_CLOCK.contains(&path.as_str())).collect();
    assert!(new.is_empty(), "a jump of the clock must be harmless there: {new:?}");
    assert!(asked.len() > 5, "only {asked:?}");
}

/// A comparison that ends at the first wrong byte tells by its time how many were right.
#[test]
fn signatures_are_compared_in_constant_time() {
    let signature = read("src/protocol/signature.rs");
    let verify = signature.split("pub fn verify(").nth(1).unwrap().split("\n}").next().unwrap();
    assert!(verify.contains("verify_slice"), "{verify}");
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (number, line) in code(&text) {
            // What is made to be sent, or checked here, is compared nowhere else.
            if line.contains("sign(") && (line.contains("==") || line.contains("!=")) {
                wrong.push(format!("src/{}:{number}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "compare with signature::verify: {wrong:?}");
}
