//! What a subscribe message alone says of who may join: anybody, whom the signature names, or
//! whom Laravel lets in.

use super::{Refusal, Rules};
use crate::protocol::SocketId;
use crate::protocol::channel::{Access, ChannelName};
use crate::protocol::presence::Member;
use crate::protocol::pusher::Subscribe;
use crate::protocol::signature;
use crate::protocol::user::User;
use crate::protocol::why::Why;

/// The status of a refusal by [`too_big`]; no other has it.
pub(super) const TOO_BIG: u16 = 413;

/// What a subscribe message says of itself.
pub(super) enum Authorised {
    Yes,
    As(Member),
    AskLaravel,
}

/// What the subscribe message alone says: public, signed, or to be asked about.
pub(super) fn authorise(
    channel: &ChannelName,
    subscribe: &Subscribe<'_>,
    socket_id: SocketId,
    user: Option<&User>,
    rules: &Rules,
) -> Result<Authorised, Refusal> {
    let access = channel.access();
    if access == Access::Public {
        return Ok(Authorised::Yes);
    }
    if access == Access::User {
        // No signature is needed, and none would do: that of the signin has said who this is.
        let is_theirs = user.is_some_and(|user| channel.user_id() == Some(&*user.id));
        return is_theirs.then_some(Authorised::Yes).ok_or_else(|| {
            unsigned(format!("{channel} is for the connections that are signed in as this user (pusher:signin)"))
                .because(Why::NotThatUser)
        });
    }
    let Some(auth) = &subscribe.auth else { return Ok(Authorised::AskLaravel) };
    let (key, hex) = auth.split_once(':').unwrap_or(("", ""));
    if key != rules.app_key {
        return Err(unsigned(format!("Invalid auth for {channel}: it must begin with this app's key and a colon"))
            .because(Why::WrongKey));
    }
    let data = subscribe.channel_data.as_deref();
    let is_presence = access == Access::Presence;
    if is_presence && data.is_none() && user.is_none() {
        return Err(unsigned(format!(
            "Invalid auth for {channel}: a presence channel needs channel_data, or a connection that is signed in"
        )));
    }
    let verified = |data| rules.verify(&signature::channel_text(socket_id, channel.as_str(), data), hex);
    // Some authorisers sign channel_data on private channels as well. It must have a quote, which
    // no channel name has: the text that is signed for `private-a` with the data `b` is that for
    // `private-a:b`, another channel.
    let signs_data = data.is_some_and(|data| is_presence || data.contains('"'));
    // Without its data a presence channel is signed like a private one: the member is the user who
    // is signed in.
    let may_go_without = !is_presence || data.is_none();
    let is_valid = (signs_data && verified(data)) || (may_go_without && verified(None));
    if !is_valid {
        return Err(unsigned(format!(
            "Invalid signature for {channel}: the application signed with another secret than this server's \
             (clients[].secret in laravel-echo-server.json), or for another socket"
        )));
    }
    let member = match (data, user) {
        _ if !is_presence => return Ok(Authorised::Yes),
        (Some(data), _) => Member::parse(data).map_err(|error| unsigned(format!("{channel}: {error}")))?,
        (None, Some(user)) => {
            Member { user_id: user.id.clone(), user_info: user.user_info.clone(), id_is_number: false }
        }
        (None, None) => return Err(unsigned(format!("Invalid auth for {channel}: nobody is signed in"))),
    };
    too_big(&member, rules).map_or(Ok(Authorised::As(member)), Err)
}

pub(super) fn unsigned(error: String) -> Refusal {
    Refusal::new(401, error).because(Why::WrongSignature)
}

pub(super) fn too_big(member: &Member, rules: &Rules) -> Option<Refusal> {
    let (bytes, limit) = (member.user_id.len() + member.user_info.len(), rules.presence_member_bytes_max);
    (bytes > limit).then(|| {
        let error =
            format!("The presence member's data has {bytes} bytes; {limit} are allowed (limits.presenceMemberBytes)");
        Refusal::new(TOO_BIG, error)
    })
}
