//! What operators and their programs ask: `/health` (does it live), `/ready` (should it get clients), `/metrics`.
//!
//! The first two anybody may ask, as a load balancer does: they tell in a word what is wrong, and no address. Numbers
//! are for programs on this machine, those with the token, or those that reach the port that is for this alone.
//! A question costs little and asks no shard, so a flood of them delays nobody's events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, request};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::{Body, Front, Fronts, api, error, full, json};
use crate::address::{Connection, Proxied, Source};
use crate::config::Secret;
use crate::log;
use crate::metrics::{Page, table};
use crate::process;
use crate::redis::Status;
use crate::webhook::Webhooks;

/// A shard that has not had its turn for so long does not live. Its turn comes each second.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Connections to the port for metrics at the same time.
const CONNECTIONS_MAX: usize = 32;

/// What is known of the server's own state beside what the front knows.
#[derive(Debug)]
pub struct Operations {
    /// Whether events of Laravel's can arrive, where they come from Redis.
    pub redis: Option<watch::Receiver<Status>>,
    /// For their counters.
    pub webhooks: Webhooks,
    draining: AtomicBool,
}

impl Operations {
    /// Of a server that serves.
    pub fn new(redis: Option<watch::Receiver<Status>>, webhooks: Webhooks) -> Self {
        Self { redis, webhooks, draining: AtomicBool::new(false) }
    }

    /// The server is about to stop: from now on it is not ready.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the server is about to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether Redis is connected, where it is used.
    pub fn redis_is_connected(&self) -> Option<bool> {
        self.redis.as_ref().map(|status| status.borrow().is_connected())
    }
}

/// Why the server should get no clients: a word for programs, a sentence for people.
fn unready(front: &Front) -> Vec<(&'static str, String)> {
    let mut reasons = dead(front);
    if front.operations.is_draining() {
        reasons.push(("draining", "the server is about to stop".to_owned()));
    }
    if front.operations.redis_is_connected() == Some(false) {
        // Where it is, and why not, is for the log alone.
        let what = "Redis is not connected, so no events arrive from Laravel; the log says why";
        reasons.push(("redis", what.to_owned()));
    }
    reasons
}

fn dead(front: &Front) -> Vec<(&'static str, String)> {
    let silence = front.publisher.metrics().silence();
    let is_dead = silence > SILENCE_MAX;
    let what = || ("shards", format!("a shard has not had its turn for {} s", silence.as_secs()));
    is_dead.then(what).into_iter().collect()
}

/// Answers if the request is one of these.
pub(super) async fn respond(front: &Front, parts: &request::Parts, source: &Source) -> Option<Response<Body>> {
    Some(match parts.uri.path() {
        "/health" => answer(parts, || state(dead(front), "alive")),
        "/ready" => answer(parts, || state(unready(front), "ready")),
        "/metrics" => match &front.config.metrics {
            Some(access) if access.listen.is_none() => match may_read(parts, access.token.as_ref(), source) {
                true => metrics(front, parts).await,
                false => forbidden(access.token.is_some()),
            },
            _ => return None,
        },
        _ => return None,
    })
}

