//! Every key that `laravel-echo-server.json` may have, and a hint for those that it may not.

use super::json::Setting;

/// Keys that do something. `[]` stands for any element of a list.
const USED: &[&str] = &[
    "admin",
    "admin.password",
    "admin.user",
    "allowedOrigins",
    "apiOriginAllow",
    "apiOriginAllow.allowCors",
    "apiOriginAllow.allowHeaders",
    "apiOriginAllow.allowMethods",
    "apiOriginAllow.allowOrigin",
    "authAcceptAny200",
    "authConcurrency",
    "authEndpoint",
    "authHost",
    "authTimeoutMs",
    "clients",
    "clients[].appId",
    "clients[].key",
    "clients[].keyPrefix",
    "clients[].limits",
    "clients[].previousSecrets",
    "clients[].secret",
    "clients[].subscriptionCount",
    "clients[].webhooks",
    "clients[].webhooks[].channelNameEndsWith",
    "clients[].webhooks[].channelNameStartsWith",
    "clients[].webhooks[].event_types",
    "clients[].webhooks[].events",
    "clients[].webhooks[].filter",
    "clients[].webhooks[].filter.channel_name_ends_with",
    "clients[].webhooks[].filter.channel_name_starts_with",
    "clients[].webhooks[].headers",
    "clients[].webhooks[].url",
    "cluster",
    "cluster.name",
    "cluster.presenceGraceSeconds",
    "database",
    "databaseConfig",
    "databaseConfig.publishPresence",
    "databaseConfig.redis",
    "databaseConfig.redis.cluster",
    "databaseConfig.redis.connectTimeout",
    "databaseConfig.redis.db",
    "databaseConfig.redis.enableTLSForSentinelMode",
    "databaseConfig.redis.family",
    "databaseConfig.redis.host",
    "databaseConfig.redis.keyPrefix",
    "databaseConfig.redis.name",
    "databaseConfig.redis.password",
    "databaseConfig.redis.path",
    "databaseConfig.redis.port",
    "databaseConfig.redis.sentinelPassword",
    "databaseConfig.redis.sentinelTLS",
    "databaseConfig.redis.sentinelUsername",
    "databaseConfig.redis.sentinels",
    "databaseConfig.redis.tls",
    "databaseConfig.redis.tls.ca",
    "databaseConfig.redis.tls.rejectUnauthorized",
    "databaseConfig.redis.tls.servername",
    "databaseConfig.redis.url",
    "databaseConfig.redis.username",
    "devMode",
    "host",
    "httpApiKeyAuth",
    "httpsPort",
    "limits",
    "limits.activityTimeout",
    "limits.authRequestsPerSecond",
    "limits.cacheBytes",
    "limits.cacheSeconds",
    "limits.channelNameBytes",
    "limits.channelsPerEvent",
    "limits.clientEventBytes",
    "limits.clientEventsPerSecond",
    "limits.connections",
    "limits.connectionsPerAddress",
    "limits.eventBytes",
    "limits.eventNameBytes",
    "limits.eventsPerBatch",
    "limits.handshakeTimeout",
    "limits.headBytes",
    "limits.messageBytes",
    "limits.outboundBytes",
    "limits.pongTimeout",
    "limits.presenceJoinsPerMinute",
    "limits.presenceMemberBytes",
    "limits.presenceMembers",
    "limits.subscribesPerSecond",
    "limits.subscriptionsPerConnection",
    "limits.timestampWindow",
    "limits.userAuthenticationTimeout",
    "logFormat",
    "metrics",
    "metrics.host",
    "metrics.port",
    "metrics.token",
    "perMessageDeflate",
    "port",
    "protocol",
    "proxy",
    "proxyProtocol",
    "reauthorizeMinutes",
    "resume",
    "resume.bytes",
    "resume.channels",
    "resume.eventsPerChannel",
    "resume.sameSite",
    "resume.seconds",
    "shards",
    "shutdownSeconds",
    "socket",
    "socketMode",
    "socketio",
    "socketio.allowUpgrades",
    "socketio.clientScript",
    "socketio.origins",
    "socketio.path",
    "socketio.pingInterval",
    "socketio.pingTimeout",
    "socketio.transports",
    "sslCertChainPath",
    "sslCertPath",
    "sslKeyPath",
    "sslPassphrase",
    "subscribers",
    "subscribers.http",
    "subscribers.redis",
    "trustedProxies",
];

/// Keys of the old server, of its earlier versions and of ioredis: accepted without a word here.
/// Where one of them asks for something that is not done, `file` and `redis` say so.
const OLD: &[&str] = &[
    "appKey",
    "databaseConfig.redis.autoResendUnfulfilledCommands",
    "databaseConfig.redis.autoResubscribe",
    "databaseConfig.redis.commandTimeout",
    "databaseConfig.redis.connectionName",
    "databaseConfig.redis.enableOfflineQueue",
    "databaseConfig.redis.enableReadyCheck",
    "databaseConfig.redis.keepAlive",
    "databaseConfig.redis.lazyConnect",
    "databaseConfig.redis.maxRetriesPerRequest",
    "databaseConfig.redis.natMap",
    "databaseConfig.redis.noDelay",
    "databaseConfig.redis.options",
    "databaseConfig.redis.preferredSlaves",
    "databaseConfig.redis.prefix",
    "databaseConfig.redis.readOnly",
    "databaseConfig.redis.retryStrategy",
    "databaseConfig.redis.role",
    "databaseConfig.redis.scheme",
    "databaseConfig.sqlite",
    "databaseConfig.sqlite.databasePath",
    "headers",
    "referrers",
    "secureOptions",
    "socketio.cookie",
    "socketio.cookieHttpOnly",
    "socketio.cookiePath",
    "socketio.destroyUpgradeTimeout",
    "socketio.httpCompression",
    "socketio.maxHttpBufferSize",
    "socketio.perMessageDeflate",
    "socketio.serveClient",
    "socketio.upgradeTimeout",
    "socketio.wsEngine",
    "verifyAuthPath",
    "verifyAuthServer",
];

