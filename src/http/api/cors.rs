//! `apiOriginAllow`: the HTTP API for pages of other origins, by three headers as the old server sent them,
//! word for word. Who may use it is the signature's business, not theirs.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use super::super::{Body, full};
use crate::config::ApiCors;

/// Adds the headers to an answer.
pub(super) fn put(headers: &mut HeaderMap, cors: &ApiCors) {
    let mut put = |name: HeaderName, text: &str| {
        // The configuration has made sure that they can be headers.
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    put(header::ACCESS_CONTROL_ALLOW_ORIGIN, &cors.origin);
    put(header::ACCESS_CONTROL_ALLOW_METHODS, &cors.methods);
    put(header::ACCESS_CONTROL_ALLOW_HEADERS, &cors.headers);
}

/// What a browser hears that asks beforehand, about a path with this method.
pub(super) fn preflight(method: &Method) -> Response<Body> {
    let allowed = if method == Method::GET { "GET,HEAD" } else { "POST" };
    let mut response = Response::new(full(allowed.into()));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}
