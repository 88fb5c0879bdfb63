//! What nodes say to each other, as bytes.
//!
//! A message is a header (magic, version, kind, node, number) and a body of the kind: numbers in
//! little endian, texts and lists with their length before them. A later version may add kinds, which
//! this one skips, and fields at the end of a body, which this one does not read; what cannot be read
//! any more by this one has another version, and is skipped, too.

use super::held::{Buckets, Tag};
use crate::bus::MAGIC;

/// Raised when a message can no longer be read by those of before.
const VERSION: u8 = 1;

/// A process that runs this server: when it was started, and 22 random bits. So one that is restarted is
/// another, and of two the older one has the lower id.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeId(pub u64);

impl NodeId {
    /// Of a process that starts now.
    pub fn new(now: std::time::SystemTime, random: u64) -> Self {
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(((since.as_millis() as u64) << 22) | (random & 0x3f_ffff))
    }
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who says something, and which of its messages it is, counted from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    pub node: NodeId,
    pub number: u64,
}

/// What is said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Body<'a> {
    /// Once a second.
    Beat(Box<Beat<'a>>),
    /// A client event, or one of the HTTP API: the text that goes to Pusher clients.
    Event { app: Tag, channel: &'a str, except: Option<&'a str>, text: &'a str },
    /// Users who have come to the node or left it, in order.
    Changes(Vec<Change<'a>>),
    /// A part of all users of one bucket. The parts follow each other, with nothing between.
    Snapshot { bucket: u8, is_first: bool, is_last: bool, members: Vec<Change<'a>> },
    /// To `node`: send these buckets.
    Want { node: NodeId, buckets: u64 },
    /// The node stops: its users are to be kept for so long, since they come back elsewhere.
    Leaving { grace_secs: u32 },
    /// End the user's connections.
    Terminate { app: Tag, user_id: &'a str },
    /// These connections will be closed, or were lost: their browsers may come to others.
    Coming { app: Tag, connections: Vec<Coming<'a>> },
    /// Say how many subscriptions there are in the channels that begin so.
    CountPrefix { id: u64, app: Tag, prefix: &'a str },
    /// Say how many subscriptions there are in these channels.
    Count { id: u64, app: Tag, channels: Vec<&'a str> },
    /// To `node`, which has asked: a part of the answer.
    Counted { node: NodeId, id: u64, is_last: bool, channels: Vec<(&'a str, u32)> },
}

/// A connection that will be closed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Coming<'a> {
    /// Its browser.
    pub browser: u128,
    /// Its id.
    pub socket_id: &'a str,
    /// What it is subscribed to.
    pub channels: Vec<&'a str>,
    /// `None`: it will be closed. Else it was lost, and had got everything so many milliseconds ago.
    pub known_ago: Option<u64>,
}

/// A sign of life, and what is needed to notice that something was missed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Beat<'a> {
    /// The server's version, for people.
    pub version: &'a str,
    /// How long its last beat took to come back to itself, in milliseconds.
    pub lag_ms: u32,
    /// Its apps, and how many connections each has.
    pub apps: Vec<(Tag, u32)>,
    /// Of the users that it has.
    pub digests: Buckets,
}

/// A user of a channel: there with this info, or gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Change<'a> {
    pub app: Tag,
    /// Empty: the user is signed in.
    pub channel: &'a str,
    pub user_id: &'a str,
    pub info: Option<&'a str>,
}

/// Why bytes are no message for this version.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unreadable {
    #[error("it is none of this server's messages")]
    Foreign,
    #[error("it is of another version ({0})")]
    Version(u8),
    #[error("it is of an unknown kind ({0})")]
    Kind(u8),
    #[error("it is cut off or damaged")]
    Damaged,
}

impl Body<'_> {
    /// The message as it is published.
    pub fn encode(&self, header: Header) -> Vec<u8> {
        let mut to = Writer(Vec::with_capacity(64));
        to.0.extend_from_slice(MAGIC);
        to.u8(VERSION);
        to.u8(self.kind());
        to.u64(header.node.0);
        to.u64(header.number);
        match self {
            Body::Beat(beat) => {
                to.text(beat.version);
                to.u32(beat.lag_ms);
                to.list(&beat.apps, |to, (app, connections)| {
                    to.u64(app.0);
                    to.u32(*connections);
                });
                to.list(&beat.digests, |to, digest| to.u64(*digest));
            }
            Body::Event { app, channel, except, text } => {
                to.u64(app.0);
                to.text(channel);
                to.optional(*except);
                to.text(text);
            }
            Body::Changes(changes) => to.list(changes, Writer::change),
            Body::Snapshot { bucket, is_first, is_last, members } => {
                to.u8(*bucket);
                to.u8(u8::from(*is_first));
                to.u8(u8::from(*is_last));
                to.list(members, Writer::change);
            }
            Body::Want { node, buckets } => {
                to.u64(node.0);
                to.u64(*buckets);
            }
            Body::Leaving { grace_secs } => to.u32(*grace_secs),
            Body::Terminate { app, user_id } => {
                to.u64(app.0);
                to.text(user_id);
            }
            Body::Coming { app, connections } => {
                to.u64(app.0);
                to.list(connections, |to, coming| {
                    to.u64((coming.browser >> 64) as u64);
                    to.u64(coming.browser as u64);
                    to.text(coming.socket_id);
                    to.list(&coming.channels, |to, channel| to.text(channel));
                    // 0 is `None`.
                    to.u64(coming.known_ago.map_or(0, |ago| ago.saturating_add(1)));
                });
            }
            Body::CountPrefix { id, app, prefix } => {
                to.u64(*id);
                to.u64(app.0);
                to.text(prefix);
            }
            Body::Count { id, app, channels } => {
                to.u64(*id);
                to.u64(app.0);
                to.list(channels, |to, channel| to.text(channel));
            }
            Body::Counted { node, id, is_last, channels } => {
                to.u64(node.0);
                to.u64(*id);
                to.u8(u8::from(*is_last));
                to.list(channels, |to, (channel, count)| {
                    to.text(channel);
                    to.u32(*count);
                });
            }
        }
        to.0
    }

    fn kind(&self) -> u8 {
        match self {
            Body::Beat(_) => 1,
            Body::Event { .. } => 2,
            Body::Changes(_) => 3,
            Body::Snapshot { .. } => 4,
            Body::Want { .. } => 5,
            Body::Leaving { .. } => 6,
            Body::Terminate { .. } => 7,
            Body::CountPrefix { .. } => 8,
            Body::Count { .. } => 9,
            Body::Counted { .. } => 10,
            Body::Coming { .. } => 11,
        }
    }
}

/// Reads a message. The header of one whose body cannot be read is given all the same: it counts.
///
/// # Errors
/// It is nothing that this version can read.
pub fn decode(bytes: &[u8]) -> Result<(Header, Result<Body<'_>, Unreadable>), Unreadable> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(Unreadable::Foreign)?;
    let mut from = Reader(rest);
    match from.u8() {
        Some(VERSION) => {}
        Some(other) => return Err(Unreadable::Version(other)),
        None => return Err(Unreadable::Damaged),
    }
    let (kind, header) = from.header().ok_or(Unreadable::Damaged)?;
    if !(1..=11).contains(&kind) {
        return Ok((header, Err(Unreadable::Kind(kind))));
    }
    Ok((header, body(kind, &mut from).ok_or(Unreadable::Damaged)))
}

fn body<'a>(kind: u8, from: &mut Reader<'a>) -> Option<Body<'a>> {
    Some(match kind {
        1 => {
            let (version, lag_ms) = (from.text()?, from.u32()?);
            let apps = from.list(|from| Some((Tag(from.u64()?), from.u32()?)))?;
            let digests = from.list(Reader::u64)?.try_into().ok()?;
            Body::Beat(Box::new(Beat { version, lag_ms, apps, digests }))
        }
        2 => {
            let (app, channel) = (Tag(from.u64()?), from.text()?);
            Body::Event { app, channel, except: from.optional()?, text: from.text()? }
        }
        3 => Body::Changes(from.list(Reader::change)?),
        4 => {
            let (bucket, is_first, is_last) = (from.u8()?, from.u8()? != 0, from.u8()? != 0);
            Body::Snapshot { bucket, is_first, is_last, members: from.list(Reader::change)? }
        }
        5 => Body::Want { node: NodeId(from.u64()?), buckets: from.u64()? },
        6 => Body::Leaving { grace_secs: from.u32()? },
        7 => Body::Terminate { app: Tag(from.u64()?), user_id: from.text()? },
        8 => Body::CountPrefix { id: from.u64()?, app: Tag(from.u64()?), prefix: from.text()? },
        9 => Body::Count { id: from.u64()?, app: Tag(from.u64()?), channels: from.list(Reader::text)? },
        11 => Body::Coming { app: Tag(from.u64()?), connections: from.list(Reader::coming)? },
        _ => {
            let (node, id, is_last) = (NodeId(from.u64()?), from.u64()?, from.u8()? != 0);
            Body::Counted { node, id, is_last, channels: from.list(|from| Some((from.text()?, from.u32()?)))? }
        }
    })
}

struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn optional(&mut self, text: Option<&str>) {
        self.u8(u8::from(text.is_some()));
        if let Some(text) = text {
            self.text(text);
        }
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.u32(items.len() as u32);
        items.iter().for_each(|item| write(self, item));
    }

    fn change(&mut self, change: &Change<'_>) {
        self.u64(change.app.0);
        self.text(change.channel);
        self.text(change.user_id);
        self.optional(change.info);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        std::str::from_utf8(self.bytes(length)?).ok()
    }

    fn optional(&mut self) -> Option<Option<&'a str>> {
        match self.u8()? {
            0 => Some(None),
            _ => self.text().map(Some),
        }
    }

    /// Grows with what is read, not with what the length promises.
    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u32()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        Some(items)
    }

    fn header(&mut self) -> Option<(u8, Header)> {
        Some((self.u8()?, Header { node: NodeId(self.u64()?), number: self.u64()? }))
    }

    fn coming(&mut self) -> Option<Coming<'a>> {
        let browser = (u128::from(self.u64()?) << 64) | u128::from(self.u64()?);
        let (socket_id, channels) = (self.text()?, self.list(Reader::text)?);
        Some(Coming { browser, socket_id, channels, known_ago: self.u64()?.checked_sub(1) })
    }

    fn change(&mut self) -> Option<Change<'a>> {
        Some(Change { app: Tag(self.u64()?), channel: self.text()?, user_id: self.text()?, info: self.optional()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: Header = Header { node: NodeId(7), number: 9 };

    fn examples() -> Vec<Body<'static>> {
        let app = Tag(3);
        let there = Change { app, channel: "presence-é", user_id: "1", info: Some("{}") };
        let gone = Change { app, channel: "", user_id: "2", info: None };
        let mut digests = [0; 64];
        digests[63] = u64::MAX;
        vec![
            Body::Beat(Box::new(Beat {
                version: "1.2.3",
                lag_ms: 4,
                apps: vec![(app, 5), (Tag(u64::MAX), 0)],
                digests,
            })),
            Body::Event { app, channel: "a", except: Some("1.2"), text: "{\"event\":\"client-x\"}" },
            Body::Event { app, channel: "a", except: None, text: "" },
            Body::Changes(vec![there, gone]),
            Body::Snapshot { bucket: 63, is_first: true, is_last: false, members: vec![there] },
            Body::Want { node: NodeId(1), buckets: u64::MAX },
            Body::Leaving { grace_secs: 10 },
            Body::Terminate { app, user_id: "7" },
            Body::Coming {
                app,
                connections: [None, Some(0), Some(5)]
                    .map(|known_ago| Coming {
                        browser: 1 << 100,
                        socket_id: "1.2",
                        channels: vec!["a", "private-b"],
                        known_ago,
                    })
                    .into(),
            },
            Body::CountPrefix { id: 1, app, prefix: "presence-" },
            Body::Count { id: 2, app, channels: vec!["a", "b"] },
            Body::Counted { node: NodeId(1), id: 2, is_last: true, channels: vec![("a", 1), ("b", 2)] },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        for body in examples() {
            assert_eq!(decode(&body.encode(HEADER)), Ok((HEADER, Ok(body))));
        }
    }

    #[test]
    fn later_versions_may_add_fields_and_kinds() {
        for body in examples() {
            let longer = [body.encode(HEADER), b"more".to_vec()].concat();
            assert_eq!(decode(&longer), Ok((HEADER, Ok(body))));
        }
        let mut bytes = Body::Leaving { grace_secs: 1 }.encode(HEADER);
        bytes[5] = 200;
        assert_eq!(decode(&bytes), Ok((HEADER, Err(Unreadable::Kind(200)))));
        bytes[4] = 2;
        assert_eq!(decode(&bytes), Err(Unreadable::Version(2)));
        assert_eq!(decode(br#"{"event":"e"}"#), Err(Unreadable::Foreign));
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        for body in examples() {
            let bytes = body.encode(HEADER);
            for length in 0..bytes.len() {
                assert!(!matches!(decode(&bytes[..length]), Ok((_, Ok(_)))), "{body:?} cut to {length}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(kind in 0u8..12, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[MAGIC, &[VERSION, kind], &bytes[..]].concat());
        }
    }
}
