//! What Laravel's answer means: a yes, or a no with a sentence that says cause and cure.
//!
//! Used by the callback and by the gateway alike, so that they cannot disagree about what
//! counts as a yes.

use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use url::{Position, Url};

use super::Refusal;
use super::laravel::{ANSWER_BYTES_MAX, About, Body, Failure, Laravel, Reply};
use crate::protocol::channel::{Access, ChannelName};
use crate::protocol::presence::Member;
use crate::protocol::user::UserData;
use crate::protocol::why::Why;

/// Laravel's leave to join.
#[derive(Debug, Default)]
pub(super) struct Yes {
    /// Whom as; on presence channels always, on others never.
    pub member: Option<Member>,
    /// The member as the text to be signed: Laravel's own bytes. Goes with `member`.
    pub channel_data: Option<String>,
    /// The key of an encrypted channel, where Laravel's driver makes one.
    pub shared_secret: Option<String>,
}

/// Laravel's refusal, or why there is no leave.
#[derive(Debug)]
pub(super) struct No {
    /// What the browser is told.
    pub refusal: Refusal,
    /// What the log is told on top.
    pub detail: String,
}

impl No {
    fn new(status: u16, error: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { refusal: Refusal::new(status, error), detail: detail.into() }
    }

    fn because(self, why: Why) -> Self {
        Self { refusal: self.refusal.because(why), ..self }
    }
}

/// What counts as a yes. Only a 200 whose body says so does: a login page, an empty answer or
/// `false` may come with a 200, too.
pub(super) fn judge(laravel: &Laravel, channel: &ChannelName, outcome: &Result<Reply, Failure>) -> Result<Yes, No> {
    verdict(laravel, channel, outcome).map_err(|mut no| {
        no.refusal.replied = match outcome {
            // Our own refusal then, however it came.
            Ok(reply) if reply.status == StatusCode::OK => None,
            Ok(reply) => Some(reply.status.as_u16()),
            Err(Failure::Busy(_)) => None,
            Err(_) => Some(0),
        };
        no
    })
}

fn verdict(laravel: &Laravel, channel: &ChannelName, outcome: &Result<Reply, Failure>) -> Result<Yes, No> {
    let reply = match outcome {
        Ok(reply) => reply,
        Err(failure) => return Err(no_answer(failure)),
    };
    if reply.status != StatusCode::OK {
        return Err(refused(laravel.url(About::Channel(channel)), reply.status, &reply.headers));
    }
    let is_presence = channel.access() == Access::Presence;
    if laravel.auth().accept_any_200 && !is_presence {
        return Ok(match &reply.body {
            Body::Whole(body) => private(body).unwrap_or_default(),
            Body::TooLarge | Body::Broken(_) => Yes::default(),
        });
    }
    match &reply.body {
        Body::Whole(body) if is_presence => presence(body),
        Body::Whole(body) => private(body).ok_or_else(|| no_yes(body)),
        Body::TooLarge => Err(too_large()),
        Body::Broken(why) => Err(broken(why)),
    }
}

/// Who the user is, as the text to be signed. Laravel's pusher driver answers with that text, its
/// redis driver with what the application's callback returned. Only a 200 that names a user counts.
pub(super) fn judge_user(laravel: &Laravel, outcome: &Result<Reply, Failure>) -> Result<String, No> {
    let reply = match outcome {
        Ok(reply) => reply,
        Err(failure) => return Err(no_answer(failure)),
    };
    match (reply.status, &reply.body) {
        (StatusCode::OK, Body::Whole(body)) => user(body),
        (StatusCode::OK, Body::TooLarge) => Err(too_large()),
        (StatusCode::OK, Body::Broken(why)) => Err(broken(why)),
        (StatusCode::NOT_FOUND, _) => Err(No::new(
            404,
            "Laravel has no route at which users sign in (404): register it with Broadcast::userRoutes(), which Laravel has from version 9 on, and say with Broadcast::resolveAuthenticatedUserUsing() who the user is.",
            "",
        )),
        (StatusCode::FORBIDDEN, _) => Err(No::new(
            403,
            "Laravel says that nobody is signed in, or does not say who: register a callback with Broadcast::resolveAuthenticatedUserUsing() that returns an array with the user's id.",
            "",
        )),
        (status, _) => Err(refused(laravel.url(About::User), status, &reply.headers)),
    }
}

