//! `publish`: sends a test event, and says whom it went to.

use std::io::Read;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::running::{Running, block_on, count, harmless};
use super::{FileOptions, say};

/// More than this is no test event, and over the limit of most servers.
const DATA_BYTES_MAX: u64 = 1024 * 1024;

/// Options of `publish`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The channel, as private-user.1.
    channel: String,
    /// The event's name, as Echo's listen('.name') has it without the dot.
    event: String,
    /// Its data, JSON or a text; - reads it from standard input.
    #[arg(default_value = "{}", allow_hyphen_values = true)]
    data: String,
    /// Of the app with this appId [default: the first].
    #[arg(long, value_name = "ID")]
    app: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: FileOptions,
}

/// Sends the event.
///
/// # Errors
/// The server does not run, or refuses.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let running = Running::find(&options.file)?;
    let Options { channel, event, .. } = options;
    let body = json!({ "name": event, "channel": channel, "data": data(&options.data)?, "info": "subscription_count" });
    let query: Vec<(&str, &str)> = options.app.as_deref().map(|app| ("app", app)).into_iter().collect();
    block_on(async {
        let answer: Value = running.post("events", &query, body.to_string()).await?;
        if options.json {
            say(format_args!("{answer}"));
            return Ok(());
        }
        let (event, channel) = (harmless(event), harmless(channel));
        match answer["channels"][&options.channel]["subscription_count"].as_u64() {
            Some(0) | None => {
                say(format_args!("{event} was sent to {channel}, to which nobody is subscribed."));
                tell_of_similar(&running, options).await
            }
            Some(subscriptions) => {
                say(format_args!("{event} was sent to {channel}: {}.", count(subscriptions, "subscription")));
                Ok(())
            }
        }
    })
}

/// The data as clients get it: the text of JSON.
fn data(written: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    let written = match written {
        "-" => {
            let read = std::io::stdin().take(DATA_BYTES_MAX + 1).read_to_string(&mut text);
            let bytes = read.context("the data cannot be read from standard input")?;
            ensure!(bytes as u64 <= DATA_BYTES_MAX, "standard input has more than {DATA_BYTES_MAX} bytes");
            text.trim_end()
        }
        written => written,
    };
    Ok(match serde_json::from_str::<Value>(written) {
        Ok(_) => written.to_owned(),
        Err(_) => Value::from(written).to_string(),
    })
}

/// The name may be nearly right: with a prefix of Redis, or without `private-`.
async fn tell_of_similar(running: &Running, options: &Options) -> anyhow::Result<()> {
    let bare = options.channel.trim_start_matches("private-").trim_start_matches("presence-");
    let mut query = vec![("filter", bare), ("limit", "5")];
    query.extend(options.app.as_deref().map(|app| ("app", app)));
    let similar: Value = running.get("channels", &query).await?;
    for channel in similar["channels"].as_array().into_iter().flatten() {
        let name = harmless(channel["name"].as_str().unwrap_or_default());
        let subscriptions = count(channel["subscriptions"].as_u64().unwrap_or_default(), "subscription");
        say(format_args!("  {name} has {subscriptions}."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::data;

    #[test]
    fn what_is_no_json_is_a_text() {
        for (written, expected) in [(r#"{"a": 1}"#, r#"{"a": 1}"#), ("7", "7"), ("hello", "\"hello\""), ("", "\"\"")] {
            assert_eq!(data(written).unwrap(), expected);
        }
    }
}
