//! Events of a backend: what a request says becomes deliveries, all of them or none.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::channels::{self, Attributes, Info, channel_name};
use super::{Refusal, bad_request, refusal, text};
use crate::config::Limits;
use crate::http::Front;
use crate::inbox::{AppIndex, Delivery};
use crate::metrics::Source;
use crate::protocol::SocketId;
use crate::protocol::channel::ChannelName;
use crate::protocol::{engineio, socketio};
use crate::publish::{Publisher, event_frame, socketio_event_frame};
use crate::tap::Traced;
use crate::tap::{Origin, Trace};

/// What answers a request that asked for no `info`.
const NOTHING: &str = "{}";

/// An event as `POST /apps/{id}/events` takes it.
#[derive(Deserialize)]
pub(super) struct Written<'a> {
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    #[serde(borrow)]
    pub data: &'a RawValue,
    #[serde(borrow, default)]
    pub channel: Option<Cow<'a, str>>,
    #[serde(default)]
    pub channels: Option<Vec<String>>,
    #[serde(borrow, default)]
    pub socket_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub info: Option<Cow<'a, str>>,
}

/// The body of `POST /apps/{id}/batch_events`.
#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    batch: Vec<Written<'a>>,
}

/// An event that may go out.
#[derive(Debug)]
struct Event<'a> {
    name: Cow<'a, str>,
    data: Cow<'a, str>,
    channels: Vec<ChannelName>,
    except: Option<SocketId>,
    info: Info,
}

impl<'a> Event<'a> {
    fn check(written: Written<'a>, limits: &Limits) -> Result<Self, Refusal> {
        // Libraries send a string; anything else goes out as its JSON text.
        let data: Cow<str> = match serde_json::from_str::<String>(written.data.get()) {
            Ok(text) => Cow::Owned(text),
            Err(_) => Cow::Borrowed(written.data.get()),
        };
        if data.len() > limits.event_bytes {
            let (bytes, limit) = (data.len(), limits.event_bytes);
            let error = format!("the event's data has {bytes} bytes; {limit} are allowed (limits.eventBytes)");
            return refusal(StatusCode::PAYLOAD_TOO_LARGE, error);
        }
        let limit = limits.event_name_bytes;
        if written.name.is_empty() || written.name.len() > limit {
            let bytes = written.name.len();
            let error = format!("the event's name has {bytes} bytes; 1 to {limit} are allowed (limits.eventNameBytes)");
            return bad_request(error);
        }
        let names = match (written.channels, written.channel) {
            (Some(names), _) => names,
            (None, Some(name)) => vec![name.into_owned()],
            (None, None) => Vec::new(),
        };
        if names.is_empty() {
            return bad_request("the event names no channel");
        }
        let limit = limits.channels_per_event;
        if names.len() > limit {
            let count = names.len();
            let error = format!("the event names {count} channels; {limit} are allowed (limits.channelsPerEvent)");
            return bad_request(error);
        }
        Ok(Self {
            name: written.name,
            data,
            channels: names.iter().map(|name| channel_name(name, limits)).collect::<Result<_, _>>()?,
            // An id that is none of ours excludes nobody, as with the hosted service.
            except: written.socket_id.and_then(|id| engineio::socket_id_of_client(&id)),
            info: Info::of_several(written.info.as_deref())?,
        })
    }

    fn delivery(
        &self,
        channel: &ChannelName,
        app: AppIndex,
        limits: &Limits,
        publisher: &Publisher,
        trace: Option<Traced>,
    ) -> Result<Delivery, Refusal> {
        let frame = event_frame(channel.as_str(), &self.name, &self.data);
        let (bytes, limit) = (frame.len(), limits.outbound_bytes);
        if bytes > limit {
            // It would close every subscriber, again after each reconnect.
            let error = format!(
                "the event takes {bytes} bytes on the wire, and a connection may have {limit} waiting \
                 (limits.outboundBytes)"
            );
            return refusal(StatusCode::PAYLOAD_TOO_LARGE, error);
        }
        let socketio = publisher
            .for_socketio(|| socketio_event_frame(channel.as_str(), &self.name, &socketio::data_of_text(&self.data)));
        let deflated = publisher.deflated(&frame);
        Ok(Delivery {
            app,
            channel: channel.clone(),
            frame,
            socketio,
            deflated,
            except: self.except,
            is_kept: true,
            taken_at: Some(Instant::now()),
            trace,
        })
    }

    fn deliveries(&self, app: AppIndex, limits: &Limits, publisher: &Publisher) -> Result<Vec<Delivery>, Refusal> {
        let trace = self.trace(app, publisher);
        let traced = |index| trace.as_ref().map(|trace| trace.traced(index));
        let delivery = |(index, channel)| self.delivery(channel, app, limits, publisher, traced(index));
        self.channels.iter().enumerate().map(delivery).collect()
    }

