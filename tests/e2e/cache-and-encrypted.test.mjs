// Cache and encrypted channels with unmodified pusher-js and Echo: the last event for who comes later,
// and events that only the backend and the browsers can read.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { library, startBackend } from './lib/backend.mjs';
import { FrontEnd, called } from './lib/front-end.mjs';
import { PREFIX } from './lib/laravel.mjs';
import { RawClient, sign } from './lib/raw.mjs';
import { RedisClient, startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';
import { Recorder, within } from './lib/waiting.mjs';

const SECRET = 'talent2income-secret';
const PUSHERS = ['pusher-js-7', 'pusher-js-8'];
const headers = { 'X-User': '{"id":"ann"}' };
const file = fileLifetime();
const ways = {};
let backend;
let server;
let redis;

before(async () => {
  const redisServer = await file.keep(startRedis());
  const signer = await file.keep(startBackend({ secret: SECRET }));
  server = await file.keep(startServer({ redis: redisServer, laravel: signer, secret: SECRET }));
  redis = await file.keep(RedisClient.open(redisServer.port));
  backend = library({ port: server.port, secret: SECRET });
  ways.signature = `${signer.url}/broadcasting/auth`;
  ways.gateway = `${server.url}/broadcasting/auth`;
});

const open = (life, pusher, authEndpoint = ways.signature) => life.keep(FrontEnd.open({ pusher, port: server.port, options: { authEndpoint, auth: { headers } } }));

/** Subscribes by pusher-js itself; all that arrives, in order, cache_miss included. */
function watch(tab, name) {
  const events = new Recorder();
  const channel = tab.pusher.subscribe(name);
  channel.bind_global((event, data) => events.record({ event, data }));
  return events;
}

const succeeded = ({ event }) => event === 'pusher:subscription_succeeded';

for (const pusher of PUSHERS) {
  for (const kind of ['cache', 'private-cache', 'presence-cache', 'private-encrypted-cache']) {
    promise(`${kind}: a miss at first, then the last event for who comes later, with ${called(pusher)}`, async (life) => {
      const name = `${kind}-prices-${pusher}`;
      const first = watch(await open(life, pusher), name);
      await first.count(2, 'the miss');
      assert.ok(succeeded(first.items[0]));
      assert.equal(first.items[1].event, 'pusher:cache_miss');
      for (const n of [1, 2]) assert.equal((await backend.trigger(name, 'price', { n })).status, 200);
      const later = await first.first(({ data }) => data?.n === 2, 'the second event').then(() => open(life, pusher));
      const events = watch(later, name);
      await events.count(2, 'the last event');
      assert.ok(succeeded(events.items[0]));
      assert.deepEqual(events.items[1], { event: 'price', data: { n: 2 } });
      await backend.trigger(name, 'price', { n: 3 });
      await Promise.all([first, events].map((seen) => seen.first(({ data }) => data?.n === 3, 'a live event')));
      const numbers = ({ items }) => items.filter(({ event }) => event === 'price').map(({ data }) => data.n);
      assert.deepEqual([numbers(first), numbers(events)], [[1, 2, 3], [2, 3]]);
    });
  }

  for (const [way, name] of [['signature', 'secrets'], ['gateway', 'secrets']]) {
    promise(`${way}: Echo's encryptedPrivate decrypts what the backend encrypts, with ${called(pusher)}`, async (life) => {
      const tab = await open(life, pusher, ways[way]);
      const heard = new Recorder();
      const channel = tab.echo.encryptedPrivate(name);
      channel.listen('.note', (data) => heard.record(data));
      await within(new Promise((resolve) => channel.subscription.bind('pusher:subscription_succeeded', resolve)), 'the encrypted channel');
      const raw = await life.keep(RawClient.open({ port: server.port }));
      await raw.subscribed(`private-encrypted-${name}`, { auth: sign(SECRET, raw.socketId, `private-encrypted-${name}`) });
      const data = { text: 'Ünï/"q" \u{1f389}' };
      assert.equal((await backend.trigger(`private-encrypted-${name}`, 'note', data)).status, 200);
      assert.deepEqual(await heard.first(() => true, 'the note'), data);
      // What the server and the wire see is no plain text.
      const sealed = JSON.parse((await raw.event('note')).data);
      assert.deepEqual(Object.keys(sealed).sort(), ['ciphertext', 'nonce']);
      // pusher-js does not send client events there; a client that does is refused.
      raw.send({ event: 'client-typing', channel: `private-encrypted-${name}`, data: {} });
      assert.match((await raw.event('pusher:error')).data.message, /encrypted/);
    });
  }
}

promise('an event from Redis is kept, too', async (life) => {
  const first = watch(await open(life, 'pusher-js-8'), 'cache-news');
  await first.count(2, 'the miss');
  for (const n of [1, 2]) await redis.publish(`${PREFIX}cache-news`, 'news', { n });
  await first.first(({ data }) => data?.n === 2, 'the second event');
  const events = watch(await open(life, 'pusher-js-7'), 'cache-news');
  await events.count(2, 'the last event');
  assert.deepEqual(events.items[1], { event: 'news', data: { n: 2 } });
});
