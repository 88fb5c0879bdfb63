// The HTTP API of the npm package laravel-echo-server and of this server, started with the same file and asked the
// same. What is different is on the list of lib/differences.mjs.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import Pusher from 'pusher';
import { DIFFERENCES } from './lib/differences.mjs';
import { USERS, startLaravel } from './lib/laravel.mjs';
import { startRedis } from './lib/redis.mjs';
import { Comparison, rawRequest, startBoth } from './lib/side-by-side.mjs';
import { SocketIoTab } from './lib/socketio.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const { john, jane } = USERS;
const KEY = '?auth_key=key1';
const CORS = { allowCors: true, allowOrigin: 'http://admin.example', allowMethods: 'GET, POST', allowHeaders: 'Origin, Content-Type, Authorization' };

const file = fileLifetime();
const comparison = new Comparison(DIFFERENCES);
let redis;
let laravel;
let both;

before(async () => {
  redis = await file.keep(startRedis());
  laravel = await file.keep(startLaravel({ redis }));
  both = await startBoth(file, { redis, laravel });
});

const each = async (ask) => {
  const [old, ours] = await Promise.all([ask(both.old), ask(both.ours)]);
  return { old, ours };
};

/** What a script can see of an answer, but for the headers of Express. */
function seen({ status, headers, body }) {
  const shown = { status };
  for (const name of ['content-type', 'allow', 'access-control-allow-origin', 'access-control-allow-methods', 'access-control-allow-headers']) {
    if (headers && name in headers) shown[name] = headers[name];
  }
  shown.body = headers?.['content-type']?.startsWith('application/json') && body ? JSON.parse(body) : body;
  return shown;
}

const ask = async (request, servers = both) => {
  const [old, ours] = await Promise.all([rawRequest(servers.old, request), rawRequest(servers.ours, request)]);
  return { old: seen(old), ours: seen(ours) };
};

const named = ({ method = 'GET', path, headers, body }) => [method, path, headers && JSON.stringify(headers), body].filter(Boolean).join(' ');

/** The same answer from both. */
async function same(request, servers) {
  const answers = await ask(request, servers);
  comparison.same(named(request), answers);
  return answers.ours;
}

/** The same answer, but that this server adds a sentence. */
async function sameRefusal(request, servers) {
  const { old, ours } = await ask(request, servers);
  const { message, ...body } = ours.body;
  assert.match(message, /^.{20,}$/, named(request));
  comparison.different(named(request), { old, ours }, 'refusals say why', { old, ours: { ...old, body: { ...old.body, message } } });
  comparison.same(named(request), { old, ours: { ...ours, body } });
  return ours;
}

/** 404 from both, one as a page and one as JSON. */
async function nothingThere(request, servers) {
  const { old, ours } = await ask(request, servers);
  assert.match(old.body, /<pre>Cannot /);
  assert.equal(typeof ours.body.error, 'string');
  comparison.different(named(request), { old: old.status, ours: { status: ours.status, json: true } }, 'what is not there', { old: 404, ours: { status: 404, json: true } });
}

async function differ(request, because, expected) {
  const { old, ours } = await ask(request);
  comparison.different(named(request), { old: old.status, ours: ours.status }, because, expected);
  return { old, ours };
}

const post = (body, more = {}) => ({ method: 'POST', path: `/apps/app1/events${KEY}`, body: typeof body === 'string' ? body : JSON.stringify(body), ...more });

promise('what the HTTP API says of an empty server', async () => {
  for (const method of ['GET', 'HEAD', 'OPTIONS']) await same({ method, path: '/' });
  for (const path of ['/apps/app1/channels', '/Apps/app1/CHANNELS/', '/apps/app1/channels/public', '/apps/app1/channels/private-a', '/apps/app1/channels/a%20b',
    '/apps/app1/channels/presence-a', '/apps/app1/channels/presence-a/users', '/apps/app1/channels/public/users', '/apps/app1/channels/private-a/users/']) {
    for (const method of ['GET', 'HEAD']) await same({ method, path: path + KEY });
    await same({ path, headers: { Authorization: 'Bearer key1' } });
    await same({ path, headers: { Authorization: 'key1' } });
    await same({ method: 'OPTIONS', path });
  }
  await same({ method: 'OPTIONS', path: '/apps/app1/events' });
  await same({ method: 'OPTIONS', path: '/apps/app1/status' });
  const { old, ours } = await each((server) => rawRequest(server, { path: `/apps/app1/channels${KEY}` }));
  const names = (answer) => Object.keys(answer.headers).filter((name) => !['date', 'connection', 'keep-alive', 'content-length'].includes(name)).sort();
  comparison.different('headers', { old: names(old), ours: names(ours) }, 'headers of Express', { old: ['content-type', 'etag', 'x-powered-by'], ours: ['content-type'] });
});

