//! `configure`, also called `init`: asks what the old server asked, and writes the file it wrote.
//!
//! Questions that an option answers are not asked; with `--yes` none is. Answers are lines of
//! standard input, so a terminal, a pipe and `expect` will all do. Where a Laravel application is beside it, the
//! proposed answers are its own (see [`proposals`](super::proposals)).

use std::fmt::Display;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::Serialize;

use super::proposals::{Client, Proposals, Proposed, Redis};
use super::{clients, files, say};
use crate::config::{Config, FILE_NAME};
use crate::doctor::Application;

/// An answer longer than this is none.
const ANSWER_BYTES_MAX: u64 = 4096;

const HOST: &str = "http://localhost";
const CORS_ORIGIN: &str = "http://localhost:80";
const CORS_METHODS: &str = "GET, POST";
const CORS_HEADERS: &str =
    "Origin, Content-Type, X-Auth-Token, X-Requested-With, Accept, Authorization, X-CSRF-TOKEN, X-Socket-Id";

/// Options of `configure`. Each of the middle ones answers a question.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// The directory to write the config file into [default: the current one].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The config file to write [default: laravel-echo-server.json].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The Laravel application to look at for proposals [default: that in the config file's directory or the current one].
    #[arg(long, value_name = "DIR")]
    app: Option<PathBuf>,
    /// Ask nothing: what no option says gets its default, or what the Laravel application proposes.
    #[arg(long, short)]
    yes: bool,
    /// Overwrite a config file that is there.
    #[arg(long)]
    force: bool,

    /// Run in development mode.
    #[arg(long)]
    dev: bool,
    /// The port to serve from.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The database for presence channel members: redis or sqlite.
    #[arg(long, value_name = "NAME", value_parser = DATABASES)]
    database: Option<String>,
    /// The host of the Laravel application, as http://localhost.
    #[arg(long, value_name = "URL")]
    auth_host: Option<String>,
    /// http or https.
    #[arg(long, value_name = "NAME", value_parser = PROTOCOLS)]
    protocol: Option<String>,
    /// The SSL certificate, a PEM file.
    #[arg(long, value_name = "FILE")]
    ssl_cert: Option<String>,
    /// The SSL key, a PEM file.
    #[arg(long, value_name = "FILE")]
    ssl_key: Option<String>,
    /// Make a client: appId, key and secret. With =ID of this id.
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    client: Option<String>,
    /// Set up cross domain access to the API.
    #[arg(long)]
    cors: bool,
    /// The URI that may access the API.
    #[arg(long, value_name = "URI", requires = "cors")]
    cors_origin: Option<String>,
    /// The HTTP methods allowed for CORS.
    #[arg(long, value_name = "LIST", requires = "cors")]
    cors_methods: Option<String>,
    /// The HTTP headers allowed for CORS.
    #[arg(long, value_name = "LIST", requires = "cors")]
    cors_headers: Option<String>,
}

const DATABASES: [&str; 2] = ["redis", "sqlite"];
const PROTOCOLS: [&str; 2] = ["http", "https"];

/// Asks and writes.
///
/// # Errors
/// There are no answers, or the file cannot be written.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut stdin = io::stdin().lock();
    let mut ask = Questions { answers: &mut stdin, silent: options.yes };
    let proposals = find_application(options)?.as_ref().map(Proposals::of).unwrap_or_default();
    if let Some(folder) = &proposals.folder {
        say(format_args!("A Laravel application is in {folder}: its settings are proposed."));
    }
    let mut settings = ask_all(options, &proposals, &mut ask)?;
    settings.clients.extend(ask_client(options, &proposals, &mut ask)?);
    settings.api_origin_allow = ask_cors(options, &mut ask)?;
    let default = options.config.clone().unwrap_or_else(|| FILE_NAME.into());
    let name = ask.text("What do you want this config to be saved as?", &default.display().to_string())?;
    ensure!(!name.is_empty(), "The config file needs a name.");
    let path = options.dir.as_deref().map_or_else(|| PathBuf::from(&name), |dir| dir.join(&name));
    if path.exists() && !options.force {
        let shown = path.display();
        let question = format!("{shown} is there already. Overwrite it?");
        if options.yes || !ask.yes_or_no(&question, false)? {
            bail!("{shown} is there already and was left as it is; --force overwrites it.");
        }
    }
    let text = settings.to_json().context("The settings could not be written down")?;
    // What start would refuse is better said now.
    let config = Config::parse(&path, text.as_bytes(), &|_| None)?;
    // Whoever knows the secret can sign: then the file is its owner's only.
    let has_secret = !settings.clients.is_empty() || settings.database_config.redis.password.is_some();
    let mode = if has_secret { 0o600 } else { 0o666 };
    files::replace(&path, &text, mode).with_context(|| format!("{} cannot be written", path.display()))?;
    for client in settings.clients.iter().filter(|client| !is_proposed(&proposals, client)) {
        say(format_args!("appId: {}\nkey: {}\nsecret: {}", client.app_id, client.key, client.secret));
    }
    if config.apps.iter().all(|app| app.id.is_empty()) {
        say(format_args!(
            "No client is in it, so only Socket.IO clients can connect; client:add adds one for pusher-js."
        ));
    }
    let option = if name == FILE_NAME { String::new() } else { format!(" --config=\"{name}\"") };
    let dir = options.dir.as_ref().map(|dir| format!(" --dir=\"{}\"", dir.display())).unwrap_or_default();
    say(format_args!("Configuration file saved. Run laravel-echo-server start{dir}{option} to run server."));
    if !options.yes {
        say(format_args!("{}", next_steps(&config, &proposals, &format!("{dir}{option}"))));
    }
    Ok(())
}

