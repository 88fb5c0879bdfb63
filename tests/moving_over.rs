//! The real program in the environment of a Reverb, Pusher or soketi user, without a file.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use std::process::Command;

use common::{Call, Server};
use serde_json::json;

/// `start` in an empty directory, with these variables and none of those of whoever runs the tests.
fn command(dir: &tempfile::TempDir, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"));
    command
        .arg("start")
        .current_dir(dir)
        .env_clear()
        .env("LARAVEL_ECHO_SERVER_LOG_FORMAT", "text")
        .envs(variables.iter().copied());
    command
}

#[tokio::test]
async fn reverb_pusher_and_soketi_environments_are_enough() {
    for (family, port) in
        [("REVERB_APP", "REVERB_SERVER_PORT"), ("PUSHER_APP", "SOKETI_PORT"), ("SOKETI_DEFAULT_APP", "SOKETI_PORT")]
    {
        let names = ["ID", "KEY", "SECRET"].map(|name| format!("{family}_{name}"));
        let variables = [(names[0].as_str(), "77"), (&names[1], "the-key"), (&names[2], "the-secret"), (port, "0")];
        let dir = tempfile::tempdir().unwrap();
        let server = Server::launch(command(&dir, &variables), dir);
        for said in [
            format!("Settings  the environment; port from {port}; app from {}\n", names.join(", ")),
            "App       77, key the-key; with a secret\n".to_owned(),
            "Redis     not listened to".to_owned(),
        ] {
            assert!(server.banner.contains(&said), "{said:?} in {}", server.banner);
        }
        assert!(!server.banner.contains("the-secret"), "{}", server.banner);

        let mut client = server.open("the-key").await;
        client.next().await;
        client.subscribe("news").await;
        let event = json!({"name": "e", "channel": "news", "data": "1"}).to_string();
        let call = Call { key: "the-key", secret: "the-secret", ..Call::post("/apps/77/events", &event) };
        assert_eq!(server.call(call).await, (200, "{}".to_owned()));
        assert_eq!(client.next().await["data"], "1");
    }
}

#[test]
fn without_a_file_and_without_an_app_there_is_nothing_to_start() {
    for variables in [&[][..], &[("PUSHER_APP_KEY", "")], &[("PUSHER_HOST", "127.0.0.1"), ("PUSHER_PORT", "6001")]] {
        let dir = tempfile::tempdir().unwrap();
        let output = command(&dir, variables).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("There is no file ") && said.contains("laravel-echo-server.json"), "{said}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut named = command(&dir, &[("REVERB_APP_ID", "1"), ("REVERB_APP_KEY", "k")]);
    let output = named.args(["--config", "other.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "a file that was asked for has to be there");
}
