//! Shards in a test's own process, and clients that are handed straight to one of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{Context, spawn};
use crate::inbox::{AppIndex, Form, Handover, NewClient, Settings, inbox};
use crate::protocol::SocketId;
use crate::protocol::engineio::Timing;
use crate::protocol::session::Rules;
use crate::publish::Publisher;
use crate::webhook::Webhooks;

/// Starts so many shards for one app, with the key `key` and the secret `secret`. They end with
/// the process.
pub fn start(shards: usize) -> Publisher {
    let (handles, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| inbox()).unzip();
    let publisher = Publisher::new(handles);
    for (index, inbox) in inboxes.into_iter().enumerate() {
        spawn(index, inbox, context(&publisher)).unwrap();
    }
    publisher
}

/// What shards of one app know, whose subscribers are not counted.
pub fn context(publisher: &Publisher) -> Context {
    let rules = Rules {
        app_key: "key".into(),
        secret: "secret".into(),
        previous_secrets: Vec::new(),
        subscriptions_max: 100,
        subscribes_per_second: 100,
        presence_joins_per_minute: 1000,
        channel_name_bytes_max: 200,
        client_events_per_second: 10,
        client_event_bytes_max: 1000,
        presence_member_bytes_max: 1000,
        user_authentication_timeout: None,
        activity_timeout: 60_000,
        pong_timeout: 60_000,
        reauthorize_after: None,
    };
    Context {
        publisher: publisher.clone(),
        asker: mpsc::unbounded_channel().0,
        settings: Settings {
            rules: vec![rules],
            removed: vec![false],
            message_bytes_max: 10_000,
            outbound_bytes_max: 1_000_000,
            presence_members_max: vec![100],
            cache_time: Duration::from_secs(60),
            cache_bytes_max: 100_000,
            subscription_counts: vec![false],
            socketio: Timing { ping_interval: 25_000, ping_timeout: 20_000 },
        },
        presence_changes: None,
        webhooks: Webhooks::default(),
        resume: None,
        explains: true,
    }
}

/// A connection of the shard it was given to.
pub struct Client {
    stream: TcpStream,
    pub socket_id: SocketId,
}

impl Client {
    pub async fn connect(publisher: &Publisher, shard: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, socket_id) = (stream.unwrap(), SocketId::new(getrandom::u64().unwrap(), 0));
        let handover = Handover {
            stream: accepted.unwrap().0.into_std().unwrap(),
            tls: None,
            leftover: Bytes::new(),
            client: NewClient {
                app: AppIndex(0),
                socket_id,
                credentials: Arc::default(),
                counted: [None, None, None],
                form: Form::Plain,
                inflates: false,
                socketio: None,
                browser: None,
            },
        };
        publisher.shards()[shard].hand_over(handover);
        let mut client = Self { stream, socket_id };
        assert!(client.hears().await.contains("connection_established"));
        client
    }

    /// Sends a text of up to 65,535 bytes, with a mask of zeros.
    pub async fn say(&mut self, text: &str) {
        let length = u16::try_from(text.len()).unwrap().to_be_bytes();
        let head = [0x81, 0x80 | 126, length[0], length[1], 0, 0, 0, 0];
        self.stream.write_all(&[&head, text.as_bytes()].concat()).await.unwrap();
    }

    /// The next text.
    pub async fn hears(&mut self) -> String {
        let (opcode, payload) = self.frame().await;
        assert_eq!(opcode, 0x81, "{payload:?}");
        String::from_utf8(payload).unwrap()
    }

    /// The code of the close frame that is next.
    pub async fn closed(&mut self) -> u16 {
        let (opcode, payload) = self.frame().await;
        assert_eq!(opcode, 0x88, "{payload:?}");
        u16::from_be_bytes([payload[0], payload[1]])
    }

    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let read = async {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).await.unwrap();
            let length = match head[1] {
                126 => self.stream.read_u16().await.unwrap().into(),
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.unwrap();
            (head[0], payload)
        };
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("a frame arrives in time")
    }
}
