//! The command line: commands, help texts, and the exit code.
//!
//! Each command has a file of its own that does the work; here is only what the user may write.
//! Exit codes: 0 done, 1 it went wrong (one or more sentences on stderr say what), 2 the command
//! line makes no sense.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config;

pub mod banner;
pub mod bench;
mod channels;
mod clients;
pub mod demo;
mod doctor;
mod files;
mod health;
mod init;
mod listen;
mod lock;
mod manual;
mod proposals;
mod publish;
mod running;
pub mod start;
mod status;
mod stop;

/// What stands after `laravel-echo-server`.
#[derive(Debug, Parser)]
#[command(
    override_usage = "laravel-echo-server <command> [options]",
    name = "laravel-echo-server",
    version,
    about = "WebSocket broadcast server for Laravel, fed by Redis and over HTTP."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the server.
    Start(StartOptions),
    /// Stops the server.
    Stop(FileOptions),
    /// Shows how the running server is.
    Status(status::Options),
    /// Shows live what passes in the running server, to see why an event does not arrive.
    Listen(listen::Options),
    /// Sends a test event to a channel.
    Publish(publish::Options),
    /// Lists the channels that have subscribers.
    Channels(channels::Options),
    /// Lists who is in a presence channel.
    Users(channels::UsersOptions),
    /// Creates a custom config file.
    #[command(visible_alias = "init")]
    Configure(Box<init::Options>),
    /// Register a client that can make api requests.
    #[command(name = "client:add")]
    ClientAdd {
        /// Its appId [default: a random one].
        id: Option<String>,
        #[command(flatten)]
        file: FileOptions,
    },
    /// Remove a registered client.
    #[command(name = "client:remove")]
    ClientRemove {
        /// Its appId.
        id: Option<String>,
        #[command(flatten)]
        file: FileOptions,
    },
    /// Looks at file, Redis, Laravel, certificates, port and proxy, and says which line to change.
    ///
    /// Exit codes: 0 nothing to do, 1 warnings, 2 problems.
    Doctor(Box<doctor::Options>),
    /// Asks the running server whether it lives: exit code 0 for yes, 1 for no.
    Health(health::Options),
    /// Shows what it does: server, application and page in one process, without Redis and Laravel.
    Demo(DemoOptions),
    /// Measures a server of yours: connects, subscribes, publishes, and counts what arrives.
    Bench(Box<bench::Options>),
    /// Prints what a shell needs to complete these commands.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages, for packages.
    #[command(hide = true)]
    Man {
        /// The directory to write to.
        directory: PathBuf,
    },
}

/// Which config file is meant.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct FileOptions {
    /// The directory that the config file is in [default: the current one].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The config file to use; if absolute, --dir does not matter [default: laravel-echo-server.json].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl FileOptions {
    /// The file's path.
    pub fn path(&self) -> PathBuf {
        let name = self.config.as_deref().unwrap_or(Path::new(config::FILE_NAME));
        self.dir.as_deref().map_or_else(|| name.to_owned(), |dir| dir.join(name))
    }
}

/// Options of `start`.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct StartOptions {
    #[command(flatten)]
    pub file: FileOptions,
    /// If a server is already running, stop it.
    #[arg(long)]
    pub force: bool,
    /// Run in dev mode: say more in the log, as "devMode" in the config file.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t, value_name = "true|false", hide_possible_values = true, action = clap::ArgAction::Set)]
    pub dev: bool,
    /// How lines of the log look, as "logFormat" in the config file: text, json, or auto (text on a terminal or in dev mode).
    #[arg(long, value_name = "text|json|auto", value_parser = log_format)]
    pub log_format: Option<config::LogFormat>,
    /// What the old command line took for `--dev=false`.
    #[arg(long, hide = true)]
    pub no_dev: bool,
}

fn log_format(text: &str) -> Result<config::LogFormat, &'static str> {
    text.parse().map_err(|()| "there are text, json and auto")
}

/// Options of `demo`.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct DemoOptions {
    /// Use the real laravel-echo and pusher-js of this node_modules directory, not the page's own small client.
    #[arg(long, value_name = "DIR")]
    pub assets: Option<PathBuf>,
    /// The port to open in the browser; 0 for any free one.
    #[arg(long, value_name = "PORT", default_value_t = 6001)]
    pub port: u16,
}