/// Names that people give to what they mean as a comment.
const COMMENT_MARKS: [char; 4] = ['_', '/', '#', '$'];

/// A warning for each member of this object that nobody knows.
pub(super) fn warn_of_unknown(members: &[(String, Setting<'_>)], warnings: &mut Vec<String>) {
    for (name, setting) in members {
        let path = without_indices(&setting.key);
        if is_known(&path) || name.starts_with(COMMENT_MARKS) {
            continue;
        }
        let hint = match nearest(&path) {
            Some(known) => format!("; did you mean \"{known}\"?"),
            None => ".".to_owned(),
        };
        warnings.push(format!("{} is not a known key and is ignored{hint}", setting.place()));
    }
}

/// A warning for each value that looks as if a variable's should stand there. Files of containers have
/// such, to be filled in by another program before the server starts.
pub(super) fn warn_of_placeholders(members: &[(String, Setting<'_>)], warnings: &mut Vec<String>) {
    for (_, setting) in members {
        let text = setting.text().unwrap_or_default();
        let is_placeholder = text.starts_with("${") && text.ends_with('}');
        if is_placeholder {
            warnings.push(setting.odd(
                "in this file that is taken as it stands. Variables count where a LARAVEL_ECHO_SERVER_… is set, in the \
                 environment or in .env",
            ));
        }
    }
}

pub(super) fn is_known(path: &str) -> bool {
    USED.contains(&path) || OLD.contains(&path)
}

/// The known key that was probably meant: a similar name at the same place, or the same name at
/// another place.
fn nearest(path: &str) -> Option<&'static str> {
    let (parent, name) = split(path);
    let name = plain(name);
    let beside = USED.iter().chain(OLD).filter(|known| split(known).0 == parent);
    let similar = beside
        .map(|known| (strsim::damerau_levenshtein(&name, &plain(split(known).1)), *known))
        .filter(|(distance, known)| *distance <= (split(known).1.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance);
    // What is meant for Redis is what most often stands at the wrong place.
    let same = USED.iter().filter(|known| plain(split(known).1) == name);
    let elsewhere = same.min_by_key(|known| !known.starts_with("databaseConfig.")).copied();
    match (similar, elsewhere) {
        (Some((distance, known)), elsewhere) if distance < 2 || elsewhere.is_none() => Some(known),
        (_, elsewhere) => elsewhere,
    }
}

/// `clients[3].key` → `clients[].key`; an app's own limits have the names of all apps' limits. Keys that are
/// no list's keep what they have in brackets.
fn without_indices(path: &str) -> String {
    match path.strip_prefix("clients[").and_then(|rest| rest.split_once(']')) {
        Some((_, rest)) if rest.starts_with(".limits.") => rest[1..].to_owned(),
        Some((_, rest)) => match rest.strip_prefix(".webhooks[").and_then(|rest| rest.split_once(']')) {
            Some((_, rest)) => format!("clients[].webhooks[]{rest}"),
            None => format!("clients[]{rest}"),
        },
        None => path.to_owned(),
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

/// `auth_host`, `AuthHost` and `auth-host` are one name.
fn plain(name: &str) -> String {
    name.chars().filter(|character| !"_- ".contains(*character)).flat_map(char::to_lowercase).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_meant() {
        for (written, meant) in [
            ("authhost", Some("authHost")),
            ("auth_endpoint", Some("authEndpoint")),
            ("prot", Some("port")),
            ("hots", Some("host")),
            ("client", Some("clients")),
            ("secret", Some("clients[].secret")),
            ("keyPrefix", Some("databaseConfig.redis.keyPrefix")),
            ("redis", Some("databaseConfig.redis")),
            ("clients[].apiKey", None),
            ("clients[].id", None),
            ("clients[].app_id", Some("clients[].appId")),
            ("databaseConfig.redis.pasword", Some("databaseConfig.redis.password")),
            ("databaseConfig.reddis", Some("databaseConfig.redis")),
            ("limits.messagebytes", Some("limits.messageBytes")),
            ("somethingElseAltogether", None),
            ("", None),
        ] {
            assert_eq!(nearest(written), meant, "{written}");
        }
    }

    #[test]
    fn limits_of_an_app_are_limits() {
        assert_eq!(without_indices("clients[2].limits.eventBytes"), "limits.eventBytes");
        assert!(is_known(&without_indices("clients[0].limits")));
    }

    #[test]
    fn each_key_stands_in_one_table_once() {
        let mut all: Vec<_> = USED.iter().chain(OLD).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
