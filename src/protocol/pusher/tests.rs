use super::*;
use proptest::prelude::*;

fn subscribed(text: &str) -> Subscribe<'_> {
    match ClientMessage::parse(text) {
        Ok(ClientMessage::Subscribe(subscribe)) => subscribe,
        other => panic!("{text}: {other:?}"),
    }
}

/// The exact bytes of pusher-js 4.4 to 8.6 and pysher (protocol section 2).
#[test]
fn subscribes_of_real_clients() {
    for text in [
        r#"{"event":"pusher:subscribe","data":{"auth":"","channel":"pub"}}"#,
        r#"{"event":"pusher:subscribe","data":{"channel":"pub"}}"#,
        r#"{"event":"pusher:subscribe","data":{"auth":null,"channel":"pub"}}"#,
        r#"{"event": "pusher:subscribe", "data": {"channel": "pub"}}"#,
        r#"{"event":"pusher:subscribe","data":"{\"channel\":\"pub\"}"}"#,
        r#"{"event":"pusher:subscribe","data":{"channel_data":{"user_id":7},"channel":"pub"}}"#,
    ] {
        let expected = Subscribe { channel: "pub".into(), auth: None, channel_data: None, headers: vec![] };
        assert_eq!(subscribed(text), expected, "{text}");
    }
    let text = r#"{"event":"pusher:subscribe","data":{"auth":"k:41","channel_data":"{\"user_id\":7,\"user_info\":{\"name\":\"Ann\"}}","channel":"presence-room"}}"#;
    let presence = subscribed(text);
    assert_eq!(presence.auth.as_deref(), Some("k:41"));
    assert_eq!(presence.channel_data.as_deref(), Some(r#"{"user_id":7,"user_info":{"name":"Ann"}}"#));
    let text = r#"{"event":"pusher:subscribe","data":{"channel":"private-x","auth":{"headers":{"Authorization":"Bearer t","X-Tenant":5,"bad":[]}}}}"#;
    let expected = vec![("Authorization".to_owned(), "Bearer t".to_owned()), ("X-Tenant".to_owned(), "5".to_owned())];
    assert_eq!(subscribed(text).headers, expected);
}

#[test]
fn auth_headers_are_bounded() {
    let with = |headers: serde_json::Value| {
        let data = serde_json::json!({"channel": "private-x", "auth": {"headers": headers}});
        let text = serde_json::json!({"event": "pusher:subscribe", "data": data}).to_string();
        subscribed(&text).headers.len()
    };
    let many: serde_json::Map<_, _> = (0..1000).map(|n| (format!("X-{n}"), "v".into())).collect();
    assert_eq!(with(many.into()), HEADERS_MAX);
    let long = "v".repeat(HEADER_BYTES_MAX);
    assert_eq!(with(serde_json::json!({"X-A": "v", "X-B": long, "X-C": "v"})), 1);
}

#[test]
fn other_messages() {
    for text in
        [r#"{"event":"pusher:ping","data":{}}"#, r#"{"event":"pusher:ping","data":""}"#, r#"{"event":"pusher:ping"}"#]
    {
        assert!(matches!(ClientMessage::parse(text), Ok(ClientMessage::Ping)));
    }
    assert!(matches!(ClientMessage::parse(r#"{"event":"pusher:pong","data":{}}"#), Ok(ClientMessage::Pong)));
    assert!(matches!(ClientMessage::parse(r#"{"event":"pusher:new","data":{}}"#), Ok(ClientMessage::Unknown)));
    for text in [
        r#"{"event":"pusher:signin","data":{"auth":"k:00","user_data":"{\"id\":\"7\"}"}}"#,
        r#"{"event":"pusher:signin","data":"{\"auth\":\"k:00\",\"user_data\":\"{\\\"id\\\":\\\"7\\\"}\"}"}"#,
    ] {
        match ClientMessage::parse(text) {
            Ok(ClientMessage::Signin(signin)) => {
                assert_eq!(signin, Signin { auth: "k:00".into(), user_data: r#"{"id":"7"}"#.into() });
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(ClientMessage::parse(r#"{"event":"pusher:signin","data":{"auth":"k:00"}}"#).is_err());
    match ClientMessage::parse(r#"{"event":"pusher:unsubscribe","data":{"channel":"private-priv"}}"#) {
        Ok(ClientMessage::Unsubscribe(channel)) => assert_eq!(channel, "private-priv"),
        other => panic!("{other:?}"),
    }
    match ClientMessage::parse(r#"{"event":"client-typing","data":{"a": 1.0},"channel":"private-priv","user_id":"9"}"#)
    {
        Ok(ClientMessage::ClientEvent { event, channel, data }) => {
            assert_eq!(
                (event.as_ref(), channel.as_ref(), data),
                ("client-typing", "private-priv", Some(r#"{"a": 1.0}"#))
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn bad_messages_are_named() {
    let deep = format!(r#"{{"event":"pusher:subscribe","data":{}1{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
    for text in [
        "",
        "null",
        "[]",
        "{}",
        "{",
        "\"x\"",
        r#"{"event":5}"#,
        r#"{"event":null}"#,
        r#"{"event":"pusher:subscribe"}"#,
        r#"{"event":"pusher:subscribe","data":5}"#,
        r#"{"event":"pusher:subscribe","data":{}}"#,
        r#"{"event":"pusher:subscribe","data":{"channel":5}}"#,
        r#"{"event":"pusher:subscribe","data":"{"}"#,
        r#"{"event":"client-x","data":{}}"#,
        r#"{"event":"client-x","channel":5}"#,
        r#"{"event":"pusher:ping","event":"pusher:ping"}"#,
        &deep,
    ] {
        assert!(ClientMessage::parse(text).is_err(), "{text:.60}");
    }
    let deep_data =
        format!(r#"{{"event":"client-x","channel":"c","data":{}{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
    let _ = ClientMessage::parse(&deep_data);
}

#[test]
fn bytes_on_the_wire() {
    let socket_id: SocketId = "218656.9503498".parse().unwrap();
    assert_eq!(
        connection_established(socket_id, 120),
        r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"218656.9503498\",\"activity_timeout\":120}"}"#
    );
    assert_eq!(
        subscription_succeeded("pub"),
        r#"{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"pub"}"#
    );
    let member = Member { user_id: "9".into(), user_info: r#"{"name":"Bob"}"#.into(), id_is_number: false };
    assert_eq!(
        member_added("presence-room", &member),
        r#"{"event":"pusher_internal:member_added","data":"{\"user_id\":\"9\",\"user_info\":{\"name\":\"Bob\"}}","channel":"presence-room"}"#
    );
    assert_eq!(
        member_removed("presence-room", "9"),
        r#"{"event":"pusher_internal:member_removed","data":"{\"user_id\":\"9\"}","channel":"presence-room"}"#
    );
    assert_eq!(
        subscription_count("pub", 3),
        r#"{"event":"pusher_internal:subscription_count","data":"{\"subscription_count\":3}","channel":"pub"}"#
    );
    assert_eq!(
        error(Some(4001), "Application does not exist"),
        r#"{"event":"pusher:error","data":{"code":4001,"message":"Application does not exist"}}"#
    );
    assert_eq!(
        subscription_error("private-nope", "AuthError", "no", 401),
        r#"{"event":"pusher:subscription_error","channel":"private-nope","data":{"type":"AuthError","error":"no","status":401}}"#
    );
    assert_eq!(
        client_event("presence-room", "client-typing", Some(r#"{"a":1}"#), Some("7")),
        r#"{"event":"client-typing","channel":"presence-room","data":{"a":1},"user_id":"7"}"#
    );
    assert_eq!(
        channel_event("pub", r"App\Events\Ping", r#"{"x":"\u00fc\/"}"#),
        r#"{"event":"App\\Events\\Ping","channel":"pub","data":"{\"x\":\"\\u00fc\\/\"}"}"#
    );
    assert_eq!(
        signin_success(r#"{"id":"7"}"#),
        r#"{"event":"pusher:signin_success","data":{"user_data":"{\"id\":\"7\"}"}}"#
    );
    assert_eq!(
        watchlist_events(&["2", "3"], &[]),
        r#"{"event":"pusher_internal:watchlist_events","data":"{\"events\":[{\"name\":\"online\",\"user_ids\":[\"2\",\"3\"]}]}"}"#
    );
    assert_eq!(
        watchlist_events(&["2"], &["3"]),
        r#"{"event":"pusher_internal:watchlist_events","data":"{\"events\":[{\"name\":\"online\",\"user_ids\":[\"2\"]},{\"name\":\"offline\",\"user_ids\":[\"3\"]}]}"}"#
    );
    assert_eq!(cache_miss("cache-x"), r#"{"event":"pusher:cache_miss","channel":"cache-x","data":"{}"}"#);
}

#[test]
fn the_data_of_an_event_is_found_again() {
    let data = r#"{"x":"\u00fc\/\"ü"}"#;
    assert_eq!(channel_event_data(&channel_event("pub", "e", data)).as_deref(), Some(data));
}

proptest! {
    #[test]
    fn json_strings_round_trip(value in any::<String>()) {
        let mut text = String::new();
        push_json_string(&mut text, &value);
        prop_assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }

    #[test]
    fn any_text_is_a_message_or_a_sentence(text in any::<String>()) {
        let _ = ClientMessage::parse(&text);
    }
}
