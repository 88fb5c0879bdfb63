//! Laravel's broadcasting route: whether it is there, what it answers to nobody and to somebody, and what its
//! answers mean.

use url::Url;

use super::application::Application;
use super::clock::{millis_of_date, now_millis};
use super::finding::Finding;
use super::{Question, Subject};
use crate::auth::callback::Laravel;
use crate::auth::probe::Probed;
use crate::config::{App, Auth};
use crate::metrics::Metrics;
use crate::protocol::channel::{Access, ChannelName};
use crate::protocol::{SocketId, app_tag, signature};

/// The channel about which Laravel is asked, if none is named. No application has it, and that is no matter: the
/// route has to answer anyway.
const CHANNEL: &str = "private-laravel-echo-server-doctor";

/// Longer than Laravel may take is not waited for.
const ANSWER_MAX: std::time::Duration = std::time::Duration::from_secs(6);

/// What Laravel answered.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Why it cannot be asked at all.
    pub cannot: Option<String>,
    /// Without cookie and token.
    pub anonymous: Option<Probed>,
    /// With the cookie, if one was given.
    pub by_cookie: Option<Probed>,
    /// With the token, if one was given.
    pub by_token: Option<Probed>,
    /// As which socket was asked.
    pub socket_id: Option<SocketId>,
    /// By how many milliseconds its clock is ahead of this one.
    pub clock_ahead: Option<i64>,
}

impl Facts {
    /// Laravel has let in with the token and not with the cookie.
    pub(super) fn takes_tokens_only(&self) -> bool {
        let says =
            |probed: &Option<Probed>, wanted: bool| probed.as_ref().is_some_and(|probed| probed.is_yes == wanted);
        says(&self.by_token, true) && says(&self.by_cookie, false)
    }
}

/// Asks as nobody, with the cookie and with the token, all at once.
pub(super) async fn probe(subject: &Subject, question: &Question) -> Facts {
    let auth = Auth { timeout: subject.config.auth.timeout.min(ANSWER_MAX), ..subject.config.auth.clone() };
    let laravel = match Laravel::new(&auth, Default::default(), Metrics::new(0, Vec::new())) {
        Ok(laravel) => laravel,
        Err(error) => return Facts { cannot: Some(error.to_string()), ..Facts::default() },
    };
    let channel = match ChannelName::parse(question.channel.as_deref().unwrap_or(CHANNEL)) {
        Ok(channel) => channel,
        Err(error) => return Facts { cannot: Some(format!("--channel: {error}")), ..Facts::default() },
    };
    let socket_id = SocketId::new(now_millis().unsigned_abs(), app_tag(&subject.config.apps[0].key));
    let ask = async |name: &str, value: Option<String>| match value {
        Some(value) => Some(laravel.probe(&channel, socket_id, &[(name.to_owned(), value)]).await),
        None => None,
    };
    let cookie = question.cookie.as_ref().map(|cookie| cookie.expose().to_owned());
    let token = question.token.as_ref().map(|token| format!("Bearer {}", token.expose()));
    let (anonymous, by_cookie, by_token) =
        tokio::join!(laravel.probe(&channel, socket_id, &[]), ask("Cookie", cookie), ask("Authorization", token));
    let clock_ahead = anonymous.date.as_deref().and_then(millis_of_date).map(|theirs| theirs - now_millis());
    Facts { cannot: None, anonymous: Some(anonymous), by_cookie, by_token, socket_id: Some(socket_id), clock_ahead }
}

pub(super) fn judge(subject: &Subject, question: &Question, facts: &Facts) -> Vec<Finding> {
    let url = subject.config.auth.url();
    if let Some(cannot) = &facts.cannot {
        return vec![Finding::problem("auth.reach", cannot)];
    }
    let Some(anonymous) = &facts.anonymous else {
        return vec![Finding::problem("auth.reach", format!("Laravel at {url} did not answer in time"))];
    };
    let channel = question.channel.as_deref().unwrap_or(CHANNEL);
    let mut findings = route(subject, &url, anonymous);
    for (with, probed) in [("this cookie", &facts.by_cookie), ("this token", &facts.by_token)] {
        let Some(probed) = probed else { continue };
        findings.push(credentials(with, channel, question.channel.is_some(), probed));
        findings.extend(signed(subject, facts, channel, probed));
    }
    findings
}

/// The sentence that a browser would get, as the reason.
fn explained(finding: Finding, probed: &Probed) -> Finding {
    match &probed.refusal {
        Some((sentence, detail)) if detail.is_empty() => finding.why(sentence),
        Some((sentence, detail)) => finding.why(format!("{sentence} ({detail})")),
        None => finding,
    }
}

