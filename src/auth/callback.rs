//! Asking Laravel on behalf of a subscription that carries no signature.
//!
//! Laravel is asked with what the client has shown of itself: the cookie and token of its
//! WebSocket handshake, and the headers of its subscribe message where a client sends them.

use std::time::Instant;

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE, USER_AGENT};

use super::laravel::{About, Inquiry};
pub use super::laravel::{CannotAsk, KnownPrefixes, Laravel};
use super::origin::{self, OriginVerdict};
use super::reply::{self, No};
use super::{Answer, Credentials, Question, Refusal, headers};
use crate::metrics::Way;
use crate::protocol::channel::Access;
use crate::protocol::why::Why;
use crate::tap::{self, What};

impl Laravel {
    /// Asks whether the socket may join the channel. A refusal is logged here, with more than
    /// the browser is told. Public channels are nobody's to ask about; the caller knows.
    pub async fn ask(&self, question: &Question) -> Answer {
        self.ask_since(question, Instant::now()).await
    }

    /// The same for a question that is there since then.
    pub(super) async fn ask_since(&self, question: &Question, since: Instant) -> Answer {
        debug_assert_ne!(question.channel.access(), Access::Public, "public channels are never asked about");
        let credentials = &question.credentials;
        let laravel = self.of_page(credentials.origin.as_deref().or(credentials.referer.as_deref()));
        match laravel.try_ask(question, since).await {
            Ok(answer) => answer,
            Err(no) => refused(&laravel, question, no),
        }
    }

    /// The answer to a question for which there is no room.
    pub(super) fn too_busy(&self, question: &Question) -> Answer {
        refused(self, question, reply::no_answer(&self.busy()))
    }

    async fn try_ask(&self, question: &Question, since: Instant) -> Result<Answer, No> {
        let (headers, left_out) = self.credentials(&question.credentials, &question.headers)?;
        let inquiry = Inquiry {
            way: Way::Callback,
            about: About::Channel(&question.channel),
            socket_id: question.socket_id,
            fields: &[],
            query: &[],
            headers,
        };
        let outcome = self.exchange_since(inquiry, since).await;
        let judged = reply::judge(self, &question.channel, &outcome);
        self.count(Way::Callback, &outcome, judged.is_ok());
        match judged {
            Ok(yes) => Ok(yes.member.map_or(Answer::Yes, Answer::Member)),
            Err(mut no) => {
                if let (Some(left_out), 401 | 403 | 419) = (left_out, no.refusal.status) {
                    no.refusal.error = format!("{} {left_out}", no.refusal.error);
                    no.refusal.why = Why::OtherOrigin;
                }
                Err(no)
            }
        }
    }

    /// The headers to ask with, and a sentence if the cookie had to be left out.
    fn credentials(
        &self,
        handshake: &Credentials,
        message: &[(String, String)],
    ) -> Result<(HeaderMap, Option<String>), No> {
        let mut headers = headers::from_message(message);
        // Page scripts can set neither header on a WebSocket: both come from the browser's own store,
        // also for the page of another site. What the message brings was chosen by the client itself,
        // and wins.
        let ambient = [(COOKIE, &handshake.cookie), (AUTHORIZATION, &handshake.authorization)];
        let ambient = ambient.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        let left_out = self.judge_origin(handshake).filter(|_| ambient.clone().next().is_some());
        if left_out.is_none() {
            for (name, value) in ambient {
                headers.entry(name).or_insert(value);
            }
        }
        if headers.is_empty() {
            let refusal = match left_out {
                Some(left_out) => Refusal::new(403, left_out).because(Why::OtherOrigin),
                None => Refusal::new(401, self.no_credentials()).because(Why::NoCredentials),
            };
            return Err(No { refusal, detail: "Laravel was not asked".to_owned() });
        }
        if let Some(agent) = &handshake.user_agent {
            headers.entry(USER_AGENT).or_insert_with(|| agent.clone());
        }
        Ok((headers, left_out))
    }

    /// Why the handshake's cookie does not count, if so. A client that names no origin is no
    /// browser and has its cookie from its own user.
    fn judge_origin(&self, handshake: &Credentials) -> Option<String> {
        let origin = handshake.origin.as_deref()?;
        match origin::allowed(origin, handshake.host.as_deref(), self.auth()) {
            OriginVerdict::SameOrListed => None,
            OriginVerdict::OnlyByStar => Some(format!(
                "The cookie was left out: the page's origin {origin} is allowed by \"*\" only. If the page is yours, add \"allowedOrigins\": [\"{origin}\"] to laravel-echo-server.json."
            )),
            OriginVerdict::No => Some(not_allowed(origin)),
        }
    }

    fn no_credentials(&self) -> String {
        format!(
            "Nobody can be told by this connection: it has no cookie, no Authorization and no signature. pusher-js sends its token to Laravel only, and Laravel's redis broadcaster does not sign. Two ways out. Signature: Laravel's pusher driver with this server's key and secret. Gateway: let pusher-js ask this server, by Echo's authEndpoint or one nginx location for {}, or for development \"proxy\": true in laravel-echo-server.json and the application opened on this server's port.",
            self.auth().endpoint
        )
    }
}

fn refused(laravel: &Laravel, question: &Question, no: No) -> Answer {
    log_refusal(laravel, About::Channel(&question.channel), question.socket_id, &no);
    Answer::No(no.refusal)
}

/// The sentence for a page whose cookie does not count.
pub(super) fn not_allowed(origin: &str) -> String {
    let shown = origin::shown(origin);
    if shown == origin {
        format!(
            "The cookie was left out, since the page's origin {origin} is not an allowed one. If the page is yours, add \"allowedOrigins\": [\"{origin}\"] to laravel-echo-server.json."
        )
    } else {
        format!("The cookie was left out, since the page has an origin {shown}. Open the application by http or https.")
    }
}

/// One line for the log per refusal; never cookies, tokens or bodies.
pub(super) fn log_refusal(laravel: &Laravel, about: About<'_>, socket_id: crate::protocol::SocketId, no: &No) {
    let (channel, what) = match about {
        About::Channel(channel) => (Some(channel.as_str()), "subscription"),
        About::User => (None, "signin"),
    };
    laravel.tap().refuse(What::Refused {
        app: laravel.tap().app_of(socket_id),
        socket_id,
        channel: channel.map(str::to_owned),
        status: Some(no.refusal.status),
        error: tap::sentence(&no.refusal.error),
        detail: tap::sentence(&no.detail),
    });
    tracing::warn!(
        channel,
        %socket_id,
        status = no.refusal.status,
        reason = no.refusal.why.name(),
        // authEndpoint may carry a token in its query.
        url = &laravel.url(about)[..url::Position::AfterPath],
        detail = no.detail,
        "{what} refused: {}",
        no.refusal.error
    );
}

#[cfg(test)]
mod tests;
