//! The Laravel application's own settings: where it sends its events, and whether keys and secrets agree with
//! `clients`.

use std::path::Path;

use super::application::{Application, Cache};
use super::finding::Finding;
use super::{Subject, in_list, is_this_machine};
use crate::config::App;

/// Drivers that do not publish to Redis. Others are the application's own, and most are made of the redis one.
pub(super) const WITHOUT_REDIS: [&str; 5] = ["log", "null", "pusher", "reverb", "ably"];

/// Whether there is an application at all.
pub(super) fn found(application: Option<&Application>, asked_for: Option<&Path>) -> Finding {
    match (application, asked_for) {
        (Some(application), _) => {
            Finding::ok("laravel.found", format!("The Laravel application is in {}", application.folder()))
        }
        (None, Some(folder)) => {
            Finding::warning("laravel.found", format!("No Laravel application is in {}", folder.display()))
                .why("It would have a file artisan, or a .env with APP_KEY, APP_NAME or BROADCAST_CONNECTION.")
                .fix("Name the application's folder: --app DIR.")
        }
        (None, None) => {
            Finding::ok("laravel.found", "No Laravel application is beside the file, so its settings were not compared")
                .fix("If it is on this machine, name its folder: --app DIR.")
        }
    }
}

/// All that its files say.
pub(super) fn judge(subject: &Subject) -> Vec<Finding> {
    let Some(application) = &subject.application else { return Vec::new() };
    let mut findings = Vec::new();
    if application.cache == Cache::Outdated {
        findings.push(
            Finding::warning(
                "laravel.cache",
                format!("{} is older than .env", application.file("bootstrap/cache/config.php")),
            )
            .why("Laravel reads the cached configuration and not .env, so what was changed in .env does not count.")
            .fix("In the application's folder:")
            .line("a shell", "php artisan config:cache"),
        );
    }
    let Some((connection, driver)) = subject.broadcast() else { return findings };
    findings.push(driver_finding(subject, application, &connection, &driver));
    if let Some(key) = signing_key(application, &connection, &driver) {
        findings.extend(keys(subject, application, &connection, &driver, &key));
    }
    if matches!(driver.as_str(), "pusher" | "reverb") {
        findings.push(server(subject, application, &connection, &driver));
    }
    findings.extend(front_end(subject, application));
    findings.extend(queue(application, &driver));
    findings.into_iter().map(|finding| cached(application, finding)).collect()
}

/// What is changed in `.env` counts only once it is in the cache, if there is one.
fn cached(application: &Application, finding: Finding) -> Finding {
    let is_env = finding.file.as_ref().is_some_and(|file| file.starts_with(&application.file(".env")));
    match finding.fix.clone().filter(|_| is_env && application.cache != Cache::None) {
        Some(fix) => finding.fix(format!(
            "{}, and run `php artisan config:cache` afterwards, since Laravel reads its cache:",
            fix.trim_end_matches([':', '.'])
        )),
        None => finding,
    }
}

/// The variable of `.env` that chooses the driver.
fn driver_variable(application: &Application) -> &'static str {
    let set = |name: &&&str| application.env.get(name).is_some();
    match &application.driver_variables[..] {
        [] if application.is_slim => "BROADCAST_CONNECTION",
        [] => ["BROADCAST_CONNECTION", "BROADCAST_DRIVER"].iter().find(set).copied().unwrap_or("BROADCAST_DRIVER"),
        names => names.iter().find(set).copied().unwrap_or(names[0]),
    }
}