fn route(subject: &Subject, url: &Url, anonymous: &Probed) -> Vec<Finding> {
    let file = &subject.file;
    let application = subject.application.as_ref();
    let Some(status) = anonymous.status else {
        let finding = explained(Finding::problem("auth.reach", format!("Laravel cannot be asked at {url}")), anonymous);
        let app_url = application.and_then(|app| app.env.get("APP_URL")).filter(|url| url.starts_with("http"));
        return vec![match app_url
            .filter(|found| found.trim_end_matches('/') != subject.config.auth.host.as_str().trim_end_matches('/'))
        {
            Some(app_url) => finding
                .fix("Laravel's .env says that the application is here:")
                .line(file, format!("\"authHost\": {app_url:?}")),
            None => finding
                .fix("Start Laravel's web server, or correct the address:")
                .line(file, "\"authHost\": \"http://(host and port of Laravel, as seen from here)\""),
        }];
    };
    let mut findings = vec![Finding::ok("auth.reach", format!("Something answers at {url}"))];
    findings.push(match status {
        200 if anonymous.is_yes => Finding::problem(
            "auth.anonymous",
            format!(
                "Laravel lets everybody into every channel: it says yes to a question without cookie and token ({url})"
            ),
        )
        .why("Whoever opens a page of anybody's can listen to private channels.")
        .fix("Let the route know who is asking:")
        .line(routes_file(application), "Broadcast::routes(['middleware' => ['web', 'auth']]);"),
        200 => explained(
            Finding::problem("auth.route", format!("What answers at {url} is not Laravel's broadcasting route (200)")),
            anonymous,
        )
        .fix("Correct the address of the application, or the path of its route:")
        .line(file, "\"authHost\": \"http://(host and port of Laravel)\", \"authEndpoint\": \"/broadcasting/auth\""),
        401 | 403 => Finding::ok(
            "auth.route",
            format!("The broadcasting route is there, and lets nobody in who does not say who they are ({status})"),
        ),
        301 | 302 | 303 | 307 | 308 => redirect(subject, url, anonymous, status),
        404 | 405 => missing(subject, url, anonymous, status),
        419 => csrf(subject, anonymous),
        500..=599 => {
            explained(Finding::problem("auth.answer", format!("Laravel fails at {url} ({status})")), anonymous)
                .fix("Its log says why:")
                .line(
                    application.map_or("the application's folder".to_owned(), Application::folder),
                    "tail storage/logs/laravel.log",
                )
        }
        _ => explained(Finding::warning("auth.answer", format!("Laravel answers {status} at {url}")), anonymous),
    });
    findings
}

fn redirect(subject: &Subject, url: &Url, anonymous: &Probed, status: u16) -> Finding {
    let target = anonymous.location.as_deref().and_then(|location| url.join(location).ok());
    if let Some(target) = target.filter(|target| target.origin() != url.origin() && target.path() == url.path()) {
        let mut host = target.clone();
        host.set_query(None);
        host.set_fragment(None);
        let base = target.path().strip_suffix(subject.config.auth.endpoint.as_str()).unwrap_or_default().to_owned();
        host.set_path(&base);
        return explained(
            Finding::problem("auth.route", format!("Laravel's web server redirects {url} elsewhere ({status})")),
            anonymous,
        )
        .fix("Ask there at once; redirects are not followed:")
        .line(&subject.file, format!("\"authHost\": {:?}", host.as_str().trim_end_matches('/')));
    }
    // A guard of sessions, that does not see that JSON is wanted.
    Finding::ok(
        "auth.route",
        format!("The route is there, and sends those who do not say who they are to another page ({status})"),
    )
}

fn routes_file(application: Option<&Application>) -> String {
    match application {
        Some(application) => match &application.routes {
            Some(routes) => routes.place.clone(),
            None if application.is_slim => application.file("bootstrap/app.php"),
            None => application.file("app/Providers/BroadcastServiceProvider.php"),
        },
        None => "app/Providers/BroadcastServiceProvider.php".to_owned(),
    }
}

fn missing(subject: &Subject, url: &Url, anonymous: &Probed, status: u16) -> Finding {
    let finding = explained(
        Finding::problem("auth.route", format!("Laravel has no broadcasting route at {url} ({status})")),
        anonymous,
    );
    let Some(application) = &subject.application else {
        return finding
            .fix("Register it (Laravel 11 and later: php artisan install:broadcasting), or correct \"authHost\" and \"authEndpoint\":")
            .line("app/Providers/BroadcastServiceProvider.php, in boot()", "Broadcast::routes();");
    };
    if let Some(line) = application.provider_is_off {
        return finding.fix("The provider that registers it is commented out; take the // away:").line(
            format!("{}, line {line}", application.file("config/app.php")),
            "App\\Providers\\BroadcastServiceProvider::class,",
        );
    }
    match (&application.routes, application.is_slim) {
        (Some(routes), _) => finding
            .fix(format!("It is registered in {}. See there and in `php artisan route:list` under which path, and put that here; or \"authHost\" leads to another application:", routes.place))
            .line(&subject.file, "\"authEndpoint\": \"/(the path of the route)\""),
        (None, true) => finding
            .fix("Register it (or let `php artisan install:broadcasting` do it):")
            .line(application.file("bootstrap/app.php"), "->withBroadcasting(__DIR__.'/../routes/channels.php')"),
        (None, false) => finding
            .fix("Register it:")
            .line(format!("{}, in boot()", application.file("app/Providers/BroadcastServiceProvider.php")), "Broadcast::routes();"),
    }
}

