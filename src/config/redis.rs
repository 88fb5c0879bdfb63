//! `databaseConfig.redis`, as ioredis took it: an object, a URL, or the path of a unix socket.

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::error::ConfigError;
use super::json::Setting;
use super::known::{is_known, warn_of_placeholders, warn_of_unknown};
use super::{Family, Node, Redis, RedisTls, Secret, Sentinel};

/// ioredis' own default ports.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const DB_MUST: &str = "must be the number of a Redis database, as 0 or \"4\"";
const URL_MUST: &str = "must be an object, as { \"host\": \"127.0.0.1\", \"port\": 6379 }, a URL, as \
                        \"redis://user:password@host:6379/0\", or the path of a unix socket";

impl Default for Redis {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: PORT,
            path: None,
            db: 0,
            username: None,
            password: None,
            tls: false,
            tls_options: RedisTls::default(),
            family: None,
            connect_timeout: None,
            sentinel: None,
            cluster: Vec::new(),
            key_prefix: None,
        }
    }
}

/// Reads the value of `databaseConfig.redis`.
pub(super) fn read(setting: &Setting<'_>, warnings: &mut Vec<String>) -> Result<Redis, ConfigError> {
    if setting.is_object() { from_object(setting, warnings) } else { from_text(setting, warnings) }
}

fn from_object(object: &Setting<'_>, warnings: &mut Vec<String>) -> Result<Redis, ConfigError> {
    let members = object.object()?;
    let member = |wanted: &str| members.iter().find(|(name, _)| name == wanted).map(|(_, setting)| setting);
    // The old server ignored a URL here without a word, and connected to localhost.
    let mut redis = match member("url") {
        Some(url) if url.text()?.is_empty() => Redis::default(),
        Some(url) => from_text(url, warnings)?,
        None => Redis::default(),
    };
    let mut others = Vec::new();
    for (name, setting) in &members {
        match name.as_str() {
            "url" => {}
            "host" => redis.host = host(setting)?,
            "port" => redis.port = port(setting)?,
            "path" => redis.path = Some(setting.text()?).filter(|path| !path.is_empty()),
            "db" => redis.db = db(setting)?,
            "username" => redis.username = user(setting)?,
            "password" => redis.password = password(setting)?,
            "keyPrefix" => redis.key_prefix = Some(setting.text()?),
            "tls" => (redis.tls, redis.tls_options) = tls(setting, warnings)?,
            "family" => redis.family = family(setting)?,
            "connectTimeout" => redis.connect_timeout = timeout(setting)?,
            "sentinels" => redis.sentinel = sentinel(setting, &member, warnings)?,
            "cluster" => redis.cluster = nodes(setting, PORT, warnings)?,
            // What the old server ignored without a word, so that it connected to the wrong database or
            // without a password.
            "prefix" => warnings.push(setting.warning("is ignored; the key is \"databaseConfig.redis.keyPrefix\"")),
            "scheme" => {
                warnings.push(setting.warning("is ignored; for TLS the key is \"databaseConfig.redis.tls\": true"));
            }
            "options" => misnested(setting, warnings),
            "role" if setting.text()? != "master" => {
                warnings
                    .push(setting.warning("is ignored; the master is asked for, since a replica cannot be written to"));
            }
            _ => match name.strip_prefix("options.") {
                Some(inner) => warnings.push(misplaced(setting, inner)),
                None => others.push((name.clone(), setting.clone())),
            },
        }
    }
    warn_of_unknown(&others, warnings);
    warn_of_placeholders(&members, warnings);
    if redis.sentinel.is_some() && !redis.cluster.is_empty() {
        return Err(object.error("has both \"sentinels\" and \"cluster\"; Redis is either, so leave one of them"));
    }
    Ok(redis)
}