fn driver_finding(subject: &Subject, application: &Application, connection: &str, driver: &str) -> Finding {
    let variable = driver_variable(application);
    let place = application.env_line(variable);
    let to_redis = |finding: Finding| finding.fix("Let it publish to Redis:").line(&place, format!("{variable}=redis"));
    let problem = |what: String| Finding::problem("laravel.driver", what);
    let ignored = ["BROADCAST_CONNECTION", "BROADCAST_DRIVER"].into_iter().find(|name| {
        *name != variable
            && !application.driver_variables.is_empty()
            && !application.driver_variables.contains(name)
            && application.env.get(name).is_some_and(|set| set != connection)
    });
    if let (Some(ignored), None) = (ignored, application.env.get(variable)) {
        let set = application.env.get(ignored).unwrap_or_default();
        return problem(format!("{ignored}={set} in .env counts for nothing: this application reads {variable}"))
            .why(format!("config/broadcasting.php says so. Without {variable} it broadcasts with {connection:?}, so events do not come here. (The name changed with Laravel 11.)"))
            .fix("Rename it:")
            .line(application.env_line(ignored), format!("{variable}={set}"));
    }
    if application.lacks_connection(connection) {
        let finding = problem(format!(
            "{variable} names the connection {connection:?}, which config/broadcasting.php does not have"
        ))
        .why("Laravel then throws \"Broadcast connection is not defined\" at each event.");
        return match connection {
            "redis" => finding.fix("Add it under connections:").line(
                application.file("config/broadcasting.php"),
                "'redis' => ['driver' => 'redis', 'connection' => 'default'],",
            ),
            _ => finding
                .fix("Add it there, as Laravel's documentation has it, or take one that is there:")
                .line(&place, format!("{variable}=redis")),
        };
    }
    match driver {
        "log" => to_redis(
            problem("Laravel writes its events to its log (driver log)".to_owned())
                .why("They are in storage/logs/laravel.log, and go nowhere else."),
        ),
        "null" => to_redis(
            problem("Laravel throws its events away (driver null)".to_owned())
                .why(format!("That is what is used when {variable} is not set.")),
        ),
        "ably" => {
            to_redis(problem("Laravel sends its events to Ably (driver ably)".to_owned()).why("They never come here."))
        }
        "pusher" | "reverb" if !subject.config.subscribers.http => {
            problem(format!("Laravel sends its events over HTTP (driver {driver}), which are not taken here"))
                .why("\"subscribers.http\" is false.")
                .fix("Take them:")
                .line(format!("{}, in subscribers", subject.file), "\"http\": true")
        }
        "pusher" | "reverb" => {
            Finding::ok("laravel.driver", format!("Laravel sends its events over HTTP (driver {driver})"))
        }
        _ if !subject.config.subscribers.redis => {
            problem(format!("Laravel publishes to Redis (driver {driver}), which is not listened to here"))
                .why("\"subscribers.redis\" is false.")
                .fix("Listen to it:")
                .line(format!("{}, in subscribers", subject.file), "\"redis\": true")
        }
        "redis" => Finding::ok("laravel.driver", "Laravel publishes its events to Redis (driver redis)"),
        own => {
            Finding::ok("laravel.driver", format!("Laravel broadcasts with a driver of the application's own ({own})"))
        }
    }
}

/// The key that Laravel signs for, if its driver signs.
pub(super) fn signing_key(application: &Application, connection: &str, driver: &str) -> Option<String> {
    let family = family(driver);
    let key = application.broadcast_setting(connection, &["key"], &format!("{family}_APP_KEY"));
    key.filter(|key| !key.is_empty() && !matches!(driver, "redis" | "log" | "null" | "ably"))
}

fn family(driver: &str) -> &'static str {
    if driver == "reverb" { "REVERB" } else { "PUSHER" }
}

