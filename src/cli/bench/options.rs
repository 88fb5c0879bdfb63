//! What `bench` may be told, and what it makes of it: addresses, counts, bounds.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum, value_parser};

use crate::config::Secret;

/// Options of `bench`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The server's address, as ws://127.0.0.1:6001.
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:6001")]
    pub url: String,
    /// The app's key, clients[].key in the config file.
    #[arg(long, value_name = "KEY")]
    pub key: String,
    /// The app's id, clients[].appId; needed to publish over HTTP.
    #[arg(long, value_name = "ID")]
    pub app_id: Option<String>,
    /// The app's secret, clients[].secret; needed to publish over HTTP and for --private and
    /// --presence. Others on this machine can read it here; the environment's PUSHER_APP_SECRET
    /// does as well.
    #[arg(long, value_name = "SECRET", value_parser = secret)]
    pub secret: Option<Secret>,
    /// What the server speaks: pusher, or socketio for the laravel-echo-server of Node.
    #[arg(long, value_enum, default_value_t = Dialect::Pusher)]
    pub dialect: Dialect,
    /// Connections that subscribe.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=200_000))]
    pub connections: u32,
    /// Channels; connection i subscribes to channel i modulo this.
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = value_parser!(u32).range(1..=200_000))]
    pub channels: u32,
    /// Subscribe to private channels, signed with the secret.
    #[arg(long, conflicts_with = "presence")]
    pub private: bool,
    /// Subscribe to presence channels, each connection as a member of its own.
    #[arg(long)]
    pub presence: bool,
    /// After the idle time so many more connections join a presence channel, one after the other, and leave it.
    #[arg(long, value_name = "J", default_value_t = 0, requires = "presence", value_parser = value_parser!(u32).range(0..=10_000))]
    pub joins: u32,
    /// Events to publish and measure.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u32).range(0..=100_000_000))]
    pub events: u32,
    /// Events to publish before, which are counted but not measured.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u32).range(0..=10_000_000))]
    pub warm_up: u32,
    /// Events a second; 0: as fast as they are delivered.
    #[arg(long, value_name = "R", default_value_t = 0.0)]
    pub rate: f64,
    /// Events that are published at once.
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = value_parser!(u32).range(1..=10_000))]
    pub burst: u32,
    /// Events that may be under way: no more are published until those have been delivered
    /// [default: one burst, or at least 1,000 with --rate].
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=100_000))]
    pub in_flight: Option<u32>,
    /// Connections that events are published over; the order is checked within each.
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = value_parser!(u32).range(1..=64))]
    pub publishers: u32,
    /// Publish over the HTTP API, or through Redis as Laravel does.
    #[arg(long, value_enum, default_value_t = Source::Http)]
    pub source: Source,
    /// The Redis to publish to.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    pub redis: String,
    /// What Laravel puts before channel names in Redis.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub redis_prefix: String,
    /// Bytes of each event's data, at least 56.
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = value_parser!(u32).range(0..=1_000_000))]
    pub data_bytes: u32,
    /// So many of the connections stop reading once they are subscribed; they count for nothing else.
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = value_parser!(u32).range(0..=10_000))]
    pub slow: u32,
    /// How long all stay subscribed before memory is read, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub idle: f64,
    /// Connections that are being opened at a time.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=10_000))]
    pub opening: u32,
    /// How long nothing may arrive before what is missing counts as lost, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub patience: f64,
    /// The server's process, to read CPU and memory of [default: whoever listens on the port, if it is here].
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Allow an address that is not this machine's own. Load on servers of others is an attack.
    #[arg(long)]
    pub i_own_this_server: bool,
}

/// What the server speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Dialect {
    /// The Pusher protocol.
    Pusher,
    /// Socket.IO 2 over Engine.IO 3, as laravel-echo-server 1.x spoke it.
    Socketio,
}

/// Where events are published.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Source {
    /// `POST /apps/{id}/events`.
    Http,
    /// `PUBLISH`.
    Redis,
}

/// Options that have been checked, with what follows from them.
#[derive(Debug)]
pub struct Plan {
    /// As given.
    pub options: Options,
    /// The server.
    pub address: SocketAddr,
    /// For the `Host` header.
    pub host: String,
    /// Where events are published.
    pub publish_to: SocketAddr,
    /// See [`Options::idle`].
    pub idle: Duration,
    /// See [`Options::patience`].
    pub patience: Duration,
    /// See [`Options::in_flight`].
    pub in_flight: u64,
    /// See [`Options::secret`].
    pub secret: Option<Secret>,
}

