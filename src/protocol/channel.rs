//! Channel names: their grammar, and what a name says about who may join.

use std::fmt;
use std::sync::Arc;

/// The longest channel name that a client may subscribe to, in bytes (protocol section 3).
pub const NAME_BYTES_MAX: usize = 200;

/// What begins the name of a user's own channel, which only the connections may join that are
/// signed in as that user. The rest is the user id.
pub const USER_PREFIX: &str = "#server-to-user-";

/// A channel's name. One that exists is valid; a clone shares the text.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ChannelName(Arc<str>);

/// Why a text is no channel name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("a channel name must not be empty")]
    Empty,
    /// Of so many bytes, and fewer may be: [`NAME_BYTES_MAX`], or what an app's limits say.
    #[error("the channel name has {0} bytes; {1} are allowed")]
    TooLong(usize, usize),
    /// A byte that Laravel would trim, or that no channel of Laravel's has.
    #[error(
        "the channel name contains {0:?}; letters, digits and punctuation without spaces, quotes and backslashes are allowed"
    )]
    Character(char),
    /// `#` begins the server's own channels, [`USER_PREFIX`] alone is known. Elsewhere in a name that
    /// prefix is refused, too: behind a Redis prefix a user's channel must not become a public one.
    #[error("channel names that begin with # are reserved; a user's own channel is {USER_PREFIX} and the user id")]
    Reserved,
}

/// Who may join a channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Anybody.
    Public,
    /// Whom Laravel lets in.
    Private,
    /// Whom Laravel lets in, as a member with a user id.
    Presence,
    /// Connections that are signed in as the user whose channel it is.
    User,
}

impl ChannelName {
    /// Checks a name that a client sent.
    ///
    /// Visible ASCII without quote, backslash and (at the start) `#`: a superset of Pusher's
    /// `A-Za-z0-9_-=@,.;`, since applications of the old server use `:` and the like. Spaces,
    /// NULs and other letters are refused because Laravel would trim or fold them and answer
    /// for another channel than the one joined.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong(text.len(), NAME_BYTES_MAX));
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '"' | '\\')) {
            return Err(NameError::Character(bad));
        }
        let is_users = text.strip_prefix(USER_PREFIX).is_some_and(|id| !id.is_empty());
        if text.starts_with('#') != is_users || text.rfind(USER_PREFIX).is_some_and(|at| at > 0) {
            return Err(NameError::Reserved);
        }
        Ok(Self(text.into()))
    }

    /// Takes a name that Redis or the HTTP API gave, as it is: a name that no client could
    /// subscribe to has no subscribers.
    pub fn published(text: &str) -> Self {
        Self(text.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Who may join, see [`access`].
    pub fn access(&self) -> Access {
        access(&self.0)
    }

    /// `private-encrypted-…`: the server cannot read it, and client events are refused.
    pub fn is_encrypted(&self) -> bool {
        self.0.contains("private-encrypted-")
    }

    /// A cache channel: whoever subscribes is sent the channel's last event. Only how the name
    /// begins counts, so an event under a name with a Redis prefix is not kept a second time.
    pub fn is_cache(&self) -> bool {
        is_cache(&self.0)
    }

    /// Whose own channel this is, for [`Access::User`].
    pub fn user_id(&self) -> Option<&str> {
        self.0.strip_prefix(USER_PREFIX)
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Who may join the channel of this name.
///
/// A channel is guarded wherever `private-` or `presence-` stands in its name, not only at the
/// start: with a Redis prefix that nobody told the server about, an event of `private-user.2`
/// arrives as `some_prefix_private-user.2`, and that must never be public by accident. The
/// leftmost of the two decides which it is.
pub fn access(name: &str) -> Access {
    if name.starts_with(USER_PREFIX) {
        return Access::User;
    }
    match (name.find("private-"), name.find("presence-")) {
        (None, None) => Access::Public,
        (Some(_), None) => Access::Private,
        (None, Some(_)) => Access::Presence,
        (Some(private), Some(presence)) if private < presence => Access::Private,
        (Some(_), Some(_)) => Access::Presence,
    }
}

/// See [`ChannelName::is_cache`] (protocol section 3, prefixes).
pub fn is_cache(name: &str) -> bool {
    let rest = match name.strip_prefix("private-") {
        Some(rest) => rest.strip_prefix("encrypted-").unwrap_or(rest),
        None => name.strip_prefix("presence-").unwrap_or(name),
    };
    rest.starts_with("cache-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        for good in [
            "a",
            "orders",
            "private-App.Models.User.1",
            "presence-room:1/2",
            "private-conversation.1-2",
            "a=@,.;_-|{}*",
        ] {
            assert_eq!(ChannelName::parse(good).map(|n| n.to_string()), Ok(good.to_owned()));
        }
        assert_eq!(ChannelName::parse(""), Err(NameError::Empty));
        assert_eq!(ChannelName::parse(&"x".repeat(201)), Err(NameError::TooLong(201, NAME_BYTES_MAX)));
        assert!(ChannelName::parse(&"x".repeat(200)).is_ok());
        for reserved in
            ["#x", "#", "#server-to-user-", "a_database_#server-to-user-7", "#server-to-user-#server-to-user-7"]
        {
            assert_eq!(ChannelName::parse(reserved), Err(NameError::Reserved), "{reserved}");
        }
        assert_eq!(ChannelName::parse("#server-to-user-7").unwrap().user_id(), Some("7"));
        for (bad, character) in [
            ("private-user.1 ", ' '),
            (" a", ' '),
            ("a\0", '\0'),
            ("a\nb", '\n'),
            ("a\"b", '"'),
            ("a\\b", '\\'),
            ("pr\u{0456}vate-a", '\u{0456}'),
            ("a\u{7f}", '\u{7f}'),
        ] {
            assert_eq!(ChannelName::parse(bad), Err(NameError::Character(character)), "{bad:?}");
        }
    }

    #[test]
    fn guarded_wherever_the_word_stands() {
        for (name, expected) in [
            ("orders", Access::Public),
            ("privateer", Access::Public),
            ("private-user.1", Access::Private),
            ("private-encrypted-x", Access::Private),
            ("presence-online-users", Access::Presence),
            ("talent2income_database_private-user.2", Access::Private),
            ("talent2income-database-presence-room", Access::Presence),
            ("any:private-x", Access::Private),
            ("private-presence-x", Access::Private),
            ("presence-private-x", Access::Presence),
            ("#server-to-user-private-7", Access::User),
        ] {
            assert_eq!(access(name), expected, "{name}");
        }
    }

    #[test]
    fn cache_channels_by_how_they_begin() {
        for name in ["cache-x", "private-cache-x", "presence-cache-x", "private-encrypted-cache-x"] {
            assert!(is_cache(name), "{name}");
        }
        for name in [
            "cachex",
            "my-cache-x",
            "a_database_cache-x",
            "presence-encrypted-cache-x",
            "encrypted-cache-x",
            "private-x",
        ] {
            assert!(!is_cache(name), "{name}");
        }
    }
}
