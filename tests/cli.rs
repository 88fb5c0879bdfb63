//! The real program, from outside: what it says and which exit code it leaves, as scripts and
//! people see it. Nothing here needs a port, Redis or Laravel.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_laravel-echo-server");
const FILE: &str = "laravel-echo-server.json";
const APP: &str = r#""clients": [ { "appId": "my-app", "key": "my-app-key" } ]"#;

fn program(directory: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    // Nothing of the environment of whoever runs the tests shall count.
    command.current_dir(directory).env_clear().env("LARAVEL_ECHO_SERVER_LOG_FORMAT", "text").stdin(Stdio::null());
    command
}

fn run(directory: &Path, arguments: &[&str]) -> Output {
    program(directory).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs `start` on a file of this content. It must fail with exactly this on stderr.
#[track_caller]
fn refused(content: impl AsRef<[u8]>, expected: &str) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(FILE), content).unwrap();
    fails(&run(directory.path(), &["start"]), expected);
}

#[track_caller]
fn fails(output: &Output, expected: &str) {
    assert_eq!(text(&output.stderr), format!("Error: {expected}\n"));
    assert_eq!(text(&output.stdout), "");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_redis_port_that_is_none() {
    refused(
        format!(
            "{{\n  {APP},\n  \"databaseConfig\": {{\n    \"redis\": {{\n      \"port\": \"abc\"\n    }}\n  }}\n}}\n"
        ),
        "laravel-echo-server.json, line 5: \"databaseConfig.redis.port\" is \"abc\"; it must be a TCP port from 1 to \
         65535, as 6379 or \"6379\".",
    );
}

#[test]
fn a_port_of_six_digits() {
    refused(
        format!("{{ {APP},\n  \"port\": 123456 }}"),
        "laravel-echo-server.json, line 2: \"port\" is 123456; it must be a TCP port from 1 to 65535, as 6001 or \
         \"6001\" (or 0 for any free one).",
    );
}

#[test]
fn an_auth_host_without_scheme() {
    refused(
        format!("{{ \"authHost\": \"localhost:8000\",\n  {APP} }}"),
        "laravel-echo-server.json, line 1: \"authHost\" is \"localhost:8000\"; it must begin with http:// or https://, \
         as \"http://localhost:8000\".",
    );
}

#[test]
fn a_trailing_comma() {
    refused(
        format!("{{\n  {APP},\n}}\n"),
        "laravel-echo-server.json, line 3, column 1: JSON allows no comma before this closing bracket; remove it.\n\n  \
         3 | }\n    | ^",
    );
}

#[test]
fn a_missing_comma() {
    refused(
        format!("{{\n  {APP}\n  \"port\": 6001\n}}\n"),
        "laravel-echo-server.json, line 3, column 3: a comma or a closing bracket is missing before this place.\n\n  \
         3 |   \"port\": 6001\n    |   ^",
    );
}

#[test]
fn a_comment() {
    refused(
        "{\n  \"port\": 6001, // ours\n  \"devMode\": true\n}\n",
        "laravel-echo-server.json, line 2, column 17: JSON allows no comments; remove this one.\n\n  \
         2 |   \"port\": 6001, // ours\n    |                 ^",
    );
}

#[test]
fn a_file_that_ends_too_early() {
    refused(
        "{ \"port\": 6001,\n  \"devMode\": true",
        "laravel-echo-server.json, line 2, column 17: the file ends too early; a closing \", ] or } is missing.\n\n  \
         2 |   \"devMode\": true\n    |                 ^",
    );
}

#[test]
fn a_line_with_a_password_is_not_shown() {
    refused(
        "{ \"databaseConfig\": { \"redis\": { \"password\": \"hush\" \"db\": 1 } } }",
        "laravel-echo-server.json, line 1, column 53: a comma or a closing bracket is missing before this place.",
    );
}

#[test]
fn an_empty_file() {
    refused(
        "",
        "laravel-echo-server.json is empty. It must hold a JSON object, for example\n\n{\n  \"authHost\": \
         \"http://localhost:8000\",\n  \"clients\": [ { \"appId\": \"my-app\", \"key\": \"my-app-key\" } ],\n  \
         \"databaseConfig\": { \"redis\": { \"host\": \"127.0.0.1\", \"port\": 6379 } }\n}",
    );
}

#[test]
fn a_list_in_place_of_an_object() {
    refused("[ 1 ]", "laravel-echo-server.json: the file must be an object in braces, as { \"name\": \"value\" }.");
}

#[test]
fn bytes_that_are_no_text() {
    refused(b"{\n\xff\xfe }", "laravel-echo-server.json, line 2: the file is not UTF-8 here. Save it as UTF-8.");
}

#[test]
fn an_app_without_key() {
    refused(
        "{ \"clients\": [\n  { \"appId\": \"my-app\" } ] }",
        "laravel-echo-server.json, line 2: \"clients[0]\" has no \"key\"; add one, as \"key\": \"my-app-key\".",
    );
}

#[test]
fn two_apps_with_one_key() {
    refused(
        "{ \"clients\": [\n  { \"appId\": \"a\", \"key\": \"k\" },\n  { \"appId\": \"b\", \"key\": \"k\" } ] }",
        "laravel-echo-server.json, line 3: \"clients[1].key\" is \"k\"; it is that of clients[0] already; give each app \
         its own \"key\".",
    );
}

#[test]
fn https_without_a_certificate() {
    refused(
        format!("{{ {APP}, \"protocol\": \"https\" }}"),
        "laravel-echo-server.json, line 1: \"protocol\" is \"https\", which needs a PEM file, as \"sslCertPath\": \
         \"/etc/ssl/echo.pem\".",
    );
}

#[test]
fn a_certificate_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let config =
        format!("{{ {APP}, \"protocol\": \"https\", \"sslCertPath\": \"no.pem\", \"sslKeyPath\": \"no.key\" }}");
    fs::write(directory.path().join(FILE), config).unwrap();
    let output = run(directory.path(), &["start"]);
    let said = text(&output.stderr);
    assert!(said.starts_with("Error: The certificate in no.pem (sslCertPath) cannot be read: "), "{said}");
    // Relative to where it was started, not to the file's directory.
    assert!(said.contains("; this is /") && said.trim_end().ends_with("/no.pem."), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_wrong_variable_is_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(FILE), format!("{{ {APP} }}")).unwrap();
    let output = program(directory.path()).arg("start").env("LARAVEL_ECHO_SERVER_PORT", "http").output().unwrap();
    fails(
        &output,
        "The variable LARAVEL_ECHO_SERVER_PORT (of the environment, or in .env) is \"http\"; it must be a TCP port from 1 to 65535, as 6001 or \
         \"6001\" (or 0 for any free one).",
    );
}

