//! The dashboard's files, as they were compiled in: these and no others, so that no path leads anywhere else.

use http::Response;
use http::header::{self, HeaderValue};

use crate::http::{Body, full};

/// What the page may do: run these files and ask this server. Scripts may not make HTML out of text at all, since
/// channel names and payloads are whatever somebody sends.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                                 base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                                 trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The file at this path below `PATH`.
pub(super) fn file(path: &str) -> Option<Response<Body>> {
    let (media_type, text) = match path {
        // Relative names in the page need the slash.
        "" => return Some(redirect()),
        "/" => (HTML, include_str!("page/index.html")),
        "/style.css" => (CSS, include_str!("page/style.css")),
        "/api.js" => (JAVASCRIPT, include_str!("page/api.js")),
        "/channels.js" => (JAVASCRIPT, include_str!("page/channels.js")),
        "/dom.js" => (JAVASCRIPT, include_str!("page/dom.js")),
        "/inspector.js" => (JAVASCRIPT, include_str!("page/inspector.js")),
        "/lines.js" => (JAVASCRIPT, include_str!("page/lines.js")),
        "/overview.js" => (JAVASCRIPT, include_str!("page/overview.js")),
        "/page.js" => (JAVASCRIPT, include_str!("page/page.js")),
        _ => return None,
    };
    let mut response = Response::new(full(text.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    Some(response)
}

fn redirect() -> Response<Body> {
    let mut response = Response::new(full(bytes::Bytes::new()));
    *response.status_mut() = http::StatusCode::FOUND;
    // Relative, so that it is right behind any proxy.
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("echo-server/"));
    response
}
