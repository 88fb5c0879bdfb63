//! Holds the documents against the code: links lead somewhere, commands are commands, blocks of configuration
//! are read, quotes are what the server says, and every setting is described. It reads text; nothing is served.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use laravel_echo_server::config::Config;
use laravel_echo_server::metrics;
use laravel_echo_server::protocol::why::Why;

/// What stands in quotes in place of what the server fills in; the longest first.
const FILLED_IN: &[&str] = &[
    "with the key prefix \"talent2income_database_\"",
    "with the key prefix \"other_database_\"",
    "\"talent2income_database_\"",
    "\"other_database_\"",
    "…",
];

/// Where every setting and variable has its line.
const SETTINGS: &str = "docs/settings.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files under a folder whose names end so, in order; paths from the root.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().unwrap().ends_with(end) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Every page that people read, with its path from the root.
fn documents() -> Vec<(PathBuf, String)> {
    let pages =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "benches/README.md"].map(PathBuf::from);
    let pages: Vec<_> = pages.into_iter().chain(files("docs", ".md")).map(|path| (path.clone(), read(&path))).collect();
    assert!(pages.len() > 10, "only {} documents were found", pages.len());
    pages
}

/// Blocks in three backticks of one language: the document, the line, the text.
fn blocks(language: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (path, text) in documents() {
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let Some(own) = line.trim_start().strip_prefix("```") else { continue };
            let inside: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            if own == language {
                found.push((format!("{}:{}", path.display(), number + 1), inside.join("\n")));
            }
        }
    }
    found
}

/// The lines outside of blocks, without what stands in backticks.
fn prose(text: &str) -> String {
    let outside = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
    outside.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// The name by which `#…` leads to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_lead_somewhere() {
    let anchors = |text: &str| -> HashSet<String> {
        let outside = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
        let headings = outside.lines().filter(|line| line.starts_with('#'));
        headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
    };
    let mut found = 0;
    for (path, text) in documents() {
        let mut links: Vec<String> =
            prose(&text).split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned()).collect();
        links.retain(|link| !link.contains("://"));
        for link in links {
            let (file, fragment) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(root().join(&target).exists(), "{}: there is no {link}", path.display());
            let is_there = fragment.is_empty() || anchors(&read(&target)).contains(fragment);
            assert!(is_there, "{}: no heading makes {link}", path.display());
            found += 1;
        }
    }
    assert!(found > 60, "only {found} links were found");
}

/// The book's index leads to each page of it.
#[test]
fn each_page_is_in_the_index() {
    let index = read("docs/README.md");
    for page in files("docs", ".md") {
        let name = page.strip_prefix("docs").unwrap().display().to_string();
        assert!(name == "README.md" || index.contains(&format!("]({name})")), "docs/README.md does not lead to {name}");
    }
}

#[test]
fn files_are_shown_as_they_are() {
    let all: String = documents().into_iter().map(|(_, text)| text).collect();
    for (language, path) in [
        ("json", "laravel-echo-server.json"),
        ("js", "tests/e2e/fixtures/echo-setup.js"),
        ("nginx", "examples/nginx/broadcasting-auth.conf"),
        ("nginx", "examples/nginx/websocket.conf"),
    ] {
        let block = format!("```{language}\n{}\n```", read(path).trim_end());
        assert!(all.contains(&block), "no document shows {path} as it is");
    }
    // And no document shows configuration for another program that no test has tried.
    for (language, folder) in [("nginx", "examples/nginx")] {
        let examples: Vec<String> = files(folder, ".conf").iter().map(read).collect();
        for (place, block) in blocks(language) {
            assert!(examples.iter().any(|example| example.trim_end() == block), "{place} is no file of {folder}");
        }
    }
}

/// Each command line with this program's name is one that the program takes. `--help` behind it keeps it from
/// doing anything; what stands before that is looked at first.
#[test]
fn commands_are_commands() {
    let names = |line: &str| line.starts_with("laravel-echo-server ") && !line.contains('…');
    let mut lines = Vec::new();
    for (place, block) in blocks("sh") {
        let block = block.replace("\\\n", " ");
        let own = block.lines().map(|line| {
            line.trim().trim_start_matches("sudo ").replace("cargo run --release -- ", "laravel-echo-server ")
        });
        lines.extend(own.filter(|line| names(line)).map(|line| (place.clone(), line)));
    }
    for (path, text) in documents() {
        let inline = text.split("\n```").step_by(2).flat_map(|part| part.split('`').skip(1).step_by(2));
        let inline = inline.filter(|code| names(code) && !code.contains(".json") && !code.contains('\n'));
        lines.extend(inline.map(|line| (path.display().to_string(), line.to_owned())));
    }
    assert!(lines.len() > 5, "only {lines:?}");
    for (place, line) in lines {
        // What the shell does with it is the shell's.
        let own = [" #", " >", " |", " &&"].iter().fold(line.as_str(), |line, end| line.split(end).next().unwrap());
        let words = own.split_whitespace().skip(1);
        // What is optional stands in brackets.
        let words = words.map(|word| word.trim_matches(|c| "[]'\"".contains(c)));
        let output =
            Command::new(env!("CARGO_BIN_EXE_laravel-echo-server")).args(words).arg("--help").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{place}: {line}\n{said}");
    }
}

