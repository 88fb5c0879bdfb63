//! `databaseConfig.redis`, as ioredis took it: an object, a URL, or the path of a unix socket.

use percent_encoding::percent_decode_str;

use super::error::ConfigError;
use super::json::Setting;
use super::known::{is_known, warn_of_unknown};
use super::{Redis, Secret};

/// ioredis' own default port.
const PORT: u16 = 6379;
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
            key_prefix: None,
        }
    }
}

/// Reads the value of `databaseConfig.redis`.
pub(super) fn read(setting: &Setting<'_>, warnings: &mut Vec<String>) -> Result<Redis, ConfigError> {
    if setting.is_object() { from_object(setting, warnings) } else { from_text(setting, warnings) }
}

fn from_object(setting: &Setting<'_>, warnings: &mut Vec<String>) -> Result<Redis, ConfigError> {
    let mut redis = Redis::default();
    let mut others = Vec::new();
    for (name, setting) in setting.object()? {
        match name.as_str() {
            "host" => redis.host = host(&setting)?,
            "port" => redis.port = port(&setting)?,
            "path" => redis.path = Some(setting.text()?).filter(|path| !path.is_empty()),
            "db" => redis.db = setting.whole(0..=u64::from(u16::MAX), DB_MUST)? as u32,
            "username" => redis.username = Some(setting.text()?).filter(|name| !name.is_empty()),
            "password" => redis.password = password(&setting)?,
            "keyPrefix" => redis.key_prefix = Some(setting.text()?),
            "tls" => redis.tls = tls(&setting, warnings),
            "sentinels" if setting.has_members() => {
                return Err(setting.error(
                    "asks for Redis Sentinel, which this version cannot do; name the Redis server itself with \
                     \"host\" and \"port\"",
                ));
            }
            // What the old server ignored without a word, so that it connected to the wrong database or
            // without a password.
            "url" => warnings.push(setting.warning(
                "is ignored; the URL goes to \"databaseConfig.redis\" itself, or its parts to \"host\", \"port\", \
                 \"password\" and \"db\"",
            )),
            "prefix" => warnings.push(setting.warning("is ignored; the key is \"databaseConfig.redis.keyPrefix\"")),
            "scheme" => {
                warnings.push(setting.warning("is ignored; for TLS the key is \"databaseConfig.redis.tls\": true"));
            }
            "options" => misnested(&setting, warnings),
            _ => match name.strip_prefix("options.") {
                Some(inner) => warnings.push(misplaced(&setting, inner)),
                None => others.push((name, setting)),
            },
        }
    }
    warn_of_unknown(&others, warnings);
    Ok(redis)
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
        path: None,
        db: u32::from(db),
        username: Some(username).filter(|name| !name.is_empty()),
        password: password.filter(|password| !password.is_empty()).map(Secret::new),
        tls,
        key_prefix: None,
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

/// ioredis took an object of options, also an empty one, for "with TLS".
fn tls(setting: &Setting<'_>, warnings: &mut Vec<String>) -> bool {
    if !setting.is_object() {
        return setting.flag(warnings);
    }
    if setting.has_members() {
        warnings.push(setting.warning("switches TLS on, but the options in it are not acted on yet"));
    }
    true
}
