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
import { PATIENCE } from './lib/waiting.mjs';

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
  /** Those that have left as well. */
  #known = new Map();
  #fences = 0;

  constructor(server) {
    this.server = server;
  }

  async open(name, user, headers) {
    const client = await Frames.open({ port: this.server.port, headers });
    client.auth = user ? { headers: { Authorization: `Bearer ${user.token}` } } : undefined;
    this.#clients.set(name, client);
    this.#known.set(name, client);
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
    for (const [name, { sid }] of this.#known) text = text.replaceAll(sid, `<${name}>`).replaceAll(logName(sid), `<${name} in the log>`);
    return text;
  }

  /** Of a client that has left by itself nothing is expected any more. */
  forget(name) {
    this.#clients.delete(name);
  }

  async close(name) {
    await this.client(name).close();
  }

  /** The list in Redis, once it has so many entries: it is written a moment after the clients are told. */
  async stored(channel, count) {
    const client = await RedisClient.open(redis.port);
    await client.command('SELECT', String(this.server.db));
    const deadline = Date.now() + PATIENCE;
    for (;;) {
      const text = await client.command('GET', `${PREFIX}${channel}:members`);
      const list = JSON.parse(this.#named(text ?? '[]'));
      if (list.length === count || Date.now() > deadline) {
        client.close();
        assert.equal(list.length, count, text);
        return list;
      }
    }
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
const withoutSocket = (frame) => frame.replace(/,"socket":"[^"]*"\}\]$/, '}]');
/** The same values, in one way of writing JSON. */
const values = (seen) => Object.fromEntries(Object.entries(seen).map(([name, frames]) => [name, frames.map((frame) => (frame.startsWith('42') ? `42${JSON.stringify(JSON.parse(frame.slice(2)))}` : frame))]));
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
    `42["App\\\\Events\\\\E","${TALK}",{"a":[1,"ü\u{1f389}",{"b":null}],"socket":null}]`,
    `42["to.all","${TALK}",{"a":3}]`,
    '42["empty","orders",{"socket":null}]',
  ]);
});

promise('the text of JSON', async (life) => {
  const looks = await play(life, async (stage) => {
    await stage.open('A');
    await stage.join('A', 'orders');
    await stage.look();
    await publisher.command('PUBLISH', `${PREFIX}orders`, '{"event":"e\\/f","data":{"url": "http:\\/\\/x","n":1.0,"e":"\\u00fc"}}');
    return stage.look();
  });
  comparison.same('values', { old: values(looks.old), ours: values(looks.ours) });
  comparison.different('text', looks, 'JSON as Laravel writes it', {
    old: { A: ['42["e/f","orders",{"url":"http://x","n":1,"e":"ü"}]'] },
    ours: { A: ['42["e/f","orders",{"url": "http:\\/\\/x","n":1.0,"e":"\\u00fc"}]'] },
  });
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
      // Whether the pong or another one's whisper comes first says nothing.
      const heard = Object.entries(await stage.look()).map(([name, frames]) => [name, frames.filter((frame) => frame !== '3')]);
      looks.push(Object.fromEntries(heard));
    }
    return looks;
  });
  comparison.same('whispers', { old, ours });
  assert.deepEqual(ours[0].B, [`42["client-typing","${TALK}",{"x":1,"ü":["\u{1f389}",null]}]`]);
});

