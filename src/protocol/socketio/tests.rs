use super::*;
use crate::protocol::channel::ChannelName;
use crate::protocol::session::{self, Answer, Refusal};
use bytes::Bytes;
use proptest::prelude::*;

const TIMING: Timing = Timing { ping_interval: 25_000, ping_timeout: 20_000 };

fn rules() -> Rules {
    Rules { client_event_bytes_max: 100, ..session::tests::rules() }
}

struct Client {
    link: Link,
    session: Session,
    now: Millis,
}

impl Client {
    fn connect(version: Version) -> Self {
        let sid = Sid::new("1.2".parse().unwrap(), 0, 5);
        let mut actions = Vec::new();
        let link = Link::open(version, sid, true, TIMING, 0, &mut actions);
        let open = Action::Send(engineio::open(version, sid, true, TIMING));
        match version {
            Version::V3 => assert_eq!(actions, [open, send("40")]),
            Version::V4 => assert_eq!(actions, [open]),
        }
        let session = Session::open(sid.socket_id, &rules(), 0, &mut Vec::new());
        Self { link, session, now: 0 }
    }

    fn input(&mut self, input: Input<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.link.input(input, &mut self.session, &rules(), self.now, &mut actions);
        actions
    }

    fn says(&mut self, text: &str) -> Vec<Action> {
        self.input(Input::Text(text))
    }

