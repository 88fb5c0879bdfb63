//! The prefix of Redis channels: what Laravel puts there, what this server takes off, and whose events are
//! heard. The most common reason why no event arrives.

use super::finding::Finding;
use super::redis::Heard;
use super::{Subject, in_list};
use crate::protocol::prefix::{News, Prefix};

pub(super) fn judge(subject: &Subject, heard: &Heard) -> Vec<Finding> {
    let config = &subject.config;
    // With prefixes of their own, each app has its own Laravel; the one beside the file is one of them.
    let own: Vec<&str> = config.apps.iter().filter_map(|app| app.key_prefix.as_deref()).collect();
    let configured = if own.is_empty() { config.redis.key_prefix.as_deref().into_iter().collect() } else { own };
    let laravels = subject.application.as_ref().filter(|_| subject.publishes_to_redis()).and_then(|app| app.prefix());
    let mut findings = vec![match (&configured[..], laravels) {
        ([], laravels) => unset(subject, laravels, heard),
        (configured, laravels) => set(subject, configured, laravels, heard),
    }];
    findings.extend(applications(subject, &configured, heard));
    findings
}

fn place(subject: &Subject) -> String {
    format!("{}, in databaseConfig.redis", subject.file)
}

fn line(prefix: &str) -> String {
    format!("\"keyPrefix\": {}", serde_json::Value::from(prefix))
}

/// `keyPrefix` is not configured: the server finds out by itself, if it can.
fn unset(subject: &Subject, laravels: Option<String>, heard: &Heard) -> Finding {
    let prefix = laravels.or_else(|| match heard.prefixes.len() {
        1 => heard.prefixes.keys().next().cloned(),
        _ => None,
    });
    let Some(prefix) = prefix else {
        let what = "No \"keyPrefix\" is set; the server finds it out from the first event that Laravel publishes";
        return Finding::ok("redis.prefix", what);
    };
    if prefix.is_empty() {
        return Finding::ok("redis.prefix", "Laravel publishes without a prefix, and none is set here");
    }
    let name = format!("{prefix}orders");
    let is_recognised =
        matches!(Prefix::recognise().route(&name, true).news, Some(News::FirstPrefix(found)) if found == prefix);
    if is_recognised {
        return Finding::ok(
            "redis.prefix",
            format!("Laravel publishes under the prefix {prefix:?}, which the server finds out by itself"),
        )
        .fix("To make it exact, so that no other application on this Redis is heard:")
        .line(place(subject), line(&prefix));
    }
    Finding::problem(
        "redis.prefix",
        format!("Laravel publishes under the prefix {prefix:?}, which is not of the form that is found out by itself"),
    )
    .why(format!("Its event for the channel orders arrives as {name:?}, and nobody has subscribed to that."))
    .fix("Name the prefix:")
    .line(place(subject), line(&prefix))
}

/// `keyPrefix` is configured: then it has to be right.
fn set(subject: &Subject, configured: &[&str], laravels: Option<String>, heard: &Heard) -> Finding {
    let shown = in_list(configured.iter().map(|prefix| format!("{prefix:?}")));
    let is_heard = |prefix: &str| configured.iter().any(|own| prefix == *own || own.is_empty());
    let wrong = |real: &str, how: String| {
        Finding::problem("redis.prefix", format!("This server listens for the prefix {shown}, and {how}"))
            .why("So no event of Laravel's arrives.")
            .fix("Correct it:")
            .line(
                if subject.config.redis.key_prefix.is_some() {
                    place(subject)
                } else {
                    format!("{}, in clients", subject.file)
                },
                line(real),
            )
    };
    if let Some(laravels) = laravels.filter(|laravels| !is_heard(laravels)) {
        let source = subject.application.as_ref().map(|app| app.file("config/database.php")).unwrap_or_default();
        return wrong(
            &laravels,
            format!("Laravel publishes under {laravels:?} ({source}, APP_NAME or REDIS_PREFIX in .env)"),
        );
    }
    let others: Vec<&String> = heard.prefixes.keys().collect();
    if let [only] = others[..]
        && !is_heard(only)
    {
        return wrong(only, format!("events are published under {only:?} ({})", in_list(&heard.channels)));
    }
    Finding::ok("redis.prefix", format!("This server listens for the prefix {shown}"))
}

