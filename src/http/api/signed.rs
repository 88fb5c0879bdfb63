//! Whether a request may speak for an app: key, time, digest of the body, signature.
//!
//! The digest is part of what is signed, so all but the digest itself is checked before the body is read.

use std::borrow::Cow;
use std::time::SystemTime;

use http::{Method, StatusCode};
use md5::{Digest, Md5};
use percent_encoding::percent_decode_str;

use super::{Refusal, refusal};
use crate::config::App;
use crate::protocol::signature;

/// Parameters that are read; libraries send some ten. Of a request with more the signature is wrong.
const PARAMETERS_MAX: usize = 100;

/// The parameters of a query as they are signed: decoded, names in lower case, the elements of an array
/// (`info[]=a&info[]=b`, as PHP writes it) joined by commas under the array's name.
#[derive(Debug)]
pub(super) struct Parameters<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Parameters<'a> {
    pub(super) fn parse(query: &'a str) -> Self {
        let mut parameters: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::with_capacity(8);
        for (name, value) in form_urlencoded::parse(query.as_bytes()).take(PARAMETERS_MAX) {
            let (name, is_element) = match name.split_once('[') {
                Some((array, index)) if index.ends_with(']') => (Cow::Owned(array.to_owned()), true),
                _ => (name, false),
            };
            let is_lower = name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase());
            let name = if is_lower { name } else { Cow::Owned(name.to_lowercase()) };
            match parameters.iter_mut().find(|(known, _)| is_element && *known == name) {
                Some((_, values)) => {
                    let values = values.to_mut();
                    values.push(',');
                    values.push_str(&value);
                }
                None => parameters.push((name, value)),
            }
        }
        Self(parameters)
    }

    /// The value of the first of this name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_ref())
    }
}

fn denied<T>(error: impl Into<String>) -> Result<T, Refusal> {
    refusal(StatusCode::UNAUTHORIZED, error)
}

/// Whether the head of the request may speak for the app: key, timestamp and signature.
pub(super) fn verify(
    app: &App,
    method: &Method,
    path: &str,
    parameters: &Parameters<'_>,
    now: SystemTime,
) -> Result<(), Refusal> {
    let Some(signature) = parameters.get("auth_signature") else {
        return denied("auth_signature is missing: requests must be signed with the app's secret");
    };
    if parameters.get("auth_key") != Some(app.key.as_str()) {
        return denied("auth_key is not the key of this app");
    }
    if parameters.get("auth_version") != Some("1.0") {
        return denied("auth_version must be 1.0");
    }
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let window = app.limits.timestamp_window.as_secs();
    match parameters.get("auth_timestamp").and_then(|text| text.parse::<u64>().ok()) {
        Some(timestamp) if timestamp.abs_diff(now) <= window => {}
        Some(timestamp) => {
            return denied(format!(
                "auth_timestamp {timestamp} is over {window} s from this server's clock, {now} (limits.timestampWindow)"
            ));
        }
        None => return denied("auth_timestamp is missing or no number"),
    }
    let text = |path: &str| signature::request_text(method.as_str(), path, &parameters.0);
    let is_signed = |path: &str| app.has_signed(&text(path), signature);
    // Some libraries sign the path as they build it, some as it is sent, escaped.
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    if !is_signed(path) && (decoded == path || !is_signed(&decoded)) {
        return denied(format!(
            "the signature is wrong: the request was signed with another secret than clients[].secret, or over another \
             text than {:?}",
            text(path)
        ));
    }
    Ok(())
}