fn find_application(options: &Options) -> anyhow::Result<Option<Application>> {
    if let Some(folder) = &options.app {
        let found = Application::read(folder);
        ensure!(
            found.is_some(),
            "No Laravel application is in {}: neither artisan nor a .env of Laravel's.",
            folder.display()
        );
        return Ok(found);
    }
    let beside = options.dir.as_deref().unwrap_or(Path::new("."));
    Ok(Application::read(beside).or_else(|| Application::read(Path::new("."))))
}

fn is_proposed(proposals: &Proposals, client: &Client) -> bool {
    proposals.client.as_ref().is_some_and(|proposed| proposed.value.key == client.key)
}

/// The application's own app, or a new one.
fn ask_client(options: &Options, proposals: &Proposals, ask: &mut Questions<'_>) -> anyhow::Result<Option<Client>> {
    if let (None, Some(Proposed { value, from })) = (&options.client, &proposals.client) {
        ask.tell(format_args!("The application's app key is {:?} ({from}).", value.key));
        if ask.yes_or_no("Do you want its clients to connect here, with the same ID, key and secret?", true)? {
            return Ok(Some(value.clone()));
        }
    }
    // Without one, nobody but Socket.IO clients can connect.
    let default = proposals.folder.is_some() && proposals.client.is_none();
    if options.client.is_none() && !ask.yes_or_no("Do you want to generate a client ID/Key for HTTP API?", default)? {
        return Ok(None);
    }
    let id = options.client.clone().filter(|id| !id.is_empty());
    Ok(Some(Client {
        app_id: id.map_or_else(|| clients::random_hex(8), Ok)?,
        key: clients::random_hex(16)?,
        secret: clients::random_hex(16)?,
    }))
}

/// What there is to do now: start, the front end's lines, and whom to ask if it does not work.
fn next_steps(config: &Config, proposals: &Proposals, options: &str) -> String {
    let port = config.port;
    let scheme = config.scheme();
    let transport = match scheme {
        "https" => format!("wssPort: {port}, forceTLS: true"),
        _ => format!("wsPort: {port}, forceTLS: false"),
    };
    let echo = match config.apps.iter().find(|app| !app.id.is_empty()) {
        Some(app) => {
            let gateway = format!(
                ",\n         authEndpoint: '{scheme}://' + window.location.hostname + ':{port}{}'",
                config.auth.endpoint
            );
            format!(
                "window.Echo = new Echo({{ broadcaster: 'pusher', key: '{}', cluster: '',\n         wsHost: window.location.hostname, {transport}, disableStats: true{} }});",
                app.key,
                if proposals.needs_gateway { &gateway } else { "" }
            )
        }
        None => format!(
            "window.Echo = new Echo({{ broadcaster: 'socket.io', host: window.location.hostname + ':{port}' }});"
        ),
    };
    format!(
        "\nNext:\n  1. Start it:\n       laravel-echo-server start{options}\n  2. Connect the front end:\n       {echo}\n  3. See \
         that all fits together, and which line to change if not:\n       laravel-echo-server doctor{options}"
    )
}

