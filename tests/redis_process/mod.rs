//! Redis servers, sentinels and cluster nodes of a test's own, on free ports of loopback.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running redis-server; ended by its process id when dropped.
pub struct Redis {
    pub port: u16,
    pub directory: tempfile::TempDir,
    child: Child,
    _output: BufReader<ChildStdout>,
}

impl Redis {
    /// A plain one with these further arguments.
    pub fn start(arguments: &[&str]) -> Self {
        Self::with_file(None, arguments)
    }

    /// A sentinel with this configuration.
    #[allow(dead_code)]
    pub fn sentinel(configuration: &str) -> Self {
        Self::with_file(Some(configuration), &["--sentinel"])
    }

    /// One on this port, where another one has been killed.
    #[allow(dead_code)]
    pub fn at(port: u16) -> Self {
        let started = (0..20).find_map(|_| Self::try_start(port, None, &[]));
        started.unwrap_or_else(|| panic!("redis-server does not start again on port {port}"))
    }

    /// A master, its replica, and a sentinel that knows both as `mymaster`.
    #[allow(dead_code)]
    pub fn with_replica_and_sentinel() -> (Self, Self, Self) {
        let master = Self::start(&[]);
        let replica = Self::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
        replica.until(&["INFO", "replication"], |said| said.contains("master_link_status:up"));
        let sentinel = Self::sentinel(&format!(
            "sentinel monitor mymaster 127.0.0.1 {} 1\nsentinel down-after-milliseconds mymaster 300\n\
             sentinel failover-timeout mymaster 2000\n",
            master.port
        ));
        sentinel.until(&["SENTINEL", "replicas", "mymaster"], |said| said.contains(&replica.port.to_string()));
        (master, replica, sentinel)
    }

    fn with_file(file: Option<&str>, arguments: &[&str]) -> Self {
        // Between asking for a free port and using it, somebody else may take it.
        for _ in 0..20 {
            if let Some(redis) = Self::try_start(free_port(), file, arguments) {
                return redis;
            }
        }
        panic!("redis-server does not start; these tests need it (Debian: apt-get install redis-server)");
    }

    fn try_start(port: u16, file: Option<&str>, arguments: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        if let Some(text) = file {
            let path = directory.path().join("redis.conf");
            std::fs::write(&path, text).unwrap();
            command.arg(path);
        } else {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]).args(arguments);
        let mut child = command.current_dir(&directory).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains("eady to accept connections") && !said.contains("Sentinel ID is") {
            if output.read_line(&mut said).unwrap() == 0 {
                child.wait().unwrap();
                return None;
            }
        }
        Some(Self { port, directory, child, _output: output })
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    #[allow(dead_code)]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a command with redis-cli; gives what it prints.
    pub fn cli(&self, words: &[&str]) -> String {
        cli(self.port, words)
    }

    /// Waits until a command prints this.
    #[allow(dead_code)]
    pub fn until(&self, words: &[&str], is_right: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let said = self.cli(words);
            if is_right(&said) {
                return said;
            }
            assert!(Instant::now() < end, "{words:?}: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn cli(port: u16, words: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A port that nobody listens on just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