    /// Follows the event to its channels, if anybody looks.
    fn trace(&self, app: AppIndex, publisher: &Publisher) -> Option<Arc<Trace>> {
        let targets = self.channels.iter().map(|channel| (app.0, channel.as_str()));
        publisher.tap().trace(&self.name, &self.data, self.except, || Origin::Http, targets)
    }
}

/// See [`super::fuzz`].
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(body: &[u8]) {
    let limits = Limits::default();
    for event in one(body, &limits).into_iter().chain(batch(body, &limits).into_iter().flatten()) {
        let frame = event_frame(event.channels[0].as_str(), &event.name, &event.data);
        let text = crate::ws::frame::text(&frame).unwrap_or_default();
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(), "{text}");
    }
    super::legacy::fuzz(body);
}

fn one<'a>(body: &'a [u8], limits: &Limits) -> Result<Event<'a>, Refusal> {
    match serde_json::from_slice(body) {
        Ok(written) => Event::check(written, limits),
        Err(error) => bad_request(format!("the body is no event: {error}")),
    }
}

fn batch<'a>(body: &'a [u8], limits: &Limits) -> Result<Vec<Event<'a>>, Refusal> {
    let Batch { batch } = match serde_json::from_slice(body) {
        Ok(batch) => batch,
        Err(error) => return bad_request(format!("the body is no batch of events: {error}")),
    };
    let (count, limit) = (batch.len(), limits.events_per_batch);
    if count > limit {
        return bad_request(format!("the batch has {count} events; {limit} are allowed (limits.eventsPerBatch)"));
    }
    let check = |(index, written): (usize, Written<'a>)| {
        let checked = match written.channels {
            Some(_) => bad_request("an event of a batch has one \"channel\""),
            None => Event::check(written, limits),
        };
        checked.map_err(|Refusal { status, error }| Refusal { status, error: format!("batch[{index}]: {error}") })
    };
    batch.into_iter().enumerate().map(check).collect()
}

fn count(front: &Front, app: AppIndex, source: Source, event: &Event<'_>) {
    let (publisher, metrics) = (&front.publisher, front.publisher.metrics());
    metrics.events_received.add(source);
    if !event.channels.iter().any(|channel| publisher.has_subscribers(app, channel.as_str())) {
        metrics.events_unheard.add(source);
    }
}

/// `POST /apps/{id}/events`: one event, for each of its channels.
pub(super) async fn publish(front: &Front, app: AppIndex, limits: &Limits, body: &[u8]) -> Result<String, Refusal> {
    let event = one(body, limits)?;
    let deliveries = event.deliveries(app, limits, &front.publisher)?;
    count(front, app, Source::HttpApi, &event);
    front.publisher.publish_all(deliveries).await;
    if !event.info.is_wanted() {
        return Ok(NOTHING.to_owned());
    }
    let wanted: Vec<(ChannelName, Info)> = event.channels.iter().map(|name| (name.clone(), event.info)).collect();
    let counts = channels::attributes(front, app, &wanted).await?;
    text(&channels::by_name(wanted.iter().zip(counts).map(|((name, info), counts)| (name, *info, counts))))
}

/// Sends an event to each of its channels, or to none if it is refused. There is one frame at a time, however many
/// channels there are.
pub(super) async fn send(front: &Front, app: AppIndex, limits: &Limits, written: Written<'_>) -> Result<(), Refusal> {
    let mut event = Event::check(written, limits)?;
    // The longest frame first: if that one may go out, so may the others.
    event.channels.sort_by_key(|channel| Reverse(channel.as_str().len()));
    let trace = event.trace(app, &front.publisher);
    for (index, channel) in event.channels.iter().enumerate() {
        let traced = trace.as_ref().map(|trace| trace.traced(index));
        let delivery = event.delivery(channel, app, limits, &front.publisher, traced)?;
        if index == 0 {
            count(front, app, Source::LegacyHttpApi, &event);
        }
        front.publisher.publish_all(vec![delivery]).await;
    }
    Ok(())
}