fn user(body: &[u8]) -> Result<String, No> {
    /// The pusher driver's answer.
    #[derive(Deserialize)]
    struct Signed {
        user_data: String,
    }
    let text = match serde_json::from_slice(body) {
        Ok(Signed { user_data }) => user_data,
        Err(_) => std::str::from_utf8(body.trim_ascii()).map_err(|_| no_yes(body))?.to_owned(),
    };
    match UserData::parse(&text) {
        Ok(_) => Ok(text),
        Err(_) if !text.starts_with('{') => Err(no_yes(body)),
        Err(error) => Err(No::new(
            403,
            "Laravel's answer names no user: the callback of Broadcast::resolveAuthenticatedUserUsing() must return an array with the user's id, as ['id' => $user->id, 'user_info' => ['name' => $user->name]].",
            error.to_string(),
        )),
    }
}

/// `true`, or an object that says who: Laravel's array of a callback, or the pusher driver's
/// signature. An object without either is somebody else's, such as `{"error":…}`.
fn private(body: &[u8]) -> Option<Yes> {
    if body.trim_ascii() == b"true" {
        return Some(Yes::default());
    }
    let answer = serde_json::from_slice::<Answer>(body).ok()?;
    let has_data = answer.channel_data.is_some_and(|data| data.get().starts_with(['{', '"']));
    if !has_data && answer.auth.as_ref().is_none_or(String::is_empty) {
        return None;
    }
    Some(Yes { shared_secret: answer.shared_secret, ..Yes::default() })
}

fn presence(body: &[u8]) -> Result<Yes, No> {
    if body.trim_ascii() == b"true" {
        return Err(No::new(
            403,
            "Laravel answered true without a member, so nobody could be shown: for a presence channel the callback in routes/channels.php must return an array with the member's data, as ['id' => $user->id, 'name' => $user->name], and not true.",
            "presence answered true",
        )
        .because(Why::NoMember));
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        return Err(no_yes(body));
    };
    let data = match answer.channel_data.map(RawValue::get) {
        Some(data) if data.starts_with('{') => data.to_owned(),
        Some(data) if data.starts_with('"') => match serde_json::from_str::<String>(data) {
            Ok(data) => data,
            Err(_) => return Err(no_yes(body)),
        },
        _ if answer.auth.is_some() => {
            return Err(No::new(
                403,
                "Laravel answered for a presence channel without channel_data: the channel's callback in routes/channels.php must return an array with the member's data.",
                "auth without channel_data",
            )
            .because(Why::NoMember));
        }
        _ => return Err(no_yes(body)),
    };
    let member = Member::parse(&data).map_err(|error| {
        No::new(
            403,
            "Laravel's channel_data names no member: its user_id must be a number without fraction or a text that is not empty. It is what the user model's getAuthIdentifierForBroadcasting() returns.",
            error.to_string(),
        )
        .because(Why::NoMember)
    })?;
    Ok(Yes { member: Some(member), channel_data: Some(data), shared_secret: None })
}

/// Reads any bytes as Laravel's answer.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(body: &[u8]) {
    if let Ok(yes) = presence(body) {
        let data = yes.channel_data.unwrap_or_default();
        assert_eq!(Member::parse(&data).ok().map(|member| member.user_id), yes.member.map(|member| member.user_id));
    }
    let _ = (private(body), user(body));
}

/// Laravel's object. A field that stands twice is an error: two readers might take one each.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(default, borrow)]
    channel_data: Option<&'a RawValue>,
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    shared_secret: Option<String>,
}

fn no_yes(body: &[u8]) -> No {
    let body = body.trim_ascii();
    let (what, cure) = match body {
        b"" => ("an empty body", "Check that authEndpoint is Laravel's broadcasting route."),
        b"false" => ("false", "The channel's callback in routes/channels.php does not let this user in."),
        _ if body.starts_with(b"<") => (
            "an HTML page",
            "A login page or a single-page application seems to answer at authEndpoint; it must be Laravel's broadcasting route.",
        ),
        _ => ("a body that is no yes", "Check that authEndpoint is Laravel's broadcasting route."),
    };
    No::new(403, format!("Laravel answered 200 with {what}. {cure}"), format!("{} bytes", body.len()))
        .because(if body == b"false" { Why::Forbidden } else { Why::NotAYes })
}

/// What it means that there is none.
pub(super) fn no_answer(failure: &Failure) -> No {
    match failure {
        Failure::Busy(concurrency) => No::new(
            503,
            "Too many subscriptions are waiting for Laravel's answer; try again later. If this lasts, Laravel is slow or needs more workers.",
            format!("no turn among authConcurrency = {concurrency}"),
        )
        .because(Why::Busy),
        Failure::Timeout(time) => No::new(
            504,
            format!(
                "Laravel did not answer within {} ms. Look for what is slow there (workers, database), or raise authTimeoutMs.",
                time.as_millis()
            ),
            "time limit",
        ),
        Failure::Unreachable { why, .. } => No::new(
            502,
            "This server cannot reach Laravel: is it running, and is authHost in laravel-echo-server.json its address as seen from this server?",
            why,
        )
        .because(Why::LaravelUnreachable),
        Failure::Broken { why, .. } => broken(why),
    }
}