/// Several applications publish to this Redis.
fn applications(subject: &Subject, configured: &[&str], heard: &Heard) -> Option<Finding> {
    if heard.prefixes.len() < 2 {
        return None;
    }
    let found: Vec<String> =
        heard.prefixes.iter().map(|(prefix, count)| format!("{prefix:?} ({count} events)")).collect();
    let what = format!("Several applications publish to this Redis, under the prefixes {}", in_list(&found));
    if !configured.is_empty() {
        return Some(Finding::ok("redis.applications", what).why("\"keyPrefix\" keeps them apart."));
    }
    let laravels = subject.application.as_ref().and_then(|app| app.prefix());
    let ours = laravels.filter(|prefix| heard.prefixes.contains_key(prefix));
    let finding = Finding::problem("redis.applications", what)
        .why("So that neither gets the other's events, this server then delivers each only to the channel of its full name, prefix included: pages hear nothing.")
        .fix(match &ours {
            Some(_) => "Say which application this server is for; the first is that of the application beside it:",
            None => "Say which application this server is for, by one of these lines, and restart it:",
        });
    let others = heard.prefixes.keys().filter(|prefix| ours.is_none() && !prefix.is_empty()).cloned();
    let lines: Vec<String> = ours.iter().cloned().chain(others).collect();
    Some(lines.iter().fold(finding, |finding, prefix| finding.line(place(subject), line(prefix))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Level;
    use super::*;

    /// Events that were heard, by prefix.
    fn heard(prefixes: &[(&str, usize)]) -> Heard {
        let prefixes = prefixes.iter().map(|(prefix, count)| ((*prefix).to_owned(), *count)).collect();
        Heard { prefixes, ..Heard::default() }
    }

    /// Level, and the lines to write, of each finding.
    fn judged(
        settings: serde_json::Value,
        env: &str,
        events: &[(&str, usize)],
    ) -> Vec<(&'static str, Level, Vec<String>)> {
        let files = [(".env", env)];
        let subject = Subject::of(settings, if env.is_empty() { &[] } else { &files });
        judge(&subject, &heard(events)).into_iter().map(|finding| (finding.id, finding.level, finding.lines)).collect()
    }

    fn with(prefix: &str) -> serde_json::Value {
        json!({"databaseConfig": {"redis": {"keyPrefix": prefix}}})
    }

    #[test]
    fn one_application() {
        let env = |prefix: &str| format!("BROADCAST_DRIVER=redis\nREDIS_PREFIX={prefix}\n");
        let none = || json!({});
        let line = |prefix: &str| vec![format!("\"keyPrefix\": \"{prefix}\"")];
        for (settings, env, events, level, lines) in [
            // Nothing is known.
            (none(), String::new(), &[][..], Level::Ok, vec![]),
            // It finds out by itself, but for prefixes of another form.
            (none(), String::new(), &[("shop_database_", 1)], Level::Ok, line("shop_database_")),
            (none(), env("shop_database_"), &[], Level::Ok, line("shop_database_")),
            (none(), env("shop:"), &[], Level::Problem, line("shop:")),
            (none(), String::new(), &[("shop:", 1)], Level::Problem, line("shop:")),
            (none(), String::new(), &[("", 1)], Level::Ok, vec![]),
            // Set, and right or wrong.
            (with("shop:"), env("shop:"), &[("shop:", 3)], Level::Ok, vec![]),
            (with("shop:"), env("other:"), &[], Level::Problem, line("other:")),
            (with("shop:"), String::new(), &[("other_database_", 1)], Level::Problem, line("other_database_")),
            (with("shop:"), String::new(), &[("", 1)], Level::Problem, line("")),
            // All that there is.
            (with(""), env("other:"), &[("other:", 1)], Level::Ok, vec![]),
            // Of a driver that does not publish to Redis nothing is known.
            (with("shop:"), env("other:").replace("=redis", "=pusher"), &[], Level::Ok, vec![]),
        ] {
            let found = judged(settings.clone(), &env, events);
            assert_eq!(found, [("redis.prefix", level, lines)], "{settings} {env} {events:?}");
        }
    }

    #[test]
    fn apps_with_prefixes_of_their_own() {
        let apps = json!({"clients": [{"appId": "a", "key": "a", "keyPrefix": "a:"}, {"appId": "b", "key": "b", "keyPrefix": "b:"}]});
        assert_eq!(judged(apps.clone(), "", &[("a:", 1)])[0].1, Level::Ok);
        let found = judged(apps.clone(), "", &[("a:", 1), ("b:", 2)]);
        assert_eq!(
            found.iter().map(|(id, level, _)| (*id, *level)).collect::<Vec<_>>(),
            [("redis.prefix", Level::Ok), ("redis.applications", Level::Ok)]
        );
        assert_eq!(judged(apps, "", &[("c:", 1)])[0].1, Level::Problem);
    }

    #[test]
    fn several_applications() {
        let events = [("a_database_", 1), ("b_database_", 2)];
        let found = judged(json!({}), "", &events);
        let lines = ["\"keyPrefix\": \"a_database_\"".to_owned(), "\"keyPrefix\": \"b_database_\"".to_owned()];
        assert_eq!(found[1], ("redis.applications", Level::Problem, lines.to_vec()));
        let found = judged(json!({}), "BROADCAST_DRIVER=redis\nREDIS_PREFIX=b_database_\n", &events);
        assert_eq!(found[1], ("redis.applications", Level::Problem, lines[1..].to_vec()));
        let found = judged(with("a_database_"), "", &events);
        assert_eq!((found[0].1, found[1].1), (Level::Ok, Level::Ok));
    }
}
