//! Secrets of clients for which nobody has configured one: the first node makes it, the others take
//! it from Redis, so that each takes what any other has signed.

use std::time::Duration;

use super::held::Tag;
use crate::config::{Config, Secret};
use crate::redis::{Commands, Failure, Link, Timing};

/// How long a start may be held up by it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes the secrets that the other nodes use, or offers this node's own.
pub async fn share_secrets(config: &mut Config) {
    let Some(cluster) = config.cluster.clone() else { return };
    if !config.apps.iter().any(|app| app.secret_is_random) {
        return;
    }
    let timing = Timing { connect_max: PATIENCE, answer_max: PATIENCE, ..Timing::default() };
    let link = Link::new(config.redis.clone(), super::MESSAGE_BYTES_MAX).with_timing(timing);
    let redis = config.redis.clone();
    let share = async {
        for app in config.apps.iter_mut().filter(|app| app.secret_is_random) {
            let key = key(&cluster.name, Tag::of(app, &redis));
            let mut commands = link.commands_for(&key).await?;
            app.secret = share_one(&mut commands, &key, &app.secret).await?;
        }
        Ok::<(), Failure>(())
    };
    let failure = match tokio::time::timeout(PATIENCE, share).await {
        Ok(Ok(())) => return,
        Ok(Err(failure)) => failure.to_string(),
        Err(_) => format!("Redis at {link} did not answer within {PATIENCE:?}."),
    };
    tracing::warn!(
        "{failure} So clients without \"secret\" have one of this node's own: if there are other nodes, browsers must reach \
         the same node with /broadcasting/auth and the WebSocket. Give each client a \"secret\", or restart when Redis is back."
    );
}

async fn share_one(commands: &mut Commands, key: &str, own: &Secret) -> Result<Secret, Failure> {
    commands.ask(&["SET", key, own.expose(), "NX"]).await?;
    let shared = commands.ask(&["GET", key]).await?;
    Ok(shared.filter(|shared| !shared.is_empty()).map_or_else(|| own.clone(), Secret::new))
}

fn key(name: &str, tag: Tag) -> String {
    format!("{name}:secret:{:016x}", tag.0)
}
