//! `apiOriginAllow`: the HTTP API for pages of other origins, by three headers as the old server sent them,
//! word for word. They let a page read; who may ask is the business of `signed` and `legacy`.

use http::{HeaderValue, Method, Response, StatusCode, header};

use crate::config::{ApiCors, Config};
use crate::http::{Body, error, full};

/// Adds the headers to an answer, if the configuration has them.
pub(in crate::http) fn put(config: &Config, response: &mut Response<Body>) {
    let Some(ApiCors { origin, methods, headers }) = &config.api_cors else { return };
    for (name, text) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, headers),
    ] {
        // The configuration has made sure that they can be headers.
        if let Ok(value) = HeaderValue::from_str(text) {
            response.headers_mut().insert(name, value);
        }
    }
}

/// What a browser hears that asks beforehand, about a path with this method.
pub(super) fn preflight(method: Option<Method>) -> Response<Body> {
    let allowed = match method {
        Some(Method::GET) => "GET,HEAD",
        Some(_) => "POST",
        None => return error(StatusCode::NOT_FOUND, "this part of the HTTP API does not exist here"),
    };
    let mut response = page(allowed);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// A short text, of the type that the old server gave to those.
pub(super) fn page(text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(text.into()));
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    response
}
