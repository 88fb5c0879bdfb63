//! A Pusher-protocol broadcast server for Laravel applications.
//!
//! The modules in the order of who may know whom, the lowest first; a module uses
//! those above it in this list, never those below.
//!
//! - [`protocol`] and [`ws`]: values in, values out. No socket, no task, no clock.
//! - [`process`]: what the kernel says of this process.
//! - [`address`]: where a request comes from, behind proxies too.
//! - [`metrics`]: what is counted, for operators.
//! - [`config`]: the application's `laravel-echo-server.json`, typed.
//! - [`tap`]: what passes, for whoever looks.
//! - [`log`]: lines that nobody waits for.
//! - [`tls`]: the certificate that the port serves.
//! - [`listen`]: the port and the unix socket that connections come from.
//! - [`inbox`]: everything that can reach a shard.
//! - [`bus`]: what this node tells the others.
//! - [`publish`]: one event, encoded once, into the inbox of each shard that has subscribers.
//! - [`webhook`]: backends are told what happens on channels.
//! - [`auth`]: who may join: signature, or Laravel's answer.
//! - [`presence_store`]: copies of the presence lists in Redis.
//! - [`shard`]: one thread that owns its connections; the delivery path.
//! - [`redis`]: reach Redis, and know when it is away.
//! - [`ingress`]: Laravel's events out of Redis.
//! - [`cluster`]: the other nodes.
//! - [`http`]: the port: upgrade, HTTP API, gateway, proxy.
//! - [`doctor`]: looks at all that has to fit together, and says which line to change.
//! - [`server`]: the only file that knows everybody.
//! - [`cli`]: the commands.

pub mod address;
pub mod auth;
pub mod bus;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod doctor;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod http;
pub mod inbox;
pub mod ingress;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod presence_store;
pub mod process;
pub mod protocol;
pub mod publish;
pub mod query;
pub mod redis;
pub mod server;
pub mod shard;
pub mod tap;
pub mod tls;
pub mod webhook;
pub mod ws;
