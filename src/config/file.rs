//! `laravel-echo-server.json` as users write it, and the variables of the environment that stand
//! for some of its keys, into a [`Config`].
//!
//! The keys and their old forms are those of the Node server (numbers as texts, a port as the end
//! of a URL, dead keys of earlier versions). What is odd but can be lived with is a warning; what
//! would make the server do something else than the file says is an error.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::environment::Environment;
use super::error::ConfigError;
use super::json::{Document, Setting};
use super::known::{warn_of_placeholders, warn_of_unknown};
use super::{
    App, Auth, Cluster, Config, KeyAuth, Limits, LogFormat, Redis, Secret, SocketIo, admin, limits, listen, old,
    operations, redis, resume, socketio, webhook,
};
use crate::protocol::app_tag;

/// The file's name where `--config` gives none.
pub const FILE_NAME: &str = "laravel-echo-server.json";

/// A file longer than this is something else.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Each costs a signature that is wrong another check.
const PREVIOUS_SECRETS_MAX: usize = 10;

/// Looks up a variable of the environment.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Config {
    /// Reads the file `config` (default: [`FILE_NAME`]) in the directory `dir` (default: the
    /// current one). An absolute `config` wins over `dir`. A variable of the environment wins over the file.
    ///
    /// # Errors
    /// The text of the error says what to do; it is meant for the user as it stands.
    pub fn load(dir: Option<&Path>, config: Option<&Path>, variables: Variables<'_>) -> Result<Self, ConfigError> {
        let name = config.unwrap_or(Path::new(FILE_NAME));
        let path = dir.map_or_else(|| name.to_owned(), |dir| dir.join(name));
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)) {
            Ok(_) => Self::parse(&path, &bytes, variables),
            // A file that was asked for has to be there.
            Err(reason)
                if reason.kind() == ErrorKind::NotFound
                    && config.is_none()
                    && Environment::new(variables).has_app() =>
            {
                Self::from_environment(variables)
            }
            Err(reason) => Err(ConfigError::from_io(&path, reason)),
        }
    }

    /// What the environment of a user of Reverb, Pusher or soketi says, without a file.
    fn from_environment(variables: Variables<'_>) -> Result<Self, ConfigError> {
        let path = Path::new("the environment");
        let document = Document::parse(path, "{}")?;
        let mut config = read(path, &document.root(), variables)?;
        let is_set = |name| variables(name).is_some_and(|value| !value.is_empty());
        // Their events come over HTTP; a Redis that nobody named would only be missed in the log.
        config.subscribers.redis =
            ["LARAVEL_ECHO_SERVER_REDIS_HOST", "LARAVEL_ECHO_SERVER_REDIS_PORT"].iter().any(|name| is_set(*name));
        config.cluster = config.cluster.filter(|_| config.subscribers.redis);
        Ok(config)
    }

    /// Reads the content of a file. `path` is what errors call it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, bytes: &[u8], variables: Variables<'_>) -> Result<Self, ConfigError> {
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(ConfigError::TooLong { path: path.to_owned(), max_bytes: FILE_BYTES_MAX });
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            ConfigError::NotUtf8 { path: path.to_owned(), line }
        })?;
        // Some editors put a byte order mark in front.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim().is_empty() {
            return Err(ConfigError::Empty { path: path.to_owned() });
        }
        let document = Document::parse(path, text)?;
        read(path, &document.root(), variables)
    }
}

