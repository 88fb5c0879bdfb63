//! Who a connection is signed in as (protocol sections 2 and 4): the `user_data` of
//! `pusher:signin`. Not who is a member of a channel; that is [`presence`](super::presence).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::presence::{USER_ID_BYTES_MAX, user_id};

/// How many users one user may watch; further ones are left out (protocol section 1, 4302).
pub const WATCHLIST_MAX: usize = 100;

/// A user, as the application has signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    /// The user's id; a number in `user_data` is its decimal text here.
    pub id: Arc<str>,
    /// `user_info`, JSON as the application wrote it; `null` where there is none.
    pub user_info: Arc<str>,
}

/// What `user_data` says.
#[derive(Debug, Eq, PartialEq)]
pub struct UserData {
    /// Who it is.
    pub user: User,
    /// Whose coming and going the user is told of, each once, [`WATCHLIST_MAX`] at the most.
    pub watchlist: Vec<Arc<str>>,
    /// There were more.
    pub is_watchlist_cut: bool,
    /// For `signin_success`: the same with the id as a text, since pusher-js takes no other.
    pub user_data: String,
}

/// Why a `user_data` names nobody.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UserError {
    /// Not an object with an `id`.
    #[error("user_data must be a JSON object with an id")]
    NoId,
    /// `id` is neither a text nor a whole number.
    #[error("the id in user_data must be a non-empty text or a whole number")]
    Id,
    /// More than [`USER_ID_BYTES_MAX`] bytes.
    #[error("the id in user_data has {0} bytes; {USER_ID_BYTES_MAX} are allowed")]
    IdTooLong(usize),
    /// `watchlist` is no list of ids.
    #[error("the watchlist in user_data must be a list of user ids")]
    Watchlist,
}

impl UserData {
    /// Reads `{"id":"1","user_info":{…},"watchlist":["2"]}`; the last two may be absent.
    ///
    /// # Errors
    /// The text names nobody; the error says why.
    pub fn parse(user_data: &str) -> Result<Self, UserError> {
        #[derive(Deserialize)]
        struct Data<'a> {
            #[serde(borrow)]
            id: &'a RawValue,
            #[serde(borrow, default)]
            user_info: Option<&'a RawValue>,
            #[serde(borrow, default)]
            watchlist: Option<Vec<&'a RawValue>>,
        }
        let data: Data = serde_json::from_str(user_data).map_err(|_| UserError::NoId)?;
        let id = user_id(data.id).ok_or(UserError::Id)?;
        if id.len() > USER_ID_BYTES_MAX {
            return Err(UserError::IdTooLong(id.len()));
        }
        let mut watchlist = Vec::new();
        for watched in data.watchlist.unwrap_or_default() {
            watchlist.push(user_id(watched).filter(|id| id.len() <= USER_ID_BYTES_MAX).ok_or(UserError::Watchlist)?);
        }
        watchlist.sort_unstable();
        watchlist.dedup();
        let is_watchlist_cut = watchlist.len() > WATCHLIST_MAX;
        watchlist.truncate(WATCHLIST_MAX);
        let user_data =
            if data.id.get().starts_with('"') { user_data.to_owned() } else { with_text_id(user_data, &id)? };
        let user = User { id, user_info: data.user_info.map_or("null", RawValue::get).into() };
        Ok(Self { user, watchlist, is_watchlist_cut, user_data })
    }
}

fn with_text_id(user_data: &str, id: &str) -> Result<String, UserError> {
    let mut data: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(user_data).map_err(|_| UserError::NoId)?;
    data.insert("id".into(), id.into());
    Ok(serde_json::Value::Object(data).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_in_every_form() {
        for (data, id, info, said) in [
            (r#"{"id":"7"}"#, "7", "null", r#"{"id":"7"}"#),
            (
                r#"{"id": "é\"", "user_info": {"n": 1.0}}"#,
                "é\"",
                r#"{"n": 1.0}"#,
                r#"{"id": "é\"", "user_info": {"n": 1.0}}"#,
            ),
            (r#"{"id":7,"name":"Ann"}"#, "7", "null", r#"{"id":"7","name":"Ann"}"#),
        ] {
            let data = UserData::parse(data).unwrap();
            assert_eq!((&*data.user.id, &*data.user.user_info, data.user_data.as_str()), (id, info, said));
            assert!(data.watchlist.is_empty() && !data.is_watchlist_cut);
        }
    }

    #[test]
    fn user_data_that_names_nobody() {
        for data in ["", "null", "[]", "{}", r#"{"user_id":"7"}"#, r#"{"id":"7""#] {
            assert_eq!(UserData::parse(data), Err(UserError::NoId), "{data}");
        }
        for data in [r#"{"id":""}"#, r#"{"id":null}"#, r#"{"id":1.5}"#, r#"{"id":["7"]}"#] {
            assert_eq!(UserData::parse(data), Err(UserError::Id), "{data}");
        }
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(USER_ID_BYTES_MAX + 1));
        assert_eq!(UserData::parse(&long), Err(UserError::IdTooLong(USER_ID_BYTES_MAX + 1)));
        assert_eq!(UserData::parse(r#"{"id":"7","watchlist":["2",{}]}"#), Err(UserError::Watchlist));
    }

    #[test]
    fn a_watchlist_names_each_user_once_and_is_bounded() {
        let data = UserData::parse(r#"{"id":"7","watchlist":[3,"2","3",2]}"#).unwrap();
        assert_eq!(data.watchlist.iter().map(|id| &**id).collect::<Vec<_>>(), ["2", "3"]);
        let many: Vec<String> = (0..=WATCHLIST_MAX).map(|n| n.to_string()).collect();
        let data = UserData::parse(&serde_json::json!({"id": "7", "watchlist": many}).to_string()).unwrap();
        assert_eq!((data.watchlist.len(), data.is_watchlist_cut), (WATCHLIST_MAX, true));
    }
}
