// Side by side: the old server and this one, started with the same file, hear the same from clients, Redis and
// Laravel, and each client must see the same, frame by frame. What differs on purpose is taken out by `plain`.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { before } from 'node:test';
import { fileURLToPath } from 'node:url';
import WebSocket from 'ws';
import { Component, freePort } from './lib/component.mjs';
import { RedisClient, laravelPayload, startRedis } from './lib/redis.mjs';
import { binary } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';
import { PATIENCE, Recorder, within } from './lib/waiting.mjs';

const OLD = fileURLToPath(new URL('./node_modules/laravel-echo-server-1/bin/server.js', import.meta.url));
const file = fileLifetime();
const servers = {};
let publisher;
/** What the old server says of its lists of members. */
let lists;

/** Answers as Laravel's redis broadcaster does; `…-deny-403` is answered 403, and a header says who asks. */
async function startApplication() {
  const application = createServer((request, response) => {
    let body = '';
    request.on('data', (part) => { body += part; });
    request.on('end', () => {
      const channel = new URLSearchParams(body).get('channel_name');
      const user = Number(request.headers['x-user']);
      const status = Number(/-deny-(\d+)$/.exec(channel)?.[1] ?? 200);
      response.writeHead(status, { 'Content-Type': 'application/json', ...(status === 302 && { Location: '/login' }) });
      response.end(channel.startsWith('presence-') ? JSON.stringify({ channel_data: { user_id: user, user_info: { name: `u${user}` } } }) : 'true');
    });
  });
  await new Promise((resolve) => application.listen(0, '127.0.0.1', resolve));
  await file.keep({ close: () => application.close() });
  return application.address().port;
}

before(async () => {
  const redis = await file.keep(startRedis());
  publisher = await file.keep(RedisClient.open(redis.port));
  lists = await file.keep(RedisClient.open(redis.port));
  await lists.command('SUBSCRIBE', 'PresenceChannelUpdated');
  const application = await startApplication();
  for (const [name, command, args, ready] of [['old', process.execPath, [OLD], /Server ready!/], ['ours', binary(), [], /Listening for events from Redis/]]) {
    const server = new Component(`the ${name} server`, { prefix: name });
    server.port = await freePort();
    writeFileSync(join(server.dir, 'laravel-echo-server.json'), JSON.stringify({
      authHost: `http://127.0.0.1:${application}`,
      authEndpoint: '/broadcasting/auth',
      clients: [{ appId: 'app1', key: 'key1' }],
      database: 'redis',
      databaseConfig: { redis: { host: '127.0.0.1', port: String(redis.port) }, publishPresence: true },
      devMode: true,
      host: '127.0.0.1',
      port: String(server.port),
      protocol: 'http',
      socketio: {},
    }));
    server.run(command, [...args, 'start', '--dir', server.dir]);
    await server.line(ready);
    servers[name] = await file.keep(server);
  }
});

/** What both servers must say alike: ids differ, and members' and senders' ids are not told to others here. */
function plain(text) {
  if (text.startsWith('0')) return { ...JSON.parse(text.slice(1)), sid: 'SID' };
  if (!text.startsWith('42')) return text;
  const [event, channel, data] = JSON.parse(text.slice(2));
  const without = (member) => {
    const { socketId, ...rest } = member;
    return rest;
  };
  if (event === 'presence:subscribed') return [event, channel, data.map(without)];
  if (event === 'presence:joining') return [event, channel, without(data)];
  if (data?.socket) delete data.socket;
  return [event, channel, data];
}

/** The line of either server; the old one's is coloured. */
function joined(channel) {
  return new RegExp(`joined channel: ${channel}(\\u001b|$)`);
}

class Client {
  frames = new Recorder();

  static async open(server) {
    const client = new Client();
    client.server = server;
    client.socket = new WebSocket(`ws://127.0.0.1:${server.port}/socket.io/?EIO=3&transport=websocket`, { perMessageDeflate: false });
    client.socket.on('error', () => {});
    client.socket.on('close', () => client.frames.record('closed'));
    client.socket.on('message', (bytes) => {
      const text = String(bytes);
      if (text.startsWith('0')) client.sid = JSON.parse(text.slice(1)).sid;
      client.frames.record(plain(text));
    });
    await client.frames.first((frame) => frame === '40', 'the welcome');
    return client;
  }

