//! What is done to each message's bytes, without sockets: frames, client messages, Laravel's
//! payloads, signatures. `cargo bench --bench codec`.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use laravel_echo_server::protocol::{event, pusher, signature};
use laravel_echo_server::ws::frame;

/// A masked text frame as a browser sends it.
fn client_frame(text: &str) -> Vec<u8> {
    let mut bytes = frame::encode_text(text).to_vec();
    let header = bytes.len() - text.len();
    let mask = [0x12, 0x34, 0x56, 0x78];
    bytes[1] |= 0x80;
    bytes[header..].iter_mut().enumerate().for_each(|(index, byte)| *byte ^= mask[index & 3]);
    bytes.splice(header..header, mask);
    bytes
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for bytes in [40, 300, 10_000] {
        let text = "x".repeat(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("encode {bytes} B"), |bencher| {
            bencher.iter(|| frame::encode_text(black_box(&text)));
        });
        let input = client_frame(&text);
        group.bench_function(format!("decode {bytes} B"), |bencher| {
            let mut decoder = frame::Decoder::default();
            bencher.iter_batched_ref(
                || input.clone(),
                |input| {
                    decoder.feed(input, 64 * 1024, |message| {
                        black_box(message);
                        true
                    })
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn client_messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("client message");
    for (name, text) in [
        ("ping", r#"{"event":"pusher:ping","data":{}}"#),
        ("subscribe", r#"{"event":"pusher:subscribe","data":{"auth":"","channel":"orders.1042"}}"#),
        (
            "presence",
            r#"{"event":"pusher:subscribe","data":{"auth":"key:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4","channel_data":"{\"user_id\":7,\"user_info\":{\"name\":\"Ann\"}}","channel":"presence-room.1"}}"#,
        ),
        ("client event", r#"{"event":"client-typing","channel":"private-room.1","data":{"user":7,"typing":true}}"#),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| pusher::ClientMessage::parse(black_box(text)).is_ok()));
    }
    group.finish();
}

/// A payload of Laravel's `redis` broadcaster with about so much data.
fn payload(data_bytes: usize) -> String {
    let fill = "lorem \\u00e9 \\\"ipsum\\\" ".repeat(data_bytes / 21 + 1);
    format!(
        r#"{{"event":"App\\Events\\OrderShipped","data":{{"order":{{"id":1042,"note":"{fill}"}},"socket":null}},"socket":null}}"#
    )
}

fn laravel_events(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("laravel event");
    for bytes in [200, 10_000] {
        let payload = payload(bytes);
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function(format!("parse {bytes} B"), |bencher| {
            bencher.iter(|| event::parse(black_box(payload.as_bytes())).is_ok());
        });
        group.bench_function(format!("parse to frame {bytes} B"), |bencher| {
            bencher.iter(|| {
                let broadcast = event::parse(black_box(payload.as_bytes())).unwrap();
                let text = pusher::channel_event("orders.1042", &broadcast.event, &broadcast.data_for_pusher());
                frame::encode_text(&text)
            });
        });
    }
    group.finish();
}

fn signatures(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("signature");
    let (secret, text) = ("7ad3773142a6692b25b8", "1234.1234:private-foobar");
    let signed = signature::sign(secret, text);
    group.bench_function("verify channel", |bencher| {
        bencher.iter(|| signature::verify(black_box(secret), black_box(text), &signed));
    });
    let parameters: Vec<(String, String)> = [
        ("auth_key", "278d425bdf160c739803"),
        ("auth_timestamp", "1353088179"),
        ("auth_version", "1.0"),
        ("body_md5", "ec365a775a4cd0599faeb73354201b6f"),
        ("auth_signature", "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    group.bench_function("verify request", |bencher| {
        bencher.iter(|| {
            let text = signature::request_text("POST", "/apps/3/events", black_box(&parameters));
            signature::verify(secret, &text, &parameters[4].1)
        });
    });
    group.finish();
}

criterion_group!(benches, frames, client_messages, laravel_events, signatures);
criterion_main!(benches);
