//! One WebSocket handshake as a browser makes it, and what came back.

use std::time::Duration;

use http::header;
use reqwest::redirect;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// How long the whole handshake may take, with the first message.
const HANDSHAKE_MAX: Duration = Duration::from_secs(6);

/// The first message of this server has some hundred bytes.
const FIRST_BYTES_MAX: usize = 2048;

/// An answer of `/ready` has a few hundred bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What came back.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Answer {
    /// Why there is no answer at all.
    pub failure: Option<String>,
    /// The failure is one of TLS.
    pub is_tls: bool,
    /// The status of the answer; 101 is a WebSocket.
    pub status: Option<u16>,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// A refusal that says which versions of WebSocket are spoken: this server's, or another WebSocket server's.
    pub is_of_websockets: bool,
    /// The first message.
    pub first: Option<String>,
    /// The certificate of the other side, in DER.
    pub certificate: Option<Vec<u8>>,
}

impl Answer {
    fn failed(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = cause.to_string();
            source = cause.source();
        }
        let is_tls = ["certificate", "tls", "TLS", "HandshakeFailure", "InvalidContentType"]
            .iter()
            .any(|word| text.contains(word));
        Self { failure: Some(text), is_tls, ..Self::default() }
    }
}

/// Asks for a WebSocket at this URL. `any_certificate`: of a server on this machine, whose certificate has another name.
pub(super) async fn shake(url: &str, any_certificate: bool) -> Answer {
    timeout(HANDSHAKE_MAX, try_shake(url, any_certificate)).await.unwrap_or_else(|_| Answer {
        failure: Some(format!("no answer within {HANDSHAKE_MAX:?}")),
        ..Answer::default()
    })
}

/// What keeps the server at this URL from being ready, by its own word (`/ready`); `None`: it does not say.
pub(super) async fn unready(base: &str) -> Option<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct State {
        #[serde(default)]
        reasons: Vec<Reason>,
    }
    #[derive(serde::Deserialize)]
    struct Reason {
        message: String,
    }
    let asked = async {
        let response = client(true).ok()?.get(format!("{base}/ready")).send().await.ok()?;
        let is_short = response.content_length().is_some_and(|length| length < ANSWER_BYTES_MAX);
        let state: State = serde_json::from_slice(&response.bytes().await.ok().filter(|_| is_short)?).ok()?;
        Some(state.reasons.into_iter().map(|reason| reason.message).collect())
    };
    timeout(HANDSHAKE_MAX, asked).await.ok()?
}

fn client(any_certificate: bool) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .tls_info(true)
        .tls_danger_accept_invalid_certs(any_certificate)
        .build()
}

async fn try_shake(url: &str, any_certificate: bool) -> Answer {
    let client = match client(any_certificate) {
        Ok(client) => client,
        Err(error) => return Answer::failed(&error),
    };
    let request = client
        .get(url)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, "ZG9jdG9yLWRvY3Rvci1kbw==");
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Answer::failed(&error.without_url()),
    };
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let info = response.extensions().get::<reqwest::tls::TlsInfo>();
    let mut answer = Answer {
        status: Some(response.status().as_u16()),
        location,
        is_of_websockets: response.headers().contains_key(header::SEC_WEBSOCKET_VERSION),
        certificate: info.and_then(|info| info.peer_certificate()).map(<[u8]>::to_vec),
        ..Answer::default()
    };
    if answer.status == Some(101)
        && let Ok(mut stream) = response.upgrade().await
    {
        let mut bytes = Vec::new();
        while answer.first.is_none() && bytes.len() < FIRST_BYTES_MAX {
            match stream.read_buf(&mut bytes).await {
                Ok(1..) => answer.first = text_of(&bytes),
                _ => break,
            }
        }
    }
    answer
}

/// The text of the frame, once it is there as a whole. A server's frames are not masked.
fn text_of(bytes: &[u8]) -> Option<String> {
    let (length, start) = match bytes {
        [0x81, length @ 0..126, ..] => (usize::from(*length), 2),
        [0x81, 126, high, low, ..] => (usize::from(u16::from_be_bytes([*high, *low])), 4),
        _ => return None,
    };
    bytes.get(start..start + length).map(|text| String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        assert_eq!(text_of(b"\x81\x02hi\x81"), Some("hi".to_owned()));
        assert_eq!(text_of(b"\x81\x7e\x00\x03abc"), Some("abc".to_owned()));
        for none in [&b""[..], b"\x81", b"\x81\x02h", b"\x88\x02hi", b"\x81\x7e\x00"] {
            assert_eq!(text_of(none), None);
        }
    }
}