fn answer(parts: &request::Parts, response: impl FnOnce() -> Response<Body>) -> Response<Body> {
    let mut response = match parts.method {
        Method::GET | Method::HEAD => response(),
        _ => error(StatusCode::METHOD_NOT_ALLOWED, "this path is asked with GET"),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn state(reasons: Vec<(&'static str, String)>, good: &str) -> Response<Body> {
    if reasons.is_empty() {
        return json(StatusCode::OK, format!(r#"{{"status":"{good}"}}"#));
    }
    let reasons: Vec<_> = reasons
        .into_iter()
        .map(|(reason, sentence)| serde_json::json!({ "reason": reason, "message": sentence }))
        .collect();
    let body = serde_json::json!({ "status": format!("not {good}"), "reasons": reasons });
    json(StatusCode::SERVICE_UNAVAILABLE, body.to_string())
}

// --- metrics -------------------------------------------------------------------------------

/// Whether the request may read numbers on the port that everybody can reach.
fn may_read(parts: &request::Parts, token: Option<&Secret>, source: &Source) -> bool {
    match token {
        Some(token) => {
            let given = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            given.and_then(|value| value.strip_prefix("Bearer ")).is_some_and(|given| is_same(given, token.expose()))
        }
        None => api::came_straight_from_here(parts, source),
    }
}

/// In a time that does not tell how much of it is right.
fn is_same(one: &str, other: &str) -> bool {
    let differences = one.bytes().zip(other.bytes()).fold(0, |all, (one, other)| all | (one ^ other));
    one.len() == other.len() && std::hint::black_box(differences) == 0
}

fn forbidden(has_token: bool) -> Response<Body> {
    let sentence = match has_token {
        true => "metrics are read with the header \"Authorization: Bearer \" and metrics.token",
        false => {
            "metrics are read from this machine only, without a proxy between; set \"metrics\": { \"token\": … } or a \
             \"port\" of their own to read them from elsewhere"
        }
    };
    let mut response = error(if has_token { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN }, sentence);
    if has_token {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

async fn metrics(front: &Front, parts: &request::Parts) -> Response<Body> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return answer(parts, || error(StatusCode::NOT_FOUND, ""));
    }
    let mut page = front.publisher.metrics().page();
    describe(front, &mut page);
    // What the kernel tells stands in files, and to count the open ones takes a while if there are many.
    let process = tokio::task::spawn_blocking(process::Usage::now).await.unwrap_or_default();
    describe_process(&process, front.publisher.metrics().started(), &mut page);
    let mut response = Response::new(full(page.finish().into()));
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Adds what others know.
fn describe(front: &Front, page: &mut Page) {
    let number = |is: bool| f64::from(u8::from(is));
    page.sample(&table::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    page.sample(&table::READY, &[], number(unready(front).is_empty()));
    page.sample(&table::REDIS_CONNECTED, &[], number(front.operations.redis_is_connected() == Some(true)));
    let shards = front.publisher.shards();
    page.sample(&table::SHARDS, &[], shards.len() as f64);
    page.sample(&table::SHARD_SILENCE_SECONDS, &[], front.publisher.metrics().silence().as_secs_f64());
    page.sample(&table::EVENTS_WAITING, &[], shards.iter().map(|shard| shard.waiting()).sum::<usize>() as f64);
    page.sample(&table::HTTP_CONNECTIONS, &[], front.open.load(Ordering::Relaxed) as f64);
    page.sample(&table::AUTH_REQUESTS_UNDER_WAY, &[], front.laravel.asking() as f64);

    let cluster = front.publisher.bus().status().borrow().clone();
    page.sample(&table::CLUSTER_NODES, &[], cluster.nodes.len() as f64);
    let lag = cluster.nodes.first().map_or(0.0, |node| node.lag.as_secs_f64());
    page.sample(&table::CLUSTER_LAG_SECONDS, &[], lag);
    page.sample(&table::CLUSTER_MISSED, &[], cluster.missed as f64);
    page.sample(&table::CLUSTER_HEALED, &[], cluster.healed as f64);
    page.sample(&table::CLUSTER_UNREADABLE, &[], cluster.unreadable as f64);
    page.sample(&table::CLUSTER_EVENTS_LOST, &[], cluster.lost_events as f64);

    // Of an app's URLs together: a URL is no label.
    let mut webhooks = vec![[0_u64; 3]; front.config.apps.len()];
    for (app, _, counters) in front.operations.webhooks.counters() {
        let Some(sums) = webhooks.get_mut(usize::from(app.0)) else { continue };
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        sums[0] += count(&counters.delivered);
        sums[1] += count(&counters.failed_requests);
        sums[2] += count(&counters.given_up) + count(&counters.overflowed);
    }
    let described = [&table::WEBHOOK_EVENTS_DELIVERED, &table::WEBHOOK_REQUESTS_FAILED, &table::WEBHOOK_EVENTS_LOST];
    for (index, description) in described.into_iter().enumerate() {
        for (app, sums) in front.config.apps.iter().zip(&webhooks).filter(|(app, _)| !app.is_removed) {
            page.sample(description, &[&app.id], sums[index] as f64);
        }
    }
}

fn describe_process(usage: &process::Usage, started: SystemTime, page: &mut Page) {
    page.sample(&table::RESIDENT_MEMORY_BYTES, &[], usage.resident_bytes as f64);
    page.sample(&table::OPEN_FDS, &[], usage.open_files as f64);
    page.sample(&table::MAX_FDS, &[], usage.files_max as f64);
    page.sample(&table::CPU_SECONDS, &[], usage.cpu.as_secs_f64());
    let since_1970 = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    page.sample(&table::LOG_LINES_DROPPED, &[], log::lines_dropped() as f64);
    page.sample(&table::LOG_LINES_SUPPRESSED, &[], log::lines_suppressed() as f64);
    page.sample(&table::START_TIME_SECONDS, &[], since_1970.as_secs_f64());
}

// --- a port of their own -------------------------------------------------------------------

/// Serves these three paths alone. Who reaches this port may read, unless there is a token.
pub async fn serve(listener: TcpListener, fronts: Fronts) {
    let turns = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let fronts = fronts.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let front = fronts.load_full();
                async move {
                    let connection = Connection { peer: Some(peer.ip()), proxied: Proxied::No, is_tls: false };
                    let source = Source::of(connection, request.headers(), &front.config.trusted_proxies);
                    Ok::<_, std::convert::Infallible>(respond_here(&front, &request.into_parts().0, &source).await)
                }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(fronts.load().config.limits.handshake_timeout)
                .max_buf_size(fronts.load().config.limits.head_bytes)
                .serve_connection(TokioIo::new(stream), service);
            // A client that reads its answer without end must not keep its turn for ever.
            let _ = tokio::time::timeout(CONNECTION_TIME, served).await;
            drop(turn);
        });
    }
}

/// How long one client may keep a connection to the port for metrics.
const CONNECTION_TIME: Duration = Duration::from_secs(60 * 60);

async fn respond_here(front: &Front, parts: &request::Parts, source: &Source) -> Response<Body> {
    let token = front.config.metrics.as_ref().and_then(|access| access.token.as_ref());
    match parts.uri.path() {
        "/metrics" if token.is_some() && !may_read(parts, token, source) => forbidden(true),
        "/metrics" => metrics(front, parts).await,
        _ => respond(front, parts, source)
            .await
            .unwrap_or_else(|| error(StatusCode::NOT_FOUND, "nothing is here but /metrics, /health and /ready")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::TrustedProxies;

    #[test]
    fn a_token_must_be_the_whole_one() {
        for (given, is_right) in [
            (Some("Bearer 0123456789abcdef"), true),
            (Some("Bearer 0123456789abcdeg"), false),
            (Some("Bearer 0123456789abcde"), false),
            (Some("Bearer 0123456789abcdef0"), false),
            (Some("0123456789abcdef"), false),
            (Some("Bearer "), false),
            (None, false),
        ] {
            let mut request = Request::get("/metrics");
            if let Some(given) = given {
                request = request.header(header::AUTHORIZATION, given);
            }
            let parts = request.body(()).unwrap().into_parts().0;
            let token = Secret::new("0123456789abcdef");
            let connection = Connection { peer: Some([127, 0, 0, 1].into()), proxied: Proxied::No, is_tls: false };
            let here = Source::of(connection, &parts.headers, &TrustedProxies::default());
            assert_eq!(may_read(&parts, Some(&token), &here), is_right, "{given:?}");
        }
    }
}
