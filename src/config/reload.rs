//! Another configuration for a server that runs: what it takes on, and what needs a restart. A pure
//! function of the two; who has the parts of the server change is [`crate::server`].

use super::{App, Config, ConfigError, Limits, Secret};

/// More apps than have a number.
const APPS_MAX: usize = u16::MAX as usize;

/// What comes of a new configuration.
#[derive(Clone, Debug)]
pub struct Reload {
    /// What holds from now on: the new one, but for what needs a restart. Apps have the places that they had.
    pub config: Config,
    /// What has changed, by the keys of the file: `clients[my-app].secret`, `limits`. No values.
    pub changed: Vec<String>,
    /// What is another one and stays as it was, by the keys of the file.
    pub needs_restart: Vec<String>,
}

impl Config {
    /// What this server, which runs with `self`, makes of `new`.
    ///
    /// # Errors
    /// So many apps have come and gone that there is no place for another one.
    pub fn reload(&self, new: Self) -> Result<Reload, ConfigError> {
        let mut diff = Diff::default();
        // Each field has its name here, so that none that is added to the configuration is forgotten.
        let Self {
            path: _,
            host,
            port,
            https_port,
            socket,
            tls,
            trusted_proxies,
            proxy_protocol,
            apps,
            first_app,
            auth,
            key_auth,
            admin,
            proxy,
            redis,
            subscribers,
            log_format,
            metrics,
            api_cors,
            presence_store,
            cluster,
            dev_mode,
            per_message_deflate,
            socketio,
            resume,
            limits,
            shutdown_time,
            shards,
            taken,
            warnings,
        } = new;
        let old = self.clone();
        let listen = |metrics: &Option<super::MetricsAccess>| metrics.as_ref().and_then(|access| access.listen);
        let first = apps.get(first_app).map(|app| (app.id.clone(), app.key.clone()));
        let whole = [old.limits.clone(), limits.clone()];
        let apps = diff.apps(old.apps, apps, &whole)?;
        let first_app = apps.iter().position(|app| first == Some((app.id.clone(), app.key.clone())));
        let config = Self {
            path: old.path,
            host: diff.fixed("host", old.host, host),
            port: diff.fixed("port", old.port, port),
            https_port: diff.fixed("httpsPort", old.https_port, https_port),
            socket: diff.fixed("socket, socketMode", old.socket, socket),
            // What a port speaks stays as it is while it is open; the certificate may be another one.
            tls: match old.tls.is_some() == tls.is_some() {
                true => diff.live("ssl…", old.tls, tls),
                false => diff.fixed("protocol, ssl…", old.tls, tls),
            },
            // A file without apps has one that nobody knows the key of.
            first_app: first_app.or_else(|| apps.iter().position(|app| !app.is_removed)).unwrap_or_default(),
            apps,
            trusted_proxies: diff.live("trustedProxies", old.trusted_proxies, trusted_proxies),
            proxy_protocol: diff.live("proxyProtocol", old.proxy_protocol, proxy_protocol),
            auth: diff.live("authHost, auth…, allowedOrigins", old.auth, auth),
            key_auth: diff.live("httpApiKeyAuth", old.key_auth, key_auth),
            admin: diff.live("admin", old.admin, admin),
            proxy: diff.live("proxy", old.proxy, proxy),
            redis: diff.fixed("databaseConfig.redis", old.redis, redis),
            subscribers: super::Subscribers {
                http: diff.live("subscribers.http", old.subscribers.http, subscribers.http),
                redis: diff.fixed("subscribers.redis", old.subscribers.redis, subscribers.redis),
            },
            api_cors: diff.live("apiOriginAllow", old.api_cors, api_cors),
            presence_store: diff.fixed("database, databaseConfig", old.presence_store, presence_store),
            cluster: diff.fixed("cluster", old.cluster, cluster),
            log_format: diff.fixed("logFormat", old.log_format, log_format),
            metrics: match listen(&old.metrics) == listen(&metrics) {
                true => diff.live("metrics", old.metrics, metrics),
                false => diff.fixed("metrics", old.metrics, metrics),
            },
            dev_mode: diff.live("devMode", old.dev_mode, dev_mode),
            per_message_deflate: diff.live("perMessageDeflate", old.per_message_deflate, per_message_deflate),
            socketio: diff.live("socketio", old.socketio, socketio),
            resume: diff.fixed("resume", old.resume, resume),
            limits: diff.live("limits", old.limits, limits),
            shutdown_time: diff.live("shutdownSeconds", old.shutdown_time, shutdown_time),
            shards: diff.fixed("shards", old.shards, shards),
            taken,
            warnings,
        };
        Ok(Reload { config, changed: diff.changed, needs_restart: diff.needs_restart })
    }
}

