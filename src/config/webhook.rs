//! `clients[].webhooks`: the URLs that are told of what happens on an app's channels. soketi's names
//! are taken as well: `event_types`, and `channel_name_starts_with` and `_ends_with` in `filter`.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::App;
use super::error::ConfigError;
use super::file::member;
use super::json::Setting;
use super::known::warn_of_unknown;
use crate::protocol::webhook::{Kind, Kinds};

/// Further headers that a webhook may have.
const HEADERS_MAX: usize = 32;

/// Headers that are the server's to set.
const OURS: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "x-pusher-key",
    "x-pusher-signature",
];

/// One entry of `webhooks`.
#[derive(Clone, Eq, PartialEq)]
pub struct Webhook {
    /// `url`: `http` or `https`. May hold a password or token; see [`Webhook::place`].
    pub url: Url,
    /// `events`: what it is told of; all, if that is not said.
    pub events: Kinds,
    /// `channelNameStartsWith`: how a channel's name must begin; empty for any.
    pub channel_name_starts_with: String,
    /// `channelNameEndsWith`: how a channel's name must end; empty for any.
    pub channel_name_ends_with: String,
    /// `headers`: sent with each request. They may hold tokens.
    pub headers: HeaderMap,
}

impl Webhook {
    /// The URL as far as it may be shown: without user, password, query and fragment.
    pub fn place(&self) -> String {
        let mut url = self.url.clone();
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url[..url::Position::AfterPath].to_owned()
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Webhook ({}, {:?})", self.place(), self.events)
    }
}

/// Reads the list.
pub(super) fn read(list: &Setting<'_>, warnings: &mut Vec<String>) -> Result<Vec<Webhook>, ConfigError> {
    list.list()?.iter().map(|webhook| read_one(webhook, warnings)).collect()
}

fn read_one(webhook: &Setting<'_>, warnings: &mut Vec<String>) -> Result<Webhook, ConfigError> {
    let members = webhook.object()?;
    warn_of_unknown(&members, warnings);
    let filter = member(&members, "filter").map(|filter| filter.object()).transpose()?.unwrap_or_default();
    warn_of_unknown(&filter, warnings);
    let text = |name: &str, name_in_filter: &str| {
        let setting = member(&members, name).or(member(&filter, name_in_filter));
        setting.map_or_else(|| Ok(String::new()), |setting| setting.text())
    };
    let url = member(&members, "url")
        .ok_or_else(|| webhook.error("has no \"url\"; add one, as \"url\": \"https://app.example.com/webhooks\""))?;
    let events = member(&members, "events").or(member(&members, "event_types"));
    Ok(Webhook {
        url: read_url(&url)?,
        events: events.map_or_else(|| Ok(Kind::ALL.into_iter().collect()), |events| read_events(&events))?,
        channel_name_starts_with: text("channelNameStartsWith", "channel_name_starts_with")?,
        channel_name_ends_with: text("channelNameEndsWith", "channel_name_ends_with")?,
        headers: member(&members, "headers").map_or_else(|| Ok(HeaderMap::new()), |headers| read_headers(&headers))?,
    })
}

fn read_url(setting: &Setting<'_>) -> Result<Url, ConfigError> {
    let url = Url::parse(setting.text()?.trim()).ok();
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host()).ok_or_else(|| {
        setting.wrong("must be a URL that begins with http:// or https://, as \"https://app.example.com/webhooks\"")
    })
}

fn read_events(setting: &Setting<'_>) -> Result<Kinds, ConfigError> {
    let names = Kind::ALL.map(Kind::name).join(", ");
    let one = |event: &Setting<'_>| {
        Kind::from_name(&event.text()?).ok_or_else(|| event.wrong(format_args!("must be one of {names}")))
    };
    let events = setting.list()?;
    if events.is_empty() {
        return Err(setting.error(format_args!("is empty, so nothing would be told; name some of {names}")));
    }
    events.iter().map(one).collect()
}

fn read_headers(setting: &Setting<'_>) -> Result<HeaderMap, ConfigError> {
    let mut headers = HeaderMap::new();
    for (name, value) in setting.object()? {
        let header = HeaderName::try_from(name.as_str())
            .map_err(|_| value.error("is no name of an HTTP header; letters, digits and hyphens are"))?;
        if OURS.contains(&header.as_str()) {
            return Err(value.error("is a header that this server sets itself; take it out"));
        }
        let mut text = HeaderValue::try_from(value.text()?)
            .map_err(|_| value.error("has a value that no HTTP header may have, as one of several lines"))?;
        text.set_sensitive(true);
        headers.insert(header, text);
    }
    if headers.len() > HEADERS_MAX {
        return Err(setting.error(format_args!("has {} members; {HEADERS_MAX} are allowed", headers.len())));
    }
    Ok(headers)
}

