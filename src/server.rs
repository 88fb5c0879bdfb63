//! A placeholder, so that `cli` compiles on its own: the real file starts the server.

use std::net::SocketAddr;

use crate::config::Config;

/// Runs the server until it is told to stop; `ready` is called once, when the port is open.
///
/// # Errors
/// Always, here.
pub fn run(_config: Config, _ready: impl FnOnce(SocketAddr)) -> anyhow::Result<()> {
    anyhow::bail!("This build has no server.")
}
