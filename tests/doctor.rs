//! `doctor` on set-ups that are broken on purpose: it names the cause and the line to change. Those that need PHP or
//! nginx are in `tests/e2e/doctor.test.mjs`.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod redis_process;

use redis_process::{Redis, free_port};

const PROGRAM: &str = env!("CARGO_BIN_EXE_laravel-echo-server");
const FILE: &str = "laravel-echo-server.json";

/// `config/database.php` as every Laravel from 5.8 to 11 had it, shortened.
const DATABASE: &str = "<?php
use Illuminate\\Support\\Str;
return [
    'redis' => [
        'client' => env('REDIS_CLIENT', 'phpredis'),
        'options' => [
            'cluster' => env('REDIS_CLUSTER', 'redis'),
            'prefix' => env('REDIS_PREFIX', Str::slug(env('APP_NAME', 'laravel'), '_').'_database_'),
        ],
        'default' => [
            'url' => env('REDIS_URL'),
            'host' => env('REDIS_HOST', '127.0.0.1'),
            'username' => env('REDIS_USERNAME'),
            'password' => env('REDIS_PASSWORD'),
            'port' => env('REDIS_PORT', '6379'),
            'database' => env('REDIS_DB', '0'),
        ],
    ],
];
";

/// `config/broadcasting.php` of Laravel 10, shortened.
const BROADCASTING: &str = "<?php
return [
    'default' => env('BROADCAST_DRIVER', 'null'),
    'connections' => [
        'pusher' => [
            'driver' => 'pusher',
            'key' => env('PUSHER_APP_KEY'),
            'secret' => env('PUSHER_APP_SECRET'),
            'app_id' => env('PUSHER_APP_ID'),
            'options' => [
                'cluster' => env('PUSHER_APP_CLUSTER'),
                'host' => env('PUSHER_HOST') ?: 'api-'.env('PUSHER_APP_CLUSTER', 'mt1').'.pusher.com',
                'port' => env('PUSHER_PORT', 443),
                'scheme' => env('PUSHER_SCHEME', 'https'),
                'useTLS' => env('PUSHER_SCHEME', 'https') === 'https',
            ],
            'client_options' => [],
        ],
        'redis' => ['driver' => 'redis', 'connection' => 'default'],
        'log' => ['driver' => 'log'],
        'null' => ['driver' => 'null'],
    ],
];
";

/// A folder with a configuration file and perhaps an application.
struct Place {
    dir: tempfile::TempDir,
    /// Of the stand-in for Laravel, which knows nobody.
    laravel: u16,
}

impl Place {
    fn new(settings: Value) -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
            laravel: answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"),
        };
        let mut config = json!({
            "host": "127.0.0.1", "port": 0, "shards": 1, "limits": {"connections": 100},
            "authHost": format!("http://127.0.0.1:{}", place.laravel),
            "clients": [{"appId": "shop", "key": "shop-key", "secret": "right-secret"}],
            "databaseConfig": {"redis": {"path": "/nonexistent/redis.sock"}},
        });
        for (key, value) in settings.as_object().unwrap() {
            config[key] = value.clone();
        }
        place.write(FILE, &config.to_string());
        place
    }

    /// With an application that has this `.env`.
    fn with_application(self, env: &str) -> Self {
        self.write(".env", env);
        self.write("config/database.php", DATABASE);
        self.write("config/broadcasting.php", BROADCASTING);
        self
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["doctor", "--json"]).args(arguments).arg("--dir").arg(self.dir.path());
        command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn examine(&self, arguments: &[&str]) -> Report {
        Report::of(self.command(arguments).spawn().unwrap())
    }
}

struct Report {
    text: String,
    json: Value,
    code: i32,
}

impl Report {
    fn of(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{stderr}"));
        Self { text, json, code: output.status.code().unwrap() }
    }

    fn findings(&self) -> &Vec<Value> {
        self.json["findings"].as_array().unwrap()
    }

    /// The finding of this level, of which there is one.
    #[track_caller]
    fn one(&self, id: &str, level: &str) -> &Value {
        let found: Vec<_> = self.findings().iter().filter(|finding| finding["id"] == id).collect();
        let [finding] = found[..] else { panic!("{} findings {id} in {}", found.len(), self.text) };
        assert_eq!(finding["level"], level, "{finding}");
        finding
    }