/// What is odd about an app's webhooks as a whole.
pub(super) fn warning(app: &App) -> Option<String> {
    let is_told = |webhook: &Webhook| webhook.events.contains(Kind::SubscriptionCount);
    let is_told_of_all = |webhook: &Webhook| Kind::ALL.into_iter().all(|kind| webhook.events.contains(kind));
    if app.webhooks.is_empty() {
        None
    } else if app.secret_is_random {
        Some(format!(
            "The client {} has webhooks and no \"secret\", so they are signed with one that is new at each start and \
             that nobody knows. Give it one.",
            app.id
        ))
    } else if !app.subscription_count && app.webhooks.iter().any(|webhook| is_told(webhook) && !is_told_of_all(webhook))
    {
        Some(format!(
            "The client {} has a webhook for subscription_count, of which there is none without \"subscriptionCount\": \
             true.",
            app.id
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::tests::read_with;
    use super::*;

    fn read(client: &str) -> Result<Config, String> {
        read_with(&format!(r#"{{ "clients": [ {{ "appId": "a", "key": "k", "secret": "s", {client} }} ] }}"#), &[])
    }

    fn webhooks(client: &str) -> (Vec<Webhook>, Vec<String>) {
        let mut config = read(client).unwrap_or_else(|error| panic!("{client}: {error}"));
        (std::mem::take(&mut config.apps[0].webhooks), config.warnings)
    }

    #[test]
    fn all_that_can_be_said() {
        let (found, warnings) = webhooks(
            r#""webhooks": [ { "url": "http://h/x" }, { "url": " https://u:p@h:1/x?token=t#f ", "events": ["cache_miss", "member_added"],
                "channelNameStartsWith": "presence-", "channelNameEndsWith": ".1", "headers": { "X-From": "echo", "Authorization": "Bearer t" } } ]"#,
        );
        assert_eq!(warnings, [""; 0]);
        let [all, some] = &found[..] else { panic!("{found:?}") };
        assert!(Kind::ALL.into_iter().all(|kind| all.events.contains(kind)));
        assert_eq!((all.place().as_str(), all.headers.len()), ("http://h/x", 0));
        assert_eq!((&*all.channel_name_starts_with, &*all.channel_name_ends_with), ("", ""));
        assert_eq!(some.events, [Kind::CacheMiss, Kind::MemberAdded].into_iter().collect());
        assert_eq!((&*some.channel_name_starts_with, &*some.channel_name_ends_with), ("presence-", ".1"));
        assert_eq!(some.headers["x-from"], "echo");
        assert_eq!(some.place(), "https://h:1/x");
        let shown = format!("{some:?} {:?}", some.headers);
        assert!(!shown.contains("Bearer") && !shown.contains("token") && !shown.contains("u:p"), "{shown}");
    }

    #[test]
    fn the_names_of_soketi() {
        let (found, warnings) = webhooks(
            r#""webhooks": [ { "url": "http://h", "event_types": ["channel_vacated"],
                "filter": { "channel_name_starts_with": "a", "channel_name_ends_with": "b" } } ]"#,
        );
        assert_eq!(warnings, [""; 0]);
        assert_eq!(found[0].events, [Kind::ChannelVacated].into_iter().collect());
        assert_eq!((&*found[0].channel_name_starts_with, &*found[0].channel_name_ends_with), ("a", "b"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (webhook, key, what) in [
            (r#"{}"#, "webhooks[0]", "has no \"url\""),
            (r#"{"url": "app.test/x"}"#, "webhooks[0].url", "must be a URL that begins with http"),
            (r#"{"url": "ftp://app.test/x"}"#, "webhooks[0].url", "must be a URL that begins with http"),
            (r#"{"url": 7}"#, "webhooks[0].url", "must be a URL"),
            (r#"{"url": "http://h", "events": []}"#, "webhooks[0].events", "is empty"),
            (r#"{"url": "http://h", "events": ["joined"]}"#, "webhooks[0].events[0]", "one of channel_occupied, "),
            (r#"{"url": "http://h", "headers": {"Content-Type": "text/x"}}"#, "headers.Content-Type", "sets itself"),
            (r#"{"url": "http://h", "headers": {"a b": "x"}}"#, "headers.a b", "is no name"),
            (r#"{"url": "http://h", "headers": {"a": "x\ny"}}"#, "headers.a", "no HTTP header may have"),
        ] {
            let error = read(&format!(r#""webhooks": [ {webhook} ]"#)).map(|_| ()).unwrap_err();
            assert!(error.contains(&format!("clients[0].{key}\"")) || error.contains(key), "{error}");
            assert!(error.contains(what), "{error}");
        }
        let error = read(r#""webhooks": [ {"url": "//user:pw@h"} ]"#).map(|_| ()).unwrap_err();
        assert!(!error.contains("pw"), "{error}");
    }

    #[test]
    fn what_is_odd() {
        let (_, warnings) = webhooks(r#""webhooks": [ { "url": "http://h", "event": ["cache_miss"] } ]"#);
        assert!(warnings[0].contains("did you mean \"clients[].webhooks[].events\"?"), "{warnings:?}");
        let counts = r#""webhooks": [ { "url": "http://h", "events": ["subscription_count"] } ]"#;
        assert!(webhooks(counts).1[0].contains("\"subscriptionCount\": true"));
        assert_eq!(webhooks(&format!(r#"{counts}, "subscriptionCount": true"#)).1, [""; 0]);
        let nobody_can_check = r#"{"clients": [{"appId": "a", "key": "k", "webhooks": [{"url": "http://h"}]}]}"#;
        assert!(read_with(nobody_can_check, &[]).unwrap().warnings[0].contains("no \"secret\""));
    }
}