/// Whether the body is the one that was signed. A library that signs the digest of an empty body (PyPI
/// `pusher`) may; who sends a body must.
pub(super) fn verify_digest(parameters: &Parameters<'_>, body: &[u8]) -> Result<(), Refusal> {
    match parameters.get("body_md5") {
        Some(digest) if digest == signature::hex(&Md5::digest(body)) => Ok(()),
        Some(_) => denied("body_md5 is not the digest of this body"),
        None if body.is_empty() => Ok(()),
        None => denied("body_md5 is missing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, Secret};
    use std::time::Duration;

    const BODY: &[u8] = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
    const QUERY: &str = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0&body_md5=ec365a775a4cd0599faeb73354201b6f&auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";
    const NOW: u64 = 1_353_088_179;

    fn app() -> App {
        App {
            id: "3".into(),
            key: "278d425bdf160c739803".into(),
            secret: Secret::new("7ad3773142a6692b25b8"),
            previous_secrets: Vec::new(),
            secret_is_random: false,
            is_removed: false,
            limits: Limits::default(),
            key_prefix: None,
            subscription_count: false,
            webhooks: Vec::new(),
        }
    }

    fn check_at(method: Method, path: &str, query: &str, body: &[u8], seconds: u64) -> Result<(), Refusal> {
        let parameters = Parameters::parse(query);
        verify(&app(), &method, path, &parameters, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))?;
        verify_digest(&parameters, body)
    }

    fn check(query: &str, body: &[u8], seconds: u64) -> Result<(), Refusal> {
        check_at(Method::POST, "/apps/3/events", query, body, seconds)
    }

    /// The worked examples of protocol section 5.
    #[test]
    fn the_worked_examples_are_accepted() {
        assert_eq!(check(QUERY, BODY, NOW), Ok(()));
        assert_eq!(check(QUERY, BODY, NOW + 600), Ok(()));
        let (rest, signature) = QUERY.rsplit_once('&').unwrap();
        assert_eq!(check(&format!("{signature}&{rest}"), BODY, NOW), Ok(()));

        let auth = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0";
        for (path, rest, signature) in [
            (
                "/apps/3/channels",
                "filter_by_prefix=presence-&info=user_count",
                "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291",
            ),
            (
                "/apps/3/channels/presence-a",
                "info=user_count,subscription_count",
                "cb95e8fdce356a7c0822801195ea86a96b35fda672140e65120a4cc3568caf2b",
            ),
            // As PHP sends it, and as PHP sends an array.
            (
                "/apps/3/channels/presence-a",
                "info=user_count%2Csubscription_count",
                "cb95e8fdce356a7c0822801195ea86a96b35fda672140e65120a4cc3568caf2b",
            ),
            (
                "/apps/3/channels/presence-a",
                "info%5B0%5D=user_count&info%5B1%5D=subscription_count",
                "cb95e8fdce356a7c0822801195ea86a96b35fda672140e65120a4cc3568caf2b",
            ),
            (
                "/apps/3/channels/presence-a/users",
                "body_md5=d41d8cd98f00b204e9800998ecf8427e",
                "ab454b3672fd32a6498d8b280981cc20f7d9fd541eaa5a3ab8c19b30e5284cd4",
            ),
        ] {
            let query = format!("{auth}&auth_signature={signature}&{rest}");
            assert_eq!(check_at(Method::GET, path, &query, b"", NOW), Ok(()), "{path}?{rest}");
        }
    }

    #[test]
    fn a_path_may_be_signed_with_its_escapes_or_without() {
        let query = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0";
        let (sent, meant) = ("/apps/3/channels/%23server-to-user-7", "/apps/3/channels/#server-to-user-7");
        for signed in [sent, meant] {
            let signature = signature::sign("7ad3773142a6692b25b8", &format!("GET\n{signed}\n{query}"));
            let query = format!("{query}&auth_signature={signature}");
            assert_eq!(check_at(Method::GET, sent, &query, b"", NOW), Ok(()), "{signed}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for (query, body, seconds, word) in [
            (QUERY.to_owned(), BODY, NOW + 601, "auth_timestamp"),
            (QUERY.to_owned(), BODY, NOW - 601, "auth_timestamp"),
            (QUERY.to_owned(), &b"{}"[..], NOW, "body_md5"),
            (QUERY.replace("body_md5", "other"), BODY, NOW, "signature"),
            (QUERY.replace("457e6c", "457e6d"), BODY, NOW, "signature"),
            (QUERY.replace("auth_key=2", "auth_key=3"), BODY, NOW, "auth_key"),
            (QUERY.replace("1.0", "2.0"), BODY, NOW, "auth_version"),
            (format!("{QUERY}&extra=1"), BODY, NOW, "signature"),
            (format!("{QUERY}&body_md5[]=1"), BODY, NOW, "signature"),
            (String::new(), BODY, NOW, "auth_signature"),
        ] {
            let refusal = check(&query, body, seconds).unwrap_err();
            assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
            assert!(refusal.error.contains(word), "{query}: {}", refusal.error);
            assert!(!refusal.error.contains("7ad3773142a6692b25b8"));
        }
        assert!(check_at(Method::POST, "/apps/4/events", QUERY, BODY, NOW).is_err());
        assert!(check_at(Method::PUT, "/apps/3/events", QUERY, BODY, NOW).is_err());
        let without_digest = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0";
        let signature = signature::sign("7ad3773142a6692b25b8", &format!("POST\n/apps/3/events\n{without_digest}"));
        let refusal = check(&format!("{without_digest}&auth_signature={signature}"), BODY, NOW).unwrap_err();
        assert_eq!(refusal.error, "body_md5 is missing");
    }
}
