//! Asking Laravel on nobody's behalf, to see what it answers: for the doctor.

use http::header::{DATE, LOCATION};
use serde::Deserialize;

use super::laravel::{About, Body, Inquiry, Laravel};
use super::{headers, reply};
use crate::metrics::Way;
use crate::protocol::SocketId;
use crate::protocol::channel::ChannelName;

/// What Laravel answered to a question that no client asked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Probed {
    /// The status; `None`: there was no answer.
    pub status: Option<u16>,
    /// Where a redirect leads, as it stands there.
    pub location: Option<String>,
    /// The time by Laravel's web server, as it stands in `Date`.
    pub date: Option<String>,
    /// It is a yes.
    pub is_yes: bool,
    /// Otherwise: what a browser would be told, and what only the log is told.
    pub refusal: Option<(String, String)>,
    /// The signature, if Laravel's driver signs.
    pub signature: Option<String>,
    /// What is signed beside socket id and channel.
    pub channel_data: Option<String>,
}

#[derive(Deserialize)]
struct Signed {
    auth: String,
    channel_data: Option<String>,
}

impl Laravel {
    /// Asks about the channel as this socket, with these headers.
    pub async fn probe(&self, channel: &ChannelName, socket_id: SocketId, own: &[(String, String)]) -> Probed {
        let about = About::Channel(channel);
        let inquiry = Inquiry {
            about,
            way: Way::Callback,
            socket_id,
            fields: &[],
            query: &[],
            headers: headers::from_message(own),
        };
        let outcome = self.exchange_once(inquiry).await;
        let verdict = reply::judge(self, channel, &outcome);
        let refusal = verdict.err().map(|no| (no.refusal.error, no.detail));
        let Ok(reply) = outcome else { return Probed { refusal, ..Probed::default() } };
        let header = |name| reply.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let signed = match &reply.body {
            Body::Whole(body) => serde_json::from_slice::<Signed>(body).ok(),
            _ => None,
        };
        let (signature, channel_data) = signed.map_or((None, None), |signed| (Some(signed.auth), signed.channel_data));
        Probed {
            status: Some(reply.status.as_u16()),
            location: header(LOCATION),
            date: header(DATE),
            is_yes: refusal.is_none(),
            refusal,
            signature: signature.filter(|text| !text.is_empty()),
            channel_data,
        }
    }
}
