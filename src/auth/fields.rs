//! The fields of a gateway request, read so that PHP cannot read them differently.
//!
//! What the gateway signs must be what Laravel has checked. PHP takes the last of two fields
//! with one name, turns `channel.name`, `channel name` and `channel[name` into `channel_name`,
//! and cuts names at a NUL; each of these could make Laravel check one channel while another
//! is signed. So look-alikes are refused, and the body is written anew.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// How many fields a request may have.
const FIELDS_MAX: usize = 100;

/// What an auth request says.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Fields {
    /// Not in a request that is about a user.
    pub channel_name: Option<String>,
    pub socket_id: String,
    /// All others (`auth.params`), in their order.
    pub others: Vec<(String, String)>,
}

/// Why a body is no auth request; a sentence for the browser.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum FieldsError {
    #[error("The request needs one {0}.")]
    Missing(&'static str),
    #[error(
        "The request has {0} more than once, or in a spelling that PHP takes for it; it must stand there exactly once."
    )]
    Ambiguous(&'static str),
    #[error("The request has more than {FIELDS_MAX} fields.")]
    TooMany,
    #[error(
        "The JSON body must be one object whose values are texts, numbers or booleans; line {0} column {1} is not so."
    )]
    Json(usize, usize),
}

impl Fields {
    /// Reads `application/x-www-form-urlencoded`.
    pub fn from_form(body: &[u8]) -> Result<Self, FieldsError> {
        Self::from_pairs(form_urlencoded::parse(body).into_owned().take(FIELDS_MAX + 1).collect())
    }

    /// Reads a flat JSON object.
    pub fn from_json(body: &[u8]) -> Result<Self, FieldsError> {
        let Pairs(pairs) = serde_json::from_slice(body)
            // Where, and not what: the text could be a token, and this goes to the log.
            .map_err(|error| FieldsError::Json(error.line(), error.column()))?;
        Self::from_pairs(pairs)
    }

    fn from_pairs(pairs: Vec<(String, String)>) -> Result<Self, FieldsError> {
        if pairs.len() > FIELDS_MAX {
            return Err(FieldsError::TooMany);
        }
        let mut channel_name = None;
        let mut socket_id = None;
        let mut others = Vec::new();
        for (name, value) in pairs {
            let (known, place) = match known(&name) {
                None => {
                    others.push((name, value));
                    continue;
                }
                Some(CHANNEL_NAME) => (CHANNEL_NAME, &mut channel_name),
                Some(SOCKET_ID) => (SOCKET_ID, &mut socket_id),
                // `_method` would turn the POST into something else.
                Some(_) => continue,
            };
            if name != known || place.replace(value).is_some() {
                return Err(FieldsError::Ambiguous(known));
            }
        }
        Ok(Self { channel_name, socket_id: socket_id.ok_or(FieldsError::Missing(SOCKET_ID))?, others })
    }

    /// The channel, which a request about a channel must name.
    pub fn channel_name(&self) -> Result<&str, FieldsError> {
        self.channel_name.as_deref().ok_or(FieldsError::Missing(CHANNEL_NAME))
    }
}

/// The fields of a query that go on to Laravel: all that PHP does not take for one of ours.
pub(crate) fn query(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .take(FIELDS_MAX)
        .filter(|(name, _)| known(name).is_none())
        .collect()
}

const CHANNEL_NAME: &str = "channel_name";
const SOCKET_ID: &str = "socket_id";

/// The field of ours that PHP would take this name for.
fn known(name: &str) -> Option<&'static str> {
    let name = name.split('\0').next().unwrap_or_default().trim_start_matches(' ');
    let plain = |text: &str| text.replace([' ', '.', '['], "_");
    let base = plain(name.split('[').next().unwrap_or_default());
    let whole = plain(name);
    [CHANNEL_NAME, SOCKET_ID, "_method"].into_iter().find(|ours| base == *ours || whole == *ours)
}

