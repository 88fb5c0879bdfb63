//! Who may see the dashboard and use its API.
//!
//! The port is public, and the operator's own browser can be made to send requests by any page that is open in it.
//! So: a program or a browser on this machine, if the request has come straight from there, to a name by which only this
//! machine calls itself; or whoever has the login of `admin`. And never a page of another origin, whoever
//! asks: browsers send a login that they know along with any request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode, Uri};

use super::api;
use super::attempts::Attempts;
use crate::address::Source;
use crate::config::{Admin, Config, KeyAuth, Login};
use crate::protocol::signature;

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum What {
    /// The dashboard's own files, which hold nothing to be seen. A link on another page may lead to them.
    Page,
    /// Anything else.
    Data,
}

/// Why not.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Denied {
    /// 401 asks for the login.
    pub status: StatusCode,
    /// What to do.
    pub error: String,
}

/// What of a configuration decides about it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Access {
    admin: Option<Admin>,
    key_auth: KeyAuth,
}

impl Access {
    pub(super) fn of(config: &Config) -> Self {
        Self { admin: config.admin.clone(), key_auth: config.key_auth }
    }
}

fn denied(status: StatusCode, error: impl Into<String>) -> Result<(), Denied> {
    Err(Denied { status, error: error.into() })
}

/// Whether this request may be answered.
pub(super) fn admit(
    config: &Config,
    attempts: &Attempts,
    parts: &Parts,
    source: &Source,
    what: What,
) -> Result<(), Denied> {
    let Some(admin) = &config.admin else {
        return denied(StatusCode::NOT_FOUND, "the dashboard is switched off here (\"admin\": false)");
    };
    is_no_foreign_page(parts, what)?;
    // Who has said that a proxy on this machine looks like a program here means this, too.
    let is_here_trusted = config.key_auth != KeyAuth::Off;
    if is_here_trusted && api::came_straight_from_here(parts, source) {
        return Ok(());
    }
    let Some(login) = &admin.login else {
        let from_elsewhere = "From elsewhere, or through a proxy, a login is needed: add \"admin\": { \"user\": \"…\", \
                              \"password\": \"…\" } to the configuration file";
        let error = if is_here_trusted {
            format!("The dashboard is for this machine, at http://127.0.0.1 and localhost. {from_elsewhere}")
        } else {
            format!("With \"httpApiKeyAuth\": \"off\" nobody is taken for being on this machine. {from_elsewhere}")
        };
        return denied(StatusCode::FORBIDDEN, error);
    };
    let Some(given) = parts.headers.get(header::AUTHORIZATION) else {
        return denied(StatusCode::UNAUTHORIZED, "a login is needed (\"admin\" in the configuration file)");
    };
    if !attempts.may_try(source) {
        let error = "too many wrong logins from this address; wait a minute";
        return denied(StatusCode::TOO_MANY_REQUESTS, error);
    }
    if is_login(given, login) {
        return Ok(());
    }
    attempts.failed(source);
    denied(StatusCode::UNAUTHORIZED, "this is not the login of \"admin\" in the configuration file")
}

/// Compares without telling by its time how much is right.
fn is_login(given: &HeaderValue, login: &Login) -> bool {
    let text = given.to_str().ok().and_then(|text| text.split_once(' '));
    let Some((_, credentials)) = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic")) else { return false };
    let Some(credentials) = STANDARD.decode(credentials.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok())
    else {
        return false;
    };
    let expected = format!("{}:{}", login.user, login.password.expose());
    // Signatures of both by one key: they are equal if the texts are, and say nothing else of them.
    signature::verify(login.password.expose(), &credentials, &signature::sign(login.password.expose(), &expected))
}

/// A browser says of a request that a page makes from where it is, and a page cannot change that.
fn is_no_foreign_page(parts: &Parts, what: What) -> Result<(), Denied> {
    let is_foreign = match parts.headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        Some(b"same-origin" | b"none") => false,
        Some(_) => !(what == What::Page && is_navigation(parts)),
        // Browsers leave it out over plain HTTP to other machines, and old ones always.
        None => !is_own_origin(&parts.headers),
    };
    if is_foreign {
        let error = "the request comes from a page of another origin. If it is the dashboard's own, the proxy in front must \
                     pass the browser's Host on";
        return denied(StatusCode::FORBIDDEN, error);
    }
    Ok(())
}

/// Somebody has followed a link.
fn is_navigation(parts: &Parts) -> bool {
    let says = |name, value: &str| parts.headers.get(name).is_some_and(|it| it.as_bytes() == value.as_bytes());
    parts.method == Method::GET && says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document")
}

