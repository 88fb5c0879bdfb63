//! What the load generator reads and writes, as bytes: server frames, the stamp within an event,
//! client frames, HTTP requests and their answers, Redis commands. No socket, no clock.
//!
//! Frames are not decoded further than to find the stamp: the generator shares the machine with
//! the server that it measures.

use std::ops::Range;

use md5::{Digest, Md5};

use crate::config::Secret;
use crate::protocol::signature;

/// A frame of the server's.
#[derive(Debug, Eq, PartialEq)]
pub struct Frame {
    /// RFC 6455 section 5.2.
    pub opcode: u8,
    /// Where its payload stands in the input.
    pub payload: Range<usize>,
}

/// The first bytes are no frame that a server may send.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the server sent something that is no WebSocket frame of a server")]
pub struct NotAFrame;

/// Reads the frame at `input[at..]`; `None` if it has not arrived whole.
pub fn frame(input: &[u8], at: usize) -> Result<Option<Frame>, NotAFrame> {
    let [first, second, rest @ ..] = &input[at..] else { return Ok(None) };
    if first & 0x70 != 0 || second & 0x80 != 0 {
        return Err(NotAFrame);
    }
    let (header, length) = match (second, rest) {
        (126, [a, b, ..]) => (4, u64::from(u16::from_be_bytes([*a, *b]))),
        (127, [a, b, c, d, e, f, g, h, ..]) => (10, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
        (126 | 127, _) => return Ok(None),
        (short, _) => (2, u64::from(*short)),
    };
    let left = (input.len() - at) as u64;
    if length > left.saturating_sub(header) {
        // Longer than anything that a server of this protocol would send.
        return if length > 64 * 1024 * 1024 { Err(NotAFrame) } else { Ok(None) };
    }
    let start = at + header as usize;
    Ok(Some(Frame { opcode: first & 0x0f, payload: start..start + length as usize }))
}

/// Appends a client's frame: masked, as it must be, by a mask that is always the same.
pub fn push_client_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// What each event carries: what it is one of, its number, and when it was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// Tells this run's events from those of another.
    pub run: u16,
    /// The channel's number.
    pub channel: u32,
    /// The publisher's number.
    pub publisher: u8,
    /// Counts the events of this publisher on this channel, from 0.
    pub sequence: u32,
    /// Nanoseconds since the run began.
    pub sent_at: u64,
}

/// Begins and ends a stamp; neither the channels' names nor anything else in an event has it.
const MARK: u8 = b'~';
const DIGITS: usize = 4 + 6 + 2 + 8 + 12;

impl Stamp {
    /// The text, of always the same length.
    pub fn push(&self, out: &mut Vec<u8>) {
        out.push(MARK);
        let fields = [
            (u64::from(self.run), 4),
            (u64::from(self.channel), 6),
            (u64::from(self.publisher), 2),
            (u64::from(self.sequence), 8),
            (self.sent_at, 12),
        ];
        for (value, digits) in fields {
            for digit in (0..digits).rev() {
                out.push(b"0123456789abcdef"[(value >> (4 * digit)) as usize & 15]);
            }
        }
        out.push(MARK);
    }