/// Each block of JSON is a configuration, or some members of one, and has no key that is not known.
#[test]
fn json_is_configuration() {
    let blocks = blocks("json");
    assert!(blocks.len() > 4, "only {blocks:?}");
    for (place, block) in blocks {
        let whole = match block.trim_start().starts_with('{') {
            true => block,
            false => format!("{{ {} }}", block.trim_end().trim_end_matches(',')),
        };
        let config =
            Config::parse(Path::new(&place), whole.as_bytes(), &|_| None).unwrap_or_else(|error| panic!("{error}"));
        let unknown: Vec<_> = config.warnings.iter().filter(|warning| warning.contains("not a known key")).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[test]
fn every_key_and_variable_is_described() {
    let (settings, known, file) = (read(SETTINGS), read("src/config/known.rs"), read("src/config/file.rs"));
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
        assert!(settings.contains(&format!("`{name}`")), "{SETTINGS} does not describe `{name}`");
    }
}

#[test]
fn quotes_are_what_the_server_says() {
    // String literals as they are printed: continued lines joined, quotes and braces without escapes.
    let said: String = files("src", ".rs").iter().map(|path| printed(&read(path))).collect();
    let mut quotes = 0;
    for (path, text) in documents() {
        for quote in text.lines().filter_map(|line| line.strip_prefix("> ")) {
            let mut fixed = vec![quote];
            for value in FILLED_IN {
                fixed = fixed.into_iter().flat_map(|text| text.split(value)).collect();
            }
            for part in fixed.into_iter().map(str::trim) {
                let path = path.display();
                assert!(said.contains(part), "{path} quotes what the server does not say: {part:?} in\n{quote}");
            }
            quotes += 1;
        }
    }
    assert!(quotes > 20, "only {quotes} quotes were found");
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
    for document in ["docs/protocol.md", "docs/upgrading.md", "docs/faults.md", "SECURITY.md"] {
        for line in read(document).lines().filter(|line| line.starts_with("| ")) {
            let last = line.trim_end().trim_end_matches('|').rsplit(" | ").next().unwrap();
            // Of a threat or a fault without a test nothing is known.
            let is_heading = last.trim() == "tests";
            assert!(
                is_heading || !["docs/faults.md", "SECURITY.md"].contains(&document) || last.split('`').count() > 4,
                "{document} has no test in the line {line:.60}"
            );
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

/// The table of metrics is what the server says of them itself.
#[test]
fn each_metric_is_described_as_it_is() {
    let row = |metric: &metrics::Description| {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {} |", metric.name, metric.of_type, labels.join(", "), metric.help)
    };
    let expected: Vec<String> = metrics::all().map(row).collect();
    let text = read("docs/monitoring.md");
    let found: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("| `laravel_echo_server_") || line.starts_with("| `process_"))
        .collect();
    assert!(found == expected, "docs/monitoring.md should have these lines:\n{}", expected.join("\n"));
}

/// Metrics that dashboards and alerts use are there, with the labels that they use.
#[test]
fn dashboards_and_alerts_use_metrics_that_exist() {
    let known: HashSet<String> = metrics::all()
        .flat_map(|metric| {
            let suffixes: &[&str] = match metric.of_type {
                metrics::Type::Histogram => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            suffixes.iter().map(|suffix| format!("{}{suffix}", metric.name))
        })
        .collect();
    let labels: HashSet<&str> = metrics::all().flat_map(|metric| metric.labels.iter().copied()).collect();
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("examples/grafana/laravel-echo-server.json")).unwrap();
    let mut expressions = Vec::new();
    collect_expressions(&dashboard, &mut expressions);
    let alerts = read("examples/grafana/alerts.yml");
    let in_alerts = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned);
    expressions.extend(in_alerts);
    assert!(expressions.len() > 25, "only {expressions:?}");
    for expression in expressions {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut names = expression
            .split(|c: char| !is_name(c))
            .filter(|word| word.starts_with("laravel_echo_server_") || word.starts_with("process_"));
        assert!(names.clone().count() > 0, "{expression} asks for nothing of this server");
        assert!(names.all(|name| known.contains(name)), "{expression} asks for what there is not");
        for group in expression.split("by (").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            for label in group.split(',').map(str::trim).filter(|label| !matches!(*label, "le" | "instance" | "job")) {
                assert!(labels.contains(label), "{expression} groups by {label}, which is no label");
            }
        }
    }
    let monitoring = read("docs/monitoring.md");
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(monitoring.contains(&format!("`{alert}`")), "docs/monitoring.md does not tell what to do at {alert}");
    }
}

fn collect_expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(members) => {
            found.extend(members.get("expr").and_then(|expression| expression.as_str()).map(str::to_owned));
            members.values().for_each(|member| collect_expressions(member, found));
        }
        serde_json::Value::Array(elements) => elements.iter().for_each(|element| collect_expressions(element, found)),
        _ => {}
    }
}

/// Each reason for a refusal stands in the table of the symptoms, with its cure.
#[test]
fn each_reason_and_its_cure_is_described() {
    let text = read("docs/troubleshooting.md");
    for why in Why::ALL {
        let row = format!("| `{}` | {} |", why.name(), why.cure());
        assert!(text.contains(&row), "docs/troubleshooting.md lacks the line\n{row}");
    }
}