  emit(event, argument) {
    this.socket.send(`42${JSON.stringify([event, argument])}`);
  }

  /** Subscribes as this user, and waits for the line that both servers write when it is done. */
  async joins(channel, user = 0) {
    const from = this.server.mark;
    this.emit('subscribe', { channel, auth: { headers: { 'X-User': String(user) } } });
    await this.server.line(joined(channel), { from });
  }

  async leaves(channel) {
    const from = this.server.mark;
    this.emit('unsubscribe', { channel, auth: {} });
    await this.server.line(new RegExp(`left channel: ${channel}`), { from });
  }

  sees(event, count = 1) {
    const seen = (frame) => Array.isArray(frame) && frame[0] === event;
    return within((async () => {
      while (this.frames.items.filter(seen).length < count) await this.frames.count(this.frames.items.length + 1, event);
    })(), `${count} × ${event}`, PATIENCE);
  }

  /** All before has been handled. */
  async fence() {
    const before = this.frames.items.filter((frame) => frame === '3').length;
    this.socket.send('2');
    await within((async () => {
      while (this.frames.items.filter((frame) => frame === '3').length <= before) await this.frames.count(this.frames.items.length + 1, 'pong');
    })(), 'the pong');
  }
}

async function compare(life, scenario) {
  const seen = {};
  for (const [name, server] of Object.entries(servers)) {
    const clients = {};
    let written = lists.messages.items.length;
    await scenario({
      open: async (called) => {
        clients[called] = await Client.open(server);
        await life.keep({ close: () => clients[called].socket.terminate() });
        return clients[called];
      },
      publish: (channel, event, data, socket) => publisher.command('PUBLISH', channel, laravelPayload(event, data, socket)),
      raw: (channel, payload) => publisher.command('PUBLISH', channel, payload),
      // The old server forgets one of two changes that come together: it reads and writes its list in Redis twice
      // for each, after it has said what has changed. Each time it tells so (`publishPresence`).
      settled: async () => {
        written += 2;
        if (name === 'old') await lists.messages.count(written, 'writing of the old server\'s list');
      },
    });
    seen[name] = Object.fromEntries(Object.entries(clients).map(([called, { frames }]) => [called, [...frames.items]]));
    // Both listen to one Redis: what the other server is sent now is not for these.
    for (const { socket } of Object.values(clients)) socket.terminate();
  }
  assert.deepEqual(seen.ours, seen.old);
  return seen.old;
}

promise('events, toOthers, whispers and refusals', async (life) => {
  const seen = await compare(life, async ({ open, publish, raw }) => {
    const [ann, bob, eve] = [await open('ann'), await open('bob'), await open('eve')];
    for (const client of [ann, bob]) {
      await client.joins('pub');
      await client.joins('private-room', 1);
    }
    await publish('private-room', 'E1', { a: 1, text: 'é😀/"<' }, ann.sid);
    await publish('private-room', 'E2', { a: 2 }, 'unknown');
    await publish('private-room', 'App\\Events\\E3', [1, { b: null }]);
    await raw('pub', '{"event":"no-data"}');
    await raw('pub', '{"event":"scalar","data":"text"}');
    for (const client of [ann, bob]) await client.sees('scalar');
    ann.emit('client event', { channel: 'private-room', event: 'client-typing', data: { x: 1 } });
    await bob.sees('client-typing');
    bob.emit('client event', JSON.stringify({ channel: 'private-room', event: 'client-text', data: 'x' }));
    await ann.sees('client-text');
    // On a public channel, and by somebody who is no member: silence.
    ann.emit('client event', { channel: 'pub', event: 'client-public', data: 1 });
    eve.emit('client event', { channel: 'private-room', event: 'client-foreign', data: 1 });
    for (const [index, status] of [403, 419, 500, 302, 201].entries()) {
      eve.emit('subscribe', { channel: `private-deny-${status}`, auth: { headers: { 'X-User': '1' } } });
      await eve.sees('subscription_error', index + 1);
    }
    await bob.leaves('pub');
    await publish('pub', 'late', {});
    await ann.sees('late');
    for (const client of [ann, bob, eve]) await client.fence();
  });
  assert.ok(seen.bob.length > 7 && seen.eve.length > 7);
});

