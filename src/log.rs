//! The log: lines on stdout, for people or for programs, that nobody ever waits for.
//!
//! A thread of its own writes. Whoever says something puts a ready line into a bounded queue; if stdout takes nothing
//! (a full disk, a pipe that nobody reads), lines are lost, counted, and the log says so when it goes on. Lines that
//! clients can cause are limited by kind: see [`limit`](self). What is global here is the log itself.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;
use limit::{Kinds, Verdict};
use writer::Lines;

mod json;
mod limit;
mod writer;

/// What this log says of itself, and what must be said whatever it is: lines of this target are not limited.
pub const ALWAYS: &str = "laravel_echo_server::always";

static LOG: OnceLock<Log> = OnceLock::new();

/// Says from now on what another filter lets through; not there if `RUST_LOG` says it.
static CHANGE_FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

struct Log {
    lines: Lines,
    kinds: Kinds,
    is_json: bool,
}

/// Sets the log up. `RUST_LOG` wins over `dev_mode`. Does nothing if there is a log already.
pub fn set_up(format: LogFormat, dev_mode: bool) {
    let (filter, variable) = match std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty()) {
        None => (default_filter(dev_mode), None),
        Some(text) => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, Some(Ok(()))),
            Err(error) => (default_filter(dev_mode), Some(Err(error))),
        },
    };
    let is_terminal = io::stdout().is_terminal();
    let is_json = match format {
        LogFormat::Auto => !is_terminal && !dev_mode,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let Ok(lines) = Lines::start() else { return };
    let kinds = Kinds::default();
    kinds.set_dev_mode(dev_mode);
    if LOG.set(Log { lines, kinds, is_json }).is_err() {
        return;
    }
    let colours = is_terminal && !is_json && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_ansi(colours).with_writer(Queue);
    // It would be said on stderr, with a panic if nobody listens there either.
    let log = log.log_internal_errors(false);
    // Fails only if there is a log already, which is then used.
    let change: Box<dyn Fn(EnvFilter) + Send + Sync> = match is_json {
        true => {
            let log = log.event_format(Limited(json::Json)).with_env_filter(filter).with_filter_reloading();
            let filter = log.reload_handle();
            let _ = log.try_init();
            Box::new(move |new| drop(filter.reload(new)))
        }
        false => {
            let format = Limited(Format::default().with_target(false));
            let log = log.event_format(format).with_env_filter(filter).with_filter_reloading();
            let filter = log.reload_handle();
            let _ = log.try_init();
            Box::new(move |new| drop(filter.reload(new)))
        }
    };
    if !matches!(variable, Some(Ok(()))) {
        let _ = CHANGE_FILTER.set(change);
    }
    if let Some(Err(error)) = variable {
        tracing::warn!("RUST_LOG is ignored, because it is no filter: {error}.");
    }
    let _ = std::thread::Builder::new().name("log-kinds".to_owned()).spawn(|| {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            if let Some(log) = LOG.get() {
                log.kinds.tell();
            }
        }
    });
}

/// Says more from now on, or less, unless `RUST_LOG` says what is said.
pub fn set_dev_mode(dev_mode: bool) {
    if let Some(log) = LOG.get() {
        log.kinds.set_dev_mode(dev_mode);
    }
    if let Some(change) = CHANGE_FILTER.get() {
        change(default_filter(dev_mode));
    }
}

fn default_filter(dev_mode: bool) -> EnvFilter {
    let own = if dev_mode { "debug" } else { "info" };
    EnvFilter::new(format!("warn,laravel_echo_server={own}"))
}

/// Says a text of several lines that is no event, as it stands; as JSON, each line by itself.
pub fn banner(text: &str) {
    match LOG.get() {
        Some(log) if log.is_json => {
            for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
                tracing::info!(target: ALWAYS, "{line}");
            }
        }
        Some(log) => log.lines.push_and_wait(text.as_bytes().to_vec()),
        None => print(text),
    }
}

/// `print` panics when nobody listens any more; the server has no need of a listener.
fn print(text: &str) {
    use io::Write;
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Before the process ends: waits until what was said is written, for a moment.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.lines.flush();
    }
}

/// How many lines were lost, since stdout took none.
pub fn lines_dropped() -> u64 {
    LOG.get().map_or(0, |log| log.lines.dropped())
}

/// How many lines were left out, as too many of their kind.
pub fn lines_suppressed() -> u64 {
    LOG.get().map_or(0, |log| log.kinds.suppressed())
}

/// Where `tracing_subscriber` writes each line in one piece.
struct Queue;

impl MakeWriter<'_> for Queue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl io::Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(log) = LOG.get() {
            log.lines.push(line.to_vec());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A format that leaves out what there is too much of.
struct Limited<F>(F);

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &tracing::Event<'_>) -> fmt::Result {
        match LOG.get().map(|log| log.kinds.judge(event)) {
            Some(Verdict::TooMany) => Ok(()),
            _ => self.0.format_event(ctx, writer, event),
        }
    }
}
