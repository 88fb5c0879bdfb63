//! Redis: whether it is there and lets this server in, what is published just now, and under which prefix.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::application::Application;
use super::clock::now_millis;
use super::finding::Finding;
use super::{Subject, in_list};
use crate::bus;
use crate::config::{Config, Redis};
use crate::ingress::{self, Audiences};
use crate::presence_store;
use crate::protocol::channel::{self, Access};
use crate::protocol::event;
use crate::protocol::prefix::{News, Prefix};
use crate::redis::{Commands, Failure, Link, Subscription, Timing};

/// How long one step may take.
const STEP_MAX: Duration = Duration::from_secs(4);

/// How many channels are remembered for the report, and how many prefixes.
const CHANNELS_MAX: usize = 5;
const PREFIXES_MAX: usize = 10;

/// Payloads longer than this are not looked into.
const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// What was found out at Redis.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The address, for people.
    pub address: String,
    /// Why it cannot be used.
    pub failure: Option<String>,
    /// Its version, if it may be asked.
    pub version: Option<String>,
    /// How far its clock is ahead of this one, in milliseconds, if it may be asked.
    pub clock_ahead: Option<i64>,
    /// How many patterns are subscribed to: each server listens with one.
    pub listeners: Option<usize>,
    /// What this user may not do.
    pub denied: Vec<Right>,
    /// What was published while the doctor listened.
    pub heard: Heard,
}

/// Something that the server does at Redis.
#[derive(Clone, Debug)]
pub(super) struct Right {
    command: &'static str,
    /// The channel or key that is tried.
    target: String,
    /// All of them, as an ACL rule names them.
    pattern: String,
}

/// What was published.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// How long was listened.
    pub time: Duration,
    /// Events of Laravel's.
    pub events: usize,
    /// Anything else, but what servers say to each other.
    pub others: usize,
    /// How many of Laravel's events had which prefix.
    pub prefixes: BTreeMap<String, usize>,
    /// Names of channels as they were published.
    pub channels: Vec<String>,
    /// Prefixes that the files name.
    pub known: Vec<String>,
}

impl Heard {
    fn note(&mut self, name: &[u8], payload: Option<&[u8]>) {
        if payload.is_some_and(|payload| payload.starts_with(bus::MAGIC) || ingress::is_heartbeat(payload)) {
            return;
        }
        let is_event = payload.and_then(|payload| event::parse(payload).ok()).is_some_and(|event| event.from_laravel);
        let name = std::str::from_utf8(name).ok().filter(|_| is_event);
        let Some(name) = name else {
            self.others += 1;
            return;
        };
        self.events += 1;
        let known = self.known.iter().find(|known| !known.is_empty() && name.starts_with(*known));
        let prefix = known.cloned().unwrap_or_else(|| prefix_of(name));
        if self.prefixes.len() < PREFIXES_MAX || self.prefixes.contains_key(&prefix) {
            *self.prefixes.entry(prefix).or_default() += 1;
        }
        if self.channels.len() < CHANNELS_MAX && !self.channels.iter().any(|known| known == name) {
            self.channels.push(name.chars().take(200).collect());
        }
    }
}

/// The prefix of a name: Laravel's default form, or else what stands before `private-` or `presence-`.
fn prefix_of(name: &str) -> String {
    match Prefix::recognise().route(name, true).news {
        Some(News::FirstPrefix(prefix)) if !prefix.is_empty() => prefix,
        _ if channel::access(name) == Access::Public => String::new(),
        _ => {
            let guards = ["private-", "presence-"].iter().filter_map(|guard| name.find(guard));
            name[..guards.min().unwrap_or_default()].to_owned()
        }
    }
}

/// Connects, asks, and listens for so long.
pub(super) async fn probe(subject: &Subject, listen: Duration) -> Facts {
    let config = &subject.config;
    let connect_max = config.redis.connect_timeout.unwrap_or(STEP_MAX).min(STEP_MAX);
    let timing = Timing { connect_max, answer_max: STEP_MAX, ..Timing::default() };
    let link = Link::new(config.redis.clone(), PAYLOAD_BYTES_MAX).with_timing(timing);
    let mut facts = Facts { address: link.to_string(), ..Facts::default() };
    if !is_used(config) {
        return facts;
    }
    match link.commands().await {
        Ok(mut commands) => {
            let asked = tokio::time::timeout(STEP_MAX, ask(&mut commands, subject, &mut facts)).await;
            if asked.is_err() {
                facts.failure =
                    Some(format!("Redis at {link} took the connection and did not answer within {STEP_MAX:?}."));
            }
        }
        Err(failure) => facts.failure = Some(failure.to_string()),
    }
    if facts.failure.is_some() || !config.subscribers.redis {
        return facts;
    }
    let pattern = Audiences::configured(config).0.pattern();
    let subscription = match link.subscribe(&pattern).await {
        Ok(own) if pattern == "*" => Ok(own),
        // What comes under other prefixes tells most. Who may not hear it hears what the server hears.
        Ok(own) => Ok(link.subscribe("*").await.unwrap_or(own)),
        Err(failure) => Err(failure),
    };
    match subscription {
        Ok(subscription) => {
            let own = config.apps.iter().filter_map(|app| app.key_prefix.clone());
            let known = own.chain(config.redis.key_prefix.clone());
            let known = known.chain(subject.application.as_ref().and_then(Application::prefix)).collect();
            let heard = Heard { time: listen, known, ..Heard::default() };
            facts.heard = hear(subscription, heard).await;
        }
        Err(failure) => facts.failure = Some(failure.to_string()),
    }
    facts
}

