//! Several nodes over Redis Sentinel and Redis Cluster, with the real servers.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;
#[allow(dead_code)]
mod redis_process;

use std::time::{Duration, Instant};

use common::{Client, KEY, SECRET, Server};
use redis_process::{PATIENCE, Redis, free_port};
use serde_json::{Value, json};

fn node(redis: Value) -> Server {
    Server::start(json!({"databaseConfig": {"redis": redis}}))
}

async fn member(node: &Server, id: &str) -> Client {
    let mut client = node.connect().await;
    client.subscribe_signed("presence-a", Some(&json!({"user_id": id}).to_string())).await;
    client
}

/// The client hears that the user has come, and nothing else but whispers.
async fn hears_of(client: &mut Client, id: &str) {
    let mut heard = client.next().await;
    while heard["event"] == "client-hi" {
        heard = client.next().await;
    }
    assert_eq!(heard["event"], "pusher_internal:member_added", "{heard}");
    assert!(heard["data"].as_str().unwrap().contains(&format!("\"{id}\"")), "{heard}");
}

/// Whispers until the other one has heard it; nothing else is heard on the way.
async fn whispers(from: &mut Client, to: &mut Client) {
    let end = Instant::now() + PATIENCE;
    loop {
        from.send(json!({"event": "client-hi", "channel": "presence-a", "data": 1})).await;
        if let Ok(heard) = tokio::time::timeout(Duration::from_millis(200), to.next()).await {
            assert_eq!(heard["event"], "client-hi", "{heard}");
            return;
        }
        assert!(Instant::now() < end, "no whisper arrives");
    }
}

#[tokio::test]
async fn nodes_at_any_master_of_a_redis_cluster_are_one() {
    let master = || {
        let bus = free_port().to_string();
        Redis::start(&["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", "--cluster-port", &bus])
    };
    let mut masters = [master(), master(), master()];
    let bus = masters[0].cli(&["CONFIG", "GET", "cluster-port"]);
    let bus = bus.lines().last().unwrap();
    for (other, (from, to)) in masters.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")]) {
        other.cli(&["CLUSTER", "ADDSLOTSRANGE", from, to]);
        if other.port != masters[0].port {
            other.cli(&["CLUSTER", "MEET", "127.0.0.1", &masters[0].port.to_string(), bus]);
        }
    }
    for master in &masters {
        master.until(&["CLUSTER", "INFO"], |said| {
            said.contains("cluster_state:ok") && said.contains("cluster_known_nodes:3")
        });
    }
    // Each knows another master first.
    let at = |index: usize| {
        let known = |index: usize| json!({"host": "127.0.0.1", "port": masters[index % 3].port});
        Server::start(json!({
            "databaseConfig": {"redis": {"cluster": [known(index), known(index + 1)]}},
            "clients": [{"appId": "app-id", "key": KEY, "secret": SECRET}, {"appId": "other", "key": "other-key"}],
        }))
    };
    let nodes = [at(0), at(1), at(2)];
    // The app without a secret has one for all nodes, at the master whose key it is.
    let secrets = masters.each_ref().map(|master| master.cli(&["KEYS", "laravel-echo-server:secret:*"]));
    assert_eq!(secrets.iter().filter(|keys| !keys.is_empty()).count(), 1, "{secrets:?}");
    let mut ann = member(&nodes[0], "ann").await;
    // Or he would hear her come.
    nodes[1].knows_members("presence-a", &["ann"]).await;
    let mut bob = member(&nodes[1], "bob").await;
    hears_of(&mut ann, "bob").await;
    whispers(&mut bob, &mut ann).await;
    let mut cay = member(&nodes[2], "cay").await;
    hears_of(&mut ann, "cay").await;
    whispers(&mut cay, &mut ann).await;
    hears_of(&mut bob, "cay").await;
    // The node that was connected to this master goes on at the next one; nobody comes or goes for it.
    masters[0].kill();
    whispers(&mut bob, &mut ann).await;
    whispers(&mut ann, &mut bob).await;
    whispers(&mut cay, &mut ann).await;
}

/// Whoever was there before the failover is not taken off a list for it.
#[tokio::test]
async fn nodes_follow_the_sentinels_master_together() {
    let (mut master, replica, sentinel) = Redis::with_replica_and_sentinel();
    let at = || node(json!({"sentinels": [{"host": "127.0.0.1", "port": sentinel.port}], "name": "mymaster"}));
    let nodes = [at(), at()];
    let mut ann = member(&nodes[0], "ann").await;
    // Or he would hear her come.
    nodes[1].knows_members("presence-a", &["ann"]).await;
    let mut bob = member(&nodes[1], "bob").await;
    hears_of(&mut ann, "bob").await;
    whispers(&mut bob, &mut ann).await;

    master.kill();
    sentinel
        .until(&["SENTINEL", "get-master-addr-by-name", "mymaster"], |said| said.contains(&replica.port.to_string()));
    whispers(&mut bob, &mut ann).await;
    whispers(&mut ann, &mut bob).await;
    let _cay = member(&nodes[1], "cay").await;
    hears_of(&mut ann, "cay").await;
}