promise('a presence channel, and its list in Redis', async (life) => {
  const { old, ours } = await play(life, async (stage) => {
    const looks = [];
    const look = async (count) => looks.push({ frames: await stage.look(), stored: await stage.stored(ROOM, count) });
    for (const [name, user] of [['A', john], ['B', jane], ['C', john], ['D', ada]]) await stage.open(name, user);
    await stage.look();
    const enter = async (name) => {
      await stage.join(name, ROOM);
      await stage.client(name).next(/presence:subscribed/);
    };
    await enter('A');
    await look(1);
    await enter('B');
    await stage.client('A').next(/presence:joining/);
    await look(2);
    // User 1 once more: nobody hears.
    await enter('C');
    await look(3);
    await enter('D');
    await stage.client('A').next(/presence:joining/);
    await look(4);
    stage.client('C').emit('unsubscribe', { channel: ROOM });
    await stage.server.line(new RegExp(`${logName(stage.client('C').sid)} left channel: ${ROOM}`.replaceAll('.', '\\.')));
    await look(3);
    await stage.close('A');
    await stage.client('B').next(/presence:leaving/);
    await look(2);
    stage.client('D').send('41');
    await stage.client('B').next(/presence:leaving/);
    stage.forget('D');
    await look(1);
    stage.client('C').emit('subscribe', { channel: ROOM, auth: stage.client('C').auth });
    await stage.client('B').next(/presence:joining/);
    await look(2);
    stage.client('B').emit('unsubscribe', { channel: ROOM });
    await stage.client('C').next(/presence:leaving/);
    await look(1);
    await stage.close('C');
    await stage.server.line(new RegExp(`${logName(stage.client('C').sid)} left channel: ${ROOM}`.replaceAll('.', '\\.')), { from: stage.server.mark - 3 });
    await look(0);
    return looks;
  });
  for (const [step, [was, is]] of old.map((look, index) => [look, ours[index]]).entries()) {
    const frames = { old: values(was.frames), ours: values(is.frames) };
    if (was.stored.length === 0) comparison.same(`step ${step} in Redis`, { old: was.stored, ours: is.stored });
    else {
      const ours = was.stored.map((member) => ({ ...member, socketId: member.socketId.replace('>', ' in the log>') }));
      comparison.different(`step ${step} in Redis`, { old: was.stored, ours: is.stored }, 'socketId in Redis', { old: was.stored, ours });
    }
    const listed = Object.values(was.frames).flat().some((frame) => frame.includes('"socketId"'));
    if (listed) sameBut(`step ${step}`, frames, 'socketId of members', withoutSocketIds);
    else comparison.same(`step ${step}`, frames);
  }
  assert.deepEqual(values(ours[1].frames), {
    A: [`42["presence:joining","${ROOM}",${JSON.stringify({ user_id: 2, user_info: memberInfo(jane) })}]`],
    B: [`42["presence:subscribed","${ROOM}",${JSON.stringify([{ user_id: 2, user_info: memberInfo(jane) }, { user_id: 1, user_info: memberInfo(john) }])}]`],
  });
});

const ODD_FRAMES = ['4X', '42["nothing",1]', '421["nothing"]', '42["unsubscribe",{"channel":"never"}]', '42["subscribe",{}]', '42["subscribe",{"channel":0}]', '42["subscribe",{"channel":null}]', '5'];

/** What the client hears after this frame, and whether its connection lives. */
const heardAfter = (life, frame) => play(life, async (stage) => {
  const client = await stage.open('A', john);
  await stage.look();
  client.send(frame);
  client.send('2');
  const alive = await Promise.race([client.next(/^3$/).then(() => true), client.closed.then(() => false)]);
  return { alive, ...(await stage.look()) };
});

