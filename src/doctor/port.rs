//! This machine: whether the ports are free, or whose they are; how many files the server may open; and the server that
//! runs, if one does.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use super::finding::Finding;
use super::handshake::{self, Answer};
use super::{Running, Subject, in_list};
use crate::listen::files;

#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Those of the file that have a number.
    ports: Vec<Port>,
    /// How many files may be open: those of the running server, or as many as one that is started from here could have.
    files_max: Option<usize>,
    /// What the running server answers to a client.
    answer: Option<Answer>,
    /// What keeps it from being ready, by its own word.
    unready: Vec<String>,
    /// The running server's program is the file that this doctor is.
    is_same_build: Option<bool>,
}

/// A port that the server would open.
#[derive(Debug)]
struct Port {
    number: u16,
    /// What the file calls it.
    key: &'static str,
    /// Why it cannot be opened; `None`: it can.
    failure: Option<(io::ErrorKind, String)>,
    /// Who has it: name and process id.
    holder: Option<(String, u32)>,
}

impl Port {
    async fn probe(subject: &Subject, key: &'static str, number: u16) -> Self {
        let failure = bind(subject, number).err().map(|error| (error.kind(), error.to_string()));
        let is_taken = failure.as_ref().is_some_and(|(kind, _)| *kind == io::ErrorKind::AddrInUse);
        let holder = match is_taken {
            // Looks at every process.
            true => tokio::task::spawn_blocking(move || holder(number)).await.unwrap_or_default(),
            false => None,
        };
        Self { number, key, failure, holder }
    }
}

pub(super) async fn probe(subject: &Subject) -> Facts {
    let mut facts = Facts::default();
    if has_port(subject) {
        facts.ports.push(Port::probe(subject, "port", subject.config.port).await);
    }
    if let Some(port) = subject.config.https_port.filter(|port| *port != 0) {
        facts.ports.push(Port::probe(subject, "httpsPort", port).await);
    }
    facts.files_max = getrlimit(Resource::Nofile).maximum.and_then(|files| usize::try_from(files).ok());
    if let Some(Running::Here(pid)) = subject.running {
        facts.files_max = files_of(pid).or(facts.files_max);
        facts.is_same_build = is_same_build(pid);
        if has_port(subject) {
            let base = subject.local_url();
            let client = client_url(subject, &base);
            let (answer, unready) = tokio::join!(handshake::shake(&client, true), handshake::unready(&base));
            (facts.answer, facts.unready) = (Some(answer), unready.unwrap_or_default());
        }
    }
    facts
}

/// Whether the file names a port; with 0 it is another one each time.
fn has_port(subject: &Subject) -> bool {
    subject.config.port != 0 && subject.config.socket.as_ref().is_none_or(|socket| !socket.is_alone)
}

/// Where a client of the first app connects.
pub(super) fn client_url(subject: &Subject, base: &str) -> String {
    let app = &subject.config.apps[0];
    if app.id.is_empty() {
        return socketio_url(subject, base);
    }
    format!(
        "{}/app/{}?protocol=7&client=doctor&version={}",
        base.trim_end_matches('/'),
        app.key,
        env!("CARGO_PKG_VERSION")
    )
}

/// Where a client of Socket.IO connects.
pub(super) fn socketio_url(subject: &Subject, base: &str) -> String {
    format!("{}{}/?EIO=4&transport=websocket", base.trim_end_matches('/'), subject.config.socketio.path)
}

/// Takes the port and gives it back. It is not listened to, so a server that starts just now is not in the way.
fn bind(subject: &Subject, port: u16) -> io::Result<()> {
    let addresses: Vec<SocketAddr> = match subject.config.host.as_deref() {
        None => vec![([0_u16; 8], port).into(), ([0_u8; 4], port).into()],
        Some(host) => {
            use std::net::ToSocketAddrs;
            let mut found: Vec<_> = (host, port).to_socket_addrs()?.collect();
            found.sort_by_key(SocketAddr::is_ipv6);
            found
        }
    };
    let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in addresses {
        outcome = bind_one(address);
        let is_other = |error: &io::Error| {
            error.kind() == io::ErrorKind::AddrNotAvailable
                || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
        };
        if !outcome.as_ref().is_err_and(is_other) {
            break;
        }
    }
    outcome
}

