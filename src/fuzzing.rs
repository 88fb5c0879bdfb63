//! What anybody outside can send, put into the parsers and state machines that take it: one function for each
//! entry, of any bytes. For tests alone: `fuzz/` runs them for hours, and the tests below in each build, on
//! the seeds that are kept there and on bytes that chance makes of them.
//!
//! Each asserts what must hold whatever comes, beyond that nothing panics.

#![allow(clippy::panic, clippy::expect_used)]

use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;

use crate::auth::fields::{self, Fields};
use crate::cluster::held::Tag;
use crate::cluster::hub::{Effect, Hub};
use crate::cluster::message::{self, NodeId};
use crate::config::Config;
use crate::protocol::channel::{self, Access, ChannelName};
use crate::protocol::engineio::{self, Version};
use crate::protocol::event;
use crate::protocol::prefix::Prefix;
use crate::protocol::presence::Member;
use crate::protocol::pusher::ClientMessage;
use crate::protocol::socketio;
use crate::protocol::user::UserData;
use crate::redis::resp::Replies;
use crate::ws::frame::{self, Decoder, Message};

mod session;

/// A function that takes any bytes.
pub type Entry = fn(&[u8]);

/// All entries, by the name of their target and of the folder of their seeds.
pub const ENTRIES: &[(&str, Entry)] = &[
    ("api", api),
    ("bus", bus),
    ("config", config),
    ("frames", frames),
    ("gateway", gateway),
    ("laravel", laravel),
    ("proxy_protocol", proxy_protocol),
    ("redis_event", redis_event),
    ("resp", resp),
    ("session", session::walk),
    ("signature", signature),
    ("socketio", socketio),
];

/// Runs one.
///
/// # Panics
/// If there is none of this name, and where something does not hold.
pub fn run(name: &str, data: &[u8]) {
    let entry = ENTRIES.iter().find(|(known, _)| *known == name);
    entry.expect("an entry of this name").1(data);
}

/// The first byte, and the rest.
fn split(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// Frames of a client, with and without compression: however they are cut, the same messages or the same violation
/// come out, and none is longer than the limit.
fn frames(data: &[u8]) {
    const LIMIT: usize = 3000;
    let (how, data) = split(data);
    let cut = usize::from(how >> 1).min(data.len());
    let decode = |chunks: &[&[u8]]| {
        let mut decoder = Decoder::new(how & 1 == 1);
        let mut heard = Vec::new();
        for chunk in chunks {
            let fed = decoder.feed(&mut chunk.to_vec(), LIMIT, |message| {
                if let Message::Text(text) = &message {
                    assert!(text.len() <= LIMIT);
                    let again = frame::encode_text(text);
                    assert_eq!(frame::text(&again), Some(&**text));
                }
                heard.push(format!("{message:?}"));
                !matches!(message, Message::Close(_))
            });
            let is_over = heard.last().is_some_and(|last| last.starts_with("Close"));
            if fed.is_err() || is_over {
                return (heard, fed.err());
            }
        }
        (heard, None)
    };
    let whole = decode(&[data]);
    let (first, rest) = data.split_at(cut);
    assert_eq!(decode(&[first, rest]), whole);
    let bytes: Vec<&[u8]> = data.chunks(1).collect();
    assert_eq!(decode(&bytes), whole);
}

/// What Redis delivers: the channel's name up to a line feed, then the payload.
fn redis_event(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (name, payload) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let parsed = event::parse(payload);
    if let Ok(broadcast) = &parsed {
        let (pusher, socketio) = (broadcast.data_for_pusher(), broadcast.data_for_socketio());
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(&socketio).is_ok(), "{socketio}");
        assert!(pusher.len() <= payload.len() * 6 + 2);
    }
    let Ok(name) = std::str::from_utf8(name) else { return };
    for mut prefix in [Prefix::recognise(), Prefix::configured("app_database_".to_owned())] {
        for from_laravel in [true, false] {
            let names: Vec<&str> = prefix.route(name, from_laravel).names().collect();
            for out in names {
                assert!(name.ends_with(out));
                // Nothing that is guarded goes out under a name that anybody may join.
                assert!(channel::access(name) == Access::Public || channel::access(out) != Access::Public, "{name}");
            }
        }
    }
}

