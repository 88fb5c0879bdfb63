//! The prefix that Laravel puts before every Redis key, and so before channel names.
//!
//! `talent2income_database_private-user.2` is `private-user.2` of the application with the
//! prefix `talent2income_database_`. Where `keyPrefix` is configured it is exact. Otherwise
//! Laravel's own default form is recognised, until a second application shows up on the same
//! Redis. Nothing here subscribes or logs; begin with [`Prefix::route`].

use super::channel;

/// What is known of the prefix.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Prefix(State);

#[derive(Clone, Debug, Eq, PartialEq)]
enum State {
    Configured(String),
    /// No event of Laravel's has been seen.
    Unknown,
    /// All events of Laravel's had this prefix, which may be empty.
    Recognised(String),
    /// More than one application, for good: which of them is ours only `keyPrefix` can say.
    Several,
}

/// Under which names an event is delivered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Route<'a> {
    /// The name without the prefix.
    pub bare: Option<&'a str>,
    /// The name as published.
    pub as_published: Option<&'a str>,
    /// For the log.
    pub news: Option<News>,
}

/// What the log shall say. Each is told once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum News {
    /// Laravel's first event had this prefix; empty: none.
    FirstPrefix(String),
    /// Another one came: bare names are not delivered to any more.
    SecondPrefix {
        /// The one that was there before; may be empty.
        first: String,
        /// The new one; may be empty.
        second: String,
    },
}

impl Prefix {
    /// Exactly this prefix, which may be empty. Other names belong to somebody else.
    pub fn configured(prefix: String) -> Self {
        Self(State::Configured(prefix))
    }

    /// Find out.
    pub fn recognise() -> Self {
        Self(State::Unknown)
    }

    /// The prefix, if it is configured, or the only one recognised so far; may be empty.
    pub fn known(&self) -> Option<&str> {
        match &self.0 {
            State::Configured(prefix) | State::Recognised(prefix) => Some(prefix),
            State::Unknown | State::Several => None,
        }
    }

    /// Under which names an event goes out that was published as `name`, and what it teaches.
    ///
    /// `from_laravel`: the payload has Laravel's full shape. Only such payloads teach anything:
    /// what a person publishes by hand to try something neither establishes a prefix nor is
    /// it taken for a second application. A name without a prefix then means an application
    /// whose prefix is empty, which is an application like any other: beside one with a prefix
    /// it makes two.
    pub fn route<'a>(&mut self, name: &'a str, from_laravel: bool) -> Route<'a> {
        if let State::Configured(prefix) = &self.0 {
            let bare = name.strip_prefix(prefix.as_str()).filter(|bare| !bare.is_empty());
            return Route { bare, ..Route::default() };
        }
        let (prefix, bare) = split(name);
        let news = if from_laravel { self.learn(prefix) } else { None };
        let ours = !prefix.is_empty() && self.known() == Some(prefix);
        Route { bare: ours.then_some(bare), as_published: Some(name), news }
    }

    fn learn(&mut self, prefix: &str) -> Option<News> {
        match &self.0 {
            State::Unknown => {
                self.0 = State::Recognised(prefix.to_owned());
                Some(News::FirstPrefix(prefix.to_owned()))
            }
            State::Recognised(first) if first != prefix => {
                let news = News::SecondPrefix { first: first.clone(), second: prefix.to_owned() };
                self.0 = State::Several;
                Some(news)
            }
            State::Configured(_) | State::Recognised(_) | State::Several => None,
        }
    }
}

impl<'a> Route<'a> {
    /// The names to deliver under, without repetition.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.bare.into_iter().chain(self.as_published)
    }
}

/// The pattern for `PSUBSCRIBE` that matches all names with this prefix, and none without.
/// (The old server did not escape: its `a*b_` heard `axxb_orders` too.)
pub fn pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for character in prefix.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('*');
    pattern
}

