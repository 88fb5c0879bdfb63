//! Where connections come in: a TCP port, another one with TLS, a unix socket, or several of them. Opens them, says why one cannot be
//! opened, and gives what is accepted in one form, whichever way it came.
//!
//! Not here: what is spoken on a connection (`http`), and who is let in.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::config::{Config, UnixSocket};

pub mod files;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Where a [`Listener`] listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A TCP port.
    Port(SocketAddr),
    /// A TCP port that speaks https, beside what speaks http.
    HttpsPort(SocketAddr),
    /// A unix socket at this path.
    Path(PathBuf),
}

impl Place {
    /// The TCP address, if it is that of `port`.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Port(address) => Some(*address),
            Self::HttpsPort(_) | Self::Path(_) => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => address.fmt(f),
            Self::HttpsPort(address) => write!(f, "https://{address}"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peer {
    /// A TCP address.
    Address(SocketAddr),
    /// Some program on this machine, over the unix socket.
    Unix,
}

impl Peer {
    /// The address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix => f.write_str("the unix socket"),
        }
    }
}

/// A socket that connections are accepted from. Dropped, it takes the file of a unix socket with it, if
/// that is still its own.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    place: Place,
    /// What is accepted begins with TLS.
    is_tls: bool,
    /// Device and number of a unix socket's file, as it was made here.
    file: Option<(u64, u64)>,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Takes over a socket that is bound and listens already, as one that another process has handed over. Its
    /// file, if it has one, is left alone at the end. Needs a tokio runtime.
    ///
    /// # Errors
    /// It is no socket of TCP or of a path.
    pub fn inherited(socket: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket);
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        if let Some(address) = address.as_socket() {
            return Ok(Self {
                kind: Kind::Tcp(TcpListener::from_std(socket.into())?),
                place: Place::Port(address),
                is_tls: false,
                file: None,
            });
        }
        let path =
            address.as_pathname().ok_or_else(|| io::Error::other("it has neither a port nor a path"))?.to_owned();
        let kind = Kind::Unix(UnixListener::from_std(socket.into())?);
        Ok(Self { kind, place: Place::Path(path), is_tls: false, file: None })
    }

    /// The same, speaking what `port` and `socket` speak.
    fn speaking_as_configured(mut self, config: &Config) -> Self {
        self.is_tls = config.scheme() == "https";
        self
    }

    /// The same, speaking https; a port of its own, if others speak http.
    fn with_tls(mut self, config: &Config) -> Self {
        self.is_tls = true;
        if let (Place::Port(address), "http") = (&self.place, config.scheme()) {
            self.place = Place::HttpsPort(*address);
        }
        self
    }

    /// Whether what is accepted begins with TLS. So it is as long as it listens.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Where it listens; of port 0 in the configuration, the port that was free.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The next connection. A connected unix socket is read and written as one of TCP is, so it has the same
    /// type from here on, and nobody behind need know of it.
    ///
    /// # Errors
    /// Those of `accept(2)`: see [`is_out_of_files`]; and connections that ended before they were accepted.
    pub async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((stream, Peer::Address(peer)))
            }
            Kind::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let stream = std::net::TcpStream::from(OwnedFd::from(stream.into_std()?));
                Ok((TcpStream::from_std(stream)?, Peer::Unix))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A successor may have put its own there.
        if let (Place::Path(path), Some(file)) = (&self.place, self.file)
            && identity(path).is_some_and(|there| there == file)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Whether this error of [`Listener::accept`] says that no more files can be opened: waiting lets some be closed.
pub fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let out = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| out.iter().any(|errno| errno.raw_os_error() == code))
}

/// Opens what the configuration names: `host` with `port` and `httpsPort`, and `socket`. Needs a tokio runtime.
///
/// # Errors
/// A sentence that says which cannot be opened, why, and what to do.
pub fn open(config: &Config) -> anyhow::Result<Vec<Listener>> {
    let mut listeners = Vec::with_capacity(3);
    if config.socket.as_ref().is_none_or(|socket| !socket.is_alone) {
        listeners.push(open_port(config, config.port, "port")?.speaking_as_configured(config));
    }
    if let Some(socket) = &config.socket {
        let listener = open_path(socket).map_err(|error| {
            let (path, file) = (socket.path.display(), config.path.display());
            anyhow::anyhow!("cannot listen on the unix socket {path}: {}; see \"socket\" in {file}", bare(&error))
        })?;
        listeners.push(listener.speaking_as_configured(config));
    }
    if let Some(port) = config.https_port {
        listeners.push(open_port(config, port, "httpsPort")?.with_tls(config));
    }
    Ok(listeners)
}

