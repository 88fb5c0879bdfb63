//! The configuration as users write it: what becomes of it, and what they are told.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const CLIENTS: &str = r#""clients": [ { "appId": "a", "key": "k" } ]"#;

/// Reads a file of this content, with these environment variables.
pub(super) fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Config::parse(Path::new("f.json"), text.as_bytes(), &find).map_err(|error| error.to_string())
}

/// Reads an object of these members, on line 2, after an app on line 1.
fn read(members: &str) -> Result<Config, String> {
    read_with(&format!("{{ {CLIENTS},\n{members} }}"), &[])
}

fn config(members: &str) -> Config {
    read(members).unwrap_or_else(|error| panic!("{members}: {error}"))
}

/// Reads it, and expects no warning.
fn quiet(members: &str) -> Config {
    let config = config(members);
    assert_eq!(config.warnings, [""; 0], "{members}");
    config
}

fn error(members: &str) -> String {
    match read(members) {
        Ok(_) => panic!("{members} was taken"),
        Err(error) => error,
    }
}

fn warnings(members: &str) -> Vec<String> {
    config(members).warnings
}

#[test]
fn the_configuration_in_use_word_for_word() {
    let config = read_with(include_str!("../../laravel-echo-server.json"), &[]).unwrap();
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.path, Path::new("f.json"));
    assert_eq!((config.host, config.port), (None, 6001));
    assert_eq!((config.dev_mode, config.proxy), (true, false));
    assert_eq!(config.apps.len(), 1);
    let app = &config.apps[0];
    assert_eq!((app.id.as_str(), app.key.as_str()), ("talent2income", "talent2income-key"));
    assert!(app.secret_is_random);
    assert_eq!(app.secret.expose().len(), 64);
    assert_eq!(config.auth.url().as_str(), "http://localhost:8000/broadcasting/auth");
    let redis = config.redis;
    assert_eq!((redis.host.as_str(), redis.port, redis.db), ("127.0.0.1", 6379, 4));
    assert_eq!((redis.key_prefix, redis.path, redis.username, redis.tls), (None, None, None, false));
    assert!(redis.password.is_none());
}