promise('who is refused, and how', async () => {
  const paths = ['/apps/app1/channels', '/apps/app1/channels/public', '/apps/app1/channels/presence-a/users', '/apps/app1/status'];
  const requests = [
    ...paths.map((path) => ({ path })),
    ...paths.map((path) => ({ path: `${path}?auth_key=wrong` })),
    { path: '/apps/other/channels?auth_key=key1' },
    { path: '/apps/app1/channels?auth_key=KEY1' },
    { path: '/apps/app1/channels?auth_key=key1&auth_key=key1' },
    { path: `/apps/app1/channels${KEY}`, headers: { Authorization: 'Bearer wrong' } },
    { path: '/apps/app1/channels', headers: { Authorization: 'bearer key1' } },
    { path: '/apps/app1/channels', headers: { Authorization: 'Basic key1' } },
    post({ name: 'e', channel: 'c', data: 1 }, { path: '/apps/app1/events' }),
    post({ name: 'e', channel: 'c', data: 1 }, { path: '/apps/other/events?auth_key=key1' }),
  ];
  for (const request of requests) assert.equal((await sameRefusal(request)).status, 403);

  const path = `/apps/app1/channels${KEY}`;
  for (const headers of [{ 'X-Forwarded-For': '192.0.2.1' }, { Forwarded: 'for=192.0.2.1' }, { Via: '1.1 proxy' }, { Host: 'echo.example' }, { Connection: 'close' }]) {
    await differ({ path, headers }, 'the key from elsewhere', { old: 200, ours: 403 });
  }
  for (const headers of [{ Origin: 'https://evil.example' }, { 'Sec-Fetch-Site': 'cross-site' }]) {
    await differ({ path, headers }, 'the key from a page', { old: 200, ours: 403 });
  }
});

promise('what is not there', async () => {
  const there = [{ path: '/nothing' }, { path: '/apps' }, { method: 'POST', path: '/' }, { method: 'OPTIONS', path: '/apps/app1/nothing' },
    { path: `/apps/app1/events${KEY}` }, { method: 'DELETE', path: `/apps/app1/channels${KEY}` }, { method: 'POST', path: `/apps/app1/channels${KEY}` }];
  for (const request of there) await nothingThere(request);
  for (const request of [{ method: 'POST', path: `/apps/app1/batch_events${KEY}` }, { path: `/apps/app1/nothing${KEY}` }]) {
    await differ(request, 'paths of Pusher', { old: 404, ours: 401 });
  }
});

promise('what is told of channels and their users, while pages are there', async (life) => {
  const tabs = await each(async (server) => {
    const open = (user) => life.keep(SocketIoTab.open({ server, token: user.token }));
    const [johns, janes, janesOther] = [await open(john), await open(jane), await open(jane)];
    for (const tab of [johns, janes]) await tab.channel('public').subscribed();
    await johns.private('conversation.1-2').subscribed();
    for (const tab of [johns, janes, janesOther]) {
      const room = await tab.join('online-users').subscribed();
      await room.saw('here');
    }
    return { johns, janes, janesOther };
  });
  for (const path of ['channels', 'channels/public', 'channels/private-conversation.1-2', 'channels/presence-online-users', 'channels/presence-online-users/users']) {
    await same({ path: `/apps/app1/${path}${KEY}` });
  }
  for (const prefix of ['private-', 'presence-', 'p', 'nothing']) await same({ path: `/apps/app1/channels${KEY}&filter_by_prefix=${prefix}` });
  const { body } = await same({ path: `/apps/app1/channels/presence-online-users${KEY}` });
  assert.deepEqual(body, { subscription_count: 3, occupied: true, user_count: 2 });

  const status = await each(async (server) => JSON.parse((await rawRequest(server, { path: `/apps/app1/status${KEY}` })).body));
  const shape = (value) => (value !== null && typeof value === 'object' ? Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, shape(inner)])) : typeof value);
  comparison.same('the form of status', { old: shape(status.old), ours: shape(status.ours) });
  comparison.same('connections', { old: status.old.subscription_count, ours: status.ours.subscription_count });
  const { external, arrayBuffers } = status.ours.memory_usage;
  comparison.different('memory', { old: status.old.memory_usage.external > 0, ours: external + arrayBuffers > 0 }, 'memory of the process', { old: true, ours: false });

  // John, user 1, comes back as the last one.
  await each(async (server) => {
    const { johns, janes } = server === both.old ? tabs.old : tabs.ours;
    johns.leave('online-users');
    await janes.join('online-users').saw('leaving');
    await (await johns.join('online-users').subscribed()).saw('here');
  });
  const users = await ask({ path: `/apps/app1/channels/presence-online-users/users${KEY}` });
  const ids = ({ body: { users: list } }) => list.map(({ id }) => id);
  comparison.different('users', { old: ids(users.old), ours: ids(users.ours) }, 'order of users', { old: [2, 1], ours: [1, 2] });
  const byId = (answer) => ({ ...answer, body: { users: [...answer.body.users].sort((a, b) => a.id - b.id) } });
  comparison.same('users', { old: byId(users.old), ours: byId(users.ours) });
});

