// The official server libraries against the HTTP API: every method that they have for events, queries,
// users and signatures.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { before } from 'node:test';
import { BACKENDS, Refused } from './lib/server-libraries.mjs';
import { RawClient } from './lib/raw.mjs';
import { RedisClient, startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const SECRET = 'the-secret';
const MASTER_KEY = createHash('sha256').update('any').digest('base64');
// PyPI's library takes digits only for an app's id.
const APP = { appId: '77', key: 'talent2income-key', secret: SECRET };
const OTHER = { appId: '78', key: 'other-key', secret: 'other-secret', keyPrefix: 'other_' };
const file = fileLifetime();
let server;
let redis;

before(async () => {
  redis = await file.keep(startRedis());
  server = await file.keep(startServer({ redis, clients: [APP, OTHER], limits: { eventBytes: 20_000 }, shards: 2 }));
});

const data = { id: 7, text: 'Ünï/"q" \u{1f389} \u2028' };

/** Subscribes to a channel with the library's signature. */
async function join(backend, client, channel, member) {
  const { auth, channel_data } = await backend.authorize(client.socketId, channel, member);
  await client.subscribed(channel, { auth, ...(channel_data && { channel_data }) });
}

async function refused(promised, status) {
  await assert.rejects(promised, (error) => {
    assert.ok(error instanceof Refused, error);
    assert.equal(error.status, status, error.message);
    assert.equal(error.body.code, status);
    return typeof error.body.error === 'string';
  });
}

for (const [library, Backend] of Object.entries(BACKENDS)) {
  const open = (life, given = {}) => life.keep(new Backend({ ...APP, port: server.port, masterKey: MASTER_KEY, ...given }));
  const connect = (life, given = {}) => life.keep(RawClient.open({ port: server.port, ...given }));

  promise(`${library}: events to one channel, to many, in batches, without the sender, encrypted`, async (life) => {
    const [backend, sender, other] = await Promise.all([open(life), connect(life), connect(life)]);
    const many = Array.from({ length: 100 }, (_, n) => `many-${n}`);
    for (const client of [sender, other]) {
      for (const channel of ['orders', 'news', many[99]]) await client.subscribed(channel);
    }
    await join(backend, other, 'private-orders');
    await join(backend, other, 'private-encrypted-orders');

    assert.deepEqual(await backend.trigger('orders', 'one', data), {});
    assert.deepEqual(await backend.trigger(many, 'many', data), {});
    assert.deepEqual(await backend.trigger(['orders', 'private-orders'], 'others', data, sender.socketId), {});
    const batch = [
      { channel: 'orders', name: 'batched', data: { n: 1 } },
      { channel: 'news', name: 'batched', data: { n: 2 }, socket_id: sender.socketId },
      { channel: 'private-orders', name: 'batched', data: { n: 3 }, info: 'subscription_count' },
    ];
    assert.deepEqual(await backend.batch(batch), { batch: [{}, {}, { subscription_count: 1 }] });
    assert.deepEqual(await backend.batch([{ channel: 'orders', name: 'batched', data: { n: 4 } }]), {});
    assert.deepEqual(await backend.trigger('private-encrypted-orders', 'secret', data), {});
    assert.deepEqual(await backend.trigger('orders', 'last', data), {});

    await Promise.all([sender, other].map((client) => client.event('last')));
    const heard = (client) => client.frames.items.filter(({ event }) => !event.startsWith('pusher')).map(({ channel, event }) => `${event} ${channel}`);
    assert.deepEqual(heard(sender), ['one orders', 'many many-99', 'batched orders', 'batched orders', 'last orders']);
    assert.deepEqual(heard(other), [
      'one orders', 'many many-99', 'others orders', 'others private-orders', 'batched orders', 'batched news',
      'batched private-orders', 'batched orders', 'secret private-encrypted-orders', 'last orders',
    ]);
    assert.deepEqual(JSON.parse((await sender.event('one')).data), data);
    assert.deepEqual(Object.keys(JSON.parse((await other.event('secret')).data)).sort(), ['ciphertext', 'nonce']);
  });

  promise(`${library}: who is there`, async (life) => {
    const backend = await open(life);
    assert.deepEqual((await backend.channels('who-')).channels, {});
    const clients = await Promise.all([0, 1, 2].map(() => connect(life)));
    await clients[0].subscribed('who-news');
    // A user's two tabs, one with a number for an id, as Laravel sends it.
    for (const [index, user_id] of [7, '7', 'ann'].entries()) {
      await join(backend, clients[index], 'presence-who', { user_id, user_info: { name: 'Zoë' } });
    }
    assert.deepEqual(await backend.channels('who-'), { channels: { 'who-news': {} } });
    const counts = { user_count: 2, subscription_count: 3 };
    assert.deepEqual(await backend.channels('presence-who', ['user_count', 'subscription_count']), { channels: { 'presence-who': counts } });
    assert.deepEqual(await backend.channel('presence-who', ['user_count', 'subscription_count']), { occupied: true, ...counts });
    assert.deepEqual(await backend.channel('who-news'), { occupied: true });
    assert.deepEqual(await backend.channel('who-nobody', ['subscription_count']), { occupied: false, subscription_count: 0 });
    assert.deepEqual(await backend.users('presence-who'), { users: [{ id: '7' }, { id: 'ann' }] });
    assert.deepEqual(await backend.users('presence-nobody'), { users: [] });
  });

  promise(`${library}: events to a user, and the end of a user's connections`, async (life) => {
    const backend = await open(life);
    const clients = await Promise.all([0, 1, 2].map(() => connect(life)));
    for (const [index, id] of ['7', '7', 'ann'].entries()) {
      const { auth, user_data } = await backend.authenticateUser(clients[index].socketId, { id, user_info: { name: 'Zoë' } });
      clients[index].send({ event: 'pusher:signin', data: { auth, user_data } });
      await clients[index].event('pusher:signin_success');
      await clients[index].subscribed(`#server-to-user-${id}`, { auth: '' });
    }
    assert.deepEqual(await backend.sendToUser('7', 'notice', data), {});
    const frames = await Promise.all(clients.slice(0, 2).map((client) => client.event('notice')));
    for (const frame of frames) assert.deepEqual(JSON.parse(frame.data), data);
    assert.deepEqual(await backend.terminate('7'), {});
    assert.deepEqual((await Promise.all(clients.slice(0, 2).map((client) => client.closed))).map(({ code }) => code), [4009, 4009]);
    assert.deepEqual(await backend.sendToUser('ann', 'still', data), {});
    await clients[2].event('still');
    assert.equal(clients[2].frames.items.some(({ event }) => event === 'notice'), false);
  });

  promise(`${library}: what is refused is an error of the library, with the status and a sentence`, async (life) => {
    const [backend, forger, stranger, lost] = await Promise.all([{}, { secret: 'wrong' }, { key: 'wrong' }, { appId: '79' }].map((given) => open(life, given)));
    const client = await connect(life);
    await client.subscribed('orders');
    await refused(forger.trigger('orders', 'forged', data), 401);
    await refused(forger.channels(), 401);
    await refused(forger.terminate('7'), 401);
    await refused(stranger.trigger('orders', 'forged', data), 401);
    await refused(lost.trigger('orders', 'forged', data), 404);
    await refused(backend.channels(undefined, ['user_count']), 400);
    await refused(backend.channel('orders', ['user_count']), 400);
    await refused(backend.users('orders'), 400);
    await refused(backend.batch(Array.from({ length: 11 }, () => ({ channel: 'orders', name: 'forged', data: {} }))), 400);
    await refused(backend.trigger('orders', 'forged', 'x'.repeat(20_001)), 413);
    assert.deepEqual(await backend.trigger('orders', 'real', 'x'.repeat(20_000)), {});
    await client.event('real');
    assert.equal(client.frames.items.some(({ event }) => event === 'forged'), false);
  });
}

promise('npm pusher 5.3.4: an event that asks for counts', async (life) => {
  const client = await life.keep(RawClient.open({ port: server.port }));
  await client.subscribed('orders');
  const { pusher } = new BACKENDS['npm pusher 5.3.4']({ ...APP, port: server.port });
  const answer = await pusher.trigger(['orders', 'presence-nobody'], 'counted', {}, { info: 'user_count,subscription_count' });
  assert.deepEqual(await answer.json(), {
    channels: { orders: { subscription_count: 1 }, 'presence-nobody': { user_count: 0, subscription_count: 0 } },
  });
});

promise('two apps: events of Redis go to the app of their prefix, those of HTTP to the app that was asked', async (life) => {
  const [mine, theirs, publisher] = await Promise.all([
    life.keep(RawClient.open({ port: server.port })),
    life.keep(RawClient.open({ port: server.port, key: OTHER.key })),
    life.keep(RedisClient.open(redis.port)),
  ]);
  await Promise.all([mine, theirs].map((client) => client.subscribed('orders')));
  const backend = new BACKENDS['npm pusher 5.3.4']({ ...OTHER, port: server.port });
  await publisher.publish('other_orders', 'theirs', {});
  await publisher.publish('orders', 'mine', {});
  await Promise.all([mine.event('mine'), theirs.event('theirs')]);
  await backend.trigger('orders', 'theirs too', {});
  await theirs.event('theirs too');
  const heard = (client) => client.frames.items.map(({ event }) => event).filter((event) => !event.startsWith('pusher'));
  assert.deepEqual(heard(mine), ['mine']);
  assert.deepEqual(heard(theirs), ['theirs', 'theirs too']);
  assert.deepEqual(Object.keys((await backend.channels()).channels), ['orders']);
});