fn is_used(config: &Config) -> bool {
    config.subscribers.redis || config.cluster.is_some() || config.presence_store.is_some()
}

async fn ask(commands: &mut Commands, subject: &Subject, facts: &mut Facts) {
    if let Ok(Some(info)) = commands.ask(&["INFO", "server"]).await {
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        facts.version = field("redis_version:").map(str::to_owned);
        let micros = field("server_time_usec:").and_then(|digits| digits.parse::<i64>().ok());
        facts.clock_ahead = micros.map(|micros| micros / 1000 - now_millis());
    }
    if let Ok(Some(count)) = commands.ask(&["PUBSUB", "NUMPAT"]).await {
        facts.listeners = count.parse().ok();
    }
    for right in needed(&subject.config, subject.application.as_ref().and_then(Application::prefix)) {
        let (command, target) = (right.command, right.target.as_str());
        let words: Vec<&str> = match command {
            "GET" | "DEL" => vec![command, target],
            "EXPIRE" => vec![command, target, "1"],
            "PUBLISH" => vec![command, target, ""],
            _ => vec![command, target, "", "NX"],
        };
        if let Ok(true) = is_denied(commands, &words).await {
            facts.denied.push(right);
        }
    }
}

/// What the server does at Redis beside listening. `prefix` is Laravel's, for where the file names none.
fn needed(config: &Config, prefix: Option<String>) -> Vec<Right> {
    let mut needed = Vec::new();
    let mut add = |commands: &[&'static str], target: &str, pattern: String| {
        let right = |command: &&'static str| Right { command, target: target.to_owned(), pattern: pattern.clone() };
        needed.extend(commands.iter().map(right));
    };
    if let Some(cluster) = &config.cluster {
        let channel = crate::cluster::channel(cluster);
        add(&["PUBLISH"], &channel, format!("&{channel}"));
        if config.apps.iter().any(|app| app.secret_is_random) {
            let keys = format!("{}:secret:", cluster.name);
            add(&["SET", "GET"], &format!("{keys}0000000000000000"), format!("~{keys}*"));
        }
    }
    if config.resume.is_some() && config.subscribers.redis {
        // What ends here is followed by a number.
        let channels = ingress::heartbeat_channels(Audiences::configured(config).0.prefix());
        add(&["PUBLISH"], &channels, format!("&{channels}*"));
    }
    if let Some(store) = &config.presence_store {
        let common = config.redis.key_prefix.clone().or(prefix).unwrap_or_default();
        let prefixes: BTreeSet<&str> =
            config.apps.iter().map(|app| app.key_prefix.as_deref().unwrap_or(&common)).collect();
        for prefix in prefixes {
            let key = format!("{prefix}presence-doctor:members");
            add(&["SET", "EXPIRE", "DEL"], &key, format!("~{prefix}*:members"));
        }
        if store.publish {
            add(&["PUBLISH"], presence_store::UPDATED, format!("&{}", presence_store::UPDATED));
        }
    }
    needed
}

/// Redis looks at the rights when a command is put into a transaction; this one is then thrown away, so
/// nothing is changed and nobody hears of it.
async fn is_denied(commands: &mut Commands, words: &[&str]) -> Result<bool, Failure> {
    commands.ask(&["MULTI"]).await?;
    let queued = commands.ask(words).await;
    commands.ask(&["DISCARD"]).await?;
    Ok(queued.is_err_and(|failure| failure.to_string().contains("NOPERM")))
}

async fn hear(mut subscription: Subscription, mut heard: Heard) -> Heard {
    let end = Instant::now() + heard.time;
    while let Ok(Ok(())) = timeout_at(end, subscription.fill()).await {
        if subscription.each(|message| heard.note(message.channel, message.payload)).is_err() {
            break;
        }
        // A flood must not keep the others waiting, nor the end.
        tokio::task::yield_now().await;
        if Instant::now() >= end {
            break;
        }
    }
    heard
}

