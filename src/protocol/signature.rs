//! Pusher's signatures: channel authorisation and HTTP API requests (protocol sections 4 and 5).

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// HMAC-SHA256 of `text`, lowercase hex.
pub fn sign(secret: &str, text: &str) -> String {
    hex(&mac(secret, text).finalize().into_bytes())
}

/// Whether `signature` (hex) is that of `text`; constant time.
pub fn verify(secret: &str, text: &str, signature: &str) -> bool {
    match unhex(signature) {
        Some(bytes) => mac(secret, text).verify_slice(&bytes).is_ok(),
        None => false,
    }
}

/// What is signed for a channel: `socket_id:channel`, with `:channel_data` for presence.
pub fn channel_text(socket_id: crate::protocol::SocketId, channel: &str, channel_data: Option<&str>) -> String {
    match channel_data {
        None => format!("{socket_id}:{channel}"),
        Some(data) => format!("{socket_id}:{channel}:{data}"),
    }
}

/// What is signed for `pusher:signin`: `socket_id::user::user_data`.
pub fn user_text(socket_id: crate::protocol::SocketId, user_data: &str) -> String {
    format!("{socket_id}::user::{user_data}")
}

/// What is signed for an HTTP API request: method, path, and the parameters but `auth_signature`, in
/// order of their keys. They are decoded and their keys in lowercase already (protocol section 5).
pub fn request_text<T: AsRef<str>>(method: &str, path: &str, parameters: &[(T, T)]) -> String {
    let mut signed: Vec<(&str, &str)> = parameters
        .iter()
        .map(|(key, value)| (key.as_ref(), value.as_ref()))
        .filter(|(key, _)| *key != "auth_signature")
        .collect();
    signed.sort_unstable();
    let mut text = String::with_capacity(256);
    text.extend([method, "\n", path, "\n"]);
    for (index, (key, value)) in signed.into_iter().enumerate() {
        text.extend([if index == 0 { "" } else { "&" }, key, "=", value]);
    }
    text
}

/// Lowercase hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 0xf)]);
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(*byte));
    }
    text
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (lower_hex(pair[0])? << 4) | lower_hex(pair[1])?;
    }
    Some(bytes)
}

/// Libraries write lowercase; an upper-case spelling is refused, so that there is one spelling.
fn lower_hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn mac(secret: &str, text: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
        .unwrap_or_else(|_| unreachable!("HMAC takes a key of any length"));
    mac.update(text.as_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "7ad3773142a6692b25b8";

    #[test]
    fn request_texts() {
        let pair = |key: &'static str, value: &'static str| (key, value);
        let mut parameters = vec![
            pair("auth_signature", "ignored"),
            pair("info", "user_count"),
            pair("auth_key", "278d425bdf160c739803"),
            pair("filter_by_prefix", "presence-"),
            pair("auth_version", "1.0"),
            pair("auth_timestamp", "1353088179"),
        ];
        for _ in 0..parameters.len() {
            parameters.rotate_left(1);
            let text = request_text("GET", "/apps/3/channels", &parameters);
            assert_eq!(sign(SECRET, &text), "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291");
        }
    }

    /// The vectors of protocol section 4.
    #[test]
    fn channel_vectors() {
        for (text, expected) in [
            ("1234.1234:private-foobar", "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"),
            (
                "1234.1234:presence-foobar:{\"user_id\":10,\"user_info\":{\"name\":\"Mr. Channels\"}}",
                "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
            ),
            (
                "1234.1234:presence-foobar:{\"user_id\": 10, \"user_info\": {\"name\": \"Mr. Channels\"}}",
                "5b8808f3035fec2e4157c6b430a06d5b0de16d174e1a779e0e2b64d9983bde27",
            ),
            ("1234.1234::user::{\"id\":\"12345\"}", "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba"),
            (
                "POST\n/apps/3/events\nauth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0&body_md5=ec365a775a4cd0599faeb73354201b6f",
                "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c",
            ),
        ] {
            assert_eq!(sign(SECRET, text), expected);
            assert!(verify(SECRET, text, expected));
            assert!(!verify(SECRET, text, &expected.to_uppercase()));
            assert!(!verify("other", text, expected));
            for i in 0..64 {
                let mut wrong = expected.to_owned().into_bytes();
                wrong[i] = if wrong[i] == b'0' { b'1' } else { b'0' };
                assert!(!verify(SECRET, text, std::str::from_utf8(&wrong).unwrap()));
            }
        }
        for wrong in ["", "58", "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a", "é"] {
            assert!(!verify(SECRET, "1234.1234:private-foobar", wrong));
        }
    }
}
