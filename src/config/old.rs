//! What the old server had in parts of its own: the certificate, the database of presence lists,
//! the sources of events, the headers of the HTTP API. Their keys, and what becomes of them here.
//!
//! The old server took an object that was there in place of its whole default, so that a member that
//! was missing was missing. Here each member has its own default.

use std::path::PathBuf;

use super::error::ConfigError;
use super::file::{auth_base, member};
use super::json::Setting;
use super::known::warn_of_unknown;
use super::{ApiCors, AuthHost, PresenceStore, Redis, Secret, Subscribers, Tls, redis};

/// What decides about TLS, from file or environment.
pub(super) struct TlsKeys<'a> {
    pub protocol: Option<Setting<'a>>,
    pub https_port: Option<Setting<'a>>,
    pub certificate: Option<Setting<'a>>,
    pub key: Option<Setting<'a>>,
    pub chain: Option<Setting<'a>>,
    pub passphrase: Option<Setting<'a>>,
}

impl TlsKeys<'_> {
    /// The certificate, if the protocol is https or there is a port for that.
    pub fn read(&self, warnings: &mut Vec<String>) -> Result<Option<Tls>, ConfigError> {
        let (https, needs) = match (self.https_protocol(warnings)?, &self.https_port) {
            (None, None) => return Ok(None),
            (Some(protocol), None) => (protocol, "is \"https\", which needs"),
            (None, Some(port)) => (port, "needs"),
            (Some(_), Some(port)) => {
                return Err(port.error(
                    "is for https beside http, and with \"protocol\": \"https\" there is no http: \"port\" speaks https then. \
                     Take one of them out",
                ));
            }
        };
        let needed = |setting: &Option<Setting<'_>>, name: &str| {
            path(setting)?
                .ok_or_else(|| https.error(format!("{needs} a PEM file, as \"{name}\": \"/etc/ssl/echo.pem\"")))
        };
        let passphrase = self.passphrase.as_ref().map(Setting::text).transpose()?;
        Ok(Some(Tls {
            certificate: needed(&self.certificate, "sslCertPath")?,
            key: needed(&self.key, "sslKeyPath")?,
            passphrase: passphrase.filter(|text| !text.is_empty()).map(Secret::new),
            chain: path(&self.chain)?,
        }))
    }

    /// `protocol`, if it is https.
    fn https_protocol(&self, warnings: &mut Vec<String>) -> Result<Option<&Setting<'_>>, ConfigError> {
        let Some(protocol) = &self.protocol else { return Ok(None) };
        match protocol.text()?.as_str() {
            "http" | "" => Ok(None),
            "https" => Ok(Some(protocol)),
            _ => {
                warnings.push(protocol.odd("this server speaks http and https, and takes it for http"));
                Ok(None)
            }
        }
    }
}

/// `authHost`: one, or a list, of which the page chooses. The first is the one for pages of nobody's.
pub(super) fn read_auth_hosts(setting: Option<Setting<'_>>) -> Result<(url::Url, Vec<AuthHost>), ConfigError> {
    let entries = match setting {
        None => Vec::new(),
        Some(list) if list.is_list() => list.list()?,
        Some(one) => vec![one],
    };
    let mut hosts = Vec::new();
    for entry in &entries {
        if !entry.text()?.trim().is_empty() {
            hosts.push(read_auth_host(entry)?);
        }
    }
    let first = hosts.iter().find_map(AuthHost::url).cloned().or_else(|| {
        let AuthHost::SubDomains { scheme, domain, port } = hosts.first()? else { return None };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        url::Url::parse(&format!("{}://{}{port}", scheme.as_deref().unwrap_or("http"), &domain[1..])).ok()
    });
    let first = match first {
        Some(first) => first,
        None => url::Url::parse("http://localhost").unwrap_or_else(|_| unreachable!("a constant, and a URL")),
    };
    if let [AuthHost::Url(_)] = hosts[..] {
        hosts.clear();
    }
    Ok((first, hosts))
}

fn read_auth_host(setting: &Setting<'_>) -> Result<AuthHost, ConfigError> {
    let text = setting.text()?.trim().to_ascii_lowercase();
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text.as_str()),
    };
    if !rest.starts_with('.') {
        return auth_base(setting).map(AuthHost::Url);
    }
    let wrong = || {
        let must = "must be a domain for its sub-domains, as \".example.com\" or \"https://.example.com:8443\", without a path";
        setting.wrong(must)
    };
    let (domain, port) = match rest.split_once(':') {
        Some((domain, port)) => (domain, Some(port.parse().map_err(|_| wrong())?)),
        None => (rest, None),
    };
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let is_domain = domain.contains(|c: char| c != '.') && domain[1..].split('.').all(is_label);
    if !is_domain || scheme.is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(wrong());
    }
    Ok(AuthHost::SubDomains { scheme: scheme.map(str::to_owned), domain: domain.to_owned(), port })
}

