//! Which of the ways to let clients into private and presence channels fits this application, and what it takes.

use super::application::Guard;
use super::auth::Facts;
use super::finding::Finding;
use super::{Subject, laravel};

pub(super) fn judge(subject: &Subject, facts: &Facts) -> Vec<Finding> {
    let answers =
        facts.anonymous.as_ref().is_some_and(|anonymous| matches!(anonymous.status, Some(200 | 301..=308 | 401 | 403)));
    let Some(application) = subject.application.as_ref() else {
        return if answers { vec![unknown(subject)] } else { Vec::new() };
    };
    let Some((connection, driver)) = subject.broadcast() else { return Vec::new() };
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
    let guard = application.routes.as_ref().map_or(Guard::Unknown, |routes| routes.guard);
    let place = application.routes.as_ref().map(|routes| format!(" ({})", routes.place)).unwrap_or_default();
    let finding = match guard {
        _ if application.has_auth_endpoint => {
            return vec![Finding::ok("auth.way", "The front end names an authEndpoint: way Gateway, if it is this server's")
                .why(format!("It has to be the path {} of this server, directly or through nginx.", subject.config.auth.endpoint))];
        }
        Guard::Bearer => Finding::warning("auth.way", format!("Laravel's broadcasting route takes bearer tokens only{place}, and a browser's WebSocket cannot carry one"))
            .why("pusher-js sends the token to Laravel, whose redis driver does not sign, so private and presence channels are refused here, unless the browser asks this server (way Gateway).")
            .fix("Let Echo ask this server, by this line among its options, or by the nginx location of README.md (Gateway):"),
        _ => Finding::ok("auth.way", "Private channels work by session cookie, if page and socket have the same host name (way Callback)")
            .why(if facts.takes_token() { "By bearer token, and for presence channels with pusher-js, the browser has to ask this server (way Gateway)." } else { "Presence channels with pusher-js, and bearer tokens, need that the browser asks this server (way Gateway)." })
            .fix("For that, give Echo this line among its options, or nginx the location of README.md (Gateway):"),
    };
    vec![finding.line("the front end, options of new Echo({ … })", gateway_line(subject))]
}

fn unknown(subject: &Subject) -> Finding {
    Finding::ok("auth.way", "How private channels are authorised depends on Laravel's driver, which is not known here")
        .why("pusher and reverb sign: nothing is needed. With redis, session cookies work as they are; bearer tokens, and presence channels with pusher-js, need that the browser asks this server (way Gateway).")
        .fix("For that, give Echo this line among its options, or nginx the location of README.md (Gateway):")
        .line("the front end, options of new Echo({ … })", gateway_line(subject))
}

fn gateway_line(subject: &Subject) -> String {
    let config = &subject.config;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    format!("authEndpoint: '{scheme}://' + window.location.hostname + ':{}{}',", config.port, config.auth.endpoint)
}