fn keys(subject: &Subject, application: &Application, connection: &str, driver: &str, key: &str) -> Vec<Finding> {
    let family = family(driver);
    let apps = &subject.config.apps;
    let variable = |part: &str| format!("{family}_APP_{part}");
    let Some((index, app)) = apps.iter().enumerate().find(|(_, app)| app.key == key) else {
        let known: Vec<&str> = apps.iter().filter(|app| !app.id.is_empty()).map(|app| app.key.as_str()).collect();
        let finding = Finding::problem(
            "laravel.key",
            format!("Laravel signs for the app key {key:?}, which is not in \"clients\""),
        )
        .why("What it signs is refused here, events over HTTP with 401 and subscriptions.");
        return vec![match known.first() {
            Some(first) => finding
                .fix(format!("\"clients\" has {}. Name one of them:", in_list(&known)))
                .line(application.env_line(&variable("KEY")), format!("{}={first}", variable("KEY"))),
            None => finding.fix("Add it:").line(
                format!("{}, in clients", subject.file),
                format!(
                    "{{ \"appId\": \"my-app\", \"key\": {key:?}, \"secret\": \"(the value of {})\" }}",
                    variable("SECRET")
                ),
            ),
        }];
    };
    let mut findings = vec![id(application, connection, driver, app).unwrap_or_else(|| {
        Finding::ok("laravel.key", format!("Laravel signs for the app key {key:?}, which is in \"clients\""))
    })];
    let secret = application.broadcast_setting(connection, &["secret"], &variable("SECRET"));
    let place = format!("{}, in clients[{index}]", subject.file);
    let line = format!("\"secret\": \"(the value of {})\"", variable("SECRET"));
    let why = "A signature counts only if both sides have the same secret: with this one private channels are refused, and events over HTTP with 401.";
    findings.push(match secret.filter(|secret| !secret.is_empty()) {
        None => Finding::problem("laravel.secret", format!("Laravel's driver {driver} has no secret to sign with"))
            .fix("Give it the secret of the client:")
            .line(
                application.env_line(&variable("SECRET")),
                format!("{}=(the \"secret\" in clients[{index}])", variable("SECRET")),
            ),
        Some(_) if app.secret_is_random => Finding::problem(
            "laravel.secret",
            format!("The client {:?} has no secret here, and Laravel signs with one", app.id),
        )
        .why(why)
        .fix(format!("Copy it from {}:", application.env_line(&variable("SECRET"))))
        .line(place, line),
        Some(secret) if app.previous_secrets.iter().any(|previous| previous.expose() == secret) => {
            Finding::warning("laravel.secret", "Laravel signs with one of the client's \"previousSecrets\"")
                .why("It is taken, as long as it stands there.")
                .fix("Give Laravel the new one, then take the old one out:")
                .line(
                    application.env_line(&variable("SECRET")),
                    format!("{}=(the \"secret\" in clients[{index}])", variable("SECRET")),
                )
        }
        Some(secret) if secret != app.secret.expose() => Finding::problem(
            "laravel.secret",
            format!("Laravel signs with another secret than that of the client {:?}", app.id),
        )
        .why(why)
        .fix(format!("Make them the same; {} has Laravel's:", application.env_line(&variable("SECRET"))))
        .line(place, line),
        Some(_) => Finding::ok("laravel.secret", "Laravel and this server have the same secret"),
    });
    findings
}

/// Over HTTP, the app's id is part of each path.
fn id(application: &Application, connection: &str, driver: &str, app: &App) -> Option<Finding> {
    if !matches!(driver, "pusher" | "reverb") {
        return None;
    }
    let variable = format!("{}_APP_ID", family(driver));
    let id = application.broadcast_setting(connection, &["app_id"], &variable)?;
    (id != app.id).then(|| {
        Finding::problem(
            "laravel.key",
            format!("Laravel sends events to the app {id:?}; the client with its key has the appId {:?}", app.id),
        )
        .why("Its requests are answered 404 or 401.")
        .fix("Make them the same:")
        .line(application.env_line(&variable), format!("{variable}={}", app.id))
    })
}