    fn asks(&mut self, channel: &str) -> u32 {
        match self.says(&format!(r#"42["subscribe",{{"channel":"{channel}"}}]"#)).as_slice() {
            [Action::Ask { ticket, .. }] => *ticket,
            other => panic!("{other:?}"),
        }
    }
}

fn send(text: &str) -> Action {
    Action::Send(text.into())
}

fn name(text: &str) -> ChannelName {
    ChannelName::parse(text).unwrap()
}

#[test]
fn subscribing_is_silent_and_unsubscribing_too() {
    let mut client = Client::connect(Version::V3);
    for text in [
        r#"42["subscribe",{"channel":"orders","auth":{"headers":{}}}]"#,
        r#"42/,["subscribe",{"channel":"pub"}]"#,
        r#"421["subscribe",{"channel":"acknowledged"}]"#,
    ] {
        assert!(matches!(client.says(text).as_slice(), [Action::Subscribe(_)]), "{text}");
    }
    assert_eq!(client.says(r#"42["unsubscribe",{"channel":"orders"}]"#), [Action::Unsubscribe(name("orders"))]);
}

#[test]
fn laravel_is_asked_with_the_clients_headers_whatever_it_says_of_signatures() {
    let mut client = Client::connect(Version::V3);
    let text = r#"42["subscribe",{"channel":"private-a","auth":{"headers":{"Authorization":"Bearer t"}}}]"#;
    let expected = vec![("Authorization".to_owned(), "Bearer t".to_owned())];
    match client.says(text).as_slice() {
        [Action::Ask { channel, headers, .. }] => assert_eq!((channel, headers), (&name("private-a"), &expected)),
        other => panic!("{other:?}"),
    }
    let text = r#"42["subscribe",{"channel":"private-b","auth":"app-key:00","channel_data":"{\"user_id\":1}"}]"#;
    assert!(matches!(client.says(text).as_slice(), [Action::Ask { .. }]));
}

/// The number is that of Laravel's reply, and 0 where there was none.
#[test]
fn refusals_are_the_old_servers() {
    let mut client = Client::connect(Version::V3);
    for (status, replied, told) in [(403, Some(403), 403), (401, Some(302), 302), (502, Some(0), 0), (503, None, 503)] {
        let ticket = client.asks("private-deny");
        let refusal = Refusal { replied, ..Refusal::new(status, "no") };
        let told = send(&format!(r#"42["subscription_error","private-deny",{told}]"#));
        assert_eq!(client.input(Input::Answered(ticket, Answer::No(refusal))), [told]);
    }
    let ticket = client.asks("private-a");
    assert_eq!(client.input(Input::Answered(ticket, Answer::Yes)), [Action::Subscribe(name("private-a"))]);
}

#[test]
fn presence_is_joined_and_left() {
    let mut client = Client::connect(Version::V4);
    assert_eq!(client.says("40"), [send(r#"40{"sid":"1.2"}"#)]);
    let ticket = client.asks("presence-r");
    let member = Member::parse(r#"{"user_id":1,"user_info":{"name":"u1"}}"#).unwrap();
    let actions = client.input(Input::Answered(ticket, Answer::Member(member)));
    let [Action::Join { ticket, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    let list = Bytes::from_static(b"list");
    assert_eq!(
        client.input(Input::Joined(*ticket, Ok(list.clone()))),
        [Action::SendFrame(list), Action::Subscribe(name("presence-r"))]
    );
    assert!(matches!(client.says("41").as_slice(), [Action::Unsubscribe(_), Action::Leave { .. }]));
    assert_eq!(
        client.says(r#"42["subscribe",{"channel":"orders"}]"#),
        [],
        "after leaving the namespace all is ignored"
    );
    assert_eq!(client.says("40"), [send(r#"40{"sid":"1.2"}"#)]);
    assert!(matches!(client.says(r#"42["subscribe",{"channel":"orders"}]"#).as_slice(), [Action::Subscribe(_)]));
}

/// The home of a cache channel has nothing to tell: not even an empty message.
#[test]
fn a_cache_channel_without_an_event_is_joined_in_silence() {
    let mut client = Client::connect(Version::V3);
    let actions = client.says(r#"42["subscribe",{"channel":"cache-a"}]"#);
    let [Action::Join { ticket, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(client.input(Input::Joined(*ticket, Ok(Bytes::new()))), [Action::Subscribe(name("cache-a"))]);
    let text = pusher::channel_event("cache-a", "e", r#"{"a":1}"#);
    assert_eq!(from_pusher(&text).as_deref(), Some(r#"42["e","cache-a",{"a":1}]"#));
}

#[test]
fn client_events_as_an_object_or_its_text() {
    let mut client = Client::connect(Version::V3);
    let ticket = client.asks("private-a");
    client.input(Input::Answered(ticket, Answer::Yes));
    for text in [
        r#"42["client event",{"channel":"private-a","event":"client-typing","data":{"x": 1.0}}]"#,
        r#"42["client event","{\"channel\":\"private-a\",\"event\":\"client-typing\",\"data\":{\"x\": 1.0}}"]"#,
    ] {
        let expected = Action::Whisper {
            channel: name("private-a"),
            event: "client-typing".into(),
            data: Some(r#"{"x": 1.0}"#.into()),
            user_id: None,
        };
        assert_eq!(client.says(text), [expected], "{text}");
    }
    client.says(r#"42["subscribe",{"channel":"pub"}]"#);
    for text in [
        r#"42["client event",{"channel":"private-a","event":"xclient-y","data":1}]"#,
        r#"42["client event",{"channel":"private-other","event":"client-y","data":1}]"#,
        r#"42["client event",{"channel":"pub","event":"client-y","data":1}]"#,
    ] {
        assert_eq!(client.says(text), [], "{text}");
    }
}

/// Each of them ended the old server's process (its specification, 7.4), or was ignored by it.
#[test]
fn what_makes_no_sense_is_ignored() {
    let mut client = Client::connect(Version::V3);
    for text in [
        r#"42["subscribe"]"#,
        r#"42["subscribe",null]"#,
        r#"42["unsubscribe"]"#,
        r#"42["unsubscribe",{"channel":5}]"#,
        r#"42["unsubscribe",{"channel":"presence-x"}]"#,
        r#"42["client event"]"#,
        r#"42["client event","null"]"#,
        r#"42["client event","\""]"#,
        r#"42["error"]"#,
        r#"42{"a":1}"#,
        "42[]",
        r#"42["other",1]"#,
        r#"42[5,{}]"#,
        r#"431["ack"]"#,
        "4X",
        "3",
        "6",
        "5",
        "40",
    ] {
        assert_eq!(client.says(text), [], "{text}");
    }
    for channel in ["__proto__", "constructor"] {
        let text = format!(r#"42["subscribe",{{"channel":"{channel}"}}]"#);
        assert_eq!(client.says(&text), [Action::Subscribe(name(channel))]);
    }
    for text in ["", "x", "7", "4", "42[", r#"42["subscribe",{]"#, "45-[\"x\"]", "46", "4é", "é"] {
        assert!(matches!(client.says(text).as_slice(), [Action::Close { .. }]), "{text}");
    }
}

#[test]
fn other_namespaces_are_invalid() {
    let mut client = Client::connect(Version::V3);
    assert_eq!(client.says("40/foo"), [send(r#"44/foo,"Invalid namespace""#)]);
    let mut client = Client::connect(Version::V4);
    assert_eq!(client.says("40/foo?a=1,{}"), [send(r#"44/foo,{"message":"Invalid namespace"}"#)]);
    assert_eq!(client.says(r#"42/foo,["subscribe",{"channel":"a"}]"#), []);
    assert_eq!(client.says(&format!("40/{}", "x".repeat(300))), []);
}

#[test]
fn the_client_pings_in_version_3() {
    let mut client = Client::connect(Version::V3);
    assert_eq!(client.says("2"), [send("3")]);
    assert_eq!(client.says("2probe"), [send("3")]);
    client.now = 44_999;
    assert_eq!(client.input(Input::Tick), []);
    client.now = 45_000;
    assert!(client.link.is_due(&client.session, &rules(), client.now));
    assert!(matches!(client.input(Input::Tick).as_slice(), [Action::Close { .. }]));
}

#[test]
fn the_server_pings_in_version_4() {
    let mut client = Client::connect(Version::V4);
    for round in 1..10 {
        client.now = round * 25_000;
        assert_eq!(client.input(Input::Tick), [send("2")]);
        assert!(!client.link.is_due(&client.session, &rules(), client.now));
        assert_eq!(client.says("3"), []);
    }
    client.now += 25_000;
    assert_eq!(client.input(Input::Tick), [send("2")]);
    client.now += 20_000;
    assert!(matches!(client.input(Input::Tick).as_slice(), [Action::Close { .. }]));
}

#[test]
fn data_of_the_http_api() {
    for (data, expected) in [
        (r#"{"a":1}"#, r#"{"a":1}"#),
        ("5", "5"),
        ("hello", r#""hello""#),
        ("", r#""""#),
        (r#"say "hi""#, r#""say \"hi\"""#),
    ] {
        assert_eq!(data_of_text(data), expected);
    }
    assert_eq!(
        channel_event("private-room", "App\\Events\\X", r#"{"a":1,"socket":null}"#),
        r#"42["App\\Events\\X","private-room",{"a":1,"socket":null}]"#
    );
}

proptest! {
    #[test]
    fn garbage_never_panics(texts in prop::collection::vec("[0-6]{0,3}[/,a-z\\[\\]{}\":0-9é]{0,30}", 1..8)) {
        for version in [Version::V3, Version::V4] {
            let mut client = Client::connect(version);
            for text in &texts {
                client.says(text);
            }
        }
    }

    /// What an event is made of comes out of its text again.
    #[test]
    fn events_are_json(channel in "\\PC{0,20}", event in "\\PC{0,20}", data in "\\PC{0,20}") {
        let text = channel_event(&channel, &event, &data_of_text(&data));
        let value: serde_json::Value = serde_json::from_str(text.strip_prefix("42").unwrap()).unwrap();
        prop_assert_eq!(value[0].as_str(), Some(event.as_str()));
        prop_assert_eq!(value[1].as_str(), Some(channel.as_str()));
    }
}
