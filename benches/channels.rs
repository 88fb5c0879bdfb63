//! The fan-out table: entering and leaving, and walking a channel's subscribers.
//! `cargo bench --bench channels`.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use laravel_echo_server::inbox::AppIndex;
use laravel_echo_server::protocol::channel::ChannelName;
use laravel_echo_server::shard::channels::Channels;

const APP: AppIndex = AppIndex(0);

/// Each connection in one channel; connection i in channel i modulo their number.
fn table(connections: u32, names: &[ChannelName]) -> Channels {
    let mut channels = Channels::default();
    for slot in 0..connections {
        channels.subscribe(APP, &names[slot as usize % names.len()], slot, None, 0);
    }
    channels
}

fn names(count: u32) -> Vec<ChannelName> {
    (0..count).map(|number| ChannelName::published(&format!("orders.{number}"))).collect()
}

fn walk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("subscribers");
    for (connections, channels) in [(10_000, 10_000), (1_000, 1), (100_000, 1)] {
        let names = names(channels);
        let table = table(connections, &names);
        let each = connections / channels;
        group.throughput(Throughput::Elements(u64::from(each)));
        group.bench_function(format!("{each} of {connections}"), |bencher| {
            bencher.iter(|| {
                table.id(APP, black_box(&names[0])).map(|id| table.subscribers(id).map(u64::from).sum::<u64>())
            });
        });
    }
    group.finish();
}

fn change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("enter and leave");
    for (name, channels) in [("own channel", 10_000), ("channel of 10,000", 1)] {
        let names = names(channels);
        let mut table = table(10_000, &names);
        group.bench_function(name, |bencher| {
            let mut slot = 0;
            bencher.iter(|| {
                slot = (slot + 1) % 10_000;
                let name = &names[slot as usize % names.len()];
                table.unsubscribe(APP, black_box(name), slot);
                table.subscribe(APP, black_box(name), slot, None, 0)
            });
        });
    }
    let names = names(10_000);
    group.bench_function("10,000 connections connect", |bencher| {
        bencher.iter_batched(|| (), |()| table(10_000, &names), BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group!(benches, walk, change);
criterion_main!(benches);