promise('events that are posted', async (life) => {
  const tabs = await each(async (server) => {
    const [one, other] = [await life.keep(SocketIoTab.open({ server })), await life.keep(SocketIoTab.open({ server }))];
    for (const tab of [one, other]) for (const name of ['news', 'more', 'fence']) await tab.channel(name).subscribed();
    return [one, other];
  });
  const events = [
    { name: 'App\\Events\\E', channel: 'news', data: { a: [1, 'ü', null] } },
    { name: 'e', channel: 'news', data: '{"text":"of JSON"}' },
    { name: 'e', channel: 'news', data: 'no JSON' },
    { name: 'e', channel: 'news', data: '7' },
    { name: 'e', channel: 'news', data: [] },
    { name: 'e', channel: 'news', data: {} },
    { name: 'e', channel: 'news', data: 7 },
    { name: 'e', channel: 'news', data: true },
    { name: 'e', channel: 'ignored', channels: ['news', 'more'], data: 1 },
    { name: 'e', channels: ['nobody-is-here'], data: 1 },
    { name: 'e', channels: [], data: 1 },
    { name: 'e', channel: 'news', data: 1, socket_id: '1.2' },
    { name: 'e', channel: 'news', data: 1, socket_id: null, info: 'user_count' },
    { name: 'e', channel: 'news', data: 'x'.repeat(300_000) },
    // With no type or another one, as scripts write it.
    ['{"name":"e","channel":"news","data":{"from":"curl"}}', { headers: { 'Content-Type': 'application/x-www-form-urlencoded' } }],
    ['{"name":"e","channel":"news","data":{"by":"header"}}', { path: '/apps/app1/events', headers: { Authorization: 'Bearer key1' } }],
  ];
  for (const event of events) {
    const { body } = await same(Array.isArray(event) ? post(...event) : post(event));
    assert.deepEqual(body, { message: 'ok' });
  }
  // To all but the sender.
  await each(async (server) => {
    const [one] = server === both.old ? tabs.old : tabs.ours;
    await rawRequest(server, post({ name: 'others', channel: 'news', data: 1, socket_id: one.socketId }));
    await rawRequest(server, post({ name: 'fence', channel: 'fence', data: 1 }));
  });
  const heard = async ([...both]) => {
    for (const tab of both) await tab.events.first(([name]) => name === 'fence', 'the last event');
    return both.map((tab) => tab.events.items);
  };
  const { old, ours } = { old: await heard(tabs.old), ours: await heard(tabs.ours) };
  assert.equal(old[0].length, 16, 'what the first one hears');
  comparison.same('what is heard', { old, ours });

  for (const body of [{}, { name: 'e', channel: 'news' }, { name: 'e', data: 1 }, { channel: 'news', data: 1 }, { name: 'e', channel: 'news', data: 0 }, { name: 'e', channel: 'news', data: '' },
    { name: 'e', channel: 'news', data: false }, { name: 'e', channel: 'news', data: null }, { name: '', channel: 'news', data: 1 }, { name: 'e', channel: '', data: 1 }, []]) {
    assert.equal((await sameRefusal(post(body))).status, 400);
  }
  await differ(post({ name: 5, channel: 'news', data: 1 }), 'types of an event', { old: 200, ours: 400 });
  await differ(post({ name: 'e', channel: 'a b', data: 1 }), 'types of an event', { old: 200, ours: 400 });
});