fn read(path: &Path, root: &Setting<'_>, variables: Variables<'_>) -> Result<Config, ConfigError> {
    let mut warnings = Vec::new();
    let members = root.object()?;
    warn_of_unknown(&members, &mut warnings);
    warn_of_placeholders(&members, &mut warnings);
    let file = |name: &str| member(&members, name);
    let variable = |name: &'static str, key: &str| {
        variables(name).filter(|value| !value.is_empty()).map(|value| Setting::variable(name, value, key))
    };
    old::warn_of_what_is_not_done(&members, &mut warnings)?;
    let mut environment = Environment::new(variables);

    let auth_host = variable("LARAVEL_ECHO_SERVER_AUTH_HOST", "authHost").or(file("authHost"));
    let host = variable("LARAVEL_ECHO_SERVER_HOST", "host").or(file("host")).or_else(|| environment.host());
    let port = variable("LARAVEL_ECHO_SERVER_PORT", "port").or(file("port")).or_else(|| environment.port());
    let dev_mode = variable("LARAVEL_ECHO_SERVER_DEBUG", "devMode").or(file("devMode"));
    let log_format = variable("LARAVEL_ECHO_SERVER_LOG_FORMAT", "logFormat").or(file("logFormat"));
    let metrics_token = variable("LARAVEL_ECHO_SERVER_METRICS_TOKEN", "metrics.token");
    let tls = old::TlsKeys {
        protocol: variable("LARAVEL_ECHO_SERVER_PROTO", "protocol").or(file("protocol")),
        https_port: variable("LARAVEL_ECHO_SERVER_HTTPS_PORT", "httpsPort").or(file("httpsPort")),
        certificate: variable("LARAVEL_ECHO_SERVER_SSL_CERT", "sslCertPath").or(file("sslCertPath")),
        key: variable("LARAVEL_ECHO_SERVER_SSL_KEY", "sslKeyPath").or(file("sslKeyPath")),
        chain: variable("LARAVEL_ECHO_SERVER_SSL_CHAIN", "sslCertChainPath").or(file("sslCertChainPath")),
        passphrase: variable("LARAVEL_ECHO_SERVER_SSL_PASS", "sslPassphrase").or(file("sslPassphrase")),
    };

    let (mut redis, presence_store) = old::read_database(file("database"), file("databaseConfig"), &mut warnings)?;
    if let Some(host) = variable("LARAVEL_ECHO_SERVER_REDIS_HOST", "databaseConfig.redis.host") {
        redis.host = redis::host(&host)?;
    }
    if let Some(port) = variable("LARAVEL_ECHO_SERVER_REDIS_PORT", "databaseConfig.redis.port") {
        redis.port = redis::port(&port)?;
    }
    if let Some(user) = variable("LARAVEL_ECHO_SERVER_REDIS_USERNAME", "databaseConfig.redis.username") {
        redis.username = redis::user(&user)?;
    }
    if let Some(password) = variable("LARAVEL_ECHO_SERVER_REDIS_PASSWORD", "databaseConfig.redis.password") {
        redis.password = redis::password(&password)?;
    }
    if let Some(db) = variable("LARAVEL_ECHO_SERVER_REDIS_DB", "databaseConfig.redis.db") {
        redis.db = redis::db(&db)?;
    }
    if let Some(prefix) = variable("LARAVEL_ECHO_SERVER_REDIS_PREFIX", "databaseConfig.redis.keyPrefix") {
        redis.key_prefix = Some(prefix.text()?);
    }

    let limits = match file("limits") {
        Some(own) => limits::read(&own, &Limits::default(), &mut warnings)?,
        None => Limits::default(),
    };
    let clients = file("clients").filter(|clients| !clients.is_list() || clients.has_members());
    let apps = match if clients.is_none() { environment.app(&limits, &mut warnings)? } else { None } {
        Some(app) => vec![app],
        None => read_apps(root, clients, &limits, &mut environment, &mut warnings)?,
    };
    let hears_all = apps.iter().find(|app| app.key_prefix.as_deref() == Some(""));
    if let (Some(app), None) = (hears_all, &redis.key_prefix)
        && apps.iter().any(|app| app.key_prefix.is_none())
    {
        warnings.push(format!(
            "The client {} has the \"keyPrefix\" \"\", under which is all that Redis carries: clients without \"keyPrefix\" \
             hear nothing. Give each its own.",
            app.id
        ));
    }

    let default_port =
        if members.is_empty() && port.is_none() { environment.default_port() } else { None }.unwrap_or(6001);
    let https_port_setting = tls.https_port.clone();
    let tls = match tls.read(&mut warnings)? {
        None if tls.protocol.is_none() => environment.tls(),
        tls => tls,
    };
    let port_number = port.as_ref().map_or(Ok(default_port), listen_port)?;
    let https_port = https_port_setting.as_ref().map(listen_port).transpose()?;
    let (host_for_all, hosts) = old::read_auth_hosts(auth_host)?;
    let subscribers = old::read_subscribers(file("subscribers"), &mut warnings)?;
    let cluster = read_cluster(file("cluster"), &redis, subscribers.redis, &mut warnings)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let socket = listen::socket(file("socket"), file("socketMode"), port.is_none())?;
    let opens_port = port_number != 0 && socket.as_ref().is_none_or(|socket| !socket.is_alone);
    if let Some(setting) = https_port_setting.filter(|_| opens_port && https_port == Some(port_number)) {
        return Err(setting.wrong("must be another port than \"port\", which speaks http"));
    }
    let mut config = Config {
        path: path.to_owned(),
        host: host.map(|host| listen_host(&host)).transpose()?.flatten(),
        port: port_number,
        https_port,
        socket,
        trusted_proxies: file("trustedProxies")
            .map(|list| listen::trusted_proxies(&list, &mut warnings))
            .transpose()?
            .unwrap_or_default(),
        proxy_protocol: file("proxyProtocol").is_some_and(|flag| flag.flag(&mut warnings)),
        tls,
        apps,
        first_app: 0,
        auth: Auth {
            host: host_for_all,
            hosts,
            endpoint: file("authEndpoint")
                .map_or_else(|| Ok("/broadcasting/auth".to_owned()), |endpoint| auth_path(&endpoint, &mut warnings))?,
            allowed_origins: file("allowedOrigins").map_or_else(|| Ok(Vec::new()), |origins| read_origins(&origins))?,
            timeout: Duration::from_millis(number(&file("authTimeoutMs"), 10_000, 1..=600_000, "of milliseconds")?),
            concurrency: number(&file("authConcurrency"), 32, 1..=10_000, "of requests")? as usize,
            reauthorize_after: match number(&file("reauthorizeMinutes"), 0, 0..=100_000, "of minutes")? {
                0 => None,
                minutes => Some(Duration::from_secs(minutes * 60)),
            },
            accept_any_200: file("authAcceptAny200").is_some_and(|flag| flag.flag(&mut warnings)),
        },
        key_auth: file("httpApiKeyAuth").map_or(Ok(KeyAuth::default()), |from| key_auth(&from, &mut warnings))?,
        admin: admin::read(
            file("admin"),
            variable("LARAVEL_ECHO_SERVER_ADMIN_USER", "admin.user"),
            variable("LARAVEL_ECHO_SERVER_ADMIN_PASSWORD", "admin.password"),
            &mut warnings,
        )?,
        proxy: file("proxy").is_some_and(|flag| flag.flag(&mut warnings)),
        redis,
        subscribers,
        api_cors: old::read_api_cors(file("apiOriginAllow"), &mut warnings)?,
        presence_store,
        cluster,
        dev_mode: dev_mode.map_or_else(|| environment.dev_mode(), |flag| flag.flag(&mut warnings)),
        log_format: log_format.map_or(Ok(LogFormat::Auto), |format| operations::read_log_format(&format))?,
        metrics: operations::read_metrics(file("metrics"), metrics_token, &mut warnings)?,
        per_message_deflate: file("perMessageDeflate").is_some_and(|flag| flag.flag(&mut warnings)),
        socketio: file("socketio").map_or_else(|| Ok(SocketIo::default()), |it| socketio::read(&it, &mut warnings))?,
        resume: match file("resume") {
            Some(setting) => resume::read(&setting, &mut warnings)?,
            None => None,
        },
        limits,
        shutdown_time: match file("shutdownSeconds") {
            Some(_) => Some(Duration::from_secs(number(&file("shutdownSeconds"), 5, 0..=60, "of seconds")?)),
            None => None,
        },
        shards: number(&file("shards"), cores as u64, 1..=1024, "of threads")? as usize,
        taken: Vec::new(),
        warnings,
    };
    environment.check_where_laravel_looks(&mut config);
    config.taken = environment.taken;
    Ok(config)
}

