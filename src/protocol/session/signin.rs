//! `pusher:signin`: the application's signature says who the connection's user is (protocol
//! sections 2 and 4).

use super::{Action, Limit, Millis, Rules, SECOND, Session, close};
use crate::protocol::pusher::{self, Signin};
use crate::protocol::signature;
use crate::protocol::user::{User, UserData, WATCHLIST_MAX};

/// The close code of a signin that is no good: pusher-js does not come back by itself, since it
/// would only be refused again.
const UNAUTHORISED: u16 = 4009;

impl Session {
    /// Whom the connection is signed in as.
    pub fn user(&self) -> Option<&User> {
        self.user.as_deref()
    }

    pub(super) fn signin(&mut self, signin: &Signin<'_>, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
        let limit = rules.subscribes_per_second;
        if !self.subscribes.take(limit, SECOND, now) {
            actions.push(Action::Limited(Limit::Subscribes));
            let error = format!("This connection has signed in or subscribed {limit} times within a second");
            return actions.push(Action::Send(pusher::error(None, &error)));
        }
        let data = match self.verified(signin, rules) {
            Ok(data) => data,
            Err(error) => {
                actions.push(Action::SigninRefused { error });
                return close(UNAUTHORISED, "Connection not authorized: the signin is not valid", actions);
            }
        };
        match &self.user {
            Some(user) if user.id != data.user.id => {
                let error = "Signin refused: this connection is signed in as another user already";
                actions.push(Action::SigninRefused { error: error.into() });
                return actions.push(Action::Send(pusher::error(None, error)));
            }
            Some(_) => return actions.push(Action::Send(pusher::signin_success(&data.user_data))),
            None => {}
        }
        self.authorised();
        actions.push(Action::Send(pusher::signin_success(&data.user_data)));
        if data.is_watchlist_cut {
            let error = format!("Watchlist limit exceeded. Only the first {WATCHLIST_MAX} user IDs are accepted.");
            actions.push(Action::Send(pusher::error(Some(4302), &error)));
        }
        actions.push(Action::SignIn { user_id: data.user.id.clone(), watchlist: data.watchlist });
        self.user = Some(Box::new(data.user));
    }

    fn verified(&self, signin: &Signin<'_>, rules: &Rules) -> Result<UserData, String> {
        let (key, hex) = signin.auth.split_once(':').unwrap_or(("", ""));
        if key != rules.app_key {
            return Err("auth must begin with this app's key and a colon".into());
        }
        if !rules.verify(&signature::user_text(self.socket_id, &signin.user_data), hex) {
            return Err("invalid signature: the application signed with another secret than this server's \
                        (clients[].secret in laravel-echo-server.json), or for another socket"
                .into());
        }
        UserData::parse(&signin.user_data).map_err(|error| error.to_string())
    }
}
