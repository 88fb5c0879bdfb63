//! The server that runs with a configuration file, as the commands reach it that ask or tell it something: over HTTP,
//! on its own port of this machine. What it answers is `http::admin`'s business.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::FileOptions;
use super::lock::{self, Holder};
use crate::config::{Config, DotEnv, KeyAuth};
use crate::http::admin::PATH;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer may take, but for that of [`Running::open`].
const ANSWER: Duration = Duration::from_secs(15);

/// Where the server is.
pub struct Running {
    client: reqwest::Client,
    base: Url,
    login: Option<(String, String)>,
    /// What is known if it does not answer.
    hint: String,
}

impl Running {
    /// Finds out from the configuration file, and the lock file beside it, where the server is. It need not be there.
    ///
    /// # Errors
    /// The configuration cannot be read, or says that nobody may ask.
    pub fn find(options: &FileOptions) -> anyhow::Result<Self> {
        // Fails only if there is one already, which is as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let path = options.path();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dotenv = DotEnv::read(folder);
        let config = Config::load(options.dir.as_deref(), options.config.as_deref(), &|name| dotenv.get(name))?;
        let Some(admin) = &config.admin else {
            bail!(
                "{} has \"admin\": false, so a server that runs with it answers nobody. Take that out.",
                path.display()
            );
        };
        let lock = lock::path_for(&path);
        let holder = lock::holder(&lock);
        let is_here = matches!(holder, Holder::Here(_));
        let port = if is_here { lock::port(&lock) } else { None }.unwrap_or(config.port);
        let socket = config.socket.as_ref().filter(|socket| socket.is_alone);
        let hint = match holder {
            Holder::Here(pid) => {
                format!("There is a server with the process id {}, as {} says.", pid.as_raw_nonzero(), lock.display())
            }
            Holder::Elsewhere => format!("{} is held by a server in another container: ask it there.", lock.display()),
            _ => format!(
                "No server runs with {}. Start it with `laravel-echo-server start`, or say with --dir and --config \
                 which file it runs with.",
                path.display()
            ),
        };
        if port == 0 && socket.is_none() {
            bail!(hint);
        }
        let (host, is_loopback) = match config.host.as_deref() {
            None | Some("0.0.0.0" | "::") => ("127.0.0.1".to_owned(), true),
            Some(host) => {
                let is_loopback =
                    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
                (if host.contains(':') { format!("[{host}]") } else { host.to_owned() }, is_loopback)
            }
        };
        // Who asks over the unix socket is anybody: most often it is a proxy.
        let is_loopback = is_loopback && socket.is_none();
        let scheme = config.scheme();
        let base = Url::parse(&format!("{scheme}://{host}:{port}{PATH}/api/")).context("the server's address")?;
        // The password is said to a server of whom the lock file knows, not to whatever has the port.
        let is_needed = !is_loopback || config.key_auth == KeyAuth::Off;
        let login = admin.login.as_ref().filter(|_| is_needed && is_here);
        let login = login.map(|login| (login.user.clone(), login.password.expose().to_owned()));
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            // The certificate is one for the public name, and this does not leave the machine.
            .tls_danger_accept_invalid_certs(true);
        let client = match socket {
            Some(socket) => client.unix_socket(socket.path.clone()),
            None => client,
        };
        let client = client.build().context("the HTTP client could not be made")?;
        Ok(Self { client, base, login, hint })
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    /// Gets an answer.
    ///
    /// # Errors
    /// There is no server, it refuses, or says something else.
    pub async fn get<T: for<'a> Deserialize<'a>>(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<T> {
        let request = self.request(Method::GET, path, query).timeout(ANSWER);
        let text = self.send(request).await?.text().await.context("the answer broke off")?;
        self.read(&text)
    }

    /// Sends an event, written as for the HTTP API.
    ///
    /// # Errors
    /// As [`Running::get`].
    pub async fn post<T: for<'a> Deserialize<'a>>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        body: String,
    ) -> anyhow::Result<T> {
        let request = self.request(Method::POST, path, query).timeout(ANSWER);
        let request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body);
        let text = self.send(request).await?.text().await.context("the answer broke off")?;
        self.read(&text)
    }

    /// Gets an answer that goes on.
    ///
    /// # Errors
    /// As [`Running::get`].
    pub async fn open(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Response> {
        self.send(self.request(Method::GET, path, query)).await
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("{PATH}/api/{path}"));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.client.request(method, url);
        match &self.login {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => bail!("Nothing answers at {}. {}", self.place(), self.hint),
            Err(error) => bail!("{} did not answer ({}). {}", self.place(), why(&error), self.hint),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        #[derive(Deserialize)]
        struct Answer {
            error: String,
        }
        let text = response.text().await.unwrap_or_default();
        match serde_json::from_str::<Answer>(&text) {
            Ok(Answer { error }) if status != StatusCode::NOT_FOUND || !error.starts_with("nothing is here;") => {
                bail!("The server at {} refuses ({status}): {}", self.place(), harmless(&error))
            }
            _ => bail!(
                "What answers at {} is no laravel-echo-server, or an older one ({status}). {}",
                self.place(),
                self.hint
            ),
        }
    }

    fn read<T: for<'a> Deserialize<'a>>(&self, text: &str) -> anyhow::Result<T> {
        let what = || format!("the answer of {} makes no sense; does it run another version?", self.place());
        serde_json::from_str(text).with_context(what)
    }
}

/// What is at the bottom of an error, without URLs.
fn why(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    if error.is_timeout() { "it took too long".to_owned() } else { cause.to_string() }
}

/// Runs a command to its end.
///
/// # Errors
/// Those of the command.
pub fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the command's thread could not be set up")?.block_on(command)
}

/// A text from outside, fit for a terminal: control characters and what turns the direction of writing stand as
/// escapes.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || turns {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A time, as "3 d 4 h", "4 h 5 min", "5 min 6 s" or "6 s".
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// "1 connection", "2 connections".
pub fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_do_nothing_to_the_terminal() {
        assert_eq!(harmless("a\x1b[31m\nb\u{9b}\u{202e}é"), "a\\u{1b}[31m\\nb\\u{9b}\\u{202e}é");
    }

    #[test]
    fn times_for_people() {
        for (seconds, text) in [(0.4, "0 s"), (61.0, "1 min 1 s"), (3_720.0, "1 h 2 min"), (90_000.0, "1 d 1 h")] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!((count(1, "node"), count(0, "node")), ("1 node".to_owned(), "0 nodes".to_owned()));
    }
}
