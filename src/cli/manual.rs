//! The manual page and the completions of shells, made of the command line itself, so that they cannot say
//! anything else than `--help` does. Packages call these commands when they are built.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// What no command line knows of itself, in the language of manual pages.
const SECTIONS: &str = r#".SH FILES
.TP
.I laravel\-echo\-server.json
The configuration, in the directory where the server is started or that \fB\-\-dir\fR names.
.TP
.I .env
Variables, in the directory where the server is started, or else beside the configuration.
.TP
.I laravel\-echo\-server.lock
Beside the configuration while a server runs with it; it names the process.
.SH ENVIRONMENT
LARAVEL_ECHO_SERVER_HOST, LARAVEL_ECHO_SERVER_PORT and others win over keys of the configuration; RUST_LOG is a filter for the log.
.SH SIGNALS
SIGTERM and SIGINT close every connection, with a code after which clients come back, and end the server; a second one ends it at once.
.SH EXIT STATUS
0: done. 1: it went wrong, and standard error says what. 2: the command line makes no sense.
"#;

/// Prints the script that a shell reads to complete command lines of this program.
///
/// # Errors
/// Standard output cannot be written.
pub fn completions(shell: Shell, mut command: Command) -> anyhow::Result<()> {
    let name = command.get_name().to_owned();
    // Into memory first: the generator panics where nobody listens any more.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    io::stdout().lock().write_all(&script).context("The script cannot be written")
}

/// Writes a manual page for the program and for each of its commands into this directory.
///
/// # Errors
/// A file cannot be written there.
pub fn pages(directory: &Path, command: Command) -> anyhow::Result<()> {
    let failed = || format!("The manual pages cannot be written to {}", directory.display());
    let mut command = command.disable_help_subcommand(true);
    command.build();
    for own in command.get_subcommands().filter(|own| !own.is_hide_set()) {
        Man::new(own.clone()).manual("laravel-echo-server").generate_to(directory).with_context(failed)?;
    }
    let mut page = Vec::new();
    Man::new(command).manual("laravel-echo-server").render(&mut page).with_context(failed)?;
    page.extend_from_slice(SECTIONS.as_bytes());
    std::fs::write(directory.join("laravel-echo-server.1"), page).with_context(failed)
}