#[derive(Debug, Default)]
struct Diff {
    changed: Vec<String>,
    needs_restart: Vec<String>,
}

impl Diff {
    /// The new value.
    fn live<T: PartialEq>(&mut self, key: &str, old: T, new: T) -> T {
        if old != new {
            self.changed.push(key.to_owned());
        }
        new
    }

    /// The old value.
    fn fixed<T: PartialEq>(&mut self, key: &str, old: T, new: T) -> T {
        if old != new {
            self.needs_restart.push(key.to_owned());
        }
        old
    }

    /// Each app at its place; new ones come after all that have ever been. All that a connection knows of its app is
    /// that place, so it is nobody else's ever after.
    fn apps(&mut self, old: Vec<App>, new: Vec<App>, whole: &[Limits; 2]) -> Result<Vec<App>, ConfigError> {
        let mut new: Vec<Option<App>> = new.into_iter().map(Some).collect();
        let mut apps = Vec::with_capacity(old.len());
        for old in old {
            let same = new.iter_mut().find(|new| new.as_ref().is_some_and(|new| is_same(&old, new)));
            apps.push(match same.and_then(Option::take) {
                Some(new) => self.app(old, new, whole),
                None if old.is_removed => old,
                None => {
                    self.changed.push(format!("{} removed", name(&old)));
                    removed(old)?
                }
            });
        }
        for app in new.into_iter().flatten() {
            self.changed.push(format!("{} added", name(&app)));
            apps.push(app);
        }
        if apps.len() > APPS_MAX {
            return Err(ConfigError::TooManyApps { count: apps.len(), max: APPS_MAX });
        }
        Ok(apps)
    }

    /// `whole` holds the limits of the whole server, the old ones and the new ones.
    fn app(&mut self, old: App, new: App, whole: &[Limits; 2]) -> App {
        let App {
            id: _,
            key: _,
            mut secret,
            previous_secrets,
            secret_is_random,
            is_removed: _,
            limits,
            key_prefix,
            subscription_count,
            webhooks,
        } = new;
        if secret_is_random && old.secret_is_random {
            // Another one made at random would make what the old one has signed invalid.
            secret = old.secret.clone();
        }
        let path = |key: &str| format!("{}.{key}", name(&old));
        App {
            secret: self.live(&path("secret"), old.secret.clone(), secret),
            previous_secrets: self.live(&path("previousSecrets"), old.previous_secrets.clone(), previous_secrets),
            // Those of the whole server are said once.
            limits: match [&old.limits, &limits] == [&whole[0], &whole[1]] {
                true => limits,
                false => self.live(&path("limits"), old.limits.clone(), limits),
            },
            key_prefix: self.fixed(&path("keyPrefix"), old.key_prefix.clone(), key_prefix),
            subscription_count: self.live(&path("subscriptionCount"), old.subscription_count, subscription_count),
            webhooks: self.live(&path("webhooks"), old.webhooks.clone(), webhooks),
            secret_is_random,
            ..old
        }
    }
}

/// An app of another id or key is another app: its clients know it by the key, its backend by both.
fn is_same(old: &App, new: &App) -> bool {
    // The one of a file without apps has a key that is made anew each time.
    !old.is_removed && old.id == new.id && (old.key == new.key || old.id.is_empty())
}

/// The place of an app that is no more. Nobody can name it, not even by a key that it had.
fn removed(old: App) -> Result<App, ConfigError> {
    let random = || Secret::random().map_err(ConfigError::NoRandomNumbers);
    Ok(App {
        id: String::new(),
        key: random()?.expose().to_owned(),
        secret: random()?,
        previous_secrets: Vec::new(),
        secret_is_random: true,
        is_removed: true,
        limits: old.limits,
        key_prefix: old.key_prefix,
        subscription_count: false,
        webhooks: Vec::new(),
    })
}

