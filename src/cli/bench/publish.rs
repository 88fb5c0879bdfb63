//! The publishers' side of the load: events to the server, over HTTP or through Redis, and the
//! answers.

use std::time::SystemTime;

use anyhow::{Context as _, bail};
use mio::{Interest, Token};

use super::load::{Load, PUBLISHERS};
use super::options::Source;
use super::socket::{Got, Pipe, Publisher};
use super::wire::{self, Reply, Stamp};

impl Load<'_> {
    /// Opens the publishers' connections.
    pub fn open_publishers(&mut self) -> anyhow::Result<()> {
        for number in 0..self.plan.options.publishers as usize {
            let no_socket = || format!("publisher {number} cannot reach {}", self.plan.publish_to);
            let mut pipe = Pipe::connect(self.plan.publish_to, None, false).with_context(no_socket)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut pipe.stream, Token(PUBLISHERS + number), interest)
                .with_context(no_socket)?;
            self.publishers.push(Publisher { pipe, awaiting: 0 });
        }
        Ok(())
    }

    /// Events that publishers wait for an answer to.
    pub fn awaiting(&self) -> u64 {
        self.publishers.iter().map(|publisher| publisher.awaiting).sum()
    }

    /// Gives one event to a publisher; [`Load::flush_publishers`] sends it.
    pub fn publish(&mut self, channel: u32, publisher: usize, sent_at: u64) {
        let sequence = self.account.publish(channel, publisher);
        let stamp = Stamp { run: self.run, channel, publisher: publisher as u8, sequence, sent_at };
        let name = &self.channels[channel as usize];
        let chosen = &mut self.publishers[publisher];
        chosen.awaiting += 1;
        match self.plan.options.source {
            Source::Http => self.filler.push_request(chosen.pipe.out(), &self.api, name, &stamp, &mut self.body),
            Source::Redis => {
                let name = format!("{}{name}", self.plan.options.redis_prefix);
                self.filler.push_publish(chosen.pipe.out(), &name, &stamp, &mut self.body);
            }
        }
    }

    /// Sends what publishers have.
    pub fn flush_publishers(&mut self) -> anyhow::Result<()> {
        for publisher in &mut self.publishers {
            publisher.pipe.flush().context("a publisher's connection broke")?;
        }
        Ok(())
    }

    /// Signatures are of the present.
    pub fn renew_timestamp(&mut self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.api.timestamp = now.map_or(0, |since| since.as_secs());
    }

    pub(super) fn publisher_ready(&mut self, number: usize, buffer: &mut [u8]) -> anyhow::Result<()> {
        let publisher = &mut self.publishers[number];
        publisher.pipe.flush().with_context(|| format!("publisher {number} cannot reach {}", self.plan.publish_to))?;
        loop {
            let got = publisher.pipe.read(buffer).context("a publisher's connection broke")?;
            let (Got::More(bytes) | Got::Last(bytes)) = got else {
                bail!("the server closed publisher {number}'s connection");
            };
            publisher.pipe.partial.extend_from_slice(&buffer[..bytes]);
            if matches!(got, Got::Last(_)) {
                break;
            }
        }
        let mut used = 0;
        loop {
            let input = &publisher.pipe.partial[used..];
            let reply = match self.plan.options.source {
                Source::Http => wire::response(input),
                Source::Redis => wire::redis_reply(input),
            };
            let Some((reply, bytes)) = reply else { break };
            used += bytes;
            publisher.awaiting = publisher.awaiting.saturating_sub(1);
            match reply {
                Reply::Taken => {}
                Reply::NobodyListens => self.counts.nobody_listens += 1,
                Reply::Refused(words) => bail!("an event was refused: {words}"),
            }
        }
        publisher.pipe.partial.drain(..used);
        Ok(())
    }
}