/// `sentinels` and what stands beside it. Empty, it is as if it were not there.
fn sentinel<'a>(
    setting: &Setting<'_>,
    member: &dyn Fn(&str) -> Option<&'a Setting<'a>>,
    warnings: &mut Vec<String>,
) -> Result<Option<Sentinel>, ConfigError> {
    let nodes = nodes(setting, SENTINEL_PORT, warnings)?;
    if nodes.is_empty() {
        return Ok(None);
    }
    let Some(name) = member("name").map(Setting::text).transpose()?.filter(|name| !name.is_empty()) else {
        let what = "needs beside it the name by which the sentinels know the master, as \"name\": \"mymaster\"";
        return Err(setting.error(what));
    };
    let tls = match member("sentinelTLS") {
        Some(setting) => tls(setting, warnings)?.0,
        None => false,
    } || member("enableTLSForSentinelMode").is_some_and(|flag| flag.flag(warnings));
    Ok(Some(Sentinel {
        nodes,
        name,
        username: member("sentinelUsername").map_or(Ok(None), user)?,
        password: member("sentinelPassword").map_or(Ok(None), password)?,
        tls,
    }))
}

/// `[ { "host": …, "port": … } ]`.
fn nodes(setting: &Setting<'_>, default_port: u16, warnings: &mut Vec<String>) -> Result<Vec<Node>, ConfigError> {
    let node = |element: &Setting<'_>| {
        let mut node = Node { host: "127.0.0.1".to_owned(), port: default_port };
        for (name, setting) in element.object()? {
            match name.as_str() {
                "host" => node.host = host(&setting)?,
                "port" => node.port = port(&setting)?,
                _ => warnings.push(setting.warning("is not a known key and is ignored")),
            }
        }
        Ok(node)
    };
    setting.list()?.iter().map(node).collect()
}

fn family(setting: &Setting<'_>) -> Result<Option<Family>, ConfigError> {
    match setting.text()?.trim_start_matches("IPv") {
        "4" => Ok(Some(Family::V4)),
        "6" => Ok(Some(Family::V6)),
        "0" | "" => Ok(None),
        _ => Err(setting.wrong("must be 4 or 6, or 0 for either")),
    }
}

/// Milliseconds; 0 was no limit, and is the usual one here.
fn timeout(setting: &Setting<'_>) -> Result<Option<Duration>, ConfigError> {
    let ms = setting.whole(0..=600_000, "must be a number of milliseconds up to 600000, as 10000")?;
    Ok(Some(Duration::from_millis(ms)).filter(|timeout| !timeout.is_zero()))
}

/// `"options": { "password": … }`, which some container images write.
fn misnested(setting: &Setting<'_>, warnings: &mut Vec<String>) {
    match setting.object() {
        Ok(members) => warnings.extend(members.iter().map(|(name, setting)| misplaced(setting, name))),
        Err(_) => warnings.push(setting.warning("is ignored; there is no such key")),
    }
}

fn misplaced(setting: &Setting<'_>, name: &str) -> String {
    let name = if name == "prefix" { "keyPrefix" } else { name };
    let right = format!("databaseConfig.redis.{name}");
    if is_known(&right) {
        setting.warning(format_args!("is ignored; the key is \"{right}\""))
    } else {
        setting.warning("is ignored; options stand in \"databaseConfig.redis\" itself")
    }
}

fn from_text(setting: &Setting<'_>, warnings: &mut Vec<String>) -> Result<Redis, ConfigError> {
    let wrong = || setting.wrong(URL_MUST);
    let text = setting.text().map_err(|_| wrong())?;
    if text.is_empty() {
        return Ok(Redis::default());
    }
    if text.starts_with('/') {
        return Ok(Redis { path: Some(text), ..Redis::default() });
    }
    let url = url::Url::parse(&text).map_err(|_| wrong())?;
    let tls = match url.scheme() {
        "redis" => false,
        "rediss" => true,
        "unix" => return Ok(Redis { path: Some(decoded(url.path()).ok_or_else(wrong)?), ..Redis::default() }),
        _ => return Err(wrong()),
    };
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
    let db = match url.path().trim_matches('/') {
        "" => 0,
        number => number.parse::<u16>().map_err(|_| wrong())?,
    };
    if url.query().is_some() {
        warnings.push(setting.warning("has a \"?\"; what follows it is ignored, use the object form for options"));
    }
    let username = decoded(url.username()).ok_or_else(wrong)?;
    let password = url.password().map(|password| decoded(password).ok_or_else(wrong)).transpose()?;
    Ok(Redis {
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: url.port().unwrap_or(PORT),
        db: u32::from(db),
        username: Some(username).filter(|name| !name.is_empty()),
        password: password.filter(|password| !password.is_empty()).map(Secret::new),
        tls,
        ..Redis::default()
    })
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Into::into)
}