fn path(setting: &Option<Setting<'_>>) -> Result<Option<PathBuf>, ConfigError> {
    let text = setting.as_ref().map(Setting::text).transpose()?;
    Ok(text.filter(|text| !text.is_empty()).map(PathBuf::from))
}

/// `database` and `databaseConfig`: Redis, and whether presence lists are kept there. They are for
/// others to read only, so only a file that names the database asks for them.
pub(super) fn read_database(
    database: Option<Setting<'_>>,
    config: Option<Setting<'_>>,
    warnings: &mut Vec<String>,
) -> Result<(Redis, Option<PresenceStore>), ConfigError> {
    let store = match &database {
        None => false,
        Some(setting) => match setting.text()?.as_str() {
            "redis" => true,
            "" => false,
            "sqlite" => {
                let what = "is \"sqlite\"; this server needs no database: presence members are kept in memory, and \
                            the SQLite file is neither read nor written";
                warnings.push(setting.warning(what));
                false
            }
            _ => {
                warnings
                    .push(setting.odd(
                        "it is ignored: presence members are kept in memory, and with \"redis\" in Redis as well",
                    ));
                false
            }
        },
    };
    let Some(config) = config else {
        return Ok((Redis::default(), None));
    };
    let members = config.object()?;
    warn_of_unknown(&members, warnings);
    if let Some(sqlite) = member(&members, "sqlite").filter(Setting::is_object) {
        warn_of_unknown(&sqlite.object()?, warnings);
    }
    let redis = member(&members, "redis");
    let store = store && redis.is_some();
    let publish = match member(&members, "publishPresence") {
        Some(publish) if publish.flag(warnings) => {
            if !store {
                let what = "does nothing without \"database\": \"redis\" and \"databaseConfig.redis\"";
                warnings.push(publish.warning(what));
            }
            true
        }
        _ => false,
    };
    let redis = redis.map_or_else(|| Ok(Redis::default()), |redis| redis::read(&redis, warnings))?;
    let store = store && redis.cluster.is_empty();
    if let Some(database) = database.filter(|_| !redis.cluster.is_empty()) {
        warnings.push(database.odd("presence lists are not kept in a Redis Cluster, only in memory"));
    }
    Ok((redis, store.then_some(PresenceStore { publish })))
}

/// `subscribers`. Anything that JavaScript takes for true switches on, as before; `null` was a crash.
pub(super) fn read_subscribers(
    setting: Option<Setting<'_>>,
    warnings: &mut Vec<String>,
) -> Result<Subscribers, ConfigError> {
    let Some(setting) = setting else { return Ok(Subscribers { http: true, redis: true }) };
    let members = setting.object()?;
    warn_of_unknown(&members, warnings);
    let is_on = |name: &str| member(&members, name).is_none_or(|flag| flag.is_truthy());
    let subscribers = Subscribers { http: is_on("http"), redis: is_on("redis") };
    if !subscribers.http && !subscribers.redis {
        warnings.push(setting.warning("switches http and redis off, so no event can arrive"));
    }
    Ok(subscribers)
}

/// `apiOriginAllow`.
pub(super) fn read_api_cors(
    setting: Option<Setting<'_>>,
    warnings: &mut Vec<String>,
) -> Result<Option<ApiCors>, ConfigError> {
    let Some(setting) = setting else { return Ok(None) };
    let members = setting.object()?;
    warn_of_unknown(&members, warnings);
    if !member(&members, "allowCors").is_some_and(|flag| flag.is_truthy()) {
        return Ok(None);
    }
    let text = |name: &str| match member(&members, name) {
        None => Ok(String::new()),
        Some(setting) => {
            let text = setting.text()?;
            let is_header = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
            if is_header { Ok(text) } else { Err(setting.wrong("must be the content of a header: one line of ASCII")) }
        }
    };
    Ok(Some(ApiCors { origin: text("allowOrigin")?, methods: text("allowMethods")?, headers: text("allowHeaders")? }))
}

/// Keys of the old server that ask for what this one does not do.
pub(super) fn warn_of_what_is_not_done(
    members: &[(String, Setting<'_>)],
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    if let Some(headers) = member(members, "headers").filter(Setting::has_members) {
        warnings.push(headers.warning("is not acted on: the headers are not sent"));
    }
    Ok(())
}
