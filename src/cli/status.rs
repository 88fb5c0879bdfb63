//! `status`: how the running server is, and the cluster that it belongs to.

use std::fmt::{self, Write};

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::running::{Running, block_on, count, duration, harmless};
use super::{FileOptions, say};

/// Options of `status`.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    #[command(flatten)]
    file: FileOptions,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Asks, and prints.
///
/// # Errors
/// The server does not run, or refuses.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let running = Running::find(&options.file)?;
    block_on(async {
        let mut status: Value = running.get("status", &[]).await?;
        let channels: Value = running.get("channels", &[("limit", "0")]).await?;
        status["channels"] = channels["total"].clone();
        if options.json {
            say(format_args!("{status:#}"));
        } else {
            let status: Status = serde_json::from_value(status)?;
            let mut text = String::new();
            // A String takes everything.
            let _ = write(&mut text, &status);
            say(format_args!("{}", text.trim_end()));
        }
        Ok(())
    })
}

#[derive(Deserialize)]
struct Status {
    version: String,
    pid: u32,
    uptime_seconds: f64,
    listening: Listening,
    configuration: String,
    connections: u64,
    connections_max: u64,
    cluster_connections: u64,
    memory_bytes: u64,
    redis: Redis,
    nodes: Vec<Node>,
    apps: Vec<App>,
    webhooks: Vec<Webhook>,
    channels: Totals,
}

#[derive(Deserialize)]
struct Listening {
    places: Vec<String>,
    protocol: String,
}

#[derive(Deserialize)]
struct Redis {
    state: String,
    address: String,
    seconds: f64,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    version: String,
    connections: u64,
    lag_ms: u64,
    is_leaving: bool,
    is_this: bool,
}

#[derive(Deserialize)]
struct App {
    id: String,
    connections: u64,
    cluster_connections: u64,
}

#[derive(Deserialize)]
struct Webhook {
    app: String,
    url: String,
    delivered: u64,
    failed_requests: u64,
    given_up: u64,
    overflowed: u64,
}

#[derive(Deserialize)]
struct Totals {
    channels: u64,
    subscriptions: u64,
    members: u64,
}

fn write(text: &mut String, status: &Status) -> fmt::Result {
    let Status { version, pid, listening, redis, channels, .. } = status;
    writeln!(text, "laravel-echo-server {version}, process {pid}, up {}\n", duration(status.uptime_seconds))?;
    writeln!(text, "Listening    {} ({})", listening.places.join(", "), listening.protocol)?;
    writeln!(text, "Settings     {}", harmless(&status.configuration))?;
    let for_so_long = duration(redis.seconds);
    match redis.state.as_str() {
        "connected" => writeln!(text, "Redis        {}, connected for {for_so_long}", redis.address)?,
        "off" => writeln!(text, "Redis        not listened to (\"subscribers.redis\")")?,
        _ => {
            let reason = harmless(redis.reason.as_deref().unwrap_or_default());
            writeln!(text, "Redis        {}, AWAY for {for_so_long}: {reason}", redis.address)?;
        }
    }
    write!(text, "Connections  {} of {}", status.connections, status.connections_max)?;
    match status.nodes.len() {
        0 | 1 => writeln!(text)?,
        nodes => writeln!(text, ", {} on all {nodes} nodes", status.cluster_connections)?,
    }
    writeln!(
        text,
        "Channels     {} with {}, {} of presence channels",
        channels.channels,
        count(channels.subscriptions, "subscription"),
        count(channels.members, "member")
    )?;
    writeln!(text, "Memory       {} MB", status.memory_bytes / (1024 * 1024))?;
    writeln!(text, "\nApps")?;
    for app in &status.apps {
        let id = if app.id.is_empty() { "(none, Socket.IO only)" } else { &app.id };
        write!(text, "  {id:<24} {}", count(app.connections, "connection"))?;
        match status.nodes.len() {
            0 | 1 => writeln!(text)?,
            _ => writeln!(text, ", {} on all nodes", app.cluster_connections)?,
        }
    }
    if !status.nodes.is_empty() {
        writeln!(text, "\nNodes")?;
    }
    for node in &status.nodes {
        let (id, version, connections) = (&node.id, &node.version, count(node.connections, "connection"));
        let what = if node.is_leaving { ", stops" } else { "" };
        let this = if node.is_this { "  (this one)" } else { "" };
        writeln!(text, "  {id}  {version}  {connections}, {} ms behind{what}{this}", node.lag_ms)?;
    }
    if !status.webhooks.is_empty() {
        writeln!(text, "\nWebhooks")?;
    }
    for webhook in &status.webhooks {
        let Webhook { app, url, delivered, failed_requests, given_up, overflowed } = webhook;
        let lost = given_up + overflowed;
        writeln!(
            text,
            "  {app}  {}  {delivered} delivered, {lost} lost, {}",
            harmless(url),
            count(*failed_requests, "failed request")
        )?;
    }
    Ok(())
}