/// `POST /apps/{id}/batch_events`: several events, each for one channel.
pub(super) async fn publish_batch(
    front: &Front,
    app: AppIndex,
    limits: &Limits,
    body: &[u8],
) -> Result<String, Refusal> {
    #[derive(Serialize)]
    struct Answer {
        batch: Vec<Attributes>,
    }
    let events = batch(body, limits)?;
    let deliveries: Vec<Vec<Delivery>> =
        events.iter().map(|event| event.deliveries(app, limits, &front.publisher)).collect::<Result<_, _>>()?;
    events.iter().for_each(|event| count(front, app, Source::HttpApi, event));
    front.publisher.publish_all(deliveries.into_iter().flatten().collect()).await;
    if !events.iter().any(|event| event.info.is_wanted()) {
        return Ok(NOTHING.to_owned());
    }
    let wanted: Vec<(ChannelName, Info)> =
        events.iter().flat_map(|event| event.channels.iter().map(|name| (name.clone(), event.info))).collect();
    let counts = channels::attributes(front, app, &wanted).await?;
    let batch = wanted.iter().zip(counts).map(|((name, info), counts)| channels::object(name, *info, counts));
    text(&Answer { batch: batch.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::frame;

    fn deliveries(body: &str) -> Result<Vec<Delivery>, Refusal> {
        one(body.as_bytes(), &Limits::default())?.deliveries(
            AppIndex(0),
            &Limits::default(),
            &Publisher::new(Vec::new()),
        )
    }

    #[test]
    fn an_event_becomes_a_delivery_for_each_channel() {
        let body =
            r##"{"name":"foo","channels":["a","private-b","#server-to-user-7"],"data":"{\"x\":1}","socket_id":"1.2"}"##;
        let deliveries = deliveries(body).unwrap();
        assert_eq!(deliveries.len(), 3);
        let frame = frame::encode_text(r#"{"event":"foo","channel":"private-b","data":"{\"x\":1}"}"#);
        assert_eq!(deliveries[1].frame, frame);
        assert_eq!(deliveries[1].except, "1.2".parse().ok());
    }

    #[test]
    fn data_that_is_no_string_goes_out_as_its_text() {
        for (data, expected) in
            [(r#""""#, r#""""#), (r#"{"a": 1}"#, r#""{\"a\": 1}""#), ("7", r#""7""#), ("null", r#""null""#)]
        {
            let deliveries = deliveries(&format!(r#"{{"name":"e","channel":"c","data":{data}}}"#)).unwrap();
            let text = format!(r#"{{"event":"e","channel":"c","data":{expected}}}"#);
            assert_eq!(deliveries[0].frame, frame::encode_text(&text));
        }
        let unknown = r#"{"name":"e","data":"","channel":"c","socket_id":"nobody's","other":[1]}"#;
        assert_eq!(deliveries(unknown).unwrap()[0].except, None);
    }

    #[test]
    fn events_that_are_refused() {
        let many: Vec<String> = (0..101).map(|n| format!("c{n}")).collect();
        let many = format!(r#"{{"name":"e","data":"","channels":{}}}"#, serde_json::to_string(&many).unwrap());
        let large = format!(r#"{{"name":"e","data":"{}","channel":"c"}}"#, "x".repeat(10 * 1024 + 1));
        let long = format!(r#"{{"name":"{}","data":"","channel":"c"}}"#, "x".repeat(201));
        for (body, status) in [
            ("", 400),
            ("null", 400),
            (r#"{"data":"","channel":"c"}"#, 400),
            (r#"{"name":"e","channel":"c"}"#, 400),
            (r#"{"name":"e","data":""}"#, 400),
            (r#"{"name":"e","data":"","channels":[]}"#, 400),
            (r#"{"name":"","data":"","channel":"c"}"#, 400),
            (r#"{"name":"e","data":"","channel":"a b"}"#, 400),
            (r#"{"name":"e","data":"","channels":["a","a b"]}"#, 400),
            (r#"{"name":"e","data":"","channels":"c"}"#, 400),
            (r#"{"name":"e","data":"","channel":"c","info":"cache"}"#, 400),
            (&many, 400),
            (&long, 400),
            (&large, 413),
        ] {
            assert_eq!(deliveries(body).unwrap_err().status.as_u16(), status, "{body:.60}");
        }
        let limits = Limits { outbound_bytes: 10, ..Limits::default() };
        let event = one(br#"{"name":"e","data":"","channel":"c"}"#, &limits).unwrap();
        assert_eq!(
            event.deliveries(AppIndex(0), &limits, &Publisher::new(Vec::new())).unwrap_err().status.as_u16(),
            413
        );
    }

    #[test]
    fn batches_that_are_refused() {
        let events = |count: usize| {
            let events = vec![r#"{"name":"e","data":"","channel":"c"}"#; count].join(",");
            format!(r#"{{"batch":[{events}]}}"#)
        };
        assert_eq!(batch(events(10).as_bytes(), &Limits::default()).unwrap().len(), 10);
        assert_eq!(batch(events(0).as_bytes(), &Limits::default()).unwrap().len(), 0);
        for (body, word) in [
            (events(11), "11 events"),
            ("[]".into(), "no batch"),
            ("{}".into(), "no batch"),
            (
                r#"{"batch":[{"name":"e","data":"","channel":"c"},{"name":"e","data":"","channel":""}]}"#.into(),
                "batch[1]",
            ),
            (r#"{"batch":[{"name":"e","data":"","channels":["c"]}]}"#.into(), "batch[0]"),
        ] {
            let refusal = batch(body.as_bytes(), &Limits::default()).unwrap_err();
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
            assert!(refusal.error.contains(word), "{}", refusal.error);
        }
        let large = format!(r#"{{"batch":[{{"name":"e","data":"{}","channel":"c"}}]}}"#, "x".repeat(10 * 1024 + 1));
        assert_eq!(batch(large.as_bytes(), &Limits::default()).unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
