//! Configuration files in the forms that the old server's users have: each starts, or fails with the
//! right sentence. `tests/configurations/NAME.json`, with `NAME.env` beside it where there is one.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_laravel-echo-server");
const FILE: &str = "laravel-echo-server.json";
const APP: &str = "   App       5a1b2c3d4e5f6071, key 00112233445566778899aabbccddeeff; no secret in the file";
const NO_APP: &str = "   App       none (\"clients\" is empty): only Socket.IO clients can connect";
const NO_CLIENTS: &str = "there is no app in \"clients\", so only Socket.IO clients can connect";

/// Files that start: the lines that the banner must have beside others, and every warning, by its
/// beginning after the file's name.
const START: &[(&str, &[&str], &[&str])] = &[
    (
        "wizard",
        &[
            "Starting server...",
            "   Redis     127.0.0.1:6379, db 0",
            "   Laravel   http://localhost/broadcasting/auth",
            NO_APP,
        ],
        &[NO_CLIENTS],
    ),
    (
        "wizard-1.0",
        &["⚠ Starting server in DEV mode...", "   Laravel   http://app.test/broadcasting/auth", NO_APP],
        &[NO_CLIENTS],
    ),
    ("wizard-1.3", &[APP], &[]),
    ("wizard-https", &["✔  Running at 127.0.0.1 on port"], &[NO_CLIENTS]),
    ("wizard-client-cors", &[APP], &[]),
    (
        "several-clients",
        &[
            APP,
            "   App       42, key ffeeddccbbaa99887766554433221100; no secret",
            "   App       shop, key shop-key; with a secret",
        ],
        &[],
    ),
    (
        "docker-variables",
        &[
            "⚠ Starting server in DEV mode...",
            "   Redis     redis:6380, db 0, with a password",
            "   Laravel   http://nginx/broadcasting/auth",
        ],
        &[],
    ),
    (
        "docker-interpolation",
        &["   Redis     cache:6390, db 0", "   Laravel   http://app.test:8080/broadcasting/auth"],
        &[],
    ),
    (
        "docker-options",
        &["   Redis     redis:6379, db 0"],
        &[
            "\"databaseConfig.redis.options.db\" is ignored; the key is \"databaseConfig.redis.db\".",
            "\"databaseConfig.redis.options.password\" is ignored; the key is \"databaseConfig.redis.password\".",
        ],
    ),
    (
        "docker-placeholders",
        &["   Redis     ${REDIS_HOST}:6379, db 0"],
        &["\"databaseConfig.redis.host\" is \"${REDIS_HOST}\"; in this file that is taken as it stands"],
    ),
    ("docker-environment-of-old-file", &["   Redis     redis:6379, db 0"], &[]),
    (
        "sentinel",
        &[
            "   Redis     master \"mymaster\" of the sentinels at sentinel-1:26379, sentinel-2:26380, db 0, with a password",
        ],
        &[],
    ),
    (
        "cluster",
        &["   Redis     the cluster at node-1:7000, node-2:7001, db 0"],
        &["\"database\" is \"redis\"; presence lists are not kept in a Redis Cluster, only in memory."],
    ),
    ("unix-socket", &["   Redis     /run/redis/redis.sock, db 2"], &[]),
    ("redis-url", &["   Redis     redis.test:6380, db 2, user user, with a password, TLS"], &[]),
    (
        "redis-tls-prefix",
        &[
            "   Redis     redis.test:6380, db 3, user echo, with a password, TLS",
            "   Prefix    shop_database_ (\"keyPrefix\" in the file)",
        ],
        &[],
    ),
    ("auth-hosts", &["   Laravel   http://a.test/broadcasting/auth"], &[]),
    ("sqlite", &[APP], &["\"database\" is \"sqlite\"; this server needs no database"]),
    ("publish-presence", &[APP], &[]),
    ("redis-only", &[APP], &[]),
    ("socketio-options", &[APP], &[]),
    ("port-as-url", &[APP], &[]),
    ("byte-order-mark", &[APP], &[]),
    (
        "misspelt",
        &["   Laravel   http://localhost/broadcasting/auth"],
        &[
            "\"auth_host\" is not a known key and is ignored; did you mean \"authHost\"?",
            "\"sslCertChain\" is not a known key and is ignored; did you mean \"sslCertChainPath\"?",
        ],
    ),
    ("empty-object", &[NO_APP], &[NO_CLIENTS]),
];

