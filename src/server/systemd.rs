//! What systemd hands over (sockets that it keeps open while the server is restarted, so that nobody is refused), and what
//! it is told: that the server is ready, reloads, stops, and that it is not stuck. Without systemd nothing of this does
//! anything. Protocols: sd_listen_fds(3), sd_notify(3).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use listenfd::ListenFd;

/// The sockets that are handed over (`LISTEN_FDS`), none without systemd, each with whether it is for https
/// (`FileDescriptorName=https`). To be taken once, before there are threads.
///
/// # Errors
/// One of them is no TCP or unix socket.
pub fn sockets() -> anyhow::Result<Vec<(OwnedFd, bool)>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let mut handed_over = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..handed_over.len() {
        let socket = match handed_over.take_tcp_listener(index) {
            Ok(socket) => socket.map(OwnedFd::from),
            Err(_) => handed_over
                .take_unix_listener(index)
                .context(
                    "a socket that systemd has handed over cannot be used; ListenStream= in the .socket unit makes one",
                )?
                .map(OwnedFd::from),
        };
        let is_https = names.get(index).is_some_and(|name| *name == "https");
        sockets.extend(socket.map(|socket| (socket, is_https)));
    }
    Ok(sockets)
}

/// Tells systemd. A clone shares the socket.
#[derive(Clone, Debug, Default)]
pub struct Notifier(Option<Arc<(UnixDatagram, SocketAddr)>>);

impl Notifier {
    /// To whom the environment says (`NOTIFY_SOCKET`).
    pub fn from_environment() -> Self {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let socket = name.map(|name| {
            let address = address(&name)?;
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            io::Result::Ok(Arc::new((socket, address)))
        });
        match socket.transpose() {
            Ok(socket) => Self(socket),
            Err(error) => {
                tracing::warn!("systemd cannot be told anything (NOTIFY_SOCKET): {error}");
                Self(None)
            }
        }
    }

    /// Clients can connect.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// Another configuration is being read; [`Notifier::ready`] follows.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
    }

    /// The server stops, which may take so long.
    pub fn stopping(&self, within: Duration) {
        self.say(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", within.as_micros()));
    }

    /// It is not stuck.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    fn say(&self, what: &str) {
        if let Some(notified) = &self.0 {
            let (socket, address) = &**notified;
            // Who does not listen need not know.
            let _ = socket.send_to_addr(what.as_bytes(), address);
        }
    }
}

/// `@` stands for the zero of a name that is in no file system.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

/// How often it must be said that the server is not stuck (`WatchdogSec=`), if so: half the time that there is.
pub fn watchdog_interval() -> Option<Duration> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let is_ours =
        std::env::var_os("WATCHDOG_PID").is_none_or(|pid| pid == OsString::from(std::process::id().to_string()));
    number("WATCHDOG_USEC").filter(|time| *time > 0 && is_ours).map(|time| Duration::from_micros(time) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("@les-{:x}", getrandom::u64().unwrap());
        for name in [path.as_os_str(), OsStr::new(&name)] {
            let address = address(name).unwrap();
            let listener = UnixDatagram::bind_addr(&address).unwrap();
            let notifier = Notifier(Some(Arc::new((UnixDatagram::unbound().unwrap(), address))));
            notifier.ready();
            notifier.stopping(Duration::from_secs(2));
            let mut heard = [0; 100];
            for expected in ["READY=1", "STOPPING=1\nEXTEND_TIMEOUT_USEC=2000000"] {
                let bytes = listener.recv(&mut heard).unwrap();
                assert_eq!(&heard[..bytes], expected.as_bytes());
            }
        }
    }
}
