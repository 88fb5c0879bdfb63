//! Which apps an event of Redis is for: those with the key prefix under which it was published, or,
//! while nobody has said a prefix for an app, every such app that no other prefix speaks for.

use tokio::sync::watch;

use crate::config::Config;
use crate::inbox::AppIndex;
use crate::protocol::prefix::{self, Prefix};

/// Apps that hear the same events.
#[derive(Debug)]
pub(super) struct Audience {
    pub(super) apps: Vec<AppIndex>,
    pub(super) prefix: Prefix,
    pub(super) known_prefix: watch::Sender<Option<String>>,
}

/// All apps.
#[derive(Debug)]
pub struct Audiences {
    /// Those with a configured prefix; the longest first, so that of two that fit the one is taken that says more.
    configured: Vec<(String, Audience)>,
    /// Those whose prefix is to be found out.
    others: Option<Audience>,
}

impl Audiences {
    /// Of the configuration's apps, but for those that have been removed.
    pub fn configured(config: &Config) -> (Self, Vec<watch::Receiver<Option<String>>>) {
        let apps = config.apps.iter().enumerate().filter(|(_, app)| !app.is_removed);
        let own = apps.map(|(index, app)| (AppIndex(index as u16), app.key_prefix.as_deref()));
        Self::new(own, config.redis.key_prefix.as_deref())
    }

    /// Each app comes with its own prefix, where it has one; `shared` is the prefix of the others,
    /// where it is configured. The receivers, one for each app, always have [`Prefix::known`].
    pub fn new<'a>(
        apps: impl IntoIterator<Item = (AppIndex, Option<&'a str>)>,
        shared: Option<&str>,
    ) -> (Self, Vec<watch::Receiver<Option<String>>>) {
        let mut all = Self { configured: Vec::new(), others: None };
        let mut receivers = Vec::new();
        for (app, own) in apps {
            let audience = all.with(own.or(shared));
            audience.apps.push(app);
            receivers.push(audience.known_prefix.subscribe());
        }
        all.configured.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        (all, receivers)
    }

    /// Takes the place of others, with what they have found out about the prefix.
    pub(super) fn follow(&mut self, before: Self) {
        if let (Some(own), Some(before)) = (&mut self.others, before.others) {
            own.prefix = before.prefix;
            own.known_prefix.send_replace(own.prefix.known().map(str::to_owned));
        }
    }

    fn with(&mut self, prefix: Option<&str>) -> &mut Audience {
        let new = |prefix: Prefix| {
            let known_prefix = watch::Sender::new(prefix.known().map(str::to_owned));
            Audience { apps: Vec::new(), prefix, known_prefix }
        };
        let Some(prefix) = prefix else {
            return self.others.get_or_insert_with(|| new(Prefix::recognise()));
        };
        let index = self.configured.iter().position(|(known, _)| known == prefix).unwrap_or_else(|| {
            self.configured.push((prefix.to_owned(), new(Prefix::configured(prefix.to_owned()))));
            self.configured.len() - 1
        });
        &mut self.configured[index].1
    }

    /// Who hears what is published under this name.
    pub(super) fn of(&mut self, name: &str) -> Option<&mut Audience> {
        let configured = self.configured.iter_mut().find(|(prefix, _)| name.starts_with(prefix.as_str()));
        configured.map(|(_, audience)| audience).or(self.others.as_mut())
    }

    /// What all names begin with that may be for somebody.
    pub fn prefix(&self) -> &str {
        let mut prefixes = self.configured.iter().map(|(prefix, _)| prefix.as_str());
        match (&self.others, prefixes.next()) {
            (None, Some(first)) => prefixes.fold(first, common),
            _ => "",
        }
    }

    /// The pattern for `PSUBSCRIBE` that matches them.
    pub fn pattern(&self) -> String {
        prefix::pattern(self.prefix())
    }
}

/// What both begin with.
fn common<'a>(one: &'a str, other: &str) -> &'a str {
    let differs = one.char_indices().zip(other.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
    &one[..differs.unwrap_or(one.len().min(other.len()))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audiences(own: &[Option<&str>], shared: Option<&str>) -> Audiences {
        let apps = own.iter().enumerate().map(|(index, prefix)| (AppIndex(index as u16), *prefix));
        Audiences::new(apps, shared).0
    }

    fn apps(audiences: &mut Audiences, name: &str) -> Vec<u16> {
        audiences.of(name).map(|audience| audience.apps.iter().map(|app| app.0).collect()).unwrap_or_default()
    }

    #[test]
    fn an_app_with_a_prefix_hears_what_is_under_it_and_the_others_the_rest() {
        let mut some = audiences(&[None, Some("a_"), Some("a_b_"), None, Some("a_")], None);
        assert_eq!(apps(&mut some, "orders"), [0, 3]);
        assert_eq!(apps(&mut some, "a_orders"), [1, 4]);
        assert_eq!(apps(&mut some, "a_b_orders"), [2]);
        assert_eq!(some.pattern(), "*");
        let mut all = audiences(&[Some("shop_a_"), Some("shop_bé_")], None);
        assert_eq!(apps(&mut all, "orders"), [0; 0]);
        assert_eq!(apps(&mut all, "shop_bé_orders"), [1]);
        assert_eq!(all.pattern(), "shop_*");
    }

    #[test]
    fn the_shared_prefix_is_that_of_those_without_one() {
        let mut all = audiences(&[None, Some("b_"), Some("a_"), Some("")], Some("a_"));
        assert_eq!(apps(&mut all, "a_orders"), [0, 2]);
        assert_eq!(apps(&mut all, "b_orders"), [1]);
        assert_eq!(apps(&mut all, "orders"), [3]);
        assert_eq!(audiences(&[None], Some("a*")).pattern(), "a\\**");
    }

    #[test]
    fn what_was_found_out_is_kept_when_apps_come_and_go() {
        let mut before = audiences(&[None, Some("b_")], None);
        let others = before.others.as_mut().unwrap();
        others.prefix.route("shop_database_orders", true);
        assert_eq!(others.prefix.known(), Some("shop_database_"));
        // The first app has gone, and another one without a prefix has come.
        let (mut after, known) = Audiences::new([(AppIndex(1), Some("b_")), (AppIndex(2), None)], None);
        after.follow(before);
        assert_eq!(known[1].borrow().as_deref(), Some("shop_database_"));
        assert_eq!((apps(&mut after, "orders"), apps(&mut after, "b_orders")), (vec![2], vec![1]));
    }

    #[test]
    fn what_two_texts_begin_with() {
        for (one, other, expected) in [
            ("abc", "abd", "ab"),
            ("ab", "abc", "ab"),
            ("abc", "ab", "ab"),
            ("", "a", ""),
            ("aé", "aè", "a"),
            ("a", "b", ""),
        ] {
            assert_eq!(common(one, other), expected);
        }
    }
}
