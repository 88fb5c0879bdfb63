//! `listen`: shows live in the terminal what passes in the running server, a line for each event, refusal and
//! connection, so that one sees why an event does not arrive.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use clap::Args;
use serde_json::Value;

use super::running::{Running, block_on, count, harmless};
use super::{FileOptions, say_on_stderr};

/// How much of a line that never ends is waited for, in bytes.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// How much of an event's data is shown, in characters.
const DATA_SHOWN: usize = 200;

/// Options of `listen`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Only what is about channels with this in their names, or as this pattern with * [default: everything].
    channel: Option<String>,
    /// Print each line as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: FileOptions,
}

/// Listens until the server stops, or nobody reads any more.
///
/// # Errors
/// The server does not run, refuses, or goes away without a word.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let running = Running::find(&options.file)?;
    let query: Vec<(&str, &str)> = options.channel.as_deref().map(|channel| ("channel", channel)).into_iter().collect();
    block_on(async {
        let mut response = running.open("feed", &query).await?;
        let mut rest = Vec::new();
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(()),
                Err(_) => anyhow::bail!("The connection to {} broke off. Has the server ended?", running.place()),
            };
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if !show(String::from_utf8_lossy(&line).trim_end(), options, &running)? {
                    return Ok(());
                }
            }
            anyhow::ensure!(rest.len() <= LINE_BYTES_MAX, "{} sends a line without an end", running.place());
        }
    })
}

/// Prints a line of the feed; false when there is no use in going on.
fn show(line: &str, options: &Options, running: &Running) -> anyhow::Result<bool> {
    let seen: Value = serde_json::from_str(line)?;
    match seen["kind"].as_str() {
        Some("hello") => {
            let of =
                options.channel.as_deref().map(|channel| format!(" for {}", harmless(channel))).unwrap_or_default();
            say_on_stderr(format_args!("Listening at {}{of}. Ctrl-C ends it.", running.place()));
            return Ok(true);
        }
        Some("stopped") => {
            say_on_stderr(format_args!("The server stops."));
            return Ok(false);
        }
        Some("denied") => {
            say_on_stderr(format_args!(
                "Who may look has changed (\"admin\" in the configuration file). Start the command again."
            ));
            return Ok(false);
        }
        Some("beat") => return Ok(true),
        _ => {}
    }
    let text = if options.json { line.to_owned() } else { readable(&seen) };
    // Nobody reads any more: that is no error.
    Ok(writeln!(io::stdout().lock(), "{text}").and_then(|()| io::stdout().flush()).is_ok())
}

/// A line of the feed for people.
fn readable(seen: &Value) -> String {
    let mut text = String::new();
    // A String takes everything.
    let _ = write_readable(&mut text, seen);
    text
}

