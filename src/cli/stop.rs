//! `stop`: ends the server that runs with this configuration file, and waits until it has ended.
//!
//! The sentences that the old server printed begin as they did, on stdout, for scripts that look for
//! them. The exit code is 0 only if no server runs afterwards.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use super::lock::{self, Holder};
use super::{FileOptions, say};

/// Ends the server.
///
/// # Errors
/// It cannot be ended.
pub fn run(options: &FileOptions) -> anyhow::Result<ExitCode> {
    let path = lock::path_for(&options.path());
    let shown = path.display();
    Ok(match lock::holder(&path) {
        Holder::None => {
            say(format_args!("Error: Could not find any lock file. ({shown} is not there; see --dir and --config.)"));
            ExitCode::FAILURE
        }
        Holder::Unreadable => {
            say(format_args!("Error: There was a problem reading the lock file. ({shown})"));
            ExitCode::FAILURE
        }
        Holder::Gone => {
            remove(&path);
            say(format_args!("No running servers to close."));
            ExitCode::SUCCESS
        }
        Holder::Elsewhere => {
            anyhow::bail!("The server that holds {shown} runs in another container. Stop it there.")
        }
        Holder::Here(pid) => {
            lock::end(pid)?;
            // The server removes it, if it ends in order.
            if lock::holder(&path) == Holder::Gone {
                remove(&path);
            }
            say(format_args!("Closed the running server."));
            ExitCode::SUCCESS
        }
    })
}

fn remove(path: &Path) {
    // A file that cannot be removed is no harm: its process is known to be gone.
    let _ = fs::remove_file(path);
}
