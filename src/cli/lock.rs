//! The lock file beside the configuration: which process serves it.
//!
//! Name and content are the old server's, so that its tools and scripts still find the process. The
//! old server believed the number in it, whatever process had it by now. Here the running server
//! also holds a lock of the operating system on the file, which ends with the process however that
//! ends; the number alone counts only if it belongs to an old server, which holds none.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// What the program is called, in `argv` and as the old server's process title.
const PROGRAM: &str = "laravel-echo-server";

/// A lock file has some twenty bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// How long a server that was asked to end may take.
const END_MAX: Duration = Duration::from_secs(90);

/// Between two looks whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The lock file of this configuration file: `.json` becomes `.lock`, anything else gets it appended. It is beside
/// it; of one in `/etc/NAME`, where no server may write, in `/run/NAME`, if that is there.
pub fn path_for(config: &Path) -> PathBuf {
    let mut name = config.file_name().unwrap_or_default().to_os_string();
    if let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".json")) {
        name = stem.into();
    }
    name.push(".lock");
    let folder = config.parent().and_then(|folder| folder.strip_prefix("/etc").ok());
    match folder.map(|folder| Path::new("/run").join(folder)) {
        Some(run) if run != Path::new("/run") && run.is_dir() => run.join(name),
        _ => config.with_file_name(name),
    }
}

/// What a lock file says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Holder {
    /// There is no file.
    None,
    /// It is no lock file, or may not be read.
    Unreadable,
    /// Its process is no more, or is another program by now.
    Gone,
    /// A server that this process can see.
    Here(Pid),
    /// A server that holds the lock but has no such process here: one in another container.
    Elsewhere,
}

/// Reads the lock file and finds out who holds it.
pub fn holder(path: &Path) -> Holder {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Holder::None,
        Err(_) => return Holder::Unreadable,
    };
    let mut text = String::new();
    if (&file).take(FILE_BYTES_MAX).read_to_string(&mut text).is_err() {
        return Holder::Unreadable;
    }
    let Some(pid) = read_pid(&text) else { return Holder::Unreadable };
    let locked = match file.try_lock_shared() {
        Ok(()) => Some(false),
        Err(TryLockError::WouldBlock) => Some(true),
        // A file system without locks.
        Err(TryLockError::Error(_)) => None,
    };
    judge(pid, locked, if pid == rustix::process::getpid() { Process::Itself } else { process(pid) })
}

/// The TCP port that the server with this lock file has opened, where the file says so.
pub fn port(path: &Path) -> Option<u16> {
    #[derive(serde::Deserialize)]
    struct Content {
        port: u16,
    }
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str::<Content>(&text).ok().map(|content| content.port)
}

fn judge(pid: Pid, locked: Option<bool>, process: Process) -> Holder {
    match (process, locked) {
        (Process::OldServer, _) | (Process::Server, Some(true) | None) => Holder::Here(pid),
        (_, Some(true)) => Holder::Elsewhere,
        _ => Holder::Gone,
    }
}

fn read_pid(text: &str) -> Option<Pid> {
    #[derive(serde::Deserialize)]
    struct Content {
        process: i32,
    }
    let content: Content = serde_json::from_str(text).ok()?;
    // 0 and below would mean whole groups of processes.
    if content.process > 0 { Pid::from_raw(content.process) } else { None }
}

/// What kind of process a number belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Process {
    /// This very one: in a container that was restarted, each server has the same number.
    Itself,
    /// This program, or nobody can tell.
    Server,
    /// The old one, on Node.
    OldServer,
    /// None, or another program.
    NoServer,
}

fn process(pid: Pid) -> Process {
    let folder = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    if !Path::new("/proc/self/cmdline").exists() {
        let is_alive = !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH));
        return if is_alive { Process::Server } else { Process::NoServer };
    }
    let Ok(arguments) = std::fs::read(folder.join("cmdline")) else { return Process::NoServer };
    let is_called_so = arguments.split(|byte| *byte == 0).take(3).any(|word| {
        let word = word.rsplit(|byte| *byte == b'/').next().unwrap_or(word);
        word.trim_ascii() == PROGRAM.as_bytes()
    });
    let exe = |folder: &Path| {
        let target = std::fs::read_link(folder.join("exe")).ok()?;
        // The kernel appends this after an update has replaced the file.
        Some(target.file_name()?.to_str()?.trim_end_matches(" (deleted)").to_owned())
    };
    let own = exe(Path::new("/proc/self"));
    match exe(&folder) {
        Some(name) if Some(&name) == own.as_ref() || name == PROGRAM => Process::Server,
        Some(name) if name.starts_with("node") && is_called_so => Process::OldServer,
        // Another user's process: what runs in it is not to be seen.
        None if is_called_so => Process::Server,
        _ => Process::NoServer,
    }
}

