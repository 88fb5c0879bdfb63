//! More than one Redis, or one behind TLS: Sentinel, Cluster and certificates, with the real servers.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;
mod redis_process;

use std::time::{Duration, Instant};

use common::{Client, Server};
use laravel_echo_server::config::{self, Family, Node, RedisTls, Secret, Sentinel};
use laravel_echo_server::redis::Link;
use redis_process::{PATIENCE, Redis, cli, free_port};
use serde_json::json;

const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Publishes there until somebody listens; then that has arrived.
async fn arrives(port: u16, client: &mut Client, name: &str) {
    let end = Instant::now() + PATIENCE;
    while cli(port, &["PUBLISH", "orders", &format!(r#"{{"event":"{name}"}}"#)]) != "1" {
        assert!(Instant::now() < end, "nobody listens at {port}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let event = client.next().await;
    assert_eq!((event["event"].as_str(), event["channel"].as_str()), (Some(name), Some("orders")));
}

#[tokio::test]
async fn the_sentinels_master_is_followed_to_the_next_one() {
    let (mut master, replica, sentinel) = Redis::with_replica_and_sentinel();
    // The first sentinel is gone, which is no reason to give up.
    let sentinels =
        json!([{ "host": "127.0.0.1", "port": free_port() }, { "host": "127.0.0.1", "port": sentinel.port }]);
    let server = Server::start(json!({
        "databaseConfig": { "redis": { "sentinels": sentinels, "name": "mymaster", "keyPrefix": "" } },
    }));
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    arrives(master.port, &mut client, "before").await;

    master.kill();
    sentinel
        .until(&["SENTINEL", "get-master-addr-by-name", "mymaster"], |said| said.contains(&replica.port.to_string()));
    arrives(replica.port, &mut client, "after").await;
}

#[tokio::test]
async fn what_sentinels_do_not_know_is_said() {
    let master = Redis::start(&[]);
    let sentinel = Redis::sentinel(&format!("sentinel monitor mymaster 127.0.0.1 {} 1\n", master.port));
    let at = |nodes: Vec<u16>, name: &str| {
        let nodes = nodes.into_iter().map(|port| Node { host: "127.0.0.1".to_owned(), port }).collect();
        let sentinel = Sentinel { nodes, name: name.to_owned(), username: None, password: None, tls: false };
        Link::new(config::Redis { sentinel: Some(sentinel), ..config::Redis::default() }, PAYLOAD_BYTES_MAX)
    };
    assert!(at(vec![sentinel.port], "mymaster").subscribe("*").await.is_ok());
    let unknown = at(vec![sentinel.port], "other").subscribe("*").await.unwrap_err().to_string();
    assert_eq!(
        unknown,
        format!(
            "No sentinel says where the master of Redis is. The sentinel 127.0.0.1:{}: it knows no master \"other\"; check \
             \"name\" in databaseConfig.redis.",
            sentinel.port
        )
    );
    let refused = at(vec![free_port()], "mymaster").subscribe("*").await.unwrap_err().to_string();
    assert!(refused.contains("Nothing listens at 127.0.0.1:"), "{refused}");

    // A replica that the sentinels still take for the master hears nothing once its own master is gone.
    master.cli(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    let demoted = at(vec![sentinel.port], "mymaster").subscribe("*").await.unwrap_err().to_string();
    assert!(demoted.contains("is a replica by now"), "{demoted}");
}

#[tokio::test]
async fn any_node_of_a_cluster_will_do() {
    let node = || {
        let bus = free_port().to_string();
        Redis::start(&["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", "--cluster-port", &bus])
    };
    let (mut first, second) = (node(), node());
    let bus = first.cli(&["CONFIG", "GET", "cluster-port"]);
    let bus = bus.lines().last().unwrap();
    second.cli(&["CLUSTER", "MEET", "127.0.0.1", &first.port.to_string(), bus]);
    first.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    second.cli(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    for node in [&first, &second] {
        node.until(&["CLUSTER", "INFO"], |said| {
            said.contains("cluster_state:ok") && said.contains("cluster_known_nodes:2")
        });
    }
    let nodes = json!([{ "host": "127.0.0.1", "port": first.port }, { "host": "127.0.0.1", "port": second.port }]);
    let server = Server::start(json!({ "databaseConfig": { "redis": { "cluster": nodes, "keyPrefix": "" } } }));
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    arrives(first.port, &mut client, "here").await;
    // Nobody is subscribed at the second node, but the cluster tells the first.
    cli(second.port, &["PUBLISH", "orders", r#"{"event":"there"}"#]);
    assert_eq!(client.next().await["event"], "there");

    first.kill();
    arrives(second.port, &mut client, "again").await;
}

/// Each node of a cluster has an order of its own, so both connections must be at the same one.
#[tokio::test]
async fn the_second_connection_is_at_the_same_node() {
    let (free, second) = (free_port(), Redis::start(&[]));
    let nodes = json!([{ "host": "127.0.0.1", "port": free }, { "host": "127.0.0.1", "port": second.port }]);
    let mut server = Server::start(json!({
        "resume": true, "cluster": false, "databaseConfig": { "redis": { "cluster": nodes, "keyPrefix": "" } },
    }));
    const TWO: &str = "is heard over two connections";
    if !server.banner.contains(TWO) {
        server.says(TWO).await;
    }
    // The node that comes first in the configuration is there now.
    let first = Redis::at(free);
    let subscribed = |redis: &Redis| -> Vec<String> {
        let list = redis.cli(&["CLIENT", "LIST", "TYPE", "pubsub"]);
        list.lines().filter_map(|line| line.split(' ').next()?.strip_prefix("id=")).map(str::to_owned).collect()
    };
    for _ in 0..2 {
        let ids = subscribed(&second);
        assert_eq!(ids.len(), 2);
        second.cli(&["CLIENT", "KILL", "ID", &ids[0]]);
        server.says(TWO).await;
    }
    assert_eq!((subscribed(&first).len(), subscribed(&second).len()), (0, 2));
}

#[tokio::test]
async fn tls_by_the_options_of_ioredis() {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["redis.test".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (cert, key) = (write("cert.pem", &certificate.pem()), write("key.pem", &key.serialize_pem()));
    let ca = write("ca.pem", &authority_pem);
    let port = free_port();
    let _redis = Redis::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "hush",
    ]);
    let subscribe = |tls_options: RedisTls| {
        let password = Some(Secret::new("hush"));
        let config = config::Redis { port, password, tls: true, tls_options, ..config::Redis::default() };
        async move {
            Link::new(config, PAYLOAD_BYTES_MAX).subscribe("*").await.map(drop).map_err(|failure| failure.to_string())
        }
    };
    let named = |authorities: &str| RedisTls {
        authorities: Some(authorities.to_owned()),
        server_name: Some("redis.test".to_owned()),
        any_certificate: false,
    };
    assert_eq!(subscribe(named(&authority_pem)).await, Ok(()));
    assert_eq!(subscribe(named(&ca)).await, Ok(()));
    assert_eq!(subscribe(RedisTls { any_certificate: true, ..RedisTls::default() }).await, Ok(()));
    // Nobody here knows this authority; and 127.0.0.1 is not in the certificate.
    for options in [RedisTls::default(), RedisTls { server_name: None, ..named(&ca) }] {
        let failure = subscribe(options).await.unwrap_err();
        assert!(failure.starts_with(&format!("TLS with 127.0.0.1:{port} failed: ")), "{failure}");
    }
    for (authorities, expected) in [("/nonexistent/ca.pem", "No such file"), (&cert[..cert.len() - 8], "")] {
        let failure = subscribe(named(authorities)).await.unwrap_err();
        assert!(
            failure.contains("is impossible: \"databaseConfig.redis.tls.ca\": ") && failure.contains(expected),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn a_family_that_the_host_does_not_have() {
    let config = config::Redis { family: Some(Family::V6), ..config::Redis::default() };
    let failure = Link::new(config, PAYLOAD_BYTES_MAX).subscribe("*").await.unwrap_err().to_string();
    assert!(failure.starts_with("The host \"127.0.0.1\" of Redis has no address of IPv6 (\"family\")."), "{failure}");
}
