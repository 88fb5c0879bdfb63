//! Which of the ways to let clients into private and presence channels fits this application, and what it takes.

use super::application::Guard;
use super::auth::Facts;
use super::finding::Finding;
use super::{Subject, laravel};

pub(super) fn judge(subject: &Subject, facts: &Facts) -> Vec<Finding> {
    let answers =
        facts.anonymous.as_ref().is_some_and(|anonymous| matches!(anonymous.status, Some(200 | 301..=308 | 401 | 403)));
    let (Some(application), Some((connection, driver))) = (subject.application.as_ref(), subject.broadcast()) else {
        return match answers {
            true if facts.takes_tokens_only() => vec![tokens_only(subject, "")],
            true => vec![unknown(subject)],
            false => Vec::new(),
        };
    };
    if laravel::signing_key(application, &connection, &driver).is_some() {
        return vec![Finding::ok(
            "auth.way",
            format!("Laravel signs its yes (driver {driver}): way Signature, nothing else is needed"),
        )];
    }
    if subject.config.proxy {
        return vec![Finding::ok(
            "auth.way",
            "\"proxy\" is true: open the application on this server's port, and all ways work (for development)",
        )];
    }
    if application.has_auth_endpoint {
        return vec![
            Finding::ok("auth.way", "The front end names an authEndpoint: way Gateway, if it is this server's").why(
                format!(
                    "It has to be the path {} of this server, directly or through nginx.",
                    subject.config.auth.endpoint
                ),
            ),
        ];
    }
    let routes = application.routes.as_ref();
    // What it answers tells more than what its files say.
    if facts.takes_tokens_only() || routes.is_some_and(|routes| routes.guard == Guard::Bearer) {
        let place = routes.map(|routes| format!(" ({})", routes.place)).unwrap_or_default();
        return vec![tokens_only(subject, &place)];
    }
    let finding = Finding::ok(
        "auth.way",
        "Private channels work by session cookie, if page and socket have the same host name (way Callback)",
    )
    .why("Bearer tokens, and presence channels with pusher-js, need that the browser asks this server (way Gateway).")
    .fix("For that, give Echo this line among its options, or nginx the location of docs/authorise.md (Gateway):");
    vec![finding.line(FRONT_END, gateway_line(subject))]
}

const FRONT_END: &str = "the front end, options of new Echo({ … })";

fn tokens_only(subject: &Subject, place: &str) -> Finding {
    Finding::warning("auth.way", format!("Laravel's broadcasting route takes bearer tokens only{place}, and a browser's WebSocket cannot carry one"))
        .why("pusher-js sends the token to Laravel, whose redis driver does not sign, so private and presence channels are refused here, unless the browser asks this server (way Gateway).")
        .fix("Let Echo ask this server, by this line among its options, or by the nginx location of docs/authorise.md (Gateway):")
        .line(FRONT_END, gateway_line(subject))
}

fn unknown(subject: &Subject) -> Finding {
    Finding::ok("auth.way", "How private channels are authorised depends on Laravel's driver, which is not known here")
        .why("pusher and reverb sign: nothing is needed. With redis, session cookies work as they are; bearer tokens, and presence channels with pusher-js, need that the browser asks this server (way Gateway).")
        .fix("For that, give Echo this line among its options, or nginx the location of docs/authorise.md (Gateway):")
        .line(FRONT_END, gateway_line(subject))
}

fn gateway_line(subject: &Subject) -> String {
    let config = &subject.config;
    let scheme = config.scheme();
    format!("authEndpoint: '{scheme}://' + window.location.hostname + ':{}{}',", config.port, config.auth.endpoint)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Level;
    use super::*;
    use crate::auth::probe::Probed;

    fn judged(settings: Value, files: &[(&str, &str)], facts: &Facts) -> Vec<(Level, String)> {
        let found = judge(&Subject::of(settings, files), facts);
        found
            .into_iter()
            .map(|finding| (finding.level, format!("{} {}", finding.what, finding.lines.join(" "))))
            .collect()
    }

    #[test]
    fn which_way_fits() {
        let answers = |status| Some(Probed { status: Some(status), ..Probed::default() });
        let yes = || Some(Probed { is_yes: true, ..Probed::default() });
        let there = || Facts { anonymous: answers(401), ..Facts::default() };
        let tokens = || Facts { by_cookie: answers(401), by_token: yes(), ..there() };
        let redis = (".env", "BROADCAST_DRIVER=redis\n");
        let routes = |text: &'static str| ("routes/web.php", text);
        let line = "authEndpoint: 'http://' + window.location.hostname + ':6001/broadcasting/auth',";
        for (settings, files, facts, level, parts) in [
            (json!({}), vec![], there(), Level::Ok, ["not known here", line]),
            (json!({}), vec![], tokens(), Level::Warning, ["bearer tokens only", line]),
            (json!({}), vec![redis], there(), Level::Ok, ["by session cookie", line]),
            (json!({}), vec![redis], tokens(), Level::Warning, ["bearer tokens only", line]),
            (
                json!({}),
                vec![redis, routes("Broadcast::routes(['middleware' => ['auth:api']]);")],
                there(),
                Level::Warning,
                ["web.php, line 1", line],
            ),
            (
                json!({}),
                vec![redis, ("resources/js/echo.js", "authEndpoint: 'x'")],
                tokens(),
                Level::Ok,
                ["names an authEndpoint", ""],
            ),
            (json!({"proxy": true}), vec![redis], tokens(), Level::Ok, ["\"proxy\" is true", ""]),
            (
                json!({}),
                vec![(".env", "BROADCAST_DRIVER=pusher\nPUSHER_APP_KEY=k\n")],
                there(),
                Level::Ok,
                ["Laravel signs its yes", ""],
            ),
        ] {
            let found = judged(settings, &files, &facts);
            assert_eq!(found.len(), 1, "{files:?}");
            assert_eq!(found[0].0, level, "{found:?}");
            assert!(parts.iter().all(|part| found[0].1.contains(part)), "{found:?}");
        }
        // Of a route that is not there, nothing can be said.
        assert_eq!(judged(json!({}), &[], &Facts { anonymous: answers(404), ..Facts::default() }), []);
    }
}