#[test]
fn a_config_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap().join("nope.json");
    let output = run(directory.path(), &["start", "--config", "nope.json"]);
    fails(
        &output,
        &format!(
            "There is no file {}. Create it, for example with\n\n{{\n  \"authHost\": \"http://localhost:8000\",\n  \
             \"clients\": [ {{ \"appId\": \"my-app\", \"key\": \"my-app-key\" }} ],\n  \"databaseConfig\": {{ \
             \"redis\": {{ \"host\": \"127.0.0.1\", \"port\": 6379 }} }}\n}}\n\nor say where it is with --dir (its \
             directory) or --config (its name).",
            path.display()
        ),
    );
}

#[test]
fn a_directory_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().canonicalize().unwrap().join("nope");
    let output = run(directory.path(), &["start", "--dir", "nope"]);
    fails(
        &output,
        &format!(
            "There is no directory {}, so there is no file {} in it. Check --dir and --config.",
            missing.display(),
            missing.join(FILE).display()
        ),
    );
}

#[test]
fn a_directory_in_place_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    fails(
        &run(directory.path(), &["start", &format!("--config={path}")]),
        &format!("{path} is a directory. Name the configuration file with --config, or its directory with --dir."),
    );
}

#[test]
fn dir_and_config_find_the_file() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("app")).unwrap();
    fs::write(directory.path().join("app/echo.json"), "[]").unwrap();
    let output = run(directory.path(), &["start", "--dir", "app", "--config", "echo.json"]);
    fails(&output, "app/echo.json: the file must be an object in braces, as { \"name\": \"value\" }.");
}

#[test]
fn version_and_help() {
    let directory = tempfile::tempdir().unwrap();
    let version = run(directory.path(), &["--version"]);
    assert_eq!(text(&version.stdout), format!("laravel-echo-server {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(version.status.code(), Some(0));
    for arguments in [&["--help"][..], &["-h"], &["help"]] {
        let help = run(directory.path(), arguments);
        assert!(text(&help.stdout).contains("Usage: laravel-echo-server"), "{arguments:?}");
        assert!(text(&help.stdout).contains("Starts the server"), "{arguments:?}");
        assert_eq!(help.status.code(), Some(0));
    }
    let help = run(directory.path(), &["start", "--help"]);
    for option in ["--config <FILE>", "--dir <DIR>", "--dev"] {
        assert!(text(&help.stdout).contains(option), "{option}");
    }
    assert_eq!(help.status.code(), Some(0));
}

#[test]
fn no_command() {
    let directory = tempfile::tempdir().unwrap();
    let output = run(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("Usage: laravel-echo-server"));
    assert!(text(&output.stderr).ends_with("\nPlease provide a valid command.\n"));
}

#[test]
fn an_unknown_command() {
    let directory = tempfile::tempdir().unwrap();
    let output = run(directory.path(), &["strat"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("unrecognized subcommand 'strat'"), "{}", text(&output.stderr));
}

/// Whoever reads the output may go away first, as `head` does.
#[test]
fn a_closed_pipe_is_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, code) in [(&["--help"][..], 0), (&[], 1), (&["start"], 1)] {
        let (reader, stdout) = std::io::pipe().unwrap();
        let stderr = stdout.try_clone().unwrap();
        drop(reader);
        let status = program(directory.path()).args(arguments).stdout(stdout).stderr(stderr).status().unwrap();
        // A panic would leave 101, a signal none.
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}