promise('presence lists that are published', async (life) => {
  const redises = { old: await life.keep(startRedis()), ours: await life.keep(startRedis()) };
  const servers = await startBoth(life, { redis: redises, laravel, extra: {} , publishPresence: true });
  const messages = {};
  for (const [which, server] of Object.entries(servers)) {
    const listener = await life.keep(RedisClient.open(redises[which].port));
    await listener.command('SUBSCRIBE', 'PresenceChannelUpdated');
    const clients = {};
    const ids = (count) => listener.messages.first(({ payload }) => JSON.parse(payload).event.members.length === count, `a list of ${count}`, { from: listener.messages.items.length });
    for (const [name, user] of [['A', john], ['B', jane]]) {
      clients[name] = await life.keep(Frames.open(server));
      const listed = ids(Object.keys(clients).length);
      clients[name].emit('subscribe', { channel: ROOM, auth: { headers: { Authorization: `Bearer ${user.token}` } } });
      await clients[name].next(/presence:subscribed/);
      await listed;
    }
    for (const [name, left] of [['A', 1], ['B', 0]]) {
      const listed = ids(left);
      clients[name].emit('unsubscribe', { channel: ROOM });
      await listed;
    }
    const named = (text) => Object.entries(clients).reduce((all, [name, { sid }]) => all.replaceAll(sid, `<${name}>`).replaceAll(logName(sid), `<${name}>`), text);
    // The old one publishes after each write to Redis, changed or not.
    messages[which] = { count: listener.messages.items.length, lists: listener.messages.items.map(({ payload }) => named(payload)).map((text) => JSON.stringify(JSON.parse(text))).filter((text, index, all) => text !== all[index - 1]) };
  }
  comparison.same('the lists', { old: messages.old.lists.filter((text, index) => index > 0 || !text.includes('"members":[]')), ours: messages.ours.lists });
  comparison.different('how often', { old: messages.old.count, ours: messages.ours.count }, 'how often lists are published', { old: messages.old.count, ours: 4 });
});

promise('frames that mean nothing', async (life) => {
  for (const frame of ODD_FRAMES) comparison.same(frame, await heardAfter(life, frame));
  const alive = { alive: true, A: ['3'] };
  comparison.different('no list', await heardAfter(life, '42{"a":1}'), 'frames that make no sense', { old: { alive: false }, ours: alive });
  for (const [channel, heard] of [['', []], ['a b', []]]) {
    const frame = `42${JSON.stringify(['subscribe', { channel }])}`;
    const refused = { alive: true, A: [`42["subscription_error",${JSON.stringify(channel)},400]`, '3'] };
    comparison.different(frame, await heardAfter(life, frame), 'names that cannot be', { old: { alive: true, A: [...heard, '3'] }, ours: refused });
  }
});

promise('a whisper is one by how its name begins', async (life) => {
  const looks = await play(life, async (stage) => {
    for (const [name, user] of [['A', john], ['B', jane]]) {
      await stage.open(name, user);
      await stage.join(name, TALK);
    }
    await stage.look();
    stage.client('A').emit('client event', { channel: TALK, event: 'x.client-typing', data: 1 });
    stage.client('A').send('2');
    await stage.client('A').next(/^3$/);
    return stage.look();
  });
  comparison.different('x.client-typing', looks, 'names of whispers', { old: { A: ['3'], B: [`42["x.client-typing","${TALK}",1]`] }, ours: { A: ['3'] } });
});

promise('another connection\'s id is no channel', async (life) => {
  const looks = await play(life, async (stage) => {
    for (const [name, user] of [['A', john], ['spy', null]]) await stage.open(name, user);
    stage.client('spy').emit('subscribe', { channel: stage.client('A').sid });
    stage.client('spy').send('2');
    await stage.client('spy').next(/^3$/);
    await stage.look();
    stage.subscribe('A', 'private-nobody-may');
    await stage.client('A').next(/subscription_error/);
    return stage.look();
  });
  const refusal = ['42["subscription_error","private-nobody-may",403]'];
  comparison.different('a spy', looks, 'ids as channels', { old: { A: refusal, spy: refusal }, ours: { A: refusal } });
});

// One of these after connecting, without any right, ended the old server's process.
const DEADLY = ['42["subscribe"]', '42["subscribe",null]', '42["unsubscribe"]', '42["unsubscribe",{"channel":5}]', '42["unsubscribe",{"channel":"presence-x"}]', '42["client event"]',
  '42["client event","null"]', '42["subscribe",{"channel":"__proto__"}]', '42["subscribe",{"channel":"constructor"}]'];