/// Where Laravel sends its events over HTTP.
fn server(subject: &Subject, application: &Application, connection: &str, driver: &str) -> Finding {
    let family = family(driver);
    let config = &subject.config;
    let setting = |key: &str, variable: &str| {
        application.broadcast_setting(connection, &["options", key], &format!("{family}_{variable}"))
    };
    let (host, port, scheme) = (setting("host", "HOST"), setting("port", "PORT"), setting("scheme", "SCHEME"));
    let port = port.and_then(|port| port.parse::<u16>().ok());
    let (own_port, own_scheme) = config.port_for(port);
    let port_line = format!("{family}_PORT={own_port}");
    let Some(host) = host.filter(|host| !host.is_empty() && !host.ends_with(".pusher.com")) else {
        return Finding::problem("laravel.server", format!("Laravel sends its events to Pusher's hosted service (driver {driver})"))
            .why(format!("{family}_HOST is not set, or config/broadcasting.php does not read it (applications that began with Laravel 8 or before)."))
            .fix("Name this server, as seen from Laravel; and under connections.pusher in config/broadcasting.php 'options' must have 'host', 'port' and 'scheme':")
            .line(application.file(".env"), format!("{family}_HOST=127.0.0.1"))
            .line(application.file(".env"), port_line)
            .line(application.file(".env"), format!("{family}_SCHEME={own_scheme}"));
    };
    let target = format!(
        "{}://{host}:{}",
        scheme.as_deref().unwrap_or("https"),
        port.map_or("(default)".to_owned(), |port| port.to_string())
    );
    if is_this_machine(&host) && own_port != 0 && (port != Some(own_port) || scheme.as_deref() != Some(own_scheme)) {
        return Finding::warning(
            "laravel.server",
            format!("Laravel sends its events to {target}, and this server is at {}", subject.local_url()),
        )
        .why("Unless something passes them on, they do not arrive.")
        .fix("Correct them:")
        .line(application.env_line(&format!("{family}_PORT")), port_line)
        .line(application.env_line(&format!("{family}_PORT")), format!("{family}_SCHEME={own_scheme}"));
    }
    Finding::ok("laravel.server", format!("Laravel sends its events to {target}"))
}

/// The key that the front end is built with.
fn front_end(subject: &Subject, application: &Application) -> Option<Finding> {
    let names = ["VITE_REVERB_APP_KEY", "VITE_PUSHER_APP_KEY", "MIX_PUSHER_APP_KEY"];
    let (name, key) =
        names.into_iter().find_map(|name| Some((name, application.env.get(name).filter(|key| !key.is_empty())?)))?;
    let apps = &subject.config.apps;
    if apps.iter().any(|app| app.key == key) {
        return Some(Finding::ok(
            "laravel.frontend",
            format!("The front end is built with the app key {key:?} ({name})"),
        ));
    }
    let first = apps.iter().find(|app| !app.id.is_empty())?;
    Some(
        Finding::warning(
            "laravel.frontend",
            format!("The front end is built with the app key {key:?} ({name}), which is not in \"clients\""),
        )
        .why("If it uses that one, its connections are closed with 4001.")
        .fix("Name the client's key, and build the front end again:")
        .line(application.env_line(name), format!("{name}={}", first.key)),
    )
}

/// Queued events need somebody who works on the queue.
fn queue(application: &Application, driver: &str) -> Option<Finding> {
    let queue = ["QUEUE_CONNECTION", "QUEUE_DRIVER"].iter().find_map(|name| application.env.get(name))?;
    if matches!(queue, "sync" | "null" | "") || matches!(driver, "log" | "null") {
        return None;
    }
    if has_worker() {
        return Some(Finding::ok(
            "laravel.queue",
            format!("Events wait for a queue worker (QUEUE_CONNECTION={queue}), and one runs here"),
        ));
    }
    Some(
        Finding::warning("laravel.queue", format!("Events wait for a queue worker (QUEUE_CONNECTION={queue}), and none is to be seen on this machine"))
            .why("Events that implement ShouldBroadcast are published by the worker alone. It may run elsewhere, or as another user.")
            .fix("Keep one running, by Supervisor or systemd; or let the events implement ShouldBroadcastNow:")
            .line("a shell", "php artisan queue:work"),
    )
}

/// Whether a process of this machine looks like a worker.
fn has_worker() -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok()).any(|line| {
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.iter().any(|word| [&b"queue:work"[..], b"queue:listen", b"horizon"].contains(word))
    })
}
