//! `laravel-echo-server demo`: the whole thing in one process, nothing else installed.
//!
//! It is the server of `start`, with the same code behind each connection, and beside it a
//! stand-in for the Laravel application (`standin`). Only two things differ from `start`: the
//! configuration is made here rather than read from a file, and events come out of a queue
//! rather than out of Redis. It is for a first look and for tests, never for users of a site:
//! it listens on loopback only, and its tokens are printed on its page.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use self::standin::{Libraries, Site};
use crate::address::TrustedProxies;
use crate::config::{
    Admin, App, Auth, Config, KeyAuth, Limits, LogFormat, MetricsAccess, Redis, Secret, SocketIo, Subscribers,
};
use crate::listen::Place;
use crate::log;
use crate::server::{self, Source};

mod application;
mod standin;

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--assets`: a `node_modules` with laravel-echo and pusher-js, for the page to use instead of
    /// its own client.
    pub assets: Option<PathBuf>,
    /// `--port`: the TCP port to open; 0: any free one. Default: [`PORT`].
    pub port: Option<u16>,
}

/// Runs the demo until SIGINT or SIGTERM.
///
/// Fails when the libraries of `--assets` are not there, or no port can be opened.
pub fn run(options: Options) -> anyhow::Result<()> {
    let libraries = options.assets.as_deref().map(read_libraries).transpose()?;
    let with = match &libraries {
        Some(libraries) => {
            format!("laravel-echo {} and pusher-js {}", libraries.echo_version, libraries.pusher_version)
        }
        None => "its own small client (--assets node_modules: the real laravel-echo and pusher-js)".to_owned(),
    };
    let (port, remark) = choose_port(options.port.unwrap_or(PORT))?;

    let (events_in, events) = tokio::sync::mpsc::channel(EVENTS_MAX);
    log::set_up(LogFormat::Text, false);
    let application = standin::start(Site { app_key: APP_KEY, libraries }, events_in)?;
    server::run(config(port, application)?, Source::Queue(events), None, move |places| {
        let Some(address) = places.iter().find_map(Place::address) else { return };
        // A closed standard output is no reason to end a server that works.
        let _ = print_welcome(&mut io::stdout().lock(), address, remark.as_deref(), &with);
    })
}

fn print_welcome(out: &mut impl Write, address: SocketAddr, remark: Option<&str>, with: &str) -> io::Result<()> {
    writeln!(out, "Demo: open http://{address} in a browser. Ctrl-C ends it.")?;
    if let Some(remark) = remark {
        writeln!(out, "{remark}")?;
    }
    writeln!(
        out,
        "
The page shows two users side by side, each with a connection and a token of its own. Try:
  - write from one to the other, and watch \"is typing\" on the other side;
  - take one offline and online again, and watch who is online;
  - listen to the other's private channel, and read the refusal;
  - open \"Frames\" to see what goes over the wire.
The page runs {with}.
No Laravel and no Redis here: a stand-in in this process plays them. Everything else is what `start` runs.
"
    )?;
    out.flush()
}

/// The wanted port if it is free, else 0 (any) and a sentence that says so.
fn choose_port(wanted: u16) -> anyhow::Result<(u16, Option<String>)> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)) {
        Ok(_) => Ok((wanted, None)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok((
            0,
            Some(format!("Port {wanted} is in use by another program, so this is another port; --port N chooses one.")),
        )),
        Err(error) => Err(error).with_context(|| format!("port {wanted} cannot be opened; choose another with --port")),
    }
}

/// The configuration of a small Laravel application, with the stand-in as its authHost.
fn config(port: u16, application: SocketAddr) -> anyhow::Result<Config> {
    Ok(Config {
        tls: None,
        path: PathBuf::from("(demo)"),
        host: Some(Ipv4Addr::LOCALHOST.to_string()),
        port,
        https_port: None,
        socket: None,
        trusted_proxies: TrustedProxies::default(),
        proxy_protocol: false,
        apps: vec![App {
            id: APP_ID.to_owned(),
            key: APP_KEY.to_owned(),
            secret: Secret::random().context("the system gives no random numbers for the app's secret")?,
            previous_secrets: Vec::new(),
            secret_is_random: true,
            is_removed: false,
            limits: Limits::default(),
            key_prefix: None,
            subscription_count: false,
            webhooks: Vec::new(),
        }],
        first_app: 0,
        auth: Auth {
            host: url::Url::parse(&format!("http://{application}")).context("the stand-in's address")?,
            hosts: Vec::new(),
            endpoint: "/broadcasting/auth".to_owned(),
            allowed_origins: Vec::new(),
            timeout: Duration::from_secs(10),
            concurrency: 16,
            accept_any_200: false,
            reauthorize_after: None,
        },
        key_auth: KeyAuth::default(),
        admin: Some(Admin { login: None }),
        proxy: true,
        // Not asked: the events come out of the stand-in's queue.
        subscribers: Subscribers { http: true, redis: false },
        api_cors: None,
        presence_store: None,
        cluster: None,
        redis: Redis::default(),
        dev_mode: false,
        log_format: LogFormat::Auto,
        metrics: Some(MetricsAccess::default()),
        per_message_deflate: false,
        socketio: SocketIo::default(),
        resume: None,
        limits: Limits::default(),
        shutdown_time: None,
        shards: std::thread::available_parallelism().map_or(1, usize::from),
        taken: Vec::new(),
        warnings: Vec::new(),
    })
}

/// Reads the browser builds of both libraries, so that these two files and no others are served.
fn read_libraries(node_modules: &Path) -> anyhow::Result<Libraries> {
    Ok(Libraries {
        echo: read_asset(node_modules, "laravel-echo/dist/echo.iife.js")?,
        echo_version: version(node_modules, "laravel-echo"),
        pusher: read_asset(node_modules, "pusher-js/dist/web/pusher.min.js")?,
        pusher_version: version(node_modules, "pusher-js"),
    })
}

fn read_asset(node_modules: &Path, name: &str) -> anyhow::Result<String> {
    let path = node_modules.join(name);
    let advice = "run `npm install laravel-echo pusher-js` somewhere and give its node_modules to --assets";
    let metadata = fs::metadata(&path).with_context(|| format!("cannot read {}; {advice}", path.display()))?;
    if !metadata.is_file() || metadata.len() > ASSET_BYTES_MAX {
        bail!("{} is no file of at most {ASSET_BYTES_MAX} bytes; {advice}", path.display());
    }
    fs::read_to_string(&path).with_context(|| format!("cannot read {}; {advice}", path.display()))
}

/// The version in a package's package.json, for the page to show.
fn version(node_modules: &Path, package: &str) -> String {
    read_asset(node_modules, &format!("{package}/package.json"))
        .ok()
        .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
        .and_then(|package| package.get("version")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| "(version unknown)".to_owned())
}

/// The port of the old server, and of most set-ups since.
pub const PORT: u16 = 6001;

const APP_ID: &str = "talent2income";
const APP_KEY: &str = "talent2income-key";

/// How many events may wait between the stand-in and the server; more make the stand-in wait.
const EVENTS_MAX: usize = 256;

/// The libraries' builds are well under 200 kB.
const ASSET_BYTES_MAX: u64 = 4 * 1024 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_on_the_first_line() {
        let mut out = Vec::new();
        print_welcome(&mut out, "127.0.0.1:6001".parse().unwrap(), None, "its own client").unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().next().unwrap().contains("http://127.0.0.1:6001 "), "{text}");
    }

    #[test]
    fn a_port_in_use_becomes_any_free_one_and_a_sentence() {
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = other.local_addr().unwrap().port();
        let (port, remark) = choose_port(taken).unwrap();
        assert_eq!(port, 0);
        assert!(remark.unwrap().contains(&taken.to_string()));
    }

    #[test]
    fn a_free_port_is_taken_without_a_word() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        assert_eq!(choose_port(free).unwrap(), (free, None));
    }

    #[test]
    fn the_demo_listens_on_loopback_and_asks_the_stand_in() {
        let config = config(6001, "127.0.0.1:4711".parse().unwrap()).unwrap();
        assert_eq!(config.host.as_deref(), Some("127.0.0.1"));
        assert_eq!(config.auth.host.as_str(), "http://127.0.0.1:4711/");
        assert!(config.proxy);
        assert_eq!(config.apps[0].secret.expose().len(), 64);
    }

    #[test]
    fn missing_libraries_are_named_with_what_to_do() {
        let empty = tempfile::tempdir().unwrap();
        let error = format!("{:#}", read_libraries(empty.path()).unwrap_err());
        assert!(error.contains("laravel-echo/dist/echo.iife.js"), "{error}");
        assert!(error.contains("npm install laravel-echo pusher-js"), "{error}");
    }

    #[test]
    fn libraries_are_read_from_where_npm_puts_them() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("laravel-echo/dist/echo.iife.js", "var Echo"),
            ("laravel-echo/package.json", r#"{"version":"2.5.0"}"#),
            ("pusher-js/dist/web/pusher.min.js", "var Pusher"),
        ] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let libraries = read_libraries(dir.path()).unwrap();
        assert_eq!((libraries.echo.as_str(), libraries.echo_version.as_str()), ("var Echo", "2.5.0"));
        assert_eq!((libraries.pusher.as_str(), libraries.pusher_version.as_str()), ("var Pusher", "(version unknown)"));
    }
}