#[test]
fn defaults() {
    let config = quiet(r#""port": null"#);
    assert_eq!((config.host, config.port, config.dev_mode, config.proxy), (None, 6001, false, false));
    assert_eq!(config.auth.url().as_str(), "http://localhost/broadcasting/auth");
    assert_eq!(config.auth.timeout, Duration::from_secs(10));
    assert_eq!((config.auth.concurrency, config.auth.accept_any_200), (32, false));
    assert_eq!(config.auth.allowed_origins, [""; 0]);
    assert_eq!((config.redis.host.as_str(), config.redis.port, config.redis.db), ("127.0.0.1", 6379, 0));
    assert!(config.shards >= 1);
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn two_runs_have_two_secrets() {
    let secret = || quiet(r#""proxy": false"#).apps[0].secret.expose().to_owned();
    assert_ne!(secret(), secret());
}

#[test]
fn a_file_as_the_old_wizard_wrote_it_is_taken_without_a_word() {
    let config = quiet(
        r#""authHost": "http://localhost", "authEndpoint": "/broadcasting/auth", "database": "redis",
        "databaseConfig": { "redis": {}, "sqlite": { "databasePath": "/database/laravel-echo-server.sqlite" } },
        "devMode": false, "host": null, "port": "6001", "protocol": "http", "socketio": {}, "secureOptions": 67108864,
        "sslCertPath": "", "sslKeyPath": "", "sslCertChainPath": "", "sslPassphrase": "",
        "subscribers": { "http": true, "redis": true },
        "apiOriginAllow": { "allowCors": false, "allowOrigin": "", "allowMethods": "", "allowHeaders": "" },
        "appKey": "x", "referrers": [], "verifyAuthPath": true, "verifyAuthServer": false, "_comment": "mine""#,
    );
    assert_eq!(config.port, 6001);
}

#[test]
fn ports() {
    for (json, port) in [
        ("6001", 6001),
        ("\"6001\"", 6001),
        ("\"http://x:6002/\"", 6002),
        ("\"localhost:6003\"", 6003),
        ("0", 0),
        ("65535", 65535),
    ] {
        assert_eq!(quiet(&format!("\"port\": {json}")).port, port);
    }
    for json in
        ["123456", "65536", "-1", "60.5", "\"\"", "\"abc\"", "\":\"", "\"6001x\"", "true", "\"http://x/\"", "6e3"]
    {
        assert_eq!(
            error(&format!("\"port\": {json}")),
            format!(
                "f.json, line 2: \"port\" is {json}; it must be a TCP port from 1 to 65535, as 6001 or \"6001\" \
                 (or 0 for any free one)."
            )
        );
    }
    for json in ["[6001]", "{\"a\":1}"] {
        assert!(error(&format!("\"port\": {json}")).starts_with("f.json, line 2: \"port\" is a"), "{json}");
    }
}

#[test]
fn switches() {
    assert!(quiet(r#""proxy": true"#).proxy);
    assert!(quiet(r#""proxy": "true""#).proxy);
    for json in ["false", "\"false\"", "\"\"", "null"] {
        assert!(!quiet(&format!("\"proxy\": {json}")).proxy, "{json}");
    }
    for json in ["1", "\"TRUE\"", "\"yes\"", "0"] {
        let config = config(&format!("\"proxy\": {json}"));
        assert!(!config.proxy, "{json}");
        let expected = format!("f.json, line 2: \"proxy\" is {json}; only true switches it on, so it is off.");
        assert_eq!(config.warnings, [expected]);
    }
}

#[test]
fn listen_hosts() {
    for (json, host) in [
        ("\"127.0.0.1\"", Some("127.0.0.1")),
        ("\"::1\"", Some("::1")),
        ("\"[::1]\"", Some("::1")),
        ("\"box.local\"", Some("box.local")),
        ("\"\"", None),
        ("null", None),
    ] {
        assert_eq!(quiet(&format!("\"host\": {json}")).host.as_deref(), host);
    }
    for json in ["\"http://localhost\"", "\"localhost:6001\"", "\"a b\"", "\"a/b\""] {
        assert!(error(&format!("\"host\": {json}")).contains("without http:// and port"), "{json}");
    }
}

#[test]
fn laravels_address() {
    for (members, url) in [
        (r#""authHost": "http://a.test/""#, "http://a.test/broadcasting/auth"),
        (r#""authHost": "http://a.test/shop/""#, "http://a.test/shop/broadcasting/auth"),
        (r#""authHost": "https://a.test:8443", "authEndpoint": "/x""#, "https://a.test:8443/x"),
        (r#""authHost": ["http://a.test"]"#, "http://a.test/broadcasting/auth"),
        (r#""authHost": """#, "http://localhost/broadcasting/auth"),
        (r#""authHost": []"#, "http://localhost/broadcasting/auth"),
    ] {
        assert_eq!(quiet(members).auth.url().as_str(), url);
    }
    assert_eq!(
        error(r#""authHost": "localhost:8000""#),
        "f.json, line 2: \"authHost\" is \"localhost:8000\"; it must begin with http:// or https://, as \
         \"http://localhost:8000\"."
    );
    for json in ["\"ftp://a.test\"", "\"http://\"", "\"http://a.test/?x\"", "\"http://a.test/#x\"", "\"http://a b/\""] {
        assert_eq!(
            error(&format!("\"authHost\": {json}")),
            format!(
                "f.json, line 2: \"authHost\" is {json}; it must be the base URL of the Laravel application, as \
                 \"http://localhost:8000\"."
            )
        );
    }
    assert!(error(r#""authHost": true"#).contains("must be a text"));
    assert!(!error(r#""authHost": "http://me:hush@a.test""#).contains("hush"));

    let auth = quiet(r#""authHost": ["http://a.test", "", ".B.test", "https://.c.test:444"]"#).auth;
    assert_eq!(auth.host.as_str(), "http://a.test/");
    let sub_domains = |scheme: Option<&str>, domain: &str, port| AuthHost::SubDomains {
        scheme: scheme.map(str::to_owned),
        domain: domain.to_owned(),
        port,
    };
    let expected = [
        AuthHost::Url(auth.host.clone()),
        sub_domains(None, ".b.test", None),
        sub_domains(Some("https"), ".c.test", Some(444)),
    ];
    assert_eq!(auth.hosts, expected);
    assert_eq!(quiet(r#""authHost": ["http://a.test"]"#).auth.hosts, []);
    assert!(
        error(r#""authHost": ["http://a.test", "b.test"]"#)
            .contains("\"authHost[1]\" is \"b.test\"; it must begin with http://")
    );
    for entry in [".", "..a", ".a/x", "ftp://.a.test", ".a.test:x", ".a b", "http://.a@b"] {
        let error = error(&format!("\"authHost\": \"{entry}\""));
        assert!(error.contains("must be a domain for its sub-domains"), "{error}");
    }
}

#[test]
fn laravels_endpoint() {
    let config = config(r#""authEndpoint": "broadcasting/auth""#);
    assert_eq!(config.auth.endpoint, "/broadcasting/auth");
    assert_eq!(
        config.warnings,
        ["f.json, line 2: \"authEndpoint\" is \"broadcasting/auth\"; it should begin with a slash and is taken as \
          \"/broadcasting/auth\"."]
    );
    for json in ["\"\"", "\"http://a.test/x\"", "\"//a.test/x\"", "\"/a b\"", "\"/a?b\"", "\"/a#b\"", "\"/\\n\""] {
        let error = error(&format!("\"authEndpoint\": {json}"));
        assert!(error.ends_with("it must be a path on authHost, as \"/broadcasting/auth\"."), "{error}");
    }
}

#[test]
fn origins() {
    for (json, origins) in [
        ("\"*\"", &["*"][..]),
        ("\"https://App.test/\"", &["https://app.test"]),
        (
            "[\"https://*.app.test:8443\", \"capacitor://localhost\"]",
            &["https://*.app.test:8443", "capacitor://localhost"],
        ),
        ("[]", &[]),
    ] {
        assert_eq!(quiet(&format!("\"allowedOrigins\": {json}")).auth.allowed_origins, origins);
    }
    for json in
        ["\"app.test\"", "\"https://a.test/x\"", "\"https://a*.test\"", "\"https://*.*.test\"", "\"null\"", "\"\""]
    {
        assert!(error(&format!("\"allowedOrigins\": {json}")).contains("must be the origin of a page"), "{json}");
    }
    let error = error("\"allowedOrigins\": [ \"https://a.test\",\n \"b.test\" ]");
    assert!(error.starts_with("f.json, line 3: \"allowedOrigins[1]\" is \"b.test\"; it must be"), "{error}");
}

#[test]
fn apps() {
    let text = r#"{ "clients": [
        { "appId": 12, "key": 34, "secret": 56 },
        { "appId": "b", "key": "c", "secret": "" } ] }"#;
    let config = read_with(text, &[]).unwrap();
    let app = &config.apps[0];
    assert_eq!((app.id.as_str(), app.key.as_str(), app.secret.expose()), ("12", "34", "56"));
    assert!(!app.secret_is_random);
    assert!(config.apps[1].secret_is_random);
    assert_eq!(config.apps[1].secret.expose().len(), 64);
}

/// Found by trying: their tags are the same.
const TAG_TWINS: (&str, &str) = ("key-306", "key-382");

#[test]
fn apps_that_cannot_be() {
    for (clients, expected) in [
        ("{}", "f.json, line 2: \"clients\" is an object; it must be a list in brackets, as [ … ]."),
        ("[ 5 ]", "f.json, line 2: \"clients[0]\" is 5; it must be an object in braces, as { \"name\": \"value\" }."),
        (
            "[ { \"appId\": \"a\" } ]",
            "f.json, line 2: \"clients[0]\" has no \"key\"; add one, as \"key\": \"my-app-key\".",
        ),
        (
            "[ { \"key\": \"a\" } ]",
            "f.json, line 2: \"clients[0]\" has no \"appId\"; add one, as \"appId\": \"my-app\".",
        ),
        (
            "[ { \"appId\": \"a\",\n \"key\": \"a/b\" } ]",
            "f.json, line 3: \"clients[0].key\" is \"a/b\"; it must be of letters, digits and signs other than \
             / ? # % : and spaces.",
        ),
        (
            "[ { \"appId\": \"a\", \"key\": \"k\" },\n{ \"appId\": \"b\", \"key\": \"k\" } ]",
            "f.json, line 3: \"clients[1].key\" is \"k\"; it is that of clients[0] already; give each app its own \
             \"key\".",
        ),
        (
            "[ { \"appId\": \"1\", \"key\": \"k\" },\n{ \"appId\": 1, \"key\": \"l\" } ]",
            "f.json, line 3: \"clients[1].appId\" is 1; it is that of clients[0] already; give each app its own \
             \"appId\".",
        ),
        (
            &format!(
                "[ {{ \"appId\": \"a\", \"key\": \"{}\" }},\n{{ \"appId\": \"b\", \"key\": \"{}\" }} ]",
                TAG_TWINS.0, TAG_TWINS.1
            ),
            &format!(
                "f.json, line 3: \"clients[1].key\" is \"{}\"; it shares its 16-bit tag with the key of clients[0], \
                 by chance; change one of the keys.",
                TAG_TWINS.1
            ),
        ),
    ] {
        assert_eq!(read_with(&format!("{{\n\"clients\": {clients} }}"), &[]).unwrap_err(), expected);
    }
}

/// As the old wizard left it, for Socket.IO clients.
#[test]
fn without_an_app_there_is_one_that_nobody_knows() {
    for text in ["{}", "{ \"clients\": null }", "{ \"clients\": [ ] }"] {
        let config = read_with(text, &[]).unwrap();
        assert_eq!(config.apps.len(), 1);
        assert_eq!((config.apps[0].id.as_str(), config.apps[0].key.len()), ("", 64));
        assert_ne!(config.apps[0].key, read_with(text, &[]).unwrap().apps[0].key);
        let said = "f.json: there is no app in \"clients\", so only Socket.IO clients can connect; for pusher-js add for example \"clients\": [ { \"appId\": \
                    \"my-app\", \"key\": \"my-app-key\" } ], with the key that Laravel Echo is given as \"key\".";
        assert_eq!(config.warnings, [said]);
    }
}

#[test]
fn redis_as_an_object() {
    let redis = quiet(
        r#""databaseConfig": { "redis": { "host": "r.test", "port": "6380", "db": "4", "username": "u", "password": 12,
           "keyPrefix": "x_", "tls": {}, "path": "/run/r.sock", "family": 4, "connectTimeout": 1 } }"#,
    )
    .redis;
    assert_eq!((redis.host.as_str(), redis.port, redis.db), ("r.test", 6380, 4));
    assert_eq!((redis.username.as_deref(), redis.password.as_ref().map(Secret::expose)), (Some("u"), Some("12")));
    assert_eq!(
        (redis.key_prefix.as_deref(), redis.path.as_deref(), redis.tls),
        (Some("x_"), Some("/run/r.sock"), true)
    );

    let redis = quiet(r#""databaseConfig": { "redis": { "password": "", "keyPrefix": "", "tls": false } }"#).redis;
    assert_eq!((redis.password, redis.key_prefix.as_deref(), redis.tls), (None, Some(""), false));
    assert!(quiet(r#""databaseConfig": { "redis": { "tls": true } }"#).redis.tls);
    assert_eq!(quiet(r#""databaseConfig": {}"#).redis.port, 6379);
}

#[test]
fn redis_as_a_text() {
    for (text, host, port, db, user, password, tls) in [
        ("redis://r.test", "r.test", 6379, 0, None, None, false),
        ("redis://u:p%40ss@r.test:6380/4", "r.test", 6380, 4, Some("u"), Some("p@ss"), false),
        ("rediss://:pw@r.test/", "r.test", 6379, 0, None, Some("pw"), true),
        ("redis://[::1]:7000", "::1", 7000, 0, None, None, false),
    ] {
        let redis = quiet(&format!("\"databaseConfig\": {{ \"redis\": \"{text}\" }}")).redis;
        assert_eq!((redis.host.as_str(), redis.port, redis.db, redis.tls), (host, port, db, tls), "{text}");
        assert_eq!((redis.username.as_deref(), redis.password.as_ref().map(Secret::expose)), (user, password));
    }
    for text in ["/run/redis.sock", "unix:///run/redis.sock"] {
        let redis = quiet(&format!("\"databaseConfig\": {{ \"redis\": \"{text}\" }}")).redis;
        assert_eq!(redis.path.as_deref(), Some("/run/redis.sock"));
    }
    for json in ["\"http://r.test\"", "\"r.test\"", "\"redis://\"", "\"redis://r.test/four\"", "true", "[]"] {
        let error = error(&format!("\"databaseConfig\": {{ \"redis\": {json} }}"));
        assert!(error.contains("must be an object, as { \"host\""), "{error}");
    }
    assert!(!error(r#""databaseConfig": { "redis": "http://:hush@r.test" }"#).contains("hush"));
}

#[test]
fn redis_as_ioredis_took_it() {
    let redis = |members: &str| quiet(&format!("\"databaseConfig\": {{ \"redis\": {{ {members} }} }}")).redis;
    let node = |host: &str, port| Node { host: host.to_owned(), port };
    let with_sentinels = redis(
        r#""sentinels": [ { "host": "s1", "port": "26380" }, { "host": "::1" } ], "name": "mymaster", "password": "p",
           "sentinelPassword": "q", "sentinelTLS": {}, "role": "master", "db": 3"#,
    );
    let sentinel = with_sentinels.sentinel.clone().unwrap();
    assert_eq!(sentinel.nodes, [node("s1", 26380), node("::1", 26379)]);
    assert_eq!((sentinel.name.as_str(), sentinel.tls, sentinel.username), ("mymaster", true, None));
    assert_eq!(sentinel.password.as_ref().map(Secret::expose), Some("q"));
    assert_eq!(with_sentinels.to_string(), "master \"mymaster\" of the sentinels at s1:26380, [::1]:26379");
    assert_eq!(redis("\"sentinels\": [], \"name\": \"m\"").sentinel, None);

    let cluster = redis(r#""cluster": [ { "host": "a", "port": 7000 }, { "host": "b" } ]"#);
    assert_eq!(cluster.cluster, [node("a", 7000), node("b", 6379)]);
    assert_eq!(cluster.to_string(), "the cluster at a:7000, b:6379");

    let url = redis(r#""url": "rediss://u:p@r.test:7000/2", "db": 5"#);
    assert_eq!((url.host.as_str(), url.port, url.db, url.tls), ("r.test", 7000, 5, true));
    assert_eq!(redis("\"url\": \"\"").host, "127.0.0.1");

    for (family, expected) in
        [("4", Some(Family::V4)), ("\"IPv6\"", Some(Family::V6)), ("6", Some(Family::V6)), ("0", None)]
    {
        assert_eq!(redis(&format!("\"family\": {family}")).family, expected);
    }
    assert_eq!(redis("\"connectTimeout\": 1500").connect_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(redis("\"connectTimeout\": 0").connect_timeout, None);

    let tls = redis(r#""tls": { "rejectUnauthorized": false, "ca": "/ca.pem", "servername": "r.test" }"#);
    let options = RedisTls {
        any_certificate: true,
        authorities: Some("/ca.pem".to_owned()),
        server_name: Some("r.test".to_owned()),
    };
    assert_eq!((tls.tls, tls.tls_options), (true, options));
    assert!(
        error(r#""databaseConfig": { "redis": { "name": "m", "sentinels": [ {} ], "cluster": [ {} ] } }"#)
            .ends_with("has both \"sentinels\" and \"cluster\"; Redis is either, so leave one of them.")
    );
}

#[test]
fn presence_lists_are_for_those_who_ask() {
    let store = |members: &str| config(members).presence_store;
    let on = |publish| Some(PresenceStore { publish });
    for (members, expected) in [
        (r#""database": "redis", "databaseConfig": { "redis": {} }"#, on(false)),
        (r#""database": "redis", "databaseConfig": { "redis": {}, "publishPresence": true }"#, on(true)),
        (r#""database": "redis", "databaseConfig": { "redis": {}, "publishPresence": false }"#, on(false)),
        (r#""database": "redis", "databaseConfig": {}"#, None),
        (r#""database": "redis""#, None),
        (r#""databaseConfig": { "redis": {} }"#, None),
        (r#""database": "sqlite", "databaseConfig": { "redis": {} }"#, None),
    ] {
        assert_eq!(store(members), expected, "{members}");
    }
    for (members, expected) in [
        (
            "\"database\": \"sqlite\"",
            "database\" is \"sqlite\"; this server needs no database: presence members are kept in memory, and the \
             SQLite file is neither read nor written.",
        ),
        (
            "\"database\": \"mysql\"",
            "database\" is \"mysql\"; it is ignored: presence members are kept in memory, and with \"redis\" in Redis \
             as well.",
        ),
        (
            "\"databaseConfig\": { \"publishPresence\": true }",
            "databaseConfig.publishPresence\" does nothing without \"database\": \"redis\" and \
             \"databaseConfig.redis\".",
        ),
    ] {
        assert_eq!(warnings(members), [format!("f.json, line 2: \"{expected}")]);
    }
}

#[test]
fn nodes_find_each_other_where_redis_is_used() {
    let cluster =
        |members: &str| config(members).cluster.map(|cluster| (cluster.name, cluster.presence_grace.as_secs()));
    let named = |name: &str, grace| Some((name.to_owned(), grace));
    for (members, expected) in [
        (r#""databaseConfig": {}"#, named("laravel-echo-server", 10)),
        (r#""databaseConfig": { "redis": { "db": 4 } }"#, named("laravel-echo-server-4", 10)),
        (r#""cluster": true"#, named("laravel-echo-server", 10)),
        (r#""cluster": { "name": "shop:staging", "presenceGraceSeconds": 0 }"#, named("shop:staging", 0)),
        (r#""cluster": false"#, None),
        (r#""subscribers": { "http": true, "redis": false }"#, None),
        (r#""subscribers": { "http": true }, "cluster": {}"#, named("laravel-echo-server", 10)),
    ] {
        assert_eq!(cluster(members), expected, "{members}");
    }
    for name in ["", "a b", "a*", "é"] {
        let error = error(&format!(r#""cluster": {{ "name": "{name}" }}"#));
        assert!(error.contains("cluster.name") && error.contains("up to 100 letters"), "{error}");
    }
}

#[test]
fn who_may_bring_events() {
    for (json, http, redis) in [
        ("null", true, true),
        ("{}", true, true),
        ("{ \"http\": true, \"redis\": false }", true, false),
        ("{ \"http\": 0 }", false, true),
        ("{ \"http\": \"\", \"redis\": 1 }", false, true),
    ] {
        assert_eq!(quiet(&format!("\"subscribers\": {json}")).subscribers, Subscribers { http, redis }, "{json}");
    }
    assert_eq!(
        warnings("\"subscribers\": { \"http\": false, \"redis\": false }"),
        ["f.json, line 2: \"subscribers\" switches http and redis off, so no event can arrive."]
    );
}

#[test]
fn cors_of_the_http_api() {
    let config = quiet(
        r#""apiOriginAllow": { "allowCors": true, "allowOrigin": "http://localhost:80", "allowMethods": "GET, POST" }"#,
    );
    let expected =
        ApiCors { origin: "http://localhost:80".into(), methods: "GET, POST".into(), headers: String::new() };
    assert_eq!(config.api_cors, Some(expected));
    assert_eq!(quiet(r#""apiOriginAllow": { "allowCors": false, "allowOrigin": "*" }"#).api_cors, None);
    let error = error(r#""apiOriginAllow": { "allowCors": true, "allowOrigin": "a\r\nSet-Cookie: b" }"#);
    assert!(error.ends_with("it must be the content of a header: one line of ASCII."), "{error}");
}

#[test]
fn redis_that_cannot_be() {
    for (member, expected) in [
        ("\"port\": \"abc\"", "port\" is \"abc\"; it must be a TCP port from 1 to 65535, as 6379 or \"6379\"."),
        ("\"port\": 0", "port\" is 0; it must be a TCP port from 1 to 65535, as 6379 or \"6379\"."),
        ("\"db\": -1", "db\" is -1; it must be the number of a Redis database, as 0 or \"4\"."),
        ("\"db\": \"x\"", "db\" is \"x\"; it must be the number of a Redis database, as 0 or \"4\"."),
        ("\"host\": []", "host\" is a list; it must be a text in double quotes."),
        (
            "\"host\": \"tls://r.test\"",
            "host\" is \"tls://r.test\"; it must be a host name or address without ://; a URL goes to \
             \"databaseConfig.redis\" itself, and \"tls\": true beside \"host\" asks for TLS.",
        ),
        (
            "\"sentinels\": [ { \"host\": \"s\" } ]",
            "sentinels\" needs beside it the name by which the sentinels know the master, as \"name\": \"mymaster\".",
        ),
        (
            "\"name\": \"m\", \"sentinels\": [ { \"host\": \"s\", \"port\": \"x\" } ]",
            "sentinels[0].port\" is \"x\"; it must be a TCP port from 1 to 65535, as 6379 or \"6379\".",
        ),
        ("\"sentinels\": \"s:1\"", "sentinels\" is \"s:1\"; it must be a list in brackets, as [ … ]."),
        ("\"family\": 5", "family\" is 5; it must be 4 or 6, or 0 for either."),
    ] {
        let members = format!("\"databaseConfig\": {{ \"redis\": {{\n{member} }} }}");
        assert_eq!(error(&members), format!("f.json, line 3: \"databaseConfig.redis.{expected}"));
    }
    let error = error(r#""databaseConfig": { "redis": { "password": [ "hush" ] } }"#);
    assert_eq!(
        error,
        "f.json, line 2: \"databaseConfig.redis.password\" is a list; it must be a text in double quotes."
    );
}

#[test]
fn misnested_redis_keys_are_named() {
    for (member, expected) in [
        (
            "\"options.password\": \"hush\"",
            "options.password\" is ignored; the key is \"databaseConfig.redis.password\".",
        ),
        ("\"options.db\": 1", "options.db\" is ignored; the key is \"databaseConfig.redis.db\"."),
        ("\"options\": { \"db\": \"0\" }", "options.db\" is ignored; the key is \"databaseConfig.redis.db\"."),
        ("\"options\": 1", "options\" is ignored; there is no such key."),
        (
            "\"options\": { \"bogus\": 1 }",
            "options.bogus\" is ignored; options stand in \"databaseConfig.redis\" itself.",
        ),
        ("\"prefix\": \"x\"", "prefix\" is ignored; the key is \"databaseConfig.redis.keyPrefix\"."),
        ("\"scheme\": \"tls\"", "scheme\" is ignored; for TLS the key is \"databaseConfig.redis.tls\": true."),
        ("\"role\": \"slave\"", "role\" is ignored; the master is asked for, since a replica cannot be written to."),
        (
            "\"pasword\": \"hush\"",
            "pasword\" is not a known key and is ignored; did you mean \"databaseConfig.redis.password\"?",
        ),
        (
            "\"tls\": { \"cert\": \"x\" }",
            "tls.cert\" is not acted on; of Redis' TLS options these are: ca, rejectUnauthorized, servername.",
        ),
    ] {
        let members = format!("\"databaseConfig\": {{ \"redis\": {{ {member} }} }}");
        assert_eq!(warnings(&members), [format!("f.json, line 2: \"databaseConfig.redis.{expected}")]);
    }
}

#[test]
fn unknown_keys_are_named_with_the_nearest() {
    for (members, expected) in [
        ("\"authhost\": 1", "authhost\" is not a known key and is ignored; did you mean \"authHost\"?"),
        ("\"zzz\": 1", "zzz\" is not a known key and is ignored."),
        (
            "\"limits\": { \"conections\": 1 }",
            "limits.conections\" is not a known key and is ignored; did you mean \"limits.connections\"?",
        ),
        (
            "\"databaseConfig\": { \"reddis\": {} }",
            "databaseConfig.reddis\" is not a known key and is ignored; did you mean \"databaseConfig.redis\"?",
        ),
    ] {
        assert_eq!(warnings(members), [format!("f.json, line 2: \"{expected}")]);
    }
    let text = "{ \"clients\": [ { \"appId\": \"a\", \"key\": \"k\" },\n { \"appId\": \"b\", \"key\": \"l\", \"secrets\": \"hush\" } ] }";
    assert_eq!(
        read_with(text, &[]).unwrap().warnings,
        [
            "f.json, line 2: \"clients[1].secrets\" is not a known key and is ignored; did you mean \"clients[].secret\"?"
        ]
    );
}

#[test]
fn https_and_its_certificate() {
    let whole =
        "\"protocol\": \"https\", \"sslCertPath\": \"/c.pem\", \"sslKeyPath\": \"/k.pem\", \"sslCertChainPath\": \"\"";
    let tls = Tls { certificate: "/c.pem".into(), key: "/k.pem".into(), passphrase: None, chain: None };
    assert_eq!(config(whole).tls, Some(tls));
    assert_eq!(config("\"protocol\": \"http\", \"sslCertPath\": \"/c.pem\"").tls, None);
    assert_eq!(
        error("\"protocol\": \"https\", \"sslCertPath\": \"/c.pem\", \"sslKeyPath\": \"\""),
        "f.json, line 2: \"protocol\" is \"https\", which needs a PEM file, as \"sslKeyPath\": \"/etc/ssl/echo.pem\"."
    );
    let tls = config(&format!("{whole}, \"sslPassphrase\": \"hunter2\"")).tls.unwrap();
    assert_eq!(tls.passphrase.as_ref().map(Secret::expose), Some("hunter2"));

    let variables = [
        ("LARAVEL_ECHO_SERVER_PROTO", "https"),
        ("LARAVEL_ECHO_SERVER_SSL_CERT", "c"),
        ("LARAVEL_ECHO_SERVER_SSL_KEY", "k"),
        ("LARAVEL_ECHO_SERVER_SSL_CHAIN", "h"),
        ("LARAVEL_ECHO_SERVER_SSL_PASS", "p"),
    ];
    let tls = read_with(&format!("{{ {CLIENTS}, \"protocol\": \"http\" }}"), &variables).unwrap().tls.unwrap();
    assert_eq!((tls.certificate, tls.key, tls.chain), ("c".into(), "k".into(), Some("h".into())));
    assert_eq!(tls.passphrase.as_ref().map(Secret::expose), Some("p"));
}

#[test]
fn what_is_not_done_yet_is_said() {
    for (members, expected) in [
        ("\"protocol\": \"wss\"", "protocol\" is \"wss\"; this server speaks http and https, and takes it for http."),
        ("\"headers\": { \"X-A\": \"b\" }", "headers\" is not acted on: the headers are not sent."),
    ] {
        assert_eq!(warnings(members), [format!("f.json, line 2: \"{expected}")]);
    }
}

/// None of them as it is by default.
const EVERY_LIMIT: &str = r#"{ "messageBytes": 1, "outboundBytes": 2,
    "subscriptionsPerConnection": 3, "connections": 4, "clientEventsPerSecond": 0, "clientEventBytes": 6,
    "eventBytes": 7, "eventNameBytes": 12, "channelNameBytes": 13, "channelsPerEvent": 14, "eventsPerBatch": 15,
    "timestampWindow": 16, "presenceMemberBytes": 8, "activityTimeout": 9, "pongTimeout": 10, "handshakeTimeout": "11",
    "presenceMembers": 17, "cacheSeconds": 18, "cacheBytes": 19, "userAuthenticationTimeout": 20,
    "connectionsPerAddress": 21, "headBytes": 8192, "authRequestsPerSecond": 23, "subscribesPerSecond": 24,
    "presenceJoinsPerMinute": 25 }"#;

#[test]
fn socketio_as_the_old_server_took_it() {
    assert_eq!(quiet("\"socketio\": {}").socketio, SocketIo::default());
    assert_eq!(quiet("\"socketio\": null").socketio, SocketIo::default());
    let config = quiet(
        r#""socketio": { "path": "ws/", "pingInterval": "10000", "pingTimeout": 5000, "transports": ["websocket"],
        "origins": "example.com:*", "allowUpgrades": false, "perMessageDeflate": false, "wsEngine": "uws", "cookie": "io", "clientScript": "io.js" }"#,
    );
    let expected = SocketIo {
        path: "/ws".into(),
        ping_interval: Duration::from_secs(10),
        ping_timeout: Duration::from_secs(5),
        polling: false,
        websocket: true,
        allow_upgrades: false,
        origins: vec!["example.com:*".into()],
        client_script: Some("io.js".into()),
    };
    assert_eq!(config.socketio, expected);
    for (member, sentence) in [
        ("\"path\": \"/apps\"", "a path of its own"),
        ("\"path\": \"/\"", "a path of its own"),
        ("\"pingInterval\": 25", "milliseconds"),
        ("\"transports\": [\"flashsocket\"]", "\"websocket\", \"polling\" or both"),
    ] {
        let error = error(&format!("\"socketio\": {{ {member} }}"));
        assert!(error.contains(sentence), "{error}");
    }
}

#[test]
fn new_numbers() {
    let config =
        quiet(&format!(r#""authTimeoutMs": "500", "authConcurrency": 3, "shards": 2, "limits": {EVERY_LIMIT}"#));
    assert_eq!((config.auth.timeout, config.auth.concurrency, config.shards), (Duration::from_millis(500), 3, 2));
    let expected = Limits {
        message_bytes: 1,
        outbound_bytes: 2,
        subscriptions_per_connection: 3,
        connections: 4,
        connections_per_address: Some(21),
        head_bytes: 8192,
        auth_requests_per_second: Some(23),
        subscribes_per_second: Some(24),
        presence_joins_per_minute: 25,
        client_events_per_second: 0,
        client_event_bytes: 6,
        event_bytes: 7,
        event_name_bytes: 12,
        channel_name_bytes: 13,
        channels_per_event: 14,
        events_per_batch: 15,
        timestamp_window: Duration::from_secs(16),
        presence_member_bytes: 8,
        presence_members: 17,
        cache_time: Duration::from_secs(18),
        cache_bytes: 19,
        user_authentication_timeout: Some(Duration::from_secs(20)),
        activity_timeout: Duration::from_secs(9),
        pong_timeout: Duration::from_secs(10),
        handshake_timeout: Duration::from_secs(11),
    };
    assert_eq!(config.limits, expected);
    for (members, expected) in [
        ("\"shards\": 0", "shards\" is 0; it must be a number of threads from 1 to 1024, as "),
        (
            "\"limits\": { \"pongTimeout\": \"1s\" }",
            "limits.pongTimeout\" is \"1s\"; it must be a number of seconds from 1 to 86400, as 30.",
        ),
        (
            "\"limits\": { \"connections\": 0 }",
            "limits.connections\" is 0; it must be a number from 1 to 100000000, as 100000.",
        ),
        (
            "\"limits\": { \"channelNameBytes\": 201 }",
            "limits.channelNameBytes\" is 201; it must be a number of bytes from 1 to 200, as 200.",
        ),
        ("\"limits\": []", "limits\" is a list; it must be an object in braces, as "),
    ] {
        let error = error(members);
        assert!(error.starts_with(&format!("f.json, line 2: \"{expected}")), "{error}");
    }
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = format!(
        r#"{{ {CLIENTS}, "authHost": "http://file.test", "host": "1.1.1.1", "port": "bad", "devMode": true,
             "databaseConfig": {{ "redis": {{ "host": "f", "port": 1, "password": "f" }} }} }}"#
    );
    let config = read_with(
        &text,
        &[
            ("LARAVEL_ECHO_SERVER_AUTH_HOST", "http://env.test"),
            ("LARAVEL_ECHO_SERVER_DEBUG", "false"),
            ("LARAVEL_ECHO_SERVER_HOST", "2.2.2.2"),
            ("LARAVEL_ECHO_SERVER_PORT", "7000"),
            ("LARAVEL_ECHO_SERVER_REDIS_HOST", "e"),
            ("LARAVEL_ECHO_SERVER_REDIS_PORT", "2"),
            ("LARAVEL_ECHO_SERVER_REDIS_PASSWORD", "e"),
            ("LARAVEL_ECHO_SERVER_REDIS_USERNAME", "u"),
            ("LARAVEL_ECHO_SERVER_REDIS_DB", "3"),
            ("LARAVEL_ECHO_SERVER_REDIS_PREFIX", "x_"),
        ],
    )
    .unwrap();
    assert_eq!(config.auth.host.as_str(), "http://env.test/");
    assert_eq!((config.host.as_deref(), config.port, config.dev_mode), (Some("2.2.2.2"), 7000, false));
    assert_eq!((config.redis.host.as_str(), config.redis.port, config.redis.db), ("e", 2, 3));
    assert_eq!((config.redis.username.as_deref(), config.redis.key_prefix.as_deref()), (Some("u"), Some("x_")));
    assert_eq!(config.redis.password.as_ref().map(Secret::expose), Some("e"));

    // An empty variable is none.
    let error = read_with(&text, &[("LARAVEL_ECHO_SERVER_PORT", "")]).unwrap_err();
    assert!(error.starts_with("f.json, line 1: \"port\" is \"bad\""), "{error}");
}

#[test]
fn errors_name_the_variable() {
    let text = format!("{{ {CLIENTS} }}");
    for (name, value, expected) in [
        ("LARAVEL_ECHO_SERVER_PORT", "abc", "is \"abc\"; it must be a TCP port from 1 to 65535, as 6001"),
        ("LARAVEL_ECHO_SERVER_REDIS_PORT", "0", "is \"0\"; it must be a TCP port from 1 to 65535, as 6379"),
        ("LARAVEL_ECHO_SERVER_AUTH_HOST", "a.test", "is \"a.test\"; it must begin with http:// or https://"),
        ("LARAVEL_ECHO_SERVER_HOST", "a:1", "is \"a:1\"; it must be the name or address of this machine"),
    ] {
        let error = read_with(&text, &[(name, value)]).unwrap_err();
        assert!(
            error.starts_with(&format!("The variable {name} (of the environment, or in .env) {expected}")),
            "{error}"
        );
    }
    let config = read_with(&text, &[("LARAVEL_ECHO_SERVER_DEBUG", "1")]).unwrap();
    assert_eq!(
        config.warnings,
        [
            "The variable LARAVEL_ECHO_SERVER_DEBUG (of the environment, or in .env) is \"1\"; only true switches it on, so it is off."
        ]
    );
}

#[test]
fn syntax_errors_show_the_place() {
    for (text, expected) in [
        (
            "{\n\t\"pört\": 6001\n\t\"host\": null }",
            "f.json, line 3, column 2: a comma or a closing bracket is missing before this place.\n\n  3 |  \"host\": null }\n    |  ^",
        ),
        (
            "{ \"häuser\": \"ö\", }",
            "f.json, line 1, column 18: JSON allows no comma before this closing bracket; remove it.\n\n  1 | { \"häuser\": \"ö\", }\n    |                  ^",
        ),
        (
            "{\n  // the port\n}",
            "f.json, line 2, column 3: JSON allows no comments; remove this one.\n\n  2 |   // the port\n    |   ^",
        ),
        (
            "{ 'a': 1 }",
            "f.json, line 1, column 3: names and texts stand in double quotes (\"), not in single ones.\n\n  1 | { 'a': 1 }\n    |   ^",
        ),
        (
            "{ \"a\": 1",
            "f.json, line 1, column 8: the file ends too early; a closing \", ] or } is missing.\n\n  1 | { \"a\": 1\n    |        ^",
        ),
        // Never a line that may hold a secret.
        (
            "{ \"password\": \"hush\" 1 }",
            "f.json, line 1, column 22: a comma or a closing bracket is missing before this place.",
        ),
        (
            "{ \"secret\":\n\n \"hush\" 1 }",
            "f.json, line 3, column 9: a comma or a closing bracket is missing before this place.",
        ),
    ] {
        assert_eq!(read_with(text, &[]).unwrap_err(), expected);
    }
}

#[test]
fn of_two_keys_of_one_name_the_last_counts() {
    assert_eq!(quiet(r#""port": 1, "port": 2"#).port, 2);
}

#[test]
fn files_that_are_none() {
    let read = |bytes: &[u8]| Config::parse(Path::new("f.json"), bytes, &|_| None).unwrap_err().to_string();
    assert!(read(b" \n").starts_with("f.json is empty. It must hold a JSON object, for example\n"));
    assert_eq!(read(b"{\n\xff}"), "f.json, line 2: the file is not UTF-8 here. Save it as UTF-8.");
    assert_eq!(read(b"[]"), "f.json: the file must be an object in braces, as { \"name\": \"value\" }.");
    assert_eq!(read(&vec![b' '; 2 << 20]), "f.json is longer than 1048576 bytes; that cannot be a configuration file.");
    // A byte order mark is no error.
    let config = Config::parse(Path::new("f"), format!("\u{feff}{{ {CLIENTS} }}").as_bytes(), &|_| None);
    assert_eq!(config.unwrap().port, 6001);
}

#[test]
fn what_the_operating_system_refuses() {
    use std::io::{Error, ErrorKind};
    let say = |reason: Error| ConfigError::from_io(Path::new("/f.json"), reason).to_string();
    assert_eq!(
        say(ErrorKind::PermissionDenied.into()),
        "/f.json may not be read by the user that runs this server: permission denied. Change its owner or mode."
    );
    assert_eq!(say(Error::other("the disk is gone")), "/f.json cannot be read: the disk is gone.");
}

#[test]
fn the_path_is_joined_and_an_absolute_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let write = |path: std::path::PathBuf, port| std::fs::write(path, format!("{{ {CLIENTS}, \"port\": {port} }}"));
    write(dir.path().join(FILE_NAME), 1).unwrap();
    write(dir.path().join("x.json"), 2).unwrap();
    write(other.path().join("y.json"), 3).unwrap();
    let port = |config: Option<&Path>| Config::load(Some(dir.path()), config, &|_| None).unwrap().port;
    assert_eq!(port(None), 1);
    assert_eq!(port(Some(Path::new("x.json"))), 2);
    assert_eq!(port(Some(&other.path().join("y.json"))), 3);
    assert_eq!(Config::load(None, Some(&dir.path().join("x.json")), &|_| None).unwrap().port, 2);
}

#[test]
fn no_debug_output_shows_a_secret() {
    let text = r#"{ "clients": [ { "appId": "a", "key": "k", "secret": "hush" } ],
                    "databaseConfig": { "redis": "redis://:hush@r" } }"#;
    let text = format!("{:?}", read_with(text, &[]).unwrap());
    assert!(!text.contains("hush"), "{text}");
}

/// JSON-like texts with the keys that are read, so that the properties reach behind the parser.
fn any_setting() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f32>().prop_map(|number| format!("{number:e}")),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        "(redis|http|unix)://[a-z:@%/.0-9]{0,12}".prop_map(|text| format!("{text:?}")),
    ];
    let key = prop::sample::select(vec![
        "authHost",
        "authEndpoint",
        "clients",
        "appId",
        "key",
        "secret",
        "databaseConfig",
        "redis",
        "host",
        "port",
        "db",
        "path",
        "password",
        "tls",
        "options",
        "sentinels",
        "limits",
        "messageBytes",
        "allowedOrigins",
        "protocol",
        "subscribers",
        "socketio",
        "proxy",
        "shards",
        "devMode",
        "xx\\n\\u00e9",
    ]);
    leaf.prop_recursive(4, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|elements| format!("[{}]", elements.join(",\n"))),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|members| {
                let members: Vec<_> = members.iter().map(|(key, value)| format!("\"{key}\":\n{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

fn is_read_or_refused_by_name(bytes: &[u8]) -> Result<(), TestCaseError> {
    match Config::parse(Path::new("f.json"), bytes, &|_| None) {
        Ok(config) => prop_assert!(!config.apps.is_empty() && config.shards > 0),
        Err(error) => prop_assert!(error.to_string().starts_with("f.json"), "{}", error),
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_by_name(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        is_read_or_refused_by_name(&bytes)?;
    }

    #[test]
    fn any_text_is_read_or_refused_by_name(text in "[\\[\\]{}:,\"'/# a1é\\\\\r\n\t]{0,60}") {
        is_read_or_refused_by_name(text.as_bytes())?;
    }

    #[test]
    fn any_json_is_read_or_refused_by_name(text in any_setting()) {
        is_read_or_refused_by_name(text.as_bytes())?;
    }

    #[test]
    fn any_setting_beside_an_app_is_read_or_refused_by_name(
        text in any_setting(),
        key in prop::sample::select(vec!["authHost", "databaseConfig", "limits", "subscribers", "allowedOrigins"]),
    ) {
        is_read_or_refused_by_name(format!("{{ {CLIENTS}, \"{key}\": {text} }}").as_bytes())?;
    }

    /// Cut or changed anywhere, the file in use is read or refused by name.
    #[test]
    fn a_damaged_file_is_read_or_refused_by_name(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = include_bytes!("../../laravel-echo-server.json").to_vec();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        is_read_or_refused_by_name(&bytes)?;
    }
}

#[test]
fn an_app_may_have_limits_and_a_prefix_of_its_own() {
    let of = |second: &str| {
        let clients =
            format!(r#"{{ "clients": [ {{ "appId": "a", "key": "k" }}, {{ "appId": "b", "key": "l", {second} }} ],"#);
        read_with(&format!(r#"{clients} "limits": {{ "eventBytes": 5, "pongTimeout": 6 }} }}"#), &[])
    };
    let config = of(r#""keyPrefix": "b_", "limits": { "eventBytes": "7", "connections": 8 }"#).unwrap();
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!((config.apps[0].limits.clone(), config.apps[0].key_prefix.as_deref()), (config.limits.clone(), None));
    let expected = Limits { event_bytes: 7, connections: 8, ..config.limits };
    assert_eq!((config.apps[1].limits.clone(), config.apps[1].key_prefix.as_deref()), (expected, Some("b_")));

    // Whatever an app does not say is as for all, each of the limits.
    let clients = r#""clients": [ { "appId": "a", "key": "k", "limits": {} } ]"#;
    let config = read_with(&format!("{{ {clients}, \"limits\": {EVERY_LIMIT} }}"), &[]).unwrap();
    assert_ne!(config.limits, Limits::default());
    assert_eq!(config.apps[0].limits, config.limits);

    let warnings = of(r#""limits": { "eventByte": 1 }"#).unwrap().warnings;
    assert!(warnings[0].contains("\"clients[1].limits.eventByte\" is not a known key"), "{warnings:?}");
    assert!(warnings[0].contains("\"limits.eventBytes\""), "{warnings:?}");
    let warnings = of(r#""keyPrefix": """#).unwrap().warnings;
    assert!(warnings[0].starts_with("The client b has the \"keyPrefix\" \"\""), "{warnings:?}");
    for name in ["messageBytes", "outboundBytes", "handshakeTimeout"] {
        let error = of(&format!(r#""limits": {{ "{name}": 1 }}"#)).unwrap_err();
        let expected = format!("\"clients[1].limits.{name}\" cannot differ from app to app");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn http_and_https_at_once() {
    let files = r#""sslCertPath": "c.pem", "sslKeyPath": "k.pem""#;
    for (members, port, https_port, scheme) in [
        ("\"devMode\": true".to_owned(), 6001, None, "http"),
        (format!("\"protocol\": \"https\", {files}"), 6001, None, "https"),
        (format!("\"httpsPort\": 6002, {files}"), 6001, Some(6002), "http"),
        (format!("\"httpsPort\": \"443\", \"port\": 80, \"protocol\": \"http\", {files}"), 80, Some(443), "http"),
        (format!("\"httpsPort\": 0, \"port\": 0, {files}"), 0, Some(0), "http"),
        (format!("\"httpsPort\": null, {files}"), 6001, None, "http"),
    ] {
        let config = quiet(&members);
        assert_eq!((config.port, config.https_port, config.scheme()), (port, https_port, scheme), "{members}");
        assert_eq!(config.tls.is_some(), scheme == "https" || https_port.is_some(), "{members}");
        assert_eq!(config.port_for(None), (port, scheme), "{members}");
        assert_eq!(config.port_for(Some(6002)).1, if https_port == Some(6002) { "https" } else { scheme }, "{members}");
    }
    let twice = format!("\"protocol\": \"https\", \"httpsPort\": 6002, {files}");
    for (members, expected) in [
        (r#""httpsPort": 6002"#.to_owned(), "\"httpsPort\" needs a PEM file, as \"sslCertPath\""),
        (
            r#""httpsPort": 6002, "sslCertPath": "c.pem""#.to_owned(),
            "\"httpsPort\" needs a PEM file, as \"sslKeyPath\"",
        ),
        (twice, "\"port\" speaks https then. Take one of them out"),
        (format!("\"httpsPort\": 6001, {files}"), "must be another port than \"port\", which speaks http"),
        (format!("\"httpsPort\": true, {files}"), "must be a TCP port"),
    ] {
        assert!(error(&members).contains(expected), "{members}: {}", error(&members));
    }
    // A unix socket alone leaves 6001 free.
    let config = quiet(&format!("\"httpsPort\": 6001, \"socket\": \"/run/les.sock\", {files}"));
    assert_eq!((config.https_port, config.scheme()), (Some(6001), "http"));
    let variables = [("LARAVEL_ECHO_SERVER_HTTPS_PORT", "7002")];
    let config = read_with(&format!("{{ {files} }}"), &variables).unwrap();
    assert_eq!((config.https_port, config.tls.is_some()), (Some(7002), true));
}

#[test]
fn places_to_listen_and_trusted_proxies() {
    let config = quiet(r#""socket": "/run/echo.sock", "proxyProtocol": "true""#);
    let socket = |mode, is_alone| Some(UnixSocket { path: "/run/echo.sock".into(), mode, is_alone });
    assert_eq!((config.socket, config.proxy_protocol), (socket(0o660, true), true));
    let config = quiet(r#""socket": "/run/echo.sock", "socketMode": "0600", "port": 6001"#);
    assert_eq!((config.socket, config.port), (socket(0o600, false), 6001));
    let trusts = |members: &str, peer: &str| quiet(members).trusted_proxies.trusts(Some(peer.parse().unwrap()));
    for (members, peer, expected) in [
        (r#""shards": 2"#, "127.0.0.1", true),
        (r#""shards": 2"#, "::1", true),
        (r#""shards": 2"#, "10.0.0.1", false),
        (r#""trustedProxies": []"#, "127.0.0.1", false),
        (r#""trustedProxies": "10.0.0.0/8""#, "10.0.0.1", true),
        (r#""trustedProxies": ["::1", "10.0.0.1"]"#, "10.0.0.1", true),
        (r#""trustedProxies": ["::1", "10.0.0.1"]"#, "127.0.0.1", false),
    ] {
        assert_eq!(trusts(members, peer), expected, "{members} {peer}");
    }
    let warnings = self::config(r#""trustedProxies": ["10.0.0.0/8", "0.0.0.0/0", "::/0"]"#).warnings;
    assert!(warnings[0].contains("\"trustedProxies[1]\" is \"0.0.0.0/0\"; these are all addresses"), "{warnings:?}");
    assert_eq!(warnings.len(), 2);
    for (members, expected) in [
        (r#""trustedProxies": ["nginx"]"#, "trustedProxies[0]\" is \"nginx\"; it must be an address or a network"),
        (r#""socket": "echo.sock""#, "it must be an absolute path"),
        (r#""socketMode": "0660""#, "is for \"socket\", which is not set"),
        (r#""socket": "/a", "socketMode": "rw-rw----""#, "it must be permissions as a text of octal digits"),
        (r#""socket": "/a", "socketMode": "7777""#, "it must be permissions"),
        (r#""limits": { "headBytes": 100 }"#, "from 8192 to 1048576"),
    ] {
        assert!(error(members).contains(expected), "{members}: {}", error(members));
    }
    assert_eq!(
        quiet(r#""limits": { "connectionsPerAddress": 0, "authRequestsPerSecond": 0 }"#).limits.connections_per_address,
        None
    );
}