/// A host name or address.
pub(super) fn host(setting: &Setting<'_>) -> Result<String, ConfigError> {
    let host = setting.text()?;
    if host.contains("://") {
        let must = "must be a host name or address without ://; a URL goes to \"databaseConfig.redis\" itself, \
                    and \"tls\": true beside \"host\" asks for TLS";
        return Err(setting.wrong(must));
    }
    if host.contains(['/', ' ']) || host.is_empty() {
        return Err(setting.wrong("must be a host name or address, as \"127.0.0.1\"; a unix socket goes to \"path\""));
    }
    Ok(host)
}

/// A TCP port.
pub(super) fn port(setting: &Setting<'_>) -> Result<u16, ConfigError> {
    Ok(setting.whole(1..=u64::from(u16::MAX), "must be a TCP port from 1 to 65535, as 6379 or \"6379\"")? as u16)
}

/// A password; an empty one is none.
pub(super) fn password(setting: &Setting<'_>) -> Result<Option<Secret>, ConfigError> {
    Ok(Some(setting.text()?).filter(|password| !password.is_empty()).map(Secret::new))
}

/// The number of a database.
pub(super) fn db(setting: &Setting<'_>) -> Result<u32, ConfigError> {
    Ok(setting.whole(0..=u64::from(u16::MAX), DB_MUST)? as u32)
}

/// A user's name; an empty one is none.
pub(super) fn user(setting: &Setting<'_>) -> Result<Option<String>, ConfigError> {
    Ok(Some(setting.text()?).filter(|name| !name.is_empty()))
}

/// ioredis took an object of options of Node's TLS, also an empty one, for "with TLS".
fn tls(setting: &Setting<'_>, warnings: &mut Vec<String>) -> Result<(bool, RedisTls), ConfigError> {
    let mut options = RedisTls::default();
    if !setting.is_object() {
        return Ok((setting.flag(warnings), options));
    }
    for (name, setting) in setting.object()? {
        match name.as_str() {
            "rejectUnauthorized" => options.any_certificate = !setting.is_truthy(),
            "ca" => options.authorities = Some(setting.text()?),
            "servername" => options.server_name = Some(setting.text()?).filter(|name| !name.is_empty()),
            _ => warnings.push(
                setting.warning("is not acted on; of Redis' TLS options these are: ca, rejectUnauthorized, servername"),
            ),
        }
    }
    Ok((true, options))
}

impl fmt::Display for Node {
    /// The address, brackets around IPv6: `127.0.0.1:6379`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Redis {
    /// Where it is: an address, a socket's path, a sentinel's master or the nodes of a cluster.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = Node { host: self.host.clone(), port: self.port };
        match (&self.sentinel, &self.path) {
            (Some(sentinel), _) => {
                write!(f, "master {:?} of the sentinels at {}", sentinel.name, list(&sentinel.nodes))
            }
            _ if !self.cluster.is_empty() => write!(f, "the cluster at {}", list(&self.cluster)),
            (None, Some(path)) => f.write_str(path),
            (None, None) => node.fmt(f),
        }
    }
}

fn list(nodes: &[Node]) -> String {
    nodes.iter().map(Node::to_string).collect::<Vec<_>>().join(", ")
}
