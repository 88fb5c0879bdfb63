use super::*;
use crate::protocol::channel::Access;
use crate::protocol::signature;
use proptest::prelude::*;

const SECRET: &str = "secret";

/// Small limits, so that they are soon met.
pub fn rules() -> Rules {
    Rules {
        app_key: "app-key".into(),
        secret: SECRET.into(),
        previous_secrets: Vec::new(),
        subscriptions_max: 5,
        subscribes_per_second: 5,
        presence_joins_per_minute: 20,
        channel_name_bytes_max: 200,
        client_events_per_second: 3,
        client_event_bytes_max: 20,
        presence_member_bytes_max: 60,
        activity_timeout: 30_000,
        pong_timeout: 20_000,
        user_authentication_timeout: None,
        reauthorize_after: None,
    }
}

/// A connection whose actions are read as they come.
struct Client {
    session: Session,
    rules: Rules,
    now: Millis,
    /// The limits that were met. What the client is told of them is among the actions.
    limited: Vec<Limit>,
}

impl Client {
    fn connect() -> Self {
        let mut actions = Vec::new();
        let session = Session::open(socket_id(), &rules(), 0, &mut actions);
        assert_eq!(actions, [Action::Send(pusher::connection_established(socket_id(), 30))]);
        Self { session, rules: rules(), now: 0, limited: Vec::new() }
    }

    fn input(&mut self, input: Input<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.session.input(input, &self.rules, self.now, &mut actions);
        actions.retain(|action| match action {
            Action::Limited(limit) => {
                self.limited.push(*limit);
                false
            }
            _ => true,
        });
        actions
    }

    fn says(&mut self, text: &str) -> Vec<Action> {
        self.input(Input::Text(text))
    }