    /// The problem of this id; it names the cause, the file and the line.
    #[track_caller]
    fn names(&self, id: &str, level: &str, cause: &str, file: &str, line: &str) {
        let finding = self.one(id, level);
        assert!(finding["what"].as_str().unwrap().contains(cause), "{cause:?} is not in {finding}");
        assert!(finding["file"].as_str().unwrap().contains(file), "{file:?} is not in {finding}");
        assert!(finding["lines"].as_array().unwrap().iter().any(|found| found == line), "{line:?} is not in {finding}");
        assert_eq!(self.code, if level == "problem" { 2 } else { self.code }, "{}", self.text);
    }
}

/// A web server that answers each request with this; its port. It ends with the test.
fn answering(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(answer.as_bytes());
                let _ = stream.read(&mut request);
            });
        }
    });
    port
}

/// Runs the doctor and publishes these events, again and again, as long as it listens.
fn while_published(place: &Place, redis: &Redis, channels: &[&str]) -> Report {
    let mut child = place.command(&["--listen", "2"]).spawn().unwrap();
    let event = r#"{"event":"shipped","data":{"id":7,"socket":null},"socket":null}"#;
    while child.try_wait().unwrap().is_none() {
        for channel in channels {
            redis.cli(&["PUBLISH", channel, event]);
        }
    }
    Report::of(child)
}