fn ask_all(options: &Options, proposals: &Proposals, ask: &mut Questions<'_>) -> anyhow::Result<Settings> {
    // One after the other, in the order of the questions.
    let dev_mode = options.dev || ask.yes_or_no("Do you want to run this server in development mode?", false)?;
    let port = match options.port {
        Some(port) => port.to_string(),
        None => {
            let default = ask.proposed(&proposals.port, "6001");
            ask.until_right("Which port would you like to serve from?", &default, |answer| {
                answer.parse::<u16>().map(|port| port.to_string()).map_err(|_| "a port is a number up to 65535")
            })?
        }
    };
    let database = match &options.database {
        Some(database) => database.clone(),
        None => ask.one_of("Which database would you like to use to store presence channel members?", DATABASES)?,
    };
    let auth_host = match &options.auth_host {
        Some(host) => host.clone(),
        None => {
            let default = ask.proposed(&proposals.auth_host, HOST);
            ask.until_right("Enter the host of your Laravel authentication server.", &default, |answer| {
                let is_url = answer.starts_with("http://") || answer.starts_with("https://");
                if is_url { Ok(answer.to_owned()) } else { Err("it begins with http:// or https://") }
            })?
        }
    };
    let mut database_config = DatabaseConfig::default();
    if let Some(Proposed { value, from }) = &proposals.redis {
        ask.tell(format_args!("The application's Redis is at {} ({from}).", value.shown()));
        if ask.yes_or_no("Do you want to listen to it?", true)? {
            database_config.redis = value.clone();
        }
    }
    let protocol = match &options.protocol {
        Some(protocol) => protocol.clone(),
        None => ask.one_of("Will you be serving on http or https?", PROTOCOLS)?,
    };
    let (mut ssl_cert_path, mut ssl_key_path) = (String::new(), String::new());
    if protocol == "https" {
        ssl_cert_path = match &options.ssl_cert {
            Some(path) => path.clone(),
            None => ask.needed("Enter the path to your SSL cert file.", "--ssl-cert")?,
        };
        ssl_key_path = match &options.ssl_key {
            Some(path) => path.clone(),
            None => ask.needed("Enter the path to your SSL key file.", "--ssl-key")?,
        };
    }
    Ok(Settings {
        dev_mode,
        port,
        database,
        database_config,
        auth_host,
        protocol,
        ssl_cert_path,
        ssl_key_path,
        ..Settings::default()
    })
}

fn ask_cors(options: &Options, ask: &mut Questions<'_>) -> anyhow::Result<ApiOriginAllow> {
    if !options.cors && !ask.yes_or_no("Do you want to setup cross domain access to the API?", false)? {
        return Ok(ApiOriginAllow::default());
    }
    let mut text = |option: &Option<String>, question, default: &str| match option {
        Some(answer) => Ok(answer.clone()),
        None => ask.text(question, default),
    };
    Ok(ApiOriginAllow {
        allow_cors: true,
        allow_origin: text(&options.cors_origin, "Specify the URI that may access the API:", CORS_ORIGIN)?,
        allow_methods: text(&options.cors_methods, "Enter the HTTP methods that are allowed for CORS:", CORS_METHODS)?,
        allow_headers: text(&options.cors_headers, "Enter the HTTP headers that are allowed for CORS:", CORS_HEADERS)?,
    })
}

/// Puts questions on stdout and takes lines for answers; an empty one is the default.
struct Questions<'a> {
    answers: &'a mut dyn BufRead,
    /// Take every default.
    silent: bool,
}