/// A JSON object's entries, two with one name included.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            // As PHP would see the value of a form's field.
            let value = match value {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(true) => "1".to_owned(),
                Value::Bool(false) => "0".to_owned(),
                Value::Null => String::new(),
                Value::Array(_) | Value::Object(_) => return Err(de::Error::custom("a value is a list or an object")),
            };
            pairs.push((name, value));
        }
        Ok(Pairs(pairs))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn form(body: &str) -> Result<Fields, FieldsError> {
        Fields::from_form(body.as_bytes())
    }

    fn json(body: &str) -> Result<Fields, FieldsError> {
        Fields::from_json(body.as_bytes())
    }

    #[test]
    fn a_form_as_pusher_js_sends_it() {
        let fields = form("socket_id=123.456&channel_name=private-a%2Fb&team=7&x=%C3%A4").unwrap();
        assert_eq!((fields.socket_id.as_str(), fields.channel_name()), ("123.456", Ok("private-a/b")));
        assert_eq!(fields.others, [("team".to_owned(), "7".to_owned()), ("x".to_owned(), "\u{e4}".to_owned())]);
    }

    #[test]
    fn json_as_an_authorizer_with_axios_sends_it() {
        let fields =
            json(r#"{"socket_id":"123.456","channel_name":"private-a","n":7,"t":true,"f":false,"z":null}"#).unwrap();
        assert_eq!((fields.socket_id.as_str(), fields.channel_name()), ("123.456", Ok("private-a")));
        let others: Vec<_> = fields.others.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(others, [("n", "7"), ("t", "1"), ("f", "0"), ("z", "")]);
        for wrong in [r#"{"a":[1]}"#, r#"{"channel_name":["private-a"]}"#, "[]", "true", "", "{", "{} x"] {
            assert!(matches!(json(wrong), Err(FieldsError::Json(..))), "{wrong}");
        }
    }

    #[test]
    fn each_field_stands_there_exactly_once() {
        assert_eq!(form("socket_id=1.2").unwrap().channel_name(), Err(FieldsError::Missing(CHANNEL_NAME)));
        assert_eq!(form("channel_name=private-a"), Err(FieldsError::Missing(SOCKET_ID)));
        for look_alike in [
            "channel_name",
            "channel_name[]",
            "channel_name[0]",
            "channel_name%5B%5D",
            "channel_name[",
            "channel.name",
            "channel%20name",
            "channel+name",
            "channel[name",
            "+channel_name",
            "%20%20channel.name",
            "channel_name%00",
            "channel_name%00x",
            "channel%5fname",
            "channel.name[x]",
        ] {
            let first = format!("{look_alike}=private-mine&socket_id=1.2&channel_name=private-theirs");
            let last = format!("socket_id=1.2&channel_name=private-theirs&{look_alike}=private-mine");
            for body in [first, last] {
                assert_eq!(form(&body), Err(FieldsError::Ambiguous(CHANNEL_NAME)), "{body}");
            }
        }
        assert_eq!(form("socket_id=1.2&channel_name=private-a&socket.id=3.4"), Err(FieldsError::Ambiguous(SOCKET_ID)));
        assert_eq!(
            json(r#"{"socket_id":"1.2","channel_name":"private-mine","channel_name":"private-theirs"}"#),
            Err(FieldsError::Ambiguous(CHANNEL_NAME))
        );
        // Alone, an unusual spelling is no field of ours either.
        assert_eq!(form("socket_id=1.2&channel.name=private-a"), Err(FieldsError::Ambiguous(CHANNEL_NAME)));
    }

    #[test]
    fn others_are_kept_unless_they_change_the_method() {
        let fields =
            form("_method=GET&socket_id=1.2&channel_name=private-a&channel_names=1&xchannel_name=2&channel[name]=3");
        let names: Vec<_> = fields.unwrap().others.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["channel_names", "xchannel_name", "channel[name]"]);
        let many = "a=1&".repeat(FIELDS_MAX);
        assert_eq!(form(&format!("{many}socket_id=1.2&channel_name=private-a")), Err(FieldsError::TooMany));
    }

    #[test]
    fn a_query_goes_on_without_our_fields() {
        let kept = query("a=1&channel_name=x&socket_id=y&channel.name=z&channel_name[]=w&_method=PUT&b=%26");
        assert_eq!(kept, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "&".to_owned())]);
    }

    proptest! {
        /// Whatever is put beside the two fields: either it is refused, or it names others.
        #[test]
        fn nothing_beside_them_can_stand_in_for_them(name in "[ ._\\[\\]\0a-z]{0,4}(channel|socket)[ ._\\[\\]\0]{0,2}(name|id)?[ ._\\[\\]\0a-z]{0,3}") {
            let extra: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
            if let Ok(fields) = form(&format!("channel_name=private-a&socket_id=1.2&{extra}=private-b")) {
                prop_assert_eq!(fields.channel_name(), Ok("private-a"));
                for (name, _) in fields.others {
                    let php = php_name(name.as_bytes());
                    prop_assert!(php != b"channel_name" && php != b"socket_id", "{:?}", name);
                }
            }
        }
    }

    /// How PHP names the variable of a field, told from its manual and its source: leading
    /// blanks go, a NUL ends the name, blanks and dots before a bracket become underscores,
    /// and so does a bracket that is never closed.
    fn php_name(name: &[u8]) -> Vec<u8> {
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        let start = name.iter().position(|b| *b != b' ').unwrap_or(name.len());
        let mut out = Vec::new();
        let mut rest = &name[start..];
        while let [byte, tail @ ..] = rest {
            rest = tail;
            match byte {
                b' ' | b'.' => out.push(b'_'),
                b'[' if tail.contains(&b']') => return out,
                b'[' => {
                    out.push(b'_');
                    out.extend_from_slice(tail);
                    return out;
                }
                other => out.push(*other),
            }
        }
        out
    }
}
