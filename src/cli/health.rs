//! `health`: asks the server that runs with a configuration whether it lives, or with `--ready` whether it should get
//! clients. For containers and supervisors, which want an exit code: 0 yes, 1 no.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::FileOptions;
use crate::config::{Config, DotEnv};

/// How long the server may take; a supervisor's patience is not longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer that is shown, in characters.
const SHOWN_MAX: usize = 500;

/// Options of `health`.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// Whether it should get clients (/ready), and not only whether it lives (/health).
    #[arg(long)]
    pub ready: bool,
    #[command(flatten)]
    pub file: FileOptions,
}

/// Asks, and says what the server says.
///
/// # Errors
/// No server answers, or it says no.
pub fn run(options: &Options) -> anyhow::Result<()> {
    // Fails only if there is one already, which is as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let path = options.file.path();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    let dotenv = DotEnv::read(folder);
    let config = Config::load(options.file.dir.as_deref(), options.file.config.as_deref(), &|name| dotenv.get(name))?;
    let place = place(&config, if options.ready { "/ready" } else { "/health" });
    if place.url.contains(":0/") {
        bail!("{} has the port 0, any free one, so nobody knows where the server is; name a port", path.display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, text) = runtime.block_on(ask(&place))?;
    if status != 200 {
        let shown: String = text.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect();
        bail!("{} answers {status}: {shown}", place.url);
    }
    super::say(format_args!("{text}"));
    Ok(())
}

/// Where to ask.
#[derive(Debug, Eq, PartialEq)]
struct Place {
    url: String,
    socket: Option<std::path::PathBuf>,
}

fn place(config: &Config, path: &str) -> Place {
    let socket = config.socket.as_ref().filter(|socket| socket.is_alone).map(|socket| socket.path.clone());
    // All addresses of this machine are no address to connect to.
    let host = match config.host.as_deref() {
        None | Some("0.0.0.0") => "127.0.0.1".to_owned(),
        Some("::") => "[::1]".to_owned(),
        Some(host) if host.contains(':') => format!("[{host}]"),
        Some(host) => host.to_owned(),
    };
    let scheme = config.scheme();
    let url = match (&socket, config.metrics.as_ref().and_then(|access| access.listen)) {
        (Some(_), _) => format!("{scheme}://localhost{path}"),
        // Another program may have the port of clients' alone.
        (None, Some(listen)) if listen.ip().is_loopback() => format!("http://{listen}{path}"),
        (None, _) => format!("{scheme}://{host}:{}{path}", config.port),
    };
    Place { url, socket }
}

async fn ask(place: &Place) -> anyhow::Result<(u16, String)> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PATIENCE)
        // The certificate is one for the public name, and this does not leave the machine.
        .tls_danger_accept_invalid_certs(true);
    let client = match &place.socket {
        Some(socket) => client.unix_socket(socket.clone()),
        None => client,
    };
    let response = client.build()?.get(&place.url).send().await;
    let response = response.with_context(|| format!("no server answers at {}", place.url))?;
    Ok((response.status().as_u16(), response.text().await.context("the answer broke off")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_server_is_asked_where_it_listens() {
        for (file, url) in [
            (r#"{}"#, "http://127.0.0.1:6001/health"),
            (r#"{ "host": "0.0.0.0", "port": "6002" }"#, "http://127.0.0.1:6002/health"),
            (r#"{ "host": "::" }"#, "http://[::1]:6001/health"),
            (r#"{ "host": "fd00::1" }"#, "http://[fd00::1]:6001/health"),
            (r#"{ "metrics": { "port": 9601 } }"#, "http://127.0.0.1:9601/health"),
            (r#"{ "socket": "/run/echo.sock" }"#, "http://localhost/health"),
        ] {
            let config = Config::parse(Path::new("x"), file.as_bytes(), &|_| None).unwrap();
            assert_eq!(place(&config, "/health").url, url, "{file}");
        }
    }
}