/// Sockets that another process has opened, each with whether it is named `https`, in place of what the configuration
/// names. Needs a tokio runtime.
///
/// # Errors
/// One cannot be used, or the configuration has a certificate too few, or one of them too many.
pub fn take_over(config: &Config, sockets: Vec<(OwnedFd, bool)>) -> anyhow::Result<Vec<Listener>> {
    let file = config.path.display();
    let mut listeners = Vec::with_capacity(sockets.len());
    for (socket, is_https) in sockets {
        let listener = Listener::inherited(socket).context("a socket that systemd has handed over cannot be used")?;
        anyhow::ensure!(
            !is_https || config.tls.is_some(),
            "systemd has handed over {} for https (FileDescriptorName=https), and {file} has no certificate: it needs \
             \"httpsPort\", or \"protocol\": \"https\", with \"sslCertPath\" and \"sslKeyPath\"",
            listener.place
        );
        listeners.push(if is_https { listener.with_tls(config) } else { listener.speaking_as_configured(config) });
    }
    anyhow::ensure!(
        config.https_port.is_none() || listeners.iter().any(Listener::is_tls),
        "{file} has \"httpsPort\", and systemd has handed over no socket for it: a .socket unit of its own needs \
         FileDescriptorName=https and Service=; or take \"httpsPort\" out"
    );
    Ok(listeners)
}

/// Rust adds the number of the error, which says nothing more.
fn bare(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

/// `key` is what the configuration calls the port.
fn open_port(config: &Config, port: u16, key: &str) -> anyhow::Result<Listener> {
    let wanted = config.host.as_deref().unwrap_or("*");
    let why = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "another program, perhaps another laravel-echo-server, has this port open; stop it or choose another \"{key}\""
            ),
            io::ErrorKind::PermissionDenied => {
                format!("ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another \"{key}\"")
            }
            io::ErrorKind::AddrNotAvailable => "this machine has no such address; see \"host\"".to_owned(),
            _ => format!("see \"host\" and \"{key}\""),
        };
        let (error, file) = (bare(&error), config.path.display());
        anyhow::anyhow!("cannot listen on {wanted} port {port}: {error}; {hint} in {file}")
    };
    let addresses: Vec<SocketAddr> = match &config.host {
        None => vec![([0u16; 8], port).into(), ([0u8; 4], port).into()],
        Some(host) => {
            let mut addresses: Vec<_> = (host.as_str(), port).to_socket_addrs().map_err(why)?.collect();
            // Of a name's addresses, as those of localhost, one is taken: that which everybody can reach.
            addresses.sort_by_key(|address| address.is_ipv6());
            addresses
        }
    };
    let mut last = None;
    for address in addresses {
        match bind(address).and_then(Listener::inherited) {
            Ok(listener) => return Ok(listener),
            // Machines without IPv6, or without this one of a name's addresses: try the next.
            Err(error)
                if error.kind() == io::ErrorKind::AddrNotAvailable
                    || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) =>
            {
                last = Some(error);
            }
            Err(error) => return Err(why(error)),
        }
    }
    Err(why(last.unwrap_or_else(|| io::Error::other("the name has no address"))))
}

fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restart need not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn open_path(UnixSocket { path, mode, .. }: &UnixSocket) -> io::Result<Listener> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Nobody can connect before it listens, so nobody does with other rights than these.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode))?;
    socket.listen(BACKLOG)?;
    let mut listener = Listener::inherited(socket.into())?;
    listener.file = identity(path);
    Ok(listener)
}

