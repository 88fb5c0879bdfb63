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
    let connections: Vec<usize> =
        front.publisher.shards().iter().map(|shard| shard.connections().load(Ordering::Relaxed)).collect();
    let found = headers.get_all(header::COOKIE).iter().find_map(|value| Cookie::find(value.to_str().ok()?));
    let (browser, origin) = who(found, process, |id| bus.is_node(id), &connections)?;
    // A page over https has come over TLS, though a proxy may have taken it off.
    let origin_header = headers.get(header::ORIGIN).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_secure = source.is_https || origin_header.starts_with(b"https://");
    let cookie = Cookie { browser, process };
    // It names the process that the browser was with last, and the load balancer's part of it stays.
    let keeps_cookie = origin == Origin::Here;
    let set_cookie = HeaderValue::from_str(&cookie.set(settings.same_site, is_secure)).ok().filter(|_| !keeps_cookie);
    let returning = Returning { browser, origin, address: source.counted_as() };
    Some(Known { returning, shard: browser.shard(connections.len()), set_cookie })
}

/// Who comes with this cookie, and from where, if the shards have so many connections.
fn who(
    found: Option<Cookie>,
    process: u64,
    is_node: impl Fn(u64) -> bool,
    connections: &[usize],
) -> Option<(BrowserId, Origin)> {
    let idle = (0..connections.len()).min_by_key(|index| connections[*index])?;
    let Some(cookie) = found else { return Some((new_id(idle, connections.len())?, Origin::New)) };
    if connections[cookie.browser.shard(connections.len())] > connections[idle] + UNEVEN_MAX {
        return Some((new_id(idle, connections.len())?, Origin::Moved));
    }
    let origin = match cookie.process {
        id if id == process => Origin::Here,
        id if is_node(id) => Origin::Node,
        _ => Origin::Elsewhere,
    };
    Some((cookie.browser, origin))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(process: u64, browser: u128, connections: &[usize]) -> (BrowserId, Origin) {
        who(Some(Cookie { browser: BrowserId(browser), process }), 7, |id| id == 8, connections).unwrap()
    }

    #[test]
    fn a_cookie_says_where_a_browser_comes_from() {
        assert_eq!(of(7, 5, &[3, 4]), (BrowserId(5), Origin::Here));
        assert_eq!(of(8, 5, &[3, 4]), (BrowserId(5), Origin::Node));
        assert_eq!(of(9, 5, &[3, 4]), (BrowserId(5), Origin::Elsewhere));
        for connections in [[3, 4, 5], [5, 3, 4], [4, 5, 3]] {
            let (browser, origin) = who(None, 7, |_| false, &connections).unwrap();
            assert_eq!((connections[browser.shard(3)], origin), (3, Origin::New));
        }
    }

    /// Whoever makes up cookies gets no shard more than it can bear, and browsers that are there go to another one.
    #[test]
    fn made_up_cookies_fill_no_shard() {
        let mut connections = [10, 20, 30];
        for n in 0..50_000 {
            let (browser, origin) = of(9, 3 * n, &connections);
            assert_eq!(origin == Origin::Moved, browser != BrowserId(3 * n));
            connections[browser.shard(3)] += 1;
        }
        let (least, most) = (connections.iter().min().unwrap(), connections.iter().max().unwrap());
        assert!(most - least <= UNEVEN_MAX + 1, "{connections:?}");
        assert_eq!(of(7, 1, &[1, UNEVEN_MAX + 2]).1, Origin::Moved);
        assert_eq!(of(7, 1, &[1, UNEVEN_MAX + 1]).1, Origin::Here);
    }
}