promise('frames that end the old server', async (life) => {
  for (const frame of DEADLY) {
    const servers = await startBoth(life, { redis, laravel });
    const alive = {};
    for (const [which, server] of Object.entries(servers)) {
      const client = await Frames.open(server);
      client.send(frame);
      client.send('2');
      await Promise.race([client.next(/^3$/), client.closed]);
      // The old one may end a moment later.
      alive[which] = await Promise.race([server.exited.then(() => false), which === 'ours' ? Frames.open(server).then((other) => life.keep(other)).then(() => true) : new Promise(() => {})]);
      await client.close();
    }
    comparison.different(frame, alive, 'frames that end the process', { old: false, ours: true });
    await servers.ours.stop();
  }
}, { timeout: 120_000 });

// --- Real front ends -----------------------------------------------------------------------

for (const [how, transports] of Object.entries(TRANSPORTS)) {
  promise(`laravel-echo with socket.io-client 2, ${how}: a conversation and a room`, async (life) => {
    const { old, ours } = { old: await converse(life, both.old, transports), ours: await converse(life, both.ours, transports) };
    comparison.same(`what Echo hands to the application, ${how}`, { old, ours });
    assert.deepEqual(ours.jane.room, [['here', [2, 1]], ['joining', 3], ['leaving', 3]]);
    assert.deepEqual(ours.john.conversation, ['client-typing']);
    assert.deepEqual(ours.jane.conversation, ['message.sent']);
  });
}

/** John writes to Jane, as the application's pages do; gives what each page has been handed. */
async function converse(life, server, transports) {
  const tabs = {};
  for (const [name, user] of Object.entries({ john, jane, ada })) tabs[name] = await life.keep(SocketIoTab.open({ server, token: user.token, transports }));
  const [johns, janes, adas] = Object.values(tabs);
  const conversations = [await johns.private('conversation.1-2').subscribed(), await janes.private('conversation.1-2').subscribed()];
  const inbox = await janes.private('user.2').subscribed();
  const refused = [await adas.private('conversation.1-2').refused(), await adas.private('user.2').refused()];

  const rooms = {};
  for (const [name, tab] of [['john', johns], ['jane', janes]]) {
    rooms[name] = await tab.join('online-users').subscribed();
    await rooms[name].saw('here');
  }
  await rooms.john.saw('joining');
  const adasRoom = await adas.join('online-users').subscribed();
  await Promise.all([adasRoom.saw('here'), rooms.john.saw('joining', ({ id }) => id === 3), rooms.jane.saw('joining')]);
  adas.leave('online-users');
  await Promise.all([rooms.john.saw('leaving'), rooms.jane.saw('leaving')]);

  await post(laravel.url, '/api/messages', { token: john.token, socketId: johns.socketId, body: { recipient_id: jane.id, content: 'Ünï \u{1f389}', job_id: 1 } });
  const message = await inbox.event('message.sent');
  await conversations[1].event('message.sent');
  conversations[1].echo.whisper('typing', { by: 'Jane' });
  const whisper = await conversations[0].event('client-typing');

  const room = ({ presence }) => presence.items.map(([what, value]) => [what, Array.isArray(value) ? value.map(({ id }) => id) : value.id]);
  const { content, sender } = message;
  const seen = {
    refused,
    message: { content, sender },
    whisper,
    john: { conversation: conversations[0].names(), room: room(rooms.john) },
    jane: { conversation: conversations[1].names(), inbox: inbox.names(), room: room(rooms.jane) },
    ada: { room: room(adasRoom) },
  };
  // The next one begins with an empty room.
  for (const tab of [johns, janes]) tab.leave('online-users');
  return seen;
}

const HERE = ['socket in data', 'JSON as Laravel writes it', 'events without a name', 'socketId of members', 'socketId in Redis', 'how often lists are published', 'frames that make no sense', 'names that cannot be', 'names of whispers', 'ids as channels', 'frames that end the process'];

after(() => assert.deepEqual([...comparison.used].sort(), [...HERE].sort(), 'what these tests have seen of the list'));