fn bind_one(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// The process that listens on the port, as far as this user may see.
fn holder(port: u16) -> Option<(String, u32)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let inodes: Vec<String> = tables.flat_map(|table| listening(&table, port)).collect();
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut numbers = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    let pid = numbers.find(|pid| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        links.filter_map(|link| link.to_str().map(str::to_owned)).any(|link| inodes.contains(&link))
    })?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some((name.trim().to_owned(), pid))
}

/// The sockets of `/proc/net/tcp` that listen on the port, as their links are called.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let end = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && row[1].ends_with(&end) && row[3] == LISTEN)
        .map(|row| format!("socket:[{}]", row[9]))
        .collect()
}

/// How many files the process may open.
fn files_of(pid: u32) -> Option<usize> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_ascii_whitespace().next()?.parse().ok()
}

fn is_same_build(pid: u32) -> Option<bool> {
    let id = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    Some(id(Path::new(&format!("/proc/{pid}/exe")))? == id(Path::new("/proc/self/exe"))?)
}

pub(super) fn judge(subject: &Subject, facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<_> = facts.ports.iter().filter_map(|port| judge_port(subject, port)).collect();
    findings.push(file_limit(subject, facts));
    findings.extend(running(subject, facts));
    if facts.is_same_build == Some(false) {
        findings.push(
            Finding::warning("server.build", "The running server is another build of the program than this one")
                .why("It was replaced since the server was started, or there are two.")
                .fix("Restart the server, so that it is the installed one."),
        );
    }
    findings
}

fn judge_port(subject: &Subject, Port { number: port, key, failure, holder }: &Port) -> Option<Finding> {
    if subject.running == Some(Running::Elsewhere) {
        return None;
    }
    let ours = matches!(subject.running, Some(Running::Here(_)));
    let Some((kind, error)) = failure else {
        return (!ours)
            .then(|| Finding::ok("port.free", format!("The port {port} is free; no server runs with this file")));
    };
    let other = Finding::problem("port.free", format!("The port {port} cannot be opened: {error}"));
    let line = |finding: Finding, port: u16| finding.line(&subject.file, format!("\"{key}\": {port}"));
    Some(match kind {
        io::ErrorKind::AddrInUse if ours => return None,
        io::ErrorKind::AddrInUse => {
            let who = match holder {
                Some((name, pid)) => format!("the program {name:?} (process {pid})"),
                None => "another program".to_owned(),
            };
            let finding = Finding::problem("port.free", format!("The port {port} is taken by {who}"))
                .why("The server does not start.");
            line(
                finding.fix("Stop that one, or choose another port, here and in the front end:"),
                port.checked_add(1).unwrap_or(6001),
            )
        }
        io::ErrorKind::PermissionDenied => line(
            other
                .why("Ports below 1024 need root or CAP_NET_BIND_SERVICE; as the user of the service it may work.")
                .fix("Choose another port, and let nginx have that one:"),
            6001,
        ),
        _ => other.fix("See the address to listen on:").line(&subject.file, "\"host\": null"),
    })
}

fn file_limit(subject: &Subject, facts: &Facts) -> Finding {
    let config = &subject.config;
    let connections = config.limits.connections;
    let Some(max) = facts.files_max else { return Finding::ok("limits.files", "There is no limit of open files") };
    let whose = match subject.running {
        Some(Running::Here(_)) => "The running server",
        _ => "A server that is started from this shell",
    };
    let (room, needed) = (files::connections(max, config), files::needed(config));
    if max >= needed {
        let what =
            format!("{whose} may open {max} files: enough for {connections} connections (\"limits.connections\")");
        return Finding::ok("limits.files", what);
    }
    let what = format!("{whose} may open {max} files, too few for {connections} connections (\"limits.connections\")");
    Finding::warning("limits.files", what)
        .why(format!("Each connection is a file, and those over {room} are refused. systemd, Supervisor and containers have limits of their own."))
        .fix(format!("Raise it (Supervisor: minfds={needed} in supervisord.conf; a container: --ulimit nofile={needed}; a shell: ulimit -n {needed}), or set \"limits\": {{ \"connections\": {room} }} in {}:", subject.file))
        .line("the systemd unit, under [Service]", format!("LimitNOFILE={needed}"))
}

