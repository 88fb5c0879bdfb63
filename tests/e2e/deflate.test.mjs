// permessage-deflate with a library's client on the other side: long events, whispers, and who has not agreed.
import assert from 'node:assert/strict';
import WebSocket from 'ws';
import { KEY, RawClient, sign } from './lib/raw.mjs';
import { RedisClient, startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { promise } from './lib/suite.mjs';
import { within } from './lib/waiting.mjs';

const SECRET = 'talent2income-secret';
const CHANNEL = 'private-conversation.1-2';

promise('compressed and plain clients get the same events and whispers', async (life) => {
  const redis = await life.keep(startRedis());
  const server = await life.keep(startServer({ redis, secret: SECRET, perMessageDeflate: true }));
  const publisher = await life.keep(RedisClient.open(redis.port));
  // The library offers it unless it is told not to.
  const clients = await Promise.all([1, 2].map(() => life.keep(RawClient.open({ port: server.port }))));
  for (const client of clients) assert.match(client.socket.extensions, /permessage-deflate/);
  const plain = new WebSocket(`ws://127.0.0.1:${server.port}/app/${KEY}?protocol=7`, { perMessageDeflate: false });
  await within(new Promise((resolve) => plain.once('open', resolve)), 'the plain client');
  assert.equal(plain.extensions, '');
  plain.close();

  await Promise.all(clients.map((client) => client.subscribed(CHANNEL, { auth: sign(SECRET, client.socketId, CHANNEL) })));
  const [sender, other] = clients;
  for (const length of [10, 1_000, 1_024, 5_000, 100_000, 1_000_000]) {
    const text = 'Ünï \u{1f389} '.repeat(Math.ceil(length / 7));
    const from = clients.map((client) => client.frames.items.length);
    await publisher.publish(`talent2income_database_${CHANNEL}`, 'long', { length, text });
    for (const [index, client] of clients.entries()) {
      const { data } = await client.frames.first(({ event }) => event === 'long', `the event of ${length}`, { from: from[index] });
      assert.deepEqual(JSON.parse(data), { length, text });
    }
  }
  const text = 'whisper '.repeat(1_000);
  sender.send({ event: 'client-long', channel: CHANNEL, data: { text } });
  const { data } = await other.frames.first(({ event }) => event === 'client-long', 'the whisper');
  assert.deepEqual(data, { text });
});
