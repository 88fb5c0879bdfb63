//! Which headers go on to Laravel, and which end here.
//!
//! The browser's and the client's headers are somebody else's word: they may say who is asking
//! (cookies, tokens), but not how the request is framed, where it goes, or from which address
//! it comes.

use http::HeaderMap;
use http::header::{CONNECTION, HeaderName, HeaderValue};

use crate::address::claims_a_source;

/// The headers of a subscribe message (`auth.headers`) that go on to Laravel. What is no
/// header (line breaks, control characters) is left out; of two
/// with one name the last counts, so that Laravel sees one.
pub(crate) fn from_message(pairs: &[(String, String)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) else {
            continue;
        };
        if goes_to_laravel(&name) {
            headers.insert(name, value);
        }
    }
    headers
}

/// The headers of a browser's request that go on to Laravel's auth endpoint.
pub(crate) fn from_request(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    remove_hop_by_hop(&mut headers);
    let refused: Vec<_> = headers.keys().filter(|name| !goes_to_laravel(name)).cloned().collect();
    for name in refused {
        headers.remove(name);
    }
    headers
}

/// Takes out what concerns one connection only (RFC 9110 section 7.6.1), together with what
/// the `Connection` header names, and the framing of the body: it is made anew.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    let refused: Vec<_> = headers.keys().filter(|name| is_hop_by_hop(&as_cgi(name))).cloned().collect();
    for name in named.iter().chain(&refused) {
        headers.remove(name);
    }
}

/// Takes out what claims to say where a request came from: only we know.
pub(crate) fn remove_forwarding(headers: &mut HeaderMap) {
    let refused: Vec<_> = headers.keys().filter(|name| claims_a_source(&as_cgi(name))).cloned().collect();
    for name in refused {
        headers.remove(name);
    }
}

fn goes_to_laravel(name: &HeaderName) -> bool {
    let name = as_cgi(name);
    !(is_hop_by_hop(&name)
        || claims_a_source(&name)
        || name.starts_with("content-")
        // A range or a condition would turn Laravel's yes into a 206 or 304; an encoding would
        // make it unreadable for us; an override would turn our POST into something else.
        || name.starts_with("if-")
        || matches!(
            name.as_str(),
            "host"
                | "origin"
                | "referer"
                | "expect"
                | "range"
                | "accept"
                | "accept-encoding"
                | "x-requested-with"
                | "x-http-method"
                | "x-http-method-override"
                | "x-method-override"
                | "x-original-url"
                | "x-rewrite-url"
        ))
}

fn is_hop_by_hop(name: &str) -> bool {
    name.starts_with("proxy-")
        || matches!(
            name,
            "connection" | "content-length" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade"
        )
}

/// PHP receives headers as CGI variables, where `X_Forwarded-For`, `X.Forwarded.For` and
/// `X-Forwarded-For` may be one; so they are one here.
fn as_cgi(name: &HeaderName) -> String {
    name.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn credentials_go_on_and_framing_does_not() {
        let kept = from_message(&message(&[
            ("Authorization", "Bearer t"),
            ("Cookie", "a=b"),
            ("X-CSRF-TOKEN", "c"),
            ("X-XSRF-TOKEN", "d"),
            ("Accept-Language", "de"),
            ("User-Agent", "app"),
            ("X-Tenant", "7"),
        ]));
        assert_eq!(kept.len(), 7);
        for refused in [
            "Host",
            "Content-Length",
            "Content-Type",
            "Content-Encoding",
            "content_length",
            "Transfer-Encoding",
            "TRANSFER_ENCODING",
            "Connection",
            "Keep-Alive",
            "TE",
            "Trailer",
            "Upgrade",
            "Expect",
            "Proxy-Authorization",
            "Proxy-Connection",
            "Proxy-Anything",
            "Origin",
            "Referer",
            "Forwarded",
            "Via",
            "X-Forwarded-For",
            "X_Forwarded_For",
            "X.Forwarded.For",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "X-Forwarded-Anything",
            "X-Real-IP",
            "Client-IP",
            "X-HTTP-Method-Override",
            "Accept",
            "Accept-Encoding",
            "Range",
            "If-None-Match",
            "X-Requested-With",
        ] {
            assert!(from_message(&message(&[(refused, "1")])).is_empty(), "{refused}");
        }
    }

    #[test]
    fn what_is_no_header_is_dropped() {
        for (name, value) in [
            ("X-A\r\nX-Real-IP", "1"),
            ("X-A", "1\r\nX-Real-IP: 2"),
            ("X-A", "1\nX-Real-IP: 2"),
            ("X-A", "1\0"),
            ("X A", "1"),
            ("X-A:", "1"),
            ("", "1"),
            ("X-\u{e4}", "1"),
        ] {
            assert!(from_message(&message(&[(name, value)])).is_empty(), "{name:?}: {value:?}");
        }
    }

    #[test]
    fn the_last_of_two_counts() {
        let twice = from_message(&message(&[("Authorization", "Bearer one"), ("authorization", "Bearer two")]));
        assert_eq!(twice.get_all("authorization").iter().collect::<Vec<_>>(), ["Bearer two"]);
    }

    #[test]
    fn what_connection_names_ends_here() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_static("close, X-Secret"));
        headers.append("connection", HeaderValue::from_static("x-other"));
        for name in ["x-secret", "x-other", "x-kept", "cookie"] {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        let kept = from_request(&headers);
        let mut names: Vec<_> = kept.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cookie", "x-kept"]);
    }
}
