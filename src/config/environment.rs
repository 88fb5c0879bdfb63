//! What users of Reverb, of Pusher's hosted service and of soketi have in their environment already,
//! so that moving over is a change of command.
//!
//! The file wins over all of it, and `LARAVEL_ECHO_SERVER_*` over the file. `PUSHER_HOST` and `REVERB_HOST`
//! with their ports say where Laravel looks for the server, not what the server shall listen on: here they
//! only serve to notice that the two do not meet.

use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::file::{Variables, name_in_a_path};
use super::json::{Document, Setting};
use super::{App, Config, Limits, Secret, Tls, Webhook, webhook};

/// The variables of one kind of server.
struct Family {
    id: &'static str,
    key: &'static str,
    secret: &'static str,
    /// Where Laravel looks for the server: host, port, scheme.
    server: Option<[&'static str; 3]>,
    /// Where the kind of server listens if nobody says a port.
    port: u16,
}

const SOKETI: Family = Family {
    id: "SOKETI_DEFAULT_APP_ID",
    key: "SOKETI_DEFAULT_APP_KEY",
    secret: "SOKETI_DEFAULT_APP_SECRET",
    server: None,
    port: 6001,
};

const REVERB: Family = Family {
    id: "REVERB_APP_ID",
    key: "REVERB_APP_KEY",
    secret: "REVERB_APP_SECRET",
    server: Some(["REVERB_HOST", "REVERB_PORT", "REVERB_SCHEME"]),
    port: 8080,
};

const PUSHER: Family = Family {
    id: "PUSHER_APP_ID",
    key: "PUSHER_APP_KEY",
    secret: "PUSHER_APP_SECRET",
    server: Some(["PUSHER_HOST", "PUSHER_PORT", "PUSHER_SCHEME"]),
    port: 6001,
};

/// Names that lead to this machine.
const THIS_MACHINE: [&str; 4] = ["localhost", "127.0.0.1", "::1", "[::1]"];

/// The environment, and what was taken from it.
pub(super) struct Environment<'a> {
    variables: Variables<'a>,
    /// For people: what was taken from which variable.
    pub(super) taken: Vec<String>,
}

impl<'a> Environment<'a> {
    pub(super) fn new(variables: Variables<'a>) -> Self {
        Self { variables, taken: Vec::new() }
    }

    fn get(&self, name: &str) -> Option<String> {
        (self.variables)(name).filter(|value| !value.is_empty())
    }

    fn take(&mut self, name: &'static str, key: &str, what: &str) -> Option<Setting<'static>> {
        let value = self.get(name)?;
        self.taken.push(format!("{what} from {name}"));
        Some(Setting::variable(name, value, key))
    }

    /// Whether an app is here, so that no file is needed.
    pub(super) fn has_app(&self) -> bool {
        self.family().is_some()
    }

    /// The first family that names an app. Of Laravel's two, the one that Laravel broadcasts with.
    fn family(&self) -> Option<&'static Family> {
        let connection = self.get("BROADCAST_CONNECTION").or_else(|| self.get("BROADCAST_DRIVER"));
        let families = match connection.as_deref() {
            Some("pusher") => [&SOKETI, &PUSHER, &REVERB],
            _ => [&SOKETI, &REVERB, &PUSHER],
        };
        families.into_iter().find(|family| self.get(family.key).is_some())
    }

    /// The app, where the file has no `clients`.
    pub(super) fn app(&mut self, limits: &Limits, warnings: &mut Vec<String>) -> Result<Option<App>, ConfigError> {
        let Some(family) = self.family() else { return Ok(None) };
        let read = |name, key| self.get(name).map(|value| Setting::variable(name, value, key));
        let Some(key) = read(family.key, "clients[].key") else { return Ok(None) };
        let Some(id) = read(family.id, "clients[].appId") else {
            return Err(key.error(format_args!(
                "names an app, and {} is missing: it is the app's name in the HTTP API",
                family.id
            )));
        };
        let (id, key) = (name_in_a_path(&id)?, name_in_a_path(&key)?);
        let secret = self.get(family.secret);
        let names = [Some(family.id), Some(family.key), secret.is_some().then_some(family.secret)];
        let names: Vec<&str> = names.into_iter().flatten().collect();
        self.taken.push(format!("app from {}", names.join(", ")));
        let secret_is_random = secret.is_none();
        let secret = secret.map_or_else(Secret::random, |secret| Ok(Secret::new(secret)));
        let secret = secret.map_err(ConfigError::NoRandomNumbers)?;
        let webhooks = if family.id == SOKETI.id { self.webhooks(warnings)? } else { Vec::new() };
        let limits = limits.clone();
        let (key_prefix, subscription_count) = (None, false);
        Ok(Some(App {
            id,
            key,
            secret,
            previous_secrets: Vec::new(),
            secret_is_random,
            is_removed: false,
            limits,
            key_prefix,
            subscription_count,
            webhooks,
        }))
    }