/// Splits a name into Laravel's default prefix and the channel; the prefix is empty where the
/// name has no such form.
///
/// The form is `<slug>_database_`, in newer applications `<slug>-database-`, where the slug is
/// made of APP_NAME: lower-case letters and digits, with single separators. An APP_NAME
/// without a letter that Laravel can write in ASCII gives an empty slug.
///
/// The form can be ambiguous. `database` is looked for from the left: a channel that is itself
/// called `my_database_orders` keeps its name behind a prefix, but in an application with an
/// empty prefix it looks like channel `orders`. And an application called "My Database App"
/// looks like prefix `my_database_` with channels `app_database_…`. Both need `keyPrefix`;
/// until then events still arrive under their published names. What must not happen is that
/// a guarded channel becomes a public one: so what contains `private-` or `presence-` is no
/// prefix (`private-my_database_orders` is not channel `orders`).
fn split(name: &str) -> (&str, &str) {
    let bytes = name.as_bytes();
    let is_separator = |at: usize| matches!(bytes.get(at), Some(b'_' | b'-'));
    let leftmost = name.match_indices("database").find(|(at, word)| {
        let end = at + word.len();
        at.checked_sub(1).is_some_and(is_separator) && is_separator(end) && end + 1 < bytes.len()
    });
    let Some((at, word)) = leftmost else { return ("", name) };
    let (prefix, bare) = name.split_at(at + word.len() + 1);
    if is_slug(&name[..at - 1]) && channel::access(prefix) == channel::Access::Public {
        (prefix, bare)
    } else {
        ("", name)
    }
}

