//! By which a browser is known that comes back: the cookie of [`crate::protocol::resume`], and the shard
//! that has the browser's connections.

use std::sync::atomic::Ordering;

use http::header::{self, HeaderMap, HeaderValue};

use super::Front;
use crate::address::Source;
use crate::inbox::{Origin, Returning};
use crate::protocol::resume::{BrowserId, Cookie};

/// A shard that has so many connections more than the one with the fewest gets none for its cookie's sake: whoever makes up
/// cookies cannot give all the work to one thread. The browser becomes another one, of another shard.
const UNEVEN_MAX: usize = 4096;

/// A browser, its shard, and what its cookie is to be from now on, if another than it has.
pub(super) struct Known {
    pub(super) returning: Returning,
    pub(super) shard: usize,
    pub(super) set_cookie: Option<HeaderValue>,
}

/// Finds out which browser this is, if what it misses is to be kept.
pub(super) fn known(front: &Front, headers: &HeaderMap, source: &Source) -> Option<Known> {
    let settings = front.config.resume.as_ref()?;
    let bus = front.publisher.bus();
    let process = bus.own();
    let shards = front.publisher.shards();
    let connections = |index: usize| shards[index].connections().load(Ordering::Relaxed);
    let idle = front.idle_shard().1;
    let found = headers.get_all(header::COOKIE).iter().find_map(|value| Cookie::find(value.to_str().ok()?));
    let (mut browser, mut origin) = match found {
        Some(cookie) if cookie.process == process => (cookie.browser, Origin::Here),
        Some(cookie) if bus.is_node(cookie.process) => (cookie.browser, Origin::Node(cookie.process)),
        Some(cookie) => (cookie.browser, Origin::Elsewhere),
        None => (new_id(idle, shards.len())?, Origin::New),
    };
    if connections(browser.shard(shards.len())) > connections(idle) + UNEVEN_MAX {
        (browser, origin) = (new_id(idle, shards.len())?, Origin::Moved);
    }
    // A page over https has come over TLS, though a proxy may have taken it off.
    let origin_header = headers.get(header::ORIGIN).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_secure = front.tls.is_some() || origin_header.starts_with(b"https://");
    let cookie = Cookie { browser, process };
    let keeps_cookie = matches!(origin, Origin::Here | Origin::Node(_));
    let set_cookie = HeaderValue::from_str(&cookie.set(settings.same_site, is_secure)).ok().filter(|_| !keeps_cookie);
    let returning = Returning { browser, origin, address: source.counted_as() };
    Some(Known { returning, shard: browser.shard(shards.len()), set_cookie })
}

/// An id that belongs to this shard.
fn new_id(shard: usize, shards: usize) -> Option<BrowserId> {
    let mut bytes = [0; 16];
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!("no random number for a browser's cookie: {error}");
        return None;
    }
    let (random, shards) = (u128::from_le_bytes(bytes), shards as u128);
    Some(BrowserId((random - random % shards).saturating_add(shard as u128)))
}