/// Runs the command that the arguments (the program's name first) ask for, to its end.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match CommandLine::try_parse_from(arguments) {
        Ok(CommandLine { command: Some(command) }) => command,
        Ok(CommandLine { command: None }) => {
            let help = CommandLine::command().render_help();
            say_on_stderr(format_args!("{help}\nPlease provide a valid command."));
            return ExitCode::FAILURE;
        }
        Err(error) => {
            // Help and version come this way too. That nobody listens any more is no error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    let result = match command {
        Command::Start(options) => done(start::run(&options)),
        Command::Stop(options) => stop::run(&options),
        Command::Status(options) => done(status::run(&options)),
        Command::Listen(options) => done(listen::run(&options)),
        Command::Publish(options) => done(publish::run(&options)),
        Command::Channels(options) => done(channels::run(&options)),
        Command::Users(options) => done(channels::run_users(&options)),
        Command::Configure(options) => done(init::run(&options)),
        Command::ClientAdd { id, file } => done(clients::add(id.as_deref(), &file)),
        Command::ClientRemove { id, file } => done(clients::remove(id.as_deref(), &file)),
        Command::Doctor(options) => doctor::run(*options),
        Command::Health(options) => done(health::run(&options)),
        Command::Demo(DemoOptions { assets, port }) => done(demo::run(demo::Options { assets, port: Some(port) })),
        Command::Bench(options) => done(bench::run(*options)),
        Command::Completions { shell } => done(manual::completions(shell, CommandLine::command())),
        Command::Man { directory } => done(manual::pages(&directory, CommandLine::command())),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            say_on_stderr(format_args!("Error: {}", sentences(&error)));
            ExitCode::FAILURE
        }
    }
}

/// An error and what caused it, joined by colons. A cause that the text before it ends with
/// already is not said twice.
fn sentences(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        let said = text.trim_end_matches('.');
        if !said.ends_with(cause.trim_end_matches('.')) {
            text = format!("{said}: {cause}");
        }
    }
    if text.ends_with(['.', '!', '?', '}', '^', '"']) || text.contains('\n') { text } else { text + "." }
}

/// `println` panics when nobody listens; this does not.
fn say(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// `eprintln` panics when nobody listens; this does not.
fn say_on_stderr(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn options_are_understood() {
        let parse = |text: &str| CommandLine::try_parse_from(text.split(' ')).unwrap().command;
        let file = FileOptions { dir: Some("/srv".into()), config: Some("echo.json".into()) };
        for (text, force, dev) in [
            ("x start --dir /srv --config=echo.json --dev", false, true),
            ("x start --dev=true --dir /srv --config echo.json --force", true, true),
            ("x start --dev=false --dir /srv --config echo.json", false, false),
            ("x start --dir=/srv --config=echo.json", false, false),
        ] {
            let Some(Command::Start(options)) = parse(text) else { panic!("not start") };
            assert_eq!(
                options,
                StartOptions { file: file.clone(), force, dev, log_format: None, no_dev: false },
                "{text}"
            );
        }
        let Some(Command::Stop(options)) = parse("x stop --dir /srv --config=echo.json") else { panic!("not stop") };
        assert_eq!((options.path(), options), ("/srv/echo.json".into(), file.clone()));
        let Some(Command::ClientAdd { id, file: options }) = parse("x client:add app --dir /srv --config=echo.json")
        else {
            panic!("not client:add")
        };
        assert_eq!((id.as_deref(), options), (Some("app"), file));
        assert!(matches!(parse("x init"), Some(Command::Configure(_))));
        assert_eq!(FileOptions::default().path(), Path::new(config::FILE_NAME));
        let Some(Command::Demo(options)) = parse("x demo --assets node_modules --port 0") else { panic!("not demo") };
        assert_eq!(options, DemoOptions { assets: Some("node_modules".into()), port: 0 });
    }

    #[test]
    fn causes_are_joined_into_one_sentence() {
        let cause = || std::io::Error::other("address in use");
        let error = Err::<(), _>(cause()).context("Port 6001 cannot be opened.").unwrap_err();
        assert_eq!(sentences(&error), "Port 6001 cannot be opened: address in use.");
        let error = Err::<(), _>(cause()).context("Port 6001 cannot be opened: address in use").unwrap_err();
        assert_eq!(sentences(&error), "Port 6001 cannot be opened: address in use.");
        assert_eq!(sentences(&anyhow::anyhow!("No.")), "No.");
    }
}
