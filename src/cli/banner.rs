//! What `start` says once the port is open.
//!
//! Scripts and supervisors wait for `Running at` and `Server ready!`, so those lines stay as the
//! old server wrote them. Under them stands, a line each, what this run uses and where it came from.

use std::fmt::{self, Write};

use crate::config::{App, Config, Redis};
use crate::listen::Place;

/// More apps than these are counted, not named.
const APPS_MAX: usize = 10;

/// The text, with a newline at its end. `places` are where the server listens. No
/// password and no secret is in it.
pub fn banner(config: &Config, places: &[Place]) -> String {
    let mut text = String::new();
    // A String takes everything.
    let _ = write_banner(&mut text, config, places);
    text
}

fn write_banner(text: &mut String, config: &Config, places: &[Place]) -> fmt::Result {
    let host = config.host.as_deref().unwrap_or("localhost");
    // A URL needs brackets around an IPv6 address.
    let in_url = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let starting = if config.dev_mode { "⚠ Starting server in DEV mode..." } else { "Starting server..." };
    writeln!(text, "\nL A R A V E L  E C H O  S E R V E R\n")?;
    writeln!(text, "version {}\n", env!("CARGO_PKG_VERSION"))?;
    writeln!(text, "{starting}\n")?;
    for place in places {
        match place {
            Place::Port(address) => writeln!(text, "✔  Running at {host} on port {}", address.port())?,
            Place::HttpsPort(address) => writeln!(text, "✔  Running at https://{in_url}:{}", address.port())?,
            Place::Path(path) => writeln!(text, "✔  Running at the unix socket {}", path.display())?,
        }
    }
    let taken: String = config.taken.iter().map(|taken| format!("; {taken}")).collect();
    writeln!(text, "   Settings  {}{taken}", config.path.display())?;
    for app in config.apps.iter().take(APPS_MAX) {
        if app.id.is_empty() {
            writeln!(text, "   App       none (\"clients\" is empty): only Socket.IO clients can connect")?;
            continue;
        }
        let prefix = app.key_prefix.as_ref().map(|prefix| format!("; events under the prefix {prefix:?} only"));
        let webhooks = match app.webhooks.len() {
            0 => String::new(),
            1 => "; 1 webhook".to_owned(),
            several => format!("; {several} webhooks"),
        };
        let (secret, prefix) = (secret(app), prefix.unwrap_or_default());
        writeln!(text, "   App       {}, key {}; {secret}{prefix}{webhooks}", app.id, app.key)?;
    }
    if config.apps.len() > APPS_MAX {
        writeln!(text, "   App       and {} more", config.apps.len() - APPS_MAX)?;
    }
    if config.subscribers.redis {
        writeln!(text, "   Redis     {}", redis(&config.redis))?;
        write_prefix(text, config)?;
    } else {
        writeln!(
            text,
            "   Redis     not listened to (\"subscribers.redis\" is off; without a file, LARAVEL_ECHO_SERVER_REDIS_HOST names it)"
        )?;
    }
    writeln!(text, "   Laravel   {}", config.auth.url())?;
    let port = places.iter().find_map(Place::address).map(|address| address.port());
    if let (true, Some(port)) = (config.proxy, port) {
        writeln!(text, "   Proxy     on: open the application at {}://{in_url}:{port}/", config.scheme())?;
    } else {
        writeln!(text, "   Proxy     {}", if config.proxy { "on" } else { "off" })?;
    }
    writeln!(text, "\nServer ready!\n")
}

fn write_prefix(text: &mut String, config: &Config) -> fmt::Result {
    match &config.redis.key_prefix {
        None => writeln!(text, "   Prefix    found out from what Laravel publishes (\"keyPrefix\" sets it)"),
        Some(prefix) if prefix.is_empty() => writeln!(text, "   Prefix    none (\"keyPrefix\" in the file)"),
        Some(prefix) => writeln!(text, "   Prefix    {prefix} (\"keyPrefix\" in the file)"),
    }
}

fn secret(app: &App) -> &'static str {
    if app.secret_is_random {
        "no secret in the file: one was made for this run, so only this server itself can sign"
    } else {
        "with a secret"
    }
}

fn redis(redis: &Redis) -> String {
    let place = redis.to_string();
    let user = redis.username.as_ref().map(|name| format!(", user {name}")).unwrap_or_default();
    let password = if redis.password.is_some() { ", with a password" } else { "" };
    let tls = if redis.tls { ", TLS" } else { "" };
    format!("{place}, db {}{user}{password}{tls}", redis.db)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(Path::new("laravel-echo-server.json"), text.as_bytes(), &|_| None).unwrap()
    }

    #[test]
    fn of_the_configuration_in_use() {
        let config = config(include_str!("../../laravel-echo-server.json"));
        let expected = format!(
            "
L A R A V E L  E C H O  S E R V E R

version {}

⚠ Starting server in DEV mode...

✔  Running at localhost on port 6001
   Settings  laravel-echo-server.json
   App       talent2income, key talent2income-key; no secret in the file: one was made for this run, so only this \
server itself can sign
   Redis     127.0.0.1:6379, db 4
   Prefix    found out from what Laravel publishes (\"keyPrefix\" sets it)
   Laravel   http://localhost:8000/broadcasting/auth
   Proxy     off

Server ready!

",
            env!("CARGO_PKG_VERSION")
        );
        let port = Place::Port("0.0.0.0:6001".parse().unwrap());
        assert_eq!(banner(&config, std::slice::from_ref(&port)), expected);
        let path = Place::Path("/run/echo.sock".into());
        let both = expected.replace("on port 6001\n", "on port 6001\n✔  Running at the unix socket /run/echo.sock\n");
        assert_eq!(banner(&config, &[port.clone(), path]), both);
        let https = expected.replace("on port 6001\n", "on port 6001\n✔  Running at https://localhost:6002\n");
        assert_eq!(banner(&config, &[port, Place::HttpsPort("[::]:6002".parse().unwrap())]), https);
    }

    #[test]
    fn shows_no_secret() {
        let config = config(
            r#"{ "authHost": "http://app.test/sub/", "host": "::1", "proxy": true,
                 "clients": [ { "appId": "a", "key": "k", "secret": "hush2" }, { "appId": "b", "key": "l", "secret": "hush2", "keyPrefix": "b_" } ],
                 "databaseConfig": { "redis": "rediss://u:hush3@r.test/2" } }"#,
        );
        let text = banner(&config, &[Place::Port("[::1]:7000".parse().unwrap())]);
        assert!(!text.contains("hush"), "{text}");
        for line in [
            "Starting server...\n",
            "✔  Running at ::1 on port 7000\n",
            "a, key k; with a secret\n",
            "b, key l; with a secret; events under the prefix \"b_\" only\n",
            "r.test:6379, db 2, user u, with a password, TLS\n",
            "http://app.test/sub/broadcasting/auth\n",
            "on: open the application at http://[::1]:7000/\n",
        ] {
            assert!(text.contains(line), "{line:?} in {text}");
        }
    }
}
