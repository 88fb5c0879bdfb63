use super::*;
use proptest::prelude::*;

fn encode(version: Version, packets: &[&str]) -> String {
    let mut payload = String::new();
    packets.iter().for_each(|packet| push_to_payload(version, &mut payload, packet));
    payload
}

fn decode(version: Version, body: &[u8]) -> Result<Vec<String>, BadPayload> {
    payload(version, body).map(|packets| packets.into_iter().map(Cow::into_owned).collect())
}

#[test]
fn a_sid_is_digits_and_one_dot_and_comes_back() {
    for (random, shard, secret) in [(0, 0, 0), (u64::MAX, u16::MAX, u128::MAX), (0x0012_0000_0000_0007, 3, 12345)] {
        let sid = Sid::new(SocketId::new(random, 7), shard, secret);
        let text = sid.to_string();
        assert!(text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'), "{text}");
        assert_eq!(text.parse(), Ok(sid));
        assert_eq!(text.split_once('.').unwrap().1.len(), 54);
        assert_eq!(socket_id_of_client(&text), Some(sid.socket_id));
        assert_eq!(socket_id_of_client(&sid.socket_id.to_string()), Some(sid.socket_id));
        assert!(!format!("{sid:?}").contains(&secret.to_string()) || secret == 0);
        for bad in [&text[1..text.len() - 1], &format!("{text}0"), &format!("0{text}"), &text.replace('.', "")] {
            assert_eq!(bad.parse::<Sid>(), Err(NotASid), "{bad}");
        }
    }
    assert_eq!(socket_id_of_client("5kX3dYIC7nvJzQcbAAAA"), None);
}

/// The bytes that the old server sent (its specification, 6.2), but for the id.
#[test]
fn the_handshake_of_each_version() {
    let sid = Sid::new("1.2".parse().unwrap(), 0, 5);
    let timing = Timing { ping_interval: 25_000, ping_timeout: 20_000 };
    assert_eq!(
        open(Version::V3, sid, false, timing),
        format!(r#"0{{"sid":"{sid}","upgrades":[],"pingInterval":25000,"pingTimeout":20000}}"#)
    );
    assert_eq!(
        open(Version::V4, sid, true, timing),
        format!(
            r#"0{{"sid":"{sid}","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}}"#
        )
    );
}

/// Lengths count as JavaScript does: é is one, an emoji is two.
#[test]
fn payloads_of_version_3() {
    assert_eq!(encode(Version::V3, &["40", "42[\"é\"]", "4😀"]), "2:407:42[\"é\"]3:4😀");
    assert_eq!(decode(Version::V3, "2:407:42[\"é\"]3:4😀".as_bytes()).unwrap(), ["40", "42[\"é\"]", "4😀"]);
    assert_eq!(decode(Version::V3, b"0:1:2").unwrap(), ["", "2"]);
    assert_eq!(decode(Version::V3, b"\x00\x01\xff2\x00\x01\x00\xff42[\"a\",\"\"]").unwrap(), ["2", "42[\"a\",\"\"]"]);
    for bad in ["2", ":2", "2:2", "x:2", "-1:2", "99999999999999999999:2", "2:4😀", "1:23", "+1:2"] {
        assert!(decode(Version::V3, bad.as_bytes()).is_err(), "{bad}");
    }
    for bad in [&b"\x01\x01\xff2"[..], b"\x00", b"\x00\x0a\xff2", b"\x00\x09\xff2", b"\x00\x01\xff\xfe", b"\xff"] {
        assert!(decode(Version::V3, bad).is_err(), "{bad:?}");
    }
}

#[test]
fn payloads_of_version_4() {
    assert_eq!(encode(Version::V4, &["40", "2", "42[]"]), "40\u{1e}2\u{1e}42[]");
    assert_eq!(decode(Version::V4, "40\u{1e}42[\"é😀\"]".as_bytes()).unwrap(), ["40", "42[\"é😀\"]"]);
    assert!(decode(Version::V4, b"4\xff").is_err());
}

#[test]
fn a_body_has_so_many_packets_and_no_more() {
    for version in [Version::V3, Version::V4] {
        let body = |count| encode(version, &vec!["2"; count]);
        assert_eq!(decode(version, body(PACKETS_MAX).as_bytes()).unwrap().len(), PACKETS_MAX);
        assert!(decode(version, body(PACKETS_MAX + 1).as_bytes()).is_err());
    }
    let binary = b"\x00\x01\xff2".repeat(PACKETS_MAX + 1);
    assert!(decode(Version::V3, &binary).is_err());
}

proptest! {
    #[test]
    fn what_is_put_together_comes_apart(packets in prop::collection::vec("[^\u{1e}]{1,40}", 1..20)) {
        let packets: Vec<&str> = packets.iter().map(String::as_str).collect();
        for version in [Version::V3, Version::V4] {
            prop_assert_eq!(&decode(version, encode(version, &packets).as_bytes()).unwrap(), &packets);
        }
    }

    #[test]
    fn units_are_javascripts(text in "\\PC{0,40}") {
        prop_assert_eq!(utf16_units(&text), text.encode_utf16().count());
    }

    #[test]
    fn garbage_never_panics(body in prop::collection::vec(any::<u8>(), 0..80), text in ".{0,80}") {
        for version in [Version::V3, Version::V4] {
            let _ = payload(version, &body);
            let _ = payload(version, text.as_bytes());
        }
        let _ = text.parse::<Sid>();
        let _ = packet(&text);
    }
}
