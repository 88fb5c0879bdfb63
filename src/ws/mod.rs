//! The WebSocket protocol (RFC 6455), server side, as values: the opening handshake's headers
//! and the frames. Nothing here reads or writes a socket, and nothing knows of Pusher.

use base64::Engine;
use http::{HeaderMap, Method, header};
use sha1::{Digest, Sha1};

pub mod deflate;
pub mod frame;

/// Why a request for `/app/{key}` is no WebSocket handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HandshakeError {
    /// Somebody opened the address in a browser, or a proxy dropped the headers.
    #[error(
        "this address speaks WebSocket, but the request has no Upgrade: websocket header; behind a proxy, pass the Upgrade and Connection headers on"
    )]
    NotAnUpgrade,
    /// Not GET.
    #[error("a WebSocket handshake is a GET request")]
    Method,
    /// Not version 13.
    #[error("only WebSocket version 13 is spoken here")]
    Version,
    /// Missing or malformed `Sec-WebSocket-Key`.
    #[error("the Sec-WebSocket-Key header is missing or is not 16 bytes in base64")]
    Key,
}

/// Checks an opening handshake and gives the value of `Sec-WebSocket-Accept` (RFC 6455 section 4.2).
pub fn accept_key(method: &Method, headers: &HeaderMap) -> Result<String, HandshakeError> {
    if !has_token(headers, header::UPGRADE, "websocket") || !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(HandshakeError::NotAnUpgrade);
    }
    if method != Method::GET {
        return Err(HandshakeError::Method);
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(HandshakeError::Version);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(HandshakeError::Key)?;
    let base64 = base64::engine::general_purpose::STANDARD;
    match base64.decode(key) {
        Ok(bytes) if bytes.len() == 16 => {}
        _ => return Err(HandshakeError::Key),
    }
    let mut sha1 = Sha1::new();
    sha1.update(key.as_bytes());
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    Ok(base64.encode(sha1.finalize()))
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn handshake() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        headers
    }

    /// The example of RFC 6455 section 1.3.
    #[test]
    fn accept_key_of_the_rfc() {
        assert_eq!(accept_key(&Method::GET, &handshake()).as_deref(), Ok("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(accept_key(&Method::POST, &handshake()), Err(HandshakeError::Method));
        for (name, value, error) in [
            (header::UPGRADE, "h2c", HandshakeError::NotAnUpgrade),
            (header::CONNECTION, "keep-alive", HandshakeError::NotAnUpgrade),
            (header::SEC_WEBSOCKET_VERSION, "8", HandshakeError::Version),
            (header::SEC_WEBSOCKET_KEY, "c2hvcnQ=", HandshakeError::Key),
        ] {
            let mut headers = handshake();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(accept_key(&Method::GET, &headers), Err(error));
        }
    }
}