impl Questions<'_> {
    /// Says where a proposal comes from. With `--yes` as well: nobody else says what was taken.
    fn tell(&self, text: impl Display) {
        say(format_args!("  {text}"));
    }

    /// The proposal, if there is one, and where it comes from; or else the default.
    fn proposed(&self, proposal: &Option<Proposed<String>>, default: &str) -> String {
        match proposal {
            Some(Proposed { value, from }) => {
                self.tell(format_args!("{value} is from {from}."));
                value.clone()
            }
            None => default.to_owned(),
        }
    }

    fn text(&mut self, question: &str, default: &str) -> anyhow::Result<String> {
        let hint = if default.is_empty() { String::new() } else { format!(" ({default})") };
        let answer = self.answer(format_args!("{question}{hint}"))?;
        Ok(answer.unwrap_or_else(|| default.to_owned()))
    }

    fn yes_or_no(&mut self, question: &str, default: bool) -> anyhow::Result<bool> {
        let hint = if default { "(Y/n)" } else { "(y/N)" };
        loop {
            match self.answer(format_args!("{question} {hint}"))?.map(|answer| answer.to_ascii_lowercase()).as_deref() {
                None => return Ok(default),
                Some("y" | "yes" | "true") => return Ok(true),
                Some("n" | "no" | "false") => return Ok(false),
                Some(_) => say(format_args!("  y or n, please")),
            }
        }
    }

    /// One of two names, of which the first is the default.
    fn one_of(&mut self, question: &str, names: [&'static str; 2]) -> anyhow::Result<String> {
        let hint = format!("{question} [{}]", names.join(", "));
        self.until_right(&hint, names[0], |answer| {
            let found = names.iter().find(|name| answer.eq_ignore_ascii_case(name));
            found.map(|name| (*name).to_owned()).ok_or("one of these two, please")
        })
    }

    fn until_right(
        &mut self,
        question: &str,
        default: &str,
        check: impl Fn(&str) -> Result<String, &'static str>,
    ) -> anyhow::Result<String> {
        loop {
            match check(&self.text(question, default)?) {
                Ok(answer) => return Ok(answer),
                Err(why) => say(format_args!("  {why}")),
            }
        }
    }

    /// What has no default.
    fn needed(&mut self, question: &str, option: &str) -> anyhow::Result<String> {
        ensure!(!self.silent, "With https there must be a certificate and its key: add {option} FILE.");
        loop {
            if let Some(answer) = self.answer(question)? {
                return Ok(answer);
            }
        }
    }

    fn answer(&mut self, question: impl Display) -> anyhow::Result<Option<String>> {
        if self.silent {
            return Ok(None);
        }
        let mut stdout = io::stdout().lock();
        let _ = write!(stdout, "? {question} ").and_then(|()| stdout.flush());
        let mut line = String::new();
        let read = (&mut *self.answers).take(ANSWER_BYTES_MAX).read_line(&mut line);
        let bytes = read.context("The answer could not be read")?;
        ensure!(
            bytes > 0,
            "\nNobody is there to answer. Answer with options (laravel-echo-server init --help), or let --yes take the \
             defaults."
        );
        let line = line.trim();
        Ok(Some(line.to_owned()).filter(|line| !line.is_empty()))
    }
}

/// The file, in the order of the old server's keys.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    auth_host: String,
    auth_endpoint: &'static str,
    clients: Vec<Client>,
    database: String,
    database_config: DatabaseConfig,
    dev_mode: bool,
    host: Option<String>,
    /// A text, as ever.
    port: String,
    protocol: String,
    socketio: Empty,
    secure_options: u32,
    ssl_cert_path: String,
    ssl_key_path: String,
    ssl_cert_chain_path: &'static str,
    ssl_passphrase: &'static str,
    subscribers: Subscribers,
    api_origin_allow: ApiOriginAllow,
}

#[derive(Default, Serialize)]
struct DatabaseConfig {
    redis: Redis,
    sqlite: Sqlite,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sqlite {
    database_path: &'static str,
}

#[derive(Default, Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Subscribers {
    http: bool,
    redis: bool,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiOriginAllow {
    allow_cors: bool,
    allow_origin: String,
    allow_methods: String,
    allow_headers: String,
}

impl Default for Sqlite {
    fn default() -> Self {
        Self { database_path: "/database/laravel-echo-server.sqlite" }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            auth_host: HOST.to_owned(),
            auth_endpoint: "/broadcasting/auth",
            clients: Vec::new(),
            database: "redis".to_owned(),
            database_config: DatabaseConfig::default(),
            dev_mode: false,
            host: None,
            port: "6001".to_owned(),
            protocol: "http".to_owned(),
            socketio: Empty {},
            // Without TLS 1.0, in OpenSSL's bits.
            secure_options: 67_108_864,
            ssl_cert_path: String::new(),
            ssl_key_path: String::new(),
            ssl_cert_chain_path: "",
            ssl_passphrase: "",
            subscribers: Subscribers { http: true, redis: true },
            api_origin_allow: ApiOriginAllow::default(),
        }
    }
}

impl Settings {
    /// Indented with tabs, without a newline at its end, as ever.
    fn to_json(&self) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        self.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, tabs))?;
        Ok(String::from_utf8(bytes)?)
    }
}