fn write_readable(text: &mut String, seen: &Value) -> fmt::Result {
    let get = |name: &str| match &seen[name] {
        Value::String(value) => harmless(value),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let kind = seen["kind"].as_str().unwrap_or_default();
    let word = match kind {
        "disconnected" => "gone",
        "subscribed" => "joined",
        "unsubscribed" => "left",
        "request_refused" | "rejected" => "refused",
        other => other,
    };
    write!(text, "{}  {:<9}  ", time(seen["at"].as_u64().unwrap_or_default()), harmless(word))?;
    match kind {
        "event" => write_event(text, seen),
        "ignored" => write!(text, "on Redis channel {}: {}", get("redis_channel"), get("reason")),
        "refused" => {
            let what = if seen["channel"].is_null() { "signing in".to_owned() } else { get("channel") };
            write!(text, "{what}  by {}  ", get("socket_id"))?;
            if !seen["status"].is_null() {
                write!(text, "{}: ", get("status"))?;
            }
            write!(text, "{}", get("error"))?;
            match seen["detail"].as_str() {
                None | Some("") => Ok(()),
                Some(detail) => write!(text, " ({})", harmless(detail)),
            }
        }
        "rejected" => write!(text, "a connection  {}: {}", get("code"), get("error")),
        "request_refused" => write!(text, "an HTTP API request  {}: {}", get("status"), get("error")),
        "connected" => write!(text, "{}  ({}, app {})", get("socket_id"), get("client"), get("app")),
        "disconnected" => {
            write!(text, "{}  by the {}", get("socket_id"), get("by"))?;
            if !seen["code"].is_null() {
                write!(text, ", {}", get("code"))?;
            }
            match seen["reason"].as_str() {
                None | Some("") => Ok(()),
                Some(reason) => write!(text, ": {}", harmless(reason)),
            }
        }
        "subscribed" | "unsubscribed" => write!(text, "{}  by {}", get("channel"), get("socket_id")),
        "missed" => write!(text, "{} lines: they came faster than they could be shown", get("count")),
        _ => write!(text, "{}", harmless(&seen.to_string())),
    }
}

fn write_event(text: &mut String, seen: &Value) -> fmt::Result {
    let name = |value: &Value| harmless(value.as_str().unwrap_or_default());
    write!(text, "{}  from ", name(&seen["event"]))?;
    let from = &seen["from"];
    match from["source"].as_str() {
        Some("redis") => write!(text, "Redis, published as {}", name(&from["channel"]))?,
        Some("http") => write!(text, "the HTTP API")?,
        Some("client") => write!(text, "the client {}", name(&from["socket_id"]))?,
        _ => write!(text, "another node")?,
    }
    for to in seen["to"].as_array().into_iter().flatten() {
        let number = |name: &str| to[name].as_u64().unwrap_or_default();
        let (delivered, excluded) = (number("delivered"), number("excluded"));
        write!(text, "\n{INDENT}→ {}  ", name(&to["channel"]))?;
        match (delivered, excluded) {
            (0, 0) => write!(text, "nobody is subscribed")?,
            (_, 0) => write!(text, "delivered to {}", count(delivered, "connection"))?,
            _ => write!(text, "delivered to {}, the sender left out", count(delivered, "connection"))?,
        }
    }
    let data = name(&seen["data"]);
    let shown: String = data.chars().take(DATA_SHOWN).collect();
    let more = if shown.len() < data.len() { "…" } else { "" };
    write!(text, "\n{INDENT}{shown}{more}  ({} bytes)", seen["data_bytes"])
}

/// As wide as time and kind.
const INDENT: &str = "                         ";

/// The time of day in UTC, as the log has it.
fn time(at: u64) -> String {
    let (seconds, milliseconds) = (at / 1000, at % 1000);
    format!("{:02}:{:02}:{:02}.{milliseconds:03}Z", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_says_where_it_came_from_and_who_got_it() {
        let event = json!({ "at": 3_723_004, "kind": "event", "event": "message.sent", "data": "{\"id\":1}", "data_bytes": 8,
            "from": { "source": "redis", "channel": "shop_database_orders" }, "except": "1.2",
            "to": [{ "app": "shop", "channel": "orders", "delivered": 2, "excluded": 1 },
                   { "app": "shop", "channel": "shop_database_orders", "delivered": 0, "excluded": 0 }] });
        assert_eq!(
            readable(&event),
            "01:02:03.004Z  event      message.sent  from Redis, published as shop_database_orders\n\
             \x20                        → orders  delivered to 2 connections, the sender left out\n\
             \x20                        → shop_database_orders  nobody is subscribed\n\
             \x20                        {\"id\":1}  (8 bytes)"
        );
    }

    #[test]
    fn refusals_say_why() {
        let refused = json!({ "at": 0, "kind": "refused", "channel": "private-\u{1b}[2J", "socket_id": "1.2", "status": 403,
            "error": "Laravel refused.", "detail": "" });
        assert_eq!(readable(&refused), "00:00:00.000Z  refused    private-\\u{1b}[2J  by 1.2  403: Laravel refused.");
    }
}
