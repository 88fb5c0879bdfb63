//! `/socket.io/socket.io.js`: the Socket.IO client that pages of the old server load from the port itself.
//!
//! It is not part of this server. Where the old server's package, or socket.io-client itself, is still
//! installed, its copy is served; else the answer says where to get one.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::config::Config;

/// The longest script that is served, in bytes: that of version 2 has 70,000.
const BYTES_MAX: u64 = 1024 * 1024;

/// Where npm puts the client, below a folder of packages.
const BELOW: [&str; 2] =
    ["socket.io-client/dist/socket.io.js", "laravel-echo-server/node_modules/socket.io-client/dist/socket.io.js"];

/// Where npm puts packages that are installed for all.
const GLOBAL: [&str; 2] = ["/usr/local/lib/node_modules", "/usr/lib/node_modules"];

/// The script, if there is one: that of `socketio.clientScript`, else the first that is found beside the
/// configuration, in the working directory, or among the packages installed for all.
pub fn load(config: &Config) -> anyhow::Result<Option<Bytes>> {
    if let Some(path) = &config.socketio.client_script {
        let refused = |why: &dyn std::fmt::Display| {
            anyhow::anyhow!("the script {} (socketio.clientScript) cannot be served: {why}", path.display())
        };
        let script = read(path).map_err(|error| refused(&error))?;
        return script.map(Some).ok_or_else(|| refused(&format_args!("it has more than {BYTES_MAX} bytes")));
    }
    let beside = config.path.parent().unwrap_or(Path::new("")).join("node_modules");
    let folders = [beside, PathBuf::from("node_modules")].into_iter().chain(GLOBAL.map(PathBuf::from));
    let found = folders.flat_map(|folder| BELOW.map(|below| folder.join(below))).find_map(|path| {
        let script = read(&path).ok().flatten()?;
        tracing::debug!("The Socket.IO client for pages comes from {}", path.display());
        Some(script)
    });
    Ok(found)
}

/// `None`: it is too long.
fn read(path: &Path) -> std::io::Result<Option<Bytes>> {
    let mut script = Vec::new();
    File::open(path)?.take(BYTES_MAX + 1).read_to_end(&mut script)?;
    Ok((script.len() as u64 <= BYTES_MAX).then(|| script.into()))
}
