//! Why somebody may not join, as one closed list: a word for programs (metrics, the dashboard), a short sentence for
//! browsers in production, and the cure for whoever runs the server.
//!
//! The sentence of a particular refusal, with its path and status, is made where it is refused
//! ([`Refusal`](super::session::Refusal)); it goes to the log, and in dev mode to the browser.

/// The reasons, the most frequent first.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Why {
    /// No signature, cookie or token: nothing says who this is.
    NoCredentials,
    /// Laravel does not know who is asking: 401, or a redirect to its login.
    NotSignedIn,
    /// The callback in routes/channels.php says no, or no channel has this name.
    Forbidden,
    /// There is no such route, or it takes no POST.
    NoRoute,
    /// 419: no CSRF token.
    PageExpired,
    /// 429: Laravel's rate limit.
    TooManyRequests,
    /// 5xx: the callback threw an error, or there is no PHP behind the web server.
    LaravelFailed,
    /// No answer in time.
    LaravelSlow,
    /// No connection to Laravel.
    LaravelUnreachable,
    /// A redirect that is none to a login.
    Redirected,
    /// 200, but no yes: a page, nothing, `false`.
    NotAYes,
    /// A yes to a presence channel without a member.
    NoMember,
    /// The signature is of another secret or for another socket.
    WrongSignature,
    /// `auth` names another app's key, or is none.
    WrongKey,
    /// The page's origin is not allowed, so its cookie does not count.
    OtherOrigin,
    /// A user's own channel, and the connection is not signed in as that user.
    NotThatUser,
    /// No channel can have this name.
    BadName,
    /// A limit of this server.
    Limit,
    /// Too many questions wait for Laravel.
    Busy,
}

impl Why {
    /// All there are, in their order.
    pub const ALL: [Self; 19] = [
        Self::NoCredentials,
        Self::NotSignedIn,
        Self::Forbidden,
        Self::NoRoute,
        Self::PageExpired,
        Self::TooManyRequests,
        Self::LaravelFailed,
        Self::LaravelSlow,
        Self::LaravelUnreachable,
        Self::Redirected,
        Self::NotAYes,
        Self::NoMember,
        Self::WrongSignature,
        Self::WrongKey,
        Self::OtherOrigin,
        Self::NotThatUser,
        Self::BadName,
        Self::Limit,
        Self::Busy,
    ];

    /// What a status alone says.
    pub fn of_status(status: u16) -> Self {
        match status {
            300..=399 => Self::Redirected,
            401 => Self::NotSignedIn,
            404 | 405 => Self::NoRoute,
            400 => Self::BadName,
            413 | 414 | 431 | 4000..=4999 => Self::Limit,
            419 => Self::PageExpired,
            429 => Self::TooManyRequests,
            504 => Self::LaravelSlow,
            500..=599 => Self::LaravelFailed,
            _ => Self::Forbidden,
        }
    }

    /// The word for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoCredentials => "no_credentials",
            Self::NotSignedIn => "not_signed_in",
            Self::Forbidden => "forbidden",
            Self::NoRoute => "no_route",
            Self::PageExpired => "page_expired",
            Self::TooManyRequests => "too_many_requests",
            Self::LaravelFailed => "laravel_failed",
            Self::LaravelSlow => "laravel_slow",
            Self::LaravelUnreachable => "laravel_unreachable",
            Self::Redirected => "redirected",
            Self::NotAYes => "not_a_yes",
            Self::NoMember => "no_member",
            Self::WrongSignature => "wrong_signature",
            Self::WrongKey => "wrong_key",
            Self::OtherOrigin => "other_origin",
            Self::NotThatUser => "not_that_user",
            Self::BadName => "bad_name",
            Self::Limit => "limit",
            Self::Busy => "busy",
        }
    }

    /// What a browser is told in production: enough for a visitor, and nothing of how the server is set up.
    pub fn short(self) -> &'static str {
        match self {
            Self::NoCredentials => "Nothing says who you are: no signature, cookie or token came along",
            Self::NotSignedIn => "You are not signed in, or no longer: sign in and reload the page",
            Self::Forbidden => "You may not join this channel",
            Self::PageExpired => "The page has expired: reload it",
            Self::TooManyRequests => "Too many requests: try again later",
            Self::LaravelSlow | Self::LaravelUnreachable | Self::Busy => {
                "The application cannot be asked at the moment: try again later"
            }
            Self::NoRoute | Self::LaravelFailed | Self::Redirected | Self::NotAYes | Self::NoMember => {
                "The application gave no usable answer; the server's log says why"
            }
            Self::WrongSignature | Self::WrongKey => "The signature is not valid for this channel and connection",
            Self::OtherOrigin => "This page's origin is not allowed",
            Self::NotThatUser => "This channel is for another user",
            Self::BadName => "This channel name is not valid",
            Self::Limit => "A limit of the server is reached",
        }
    }

    /// What whoever runs the server is to do.
    pub fn cure(self) -> &'static str {
        match self {
            Self::NoCredentials => {
                "Sign with Laravel's pusher driver, or let the browser ask this server: Echo's authEndpoint, or one nginx location"
            }
            Self::NotSignedIn => "Sign in again; for bearer tokens give Broadcast::routes() the guard that knows them",
            Self::Forbidden => {
                "See the channel's callback in routes/channels.php, and that the channel has this name there"
            }
            Self::NoRoute => "Register Broadcast::routes(), or correct authEndpoint",
            Self::PageExpired => "Except authEndpoint from CSRF verification, or send the page's CSRF token along",
            Self::TooManyRequests => {
                "Raise the throttle on authEndpoint: all subscriptions come from this server's address"
            }
            Self::LaravelFailed => "Look into storage/logs/laravel.log, and whether PHP is running",
            Self::LaravelSlow => "Find what is slow in Laravel (workers, database), or raise authTimeoutMs",
            Self::LaravelUnreachable => "Start Laravel, or correct authHost: its address as seen from this server",
            Self::Redirected => "Set authHost to the final address, with https where Laravel wants it",
            Self::NotAYes => "authEndpoint must be Laravel's broadcasting route, and no page",
            Self::NoMember => {
                "The callback of a presence channel must return an array with the member's data, and not true"
            }
            Self::WrongSignature => {
                "Use one secret: clients[].secret here, and the one in Laravel's config/broadcasting.php"
            }
            Self::WrongKey => "Use one key: clients[].key here, in Laravel's config/broadcasting.php and in Echo",
            Self::OtherOrigin => "If the page is yours, add its origin to allowedOrigins",
            Self::NotThatUser => "Sign in first (pusher.signin()), as the user whose channel it is",
            Self::BadName => "Use letters, digits and punctuation, without spaces",
            Self::Limit => "Raise the limit that the log names, if this is normal use",
            Self::Busy => "Raise authConcurrency, or give Laravel more workers",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_reason_has_a_word_of_its_own_and_both_sentences() {
        let names: HashSet<_> = Why::ALL.iter().map(|why| why.name()).collect();
        assert_eq!(names.len(), Why::ALL.len());
        for (place, why) in Why::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, place);
            for internal in ["authHost", "authEndpoint", ".json", "secret", "php", "Laravel"] {
                assert!(!why.short().contains(internal), "{why:?}: {}", why.short());
            }
            assert!(!why.cure().is_empty());
        }
    }
}
