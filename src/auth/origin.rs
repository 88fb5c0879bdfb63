//! Which pages may use the visitor's cookie here.
//!
//! A page of any site can open a WebSocket to this server, and the browser sends the cookie
//! along. So a cookie counts only if the `Origin`, which the browser writes and a page cannot
//! change, is one of ours. The gateway's CORS headers follow the same list.

use std::net::Ipv6Addr;

use url::Host;

use super::hosts;
use crate::config::Auth;

/// What an `Origin` is worth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OriginVerdict {
    /// One of our own pages: the same host as the request's, authHost's, or listed in
    /// `allowedOrigins`.
    SameOrListed,
    /// Allowed by `*` alone: welcome, but without cookies.
    OnlyByStar,
    /// Not allowed.
    No,
}

/// Judges the `Origin` of a request that was addressed to `host` (its `Host` header).
///
/// The port does not matter for the request's own host and for authHost's, since cookies do
/// not know ports either. Entries of `allowedOrigins` are exact, port included; `*.` stands
/// for one or more labels.
pub fn allowed(origin: &str, host: Option<&str>, auth: &Auth) -> OriginVerdict {
    let Some(origin) = WebOrigin::parse(origin) else {
        return OriginVerdict::No;
    };
    let is_page = matches!(origin.scheme.as_str(), "http" | "https");
    if is_page && host.and_then(parse_authority).is_some_and(|(host, _)| host == origin.host) {
        return OriginVerdict::SameOrListed;
    }
    if is_page && auth.host.host().is_some_and(|host| same_or_both_loopback(&url_host(&host), &origin.host)) {
        return OriginVerdict::SameOrListed;
    }
    if is_page && hosts::names(auth, &origin.host) {
        return OriginVerdict::SameOrListed;
    }
    if auth.allowed_origins.iter().any(|entry| matches_entry(entry, &origin)) {
        return OriginVerdict::SameOrListed;
    }
    if auth.allowed_origins.iter().any(|entry| entry.trim() == "*") {
        return OriginVerdict::OnlyByStar;
    }
    OriginVerdict::No
}

/// An origin fit to be shown to people: itself if it is one, otherwise a description, since a
/// header may hold anything.
pub(crate) fn shown(origin: &str) -> String {
    match WebOrigin::parse(origin) {
        Some(_) => origin.to_owned(),
        None if origin == "null" => "\"null\" (a sandboxed frame or a local file)".to_owned(),
        None => "that is no web origin".to_owned(),
    }
}

/// Whether two hosts are one, where localhost, 127.0.0.1 and \[::1\] are each other's equals.
pub(crate) fn same_or_both_loopback(one: &str, other: &str) -> bool {
    one == other || (is_loopback(one) && is_loopback(other))
}

/// The host of a URL, spelled as in a `Host` header.
pub(crate) fn url_host(host: &Host<&str>) -> String {
    match host {
        Host::Domain(name) => name.to_ascii_lowercase(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => format!("[{address}]"),
    }
}

fn is_loopback(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

fn matches_entry(entry: &str, origin: &WebOrigin) -> bool {
    let entry = entry.trim();
    let entry = entry.strip_suffix('/').unwrap_or(entry);
    let Some((scheme, rest)) = entry.split_once("://") else {
        return false;
    };
    let (rest, any_subdomain) = match rest.strip_prefix("*.") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let Some(listed) = WebOrigin::parse(&format!("{scheme}://{rest}")) else {
        return false;
    };
    if listed.scheme != origin.scheme || listed.port_or_default() != origin.port_or_default() {
        return false;
    }
    if any_subdomain {
        origin.host.strip_suffix(&listed.host).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
    } else {
        origin.host == listed.host
    }
}

/// `scheme://host[:port]`, lower case. Anything more (a path, a user, a blank) is no origin.
#[derive(Debug)]
struct WebOrigin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl WebOrigin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        if !is_scheme {
            return None;
        }
        let (host, port) = parse_authority(authority)?;
        Some(Self { scheme, host, port })
    }

    fn port_or_default(&self) -> Option<u16> {
        self.port.or(match self.scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        })
    }
}

