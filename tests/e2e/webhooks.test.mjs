// Webhooks as the official server libraries check them, and subscription counts as pusher-js hears them.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { before } from 'node:test';
import { FrontEnd } from './lib/front-end.mjs';
import { KEY, RawClient, sign } from './lib/raw.mjs';
import { startRedis } from './lib/redis.mjs';
import { BACKENDS } from './lib/server-libraries.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';
import { Recorder } from './lib/waiting.mjs';

const SECRET = 'the-secret';
// PyPI's library takes digits only for an app's id.
const APP = { appId: '77', key: KEY, secret: SECRET };
const file = fileLifetime();
/** Requests, each `{ headers, body }` as it came. */
const requests = new Recorder();
let server;

before(async () => {
  const backend = createServer(async (request, response) => {
    let body = '';
    request.setEncoding('utf8');
    for await (const part of request) body += part;
    requests.record({ headers: request.headers, body });
    response.end();
  });
  await new Promise((resolve) => backend.listen(0, '127.0.0.1', resolve));
  await file.keep({ close: () => new Promise((resolve) => { backend.close(resolve); backend.closeAllConnections?.(); }) });
  const redis = await file.keep(startRedis());
  const webhooks = [{ url: `http://127.0.0.1:${backend.address().port}/webhooks` }];
  server = await file.keep(startServer({ redis, clients: [{ ...APP, subscriptionCount: true, webhooks }], shards: 2 }));
});

const events = ({ body }) => JSON.parse(body).events;
const requestWith = (wanted) => requests.first((request) => events(request).some(wanted), 'a webhook');

for (const [library, Backend] of Object.entries(BACKENDS)) {
  promise(`${library}: its own check accepts a webhook, and no other`, async (life) => {
    const [right, wrong] = await Promise.all([{}, { secret: 'wrong' }].map((given) => life.keep(new Backend({ ...APP, port: server.port, ...given }))));
    const channel = `presence-ünï-${Backend.name}`.replace(/[^a-zA-Z-]/g, '_');
    const member = JSON.stringify({ user_id: 7, user_info: { name: 'Ünï' } });
    const client = await life.keep(RawClient.open({ port: server.port }));
    await client.subscribed(channel, { auth: sign(SECRET, client.socketId, channel, member), channel_data: member });
    client.send({ event: 'client-typing', channel, data: { text: 'Ünï/"q" \u{1f389} \u2028' } });

    const added = await requestWith((event) => event.channel === channel && event.name === 'member_added');
    const whispered = await requestWith((event) => event.channel === channel && event.name === 'client_event');
    for (const request of [added, whispered]) {
      assert.deepEqual(await right.webhook(request), JSON.parse(request.body));
      assert.equal(await wrong.webhook(request), null);
      assert.equal(await right.webhook({ ...request, body: request.body.replace('"7"', '"8"') }), null);
    }
    const { data, ...rest } = events(whispered).find((event) => event.name === 'client_event');
    assert.deepEqual(rest, { name: 'client_event', channel, event: 'client-typing', socket_id: client.socketId, user_id: '7' });
    assert.deepEqual(JSON.parse(data), { text: 'Ünï/"q" \u{1f389} \u2028' });
  });
}

for (const pusher of ['pusher-js-7', 'pusher-js-8']) {
  promise(`${pusher}: the number of subscribers`, async (life) => {
    const [ann, bob] = await Promise.all([0, 1].map(() => life.keep(FrontEnd.open({ port: server.port, pusher }))));
    const counts = new Recorder();
    const channel = ann.pusher.subscribe(`orders-${pusher}`);
    channel.bind('pusher:subscription_count', ({ subscription_count: count }) => {
      assert.equal(channel.subscribed, true, 'the count comes after subscription_succeeded');
      counts.record(count);
    });
    await counts.count(1, 'counts');
    bob.pusher.subscribe(`orders-${pusher}`);
    await counts.count(2, 'counts');
    bob.pusher.disconnect();
    await counts.count(3, 'counts');
    assert.deepEqual(counts.items, [1, 2, 1]);
    assert.equal(channel.subscriptionCount, 1);
    const told = await requestWith((event) => event.name === 'subscription_count' && event.channel === channel.name);
    assert.deepEqual(events(told).find((event) => event.channel === channel.name && event.name === 'subscription_count').subscription_count, 1);
  });
}