fn running(subject: &Subject, facts: &Facts) -> Option<Finding> {
    let pid = match subject.running? {
        Running::Elsewhere => {
            return Some(Finding::ok(
                "server.running",
                "A server runs with this file in another container, so it cannot be looked at from here",
            ));
        }
        Running::Here(pid) => pid,
    };
    if let Some(port) = facts.ports.iter().find(|port| port.failure.is_none()) {
        return Some(
            Finding::warning(
                "server.running",
                format!("A server runs with this file (process {pid}), and nobody listens on port {}", port.number),
            )
            .why("It is just starting or stopping, or the file has changed since it was started.")
            .fix("Restart it."),
        );
    }
    let answer = facts.answer.as_ref()?;
    let is_well = answer
        .first
        .as_deref()
        .is_some_and(|first| first.contains("pusher:connection_established") || first.starts_with('0'));
    if is_well && !facts.unready.is_empty() {
        return Some(
            Finding::warning(
                "server.running",
                format!(
                    "The running server (process {pid}) takes connections, and is not ready: {}",
                    in_list(&facts.unready)
                ),
            )
            .why("That is what it says at /ready."),
        );
    }
    if is_well {
        return Some(Finding::ok(
            "server.running",
            format!("The running server (process {pid}) takes connections at {}", subject.local_url()),
        ));
    }
    let said =
        answer.first.clone().or(answer.failure.clone()).or(answer.status.map(|status| format!("it answers {status}")));
    Some(
        Finding::problem("server.running", format!("The running server (process {pid}) takes no connection of a client: {}", said.unwrap_or_else(|| "it says nothing".to_owned())))
            .why("It may have been started with another version of the file, or be out of files or connections; its log says.")
            .fix("Restart it."),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Level;
    use super::*;

    fn judged(running: Option<Running>, facts: Facts) -> Vec<(&'static str, Level)> {
        let mut subject = Subject::of(json!({"port": 6001, "limits": {"connections": 1000}}), &[]);
        subject.running = running;
        judge(&subject, &facts).into_iter().map(|finding| (finding.id, finding.level)).collect()
    }

    #[test]
    fn port_files_and_server() {
        let port = |failure: Option<io::ErrorKind>| {
            let failure = failure.map(|kind| (kind, "why".to_owned()));
            vec![Port { number: 6001, key: "port", failure, holder: None }]
        };
        let taken = || port(Some(io::ErrorKind::AddrInUse));
        let facts = || Facts { ports: port(None), files_max: Some(1288), ..Facts::default() };
        let well = || Answer { first: Some("0{}".to_owned()), ..Answer::default() };
        let files = ("limits.files", Level::Ok);
        assert_eq!(judged(None, facts()), [("port.free", Level::Ok), files]);
        assert_eq!(judged(None, Facts { ports: taken(), ..facts() }), [("port.free", Level::Problem), files]);
        let forbidden = port(Some(io::ErrorKind::PermissionDenied));
        assert_eq!(judged(None, Facts { ports: forbidden, ..facts() })[0], ("port.free", Level::Problem));
        let https = Port { number: 6002, key: "httpsPort", ..taken().remove(0) };
        let both = Facts { ports: port(None).into_iter().chain([https]).collect(), ..facts() };
        assert_eq!(judged(None, both), [("port.free", Level::Ok), ("port.free", Level::Problem), files]);
        assert_eq!(judged(None, Facts { files_max: Some(1287), ..facts() })[1], ("limits.files", Level::Warning));
        assert_eq!(judged(None, Facts { files_max: None, ..facts() })[1], files);

        let here = Some(Running::Here(7));
        let served = || Facts { ports: taken(), answer: Some(well()), ..facts() };
        assert_eq!(judged(here, served()), [files, ("server.running", Level::Ok)]);
        let unready = Facts { unready: vec!["Redis is away".to_owned()], ..served() };
        assert_eq!(judged(here, unready)[1], ("server.running", Level::Warning));
        let silent = Facts { answer: Some(Answer { failure: Some("no".to_owned()), ..Answer::default() }), ..served() };
        assert_eq!(judged(here, silent)[1], ("server.running", Level::Problem));
        // The port was changed since.
        assert_eq!(judged(here, facts())[1], ("server.running", Level::Warning));
        let other = Facts { is_same_build: Some(false), ..served() };
        assert_eq!(judged(here, other)[2], ("server.build", Level::Warning));
        assert_eq!(
            judged(Some(Running::Elsewhere), Facts { ports: taken(), ..facts() }),
            [files, ("server.running", Level::Ok)]
        );
    }

    #[test]
    fn who_listens() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1771 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n\
            1: 0100007F:1771 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n\
            2: 0100007F:1772 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0\n";
        assert_eq!(listening(table, 6001), ["socket:[4711]"]);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = holder(listener.local_addr().unwrap().port());
        assert_eq!(found.map(|(_, pid)| pid), Some(std::process::id()));
    }
}