    /// Finds the stamp in an event. `hint` is where the last one stood, which is most likely
    /// where this one does.
    pub fn find(payload: &[u8], hint: &mut usize) -> Option<Self> {
        if payload.get(*hint) != Some(&MARK) {
            *hint = payload.iter().position(|byte| *byte == MARK)?;
        }
        let text = payload.get(*hint + 1..*hint + 2 + DIGITS)?;
        let mut rest = text;
        let mut next = |digits: usize| {
            let (field, after) = rest.split_at(digits);
            rest = after;
            field.iter().try_fold(0u64, |value, byte| Some(value << 4 | u64::from(hex_digit(*byte)?)))
        };
        let stamp = Self {
            run: next(4)? as u16,
            channel: next(6)? as u32,
            publisher: next(2)? as u8,
            sequence: next(8)? as u32,
            sent_at: next(12)?,
        };
        (text[DIGITS] == MARK).then_some(stamp)
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// Whether `needle` occurs in the first `within` bytes.
pub fn says(payload: &[u8], needle: &str, within: usize) -> bool {
    let head = &payload[..payload.len().min(within)];
    head.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// The socket id in `connection_established`.
pub fn socket_id(payload: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(payload).ok()?;
    let rest = text.split_once("socket_id")?.1.trim_start_matches(['\\', '"', ':', ' ']);
    let id = &rest[..rest.find(|c: char| !c.is_ascii_digit() && c != '.')?];
    (!id.is_empty()).then_some(id)
}

/// The events' data: the stamp, filled up to about this many bytes.
#[derive(Clone, Debug)]
pub struct Filler(String);

impl Filler {
    /// For data of so many bytes; less than the stamp needs is as much as it needs.
    pub fn new(data_bytes: usize) -> Self {
        let without = r#"{"stamp":"","fill":""}"#.len() + DIGITS + 2;
        Self("x".repeat(data_bytes.saturating_sub(without)))
    }

    fn push_data(&self, out: &mut Vec<u8>, stamp: &Stamp, quote: &str) {
        for part in ["{", quote, "stamp", quote, ":", quote] {
            out.extend_from_slice(part.as_bytes());
        }
        stamp.push(out);
        for part in [quote, ",", quote, "fill", quote, ":", quote, &self.0, quote] {
            out.extend_from_slice(part.as_bytes());
        }
    }

    /// Appends `POST /apps/{id}/events`.
    pub fn push_request(&self, out: &mut Vec<u8>, api: &Api, channel: &str, stamp: &Stamp, body: &mut Vec<u8>) {
        body.clear();
        body.extend_from_slice(br#"{"name":"bench","channel":""#);
        body.extend_from_slice(channel.as_bytes());
        body.extend_from_slice(br#"","data":""#);
        self.push_data(body, stamp, "\\\"");
        body.extend_from_slice(br#"}"}"#);
        api.push_head(out, body);
        out.extend_from_slice(body);
    }

    /// Appends `PUBLISH`, with a payload as Laravel's `redis` broadcaster writes it.
    pub fn push_publish(&self, out: &mut Vec<u8>, channel: &str, stamp: &Stamp, body: &mut Vec<u8>) {
        body.clear();
        body.extend_from_slice(br#"{"event":"bench","data":"#);
        self.push_data(body, stamp, "\"");
        body.extend_from_slice(br#","socket":null},"socket":null}"#);
        out.extend_from_slice(format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n", channel.len()).as_bytes());
        out.extend_from_slice(format!("${}\r\n", body.len()).as_bytes());
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }
}

/// Where and as whom events are published over HTTP.
#[derive(Clone, Debug)]
pub struct Api {
    /// For the `Host` header.
    pub host: String,
    /// `clients[].appId`.
    pub app_id: String,
    /// `clients[].key`.
    pub key: String,
    /// Signs; without one only the key is sent, which satisfies the old server.
    pub secret: Option<Secret>,
    /// Unix time of the signature, in seconds. A run longer than the server's tolerance renews it.
    pub timestamp: u64,
}

impl Api {
    fn push_head(&self, out: &mut Vec<u8>, body: &[u8]) {
        let path = format!("/apps/{}/events", self.app_id);
        let mut query = format!("auth_key={}", self.key);
        if let Some(secret) = &self.secret {
            let digest = signature::hex(&Md5::digest(body));
            query.push_str(&format!("&auth_timestamp={}&auth_version=1.0&body_md5={digest}", self.timestamp));
            let signed = signature::sign(secret.expose(), &format!("POST\n{path}\n{query}"));
            query.push_str("&auth_signature=");
            query.push_str(&signed);
        }
        let (host, length) = (&self.host, body.len());
        out.extend_from_slice(
            format!("POST {path}?{query} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")
                .as_bytes(),
        );
    }
}

/// An answer to a publisher.
#[derive(Debug, Eq, PartialEq)]
pub enum Reply {
    /// The event is taken.
    Taken,
    /// Redis took the event, but nobody listens to its channel.
    NobodyListens,
    /// It is not; the server's own words.
    Refused(String),
}

/// Reads the HTTP response at the start of `input`: what it says, and its length in bytes.
pub fn response(input: &[u8]) -> Option<(Reply, usize)> {
    let head_end = input.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&input[..head_end]);
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse::<usize>().ok() } else { None }
    });
    let end = head_end + length.unwrap_or(0);
    let body = input.get(head_end..end)?;
    if head.get(9..12) == Some("200") {
        return Some((Reply::Taken, end));
    }
    let body: String = String::from_utf8_lossy(body).chars().take(300).collect();
    Some((Reply::Refused(format!("{} {body}", head.lines().next().unwrap_or_default())), end))
}

/// Reads the Redis reply at the start of `input`: what it says, and its length in bytes.
pub fn redis_reply(input: &[u8]) -> Option<(Reply, usize)> {
    let end = input.windows(2).position(|window| window == b"\r\n")?;
    let reply = match &input[..end] {
        b":0" => Reply::NobodyListens,
        [b':', ..] => Reply::Taken,
        other => Reply::Refused(String::from_utf8_lossy(other).into_owned()),
    };
    Some((reply, end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::frame as server;

    const STAMP: Stamp =
        Stamp { run: 0xbeef, channel: 70_000, publisher: 63, sequence: 4_000_000_000, sent_at: 3_600_000_000_123 };

    #[test]
    fn server_frames_of_each_length_are_found_only_when_whole() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let bytes = [b"..", server::encode_text(&"x".repeat(length)).as_ref()].concat();
            for cut in [2, 3, 4, 5, 11, bytes.len() - 1] {
                assert_eq!(frame(&bytes[..cut.min(bytes.len() - 1)], 2), Ok(None), "{length} {cut}");
            }
            let whole = Frame { opcode: 1, payload: bytes.len() - length..bytes.len() };
            assert_eq!(frame(&[&bytes[..], b"more"].concat(), 2), Ok(Some(whole)));
        }
        assert_eq!(frame(&[0x81, 0x81, 0, 0, 0, 0, 0], 0), Err(NotAFrame));
        assert_eq!(frame(&[0xc1, 0], 0), Err(NotAFrame));
        assert_eq!(frame(&[0x81, 127, 0xff, 0, 0, 0, 0, 0, 0, 0], 0), Err(NotAFrame));
    }

    /// The server's own decoder understands the generator's frames.
    #[test]
    fn client_frames_are_understood() {
        for length in [3, 125, 126, 65_536] {
            let text = "y".repeat(length);
            let mut bytes = Vec::new();
            push_client_frame(&mut bytes, 1, text.as_bytes());
            let mut heard = Vec::new();
            server::Decoder::default()
                .feed(&mut bytes, 70_000, |message| {
                    heard.push(matches!(message, server::Message::Text(other) if other == text));
                    true
                })
                .unwrap();
            assert_eq!(heard, [true]);
        }
    }

    #[test]
    fn a_stamp_is_found_again() {
        let mut text = br#"{"event":"bench","data":""#.to_vec();
        let at = text.len();
        STAMP.push(&mut text);
        text.extend_from_slice(b"\"}");
        for first in [0, at, text.len(), usize::MAX] {
            let mut hint = first;
            assert_eq!(Stamp::find(&text, &mut hint), Some(STAMP));
            assert_eq!(hint, at);
        }
        assert_eq!(Stamp::find(&text[..text.len() - 3], &mut 0), None);
        assert_eq!(Stamp::find(b"{}", &mut 0), None);
        assert_eq!(Stamp::find(&String::from_utf8(text).unwrap().replace('b', "g").into_bytes(), &mut 0), None);
    }

    #[test]
    fn a_request_is_what_the_server_takes() {
        let api = Api {
            host: "h".into(),
            app_id: "3".into(),
            key: "k".into(),
            secret: Some(Secret::new("s")),
            timestamp: 1_353_088_179,
        };
        let (mut out, mut body) = (Vec::new(), Vec::new());
        Filler::new(200).push_request(&mut out, &api, "bench-1", &STAMP, &mut body);
        let text = String::from_utf8(out).unwrap();
        let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let data = event["data"].as_str().unwrap();
        assert_eq!(data.len(), 200);
        assert!(serde_json::from_str::<serde_json::Value>(data).unwrap()["stamp"].is_string());
        assert!(text.ends_with(std::str::from_utf8(&body).unwrap()));
        let query = text.split_once('?').unwrap().1.split_once(' ').unwrap().0;
        let parameters: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let signed = signature::request_text("POST", "/apps/3/events", &parameters);
        let signature = &parameters.iter().find(|(name, _)| name == "auth_signature").unwrap().1;
        assert!(crate::protocol::signature::verify("s", &signed, signature));
    }

    #[test]
    fn a_publish_is_what_laravel_would_send() {
        let (mut out, mut body) = (Vec::new(), Vec::new());
        Filler::new(0).push_publish(&mut out, "bench-1", &STAMP, &mut body);
        let broadcast = crate::protocol::event::parse(&body).unwrap();
        assert!(broadcast.from_laravel);
        assert_eq!(Stamp::find(broadcast.data_for_pusher().as_bytes(), &mut 0), Some(STAMP));
        let expected = format!("*3\r\n$7\r\nPUBLISH\r\n$7\r\nbench-1\r\n${}\r\n", body.len());
        assert!(out.starts_with(expected.as_bytes()));
    }

    #[test]
    fn replies() {
        let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200";
        assert_eq!(response(ok), Some((Reply::Taken, ok.len() - 12)));
        assert_eq!(response(&ok[..ok.len() - 13]), None);
        let no = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\n\r\nwhy";
        assert_eq!(response(no), Some((Reply::Refused("HTTP/1.1 401 Unauthorized why".into()), no.len())));
        assert_eq!(redis_reply(b":12\r\n:1"), Some((Reply::Taken, 5)));
        assert_eq!(redis_reply(b":0\r\n"), Some((Reply::NobodyListens, 4)));
        assert_eq!(redis_reply(b"-NOAUTH x\r\n"), Some((Reply::Refused("-NOAUTH x".into()), 11)));
        assert_eq!(redis_reply(b":1"), None);
    }

    #[test]
    fn the_socket_id_is_read_from_the_greeting() {
        let id = crate::protocol::SocketId::new(5, 7);
        let text = crate::protocol::pusher::connection_established(id, 30);
        assert_eq!(socket_id(text.as_bytes()), Some(id.to_string().as_str()));
        assert_eq!(socket_id(b"{}"), None);
    }
}