/// Makes way where a server has left its socket behind. What answers, or is no socket, stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let there = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there?,
    };
    if !there.file_type().is_socket() {
        return Err(io::Error::other("there is a file of this name, which is no socket, and it is left alone"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::other("another program, perhaps another laravel-echo-server, listens on it")),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn at(path: PathBuf) -> UnixSocket {
        UnixSocket { path, mode: 0o600, is_alone: true }
    }

    #[tokio::test]
    async fn a_unix_socket_is_read_and_written_as_one_of_tcp() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echo.sock");
        let listener = open_path(&at(path.clone())).unwrap();
        assert_eq!(listener.place(), &Place::Path(path.clone()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
        let (mut server, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, Peer::Unix);
        client.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).await.unwrap();
        // What a shard does with it.
        let server = TcpStream::from_std(server.into_std().unwrap()).unwrap();
        server.writable().await.unwrap();
        assert_eq!(socket2::SockRef::from(&server).send(&bytes).unwrap(), 4);
        client.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        socket2::SockRef::from(&server).shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(client.read(&mut bytes).await.unwrap(), 0);
        drop(listener);
        assert!(!path.exists(), "it takes its file with it");
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_on_makes_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echo.sock");
        let refused = |path: &Path| open_path(&at(path.to_owned())).unwrap_err().to_string();
        let first = open_path(&at(path.clone())).unwrap();
        assert!(refused(&path).contains("listens on it"));
        // As after a crash: the file is there, and nobody listens.
        let Kind::Unix(_) = &first.kind else { panic!("{first:?}") };
        let moved = folder.path().join("moved.sock");
        std::fs::rename(&path, &moved).unwrap();
        drop(first);
        assert!(moved.exists(), "a file at another place is not touched");
        let second = open_path(&at(moved.clone())).unwrap();
        // A successor's file is not the predecessor's to remove.
        std::fs::remove_file(&moved).unwrap();
        let third = open_path(&at(moved.clone())).unwrap();
        drop(second);
        assert!(moved.exists());
        drop(third);
        std::fs::write(&path, "text").unwrap();
        assert!(refused(&path).contains("no socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"text");
    }

    #[tokio::test]
    async fn what_each_place_speaks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echo.sock");
        let files = r#""sslCertPath": "c", "sslKeyPath": "k""#;
        let speak = |members: &str| {
            let text = format!("{{ \"host\": \"127.0.0.1\", {members} }}");
            let config = Config::parse(Path::new("f.json"), text.as_bytes(), &|_| None).unwrap();
            let listeners = open(&config).unwrap();
            let speaks = |listener: &Listener| {
                let place = match listener.place() {
                    Place::Port(_) => "port",
                    Place::HttpsPort(_) => "https port",
                    Place::Path(_) => "path",
                };
                (place, listener.is_tls())
            };
            listeners.iter().map(speaks).collect::<Vec<_>>()
        };
        assert_eq!(speak("\"port\": 0"), [("port", false)]);
        assert_eq!(speak(&format!("\"port\": 0, \"protocol\": \"https\", {files}")), [("port", true)]);
        let both = format!("\"httpsPort\": 0, {files}");
        assert_eq!(speak(&format!("\"port\": 0, {both}")), [("port", false), ("https port", true)]);
        // A proxy's, so without TLS.
        let socket = format!("\"socket\": {path:?}");
        assert_eq!(speak(&format!("{socket}, {both}")), [("path", false), ("https port", true)]);
        assert_eq!(speak(&format!("{socket}, \"protocol\": \"https\", {files}")), [("path", true)]);
    }

    #[tokio::test]
    async fn what_is_inherited_is_recognised() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let listener = Listener::inherited(tcp.into()).unwrap();
        assert_eq!(listener.place().address(), Some(address));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echo.sock");
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let listener = Listener::inherited(unix.into()).unwrap();
        assert_eq!(listener.place(), &Place::Path(path.clone()));
        drop(listener);
        assert!(path.exists(), "it belongs to whoever made it");
    }

    #[test]
    fn the_errors_that_waiting_helps_against() {
        use rustix::io::Errno;
        for (errno, expected) in [(Errno::MFILE, true), (Errno::NFILE, true), (Errno::CONNABORTED, false)] {
            assert_eq!(is_out_of_files(&io::Error::from(errno)), expected, "{errno}");
        }
    }
}