#[test]
fn the_wrong_prefix() {
    let redis = Redis::start(&[]);
    let with =
        |prefix: &str| Place::new(json!({"databaseConfig": {"redis": {"port": redis.port, "keyPrefix": prefix}}}));
    // By what Laravel's files say.
    let env = format!("APP_NAME=\"My Shop\"\nBROADCAST_DRIVER=redis\nREDIS_PORT={}\n", redis.port);
    let report = with("shop_database_").with_application(&env).examine(&["--listen=0"]);
    let (file, line) = ("laravel-echo-server.json, in databaseConfig.redis", r#""keyPrefix": "my_shop_database_""#);
    report.names("redis.prefix", "problem", r#"Laravel publishes under "my_shop_database_""#, file, line);
    report.one("redis.same", "ok");
    let report = with("my_shop_database_").with_application(&env).examine(&["--listen=0"]);
    report.one("redis.prefix", "ok");
    // By what is published.
    let report = while_published(&with("shop_database_"), &redis, &["my_shop_database_orders"]);
    report.names("redis.prefix", "problem", r#"events are published under "my_shop_database_""#, file, line);
    let events = report.one("redis.events", "ok");
    assert!(events["why"].as_str().unwrap().contains("my_shop_database_orders"), "{events}");
}

#[test]
fn a_prefix_that_cannot_be_found_out() {
    let redis = Redis::start(&[]);
    let place = Place::new(json!({"databaseConfig": {"redis": {"port": redis.port}}}));
    let env = format!("APP_NAME=Shop\nREDIS_PREFIX=shop:\nBROADCAST_DRIVER=redis\nREDIS_PORT={}\n", redis.port);
    let report = place.with_application(&env).examine(&["--listen=0"]);
    report.names(
        "redis.prefix",
        "problem",
        r#"under the prefix "shop:""#,
        "in databaseConfig.redis",
        r#""keyPrefix": "shop:""#,
    );
}

#[test]
fn the_password_of_redis() {
    let redis = Redis::start(&["--requirepass", "hush-hush"]);
    let line = r#""password": "(the value of REDIS_PASSWORD)""#;
    for password in [json!(null), json!("wrong-one")] {
        let place = Place::new(json!({"databaseConfig": {"redis": {"port": redis.port, "password": password}}}));
        let env = format!("BROADCAST_DRIVER=redis\nREDIS_PASSWORD=hush-hush\nREDIS_PORT={}\n", redis.port);
        let report = place.with_application(&env).examine(&[]);
        let cause = if password.is_null() { "wants a password (NOAUTH)" } else { "refuses the password" };
        report.names("redis.reach", "problem", cause, "laravel-echo-server.json, in databaseConfig.redis", line);
        let fix = report.one("redis.reach", "problem")["fix"].as_str().unwrap().to_owned();
        assert!(fix.contains(".env, line 2"), "{fix}");
        assert!(!report.text.contains("hush") && !report.text.contains("wrong-one"), "{}", report.text);
    }
    let place = Place::new(json!({"databaseConfig": {"redis": {"port": redis.port, "password": "hush-hush"}}}));
    place.examine(&["--listen=0"]).one("redis.reach", "ok");
}

#[test]
fn another_redis_than_laravels() {
    let redis = Redis::start(&[]);
    let place = Place::new(json!({"databaseConfig": {"redis": {"port": redis.port}}}));
    let report = place.with_application("BROADCAST_DRIVER=redis\nREDIS_HOST=redis.internal\n").examine(&["--listen=0"]);
    report.names(
        "redis.same",
        "problem",
        "redis.internal:6379",
        "in databaseConfig.redis",
        r#""host": "redis.internal", "port": 6379"#,
    );
}

#[test]
fn rights_that_are_missing_in_redis() {
    let redis = Redis::start(&[]);
    redis.cli(&["ACL", "SETUSER", "echo", "on", ">pw", "+psubscribe", "+select", "+ping", "+multi", "+discard", "&*"]);
    let login = json!({"port": redis.port, "username": "echo", "password": "pw"});
    let report = Place::new(json!({"databaseConfig": {"redis": login}})).examine(&["--listen=0"]);
    report.names(
        "redis.rights",
        "warning",
        "PUBLISH laravel-echo-server:bus",
        "redis-cli",
        "ACL SETUSER echo +publish &laravel-echo-server:bus",
    );
    // Presence lists: written, kept and taken away.
    redis.cli(&["ACL", "SETUSER", "echo", "+set", "+publish", "~shop:*:members"]);
    let store = json!({"database": "redis", "databaseConfig": {"redis": {
        "port": redis.port, "username": "echo", "password": "pw", "keyPrefix": "shop:"}, "publishPresence": true}});
    Place::new(store.clone()).examine(&["--listen=0"]).names(
        "redis.rights",
        "warning",
        "EXPIRE shop:presence-doctor:members and DEL shop:presence-doctor:members",
        "redis-cli",
        "ACL SETUSER echo +expire ~shop:*:members +del",
    );
    redis.cli(&["ACL", "SETUSER", "echo", "+expire", "+del"]);
    Place::new(store).examine(&["--listen=0"]).one("redis.rights", "ok");
    let login = json!({"port": redis.port});
    Place::new(json!({"databaseConfig": {"redis": login}})).examine(&["--listen=0"]).one("redis.rights", "ok");
}

#[test]
fn a_second_application_on_the_redis() {
    let redis = Redis::start(&[]);
    let settings = json!({"databaseConfig": {"redis": {"port": redis.port}}});
    let channels = ["my_shop_database_orders", "blog_database_private-user.1"];
    let report = while_published(&Place::new(settings.clone()), &redis, &channels);
    let file = "laravel-echo-server.json, in databaseConfig.redis";
    let cause = "Several applications publish to this Redis";
    for line in [r#""keyPrefix": "my_shop_database_""#, r#""keyPrefix": "blog_database_""#] {
        report.names("redis.applications", "problem", cause, file, line);
    }
    // With the application beside it, which of them is known.
    let env = format!("APP_NAME=Blog\nBROADCAST_DRIVER=redis\nREDIS_PORT={}\n", redis.port);
    let report = while_published(&Place::new(settings).with_application(&env), &redis, &channels);
    assert_eq!(report.one("redis.applications", "problem")["lines"], json!([r#""keyPrefix": "blog_database_""#]));
}

#[test]
fn the_wrong_secret() {
    let pusher = |rest: &str| {
        format!(
            "BROADCAST_DRIVER=pusher\nPUSHER_APP_ID=shop\nPUSHER_APP_KEY=shop-key\nPUSHER_HOST=echo.internal\nPUSHER_APP_SECRET={rest}\n"
        )
    };
    let quiet = json!({"subscribers": {"redis": false}});
    let report = Place::new(quiet.clone()).with_application(&pusher("wrong-secret")).examine(&[]);
    let line = r#""secret": "(the value of PUSHER_APP_SECRET)""#;
    report.names("laravel.secret", "problem", "another secret", "laravel-echo-server.json, in clients[0]", line);
    let fix = report.one("laravel.secret", "problem")["fix"].as_str().unwrap().to_owned();
    assert!(fix.contains(".env, line 5"), "{fix}");
    assert!(!report.text.contains("wrong-secret") && !report.text.contains("right-secret"), "{}", report.text);
    let report = Place::new(quiet.clone()).with_application(&pusher("right-secret")).examine(&[]);
    for id in ["laravel.secret", "laravel.key", "laravel.driver", "laravel.server", "auth.way"] {
        report.one(id, "ok");
    }
    // It is being changed.
    let mut changing = quiet.clone();
    changing["clients"] =
        json!([{"appId": "shop", "key": "shop-key", "secret": "new-secret", "previousSecrets": ["right-secret"]}]);
    let report = Place::new(changing).with_application(&pusher("right-secret")).examine(&[]);
    let line = "PUSHER_APP_SECRET=(the \"secret\" in clients[0])";
    report.names("laravel.secret", "warning", "previousSecrets", ".env, line 5", line);
    // Another key; and no server of one's own.
    let env = pusher("right-secret").replace("shop-key", "other-key").replace("PUSHER_HOST=echo.internal\n", "");
    let report = Place::new(quiet).with_application(&env).examine(&[]);
    report.names(
        "laravel.key",
        "problem",
        r#""other-key", which is not in "clients""#,
        ".env, line 3",
        "PUSHER_APP_KEY=shop-key",
    );
    report.names("laravel.server", "problem", "Pusher's hosted service", ".env", "PUSHER_HOST=127.0.0.1");
}

#[test]
fn the_driver_log() {
    let quiet = json!({"subscribers": {"redis": false}});
    let report = Place::new(quiet.clone()).with_application("APP_NAME=Shop\nBROADCAST_DRIVER=log\n").examine(&[]);
    report.names(
        "laravel.driver",
        "problem",
        "writes its events to its log (driver log)",
        ".env, line 2",
        "BROADCAST_DRIVER=redis",
    );
    // With a cached configuration, a change of .env alone is of no use.
    let place = Place::new(quiet.clone()).with_application("APP_NAME=Shop\nBROADCAST_DRIVER=log\n");
    place.write(
        "bootstrap/cache/config.php",
        "<?php return array (\n  'broadcasting' => \n  array (\n    'default' => 'log',\n  ),\n);\n",
    );
    let fix = place.examine(&[]).one("laravel.driver", "problem")["fix"].as_str().unwrap().to_owned();
    assert!(fix.contains("php artisan config:cache"), "{fix}");
    // Nothing chosen is null.
    let report = Place::new(quiet.clone()).with_application("APP_NAME=Shop\n").examine(&[]);
    report.names("laravel.driver", "problem", "driver null", ".env", "BROADCAST_DRIVER=redis");
    // The variable of another version of Laravel.
    let report = Place::new(quiet).with_application("APP_NAME=Shop\nBROADCAST_CONNECTION=redis\n").examine(&[]);
    report.names(
        "laravel.driver",
        "problem",
        "BROADCAST_CONNECTION=redis in .env counts for nothing",
        ".env, line 2",
        "BROADCAST_DRIVER=redis",
    );
}

#[test]
fn the_port_is_taken() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let place = Place::new(json!({"port": port, "subscribers": {"redis": false}}));
    let report = place.examine(&[]);
    let line = format!("\"port\": {}", port + 1);
    let cause = format!("The port {port} is taken by the program");
    report.names("port.free", "problem", &cause, "laravel-echo-server.json", &line);
    let what = report.one("port.free", "problem")["what"].as_str().unwrap().to_owned();
    assert!(what.contains(&format!("(process {})", std::process::id())), "{what}");
    drop(other);
    place.examine(&[]).one("port.free", "ok");
}

#[test]
fn an_expired_certificate() {
    let place = Place::new(json!({"subscribers": {"redis": false}}));
    let with = |from, to| {
        let mut params = rcgen::CertificateParams::new(["ws.shop.test".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(to, 1, 1));
        let key = rcgen::KeyPair::generate().unwrap();
        place.write("cert.pem", &params.self_signed(&key).unwrap().pem());
        place.write("key.pem", &key.serialize_pem());
        let mut config: Value = serde_json::from_str(&fs::read_to_string(place.path(FILE)).unwrap()).unwrap();
        config["protocol"] = "https".into();
        config["sslCertPath"] = path_text(&place.path("cert.pem")).into();
        config["sslKeyPath"] = path_text(&place.path("key.pem")).into();
        place.write(FILE, &config.to_string());
    };
    with(2020, 2021);
    let report = place.examine(&[]);
    let line = format!("\"sslCertPath\": {:?}", path_text(&place.path("cert.pem")));
    report.names("tls.dates", "problem", "The certificate has expired", "laravel-echo-server.json", &line);
    report.one("tls.files", "ok");
    with(2020, 2090);
    let report = place.examine(&["--url", "https://localhost:1"]);
    report.one("tls.dates", "ok");
    report.names(
        "tls.trust",
        "warning",
        "does not trust the certificate",
        "laravel-echo-server.json",
        &format!("\"sslCertPath\": {:?}", path_text(&place.path("fullchain.pem"))),
    );
    // For another name than browsers use.
    place.write(".env", "APP_URL=https://www.shop.test\n");
    let report = place.examine(&[]);
    report.names(
        "tls.names",
        "problem",
        "for ws.shop.test, and not for www.shop.test",
        "laravel-echo-server.json",
        &line,
    );
    // A key that belongs to another one.
    place.write("key.pem", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    assert!(place.examine(&[]).one("tls.files", "problem")["what"].as_str().unwrap().contains("do not go together"));
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_low_file_limit() {
    let place = Place::new(json!({"subscribers": {"redis": false}, "limits": {"connections": 5000}}));
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 1024; exec \"$0\" doctor --json --dir \"$1\"", PROGRAM]).arg(place.dir.path());
    let child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let report = Report::of(child);
    let cause = "may open 1024 files, too few for 5000 connections";
    report.names("limits.files", "warning", cause, "systemd unit", "LimitNOFILE=5288");
    let fix = report.one("limits.files", "warning")["fix"].as_str().unwrap().to_owned();
    assert!(fix.contains("ulimit -n") && fix.contains("\"connections\": 736"), "{fix}");
}

/// A running server; ended by its process id when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_that_runs_well() {
    let redis = Redis::start(&[]);
    let started = (0..5).find_map(|_| {
        let place = Place::new(json!({"port": free_port(), "databaseConfig": {"redis": {"port": redis.port}}}));
        let mut command = Command::new(PROGRAM);
        command.arg("start").arg("--dir").arg(place.dir.path()).env_clear().stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_ready =
            lines.by_ref().map_while(Result::ok).any(|line| line.contains("Listening for events from Redis"));
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        is_ready.then_some((Running(child), place))
    });
    let (server, place) = started.unwrap();
    let env = format!("APP_NAME=Shop\nBROADCAST_DRIVER=redis\nREDIS_PORT={}\n", redis.port);
    let place = place.with_application(&env);
    let report = place.examine(&["--listen=0"]);
    assert_eq!((report.code, report.json["level"].as_str()), (0, Some("ok")), "{}", report.text);
    let running = report.one("server.running", "ok")["what"].as_str().unwrap().to_owned();
    assert!(running.contains(&format!("(process {})", server.0.id())), "{running}");
    for id in [
        "file.read",
        "laravel.driver",
        "redis.reach",
        "redis.rights",
        "redis.same",
        "redis.prefix",
        "auth.route",
        "limits.files",
    ] {
        report.one(id, "ok");
    }
    // The way that browsers take, without anything between.
    let config: Value = serde_json::from_str(&fs::read_to_string(place.path(FILE)).unwrap()).unwrap();
    let report = place.examine(&["--listen=0", "--url", &format!("ws://127.0.0.1:{}", config["port"])]);
    report.one("proxy.app", "ok");
    report.one("proxy.socketio", "ok");
    // Another port is in the file since the start, and counts only for the next one.
    let mut changed = config.clone();
    changed["port"] = free_port().into();
    place.write(FILE, &changed.to_string());
    let what = place.examine(&["--listen=0"]).one("server.running", "warning")["what"].to_string();
    assert!(what.contains("and nobody listens on port"), "{what}");
}

#[test]
fn what_laravel_answers() {
    let quiet = |port: u16| json!({"subscribers": {"redis": false}, "authHost": format!("http://127.0.0.1:{port}")});
    let text = |status: &str, more: &str, body: &str| -> &'static str {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n{body}", body.len()).leak()
    };
    for (answer, id, level, cause) in [
        (text("200 OK", "", "true"), "auth.anonymous", "problem", "lets everybody into every channel"),
        (text("200 OK", "", "<html>"), "auth.route", "problem", "is not Laravel's broadcasting route"),
        (text("302 Found", "Location: /login\r\n", ""), "auth.route", "ok", "sends those who do not say who they are"),
        (
            text("301 Moved", "Location: https://shop.test/broadcasting/auth\r\n", ""),
            "auth.route",
            "problem",
            "redirects",
        ),
        (text("401 Unauthorized", "", "{}"), "auth.route", "ok", "lets nobody in"),
        (text("404 Not Found", "", "{}"), "auth.route", "problem", "has no broadcasting route"),
        (text("419 unknown", "", "{}"), "auth.csrf", "problem", "wants a CSRF token"),
        (text("500 Oh", "", "{}"), "auth.answer", "problem", "Laravel fails"),
        (
            text("403 Forbidden", "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "{}"),
            "clock.laravel",
            "warning",
            "behind this machine's",
        ),
    ] {
        let report = Place::new(quiet(answering(answer))).examine(&[]);
        let what = report.one(id, level)["what"].as_str().unwrap().to_owned();
        assert!(what.contains(cause), "{cause:?} is not in {what:?}");
    }
    let report =
        Place::new(quiet(answering(text("301 Moved", "Location: https://shop.test/broadcasting/auth\r\n", ""))))
            .examine(&[]);
    report.names(
        "auth.route",
        "problem",
        "redirects",
        "laravel-echo-server.json",
        r#""authHost": "https://shop.test""#,
    );
    // Nobody is there, and .env says where the application is.
    let place = Place::new(quiet(free_port()));
    place.write(".env", "APP_URL=http://shop.test:8000\n");
    place.examine(&[]).names(
        "auth.reach",
        "problem",
        "cannot be asked",
        "laravel-echo-server.json",
        r#""authHost": "http://shop.test:8000""#,
    );
}

#[test]
fn what_is_given_to_it_is_not_shown() {
    let place = Place::new(json!({"subscribers": {"redis": false}}));
    let report = place.examine(&["--token", "tok-en-1", "--cookie", "ses=sion-1", "--channel", "private-user.1"]);
    let found: Vec<_> = report.findings().iter().filter(|finding| finding["id"] == "auth.credentials").collect();
    assert_eq!(found.len(), 2, "{}", report.text);
    assert!(!report.text.contains("tok-en-1") && !report.text.contains("sion-1"), "{}", report.text);
}

#[test]
fn it_ends_though_nobody_answers() {
    // Taken, and never answered.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let place = Place::new(json!({"authHost": url, "authTimeoutMs": 300,
        "databaseConfig": {"redis": {"port": port, "connectTimeout": 300}}}));
    let start = Instant::now();
    let report = place.examine(&["--url", &url]);
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    for id in ["redis.reach", "auth.reach", "proxy.reach"] {
        report.one(id, "problem");
    }
}

#[test]
fn a_file_that_cannot_be_read_or_is_odd() {
    let place = Place::new(json!({"subscribers": {"redis": false}, "autHost": "x"}));
    let what = place.examine(&[]).one("file.settings", "warning")["what"].to_string();
    assert!(what.contains("authHost"), "{what}");
    place.write(FILE, "{ nonsense");
    let report = place.examine(&[]);
    assert!(report.one("file.read", "problem")["what"].as_str().unwrap().contains("line 1"), "{}", report.text);
    assert_eq!((report.findings().len(), report.code), (1, 2));
}

#[test]
fn for_people() {
    let place = Place::new(json!({"subscribers": {"redis": false}}));
    let mut command = Command::new(PROGRAM);
    command.arg("doctor").arg("--dir").arg(place.dir.path()).env_clear();
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("Configuration\n  ok       "), "{text}");
    assert!(text.ends_with("Nothing is wrong that the doctor can see.\n"), "{text}");
    assert!(!text.contains('\x1b'), "no colours where there is no terminal");
    assert_eq!(output.status.code(), Some(0));
}

/// Whoever reads an id in a report finds it in the document, and nothing else is there.
#[test]
fn each_id_is_explained() {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/doctor.md")).unwrap();
    let headings =
        document.lines().filter_map(|line| line.strip_prefix("### `")).map(|line| line.trim_end_matches('`'));
    assert_eq!(headings.collect::<Vec<_>>(), laravel_echo_server::doctor::IDS);
}