fn name(app: &App) -> String {
    format!("clients[{}]", app.id)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(members: &str) -> Config {
        Config::parse(Path::new("f.json"), format!("{{{members}}}").as_bytes(), &|_| None).unwrap()
    }

    fn reload(old: &str, new: &str) -> Reload {
        config(old).reload(config(new)).unwrap()
    }

    const A: &str = r#"{"appId": "a", "key": "ka", "secret": "hush-a"}"#;
    const B: &str = r#"{"appId": "b", "key": "kb", "secret": "hush-b"}"#;
    const C: &str = r#"{"appId": "c", "key": "kc"}"#;

    fn clients(apps: &[&str]) -> String {
        format!("\"clients\": [{}]", apps.join(", "))
    }

    #[test]
    fn nothing_has_changed() {
        let text = format!("{}, \"limits\": {{\"connections\": 5}}", clients(&[A, C]));
        let old = config(&text);
        let reload = old.reload(config(&text)).unwrap();
        assert_eq!((reload.changed, reload.needs_restart), (vec![], vec![]));
        // Random secrets stay as they are.
        assert_eq!(reload.config.apps, old.apps);
        let nobody = config("");
        let reload = nobody.reload(config("")).unwrap();
        assert_eq!((reload.changed, &reload.config.apps), (vec![], &nobody.apps));
    }

    #[test]
    fn what_changes_live_and_what_needs_a_restart() {
        let new = r#""limits": {"connections": 6}, "allowedOrigins": "https://a.test", "devMode": true, "port": 7001,
            "shards": 7, "host": "127.0.0.2", "databaseConfig": {"redis": {"password": "hush", "db": 3}},
            "subscribers": {"http": false, "redis": false}"#;
        let reload = reload("", new);
        assert_eq!(
            reload.changed,
            ["authHost, auth…, allowedOrigins", "subscribers.http", "devMode", "limits"],
            "{:?}",
            reload.config
        );
        let fixed = ["host", "port", "databaseConfig.redis", "subscribers.redis", "cluster", "shards"];
        assert_eq!(reload.needs_restart, fixed);
        let config = reload.config;
        assert_eq!((config.port, config.host, config.redis.db, config.limits.connections), (6001, None, 0, 6));
        // What waits for a restart is said at each reload until then.
        assert_eq!(self::config("").reload(self::config(new)).unwrap().needs_restart, fixed);
    }

    #[test]
    fn what_an_open_port_speaks_needs_a_restart_and_the_certificate_does_not() {
        let files = r#""sslCertPath": "c.pem", "sslKeyPath": "k.pem""#;
        let (https, both) = (format!("\"protocol\": \"https\", {files}"), format!("\"httpsPort\": 6002, {files}"));
        let renewed = both.replace("c.pem", "new.pem");
        for (old, new, changed, needs_restart, certificate) in [
            ("", https.as_str(), &[][..], &["protocol, ssl…"][..], None),
            ("", &both, &[], &["httpsPort", "protocol, ssl…"], None),
            (&both, "", &[], &["httpsPort", "protocol, ssl…"], Some("c.pem")),
            (&both, &https, &[], &["httpsPort"], Some("c.pem")),
            (&both, &renewed, &["ssl…"], &[], Some("new.pem")),
        ] {
            let reload = reload(old, new);
            assert_eq!(
                (&reload.changed[..], &reload.needs_restart[..]),
                (&texts(changed)[..], &texts(needs_restart)[..])
            );
            assert_eq!(reload.config.scheme(), config(old).scheme());
            assert_eq!(reload.config.tls.map(|tls| tls.certificate), certificate.map(Into::into), "{old}, {new}");
        }
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn apps_keep_their_places() {
        let first = config(&clients(&[A, B]));
        let Reload { config: second, changed, .. } = first.reload(config(&clients(&[C, B]))).unwrap();
        assert_eq!(changed, ["clients[a] removed", "clients[c] added"]);
        let places = |config: &Config| config.apps.iter().map(|app| app.id.clone()).collect::<Vec<_>>();
        assert_eq!(places(&second), ["", "b", "c"]);
        assert!(second.apps[0].is_removed && second.apps[0].key.len() == 64);
        assert_eq!(second.first_app, 2);
        // Who comes back is a new one: the connections of the one before are being closed yet.
        let Reload { config: third, changed, .. } = second.reload(config(&clients(&[A, B]))).unwrap();
        assert_eq!(changed, ["clients[c] removed", "clients[a] added"]);
        assert_eq!(places(&third), ["", "b", "", "a"]);
        assert_eq!(third.first_app, 3);
        // Another key is another app.
        let changed = reload(&clients(&[A]), &clients(&[&A.replace("ka", "kz")])).changed;
        assert_eq!(changed, ["clients[a] removed", "clients[a] added"]);
    }

    #[test]
    fn a_secret_is_changed_and_shown_nowhere() {
        let new = A.replace("\"hush-a\"", "\"hush-new\", \"previousSecrets\": [\"hush-a\"]");
        let reload = reload(&clients(&[A, B]), &clients(&[&new, B]));
        assert_eq!(reload.changed, ["clients[a].secret", "clients[a].previousSecrets"]);
        let app = &reload.config.apps[0];
        assert_eq!(app.secret.expose(), "hush-new");
        assert!(app.has_signed("text", &crate::protocol::signature::sign("hush-a", "text")));
        assert!(!app.has_signed("text", &crate::protocol::signature::sign("hush-b", "text")));
        assert!(!format!("{:?}{:?}", reload.config, reload.changed).contains("hush"));
    }
}