promise('Laravel\'s way to sign', async (life) => {
  const trigger = async (server, secret) => {
    const pusher = new Pusher({ appId: 'app1', key: 'key1', secret, host: '127.0.0.1', port: String(server.port), useTLS: false });
    const response = await pusher.trigger('news', 'e', { a: 1 });
    return { status: response.status, body: await response.json() };
  };
  // No secret in the file, as with the old server: whatever it is signed with counts for nothing.
  comparison.same('signed with anything', await each((server) => trigger(server, 'anything')));
  const withSecret = await startBoth(life, { redis, laravel, extra: { clients: [{ appId: 'app1', key: 'key1', secret: 'secret1' }] } });
  const refused = async (server) => (await trigger(server, 'anything').catch(({ status }) => ({ status }))).status;
  comparison.different('signed with another secret', { old: await refused(withSecret.old), ours: await refused(withSecret.ours) }, 'signatures', { old: 200, ours: 401 });
  comparison.different('signed well', { old: await trigger(withSecret.old, 'secret1'), ours: await trigger(withSecret.ours, 'secret1') }, 'answers to what is signed', {
    old: { status: 200, body: { message: 'ok' } },
    ours: { status: 200, body: {} },
  });
});

promise('pages that may use the HTTP API', async (life) => {
  const servers = await startBoth(life, { redis, laravel, extra: { apiOriginAllow: CORS } });
  const headers = { Origin: CORS.allowOrigin };
  for (const path of ['/', '/apps/app1/events', '/apps/app1/channels', '/apps/app1/channels/a/users']) {
    await same({ method: 'OPTIONS', path, headers: { ...headers, 'Access-Control-Request-Method': 'POST', 'Access-Control-Request-Headers': 'authorization' } }, servers);
  }
  for (const path of ['/', `/apps/app1/channels${KEY}`, `/apps/app1/channels/a/users${KEY}`]) await same({ path, headers }, servers);
  await same({ path: `/apps/app1/channels${KEY}` }, servers);
  const { body } = await same(post({ name: 'e', channel: 'news', data: 1 }, { headers }), servers);
  assert.deepEqual(body, { message: 'ok' });
  const refused = await sameRefusal({ path: '/apps/app1/channels', headers }, servers);
  assert.equal(refused['access-control-allow-origin'], CORS.allowOrigin);
  await nothingThere({ path: '/nothing', headers }, servers);
});

promise('events by HTTP switched off', async (life) => {
  const servers = await startBoth(life, { redis, laravel, extra: { subscribers: { http: false, redis: true } } });
  await nothingThere(post({ name: 'e', channel: 'news', data: 1 }), servers);
  await same({ path: `/apps/app1/channels${KEY}` }, servers);
});

// The old server does not live through one of these.
for (const body of ['', 'null', 'nonsense', '{"name":"e","channels":"news","data":1}', '{"name":"e","channel":"news","data":1,"socket_id":"constructor"}']) {
  promise(`a body that ended the old server: ${body || 'none'}`, async (life) => {
    const { old, ours } = await startBoth(life, { redis, laravel });
    const answers = { old: await rawRequest(old, post(body)), ours: await rawRequest(ours, post(body)) };
    const expected = body.includes('constructor') ? 200 : 400;
    comparison.different(body, { old: answers.old.status, ours: answers.ours.status }, 'bodies that are no event', { old: 0, ours: expected });
    const { code } = await old.exited;
    assert.notEqual(code, 0);
    assert.equal((await rawRequest(ours, { path: '/' })).status, 200);
  });
}

const HERE = ['headers of Express', 'refusals say why', 'what is not there', 'paths of Pusher', 'bodies that are no event', 'types of an event', 'the key from elsewhere', 'the key from a page', 'memory of the process', 'order of users', 'signatures', 'answers to what is signed'];

after(() => assert.deepEqual([...comparison.used].sort(), [...HERE].sort(), 'what these tests have seen of the list'));