fn too_large() -> No {
    No::new(
        502,
        format!(
            "Laravel's answer has more than {} KiB, which no yes has: authEndpoint seems to lead to a page and not to Laravel's broadcasting route. Check authHost and authEndpoint.",
            ANSWER_BYTES_MAX / 1024
        ),
        "answer cut",
    )
    .because(Why::NotAYes)
}

fn broken(why: &str) -> No {
    No::new(
        502,
        "Laravel's answer broke off or is no HTTP. Look into its log and its web server's, and check that authHost has the right port and http or https.",
        why,
    )
}

/// Any status but 200.
fn refused(url: &Url, status: StatusCode, headers: &HeaderMap) -> No {
    let code = status.as_u16();
    if status.is_redirection() {
        return redirected(url, code, headers);
    }
    let error = match code {
        401 => "Laravel does not know who is asking: the session has expired, or the cookie or token is missing, wrong or not meant for authEndpoint's guard. Sign in again. pusher-js does not send its auth.headers (a bearer token) here by itself: let it ask this server, by Echo's authEndpoint or one nginx location.".to_owned(),
        403 => "Laravel refused: the callback in routes/channels.php does not let this user in, no channel there has this name, or nobody is signed in.".to_owned(),
        404 => "Laravel has no such route (404): register it with Broadcast::routes(), or correct authEndpoint in laravel-echo-server.json.".to_owned(),
        405 => "Laravel's route does not take POST (405): authEndpoint in laravel-echo-server.json must name the broadcasting route.".to_owned(),
        419 => "Laravel missed the CSRF token or the session has expired (419): reload the page; if it stays, except authEndpoint from CSRF verification in Laravel, as its own broadcasting routes are.".to_owned(),
        429 => {
            // Only digits: it may be a date, and it goes to a browser.
            let seconds = headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok())
                .and_then(|text| text.parse::<u32>().ok());
            let after = seconds.map(|s| format!(" Try again in {s} s.")).unwrap_or_default();
            format!("Laravel's rate limit was reached (429).{after} Raise the throttle on authEndpoint if this happens in normal use: all subscriptions come from this server's address.")
        }
        400 => "Laravel's web server found the request malformed (400): check that authHost says https where the server expects it.".to_owned(),
        413 | 414 | 431 => format!("Laravel's web server found the request too large ({code}): cookies or headers are longer than it takes."),
        502 | 504 => format!("The web server in front of Laravel gets no answer from PHP ({code}): check that PHP is running and has free workers."),
        503 => "Laravel is in maintenance mode or overloaded (503): bring it up with `php artisan up`.".to_owned(),
        500..=599 => format!("Laravel failed ({code}): the channel's callback threw an error (an unknown record, for instance). Look into storage/logs/laravel.log."),
        _ => format!("Laravel answered {code}; only 200 is a yes. Check that authEndpoint is Laravel's broadcasting route."),
    };
    // Other successes are no success here, and must not look like one.
    let shown = if status.is_success() { 403 } else { code };
    let why = if code == 400 { Why::LaravelFailed } else { Why::of_status(shown) };
    No::new(shown, error, "").because(why)
}

fn redirected(url: &Url, code: u16, headers: &HeaderMap) -> No {
    let target = headers.get(LOCATION).and_then(|value| value.to_str().ok()).and_then(|text| url.join(text).ok());
    let Some(target) = target else {
        return No::new(
            code,
            format!(
                "Laravel redirected ({code}) instead of answering. Redirects are not followed, since they end in pages that anybody gets. Check authHost and authEndpoint."
            ),
            "no readable Location",
        );
    };
    // The query may hold what is not for logs.
    let detail = format!("Location {}", &target[..Position::AfterPath]);
    let path: String = target.path().chars().take(PATH_SHOWN_MAX).collect();
    if target.origin() != url.origin() && target.path() == url.path() {
        return No::new(
            code,
            format!(
                "Laravel's web server redirected ({code}) to another scheme, host or port. Redirects are not followed: set authHost in laravel-echo-server.json to the final address (the log names it)."
            ),
            detail,
        );
    }
    if path.contains("login") || path.contains("sign") {
        return No::new(
            401,
            format!(
                "Laravel redirected to {path}: not signed in there. The session has expired, or no valid cookie or token came along; sign in and reload the page."
            ),
            detail,
        );
    }
    No::new(
        code,
        format!(
            "Laravel redirected ({code}) to {path} instead of answering, which mostly means that nobody is signed in. Redirects are not followed, since they end in pages that anybody gets."
        ),
        detail,
    )
}

const PATH_SHOWN_MAX: usize = 100;