/// Files that do not start: what is said, after the file's name.
const FAIL: &[(&str, &str)] = &[
    ("comments", ", line 2, column 34: JSON allows no comments; remove this one."),
    ("trailing-comma", ", line 4, column 1: JSON allows no comma before this closing bracket; remove it."),
    ("port-too-long", ", line 19: \"port\" is 123456; it must be a TCP port from 1 to 65535"),
    ("https-without-key", ", line 20: \"protocol\" is \"https\", which needs a PEM file, as \"sslKeyPath\""),
    ("auth-host-without-scheme", ", line 2: \"authHost\" is \"app.test:8000\"; it must begin with http:// or https://"),
    ("clients-as-object", ", line 4: \"clients\" is an object; it must be a list in brackets"),
    (
        "sentinel-without-name",
        ", line 13: \"databaseConfig.redis.sentinels\" needs beside it the name by which the sentinels know the master",
    ),
];

/// What these say does not begin with the file's name.
const FAIL_LATER: &[(&str, &str)] =
    &[("https-unreadable-key", "The private key in missing.pem (sslKeyPath) cannot be read: No such file")];

fn command(name: &str, directory: &Path) -> Command {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configurations");
    fs::copy(files.join(format!("{name}.json")), directory.join(FILE)).unwrap();
    let variables = files.join(format!("{name}.env"));
    if variables.exists() {
        fs::copy(variables, directory.join(".env")).unwrap();
    }
    let mut command = Command::new(PROGRAM);
    command
        .current_dir(directory)
        .env_clear()
        .env("LARAVEL_ECHO_SERVER_LOG_FORMAT", "text")
        .arg("start")
        .stdin(Stdio::null());
    command
}

/// A certificate, and its key with the passphrase `hush`.
fn write_certificate(directory: &Path) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(directory.join("cert.pem"), certified.cert.pem()).unwrap();
    fs::write(directory.join("plain.pem"), certified.signing_key.serialize_pem()).unwrap();
    let status = Command::new("openssl")
        .args("pkcs8 -topk8 -in plain.pem -out key.pem -passout pass:hush".split(' '))
        .current_dir(directory)
        .status();
    assert!(status.unwrap().success());
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The banner's lines and the warnings, once the server is ready.
fn start(name: &str) -> (Vec<String>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    write_certificate(directory.path());
    let mut command = command(name, directory.path());
    // Fixed ports are for one server at a time.
    command.env("LARAVEL_ECHO_SERVER_PORT", "0").env("LARAVEL_ECHO_SERVER_HOST", "127.0.0.1");
    let mut server = Ended(command.stdout(Stdio::piped()).spawn().unwrap());
    let (mut banner, mut warnings) = (Vec::new(), Vec::new());
    for line in BufReader::new(server.0.stdout.take().unwrap()).lines().map(Result::unwrap) {
        if line == "Server ready!" {
            return (banner, warnings);
        }
        match line.split_once(" WARN ") {
            // What Redis says comes when it likes.
            Some((_, warning)) if warning.contains(FILE) && !warning.contains("keeps trying") => {
                warnings.push(warning.trim().to_owned());
            }
            _ => banner.push(line),
        }
    }
    panic!("{name} did not start: {banner:#?} {warnings:#?}");
}

#[test]
fn files_that_start() {
    for (name, lines, expected) in START {
        let (banner, warnings) = start(name);
        for line in *lines {
            assert!(banner.iter().any(|said| said.starts_with(line)), "{name}: {line:?} is not in {banner:#?}");
        }
        assert_eq!(warnings.len(), expected.len(), "{name}: {warnings:#?}");
        for (warning, expected) in warnings.iter().zip(*expected) {
            let (_, rest) = warning.split_once(": ").unwrap();
            assert!(rest.starts_with(expected), "{name}: {warning}");
        }
        assert!(!format!("{banner:?}{warnings:?}").contains("hush"), "{name} shows a password");
    }
}

#[test]
fn files_that_fail() {
    let named = FAIL.iter().map(|(name, said)| (*name, format!("Error: {FILE}{said}")));
    let others = FAIL_LATER.iter().map(|(name, said)| (*name, format!("Error: {said}")));
    for (name, expected) in named.chain(others) {
        let directory = tempfile::tempdir().unwrap();
        write_certificate(directory.path());
        let output = command(name, directory.path()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with(&expected), "{name}: {said}");
        assert_eq!(output.status.code(), Some(1), "{name}");
    }
}

#[test]
fn each_file_is_in_a_table() {
    let tables = START.iter().map(|row| row.0).chain(FAIL.iter().chain(FAIL_LATER).map(|row| row.0));
    let named: BTreeSet<String> = tables.map(str::to_owned).collect();
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configurations")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let there: BTreeSet<String> = names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect();
    assert_eq!(named, there);
    assert!(there.len() >= 20);
}
