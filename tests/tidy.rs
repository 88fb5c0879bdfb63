//! Keeps the house in order: the walls between modules, the length of files, and documents that say
//! what the code does. It reads the sources as text and starts nothing.

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

/// What stands in the README's quotes in place of what the server fills in; the longest first.
const FILLED_IN: &[&str] = &[
    "with the key prefix \"talent2income_database_\"",
    "with the key prefix \"other_database_\"",
    "\"talent2income_database_\"",
    "\"other_database_\"",
    "…",
];

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

#[test]
fn the_readme_shows_the_files_as_they_are() {
    let readme = read("README.md");
    for (language, path) in [
        ("json", "laravel-echo-server.json"),
        ("js", "tests/e2e/fixtures/echo-setup.js"),
        ("nginx", "examples/nginx/broadcasting-auth.conf"),
        ("nginx", "examples/nginx/websocket.conf"),
    ] {
        let block = format!("```{language}\n{}\n```", read(path).trim_end());
        assert!(readme.contains(&block), "README.md does not show {path} as it is");
    }
}

#[test]
fn the_readme_names_every_key_and_variable() {
    let (readme, known, file) = (read("README.md"), read("src/config/known.rs"), read("src/config/file.rs"));
    let table = |name: &str| {
        let rest = known.split(&format!("const {name}: &[&str] = &[")).nth(1).unwrap();
        let keys: Vec<&str> = rest.split("];").next().unwrap().split('"').skip(1).step_by(2).collect();
        assert!(keys.len() > 20, "{name} has only {keys:?}");
        keys
    };
    let in_full = table("USED").into_iter().map(str::to_owned);
    // Keys that do nothing are listed by their last part.
    let by_last_part = table("OLD").into_iter().map(|key| key.rsplit('.').next().unwrap().to_owned());
    let mut variables: Vec<String> =
        file.split('"').filter(|text| text.starts_with("LARAVEL_ECHO_SERVER_")).map(str::to_owned).collect();
    assert!(variables.len() > 5, "only {variables:?}");
    let environment = read("src/config/environment.rs");
    let (environment, _) = environment.split_once("mod tests {").unwrap();
    let is_variable = |text: &&str| {
        let is_name = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
        text.contains('_') && text.bytes().all(is_name)
    };
    variables.extend(environment.split('"').filter(is_variable).map(str::to_owned));
    assert!(variables.len() > 25, "only {variables:?}");
    for name in in_full.chain(by_last_part).chain(variables) {
        assert!(readme.contains(&format!("`{name}`")), "README.md does not name `{name}`");
    }
}

#[test]
fn the_readme_quotes_the_server() {
    // String literals as they are printed: continued lines joined, quotes and braces without escapes.
    let said: String = sources().into_iter().map(|(_, text)| printed(&text)).collect();
    let readme = read("README.md");
    let quotes: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("> ")).collect();
    assert!(quotes.len() > 10, "only {} quotes were found", quotes.len());
    for quote in quotes {
        let mut fixed = vec![quote];
        for value in FILLED_IN {
            fixed = fixed.into_iter().flat_map(|text| text.split(value)).collect();
        }
        for part in fixed.into_iter().map(str::trim) {
            assert!(said.contains(part), "README.md quotes what the server does not say: {part:?} in\n{quote}");
        }
    }
}

fn printed(source: &str) -> String {
    let mut lines = source.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let joined = lines.fold(first, |text, line| text + line.trim_start());
    joined.replace("\\\"", "\"")
}

/// Tables that name tests: the last cell has files in backticks, and behind each the tests in it: a function's
/// name, or how the title of a JavaScript test goes on.
#[test]
fn tests_that_documents_name_exist() {
    let mut named = 0;
    for document in ["docs/protocol.md", "docs/upgrading.md"] {
        for line in read(document).lines().filter(|line| line.starts_with("| ")) {
            let last = line.trim_end().trim_end_matches('|').rsplit(" | ").next().unwrap();
            let mut file = None;
            for word in last.split('`').skip(1).step_by(2) {
                let is_file = ["tests/", "src/"].iter().any(|folder| word.starts_with(folder));
                if is_file {
                    file = Some((word, read(word)));
                } else if let Some((path, text)) = &file {
                    let is_there = match path.ends_with(".rs") {
                        true => text.contains(&format!("fn {word}(")),
                        false => text.contains(word) || text.contains(&word.replace('\'', "\\'")),
                    };
                    assert!(is_there, "{document} names the test {word:?}, which is not in {path}");
                    named += 1;
                }
            }
        }
    }
    assert!(named > 60, "only {named} tests were found");
}

/// What the side-by-side tests find to be different is what people are told.
#[test]
fn each_deliberate_difference_is_in_the_document() {
    let document = read("docs/upgrading.md");
    let list = read("tests/e2e/lib/differences.mjs");
    let names: Vec<&str> =
        list.lines().filter_map(|line| line.strip_prefix("  '")).map(|line| line.split('\'').next().unwrap()).collect();
    assert!(names.len() > 20, "only {names:?}");
    for name in names {
        assert!(document.contains(&format!("| {name} |")), "docs/upgrading.md does not have the difference {name:?}");
    }
}
