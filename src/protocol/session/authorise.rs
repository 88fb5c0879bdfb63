//! What a subscribe message alone says of who may join: anybody, whom the signature names, or
//! whom Laravel lets in.

use super::{Refusal, Rules};
use crate::protocol::SocketId;
use crate::protocol::channel::{Access, ChannelName};
use crate::protocol::presence::{Member, MemberError};
use crate::protocol::pusher::Subscribe;
use crate::protocol::signature;

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
    rules: &Rules,
) -> Result<Authorised, Refusal> {
    let access = channel.access();
    if access == Access::Public {
        return Ok(Authorised::Yes);
    }
    let Some(auth) = &subscribe.auth else { return Ok(Authorised::AskLaravel) };
    let (key, hex) = auth.split_once(':').unwrap_or(("", ""));
    if key != rules.app_key {
        return Err(unsigned(format!("Invalid auth for {channel}: it must begin with this app's key and a colon")));
    }
    let data = subscribe.channel_data.as_deref();
    if access == Access::Presence && data.is_none() {
        return Err(unsigned(format!("Invalid auth for {channel}: a presence channel needs channel_data")));
    }
    let verified =
        |data| signature::verify(&rules.secret, &signature::channel_text(socket_id, channel.as_str(), data), hex);
    // Some authorisers sign channel_data on private channels as well. It must have a quote, which
    // no channel name has: the text that is signed for `private-a` with the data `b` is that for
    // `private-a:b`, another channel.
    let signs_data = access == Access::Presence || data.is_some_and(|data| data.contains('"'));
    if !(signs_data && verified(data)) && (access == Access::Presence || !verified(None)) {
        return Err(unsigned(format!(
            "Invalid signature for {channel}: the application signed with another secret than this server's \
             (clients[].secret in laravel-echo-server.json), or for another socket"
        )));
    }
    match (access, data) {
        (Access::Presence, Some(data)) => {
            let member = Member::parse(data).map_err(|error: MemberError| unsigned(format!("{channel}: {error}")))?;
            too_big(&member, rules).map_or(Ok(Authorised::As(member)), Err)
        }
        _ => Ok(Authorised::Yes),
    }
}

pub(super) fn unsigned(error: String) -> Refusal {
    Refusal::new(401, error)
}

pub(super) fn too_big(member: &Member, rules: &Rules) -> Option<Refusal> {
    let (bytes, limit) = (member.user_id.len() + member.user_info.len(), rules.presence_member_bytes_max);
    (bytes > limit).then(|| {
        let error =
            format!("The presence member's data has {bytes} bytes; {limit} are allowed (limits.presenceMemberBytes)");
        Refusal::new(413, error)
    })
}