/// Asks the process to end and waits until it has.
///
/// # Errors
/// It may not be ended by this user, or does not end.
pub fn end(pid: Pid) -> anyhow::Result<()> {
    let number = pid.as_raw_nonzero();
    match kill_process(pid, Signal::TERM) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("The server with the process id {number} could not be ended"));
        }
    }
    let patience = Instant::now() + END_MAX;
    while process(pid) != Process::NoServer {
        if Instant::now() > patience {
            anyhow::bail!(
                "The server with the process id {number} has not ended within {END_MAX:?}. If it must: kill -9 {number}"
            );
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// The lock of this process. The file is removed with it.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the file. `None`: another process was quicker.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn take(path: PathBuf) -> io::Result<Option<Self>> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Ok(None);
        }
        file.set_len(0)?;
        file.write_all(format!("{{\n\t\"process\": {}\n}}", std::process::id()).as_bytes())?;
        Ok(Some(Self { file, path }))
    }

    /// Adds the TCP port that the server has opened, for the commands that ask it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn note_port(&self, port: u16) -> io::Result<()> {
        let text = format!("{{\n\t\"process\": {},\n\t\"port\": {port}\n}}", std::process::id());
        self.file.write_all_at(text.as_bytes(), 0)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let same = |path: &Path| {
            let (own, there) = (self.file.metadata().ok()?, std::fs::metadata(path).ok()?);
            Some((own.dev(), own.ino()) == (there.dev(), there.ino()))
        };
        // Somebody may have put another one in its place.
        if same(&self.path) == Some(true) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_old_servers() {
        for (config, lock) in [
            ("laravel-echo-server.json", "laravel-echo-server.lock"),
            ("/srv/a.json/echo.json", "/srv/a.json/echo.lock"),
            ("conf.json5", "conf.json5.lock"),
            ("conf", "conf.lock"),
        ] {
            assert_eq!(path_for(Path::new(config)), Path::new(lock));
        }
    }

    #[test]
    fn numbers_of_processes() {
        assert_eq!(read_pid("{\n\t\"process\": 12\n}"), Pid::from_raw(12));
        for text in
            ["", "12", "{}", "{\"process\": \"12\"}", "{\"process\": 0}", "{\"process\": -1}", "{\"process\": 1e10}"]
        {
            assert_eq!(read_pid(text), None, "{text}");
        }
    }

    #[test]
    fn a_number_alone_proves_nothing() {
        let pid = Pid::from_raw(7).unwrap();
        for (process, locked, expected) in [
            // Another program has the number by now, or none.
            (Process::NoServer, Some(false), Holder::Gone),
            (Process::NoServer, None, Holder::Gone),
            // Another instance with a configuration of its own has the number by now.
            (Process::Server, Some(false), Holder::Gone),
            (Process::Server, Some(true), Holder::Here(pid)),
            // Without locks of the file system, the number is all there is.
            (Process::Server, None, Holder::Here(pid)),
            // The old server holds no lock.
            (Process::OldServer, Some(false), Holder::Here(pid)),
            // A container was restarted; or another one on the same volume runs.
            (Process::Itself, Some(false), Holder::Gone),
            (Process::Itself, Some(true), Holder::Elsewhere),
            (Process::NoServer, Some(true), Holder::Elsewhere),
        ] {
            assert_eq!(judge(pid, locked, process), expected, "{process:?} {locked:?}");
        }
    }

    #[test]
    fn a_lock_is_held_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        assert_eq!(holder(&path), Holder::None);
        let lock = Lock::take(path.clone()).unwrap().unwrap();
        let expected = format!("{{\n\t\"process\": {}\n}}", std::process::id());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(port(&path), None);
        lock.note_port(6001).unwrap();
        assert_eq!(port(&path), Some(6001));
        assert_eq!(holder(&path), Holder::Elsewhere);
        assert!(Lock::take(path.clone()).unwrap().is_none());
        drop(lock);
        assert!(!path.exists());

        // One that has been replaced is not ours to remove.
        let lock = Lock::take(path.clone()).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "no lock").unwrap();
        assert_eq!(holder(&path), Holder::Unreadable);
        drop(lock);
        assert!(path.exists());
    }
}
