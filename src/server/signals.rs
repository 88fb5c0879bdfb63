//! The signals that the server hears.

use std::io::IsTerminal as _;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// SIGINT, SIGTERM and SIGHUP.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<(Signal, Arc<Notify>)>,
    has_terminal: bool,
}

impl Signals {
    /// From now on they no longer end the process by themselves; SIGHUP only if somebody reloads on it.
    pub fn listen(reload: Option<Arc<Notify>>) -> std::io::Result<Self> {
        let hangup = reload.map(|reload| signal(SignalKind::hangup()).map(|hangup| (hangup, reload))).transpose()?;
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
            has_terminal: std::io::stdout().is_terminal(),
        })
    }

    /// The next one that ends the server. SIGHUP does if it says that the terminal has gone in which the server was
    /// started; else it is a wish to reload.
    pub async fn next(&mut self) -> &'static str {
        loop {
            let hung_up = async {
                match &mut self.hangup {
                    Some((hangup, reload)) => {
                        hangup.recv().await;
                        reload.clone()
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
                reload = hung_up => {
                    if self.has_terminal && !std::io::stdout().is_terminal() {
                        return "SIGHUP (the terminal was closed)";
                    }
                    reload.notify_one();
                }
            }
        }
    }
}