/// There is no `Origin`, or it is the one that the request goes to.
fn is_own_origin(headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return true };
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let Some((origin, host)) = origin.as_ref().and_then(Uri::authority).zip(host) else { return false };
    origins.next().is_none() && origin.as_str().eq_ignore_ascii_case(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Connection, Proxied, TrustedProxies};
    use crate::config::Secret;
    use http::Request;
    use std::path::Path;

    const HERE: &str = "127.0.0.1";
    const AWAY: &str = "192.0.2.1";

    fn config(login: bool, key_auth: KeyAuth) -> Config {
        let login = login.then(|| Login { user: "ops".into(), password: Secret::new("correct horse") });
        let mut config = Config::parse(Path::new("x.json"), b"{}", &|_| None).unwrap();
        (config.admin, config.key_auth) = (Some(Admin { login }), key_auth);
        config
    }

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/echo-server/api/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn from(peer: &str, parts: &Parts) -> Source {
        let connection = Connection { peer: peer.parse().ok(), proxied: Proxied::No, is_tls: false };
        Source::of(connection, &parts.headers, &TrustedProxies::default())
    }

    fn status(config: &Config, peer: &str, headers: &[(&str, &str)], what: What) -> u16 {
        let parts = parts(headers);
        let admitted = admit(config, &Attempts::default(), &parts, &from(peer, &parts), what);
        admitted.map_or_else(|denied| denied.status.as_u16(), |()| 200)
    }

    const HOST: (&str, &str) = ("host", "127.0.0.1:6001");

    #[test]
    fn without_a_login_this_machine_alone() {
        let config = config(false, KeyAuth::Loopback);
        for (peer, headers, expected) in [
            (HERE, &[HOST][..], 200),
            ("::1", &[("host", "localhost")], 200),
            (AWAY, &[HOST], 403),
            (HERE, &[HOST, ("x-forwarded-for", HERE)], 403),
            (HERE, &[HOST, ("connection", "upgrade")], 403),
            // A name of somebody else's that leads here.
            (HERE, &[("host", "evil.example:6001")], 403),
            (HERE, &[("host", "evil.example:6001"), ("origin", "http://evil.example:6001")], 403),
            (HERE, &[], 403),
        ] {
            assert_eq!(status(&config, peer, headers, What::Data), expected, "{peer} {headers:?}");
        }
        let mut off = config.clone();
        off.key_auth = KeyAuth::Off;
        assert_eq!(status(&off, HERE, &[HOST], What::Data), 403, "a proxy that says nothing of itself is here, too");
        off.admin = None;
        assert_eq!(status(&off, HERE, &[HOST], What::Page), 404);
    }

    #[test]
    fn pages_of_other_origins_never() {
        let config = config(false, KeyAuth::Loopback);
        let navigation =
            [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        for (headers, data, page) in [
            (&[("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:6001")][..], 200, 200),
            (&[("sec-fetch-site", "none")], 200, 200),
            (&[("sec-fetch-site", "same-site")], 403, 403),
            (&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], 403, 403),
            (&navigation, 403, 200),
            (&[("origin", "http://127.0.0.1:6001")], 200, 200),
            (&[("origin", "http://127.0.0.1:8000")], 403, 403),
            (&[("origin", "http://localhost:6001")], 403, 403),
            (&[("origin", "null")], 403, 403),
            (&[("origin", "http://127.0.0.1:6001.evil.example")], 403, 403),
            (&[("origin", "http://127.0.0.1:6001"), ("origin", "http://evil.example")], 403, 403),
        ] {
            let headers: Vec<_> = [HOST].iter().chain(headers).copied().collect();
            assert_eq!(status(&config, HERE, &headers, What::Data), data, "{headers:?}");
            assert_eq!(status(&config, HERE, &headers, What::Page), page, "{headers:?}");
        }
    }

    #[test]
    fn with_the_login_from_anywhere() {
        let config = config(true, KeyAuth::Off);
        let host = ("host", "echo.example");
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for (authorization, expected) in [
            (basic("ops:correct horse"), 200),
            (basic("ops:correct horsf"), 401),
            (basic("ops:"), 401),
            (basic("op:correct horse"), 401),
            (basic(":correct horse"), 401),
            (basic("ops:correct horse2"), 401),
            (STANDARD.encode("ops:correct horse"), 401),
            ("Bearer correct horse".to_owned(), 401),
            ("Basic ".to_owned(), 401),
        ] {
            let headers = [host, ("authorization", authorization.as_str())];
            assert_eq!(status(&config, AWAY, &headers, What::Data), expected, "{authorization}");
        }
        assert_eq!(status(&config, AWAY, &[host], What::Data), 401);
        assert_eq!(status(&config, HERE, &[HOST], What::Data), 401, "httpApiKeyAuth is off");
        let right = basic("ops:correct horse");
        let lured = [host, ("authorization", right.as_str()), ("sec-fetch-site", "cross-site")];
        assert_eq!(status(&config, AWAY, &lured, What::Data), 403, "a page makes the browser send what it knows");
    }

    #[test]
    fn guessing_ends_soon() {
        let (config, attempts) = (config(true, KeyAuth::Loopback), Attempts::default());
        let ask = |peer: &str, password: &str| {
            let authorization = format!("Basic {}", STANDARD.encode(format!("ops:{password}")));
            let parts = parts(&[("host", "echo.example"), ("authorization", &authorization)]);
            admit(&config, &attempts, &parts, &from(peer, &parts), What::Data)
                .map_or_else(|denied| denied.status.as_u16(), |()| 200)
        };
        let statuses: Vec<u16> = (0..20).map(|n| ask(AWAY, &n.to_string())).collect();
        assert_eq!((statuses[0], statuses[19]), (401, 429));
        assert_eq!(ask(AWAY, "correct horse"), 429, "not even the right one, or guessing would go on");
        assert_eq!(ask("192.0.2.2", "correct horse"), 200, "from another address");
    }
}