pub(super) fn member<'a>(members: &[(String, Setting<'a>)], name: &str) -> Option<Setting<'a>> {
    members.iter().find(|(member, _)| member == name).map(|(_, setting)| setting.clone())
}

/// `cluster`: an object, or a flag. Without it there is one where Redis is used anyway.
fn read_cluster(
    setting: Option<Setting<'_>>,
    redis: &Redis,
    default: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<Cluster>, ConfigError> {
    let members = match setting {
        Some(setting) if setting.is_object() => setting.object()?,
        Some(setting) if !setting.flag(warnings) => return Ok(None),
        None if !default => return Ok(None),
        _ => Vec::new(),
    };
    warn_of_unknown(&members, warnings);
    let name = match member(&members, "name") {
        Some(setting) => {
            let name = setting.text()?;
            let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
            if name.is_empty() || name.len() > 100 || !name.bytes().all(is_fit) {
                return Err(setting.wrong("must be of up to 100 letters, digits and signs - _ . :"));
            }
            name
        }
        None if redis.db == 0 => "laravel-echo-server".to_owned(),
        None => format!("laravel-echo-server-{}", redis.db),
    };
    let grace = number(&member(&members, "presenceGraceSeconds"), 10, 0..=3600, "of seconds")?;
    Ok(Some(Cluster { name, presence_grace: Duration::from_secs(grace) }))
}

/// The address to listen on; an empty one is all interfaces.
fn listen_host(setting: &Setting<'_>) -> Result<Option<String>, ConfigError> {
    let text = setting.text()?;
    let host = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(&text);
    let is_name = |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if !is_name(host) && host.parse::<IpAddr>().is_err() {
        let must = "must be the name or address of this machine without http:// and port, as \"127.0.0.1\", or null \
                    for all its addresses";
        return Err(setting.wrong(must));
    }
    Ok(Some(host.to_owned()).filter(|host| !host.is_empty()))
}

/// The port to listen on: a number, digits, or the end of a URL, as the old server took it.
fn listen_port(setting: &Setting<'_>) -> Result<u16, ConfigError> {
    let wrong = || setting.wrong("must be a TCP port from 1 to 65535, as 6001 or \"6001\" (or 0 for any free one)");
    let text = setting.text().map_err(|_| wrong())?;
    let text = text.strip_suffix('/').unwrap_or(&text);
    let digits = text.rsplit(':').next().unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    digits.parse().map_err(|_| wrong())
}

fn read_apps(
    root: &Setting<'_>,
    clients: Option<Setting<'_>>,
    limits: &Limits,
    environment: &mut Environment<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<App>, ConfigError> {
    const ADD: &str = "so only Socket.IO clients can connect; for pusher-js add for example \
                       \"clients\": [ { \"appId\": \"my-app\", \"key\": \"my-app-key\" } ], \
                       with the key that Laravel Echo is given as \"key\"";
    let Some(clients) = clients else {
        // As the old wizard left it: Socket.IO clients name no app, so one without a name is theirs.
        warnings.push(root.warning(format_args!("there is no app in \"clients\", {ADD}")));
        let random = || Secret::random().map_err(ConfigError::NoRandomNumbers);
        let (key, secret) = (random()?.expose().to_owned(), random()?);
        let app = App {
            id: String::new(),
            key,
            secret,
            previous_secrets: Vec::new(),
            secret_is_random: true,
            is_removed: false,
            limits: limits.clone(),
            key_prefix: None,
            subscription_count: false,
            webhooks: Vec::new(),
        };
        return Ok(vec![app]);
    };
    let clients_list = clients.list()?;
    let mut apps = Vec::with_capacity(clients_list.len());
    let mut keys = HashMap::new();
    let mut ids = HashMap::new();
    let mut tags = HashMap::new();
    for client in &clients_list {
        let members = client.object()?;
        warn_of_unknown(&members, warnings);
        let required = |name: &str, example: &str| match member(&members, name) {
            Some(setting) => Ok((name_in_a_path(&setting)?, setting)),
            None => Err(client.error(format_args!("has no \"{name}\"; add one, as \"{name}\": \"{example}\""))),
        };
        let (id, id_setting) = required("appId", "my-app")?;
        let (key, key_setting) = required("key", "my-app-key")?;
        if let Some(first) = ids.insert(id.clone(), client.key.clone()) {
            return Err(id_setting.wrong(format_args!("is that of {first} already; give each app its own \"appId\"")));
        }
        if let Some(first) = keys.insert(key.clone(), client.key.clone()) {
            return Err(key_setting.wrong(format_args!("is that of {first} already; give each app its own \"key\"")));
        }
        if let Some(first) = tags.insert(app_tag(&key), client.key.clone()) {
            let what = format_args!("shares its 16-bit tag with the key of {first}, by chance; change one of the keys");
            return Err(key_setting.wrong(what));
        }
        let secret = match member(&members, "secret") {
            Some(secret) => secret.text()?,
            None => String::new(),
        };
        let secret = if secret.is_empty() { environment.secret_of(&key).unwrap_or_default() } else { secret };
        let secret_is_random = secret.is_empty();
        let secret = if secret_is_random {
            Secret::random().map_err(ConfigError::NoRandomNumbers)?
        } else {
            Secret::new(secret)
        };
        let previous_secrets = member(&members, "previousSecrets").map(|list| read_secrets(&list)).transpose()?;
        let limits = match member(&members, "limits") {
            Some(own) => limits::read_of_app(&own, limits, warnings)?,
            None => limits.clone(),
        };
        let key_prefix = member(&members, "keyPrefix").map(|prefix| prefix.text()).transpose()?;
        let subscription_count = member(&members, "subscriptionCount").is_some_and(|flag| flag.flag(warnings));
        let webhooks = member(&members, "webhooks").map(|list| webhook::read(&list, warnings)).transpose()?;
        let app = App {
            id,
            key,
            secret,
            previous_secrets: previous_secrets.unwrap_or_default(),
            secret_is_random,
            is_removed: false,
            limits,
            key_prefix,
            subscription_count,
            webhooks: webhooks.unwrap_or_default(),
        };
        warnings.extend(webhook::warning(&app));
        apps.push(app);
    }
    Ok(apps)
}

/// `previousSecrets`: a list, or one as a text.
fn read_secrets(setting: &Setting<'_>) -> Result<Vec<Secret>, ConfigError> {
    let list = if setting.is_list() { setting.list()? } else { vec![setting.clone()] };
    if list.len() > PREVIOUS_SECRETS_MAX {
        return Err(setting.error(format_args!("has {} secrets; up to {PREVIOUS_SECRETS_MAX} are tried", list.len())));
    }
    let secrets: Vec<String> = list.iter().map(|secret| secret.text()).collect::<Result<_, _>>()?;
    Ok(secrets.into_iter().filter(|secret| !secret.is_empty()).map(Secret::new).collect())
}

/// An app's id or key. Both are a segment of URLs, and the key stands before the colon of a signature.
pub(super) fn name_in_a_path(setting: &Setting<'_>) -> Result<String, ConfigError> {
    let name = setting.text()?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) || name.contains(['/', '?', '#', '%', ':'])
    {
        return Err(setting.wrong("must be of letters, digits and signs other than / ? # % : and spaces"));
    }
    Ok(name)
}

/// One URL of `authHost`. The path, if any, loses its last slash: the endpoint begins with one.
pub(super) fn auth_base(setting: &Setting<'_>) -> Result<url::Url, ConfigError> {
    const MUST: &str = "must be the base URL of the Laravel application, as \"http://localhost:8000\"";
    let text = setting.text()?;
    if !text.contains("://") {
        return Err(setting.wrong("must begin with http:// or https://, as \"http://localhost:8000\""));
    }
    let mut url = url::Url::parse(text.trim()).map_err(|_| setting.wrong(MUST))?;
    if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() {
        return Err(setting.wrong(MUST));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(setting.error("holds a user or password for Laravel, which this version cannot send; take it out"));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// `authEndpoint`. Without its first slash it would become part of the host's name.
fn auth_path(setting: &Setting<'_>, warnings: &mut Vec<String>) -> Result<String, ConfigError> {
    let wrong = || setting.wrong("must be a path on authHost, as \"/broadcasting/auth\"");
    let path = setting.text()?;
    let is_path = path.bytes().all(|byte| byte.is_ascii_graphic()) && !path.contains(['?', '#', '\\']);
    if path.is_empty() || !is_path || path.contains("://") || path.starts_with("//") {
        return Err(wrong());
    }
    if path.starts_with('/') {
        return Ok(path);
    }
    warnings.push(setting.odd(format_args!("it should begin with a slash and is taken as \"/{path}\"")));
    Ok(format!("/{path}"))
}

/// `httpApiKeyAuth`.
fn key_auth(setting: &Setting<'_>, warnings: &mut Vec<String>) -> Result<KeyAuth, ConfigError> {
    match setting.text()?.as_str() {
        "loopback" => Ok(KeyAuth::Loopback),
        "off" => Ok(KeyAuth::Off),
        "anywhere" => {
            let what =
                "lets everybody who can reach this port publish and list members: the key stands in every browser";
            warnings.push(setting.warning(what));
            Ok(KeyAuth::Anywhere)
        }
        _ => Err(setting.wrong("must be \"loopback\", \"anywhere\" or \"off\"")),
    }
}

/// `allowedOrigins`: a list, or one as a text. In lower case, without a slash at the end.
fn read_origins(setting: &Setting<'_>) -> Result<Vec<String>, ConfigError> {
    let one = |setting: &Setting<'_>| {
        let wrong = || {
            let must = "must be the origin of a page, as \"https://app.example.com\", \"https://*.example.com\" or \
                        \"http://localhost:3000\"; or \"*\" for any";
            setting.wrong(must)
        };
        let origin = setting.text()?.trim().trim_end_matches('/').to_ascii_lowercase();
        if origin == "*" {
            return Ok(origin);
        }
        let (_, host) = origin.split_once("://").ok_or_else(wrong)?;
        let host = host.strip_prefix("*.").unwrap_or(host);
        let is_origin = !host.is_empty() && !host.contains(['/', '*', '@', '?', '#', ',', ' ']);
        // The parser checks scheme and port; a star is not for it.
        let parses = url::Url::parse(&origin.replacen("*.", "", 1)).is_ok_and(|url| url.has_host());
        if is_origin && parses { Ok(origin) } else { Err(wrong()) }
    };
    if setting.is_list() { setting.list()?.iter().map(one).collect() } else { Ok(vec![one(setting)?]) }
}

/// A whole number within bounds; `unit` as "of bytes", or empty.
pub(super) fn number(
    setting: &Option<Setting<'_>>,
    default: u64,
    range: RangeInclusive<u64>,
    unit: &str,
) -> Result<u64, ConfigError> {
    let Some(setting) = setting else { return Ok(default) };
    let (low, high) = (range.start(), range.end());
    let space = if unit.is_empty() { "" } else { " " };
    setting.whole(range.clone(), format_args!("must be a number{space}{unit} from {low} to {high}, as {default}"))
}
