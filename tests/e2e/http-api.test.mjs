// Publishing over HTTP with the `pusher` server library, as a backend that has no Redis does.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import Pusher from 'pusher';
import { FrontEnd } from './lib/front-end.mjs';
import { RawClient, KEY } from './lib/raw.mjs';
import { startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const SECRET = 'talent2income-secret';
const file = fileLifetime();
let server;

before(async () => {
  const redis = await file.keep(startRedis());
  server = await file.keep(startServer({ redis, secret: SECRET }));
});

const backend = (given = {}) => new Pusher({ appId: 'talent2income', key: KEY, secret: SECRET, host: '127.0.0.1', port: String(server.port), useTLS: false, ...given });

promise('an event to one channel and an event to several arrive', async (life) => {
  const tab = await life.keep(FrontEnd.open({ port: server.port }));
  const [orders, news] = await Promise.all([tab.channel('orders'), tab.channel('news')].map((channel) => channel.subscribed()));
  const data = { id: 7, text: 'Ünï/"q" \u{1f389} \u2028' };

  const one = await backend().trigger('orders', 'order.shipped', data);
  assert.equal(one.status, 200);
  assert.deepEqual(await one.json(), {});
  assert.deepEqual(await orders.event('order.shipped'), data);

  assert.equal((await backend().trigger(['orders', 'news', 'empty'], 'order.paid', data)).status, 200);
  assert.deepEqual(await orders.event('order.paid'), data);
  assert.deepEqual(await news.event('order.paid'), data);
  assert.deepEqual(orders.names(), ['order.shipped', 'order.paid']);
  assert.deepEqual(news.names(), ['order.paid']);
});

promise("broadcaster: 'reverb' is a Pusher client, too", async (life) => {
  const tab = await life.keep(FrontEnd.open({ port: server.port, options: { broadcaster: 'reverb', cluster: undefined } }));
  const orders = await tab.channel('orders').subscribed();
  await backend().trigger('orders', 'order.shipped', { id: 8 });
  assert.deepEqual(await orders.event('order.shipped'), { id: 8 });
});

promise('the socket that is named is left out, on every channel', async (life) => {
  const [sender, other] = await Promise.all([0, 1].map(() => life.keep(FrontEnd.open({ port: server.port }))));
  const [mine, mineToo, others] = await Promise.all([sender.channel('orders'), sender.channel('news'), other.channel('orders')].map((channel) => channel.subscribed()));
  await backend().trigger(['orders', 'news'], 'first', {}, { socket_id: sender.socketId });
  await backend().trigger(['orders', 'news'], 'last', {});
  await Promise.all([mine, mineToo, others].map((channel) => channel.event('last')));
  assert.deepEqual(mine.names(), ['last']);
  assert.deepEqual(mineToo.names(), ['last']);
  assert.deepEqual(others.names(), ['first', 'last']);
});

promise('a wrong secret, an old timestamp, a changed body and an unknown app are refused, and nothing is delivered', async (life) => {
  const raw = await life.keep(RawClient.open({ port: server.port }));
  await raw.subscribed('orders');
  const status = (promised) => promised.then(({ status }) => status, ({ status }) => status);

  assert.equal(await status(backend({ secret: 'wrong' }).trigger('orders', 'forged', {})), 401);
  assert.equal(await status(backend({ key: 'wrong' }).trigger('orders', 'forged', {})), 401);
  assert.equal(await status(backend({ appId: 'wrong' }).trigger('orders', 'forged', {})), 404);

  const body = JSON.stringify({ name: 'forged', channels: ['orders'], data: '{}' });
  const query = backend().createSignedQueryString({ method: 'POST', path: '/apps/talent2income/events', body });
  const send = (text, signed = query) => fetch(`${server.url}/apps/talent2income/events?${signed}`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: text });
  assert.equal(await status(send(body.replace('{}', '[]'))), 401);
  // Neither signed nor with a key: the old server's answer.
  assert.equal(await status(fetch(`${server.url}/apps/talent2income/events`, { method: 'POST', body })), 403);

  const now = Date.now;
  Date.now = () => now() - 3_600_000;
  const old = backend().createSignedQueryString({ method: 'POST', path: '/apps/talent2income/events', body });
  Date.now = now;
  assert.equal(await status(send(body, old)), 401);

  assert.equal(await status(backend().trigger('orders', 'real', {})), 200);
  await raw.event('real');
  assert.deepEqual(raw.frames.items.map(({ event }) => event).filter((event) => !event.startsWith('pusher')), ['real']);
});