    /// soketi's webhooks: the list of the file, as JSON.
    fn webhooks(&mut self, warnings: &mut Vec<String>) -> Result<Vec<Webhook>, ConfigError> {
        const NAME: &str = "SOKETI_DEFAULT_APP_WEBHOOKS";
        let Some(text) = self.get(NAME) else { return Ok(Vec::new()) };
        let document = Document::parse(Path::new(NAME), &text)?;
        self.taken.push(format!("webhooks from {NAME}"));
        let mut list = document.root();
        list.key = "clients[0].webhooks".to_owned();
        webhook::read(&list, warnings)
    }

    /// The secret of an app that the file names without one.
    pub(super) fn secret_of(&mut self, key: &str) -> Option<String> {
        let family =
            [&SOKETI, &REVERB, &PUSHER].into_iter().find(|family| self.get(family.key).as_deref() == Some(key))?;
        let secret = self.get(family.secret)?;
        self.taken.push(format!("secret of {key} from {}", family.secret));
        Some(secret)
    }

    /// The address to listen on.
    pub(super) fn host(&mut self) -> Option<Setting<'static>> {
        self.take("SOKETI_HOST", "host", "host").or_else(|| self.take("REVERB_SERVER_HOST", "host", "host"))
    }

    /// The port to listen on.
    pub(super) fn port(&mut self) -> Option<Setting<'static>> {
        self.take("SOKETI_PORT", "port", "port").or_else(|| self.take("REVERB_SERVER_PORT", "port", "port"))
    }

    /// The port where nobody says one and there is no file: that of the server before.
    pub(super) fn default_port(&mut self) -> Option<u16> {
        let family = self.family()?;
        self.taken.push(format!("port {}, the usual one for {}", family.port, family.key));
        Some(family.port)
    }

    /// The switch for more in the log.
    pub(super) fn dev_mode(&mut self) -> bool {
        let is_on = |value: &str| matches!(value, "1" | "true");
        if !self.get("SOKETI_DEBUG").is_some_and(|value| is_on(&value)) {
            return false;
        }
        self.taken.push("devMode from SOKETI_DEBUG".to_owned());
        true
    }

    /// The certificate.
    pub(super) fn tls(&mut self) -> Option<Tls> {
        let (certificate, key) = (self.get("SOKETI_SSL_CERT")?, self.get("SOKETI_SSL_KEY")?);
        self.taken.push("certificate from SOKETI_SSL_CERT, SOKETI_SSL_KEY".to_owned());
        Some(Tls {
            certificate: PathBuf::from(certificate),
            key: PathBuf::from(key),
            passphrase: self.get("SOKETI_SSL_PASS").map(Secret::new),
            chain: None,
        })
    }

    /// Whether Laravel looks for the server where it will be. Only said of this machine: elsewhere a
    /// proxy may stand between.
    pub(super) fn check_where_laravel_looks(&self, config: &mut Config) {
        for family in [&REVERB, &PUSHER] {
            let Some([host_name, port_name, scheme_name]) = family.server else { continue };
            let is_ours = self.get(family.key).is_some_and(|key| config.apps.iter().any(|app| app.key == key));
            let Some(host) = self.get(host_name).filter(|host| is_ours && THIS_MACHINE.contains(&host.as_str())) else {
                continue;
            };
            let (own, scheme) = config.port_for(self.get(port_name).and_then(|port| port.parse().ok()));
            if let Some(port) = self.get(port_name).filter(|port| own != 0 && *port != own.to_string()) {
                config.warnings.push(format!(
                    "Laravel looks for this server at {host} port {port} ({host_name}, {port_name}), and it listens on port \
                     {own}; change one of them."
                ));
            } else if let Some(other) = self.get(scheme_name).filter(|other| other != scheme) {
                config.warnings.push(format!(
                    "Laravel will speak {other} ({scheme_name}), and this server speaks {scheme}; change one of them."
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::read_with;
    use super::*;

    const REVERB_APP: [(&str, &str); 3] =
        [("REVERB_APP_ID", "r-id"), ("REVERB_APP_KEY", "r-key"), ("REVERB_APP_SECRET", "r-secret")];
    const PUSHER_APP: [(&str, &str); 3] =
        [("PUSHER_APP_ID", "p-id"), ("PUSHER_APP_KEY", "p-key"), ("PUSHER_APP_SECRET", "p-secret")];
    const SOKETI_APP: [(&str, &str); 3] = [
        ("SOKETI_DEFAULT_APP_ID", "s-id"),
        ("SOKETI_DEFAULT_APP_KEY", "s-key"),
        ("SOKETI_DEFAULT_APP_SECRET", "s-secret"),
    ];

    /// Starts in a directory without a file.
    fn without_file(groups: &[&[(&str, &str)]]) -> Result<Config, String> {
        let variables = groups.concat();
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let empty = tempfile::tempdir().unwrap();
        Config::load(Some(empty.path()), None, &find).map_err(|error| error.to_string())
    }

    fn app(config: &Config) -> [&str; 3] {
        let [app] = &config.apps[..] else { panic!("{:?}", config.apps) };
        [&app.id, &app.key, app.secret.expose()]
    }

    #[test]
    fn no_file_but_a_reverb_environment() {
        let config =
            without_file(&[&REVERB_APP, &[("REVERB_HOST", "ws.example.com"), ("REVERB_PORT", "443")]]).unwrap();
        assert_eq!(app(&config), ["r-id", "r-key", "r-secret"]);
        assert_eq!((config.host.as_deref(), config.port, config.subscribers.redis), (None, 8080, false));
        assert_eq!(config.path, Path::new("the environment"));
        let app = "app from REVERB_APP_ID, REVERB_APP_KEY, REVERB_APP_SECRET";
        assert_eq!(config.taken, [app, "port 8080, the usual one for REVERB_APP_KEY"]);
        assert_eq!(config.warnings, [""; 0], "what Laravel sees from outside says nothing");
        let own = [("REVERB_SERVER_HOST", "127.0.0.1"), ("REVERB_SERVER_PORT", "7000")];
        let config = without_file(&[&REVERB_APP, &own]).unwrap();
        assert_eq!((config.host.as_deref(), config.port), (Some("127.0.0.1"), 7000));
        assert_eq!(config.taken[..2], ["host from REVERB_SERVER_HOST", "port from REVERB_SERVER_PORT"]);
    }

    #[test]
    fn of_several_apps_the_one_that_laravel_broadcasts_with() {
        let all = [&SOKETI_APP[..], &REVERB_APP, &PUSHER_APP];
        for (groups, connection, id) in [
            (&all[1..], None, "r-id"),
            (&all[1..], Some(("BROADCAST_CONNECTION", "reverb")), "r-id"),
            (&all[1..], Some(("BROADCAST_CONNECTION", "pusher")), "p-id"),
            (&all[1..], Some(("BROADCAST_DRIVER", "pusher")), "p-id"),
            (&all[..2], Some(("BROADCAST_DRIVER", "pusher")), "s-id"),
            (&all[..], None, "s-id"),
        ] {
            let connection: Vec<_> = connection.into_iter().collect();
            let groups = [groups, &[&connection[..]]].concat();
            assert_eq!(app(&without_file(&groups).unwrap())[0], id, "{connection:?}");
        }
    }

    #[test]
    fn soketi() {
        let own = [("SOKETI_HOST", "::1"), ("SOKETI_PORT", "7001"), ("SOKETI_DEBUG", "1")];
        let tls = [("SOKETI_SSL_CERT", "/c.pem"), ("SOKETI_SSL_KEY", "/k.pem")];
        let config = without_file(&[&SOKETI_APP, &own, &tls]).unwrap();
        assert_eq!((config.host.as_deref(), config.port, config.dev_mode), (Some("::1"), 7001, true));
        assert_eq!(config.tls.unwrap().certificate, Path::new("/c.pem"));
        assert!(config.apps[0].webhooks.is_empty());
    }

    #[test]
    fn webhooks_of_soketi() {
        let list = r#"[{"url": "http://h/x", "event_types": ["channel_occupied"]}]"#;
        let config = without_file(&[&SOKETI_APP, &[("SOKETI_DEFAULT_APP_WEBHOOKS", list)]]).unwrap();
        assert_eq!(config.apps[0].webhooks[0].place(), "http://h/x");
        assert!(config.taken.contains(&"webhooks from SOKETI_DEFAULT_APP_WEBHOOKS".to_owned()));
        assert_eq!(config.warnings, [""; 0]);
        let error = without_file(&[&SOKETI_APP, &[("SOKETI_DEFAULT_APP_WEBHOOKS", r#"[{"url": "h"}]"#)]]).unwrap_err();
        assert!(error.contains("SOKETI_DEFAULT_APP_WEBHOOKS") && error.contains("webhooks[0].url"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_said_of_the_variable() {
        let error = without_file(&[&[("REVERB_APP_KEY", "k")]]).unwrap_err();
        assert!(
            error.starts_with("The variable REVERB_APP_KEY (of the environment, or in .env) names an app, and REVERB_APP_ID is missing"),
            "{error}"
        );
        let error = without_file(&[&[("PUSHER_APP_KEY", "a/b"), ("PUSHER_APP_ID", "1")]]).unwrap_err();
        assert!(
            error.starts_with("The variable PUSHER_APP_KEY (of the environment, or in .env) is \"a/b\"; it must be"),
            "{error}"
        );
        let error = without_file(&[&REVERB_APP, &[("REVERB_SERVER_PORT", "x")]]).unwrap_err();
        assert!(
            error.starts_with("The variable REVERB_SERVER_PORT (of the environment, or in .env) is \"x\"; it must be"),
            "{error}"
        );
        let error = without_file(&[&[("PUSHER_APP_KEY", "")]]).unwrap_err();
        assert!(error.starts_with("There is no file "), "{error}");
    }

    #[test]
    fn the_file_wins_and_our_own_variables_over_it() {
        let text = r#"{ "clients": [ { "appId": "a", "key": "r-key" }, { "appId": "b", "key": "k" } ], "port": 1 }"#;
        let variables = [&REVERB_APP[..], &[("REVERB_SERVER_PORT", "2"), ("SOKETI_HOST", "::1")]].concat();
        let config = read_with(text, &variables).unwrap();
        assert_eq!((config.host.as_deref(), config.port, config.subscribers.redis), (Some("::1"), 1, true));
        // The app's secret stands in the environment of both sides: better than one made at random.
        assert_eq!((config.apps[0].id.as_str(), config.apps[0].secret.expose()), ("a", "r-secret"));
        assert!(config.apps[1].secret_is_random);
        assert_eq!(config.taken, ["host from SOKETI_HOST", "secret of r-key from REVERB_APP_SECRET"]);
        let ours = [&variables[..], &[("LARAVEL_ECHO_SERVER_PORT", "3"), ("LARAVEL_ECHO_SERVER_HOST", "h")]].concat();
        let config = read_with(text, &ours).unwrap();
        assert_eq!((config.host.as_deref(), config.port), (Some("h"), 3));
    }

    #[test]
    fn redis_is_listened_to_without_a_file_if_it_is_named() {
        let named = [("LARAVEL_ECHO_SERVER_REDIS_HOST", "r.test")];
        let config = without_file(&[&REVERB_APP, &named]).unwrap();
        assert_eq!((config.subscribers.redis, config.redis.host.as_str()), (true, "r.test"));
    }

    #[test]
    fn laravel_looks_elsewhere() {
        let at = |host, port, scheme| [("PUSHER_HOST", host), ("PUSHER_PORT", port), ("PUSHER_SCHEME", scheme)];
        for (variables, words) in [
            (
                at("127.0.0.1", "6002", "http"),
                Some("at 127.0.0.1 port 6002 (PUSHER_HOST, PUSHER_PORT), and it listens on port 6001"),
            ),
            (at("localhost", "6001", "https"), Some("will speak https (PUSHER_SCHEME), and this server speaks http")),
            (at("localhost", "6001", "http"), None),
            (at("ws.example.com", "443", "https"), None),
        ] {
            let config = without_file(&[&PUSHER_APP, &variables]).unwrap();
            assert_eq!(config.port, 6001);
            match words {
                None => assert_eq!(config.warnings, [""; 0]),
                Some(words) => assert!(config.warnings[0].contains(words), "{:?}", config.warnings),
            }
        }
    }
}
