// What Socket.IO clients see of the npm package laravel-echo-server and of this server, frame by frame: the same
// file, the same Laravel, the same script. What is different is on the list of lib/differences.mjs.
import assert from 'node:assert/strict';
import { after, before } from 'node:test';
import { DIFFERENCES } from './lib/differences.mjs';
import { PREFIX, USERS, memberInfo, post, startLaravel } from './lib/laravel.mjs';
import { RedisClient, startRedis } from './lib/redis.mjs';
import { Comparison, startBoth } from './lib/side-by-side.mjs';
import { Frames } from './lib/socketio-frames.mjs';
import { SocketIoTab, TRANSPORTS, logName } from './lib/socketio.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const { john, jane, ada } = USERS;
const ROOM = 'presence-online-users';
const TALK = 'private-conversation.1-2';

const file = fileLifetime();
const comparison = new Comparison(DIFFERENCES);
let redis;
let laravel;
let both;
let publisher;

before(async () => {
  redis = await file.keep(startRedis());
  laravel = await file.keep(startLaravel({ redis }));
  both = await startBoth(file, { redis, laravel });
  publisher = await file.keep(RedisClient.open(redis.port));
});

/** The clients of one server, by name, and what they do together. */
class Stage {
  #clients = new Map();
  #fences = 0;

  constructor(server) {
    this.server = server;
  }

  async open(name, user, headers) {
    const client = await Frames.open({ port: this.server.port, headers });
    client.auth = user ? { headers: { Authorization: `Bearer ${user.token}` } } : undefined;
    this.#clients.set(name, client);
    client.emit('subscribe', { channel: 'fence' });
    await this.joined(name, 'fence');
    return client;
  }

  client(name) {
    return this.#clients.get(name);
  }

  subscribe(name, channel) {
    const client = this.client(name);
    client.emit('subscribe', { channel, ...(client.auth && { auth: client.auth }) });
  }

  /** The protocol does not answer a subscription, so the log tells. */
  async joined(name, channel, { from = 0 } = {}) {
    const line = `${logName(this.client(name).sid)} joined channel: ${channel}`.replaceAll('.', '\\.');
    await this.server.line(new RegExp(`${line}$`), { from });
  }

  async join(name, channel) {
    const from = this.server.mark;
    this.subscribe(name, channel);
    await this.joined(name, channel, { from });
  }

  /** Events in the form of Laravel; `socket` is a client's name, or any text. */
  publish(channel, event, data, socket = null) {
    const id = this.client(socket)?.sid ?? socket;
    return publisher.command('PUBLISH', PREFIX + channel, JSON.stringify({ event, data: { ...data, socket: id }, socket: id }));
  }

