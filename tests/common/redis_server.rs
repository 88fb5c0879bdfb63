//! A real Redis on a unix socket of its own.

#![allow(dead_code, reason = "each test file needs some of it")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use redis::aio::MultiplexedConnection;

/// A Redis of this test's own, on a unix socket in a directory of its own.
pub struct Redis {
    directory: tempfile::TempDir,
    arguments: Vec<String>,
    process: Option<(Child, BufReader<ChildStdout>)>,
}

impl Redis {
    pub fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut redis = Self { directory, arguments, process: None };
        redis.restart();
        redis
    }

    pub fn restart(&mut self) {
        let mut child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(self.socket())
            .args(&self.arguments)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server cannot be started; these tests need it (Debian: apt-get install redis-server)");
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains("ready to accept connections") {
            assert!(output.read_line(&mut said).unwrap() > 0, "redis-server ended: {said}");
        }
        self.process = Some((child, output));
    }

    pub fn kill(&mut self) {
        if let Some((mut child, _)) = self.process.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn signal(&self, name: &str) {
        let (child, _) = self.process.as_ref().unwrap();
        let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    pub async fn client(&self) -> MultiplexedConnection {
        self.connect(&format!("unix://{}", self.socket().display())).await
    }

    pub async fn client_as(&self, user: &str, password: &str) -> MultiplexedConnection {
        self.connect(&format!("unix://{}?user={user}&pass={password}", self.socket().display())).await
    }

    pub async fn connect(&self, url: &str) -> MultiplexedConnection {
        redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
