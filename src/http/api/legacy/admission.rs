//! Whether a request may use the old server's HTTP API: where it comes from, and the key that it names.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Version, request};

use super::Denied;
use crate::address::Source;
use crate::config::{ApiCors, App, Config, KeyAuth};
use crate::http::api::Named;
use crate::inbox::AppIndex;

/// The app that the request may speak for.
pub(super) fn admit(config: &Config, app: &Named, parts: &request::Parts, source: &Source) -> Result<AppIndex, Denied> {
    if config.key_auth == KeyAuth::Loopback {
        came_straight_from_here(parts, source)?;
    }
    is_no_foreign_page(&parts.headers, config.api_cors.as_ref())?;
    let Some(key) = key(parts) else {
        return Err(Denied::unauthorized(
            "the request names no key: add ?auth_key= or the header \"Authorization: Bearer \" with clients[].key, or sign it",
        ));
    };
    let is_it = |client: &App| matches!(app, Named::Id(id) if client.id == *id) && client.key == key;
    match config.apps.iter().position(is_it) {
        Some(index) => Ok(AppIndex(index as u16)),
        None => Err(Denied::unauthorized("no app has this id together with this key (clients[].appId, clients[].key)")),
    }
}

/// The key that the request names. A header that is there counts, be it wrong; a parameter that is there twice
/// names none.
fn key(parts: &request::Parts) -> Option<String> {
    if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
        let text = value.to_str().ok()?;
        return Some(text.strip_prefix("Bearer ").unwrap_or(text).to_owned());
    }
    let parameters = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let mut keys = parameters.filter(|(name, _)| name == "auth_key");
    let (_, key) = keys.next()?;
    keys.next().is_none().then(|| key.into_owned())
}

/// Whether a program on this machine has sent the request, and no proxy on this machine for somebody else.
pub(super) fn came_straight_from_here(parts: &request::Parts, source: &Source) -> Result<(), Denied> {
    const OTHERWISE: &str = "sign the request with clients[].secret, as Pusher's libraries do, or set \"httpApiKeyAuth\": \
                             \"anywhere\" if nobody else can reach this port";
    let refused = |what: &str| Err(Denied::unauthorized(format!("{what}; {OTHERWISE}")));
    if !source.is_this_machine() {
        return refused(&match &source.forwarded_by {
            Some(name) => format!(
                "the key alone is taken from this machine only, and the request has come through a proxy ({name})"
            ),
            None => "the key alone is taken from this machine only, since it stands in every browser".to_owned(),
        });
    }
    let headers = &parts.headers;
    // nginx says nothing of itself, unless it is told to. It speaks HTTP/1.0 to those behind it, or, set up for
    // WebSockets as its manual shows, puts one of these on each request.
    let is_telling = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| text.eq_ignore_ascii_case("upgrade") || text.eq_ignore_ascii_case("close"))
    };
    if parts.version == Version::HTTP_10 || headers.get_all(header::CONNECTION).iter().any(is_telling) {
        return refused(
            "the key alone is taken from this machine only, and the request looks as if it had come through a proxy \
             (HTTP/1.0, \"Connection: upgrade\" or \"Connection: close\")",
        );
    }
    // A page whose own name leads to this machine would be of one origin with this server.
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).filter(|_| hosts.next().is_none());
    if !host.is_some_and(is_loopback_name) {
        return refused(
            "the key alone is taken by requests to 127.0.0.1, [::1] or localhost only, and this one has another Host",
        );
    }
    Ok(())
}