fn csrf(subject: &Subject, anonymous: &Probed) -> Finding {
    let path = subject.config.auth.endpoint.trim_start_matches('/');
    let finding = explained(
        Finding::problem("auth.csrf", format!("Laravel wants a CSRF token at {} (419)", subject.config.auth.endpoint)),
        anonymous,
    )
    .fix("Laravel's own broadcasting routes are excepted from that check; this one is not. Except it:");
    match &subject.application {
        Some(application) if application.is_slim => finding.line(
            format!("{}, in withMiddleware", application.file("bootstrap/app.php")),
            format!("$middleware->validateCsrfTokens(except: ['{path}']);"),
        ),
        Some(application) => finding.line(
            application.file("app/Http/Middleware/VerifyCsrfToken.php"),
            format!("protected $except = ['{path}'];"),
        ),
        None => finding.line("app/Http/Middleware/VerifyCsrfToken.php", format!("protected $except = ['{path}'];")),
    }
}

fn credentials(with: &str, channel: &str, is_named: bool, somebody: &Probed) -> Finding {
    if somebody.is_yes {
        return Finding::ok("auth.credentials", format!("With {with} Laravel lets in to {channel}"));
    }
    let status = somebody.status.map(|status| format!(" ({status})")).unwrap_or_default();
    let finding = explained(
        Finding::problem("auth.credentials", format!("With {with} Laravel does not let in to {channel}{status}")),
        somebody,
    );
    match (somebody.status, is_named) {
        (Some(403), false) => finding.fix("No channel was named, so Laravel was asked about one that is not there: name one that this user may join, --channel private-…."),
        (Some(403), true) => finding.fix("See the channel's callback in routes/channels.php."),
        (Some(401 | 302), _) => finding.fix("The cookie or token is not valid (any more), or not for the guard of this route: see its middleware."),
        _ => finding,
    }
}

/// What Laravel's driver has signed must be right with the client's secret.
fn signed(subject: &Subject, facts: &Facts, channel: &str, somebody: &Probed) -> Option<Finding> {
    let (socket_id, auth) = (facts.socket_id?, somebody.signature.as_deref().filter(|_| somebody.is_yes)?);
    let (key, signed) = auth.split_once(':').unwrap_or(("", auth));
    let Some((index, app)) = subject.config.apps.iter().enumerate().find(|(_, app)| app.key == key) else {
        return Some(
            Finding::problem(
                "auth.signature",
                format!(
                    "Laravel signs for an app key that is not in \"clients\": {:?}",
                    key.chars().take(100).collect::<String>()
                ),
            )
            .fix("Give Laravel the key of a client, or add one with this key to \"clients\"."),
        );
    };
    if app.secret_is_random {
        return Some(no_secret(subject, index, app));
    }
    let is_presence = ChannelName::parse(channel).is_ok_and(|channel| channel.access() == Access::Presence);
    let data = somebody.channel_data.as_deref().filter(|_| is_presence);
    if app.has_signed(&signature::channel_text(socket_id, channel, data), signed) {
        return Some(Finding::ok("auth.signature", "Laravel signs its yes, and the signature is right"));
    }
    Some(
        Finding::problem(
            "auth.signature",
            format!("Laravel signs with another secret than that of the client {:?}", app.id),
        )
        .why("Its signature does not count here: private and presence channels are refused.")
        .fix("Put the secret that Laravel has (PUSHER_APP_SECRET or REVERB_APP_SECRET in its .env) here:")
        .line(format!("{}, in clients[{index}]", subject.file), "\"secret\": \"(Laravel's)\""),
    )
}

fn no_secret(subject: &Subject, index: usize, app: &App) -> Finding {
    Finding::problem(
        "auth.signature",
        format!("Laravel signs its yes, and the client {:?} has no secret to verify it with", app.id),
    )
    .why("Private and presence channels are refused.")
    .fix("Put the secret that Laravel has (PUSHER_APP_SECRET or REVERB_APP_SECRET in its .env) here:")
    .line(format!("{}, in clients[{index}]", subject.file), "\"secret\": \"(Laravel's)\"")
}