/// What comes over the link to Redis, in pieces.
fn resp(data: &[u8]) {
    let (how, data) = split(data);
    let read = |piece_bytes: usize| {
        let mut replies = Replies::new(64);
        let mut heard = Vec::new();
        for piece in data.chunks(piece_bytes) {
            let mut piece = piece;
            while !piece.is_empty() {
                let room = replies.room();
                let bytes = room.len().min(piece.len());
                assert!(bytes > 0);
                room[..bytes].copy_from_slice(&piece[..bytes]);
                replies.filled(bytes);
                piece = &piece[bytes..];
                loop {
                    match replies.next() {
                        Ok(Some(reply)) => heard.push(format!("{reply:?}")),
                        Ok(None) => break,
                        Err(_) => return (heard, true),
                    }
                }
            }
        }
        (heard, false)
    };
    assert_eq!(read(usize::from(how) + 1), read(data.len().max(1)));
}

/// Messages of other nodes: two bytes of length before each.
fn bus(mut data: &[u8]) {
    let mut hub = Hub::new(NodeId(7), vec![Tag(1), Tag(2)]);
    let mut now = 0;
    while let [a, b, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*a, *b])).min(rest.len());
        let (bytes, rest) = rest.split_at(length);
        data = rest;
        let mut effects = Vec::new();
        if let Ok((header, Ok(body))) = message::decode(bytes) {
            let again = body.encode(header);
            assert_eq!(message::decode(&again), Ok((header, Ok(body))), "what is read is what is written");
        }
        hub.hear(bytes, now, &[1, 2], &mut effects);
        hub.beat(now, &[1, 2], &mut effects);
        hub.say_changes(&mut effects);
        hub.pay(&mut effects);
        now += 1000;
        // Its own words come back, as over the bus.
        for effect in std::mem::take(&mut effects) {
            if let Effect::Publish { message, .. } = effect {
                hub.hear(&message, now, &[1, 2], &mut effects);
            }
        }
        assert!(hub.peers().len() <= 256);
    }
}

/// Bodies of the HTTP API.
fn api(data: &[u8]) {
    crate::http::api::fuzz(data);
}

/// A request's query that is signed, and what stands in a subscribe message. Whatever it is, it is not signed.
fn signature(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    assert!(!crate::http::api::is_signed(&text, now), "nobody knows the secret");
    let Ok(channel) = ChannelName::parse(&text) else { return };
    assert!(!text.contains(|c: char| c == '\0' || c.is_whitespace()) && text.is_ascii());
    assert_eq!(channel.access(), channel::access(&text));
    let is_guarded = text.starts_with('#') || ["private-", "presence-"].iter().any(|word| text.contains(word));
    assert_eq!(is_guarded, channel.access() != Access::Public, "{text}");
}

/// What a proxy says before the connection's own bytes.
fn proxy_protocol(mut data: &[u8]) {
    let whole = data.len();
    if crate::http::proxy_protocol::read(&mut data).now_or_never().is_some_and(|told| told.is_ok()) {
        assert!(data.len() < whole);
    }
}

/// The file, or (after a `#`) `.env`.
fn config(data: &[u8]) {
    match data {
        [b'#', rest @ ..] => {
            let variables = crate::config::dotenv::parse(&String::from_utf8_lossy(rest));
            let variables = |name: &str| variables.get(name).cloned();
            let _ = Config::parse(Path::new("f"), b"{}", &variables).map_err(|error| error.to_string());
        }
        _ => {
            let _ = Config::parse(Path::new("f"), data, &|_| None).map_err(|error| error.to_string());
        }
    }
}