/// Reads the findings off the facts.
pub(super) fn judge(subject: &Subject, facts: &Facts) -> Vec<Finding> {
    let (config, application) = (&subject.config, subject.application.as_ref());
    let address = &facts.address;
    if !is_used(config) {
        return vec![Finding::ok("redis.reach", "Redis is not used (\"subscribers.redis\" is false)")];
    }
    let mut findings = Vec::new();
    if let Some(failure) = &facts.failure {
        findings.push(unusable(subject, failure));
        findings.extend(application.and_then(|application| same_place(subject, application)));
        return findings;
    }
    let version = facts.version.as_deref().map(|version| format!(" (version {version})")).unwrap_or_default();
    findings.push(Finding::ok("redis.reach", format!("Redis at {address} answers{version} and lets this server in")));
    findings.push(rights(config, facts));
    findings.extend(application.and_then(|application| same_place(subject, application)));
    if !config.subscribers.redis {
        findings.push(Finding::ok("redis.events", "Redis is not listened to (\"subscribers.redis\" is false)"));
        return findings;
    }
    if let (Some(0), true) = (facts.listeners, subject.running.is_some()) {
        findings.push(
            Finding::problem("redis.listeners", format!("The running server does not listen to Redis at {address}"))
                .why("Nobody has a pattern subscribed there, so what Laravel publishes reaches no browser. The server was started with another file, or its connection is away: its log says so.")
                .fix("Restart the server, and look at what its log says of Redis."),
        );
    }
    findings.push(events(facts));
    findings.extend(super::prefix::judge(subject, &facts.heard));
    findings
}

fn unusable(subject: &Subject, failure: &str) -> Finding {
    let finding =
        Finding::problem("redis.reach", failure).why("Without Redis no event of Laravel's redis driver arrives.");
    let file = &subject.file;
    let is_login =
        ["WRONGPASS", "NOAUTH", "without any password", "invalid password"].iter().any(|sign| failure.contains(sign));
    let laravels = subject.application.as_ref().map(|application| (application.redis(), application));
    match laravels {
        Some((place, application)) if is_login && place.password.is_some() => finding
            .fix(format!(
                "Laravel has a password for Redis ({}). Give this server the same one:",
                application.env_line("REDIS_PASSWORD")
            ))
            .line(format!("{file}, in databaseConfig.redis"), "\"password\": \"(the value of REDIS_PASSWORD)\""),
        _ if is_login => finding
            .fix("Take the password from redis.conf (requirepass, or the ACL user's):")
            .line(format!("{file}, in databaseConfig.redis"), "\"password\": \"(the password)\""),
        Some((place, application)) if place.host.is_some() && !is_same(&subject.config.redis, &place) => {
            let (host, port) = (place.host.unwrap_or_else(|| "127.0.0.1".to_owned()), place.port.unwrap_or(6379));
            finding
                .fix(format!("Laravel publishes to {host}:{port} ({}).", application.env_line("REDIS_HOST")))
                .line(format!("{file}, in databaseConfig.redis"), format!("\"host\": {host:?}, \"port\": {port}"))
        }
        _ => finding.fix(format!("See databaseConfig.redis in {file}.")),
    }
}