promise('presence: lists, joining, leaving, two connections of one user, and leaving the namespace', async (life) => {
  const seen = await compare(life, async ({ open, publish, settled }) => {
    const [ann, bob, again] = [await open('ann'), await open('bob'), await open('again')];
    ann.emit('subscribe', { channel: 'presence-r', auth: { headers: { 'X-User': '1' } } });
    await ann.sees('presence:subscribed');
    await settled();
    bob.emit('subscribe', { channel: 'presence-r', auth: { headers: { 'X-User': '2' } } });
    await Promise.all([bob.sees('presence:subscribed'), ann.sees('presence:joining')]);
    await settled();
    again.emit('subscribe', { channel: 'presence-r', auth: { headers: { 'X-User': '1' } } });
    await again.sees('presence:subscribed');
    await settled();
    await again.leaves('presence-r');
    await settled();
    await ann.leaves('presence-r');
    await bob.sees('presence:leaving');
    await settled();
    ann.emit('subscribe', { channel: 'presence-r', auth: { headers: { 'X-User': '1' } } });
    await Promise.all([ann.sees('presence:subscribed', 2), bob.sees('presence:joining', 1)]);
    await settled();
    ann.socket.send('41');
    await bob.sees('presence:leaving', 2);
    ann.emit('subscribe', { channel: 'orders' });
    await publish('presence-r', 'after', {});
    await bob.sees('after');
    for (const client of [bob, again]) await client.fence();
  });
  assert.deepEqual(seen.bob.filter((frame) => Array.isArray(frame)).map(([event]) => event), ['presence:subscribed', 'presence:leaving', 'presence:joining', 'presence:leaving', 'after']);
});

promise('packets that make no sense', async (life) => {
  const seen = await compare(life, async ({ open, publish }) => {
    const quiet = await open('quiet');
    for (const text of ['40/foo', '42/,["subscribe",{"channel":"slash"}]', '42["unknown",{}]', '421["subscribe",{"channel":"acked"}]']) quiet.socket.send(text);
    await quiet.fence();
    await publish('slash', 's', {});
    await publish('acked', 'a', {});
    await quiet.sees('a');
    for (const [name, text] of [['json', '42['], ['kind', 'x'], ['seven', '7']]) {
      const client = await open(name);
      client.socket.send(text);
      await client.frames.first((frame) => frame === 'closed', `the end of ${name}`);
    }
  });
  assert.ok(seen.quiet.includes('44/foo,"Invalid namespace"'));
});

promise('the handshake and the refusals of the polling transport', async (life) => {
  const answers = {};
  const packet = '42["subscribe",{"channel":"polled","auth":{"headers":{}}}]';
  for (const [name, server] of Object.entries(servers)) {
    const ask = async (method, query, body) => {
      const response = await within(fetch(`http://127.0.0.1:${server.port}/socket.io/${query}`, { method, body, headers: { Origin: 'http://page.test' } }), `${method} ${query}`);
      const headers = ['content-type', 'access-control-allow-origin', 'access-control-allow-credentials'].map((header) => response.headers.get(header));
      return { status: response.status, text: await response.text(), headers };
    };
    const first = await ask('GET', '?EIO=3&transport=polling');
    const sid = /"sid":"([^"]+)"/.exec(first.text)[1];
    const own = `?EIO=3&transport=polling&sid=${sid}`;
    first.text = first.text.replace(sid, 'SID').replace(/^\d+/, 'N');
    answers[name] = [first, await ask('POST', own, `${packet.length}:${packet}`)];
    await server.line(joined('polled'));
    await publisher.command('PUBLISH', 'polled', laravelPayload('p', { text: 'é😀' }));
    answers[name].push(await ask('GET', own));
    for (const [method, query] of [['GET', '?EIO=3&transport=x'], ['GET', '?EIO=3&transport=polling&sid=unknown'], ['POST', '?EIO=3&transport=polling']]) answers[name].push(await ask(method, query));
  }
  assert.deepEqual(answers.ours, answers.old);
});