    fn subscribes(&mut self, channel: &str) -> Vec<Action> {
        self.says(&format!(r#"{{"event":"pusher:subscribe","data":{{"auth":"","channel":"{channel}"}}}}"#))
    }

    fn subscribes_signed(&mut self, channel: &str, data: Option<&str>) -> Vec<Action> {
        let hex = signature::sign(SECRET, &signature::channel_text(socket_id(), channel, data));
        let message = serde_json::json!({"event": "pusher:subscribe", "data": {"auth": format!("app-key:{hex}"), "channel": channel, "channel_data": data}});
        self.says(&message.to_string())
    }

    fn signs_in(&mut self, user_data: &str) -> Vec<Action> {
        let hex = signature::sign(SECRET, &signature::user_text(socket_id(), user_data));
        self.says(&signin(&format!("app-key:{hex}"), user_data))
    }

    fn unsubscribes(&mut self, channel: &str) -> Vec<Action> {
        self.says(&format!(r#"{{"event":"pusher:unsubscribe","data":{{"channel":"{channel}"}}}}"#))
    }

    fn joins(&mut self, channel: &str, data: &str) {
        let ticket = match self.subscribes_signed(channel, Some(data)).as_slice() {
            [Action::Join { ticket, .. }] => *ticket,
            other => panic!("{other:?}"),
        };
        let actions = self.input(Input::Joined(ticket, list()));
        assert_eq!(actions, [Action::SendFrame(Bytes::from_static(b"list")), Action::Subscribe(name(channel))]);
    }
}

fn list() -> Result<Bytes, Refusal> {
    Ok(Bytes::from_static(b"list"))
}

fn full() -> Refusal {
    Refusal::new(4100, "full")
}

fn socket_id() -> SocketId {
    "1234.1234".parse().unwrap()
}

fn signin(auth: &str, user_data: &str) -> String {
    serde_json::json!({"event": "pusher:signin", "data": {"auth": auth, "user_data": user_data}}).to_string()
}

fn name(text: &str) -> ChannelName {
    ChannelName::parse(text).unwrap()
}

fn succeeded(channel: &str) -> [Action; 2] {
    [Action::Send(pusher::subscription_succeeded(channel)), Action::Subscribe(name(channel))]
}

/// The type, status and text of the one refusal in these actions.
fn refusal(actions: &[Action]) -> (String, u64, String) {
    let [Action::SubscriptionError { kind, refusal, .. }, rest @ ..] = actions else { panic!("{actions:?}") };
    assert!(matches!(rest, [] | [Action::Refused { .. }]), "{actions:?}");
    ((*kind).into(), refusal.status.into(), refusal.error.clone())
}

fn asked(actions: &[Action]) -> Vec<Ticket> {
    let ticket = |action: &Action| match action {
        Action::Ask { ticket, .. } => *ticket,
        other => panic!("{other:?}"),
    };
    actions.iter().map(ticket).collect()
}

#[test]
fn public_channels_are_for_anybody() {
    let mut client = Client::connect();
    assert_eq!(client.subscribes("orders"), succeeded("orders"));
    assert_eq!(client.subscribes("orders"), [Action::Send(pusher::subscription_succeeded("orders"))]);
    assert_eq!(client.unsubscribes("orders"), [Action::Unsubscribe(name("orders"))]);
    assert_eq!(client.unsubscribes("orders"), []);
}

#[test]
fn signatures_are_checked() {
    let mut client = Client::connect();
    assert_eq!(client.subscribes_signed("private-a", None), succeeded("private-a"));
    assert_eq!(client.subscribes_signed("private-b", Some("{\"a\":1}")), succeeded("private-b"));
    refusal(&client.subscribes_signed("private-b2", Some("{}")));
    let good = signature::sign(SECRET, "1234.1234:private-c");
    let other_socket = signature::sign(SECRET, "1234.1235:private-c");
    for auth in [
        format!("app-key:{}", good.replace(['a', 'b', 'c', 'd', 'e', 'f'], "0")),
        format!("app-key:{other_socket}"),
        format!("other-key:{good}"),
        good.clone(),
        "app-key:".into(),
        ":".into(),
    ] {
        let message = format!(r#"{{"event":"pusher:subscribe","data":{{"auth":"{auth}","channel":"private-c"}}}}"#);
        client.now += 1000;
        let (kind, status, _) = refusal(&client.says(&message));
        assert_eq!((kind.as_str(), status), ("AuthError", 401), "{auth}");
    }
    let message = format!(r#"{{"event":"pusher:subscribe","data":{{"auth":"app-key:{good}","channel":"private-c"}}}}"#);
    assert_eq!(client.says(&message), succeeded("private-c"));
}

#[test]
fn a_failed_second_subscribe_changes_nothing() {
    let mut client = Client::connect();
    client.subscribes_signed("private-a", None);
    refusal(&client.says(r#"{"event":"pusher:subscribe","data":{"auth":"app-key:00","channel":"private-a"}}"#));
    assert_eq!(client.unsubscribes("private-a"), [Action::Unsubscribe(name("private-a"))]);
}

#[test]
fn bad_names_are_refused() {
    let mut client = Client::connect();
    assert_eq!(refusal(&client.subscribes("private-user.1 ")).1, 400);
    assert_eq!(refusal(&client.subscribes("#server-to-user-")).1, 400);
    let (kind, status, _) = refusal(&client.subscribes(&"x".repeat(201)));
    assert_eq!((kind.as_str(), status), ("LimitReached", 4009));
}

#[test]
fn the_number_of_subscriptions_is_limited() {
    let mut client = Client::connect();
    for n in 0..5 {
        client.subscribes(&format!("c{n}"));
    }
    client.now = 1000;
    assert_eq!(refusal(&client.subscribes("c5")).1, 4009);
    client.unsubscribes("c0");
    assert_eq!(client.subscribes("c5"), succeeded("c5"));
}

/// A presence list can be long: it must not be had for the asking, again and again.
#[test]
fn subscribes_are_limited_in_a_second() {
    let mut client = Client::connect();
    for _ in 0..client.rules.subscriptions_max {
        client.subscribes("orders");
    }
    assert_eq!(refusal(&client.subscribes("orders")).1, 4009);
    client.now = 1000;
    assert_eq!(client.subscribes("orders"), [Action::Send(pusher::subscription_succeeded("orders"))]);
    assert_eq!(client.limited, [Limit::Subscribes]);
}

/// Each time all members are told.
#[test]
fn coming_to_presence_channels_is_limited_in_a_minute() {
    let mut client = Client::connect();
    client.rules.presence_joins_per_minute = 3;
    for second in 0..3 {
        client.now = second * 1000;
        client.joins("presence-a", r#"{"user_id":7}"#);
        client.unsubscribes("presence-a");
    }
    client.now = 59_999;
    let refused = client.subscribes_signed("presence-a", Some(r#"{"user_id":7}"#));
    assert_eq!((refusal(&refused).0.as_str(), refusal(&refused).1), ("LimitReached", 4009));
    // Without Laravel's leave, too: asking it is no way around.
    assert_eq!(refusal(&client.says(r#"{"event":"pusher:subscribe","data":{"channel":"presence-b"}}"#)).1, 4009);
    assert_eq!(client.subscribes("orders"), succeeded("orders"), "other channels are no presence channels");
    client.now = 60_000;
    client.joins("presence-a", r#"{"user_id":7}"#);
    assert_eq!(client.limited, [Limit::PresenceJoins; 2]);
}

#[test]
fn an_app_may_have_shorter_names() {
    let mut client = Client::connect();
    client.rules.channel_name_bytes_max = 6;
    assert_eq!(client.subscribes("orders"), succeeded("orders"));
    let (kind, status, error) = refusal(&client.subscribes("orders2"));
    assert_eq!((kind.as_str(), status), ("LimitReached", 4009));
    assert_eq!(error, "the channel name has 7 bytes; 6 are allowed");
    assert_eq!(client.limited, [Limit::ChannelName]);
}

#[test]
fn laravel_is_asked_about_unsigned_ones_a_few_at_a_time() {
    let mut client = Client::connect();
    let mut tickets = Vec::new();
    for n in 0..4 {
        tickets.extend(asked(&client.subscribes(&format!("private-{n}"))));
    }
    assert_eq!(tickets.len(), ASKING_MAX);
    assert_eq!(client.subscribes("private-4"), []);
    let actions = client.input(Input::Answered(tickets[1], Answer::Yes));
    assert_eq!(actions[..2], succeeded("private-1"));
    let last = asked(&actions[2..])[0];
    let no = Answer::No(Refusal::new(403, "no"));
    assert_eq!(refusal(&client.input(Input::Answered(last, no.clone()))), ("AuthError".into(), 403, "no".into()));
    // A second answer to the same question means nothing.
    assert_eq!(client.input(Input::Answered(last, Answer::Yes)), []);
}

#[test]
fn a_late_yes_does_not_undo_an_unsubscribe() {
    let mut client = Client::connect();
    let first = asked(&client.subscribes("private-a"))[0];
    assert_eq!(client.unsubscribes("private-a"), []);
    let second = asked(&client.subscribes("private-a"))[0];
    assert_eq!(client.input(Input::Answered(first, Answer::Yes)), []);
    assert_eq!(client.input(Input::Answered(second, Answer::Yes)), succeeded("private-a"));
}

#[test]
fn laravel_is_asked_again_when_its_leave_is_old() {
    let mut client = Client::connect();
    client.rules.reauthorize_after = Some(60_000);
    client.rules.activity_timeout = 1_000_000;
    for channel in ["private-a", "private-b"] {
        let ticket = asked(&client.subscribes(channel))[0];
        assert_eq!(client.input(Input::Answered(ticket, Answer::Yes)), succeeded(channel));
    }
    client.subscribes_signed("private-signed", None);
    client.now = 59_999;
    assert_eq!(client.input(Input::Tick), []);
    client.now = 60_000;
    let tickets = asked(&client.input(Input::Tick));
    assert_eq!(tickets.len(), 2, "what was signed is not asked about");
    assert_eq!(client.input(Input::Tick), []);
    assert_eq!(client.input(Input::Answered(tickets[0], Answer::Yes)), []);
    // Laravel cannot be asked: nothing is taken away. It says no: the subscription ends.
    let no = |status| Answer::No(Refusal::new(status, "no"));
    assert_eq!(client.input(Input::Answered(tickets[1], no(503))), []);
    client.now = 120_000;
    let tickets = asked(&client.input(Input::Tick));
    assert_eq!(client.input(Input::Answered(tickets[0], Answer::Yes)), []);
    let error = subscribe::subscription_error("private-b", "AuthError", Refusal::new(403, "no"));
    let ended = [Action::Unsubscribe(name("private-b")), error];
    assert_eq!(client.input(Input::Answered(tickets[1], no(403))), ended);
    client.now = 180_000;
    assert_eq!(asked(&client.input(Input::Tick)).len(), 1);
}

/// Laravel is slow, or there is a storm of questions: the first answer may take longer than an answer holds.
#[test]
fn what_laravel_has_not_answered_is_not_asked_again() {
    let mut client = Client::connect();
    client.rules.reauthorize_after = Some(60_000);
    client.rules.activity_timeout = 1_000_000;
    let answered = asked(&client.subscribes("private-answered"))[0];
    assert_eq!(client.input(Input::Answered(answered, Answer::Yes)), succeeded("private-answered"));
    let slow = asked(&client.subscribes("private-slow"))[0];
    client.now = 60_000;
    let again = asked(&client.input(Input::Tick));
    assert_eq!(again.len(), 1, "about what was answered");
    client.now = 120_000;
    assert_eq!(client.input(Input::Tick), [], "no question is put twice at once");
    assert_eq!(client.input(Input::Answered(again[0], Answer::Yes)), []);
    // Whoever had asked again would take this for the answer to that.
    assert_eq!(client.input(Input::Answered(slow, Answer::Yes)), succeeded("private-slow"));
    assert_eq!(asked(&client.input(Input::Tick)).len(), 2, "about both, now that both are old");
}

#[test]
fn presence_joins_and_leaves() {
    let mut client = Client::connect();
    client.joins("presence-a", r#"{"user_id":7,"user_info":{"name":"Ann"}}"#);
    // Again: the list once more, and nothing else.
    let ticket = match client.subscribes_signed("presence-a", Some(r#"{"user_id":8}"#)).as_slice() {
        [Action::List { ticket, .. }] => *ticket,
        other => panic!("{other:?}"),
    };
    assert_eq!(client.input(Input::Joined(ticket, list())), [Action::SendFrame(Bytes::from_static(b"list"))]);
    let left = [
        Action::Unsubscribe(name("presence-a")),
        Action::Leave { channel: name("presence-a"), user_id: Some("7".into()) },
    ];
    assert_eq!(client.unsubscribes("presence-a"), left);
}

#[test]
fn leaving_while_joining_leaves_at_home_and_ignores_the_answer() {
    let mut client = Client::connect();
    let actions = client.subscribes_signed("presence-a", Some(r#"{"user_id":7}"#));
    let Action::Join { ticket, .. } = actions[0] else { panic!("{actions:?}") };
    assert_eq!(
        client.unsubscribes("presence-a"),
        [Action::Leave { channel: name("presence-a"), user_id: Some("7".into()) }]
    );
    assert_eq!(client.input(Input::Joined(ticket, list())), []);
}

#[test]
fn presence_needs_a_member() {
    let mut client = Client::connect();
    assert_eq!(refusal(&client.subscribes_signed("presence-a", None)).1, 401);
    assert_eq!(refusal(&client.subscribes_signed("presence-a", Some("{}"))).1, 401);
    assert_eq!(refusal(&client.subscribes_signed("presence-a", Some(r#"{"user_id":true}"#))).1, 401);
    let long = format!(r#"{{"user_id":1,"user_info":"{}"}}"#, "x".repeat(60));
    assert_eq!(refusal(&client.subscribes_signed("presence-a", Some(&long))).1, 413);
}

#[test]
fn the_end_leaves_everything() {
    let mut client = Client::connect();
    client.subscribes("orders");
    client.joins("presence-a", r#"{"user_id":"7"}"#);
    client.subscribes("private-asked");
    let expected = [
        Action::Unsubscribe(name("orders")),
        Action::Unsubscribe(name("presence-a")),
        Action::Leave { channel: name("presence-a"), user_id: Some("7".into()) },
    ];
    assert_eq!(client.input(Input::Ended), expected);
    assert_eq!(client.input(Input::Ended), []);
}

/// Presence channels have members; a cache channel's home is asked for its last event.
#[test]
fn cache_channels_are_joined_at_home() {
    let mut client = Client::connect();
    for channel in ["cache-a", "private-cache-a", "private-encrypted-cache-a"] {
        client.now += 1000;
        let actions =
            if channel == "cache-a" { client.subscribes(channel) } else { client.subscribes_signed(channel, None) };
        let [Action::Join { ticket, member: None, .. }] = &actions[..] else { panic!("{actions:?}") };
        let ticket = *ticket;
        let subscribed = [Action::SendFrame(Bytes::from_static(b"list")), Action::Subscribe(name(channel))];
        assert_eq!(client.input(Input::Joined(ticket, list())), subscribed);
        let actions = client.subscribes_signed(channel, None);
        assert!(matches!(&actions[..], [Action::List { .. }]), "{actions:?}");
        let left = [Action::Unsubscribe(name(channel)), Action::Leave { channel: name(channel), user_id: None }];
        assert_eq!(client.unsubscribes(channel), left);
    }
    client.now += 1000;
    client.subscribes("cache-b");
    assert_eq!(client.unsubscribes("cache-b"), [Action::Leave { channel: name("cache-b"), user_id: None }]);
    client.joins("presence-cache-a", r#"{"user_id":7}"#);
}

#[test]
fn a_full_channel_is_refused_and_left() {
    let mut client = Client::connect();
    let actions = client.subscribes_signed("presence-a", Some(r#"{"user_id":7}"#));
    let Action::Join { ticket, .. } = actions[0] else { panic!("{actions:?}") };
    let actions = client.input(Input::Joined(ticket, Err(full())));
    let left = Action::Leave { channel: name("presence-a"), user_id: Some("7".into()) };
    assert_eq!(actions[2..], [left]);
    assert_eq!(refusal(&actions[..2]), ("LimitReached".into(), 4100, "full".into()));
    client.joins("presence-a", r#"{"user_id":7}"#);
}

#[test]
fn a_signin_says_who_the_user_is() {
    let mut client = Client::connect();
    assert_eq!(refusal(&client.subscribes("#server-to-user-7")).1, 401);
    let data = r#"{"id":7,"user_info":{"name":"Ann"},"watchlist":["8",9]}"#;
    let watchlist = vec!["8".into(), "9".into()];
    let said = r#"{"id":"7","user_info":{"name":"Ann"},"watchlist":["8",9]}"#;
    let success = || Action::Send(pusher::signin_success(said));
    assert_eq!(client.signs_in(data), [success(), Action::SignIn { user_id: "7".into(), watchlist }]);
    assert_eq!(client.session.user().map(|user| &*user.id), Some("7"));
    assert_eq!(client.signs_in(data), [success()], "again: nothing new");
    assert_eq!(client.subscribes("#server-to-user-7"), succeeded("#server-to-user-7"));
    assert_eq!(refusal(&client.subscribes("#server-to-user-8")).1, 401);
    assert!(matches!(&client.says(&whispers("#server-to-user-7", "1"))[..], [Action::Send(_)]));
    client.now = 1000;
    let other = client.signs_in(r#"{"id":"8"}"#);
    assert!(
        matches!(&other[..], [Action::SigninRefused { .. }, Action::Send(text)] if text.contains("null")),
        "{other:?}"
    );
    let ended = [Action::SignOut { user_id: "7".into() }, Action::Unsubscribe(name("#server-to-user-7"))];
    assert_eq!(client.input(Input::Ended), ended);
    assert_eq!(client.input(Input::Ended), []);
}

#[test]
fn a_signin_that_is_not_valid_closes_for_good() {
    let good = signature::sign(SECRET, &signature::user_text(socket_id(), r#"{"id":"7"}"#));
    let nobody = signature::sign(SECRET, &signature::user_text(socket_id(), "{}"));
    let channels = signature::sign(SECRET, &signature::channel_text(socket_id(), "private-a", None));
    for (auth, data) in [
        (format!("app-key:{good}"), r#"{"id":"8"}"#),
        (format!("other-key:{good}"), r#"{"id":"7"}"#),
        (good, r#"{"id":"7"}"#),
        (format!("app-key:{nobody}"), "{}"),
        (format!("app-key:{channels}"), r#"{"id":"7"}"#),
        (String::new(), r#"{"id":"7"}"#),
    ] {
        let mut client = Client::connect();
        let actions = client.says(&signin(&auth, data));
        assert!(
            matches!(&actions[..], [Action::SigninRefused { .. }, Action::Send(_), Action::Close { code: 4009, .. }]),
            "{actions:?}"
        );
        assert!(client.session.user().is_none());
    }
}

#[test]
fn a_watchlist_has_a_limit() {
    let ids: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    let actions = Client::connect().signs_in(&serde_json::json!({"id": "7", "watchlist": ids}).to_string());
    let [Action::Send(_), Action::Send(error), Action::SignIn { watchlist, .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(watchlist.len(), 100);
    let expected = r#"{"event":"pusher:error","data":{"code":4302,"message":"Watchlist limit exceeded. Only the first 100 user IDs are accepted."}}"#;
    assert_eq!(error, expected);
}

/// pusher-js from 7.4 on: the member of a presence channel is who is signed in.
#[test]
fn presence_without_channel_data_is_for_who_is_signed_in() {
    let mut client = Client::connect();
    assert_eq!(refusal(&client.subscribes_signed("presence-a", None)).1, 401);
    client.signs_in(r#"{"id":7,"user_info":{"name":"Ann"}}"#);
    client.now = 1000;
    let actions = client.subscribes_signed("presence-a", None);
    let [Action::Join { member: Some(member), .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((&*member.user_id, &*member.user_info), ("7", r#"{"name":"Ann"}"#));
    let wrong = r#"{"event":"pusher:subscribe","data":{"auth":"app-key:00","channel":"presence-b"}}"#;
    assert_eq!(refusal(&client.says(wrong)).1, 401);
    // With channel_data it is that, and its signature, that count.
    let actions = client.subscribes_signed("presence-c", Some(r#"{"user_id":8}"#));
    assert!(
        matches!(&actions[..], [Action::Join { member: Some(member), .. }] if &*member.user_id == "8"),
        "{actions:?}"
    );
    let unsigned_data = signature::sign(SECRET, "1234.1234:presence-d");
    let message = serde_json::json!({"event": "pusher:subscribe", "data": {"auth": format!("app-key:{unsigned_data}"), "channel": "presence-d", "channel_data": r#"{"user_id":9}"#}});
    assert_eq!(refusal(&client.says(&message.to_string())).1, 401);
}

#[test]
fn the_application_ends_a_users_connections() {
    let mut client = Client::connect();
    client.signs_in(r#"{"id":"7"}"#);
    let actions = client.input(Input::Terminated);
    assert!(matches!(&actions[..], [Action::Send(_), Action::Close { code: 4009, .. }]), "{actions:?}");
}

#[test]
fn who_never_says_who_it_is_may_be_closed() {
    let connect = || {
        let mut client = Client::connect();
        client.rules.user_authentication_timeout = Some(5000);
        client.session = Session::open(socket_id(), &client.rules, 0, &mut Vec::new());
        client
    };
    let mut client = connect();
    client.subscribes("orders");
    client.subscribes("private-asked");
    client.now = 4999;
    assert!(!client.session.is_due(&client.rules, client.now));
    assert_eq!(client.input(Input::Tick), []);
    client.now = 5000;
    assert!(client.session.is_due(&client.rules, client.now));
    let actions = client.input(Input::Tick);
    assert!(matches!(&actions[..], [Action::Send(_), Action::Close { code: 4009, .. }]), "{actions:?}");
    type Say = fn(&mut Client) -> Vec<Action>;
    let ways: [Say; 3] = [
        |client| client.signs_in(r#"{"id":"7"}"#),
        |client| client.subscribes_signed("private-a", None),
        |client| client.subscribes_signed("presence-a", Some(r#"{"user_id":7}"#)),
    ];
    for way in ways {
        let mut client = connect();
        way(&mut client);
        client.now = 5000;
        assert_eq!(client.input(Input::Tick), []);
    }
}

fn whispers(channel: &str, data: &str) -> String {
    format!(r#"{{"event":"client-typing","data":{data},"channel":"{channel}"}}"#)
}

#[test]
fn client_events_go_to_the_others() {
    let mut client = Client::connect();
    client.subscribes_signed("private-a", None);
    client.joins("presence-a", r#"{"user_id":7}"#);
    let whisper = |channel: &str, data: &str, user_id: Option<&str>| {
        let (event, data) = ("client-typing".to_owned(), Some(data.to_owned()));
        [Action::Whisper { channel: name(channel), event, data, user_id: user_id.map(Into::into) }]
    };
    assert_eq!(client.says(&whispers("private-a", r#"{"a": 1.0}"#)), whisper("private-a", r#"{"a": 1.0}"#, None));
    assert_eq!(client.says(&whispers("presence-a", "1")), whisper("presence-a", "1", Some("7")));
}

#[test]
fn client_events_that_are_refused() {
    let error = |actions: &[Action]| match actions {
        [Action::Send(text)] if text.starts_with(r#"{"event":"pusher:error""#) => {
            serde_json::from_str::<serde_json::Value>(text).unwrap()["data"]["code"].as_u64()
        }
        other => panic!("{other:?}"),
    };
    let mut client = Client::connect();
    client.subscribes("orders");
    client.subscribes_signed("private-a", None);
    client.subscribes_signed("private-encrypted-a", None);
    client.subscribes("private-asked");
    for channel in ["orders", "private-encrypted-a", "private-asked", "private-other"] {
        assert_eq!(error(&client.says(&whispers(channel, "{}"))), None, "{channel}");
    }
    assert_eq!(error(&client.says(&whispers("private-a", &format!("\"{}\"", "x".repeat(20))))), None);
    for _ in 0..3 {
        assert!(matches!(client.says(&whispers("private-a", "1")).as_slice(), [Action::Whisper { .. }]));
    }
    assert_eq!(error(&client.says(&whispers("private-a", "1"))), Some(4301));
    client.now = 1000;
    assert!(matches!(client.says(&whispers("private-a", "1")).as_slice(), [Action::Whisper { .. }]));
}

#[test]
fn silence_is_pinged_and_then_closed() {
    let mut client = Client::connect();
    assert_eq!(client.says(r#"{"event":"pusher:ping","data":{}}"#), [Action::Send(pusher::PONG.into())]);
    client.now = 44_999;
    assert_eq!(client.input(Input::Tick), []);
    client.now = 45_000;
    assert_eq!(client.input(Input::Tick), [Action::Send(pusher::PING.into())]);
    client.now = 64_999;
    assert_eq!(client.input(Input::Tick), []);
    client.input(Input::SignOfLife);
    client.now = 65_000;
    assert_eq!(client.input(Input::Tick), []);
    client.now = 64_999 + 45_000;
    assert_eq!(client.input(Input::Tick), [Action::Send(pusher::PING.into())]);
    client.now += 20_000;
    assert!(matches!(client.input(Input::Tick).as_slice(), [Action::Send(_), Action::Close { code: 4201, .. }]));
}

#[test]
fn nonsense_is_answered_and_at_last_closed() {
    let mut client = Client::connect();
    for _ in 1..BAD_MESSAGES_MAX {
        assert!(matches!(client.says("nonsense").as_slice(), [Action::Send(_)]));
    }
    assert!(matches!(client.says("nonsense").as_slice(), [Action::Send(_), Action::Close { code: 4100, .. }]));
}

/// A step of a random client and of the world around it.
#[derive(Clone, Debug)]
enum Step {
    Subscribe(u8),
    SubscribeSigned(u8),
    Unsubscribe(u8),
    Answer(u8, bool),
    Joined(u8, bool),
    Signin(u8),
    Whisper(u8),
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..9).prop_map(Step::Subscribe),
        (0u8..9).prop_map(Step::SubscribeSigned),
        (0u8..9).prop_map(Step::Unsubscribe),
        (0u8..20, any::<bool>()).prop_map(|(ticket, yes)| Step::Answer(ticket, yes)),
        (0u8..20, prop::bool::weighted(0.8)).prop_map(|(ticket, ok)| Step::Joined(ticket, ok)),
        (1u8..3).prop_map(Step::Signin),
        (0u8..9).prop_map(Step::Whisper),
        Just(Step::Tick),
    ]
}

proptest! {
    /// However the steps fall: subscribed once at the most, never unsubscribed without, joins and
    /// leaves of presence in pairs, and nothing left at the end.
    #[test]
    fn a_random_walk_keeps_its_books(steps in prop::collection::vec(step(), 0..80)) {
        let channels = ["orders", "private-a", "private-b", "presence-a", "presence-b", "news", "cache-a", "presence-cache-a", "#server-to-user-1"];
        let mut client = Client::connect();
        let mut subscribed = std::collections::BTreeSet::new();
        let mut joined = std::collections::BTreeSet::new();
        let mut users = Vec::new();
        let mut all = steps.iter().map(|step| match step {
            Step::Subscribe(n) => client.subscribes(channels[*n as usize]),
            Step::SubscribeSigned(n) => {
                let channel = channels[*n as usize];
                client.subscribes_signed(channel, channel.starts_with("presence").then_some(r#"{"user_id":1}"#))
            }
            Step::Unsubscribe(n) => client.unsubscribes(channels[*n as usize]),
            Step::Answer(ticket, true) => {
                let member = Member { user_id: "1".into(), user_info: "null".into(), id_is_number: false };
                let channel = client.session.subscriptions.iter().find(|s| s.ticket == u32::from(*ticket)).map(|s| s.channel.access());
                let answer = if channel == Some(Access::Presence) { Answer::Member(member) } else { Answer::Yes };
                client.input(Input::Answered((*ticket).into(), answer))
            }
            Step::Answer(ticket, false) => {
                client.input(Input::Answered((*ticket).into(), Answer::No(Refusal::new(403, ""))))
            }
            Step::Joined(ticket, ok) => client.input(Input::Joined((*ticket).into(), if *ok { list() } else { Err(full()) })),
            Step::Signin(user) => client.signs_in(&format!(r#"{{"id":"{user}"}}"#)),
            Step::Whisper(n) => client.says(&whispers(channels[*n as usize], "1")),
            Step::Tick => { client.now += 400; client.input(Input::Tick) }
        }).collect::<Vec<_>>().concat();
        all.extend(client.input(Input::Ended));
        for action in all {
            match action {
                Action::Subscribe(channel) => prop_assert!(subscribed.insert(channel.to_string())),
                Action::Unsubscribe(channel) => prop_assert!(subscribed.remove(channel.as_str())),
                Action::Join { channel, .. } => prop_assert!(joined.insert(channel.to_string())),
                Action::List { channel, .. } => prop_assert!(joined.contains(channel.as_str())),
                Action::Leave { channel, .. } => prop_assert!(joined.remove(channel.as_str())),
                Action::Whisper { channel, .. } => prop_assert!(subscribed.contains(channel.as_str())),
                Action::SignIn { user_id, .. } => users.push(user_id),
                Action::SignOut { user_id } => prop_assert_eq!(users.pop(), Some(user_id)),
                Action::Close { .. } => prop_assert!(false, "closed"),
                _ => {}
            }
        }
        prop_assert!(subscribed.is_empty());
        prop_assert!(joined.is_empty());
        prop_assert!(users.is_empty());
    }

    /// Channel names have no quotes, and no user is named without: what is signed for a guarded
    /// channel, whatever its name, says nothing about a user.
    #[test]
    fn a_channels_signature_is_no_users(channel in "(:user:)?[:{}a-z-]{0,6}(private|presence)-[:{}a-z0-9]{0,8}", has_data in any::<bool>()) {
        let data = has_data.then_some(r#"{"id":"7","user_id":"7"}"#);
        prop_assert!(ChannelName::parse(&channel).is_ok());
        let text = signature::channel_text(socket_id(), &channel, data);
        if let Some(user_data) = text.strip_prefix(&signature::user_text(socket_id(), "")) {
            prop_assert!(crate::protocol::user::UserData::parse(user_data).is_err(), "{}", text);
        }
    }
}