fn rights(config: &Config, facts: &Facts) -> Finding {
    if facts.denied.is_empty() {
        return Finding::ok("redis.rights", "This user of Redis may do what the server does there");
    }
    let user = config.redis.username.as_deref().unwrap_or("default");
    let what = in_list(facts.denied.iter().map(|right| format!("{} {}", right.command, right.target)));
    let mut rules = Vec::new();
    for right in &facts.denied {
        for rule in [format!("+{}", right.command.to_lowercase()), right.pattern.clone()] {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    Finding::warning("redis.rights", format!("The user {user:?} of Redis may not: {what}"))
        .why("Events arrive all the same. But servers on one Redis do not find each other, secrets or presence lists are not shared or not taken away again, or with \"resume\" there is no second connection.")
        .fix("Allow it in Redis, or if there is but one server, set \"cluster\": false.")
        .line("redis-cli", format!("ACL SETUSER {user} {}", rules.join(" ")))
}

fn events(facts: &Facts) -> Finding {
    let Heard { time, events, others, channels, .. } = &facts.heard;
    let seconds = time.as_secs_f32();
    let others = match others {
        0 => String::new(),
        others => format!(", and {others} messages that are none of Laravel's events"),
    };
    if *events == 0 {
        return Finding::ok("redis.events", format!("Nothing of Laravel's was published within {seconds} s{others}"))
            .why("To see more, let Laravel broadcast something meanwhile, or listen longer: --listen 60.");
    }
    let what = format!("{events} events of Laravel's were published within {seconds} s{others}");
    Finding::ok("redis.events", what).why(format!("Channels: {}.", in_list(channels)))
}

/// Whether Laravel publishes where this server listens.
fn same_place(subject: &Subject, application: &Application) -> Option<Finding> {
    if !subject.publishes_to_redis() {
        return None;
    }
    let place = application.redis();
    let redis = &subject.config.redis;
    if redis.sentinel.is_some() || !redis.cluster.is_empty() || place.host.is_none() {
        return None;
    }
    let laravels = format!("{}:{}", place.host.as_deref().unwrap_or_default(), place.port.unwrap_or(6379));
    if is_same(redis, &place) {
        return Some(Finding::ok("redis.same", format!("Laravel publishes to the same Redis ({laravels})")));
    }
    let (host, port) = (place.host.as_deref().unwrap_or_default(), place.port.unwrap_or(6379));
    Some(
        Finding::problem("redis.same", format!("Laravel publishes to Redis at {laravels}, and this server listens at {redis}"))
            .why(format!("{} and config/database.php say where Laravel publishes. If both names lead to one Redis, nothing need be done.", application.env_line("REDIS_HOST")))
            .fix("Name the same Redis here:")
            .line(format!("{}, in databaseConfig.redis", subject.file), format!("\"host\": {host:?}, \"port\": {port}")),
    )
}

fn is_same(redis: &Redis, place: &super::application::RedisPlace) -> bool {
    let host = place.host.as_deref().unwrap_or("127.0.0.1");
    if let Some(path) = &redis.path {
        return host.trim_start_matches("unix://") == path;
    }
    let plain = |host: &str| {
        let host = host.trim_start_matches("tls://").trim_start_matches("tcp://").trim_matches(['[', ']']);
        if matches!(host, "localhost" | "::1") { "127.0.0.1".to_owned() } else { host.to_ascii_lowercase() }
    };
    plain(host) == plain(&redis.host) && place.port.unwrap_or(6379) == redis.port
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Level;
    use super::*;

    #[test]
    fn prefixes_of_names() {
        for (name, expected) in [
            ("shop_database_orders", "shop_database_"),
            ("shop-database-private-user.1", "shop-database-"),
            ("shop:private-user.1", "shop:"),
            ("shop:presence-private-room", "shop:"),
            ("private-user.1", ""),
            ("shop:orders", ""),
        ] {
            assert_eq!(prefix_of(name), expected, "{name}");
        }
    }

    #[test]
    fn what_is_heard() {
        let event = br#"{"event":"a","data":{"socket":null},"socket":null}"#;
        let mut heard = Heard { known: vec!["shop:".to_owned(), String::new()], ..Heard::default() };
        heard.note(b"shop:orders", Some(event));
        heard.note(b"blog_database_x", Some(event));
        heard.note(b"shop:orders", Some(event));
        heard.note(b"other", Some(b"not an event"));
        heard.note(b"\xff", Some(event));
        heard.note(b"long", None);
        heard.note(b"laravel-echo-server:bus", Some(bus::MAGIC));
        heard.note(b"echo-server:heartbeat:01", Some(b"{\"echo-server-heartbeat\":1764000000123}"));
        assert_eq!((heard.events, heard.others), (3, 3));
        assert_eq!(heard.channels, ["shop:orders", "blog_database_x"]);
        let expected = [("blog_database_".to_owned(), 1), ("shop:".to_owned(), 2)];
        assert_eq!(heard.prefixes.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn places_that_are_the_same() {
        let same = |redis: serde_json::Value, host: &str, port: Option<u16>| {
            let subject = Subject::of(json!({"databaseConfig": {"redis": redis}}), &[]);
            let place =
                super::super::application::RedisPlace { host: Some(host.to_owned()), port, ..Default::default() };
            is_same(&subject.config.redis, &place)
        };
        assert!(same(json!({}), "localhost", None));
        assert!(same(json!({"host": "Redis.test", "port": 7}), "tls://redis.TEST", Some(7)));
        assert!(!same(json!({"port": 7}), "127.0.0.1", None));
        assert!(!same(json!({}), "redis.test", Some(6379)));
        assert!(same(json!({"path": "/run/redis.sock"}), "/run/redis.sock", Some(0)));
        assert!(!same(json!({"path": "/run/redis.sock"}), "127.0.0.1", None));
    }

    #[test]
    fn a_server_that_hears_nothing() {
        let mut subject = Subject::of(json!({}), &[]);
        let facts = || Facts { listeners: Some(0), ..Facts::default() };
        let listeners = |subject: &Subject| {
            let all = judge(subject, &facts());
            all.into_iter().find(|finding| finding.id == "redis.listeners").map(|finding| finding.level)
        };
        assert_eq!(listeners(&subject), None);
        subject.running = Some(super::super::Running::Here(7));
        assert_eq!(listeners(&subject), Some(Level::Problem));
    }
}
