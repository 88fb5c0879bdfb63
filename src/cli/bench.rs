//! `bench`: a load generator for the operator's own deployment. It connects, subscribes,
//! publishes, and counts: each event has a number and the time it was sent, so that loss,
//! doubling and disorder are seen and not supposed. Where it can, it reads the server's CPU time
//! and memory out of /proc.
//!
//! It speaks the Pusher protocol, and the Socket.IO of the old server for comparison. It is
//! no client library: it understands only what a server says to it in these few situations.

use std::io::{self, Write};

use load::Load;
use options::Plan;
use process::Process;
use progress::Progress;
use report::Report;

mod account;
mod load;
mod options;
mod phases;
mod process;
mod progress;
mod publish;
mod report;
mod socket;
mod wire;

pub use options::Options;

/// Runs the load and prints what came of it.
///
/// # Errors
/// The options make no sense, the server refuses, or something was lost, doubled or out of order.
pub fn run(options: Options) -> anyhow::Result<()> {
    let plan = Plan::new(options)?;
    let options = &plan.options;
    crate::listen::files::raise();
    let local = plan.address.ip().is_loopback();
    let server =
        options.pid.map(Process).or_else(|| local.then(|| Process::listening_on(plan.address.port())).flatten());
    let mut load = Load::new(&plan)?;
    let before = server.and_then(Process::rss);
    let connected_in =
        load.connect_all(&Progress::new("Connecting", u64::from(options.connections + options.joins)))?;
    load.idle(&Progress::new("Idle", plan.idle.as_secs()))?;
    let idle = server.and_then(Process::rss);
    let joins = load.joins(server)?;
    if options.events + options.warm_up > 0 {
        load.open_publishers()?;
    }
    if options.warm_up > 0 {
        load.publish_all(options.warm_up, server, &Progress::new("Warming up", options.warm_up.into()))?;
    }
    let published = load.publish_all(options.events, server, &Progress::new("Events", options.events.into()))?;
    if options.slow > 0 {
        load.resume()?;
        load.settle()?;
    }
    let report = Report {
        plan: &plan,
        pid: server.map(|process| process.0),
        connected_in,
        rss: (before, idle),
        joins,
        published,
        totals: load.account.totals(),
        trouble: load.account.trouble(),
        closes: load.counts.closes,
        stalled_closed: load.counts.stalled_closed,
        unannounced: load.counts.unannounced,
        nobody_listens: load.counts.nobody_listens,
    };
    let text = if options.json { format!("{:#}\n", report.json()) } else { report.text() };
    // That nobody reads the report is no error of the run's.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    match report.complaint() {
        None => Ok(()),
        Some(complaint) => anyhow::bail!("the server did not do its work: {complaint}"),
    }
}
