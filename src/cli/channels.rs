//! `channels` and `users`: where the clients are, on all nodes.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::running::{Running, block_on, count, harmless};
use super::{FileOptions, say};

/// Options of `channels`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Only channels with this in their names, or as this pattern with * [default: all].
    filter: Option<String>,
    /// Only those of the app with this appId.
    #[arg(long, value_name = "ID")]
    app: Option<String>,
    /// How many to list, those with the most subscriptions first.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: FileOptions,
}

/// Options of `users`.
#[derive(Args, Clone, Debug)]
pub struct UsersOptions {
    /// The presence channel.
    channel: String,
    /// Of the app with this appId [default: the first].
    #[arg(long, value_name = "ID")]
    app: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: FileOptions,
}

#[derive(Deserialize)]
struct Channels {
    total: Totals,
    channels: Vec<Channel>,
}

#[derive(Deserialize)]
struct Totals {
    channels: u64,
    subscriptions: u64,
}

#[derive(Deserialize)]
struct Channel {
    app: String,
    name: String,
    access: String,
    subscriptions: u64,
    users: Option<u64>,
}

#[derive(Deserialize)]
struct Users {
    subscriptions: u64,
    total: u64,
    users: Vec<Value>,
}

/// Lists the channels.
///
/// # Errors
/// The server does not run, or refuses.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let running = Running::find(&options.file)?;
    let limit = options.limit.to_string();
    let mut query = vec![("limit", limit.as_str())];
    query.extend(options.filter.as_deref().map(|filter| ("filter", filter)));
    query.extend(options.app.as_deref().map(|app| ("app", app)));
    let answer: Value = block_on(running.get("channels", &query))?;
    if options.json {
        say(format_args!("{answer:#}"));
        return Ok(());
    }
    let Channels { total, channels } = serde_json::from_value(answer)?;
    let wide = |column: fn(&Channel) -> &str, least: usize| {
        channels.iter().map(|channel| harmless(column(channel)).chars().count()).max().unwrap_or(0).max(least)
    };
    let (name_width, app_width) = (wide(|channel| &channel.name, 7), wide(|channel| &channel.app, 3));
    if !channels.is_empty() {
        say(format_args!(
            "{:<name_width$}  {:<app_width$}  {:<8}  {:>13}  {:>5}",
            "CHANNEL", "APP", "ACCESS", "SUBSCRIPTIONS", "USERS"
        ));
    }
    for channel in &channels {
        let (name, app) = (harmless(&channel.name), harmless(&channel.app));
        let users = channel.users.map(|users| users.to_string()).unwrap_or_default();
        let (access, subscriptions) = (&channel.access, channel.subscriptions);
        say(format_args!("{name:<name_width$}  {app:<app_width$}  {access:<8}  {subscriptions:>13}  {users:>5}"));
    }
    let (shown, all) = (channels.len() as u64, count(total.channels, "channel"));
    let more = if shown < total.channels { format!(", of which {shown} are shown (--limit)") } else { String::new() };
    say(format_args!("{all} with {}{more}.", count(total.subscriptions, "subscription")));
    Ok(())
}

/// Lists the members of a presence channel.
///
/// # Errors
/// The server does not run, or refuses.
pub fn run_users(options: &UsersOptions) -> anyhow::Result<()> {
    let running = Running::find(&options.file)?;
    let mut query = vec![("channel", options.channel.as_str())];
    query.extend(options.app.as_deref().map(|app| ("app", app)));
    let answer: Value = block_on(running.get("users", &query))?;
    if options.json {
        say(format_args!("{answer:#}"));
        return Ok(());
    }
    let Users { subscriptions, total, users } = serde_json::from_value(answer)?;
    for user in &users {
        let text = |name: &str| match user.get(name) {
            None => String::new(),
            Some(Value::String(text)) => harmless(text),
            Some(other) => harmless(&other.to_string()),
        };
        say(format_args!("{:<20}  {}", text("user_id"), text("user_info")));
    }
    let (channel, shown) = (harmless(&options.channel), users.len() as u64);
    let more = if shown < total { format!(", of whom {shown} are shown") } else { String::new() };
    say(format_args!("{} in {channel}, with {}{more}.", count(total, "user"), count(subscriptions, "subscription")));
    Ok(())
}
