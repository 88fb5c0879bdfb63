//! `bench` against the real server: what it counts adds up, and it does not hide what goes wrong.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use std::process::{Command, Output};

use common::Server;
use serde_json::{Value, json};

fn bench(server: &Server, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"))
        .args(["bench", "--json", "--idle", "0", "--app-id", "app-id", "--key", common::KEY])
        .args(["--url", &format!("ws://127.0.0.1:{}", server.port)])
        .args(arguments.split(' '))
        .env("PUSHER_APP_SECRET", common::SECRET)
        .output()
        .unwrap()
}

fn report(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_delivery_is_counted_once() {
    let server = Server::start(json!({}));
    for (arguments, events, deliveries) in [
        ("--connections 30 --events 40 --warm-up 10", 40, 40 * 30),
        ("--connections 30 --events 200 --burst 40 --publishers 3", 200, 200 * 30),
        ("--connections 40 --channels 20 --private --events 100 --publishers 4 --in-flight 8", 100, 100 * 2),
        ("--connections 10 --channels 3 --events 60 --rate 500", 60, 20 * 10),
    ] {
        let report = report(&bench(&server, arguments));
        assert_eq!(report["measured"]["events"], events, "{arguments}: {report}");
        assert_eq!(report["measured"]["deliveries"], deliveries, "{arguments}: {report}");
        for wrong in ["lost", "doubled", "out_of_order", "strays"] {
            assert_eq!(report["total"][wrong], 0, "{arguments}: {report}");
        }
        assert_eq!(report["complaint"], Value::Null);
    }
}

#[test]
fn members_that_join_and_leave_are_announced_to_all() {
    let server = Server::start(json!({}));
    let report = report(&bench(&server, "--connections 20 --presence --joins 5 --events 10"));
    // One at a time, for the order of events decides who is told what: the first joiner is announced to 20, the last to 24; the first to leave to 24, the last to 20.
    for what in ["joins", "leaves"] {
        assert_eq!(report[what]["deliveries"], 20 + 21 + 22 + 23 + 24, "{report}");
    }
    assert_eq!(report["measured"]["deliveries"], 10 * 20, "{report}");
}

/// A stalled reader is closed; nobody else loses anything by it.
#[test]
fn a_stalled_reader_counts_for_nothing_but_its_end() {
    let server = Server::start(json!({"limits": {"outboundBytes": 65536}}));
    let arguments = "--connections 3 --slow 1 --events 2000 --burst 20 --data-bytes 9000";
    let report = report(&bench(&server, arguments));
    assert_eq!(report["measured"]["deliveries"], 2000 * 2, "{report}");
    assert_eq!((&report["stalled_closed"], &report["closed"]), (&json!(1), &json!(0)), "{report}");
}

#[test]
fn what_goes_wrong_is_an_exit_code_and_a_sentence() {
    let server = Server::start(json!({}));
    let wrong_key = bench(&server, "--key other --connections 1");
    assert_eq!(wrong_key.status.code(), Some(2), "the key is given twice");
    let large = bench(&server, "--connections 1 --events 1 --data-bytes 20000");
    assert_eq!(large.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&large.stderr).into_owned();
    assert!(stderr.contains("limits.eventBytes") && !stderr.contains(common::SECRET), "{stderr}");
    let nobody = Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"))
        .args(["bench", "--key", "other", "--events", "0", "--connections", "1"])
        .args(["--url", &format!("ws://127.0.0.1:{}", server.port)])
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(stderr.contains("4001") || stderr.contains("does not exist"), "{stderr}");
}