  /** What each client has seen since the last look, once nothing more is on its way; ids by their clients' names. */
  async look() {
    const open = [...this.#clients].filter(([, client]) => client.isOpen);
    this.#fences += 1;
    const fence = `fence-${this.server.which}-${this.#fences}`;
    // Two servers hear one Redis: each has a name of its own for it.
    await publisher.command('PUBLISH', `${PREFIX}fence`, JSON.stringify({ event: fence, data: null, socket: null }));
    await Promise.all(open.map(([, client]) => client.next(new RegExp(fence), fence)));
    const seen = {};
    for (const [name, client] of this.#clients) {
      const frames = client.look().filter((frame) => !frame.includes('"fence-'));
      if (frames.length) seen[name] = frames.map((frame) => this.#named(frame));
    }
    return seen;
  }

  #named(frame) {
    let text = frame;
    for (const [name, { sid }] of this.#clients) text = text.replaceAll(sid, `<${name}>`);
    return text;
  }

  async close(name) {
    await this.client(name).close();
  }

  stored(channel) {
    return RedisClient.open(this.server.redisPort ?? redis.port).then(async (client) => {
      await client.command('SELECT', String(this.server.db));
      const text = await client.command('GET', `${PREFIX}${channel}:members`);
      client.close();
      return text === null ? null : JSON.parse(this.#named(text));
    });
  }

  async stop() {
    await Promise.all([...this.#clients.values()].map((client) => client.close()));
  }
}

/** Plays on both, one after the other, since they hear one Redis. */
async function play(life, script) {
  const old = await script(await life.keep(new Stage(both.old)));
  const ours = await script(await life.keep(new Stage(both.ours)));
  return { old, ours };
}

/** The same without what `change` takes away from the old server's, which is on the list. */
function sameBut(what, { old, ours }, because, change) {
  const changed = Object.fromEntries(Object.entries(old).map(([name, frames]) => [name, frames.map(change)]));
  comparison.different(what, { old, ours }, because, { old, ours: changed });
}

/** Laravel's `socket` stands in the event's data as well. */
const withoutSocket = (frame) => frame.replace(/,"socket":(null|"[^"]*")\}\]$/, '}]').replace(/\{"socket":(null|"[^"]*")\}\]$/, '{}]');
const withoutSocketIds = (frame) => frame.replace(/,"socketId":"[^"]*"/g, '');

promise('the handshake', async (life) => {
  const { old, ours } = await play(life, async (stage) => {
    await stage.open('A');
    stage.client('A').send('2');
    await stage.client('A').next(/^3$/);
    stage.client('A').send('2probe');
    await stage.client('A').next(/^3/);
    return stage.look();
  });
  assert.equal(ours.A[0], '0{"sid":"<A>","upgrades":[],"pingInterval":25000,"pingTimeout":20000}');
  comparison.same('the first frames, and pings', { old, ours });
});

promise('public and private channels', async (life) => {
  const looks = await play(life, async (stage) => {
    for (const [name, user] of [['A', john], ['B', jane], ['C', ada], ['D', null]]) await stage.open(name, user);
    const look = { handshakes: await stage.look() };
    for (const name of ['A', 'B', 'D']) await stage.join(name, 'orders');
    for (const name of ['A', 'B']) await stage.join(name, TALK);
    look.joined = await stage.look();
    for (const name of ['C', 'D']) {
      stage.subscribe(name, TALK);
      await stage.client(name).next(/subscription_error/);
    }
    stage.subscribe('A', 'private-nobody-may');
    await stage.client('A').next(/subscription_error/);
    look.refused = await stage.look();
    return look;
  });
  for (const name of Object.keys(looks.old)) comparison.same(name, { old: looks.old[name], ours: looks.ours[name] });
  assert.deepEqual(looks.ours.joined, {});
  assert.deepEqual(looks.ours.refused.C, [`42["subscription_error","${TALK}",403]`]);
});

promise('events of Laravel', async (life) => {
  const looks = await play(life, async (stage) => {
    for (const [name, user] of [['A', john], ['B', jane]]) {
      await stage.open(name, user);
      await stage.join(name, TALK);
      await stage.join(name, 'orders');
    }
    await stage.look();
    await stage.publish(TALK, 'App\\Events\\E', { a: [1, 'ü\u{1f389}', { b: null }] });
    await stage.publish(TALK, 'to.others', { a: 2 }, 'A');
    await stage.publish(TALK, 'to.all', { a: 3 }, 'unknown');
    await stage.publish('orders', 'empty', {});
    await stage.publish('nobody', 'e', {});
    await publisher.command('PUBLISH', `${PREFIX}orders`, 'no JSON');
    await publisher.command('PUBLISH', `${PREFIX}orders`, 'null');
    await publisher.command('PUBLISH', `other_database_orders`, '{"event":"other","data":{}}');
    const published = await stage.look();
    await publisher.command('PUBLISH', `${PREFIX}orders`, '{"event":"list","data":[1,2]}');
    await publisher.command('PUBLISH', `${PREFIX}orders`, '{"event":"text","data":"text"}');
    await publisher.command('PUBLISH', `${PREFIX}orders`, '{"event":"none"}');
    const odd = await stage.look();
    return { published, odd };
  });
  sameBut('events', { old: looks.old.published, ours: looks.ours.published }, 'socket in data', withoutSocket);
  comparison.same('data that is no object', { old: looks.old.odd, ours: looks.ours.odd });
  assert.deepEqual(looks.ours.published.A, [
    `42["App\\\\Events\\\\E","${TALK}",{"a":[1,"ü\u{1f389}",{"b":null}]}]`,
    `42["to.all","${TALK}",{"a":3}]`,
    '42["empty","orders",{}]',
  ]);
});

promise('events that are none', async (life) => {
  const { old, ours } = await play(life, async (stage) => {
    await stage.open('A');
    await stage.join('A', 'orders');
    await stage.look();
    for (const payload of ['{"data":{"a":1}}', '{}', '[]']) await publisher.command('PUBLISH', `${PREFIX}orders`, payload);
    return stage.look();
  });
  comparison.different('without a name', { old, ours }, 'events without a name', {
    old: { A: ['42[null,"orders",{"a":1}]', '42[null,"orders",null]', '42[null,"orders",null]'] },
    ours: {},
  });
});

promise('whispers', async (life) => {
  const { old, ours } = await play(life, async (stage) => {
    for (const [name, user] of [['A', john], ['B', jane], ['C', ada]]) {
      await stage.open(name, user);
      await stage.join(name, 'orders');
    }
    for (const name of ['A', 'B']) {
      await stage.join(name, TALK);
      await stage.join(name, ROOM);
      await stage.client(name).next(/presence:subscribed/);
    }
    await stage.look();
    const whisper = (name, channel, event, data) => stage.client(name).emit('client event', { channel, event, data });
    const looks = [];
    for (const act of [
      () => whisper('A', TALK, 'client-typing', { x: 1, ü: ['\u{1f389}', null] }),
      () => whisper('B', ROOM, 'client-typing', 'text'),
      () => whisper('A', TALK, 'client-typing', null),
      // To nobody: on a public channel, by someone who is not there, an event that is no client's.
      () => whisper('A', 'orders', 'client-typing', {}),
      () => whisper('C', TALK, 'client-typing', {}),
      () => whisper('A', TALK, 'typing', {}),
      () => stage.client('A').emit('client event', JSON.stringify({ channel: TALK, event: 'client-text', data: { x: 2 } })),
      () => stage.client('A').send(`421["client event",{"channel":"${TALK}","event":"client-ack","data":3}]`),
    ]) {
      act();
      // A ping that is answered: what came before it has been read.
      for (const name of ['A', 'B', 'C']) {
        stage.client(name).send('2');
        await stage.client(name).next(/^3$/);
      }
      looks.push(await stage.look());
    }
    return looks;
  });
  comparison.same('whispers', { old, ours });
  assert.deepEqual(ours[0].B, [`42["client-typing","${TALK}",{"x":1,"ü":["\u{1f389}",null]}]`, '3']);
});

promise('a presence channel, and its list in Redis', async (life) => {
  const { old, ours } = await play(life, async (stage) => {
    const looks = [];
    const look = async () => looks.push({ frames: await stage.look(), stored: await stage.stored(ROOM) });
    for (const [name, user] of [['A', john], ['B', jane], ['C', john], ['D', ada]]) await stage.open(name, user);
    await stage.look();
    const enter = async (name) => {
      await stage.join(name, ROOM);
      await stage.client(name).next(/presence:subscribed/);
    };
    await enter('A');
    await look();
    await enter('B');
    await stage.client('A').next(/presence:joining/);
    await look();
    // User 1 once more: nobody hears.
    await enter('C');
    await look();
    await enter('D');
    await stage.client('A').next(/presence:joining/);
    await look();
    stage.client('C').emit('unsubscribe', { channel: ROOM });
    await stage.server.line(new RegExp(`${logName(stage.client('C').sid)} left channel: ${ROOM}`.replaceAll('.', '\\.')));
    await look();
    await stage.close('A');
    await stage.client('B').next(/presence:leaving/);
    await look();
    stage.client('D').send('41');
    await stage.client('B').next(/presence:leaving/);
    await look();
    return looks;
  });
  for (const [step, [was, is]] of old.map((look, index) => [look, ours[index]]).entries()) {
    const frames = { old: was.frames, ours: is.frames };
    const listed = Object.values(was.frames).flat().some((frame) => frame.includes('"socketId"'));
    if (listed) sameBut(`step ${step}`, frames, 'socketId of members', withoutSocketIds);
    else comparison.same(`step ${step}`, frames);
  }
  assert.deepEqual(ours[1].frames, {
    A: [`42["presence:joining","${ROOM}",${JSON.stringify({ user_id: 2, user_info: memberInfo(jane) })}]`],
    B: [`42["presence:subscribed","${ROOM}",${JSON.stringify([{ user_id: 2, user_info: memberInfo(jane) }, { user_id: 1, user_info: memberInfo(john) }])}]`],
  });
});

promise('frames that are none', async (life) => {
  for (const frame of ['4X', '42{"a":1}', '42["nothing",1]', '421["nothing"]', '42["unsubscribe",{"channel":"never"}]', '42["subscribe",{}]', '42["subscribe",{"channel":""}]', '42["subscribe",{"channel":0}]', '5']) {
    const { old, ours } = await play(life, async (stage) => {
      await stage.open('A');
      await stage.look();
      stage.client('A').send(frame);
      stage.client('A').send('2');
      await stage.client('A').next(/^3$/);
      return stage.look();
    });
    comparison.same(frame, { old, ours });
  }
});