fn is_slug(text: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.is_empty() || text.split(['_', '-']).all(is_word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: &str = "talent2income_database_";

    fn both<'a>(bare: &'a str, as_published: &'a str) -> Route<'a> {
        Route { bare: Some(bare), as_published: Some(as_published), news: None }
    }

    fn published(name: &str) -> Route<'_> {
        Route { as_published: Some(name), ..Route::default() }
    }

    fn first(prefix: &str) -> Option<News> {
        Some(News::FirstPrefix(prefix.to_owned()))
    }

    fn second(first: &str, second: &str) -> Option<News> {
        Some(News::SecondPrefix { first: first.to_owned(), second: second.to_owned() })
    }

    #[test]
    fn configured_is_exact() {
        let mut prefix = Prefix::configured("a_database_".to_owned());
        let bare = |bare| Route { bare: Some(bare), ..Route::default() };
        assert_eq!(prefix.route("a_database_private-user.1", true), bare("private-user.1"));
        assert_eq!(prefix.route("a_database_a_database_x", true), bare("a_database_x"));
        for other in ["b_database_private-user.1", "orders", "a_database_", "a_database", "A_database_x", ""] {
            assert_eq!(prefix.route(other, true), Route::default(), "{other}");
        }
        assert_eq!(prefix.known(), Some("a_database_"));

        let mut prefix = Prefix::configured(String::new());
        assert_eq!(prefix.route("a_database_x", true), bare("a_database_x"));
        assert_eq!(prefix.known(), Some(""));
    }

    #[test]
    fn recognised() {
        let mut prefix = Prefix::recognise();
        assert_eq!(prefix.known(), None);
        let name = "talent2income_database_private-user.2";
        assert_eq!(prefix.route(name, true), Route { news: first(OURS), ..both("private-user.2", name) });
        assert_eq!(prefix.known(), Some(OURS));
        assert_eq!(prefix.route(name, true), both("private-user.2", name), "told once");
        assert_eq!(prefix.route(name, false), both("private-user.2", name));
        assert_eq!(prefix.route("orders", false), published("orders"));
        assert_eq!(prefix.known(), Some(OURS));
    }

    #[test]
    fn a_second_application_ends_bare_names_for_good() {
        let (a, b, c) = ("a_database_orders", "b-database-orders", "c_database_orders");
        let mut prefix = Prefix::recognise();
        prefix.route(a, true);
        assert_eq!(prefix.route(b, true), Route { news: second("a_database_", "b-database-"), ..published(b) });
        for name in [a, b, c, "orders"] {
            assert_eq!(prefix.route(name, true), published(name));
            assert_eq!(prefix.route(name, false), published(name));
        }
        assert_eq!(prefix.known(), None);
    }

    #[test]
    fn an_empty_prefix_is_an_application_too() {
        let a = "a_database_orders";
        let mut prefix = Prefix::recognise();
        assert_eq!(prefix.route("orders", true), Route { news: first(""), ..published("orders") });
        assert_eq!(prefix.known(), Some(""));
        assert_eq!(prefix.route("private-user.1", true), published("private-user.1"));
        assert_eq!(prefix.route(a, true), Route { news: second("", "a_database_"), ..published(a) });
        assert_eq!(prefix.known(), None);

        let mut prefix = Prefix::recognise();
        prefix.route(a, true);
        assert_eq!(prefix.route("orders", true), Route { news: second("a_database_", ""), ..published("orders") });
        assert_eq!(prefix.route(a, true), published(a));
    }

    #[test]
    fn what_hands_publish_teaches_nothing() {
        let (a, b) = ("a_database_orders", "b_database_orders");
        let mut prefix = Prefix::recognise();
        for name in ["orders", a, b] {
            assert_eq!(prefix.route(name, false), published(name));
        }
        assert_eq!(prefix, Prefix::recognise());
        prefix.route(a, true);
        assert_eq!(prefix.route(b, false), published(b), "another application's prefix");
        assert_eq!(prefix.route("orders", false), published("orders"));
        assert_eq!(prefix.route(a, true), both("orders", a));
    }

    #[test]
    fn the_default_form() {
        for (name, expected) in [
            ("laravel_database_orders", "laravel_database_"),
            ("laravel-database-orders", "laravel-database-"),
            ("my_shop_2_database_orders", "my_shop_2_database_"),
            ("my-shop-database-private-user.1", "my-shop-database-"),
            ("database_database_orders", "database_database_"),
            ("_database_orders", "_database_"),
            ("-database-orders", "-database-"),
            ("a_database_my_database_orders", "a_database_"),
            ("my_database_app_database_orders", "my_database_"),
            ("my_database_orders", "my_database_"),
            ("mydatabase_a_database_x", "mydatabase_a_database_"),
            ("a_database_ü", "a_database_"),
        ] {
            let bare = name.strip_prefix(expected).unwrap();
            assert_eq!(split(name), (expected, bare));
        }
        for name in [
            "",
            "orders",
            "database",
            "database_orders",
            "a_database_",
            "a_database",
            "adatabase_orders",
            "a_databases_orders",
            "a__database_orders",
            "_a_database_orders",
            "App_database_orders",
            "a.b_database_orders",
            "private-my_database_orders",
            "private-database_orders",
            "presence-my-database-orders",
            "private-clinic-database-orders",
            "my-private-clinic-database-orders",
        ] {
            assert_eq!(split(name), ("", name));
        }
    }

    #[test]
    fn patterns_are_literal() {
        assert_eq!(pattern(""), "*");
        assert_eq!(pattern(OURS), "talent2income_database_*");
        assert_eq!(pattern("a*b?[c]\\-^"), "a\\*b\\?\\[c\\]\\\\-^*");
    }

    proptest! {
        #[test]
        fn a_bare_name_is_as_guarded_as_the_published_one(
            parts in prop::collection::vec(
                prop::sample::select(vec!["private", "presence", "-", "_", "database", "a", "1", ".", "private-", "_database_"]),
                0..9,
            )
        ) {
            let name = parts.concat();
            let (prefix, bare) = split(&name);
            prop_assert_eq!([prefix, bare].concat(), &*name);
            prop_assert_eq!(channel::access(bare), channel::access(&name));
            prop_assert!(name.is_empty() || !bare.is_empty());
        }

        #[test]
        fn the_form_is_found_before_any_channel(
            slug in "([a-z0-9]{1,4}[_-]){0,2}[a-z0-9]{1,4}",
            separator in "[_-]",
            channel in "[ -~]{1,20}",
        ) {
            prop_assume!(!slug.contains("database") && !slug.contains("private-") && !slug.contains("presence-"));
            let prefix = format!("{slug}{separator}database{separator}");
            let name = format!("{prefix}{channel}");
            prop_assert_eq!(split(&name), (&*prefix, &*channel));
        }

        /// Whatever comes in whatever order: two applications' events never meet under a bare name.
        #[test]
        fn no_bare_name_hears_two_applications(
            events in prop::collection::vec(
                (prop::sample::select(vec!["", "a_database_", "b_database_", "b-database-"]), any::<bool>()),
                0..12,
            )
        ) {
            let mut prefix = Prefix::recognise();
            let mut heard = std::collections::HashSet::new();
            let mut news = Vec::new();
            for (application, from_laravel) in events {
                let name = format!("{application}orders");
                let route = prefix.route(&name, from_laravel);
                prop_assert_eq!(route.as_published, Some(&*name));
                if route.bare.is_some() {
                    prop_assert_eq!(route.bare, Some("orders"));
                    heard.insert(application);
                }
                news.extend(route.news);
            }
            prop_assert!(heard.len() <= 1, "{:?}", heard);
            prop_assert!(news.len() <= 2);
        }
    }
}