/// A `Host` by which this machine calls itself.
fn is_loopback_name(host: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// A browser says of a request that a page makes from where it is, and a page cannot change that.
fn is_no_foreign_page(headers: &HeaderMap, allowed: Option<&ApiCors>) -> Result<(), Denied> {
    let is_allowed = |origin: &HeaderValue| {
        allowed.is_some_and(|allowed| allowed.origin == "*" || origin.as_bytes() == allowed.origin.as_bytes())
    };
    let is_foreign = match headers.get(header::ORIGIN) {
        Some(origin) => !is_allowed(origin),
        // Pictures and scripts come without an origin, in all but old browsers with this.
        None => headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes() != b"none"),
    };
    if is_foreign {
        return Err(Denied::unauthorized(
            "the request comes from a web page, which may use the HTTP API only if apiOriginAllow allows its origin \
             (allowCors, allowOrigin)",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Connection, Proxied, TrustedProxies};
    use http::Request;

    const LOCAL: &str = "127.0.0.1";

    fn parts(version: Version, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().version(version).uri("/apps/a/events?auth_key=k");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn from(peer: &str, parts: &request::Parts) -> Result<(), Denied> {
        let connection = Connection { peer: peer.parse().ok(), proxied: Proxied::No, is_tls: false };
        came_straight_from_here(parts, &Source::of(connection, &parts.headers, &TrustedProxies::default()))
    }

    fn straight(peer: &str, headers: &[(&str, &str)]) -> Result<(), String> {
        let parts = parts(Version::HTTP_11, headers);
        from(peer, &parts).map_err(|denied| denied.message.unwrap())
    }

    #[test]
    fn programs_of_this_machine() {
        for peer in [LOCAL, "127.3.4.5", "::1", "::ffff:127.0.0.1"] {
            for host in ["127.0.0.1:6001", "localhost", "LOCALHOST:6001", "[::1]:6001", "[::1]", "127.0.0.2"] {
                assert_eq!(straight(peer, &[("host", host)]), Ok(()), "{host} from {peer}");
            }
        }
        let keep_alive = [("host", "localhost"), ("connection", "keep-alive"), ("user-agent", "curl")];
        assert_eq!(straight(LOCAL, &keep_alive), Ok(()));
    }

    #[test]
    fn everybody_else() {
        let host = ("host", "127.0.0.1:6001");
        for peer in ["192.0.2.1", "10.0.0.1", "::ffff:192.0.2.1", "fe80::1", "0.0.0.0", "unix socket"] {
            assert!(straight(peer, &[host]).unwrap_err().contains("this machine only"), "{peer}");
        }
        for name in
            ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded", "Forwarded", "Via", "X-Real-IP", "CF-Connecting-IP"]
        {
            assert!(straight(LOCAL, &[host, (name, "127.0.0.1")]).unwrap_err().contains("proxy"), "{name}");
        }
        for connection in ["Upgrade", "close"] {
            assert!(straight(LOCAL, &[host, ("connection", connection)]).unwrap_err().contains("proxy"));
        }
        let nginx = from(LOCAL, &parts(Version::HTTP_10, &[host]));
        assert!(nginx.unwrap_err().message.unwrap().contains("HTTP/1.0"));
        for hosts in [
            &[][..],
            &[("host", "evil.example:6001")],
            &[("host", "localhost.evil.example")],
            &[("host", "127.0.0.1.evil.example")],
            &[("host", "localhost:6001@evil.example")],
            &[("host", "192.0.2.1:6001")],
            &[("host", "0.0.0.0:6001")],
            &[("host", "")],
            &[host, ("host", "evil.example")],
        ] {
            assert!(straight(LOCAL, hosts).unwrap_err().contains("another Host"), "{hosts:?}");
        }
    }

    #[test]
    fn pages_are_those_of_the_configuration() {
        let cors = |origin: &str| ApiCors { origin: origin.into(), methods: String::new(), headers: String::new() };
        let page = "http://app.example";
        for (headers, allowed, expected) in [
            (&[][..], None, true),
            (&[("sec-fetch-site", "none")], None, true),
            (&[("sec-fetch-site", "cross-site")], None, false),
            (&[("sec-fetch-site", "same-site")], None, false),
            (&[("sec-fetch-site", "same-origin")], Some("*"), false),
            (&[("origin", page)], None, false),
            (&[("origin", "null")], None, false),
            (&[("origin", page)], Some(""), false),
            (&[("origin", page)], Some("http://other.example"), false),
            (&[("origin", "http://app.example.evil.example")], Some(page), false),
            (&[("origin", page), ("sec-fetch-site", "cross-site")], Some(page), true),
            (&[("origin", "null")], Some("*"), true),
        ] {
            let parts = parts(Version::HTTP_11, headers);
            let verdict = is_no_foreign_page(&parts.headers, allowed.map(cors).as_ref());
            assert_eq!(verdict.is_ok(), expected, "{headers:?} {allowed:?}");
        }
    }

    #[test]
    fn the_key_that_is_named() {
        let named = |query: &str, header: Option<&str>| {
            let mut request = Request::builder().uri(format!("/apps/a/events{query}"));
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            key(&request.body(()).unwrap().into_parts().0)
        };
        for (query, header, expected) in [
            ("?auth_key=k", None, Some("k")),
            ("?x=1&auth_key=k%20k", None, Some("k k")),
            ("", Some("Bearer k"), Some("k")),
            ("", Some("k"), Some("k")),
            ("?auth_key=k", Some("Bearer wrong"), Some("wrong")),
            ("?auth_key=k", Some("bearer k"), Some("bearer k")),
            ("?auth_key=k&auth_key=k", None, None),
            ("", None, None),
        ] {
            assert_eq!(named(query, header).as_deref(), expected, "{query} {header:?}");
        }
    }
}
