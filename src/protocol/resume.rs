//! Resuming after a lost connection, as far as it is text: the cookie by which a browser is known
//! again, the event that tells of a gap, and which channels are resumed how.
//!
//! Not here: what is kept and for whom, which is a shard's (`shard::resume`).

use std::fmt;

use super::channel::ChannelName;
use super::pusher;

/// The cookie's name.
pub const COOKIE: &str = "echo_resume";

/// On the wire; an application listens for it as `.echo-server:gap`.
pub const GAP_EVENT: &str = "echo-server:gap";

/// A browser, as its cookie names it: all its tabs share it. It says nothing of who that is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct BrowserId(pub u128);

impl BrowserId {
    /// The index of the shard, of so many, to which all its connections go.
    pub fn shard(self, shards: usize) -> usize {
        (self.0 % shards as u128) as usize
    }
}

/// What the cookie holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cookie {
    /// 128 random bits.
    pub browser: BrowserId,
    /// The process that has written the cookie last: another one remembers nothing of this browser.
    pub process: u64,
}

impl Cookie {
    /// Finds the cookie in a `Cookie` header. Of several the first counts, which is that of the longest path.
    pub fn find(header: &str) -> Option<Self> {
        header.split(';').find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            if name == COOKIE { Self::parse(value) } else { None }
        })
    }

    fn parse(value: &str) -> Option<Self> {
        let (browser, process) = value.split_once('.')?;
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if browser.len() != 32 || process.len() != 16 || !is_hex(browser) || !is_hex(process) {
            return None;
        }
        let browser = BrowserId(u128::from_str_radix(browser, 16).ok()?);
        Some(Self { browser, process: u64::from_str_radix(process, 16).ok()? })
    }

    /// The value of `Set-Cookie`. There is no path in it: the browser takes that of the WebSocket's own URL, which
    /// a proxy may have made longer than it is here. Nor is there an age: with the browser's session it ends.
    pub fn set(&self, site: SameSite, is_secure: bool) -> String {
        let mut text = format!("{COOKIE}={self}; HttpOnly");
        text.push_str(match (site, is_secure) {
            (SameSite::None, true) => "; SameSite=None; Secure; Partitioned",
            (SameSite::Lax, true) => "; SameSite=Lax; Secure",
            // Without TLS no browser takes the other.
            (_, false) => "; SameSite=Lax",
        });
        text
    }
}

impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}.{:016x}", self.browser.0, self.process)
    }
}

/// To pages of which sites the cookie belongs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SameSite {
    /// Pages of the server's own site, on any port and sub-domain.
    Lax,
    /// Any page that embeds it, each site with a cookie of its own (`Partitioned`).
    None,
}

/// How a channel is resumed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// What is not known to have arrived is sent again: nothing is lost, and some may come twice.
    AtLeastOnce,
    /// What has been sent is not sent again: nothing comes twice, and what may be lost is told.
    AtMostOnce,
    /// Not at all.
    Off,
}

/// Which channels are resumed how.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Modes(Vec<(String, Mode)>);

impl Modes {
    /// Patterns with `*` for any characters; the first that fits counts, and without one it is [`Mode::AtLeastOnce`].
    pub fn new(patterns: Vec<(String, Mode)>) -> Self {
        Self(patterns)
    }

    /// That of a channel.
    pub fn of(&self, channel: &ChannelName) -> Mode {
        let found = self.0.iter().find(|(pattern, _)| fits(pattern, channel.as_str()));
        found.map_or(Mode::AtLeastOnce, |(_, mode)| *mode)
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether an event of the node bus, as its text, is one of clients': those are for who is there.
pub fn is_client_event(text: &str) -> bool {
    text.starts_with(r#"{"event":"client-"#)
}

/// Tells a channel's subscriber that there may have been events between these times, in milliseconds of the
/// Unix epoch; `None`: from when on is not known.
pub fn gap(channel: &str, since: Option<u64>, until: u64) -> String {
    let since = since.map_or_else(|| "null".to_owned(), |since| since.to_string());
    let data = format!(r#"{{"since":{since},"until":{until}}}"#);
    let mut text = String::with_capacity(pusher::channel_event_bytes(channel, GAP_EVENT, &data));
    pusher::push_channel_event(&mut text, channel, GAP_EVENT, &data);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others_and_read_as_it_was_written() {
        let cookie = Cookie { browser: BrowserId(0x1234 << 100), process: 7 };
        let set = cookie.set(SameSite::Lax, false);
        let value = set.split(';').next().unwrap();
        assert_eq!(Cookie::find(&format!("a=b; {value}; c=d")), Some(cookie));
        assert_eq!(Cookie::find(value), Some(cookie));
        for header in ["", "echo_resume", "echo_resume=", "echo_resume=12.34", "xecho_resume=1", &format!("x{value}")] {
            assert_eq!(Cookie::find(header), None, "{header}");
        }
        let signed = value.replacen("=0", "=+", 1);
        assert_eq!(Cookie::find(&signed), None);
    }

    #[test]
    fn the_cookie_is_for_this_server_alone() {
        let cookie = Cookie { browser: BrowserId(1), process: 2 };
        let value = "echo_resume=00000000000000000000000000000001.0000000000000002; HttpOnly; SameSite=";
        assert_eq!(cookie.set(SameSite::Lax, false), format!("{value}Lax"));
        assert_eq!(cookie.set(SameSite::Lax, true), format!("{value}Lax; Secure"));
        assert_eq!(cookie.set(SameSite::None, true), format!("{value}None; Secure; Partitioned"));
        assert_eq!(cookie.set(SameSite::None, false), format!("{value}Lax"));
    }

    #[test]
    fn the_first_pattern_that_fits_counts() {
        let modes = Modes::new(vec![
            ("orders.*".into(), Mode::AtMostOnce),
            ("*.cursor".into(), Mode::Off),
            ("private-a*b*c".into(), Mode::Off),
            ("exact".into(), Mode::Off),
        ]);
        for (name, mode) in [
            ("orders.1", Mode::AtMostOnce),
            ("orders.cursor", Mode::AtMostOnce),
            ("x.cursor", Mode::Off),
            ("x.cursors", Mode::AtLeastOnce),
            ("private-abc", Mode::Off),
            ("private-a1b2b3c", Mode::Off),
            ("private-acb", Mode::AtLeastOnce),
            ("private-ac", Mode::AtLeastOnce),
            ("exact", Mode::Off),
            ("exactly", Mode::AtLeastOnce),
            ("inexact", Mode::AtLeastOnce),
        ] {
            assert_eq!(modes.of(&ChannelName::published(name)), mode, "{name}");
        }
        assert!(!fits("aba*aba", "aba"), "both ends want letters of their own");
    }

    #[test]
    fn a_gap_is_an_ordinary_event() {
        assert_eq!(
            gap("a\"b", None, 5),
            r#"{"event":"echo-server:gap","channel":"a\"b","data":"{\"since\":null,\"until\":5}"}"#
        );
    }
}
