//! The live feed: one JSON object a line for each thing that happens on this node, as long as somebody reads.
//!
//! A reader that is too slow misses lines and is told how many; it costs nobody else anything.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use super::admission::Access;
use super::{Parameters, Refusal, matches};
use crate::http::{Body, Front, proxy::BoxError};
use crate::inbox::OneMore;
use crate::tap::{Line, Seen, Watcher};

/// Feeds that may be open at once.
const FEEDS_MAX: usize = 16;

/// A line comes at least so often, so that both sides notice when the other has gone.
const BEAT: Duration = Duration::from_secs(10);

/// Lines that are there already go out together, up to so many bytes.
const CHUNK_BYTES: usize = 32 * 1024;

/// `GET /api/refusals`: those of late, oldest first.
#[derive(Serialize)]
pub(super) struct Refusals {
    #[serde(serialize_with = "as_list")]
    refusals: Vec<Arc<Line>>,
}

fn as_list<S: Serializer>(lines: &[Arc<Line>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(lines.iter().map(|line| &**line))
}

pub(super) fn refusals(front: &Front) -> Refusals {
    Refusals { refusals: front.publisher.tap().refusals() }
}

/// `GET /api/feed`. Parameters: `channel` (a part of the name, or a pattern with `*`), without which all is shown.
pub(super) fn feed(front: &Front, parameters: &Parameters) -> Result<Response<Body>, Refusal> {
    let open = OneMore::of(&front.admin.feeds);
    if front.admin.feeds.load(Ordering::SeqCst) > FEEDS_MAX {
        let error = format!("{FEEDS_MAX} feeds are open already; close a dashboard or a `listen`");
        return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, error));
    }
    let feed = Feed {
        watcher: front.publisher.tap().watch(),
        channel: parameters.get("channel").map(str::to_owned),
        stopped: front.admin.stopped.clone(),
        // By what this request was admitted; another configuration may have come since.
        access: (Access::of(&front.config), front.admin.access.subscribe()),
        is_over: false,
        _open: open,
    };
    let hello = stream::once(async { Ok(Frame::data(Bytes::from_static(HELLO.as_bytes()))) });
    let lines = stream::unfold(feed, |mut feed| async {
        let chunk = feed.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(chunk)), feed))
    });
    let body = StreamBody::new(stream::StreamExt::chain(hello, lines)).boxed_unsync();
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson; charset=utf-8"));
    // nginx would keep lines back until it has enough of them.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The first line, by which a reader knows that it misses nothing from now on.
const HELLO: &str = concat!("{\"kind\":\"hello\",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}\n");

struct Feed {
    watcher: Watcher,
    channel: Option<String>,
    stopped: watch::Receiver<bool>,
    /// By what it was admitted, and by what others are now.
    access: (Access, watch::Receiver<Access>),
    is_over: bool,
    _open: OneMore,
}

impl Feed {
    /// The next lines; `None`: there are no more, since the server stops, or who may look has changed.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        let mut chunk = Vec::new();
        let beat = tokio::time::sleep(BEAT);
        tokio::pin!(beat);
        let (admitted_by, now) = &mut self.access;
        while chunk.is_empty() {
            tokio::select! {
                // Before anything else is shown.
                biased;
                _ = now.wait_for(|access| *access != *admitted_by) => {
                    self.is_over = true;
                    return Some(Bytes::from_static(b"{\"kind\":\"denied\"}\n"));
                }
                _ = self.stopped.wait_for(|stopped| *stopped) => {
                    self.is_over = true;
                    chunk.extend_from_slice(b"{\"kind\":\"stopped\"}\n");
                }
                seen = self.watcher.next() => write(&seen, self.channel.as_deref(), &mut chunk),
                () = &mut beat => chunk.extend_from_slice(b"{\"kind\":\"beat\"}\n"),
            }
        }
        while chunk.len() < CHUNK_BYTES
            && let Some(seen) = self.watcher.try_next()
        {
            write(&seen, self.channel.as_deref(), &mut chunk);
        }
        Some(chunk.into())
    }
}

/// Appends a line, if it is about a channel that the pattern means.
fn write(seen: &Seen, pattern: Option<&str>, chunk: &mut Vec<u8>) {
    #[derive(Serialize)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum Other {
        Missed { count: u64 },
    }
    let is_meant = |line: &Line| pattern.is_none_or(|pattern| line.channels().any(|name| matches(pattern, name)));
    let before = chunk.len();
    let written = match seen {
        Seen::Line(line) if !is_meant(line) => return,
        Seen::Line(line) => serde_json::to_writer(&mut *chunk, &**line),
        Seen::Missed(count) => serde_json::to_writer(&mut *chunk, &Other::Missed { count: *count }),
    };
    match written {
        Ok(()) => chunk.push(b'\n'),
        Err(_) => chunk.truncate(before),
    }
}