/// What Socket.IO clients send, as a body of a poll.
fn socketio(data: &[u8]) {
    let (how, data) = split(data);
    let version = if how & 1 == 0 { Version::V3 } else { Version::V4 };
    if let Ok(packets) = engineio::payload(version, data) {
        let mut again = String::new();
        for packet in &packets {
            engineio::push_to_payload(version, &mut again, packet);
        }
        let read: Vec<String> = match engineio::payload(version, again.as_bytes()) {
            Ok(read) => read.into_iter().map(Cow::into_owned).collect(),
            Err(error) => panic!("{error} in {again:?}"),
        };
        // An empty packet, which is never sent, leaves no trace in version 4.
        let full = |packet: &&str| !packet.is_empty();
        let packets: Vec<&str> = packets.iter().map(|packet| &**packet).filter(full).collect();
        assert!(read.iter().map(String::as_str).filter(full).eq(packets.iter().copied()), "{packets:?} {read:?}");
    }
    let text = String::from_utf8_lossy(data);
    let _ = (engineio::packet(&text), engineio::socket_id_of_client(&text));
    let _ = text.parse::<engineio::Sid>();
    let _ = socketio::from_pusher(&text);
    let json = socketio::data_of_text(&text);
    assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok(), "{json}");
}

/// A browser's question at the gateway: what is read there once is what PHP reads there.
fn gateway(data: &[u8]) {
    for fields in [Fields::from_form(data), Fields::from_json(data)].into_iter().flatten() {
        for (name, _) in &fields.others {
            assert!(!matches!(as_php(name).as_str(), "channel_name" | "socket_id" | "_method"), "{name:?}");
        }
    }
    let _ = fields::query(&String::from_utf8_lossy(data));
}

/// The variable that PHP makes of a field of this name.
fn as_php(name: &str) -> String {
    let name = name.split('\0').next().unwrap_or_default().trim_start_matches(' ');
    let plain = |text: &str| text.replace([' ', '.'], "_");
    match name.split_once('[') {
        Some((base, rest)) if rest.contains(']') => plain(base),
        Some((base, rest)) => format!("{}_{rest}", plain(base)),
        None => plain(name),
    }
}

/// What Laravel answers, and what clients claim to be.
fn laravel(data: &[u8]) {
    crate::auth::fuzz_answer(data);
    let text = String::from_utf8_lossy(data);
    if let Ok(member) = Member::parse(&text) {
        assert!(!member.user_id.is_empty());
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(&member.to_json()).is_ok());
    }
    let _ = UserData::parse(&text);
    let _ = ClientMessage::parse(&text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
    }

    #[test]
    fn each_entry_takes_its_seeds() {
        for (name, entry) in ENTRIES {
            let seeds = seeds(name);
            assert!(seeds.len() >= 3, "{name} has only {} seeds", seeds.len());
            seeds.iter().for_each(|seed| entry(seed));
            let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets").join(format!("{name}.rs"));
            assert!(target.exists(), "{}", target.display());
        }
    }

    /// A seed of which some bytes are other ones, or gone, or there twice.
    fn changed(mut seed: Vec<u8>, changes: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
        for (place, how, byte) in changes {
            if seed.is_empty() {
                break;
            }
            let at = place.index(seed.len());
            match how % 4 {
                0 => seed[at] = *byte,
                1 => seed.truncate(at),
                2 => seed.insert(at, *byte),
                _ => seed.extend_from_within(at..(at + usize::from(*byte)).min(seed.len())),
            }
        }
        seed
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn each_entry_takes_anything(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            which in any::<prop::sample::Index>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 1..6),
        ) {
            for (name, entry) in ENTRIES {
                entry(&bytes);
                let seeds = seeds(name);
                entry(&changed(seeds[which.index(seeds.len())].clone(), &changes));
            }
        }
    }
}