impl Plan {
    /// Checks the options and looks the addresses up.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let from_environment = || std::env::var("PUSHER_APP_SECRET").ok().filter(|text| !text.is_empty());
        let secret = options.secret.clone().or_else(|| from_environment().map(Secret::new));
        let url = url::Url::parse(&options.url).with_context(|| format!("--url {} is no URL", options.url))?;
        if url.scheme() != "ws" {
            bail!("--url must begin with ws://; TLS is not spoken here, measure the port behind it");
        }
        let name = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port().unwrap_or(80);
        let address = look_up(&name, port, options.i_own_this_server)?;
        let publish_to = match options.source {
            Source::Http => {
                if options.events + options.warm_up > 0 && options.app_id.is_none() {
                    bail!("to publish over HTTP, --app-id is needed, or --source redis");
                }
                if options.events + options.warm_up > 0 && secret.is_none() && options.dialect == Dialect::Pusher {
                    bail!("to publish over HTTP, --secret is needed, or --source redis");
                }
                address
            }
            Source::Redis => {
                let parts = options.redis.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
                let (host, port) = parts.with_context(|| format!("--redis {} is not HOST:PORT", options.redis))?;
                look_up(host, port, options.i_own_this_server)?
            }
        };
        if options.private || options.presence {
            if options.dialect == Dialect::Socketio {
                bail!("--private and --presence are for the Pusher protocol: with Socket.IO, Laravel would be asked");
            }
            if secret.is_none() {
                bail!("--private and --presence need --secret to sign with");
            }
        }
        if options.slow >= options.connections {
            bail!("--slow {} leaves none of {} connections to measure", options.slow, options.connections);
        }
        let in_flight = match options.in_flight {
            Some(events) if events < options.burst => bail!("--in-flight {events} is less than one --burst"),
            Some(events) => events,
            None if options.rate > 0.0 => options.burst.saturating_mul(4).max(1000),
            None => options.burst,
        };
        if !(0.0..=1e7).contains(&options.rate) {
            bail!("--rate {} is not between 0 and 10,000,000", options.rate);
        }
        Ok(Self {
            idle: seconds("--idle", options.idle)?,
            patience: seconds("--patience", options.patience)?,
            host: format!("{name}:{port}"),
            in_flight: in_flight.into(),
            secret,
            address,
            publish_to,
            options,
        })
    }

    /// The name of a channel.
    pub fn channel(&self, number: u32) -> String {
        let kind = match &self.options {
            options if options.presence => "presence-",
            options if options.private => "private-",
            _ => "",
        };
        format!("{kind}bench-{number}")
    }

    /// Where a connection comes from: one loopback address has too few ports for a large test.
    pub fn source_address(&self, connection: usize) -> Option<SocketAddr> {
        const CONNECTIONS_EACH: usize = 20_000;
        let number = connection / CONNECTIONS_EACH;
        match self.address.ip() {
            IpAddr::V4(ip) if ip.is_loopback() && number > 0 => {
                Some(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 1 + number as u8), 0)))
            }
            _ => None,
        }
    }
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

fn seconds(option: &str, value: f64) -> anyhow::Result<Duration> {
    if !(0.0..=86_400.0).contains(&value) {
        bail!("{option} {value} is not between 0 and 86,400 seconds");
    }
    Ok(Duration::from_secs_f64(value))
}

fn look_up(host: &str, port: u16, may_be_elsewhere: bool) -> anyhow::Result<SocketAddr> {
    let mut addresses: Vec<SocketAddr> =
        (host, port).to_socket_addrs().with_context(|| format!("{host} has no address"))?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let Some(address) = addresses.first().copied() else { bail!("{host} has no address") };
    if !may_be_elsewhere && !address.ip().is_loopback() {
        bail!("{host} is not this machine; if the server is yours, say --i-own-this-server");
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn plan(line: &str) -> anyhow::Result<Plan> {
        let words = line.split(' ').filter(|word| !word.is_empty());
        Plan::new(Line::try_parse_from(["bench", "--key", "k"].into_iter().chain(words))?.options)
    }

    #[test]
    fn only_this_machine_unless_told_otherwise() {
        let rest = "--app-id a --secret s";
        let refused = plan(&format!("--url ws://192.0.2.1:6001 {rest}")).unwrap_err().to_string();
        assert!(refused.contains("--i-own-this-server"), "{refused}");
        assert!(plan(&format!("--url ws://192.0.2.1:6001 --i-own-this-server {rest}")).is_ok());
        assert!(plan(&format!("--source redis --redis 192.0.2.1:6379 {rest}")).is_err());
        let plan = plan(&format!("--url ws://localhost:6002 {rest}")).unwrap();
        assert!(plan.address.ip().is_loopback() && plan.address.port() == 6002);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (line, word) in [
            ("--url http://127.0.0.1:1", "ws://"),
            ("", "--app-id"),
            ("--app-id a", "--secret"),
            ("--source redis --redis 6379", "HOST:PORT"),
            ("--source redis --presence", "--secret"),
            ("--source redis --slow 5 --connections 5", "--slow"),
            ("--source redis --burst 5 --in-flight 4", "--burst"),
            ("--source redis --rate -1", "--rate"),
            ("--source redis --idle 1e9", "--idle"),
            ("--source redis --connections 0", "--connections"),
            ("--source redis --publishers 65", "--publishers"),
        ] {
            let error = plan(line).unwrap_err().to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn more_connections_than_ports_come_from_several_addresses() {
        let plan = plan("--source redis").unwrap();
        assert_eq!(plan.source_address(19_999), None);
        assert_eq!(plan.source_address(20_000), Some("127.0.0.2:0".parse().unwrap()));
        assert_eq!(plan.source_address(199_999), Some("127.0.0.10:0".parse().unwrap()));
    }
}
