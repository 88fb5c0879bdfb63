//! Which channels have subscribers on any shard: a channel may have some on several and counts once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Tables that shards reach at the same time.
const TABLES: u64 = 64;

/// On how many shards each channel has subscribers. Shards say when a channel gets its first one there and when it
/// loses its last, which is rare beside events; so this may lock, for the time of one entry.
#[derive(Debug)]
pub struct Channels(Box<[Mutex<HashMap<u64, u32>>]>);

impl Channels {
    /// The channel with this hash has its first subscriber on a shard. True: it has none on other shards.
    pub fn begin(&self, hash: u64) -> bool {
        let mut table = self.table(hash).lock().unwrap_or_else(PoisonError::into_inner);
        let shards = table.entry(hash).or_insert(0);
        *shards += 1;
        *shards == 1
    }

    /// The channel with this hash has lost its last subscriber on a shard. True: it has none on other shards.
    pub fn end(&self, hash: u64) -> bool {
        let mut table = self.table(hash).lock().unwrap_or_else(PoisonError::into_inner);
        let Some(shards) = table.get_mut(&hash) else { return false };
        *shards -= 1;
        let is_last = *shards == 0;
        if is_last {
            table.remove(&hash);
            // What a storm has needed is not kept for ever.
            if table.capacity() > 1024 && table.len() < table.capacity() / 8 {
                table.shrink_to_fit();
            }
        }
        is_last
    }

    fn table(&self, hash: u64) -> &Mutex<HashMap<u64, u32>> {
        // Other bits of the hash choose shards and slots.
        &self.0[(hash >> 16) as usize % self.0.len()]
    }
}

impl Default for Channels {
    fn default() -> Self {
        Self((0..TABLES).map(|_| Mutex::default()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_counts_once_however_many_shards_have_it() {
        let channels = Channels::default();
        assert_eq!([channels.begin(1), channels.begin(1), channels.begin(2)], [true, false, true]);
        assert_eq!([channels.end(1), channels.end(1), channels.end(1), channels.begin(1)], [false, true, false, true]);
    }
}