/// `host[:port]`. Strict, since what is not understood must not be taken for ours.
fn parse_authority(text: &str) -> Option<(String, Option<u16>)> {
    if text.len() > AUTHORITY_BYTES_MAX {
        return None;
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), port)
    } else {
        let end = text.find(':').unwrap_or(text.len());
        let host = text[..end].to_ascii_lowercase();
        let is_name = host.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        });
        if !is_name {
            return None;
        }
        (host, &text[end..])
    };
    if port.is_empty() {
        return Some((host, None));
    }
    let digits = port.strip_prefix(':')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((host, Some(digits.parse().ok()?)))
}

/// A DNS name has at most 253 bytes; a port adds six.
const AUTHORITY_BYTES_MAX: usize = 260;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::OriginVerdict::{No, OnlyByStar, SameOrListed};
    use super::*;
    use crate::auth::fake::auth_of;

    fn auth(host: &str, origins: &[&str]) -> Auth {
        let mut auth = auth_of(host);
        auth.allowed_origins = origins.iter().map(|&o| o.to_owned()).collect();
        auth
    }

    #[test]
    fn the_requests_own_host_on_any_port() {
        let auth = auth("http://10.0.0.5", &[]);
        for (origin, host, expected) in [
            ("https://app.example.com", "app.example.com", SameOrListed),
            ("https://app.example.com:8443", "app.example.com:6001", SameOrListed),
            ("https://APP.example.com", "App.Example.com:6001", SameOrListed),
            ("http://[::1]:8000", "[::1]:6001", SameOrListed),
            ("http://[0:0::1]:8000", "[::1]:6001", SameOrListed),
            ("https://evil.example", "app.example.com", No),
            ("https://app.example.com.evil.example", "app.example.com", No),
            ("https://evilapp.example.com", "app.example.com", No),
            ("https://example.com", "app.example.com", No),
            ("capacitor://app.example.com", "app.example.com", No),
            ("https://app.example.com", "app.example.com, evil.example", No),
            ("https://app.example.com", "", No),
        ] {
            assert_eq!(allowed(origin, Some(host), &auth), expected, "{origin} at {host}");
        }
        assert_eq!(allowed("https://app.example.com", None, &auth), No);
    }

    #[test]
    fn auth_host_on_any_port_and_loopback_by_any_of_its_names() {
        assert_eq!(allowed("https://app.test:5173", None, &auth("http://app.test:8000", &[])), SameOrListed);
        assert_eq!(allowed("https://other.test", None, &auth("http://app.test:8000", &[])), No);
        for auth_host in ["http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]:8000"] {
            for origin in ["http://localhost:5173", "https://127.0.0.1", "http://[::1]:8000"] {
                assert_eq!(allowed(origin, None, &auth(auth_host, &[])), SameOrListed, "{origin} for {auth_host}");
            }
            for origin in ["http://localhost.evil.example", "http://127.0.0.1.evil.example", "http://127.0.0.2"] {
                assert_eq!(allowed(origin, None, &auth(auth_host, &[])), No, "{origin} for {auth_host}");
            }
        }
        assert_eq!(allowed("http://localhost", None, &auth("http://app.test", &[])), No);
    }

    #[test]
    fn listed_ones_are_exact() {
        let auth = auth(
            "http://10.0.0.5",
            &["https://app.example.com", "http://dev.example.com:3000/", "capacitor://localhost", "app.example.org"],
        );
        for (origin, expected) in [
            ("https://app.example.com", SameOrListed),
            ("https://app.example.com:443", SameOrListed),
            ("http://app.example.com", No),
            ("https://app.example.com:8443", No),
            ("https://a.app.example.com", No),
            ("http://dev.example.com:3000", SameOrListed),
            ("http://dev.example.com", No),
            ("capacitor://localhost", SameOrListed),
            ("https://app.example.org", No),
        ] {
            assert_eq!(allowed(origin, None, &auth), expected, "{origin}");
        }
    }

    #[test]
    fn a_star_for_labels() {
        let auth = auth("http://10.0.0.5", &["https://*.example.com"]);
        for (origin, expected) in [
            ("https://a.example.com", SameOrListed),
            ("https://a.b.example.com", SameOrListed),
            ("https://example.com", No),
            ("https://.example.com", No),
            ("https://evilexample.com", No),
            ("https://a.example.com.evil.example", No),
            ("http://a.example.com", No),
            ("https://a.example.com:8443", No),
        ] {
            assert_eq!(allowed(origin, None, &auth), expected, "{origin}");
        }
    }

    #[test]
    fn a_star_alone_is_worth_less() {
        let auth = auth("http://10.0.0.5", &["*", "https://app.example.com"]);
        assert_eq!(allowed("https://evil.example", None, &auth), OnlyByStar);
        assert_eq!(allowed("https://app.example.com", None, &auth), SameOrListed);
        assert_eq!(allowed("https://own.example", Some("own.example"), &auth), SameOrListed);
        assert_eq!(allowed("null", None, &auth), No);
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        let auth = auth("http://app.test", &["*", "https://*.app.test", "null", ""]);
        for origin in [
            "",
            "null",
            "app.test",
            "http://",
            "http://app.test/",
            "http://app.test/path",
            "http://app.test?x",
            "http://app.test#x",
            "http://app.test\\@evil.example",
            "http://user@app.test",
            "http://evil.example:80@app.test",
            "http://app.test:",
            "http://app.test:99999",
            "http://app.test:+80",
            "http://app.test:8a",
            "http://app.test ",
            " http://app.test",
            "http://app.test, http://evil.example",
            "http://app.test http://evil.example",
            "http://app..test",
            "http://app.test.",
            "http://[::1",
            "http://[::1]x",
            "http://\u{430}pp.test",
            "1http://app.test",
            "http//app.test",
        ] {
            assert_eq!(allowed(origin, Some(origin), &auth), No, "{origin:?}");
        }
    }

    proptest! {
        /// Whatever is let in means the same to a browser's URL parser.
        #[test]
        fn nothing_ambiguous_is_allowed(text in r"(https?|x)://[a-zA-Z0-9.:@/\\?#\[\]%_ -]{0,24}(app\.test)?(:[0-9]{1,6})?[/@.#?a-z]{0,6}") {
            if allowed(&text, Some("app.test:6001"), &auth("http://app.test", &[])) != No {
                let url = url::Url::parse(&text).unwrap();
                prop_assert_eq!(url.host_str(), Some("app.test"));
                prop_assert_eq!((url.username(), url.password(), url.path(), url.query()), ("", None, "/", None));
            }
        }

        #[test]
        fn any_text_is_judged(origin in ".{0,80}", host in ".{0,80}") {
            let verdict = allowed(&origin, Some(&host), &auth("http://app.test", &["https://*.app.test"]));
            if WebOrigin::parse(&origin).is_none() {
                prop_assert_eq!(verdict, No);
            }
        }

        #[test]
        fn only_what_ends_in_the_listed_name_is_below_it(name in "[a-z0-9-]{1,8}(\\.[a-z0-9-]{1,8}){0,4}") {
            let verdict = allowed(&format!("https://{name}"), None, &auth("http://10.0.0.5", &["https://*.b.test"]));
            prop_assert_eq!(verdict == SameOrListed, name.ends_with(".b.test"));
            let below = allowed(&format!("https://{name}.b.test"), None, &auth("http://10.0.0.5", &["https://*.b.test"]));
            prop_assert_eq!(below, SameOrListed);
        }

        #[test]
        fn a_star_alone_never_lets_cookies_in(name in "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,3}") {
            let verdict = allowed(&format!("https://x{name}"), Some(&name), &auth("http://10.0.0.5", &["*"]));
            prop_assert_eq!(verdict, OnlyByStar);
        }
    }
}
