// Front ends of the old server, `broadcaster: 'socket.io'`, unchanged: over polling, over a WebSocket, and from
// the one to the other; alone and together with pusher-js.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { FrontEnd, called } from './lib/front-end.mjs';
import { USERS, memberInfo, post, signIn, startLaravel } from './lib/laravel.mjs';
import { RawClient } from './lib/raw.mjs';
import { RedisClient, laravelPayload, startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { SOCKETIO_CLIENTS, SocketIoTab, TRANSPORTS, socketIoClient } from './lib/socketio.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';
import { within } from './lib/waiting.mjs';

const { john, jane, ada } = USERS;
const file = fileLifetime();
let redis;
let laravel;
let server;
let publisher;

before(async () => {
  redis = await file.keep(startRedis());
  laravel = await file.keep(startLaravel({ redis }));
  server = await file.keep(startServer({ redis, laravel }));
  publisher = await file.keep(RedisClient.open(redis.port));
});

const byId = (a, b) => a.id - b.id;
let fences = 0;

/** Proves that nothing more is on its way to these tabs. */
async function fence(tabs) {
  fences += 1;
  const number = fences;
  const channels = await Promise.all(tabs.map((tab) => tab.channel('fence').subscribed()));
  await publisher.publish('talent2income_database_fence', 'fence', { number });
  await Promise.all(channels.map((channel) => channel.tab.events.first(([event, , data]) => event === 'fence' && data.number === number, `fence ${number}`)));
}

for (const pair of SOCKETIO_CLIENTS) {
  for (const [how, transports] of Object.entries(TRANSPORTS)) {
    promise(`${how}: a message reaches the recipient and the conversation but its sender, whispers the others, with ${called(pair.echo)} and ${called(pair.client)}`, async (life) => {
      const open = (user) => life.keep(SocketIoTab.open({ ...pair, transports, server, token: user.token }));
      const [sender, janes, adas] = await Promise.all([john, jane, ada].map(open));
      assert.equal(sender.transport, transports.at(-1));
      const [senders, conversation, inbox, orders] = await Promise.all([
        sender.private('conversation.1-2'),
        janes.private('conversation.1-2'),
        janes.private('user.2'),
        adas.channel('orders'),
      ].map((channel) => channel.subscribed()));
      assert.equal(await adas.private('conversation.1-2').refused(), 403);

      const content = 'Ünï/"q" <b> \u{1f389} \u2028';
      const heard = new Promise((resolve) => inbox.echo.listen('.message.sent', resolve));
      await post(laravel.url, '/api/messages', { token: john.token, socketId: sender.socketId, body: { recipient_id: jane.id, content, job_id: 1 } });
      for (const channel of [inbox, conversation]) {
        const data = await channel.event('message.sent');
        assert.equal(data.content, content);
        assert.equal(data.sender.first_name, 'John');
        assert.ok(!('socket' in data), 'whose it is stays here');
      }
      assert.equal((await heard).content, content);

      const whisper = new Promise((resolve) => conversation.echo.listenForWhisper('typing', resolve));
      senders.echo.whisper('typing', { name: 'John', list: [1, 'ü'] });
      assert.deepEqual(await whisper, { name: 'John', list: [1, 'ü'] });

      janes.leave('user.2');
      await fence([sender, janes, adas]);
      await publisher.publish('talent2income_database_private-user.2', 'late', {});
      await fence([sender, janes, adas]);
      assert.deepEqual(inbox.names(), ['message.sent']);
      assert.deepEqual(conversation.names(), ['message.sent', 'client-typing']);
      assert.deepEqual(senders.names(), []);
      assert.deepEqual(orders.names(), []);
    });

    promise(`${how}: Socket.IO and Pusher pages are members of one room, with ${called(pair.echo)} and ${called(pair.client)}`, async (life) => {
      const pusher = (user) => life.keep(FrontEnd.open({ port: server.port, token: user.token, options: { authEndpoint: `${server.url}/broadcasting/auth` } }));
      const socketio = (user) => life.keep(SocketIoTab.open({ ...pair, transports, server, token: user.token }));
      const johns = await (await pusher(john)).join('online-users').subscribed();
      await johns.saw('here');

      const janesTab = await socketio(jane);
      const janes = await janesTab.join('online-users').subscribed();
      assert.deepEqual((await janes.saw('here')).sort(byId), [memberInfo(john), memberInfo(jane)]);
      assert.deepEqual(await johns.saw('joining'), memberInfo(jane));
      const [, , list] = janesTab.events.items.find(([event]) => event === 'presence:subscribed');
      // By pusher-js' gateway the id is a number as well: Laravel's redis driver wrote it.
      assert.deepEqual(list, [
        { user_id: jane.id, user_info: memberInfo(jane) },
        { user_id: john.id, user_info: memberInfo(john) },
      ]);

      const adasTab = await pusher(ada);
      const adas = await adasTab.join('online-users').subscribed();
      assert.deepEqual((await adas.saw('here')).sort(byId), [john, jane, ada].map(memberInfo));
      assert.deepEqual(await janes.saw('joining'), memberInfo(ada));

      const atJane = new Promise((resolve) => janes.echo.listenForWhisper('typing', resolve));
      johns.echo.whisper('typing', { by: 'John' });
      assert.deepEqual(await atJane, { by: 'John' });
      const atJohn = new Promise((resolve) => johns.echo.listenForWhisper('typing', resolve));
      janes.echo.whisper('typing', { by: 'Jane' });
      assert.deepEqual(await atJohn, { by: 'Jane' });

      await post(laravel.url, '/api/users/online-status', { token: jane.token, socketId: janesTab.socketId, body: { is_online: true } });
      for (const room of [johns, janes]) {
        const { last_seen: _, ...status } = await room.event('user.online');
        assert.equal(status.user_id, 2);
        assert.equal(status.is_online, true);
      }

      adasTab.close();
      assert.deepEqual(await janes.saw('leaving'), memberInfo(ada));
      janesTab.close();
      assert.deepEqual(await johns.saw('leaving', ({ id }) => id === jane.id), memberInfo(jane));
    });

    promise(`${how}: after a restart of the server clients are back in their channels, with ${called(pair.echo)} and ${called(pair.client)}`, async (life) => {
      let own = await startServer({ redis, laravel });
      const tab = await life.keep(SocketIoTab.open({ ...pair, transports, server: own, token: john.token }));
      await Promise.all([tab.private('user.1'), tab.join('online-users'), tab.channel('orders')].map((channel) => channel.subscribed()));
      const first = tab.socketId;
      const gone = new Promise((resolve) => tab.socket.once('disconnect', resolve));
      await own.stop();
      await within(gone, 'the client to notice');
      // It may be back before the server is known to be ready.
      const back = new Promise((resolve) => tab.socket.once('connect', resolve));
      own = await life.keep(startServer({ redis, laravel, port: own.port }));
      tab.server = own;
      await within(back, 'the client to come back');
      assert.notEqual(tab.socketId, first);
      for (const channel of [tab.private('user.1'), tab.join('online-users'), tab.channel('orders')]) await channel.subscribed({ from: 0 });
      await publisher.publish('talent2income_database_private-user.1', 'again', { n: 1 });
      assert.deepEqual(await tab.private('user.1').event('again'), { n: 1, socket: null });
    });
  }
}

promise('the session cookie of the connection counts for one\'s own pages, and not for others', async (life) => {
  const cookie = await signIn(laravel.url, jane);
  const open = (extraHeaders) => life.keep(SocketIoTab.open({ transports: ['polling'], server, options: { auth: { headers: {} }, transportOptions: { polling: { extraHeaders } } } }));
  const [own, foreign] = await Promise.all([
    open({ Cookie: cookie, Origin: `http://127.0.0.1:${laravel.port}` }),
    open({ Cookie: cookie, Origin: 'https://evil.example' }),
  ]);
  await own.private('user.2').subscribed();
  assert.equal(await foreign.private('user.2').refused(), 403);
});

promise('a polling client goes on over a WebSocket while events rain, and misses none', async (life) => {
  const CLIENTS = 20;
  // Its log of each event would be longer than the events.
  const quiet = await life.keep(startServer({ redis, devMode: false }));
  const measure = await life.keep(RawClient.open({ port: quiet.port }));
  await measure.subscribed('rain', { auth: '' });
  const io = { 2: await socketIoClient('socket.io-client-2'), 4: await socketIoClient('socket.io-client-4') };
  let stop = false;
  let sent = 0;
  const raining = (async () => {
    while (!stop) {
      await publisher.pipeline(Array.from({ length: 20 }, () => {
        sent += 1;
        return ['PUBLISH', 'talent2income_database_rain', laravelPayload('drop', { n: sent })];
      }));
      // No faster than it arrives here: this process is all the clients, too.
      const last = JSON.stringify(`{"n":${sent}}`);
      await measure.frames.first(({ data }) => JSON.stringify(data) === last || data?.n === sent, `drop ${sent}`, { from: Math.max(0, sent - 30) });
    }
  })();
  const clients = await Promise.all(Array.from({ length: CLIENTS }, async (_, index) => {
    const socket = io[index % 2 ? 4 : 2](quiet.url, { forceNew: true });
    await life.keep({ close: () => socket.close() });
    const drops = [];
    let upgradedAt;
    socket.on('connect', () => {
      socket.emit('subscribe', { channel: 'rain' });
      const done = () => { upgradedAt = drops.length; };
      // Version 4 may be over it before it connects to the namespace.
      if (socket.io.engine.transport.name === 'websocket') done();
      socket.io.engine.once('upgrade', done);
    });
    const client = { socket, drops, upgradedAt: () => upgradedAt };
    await within(new Promise((resolve) => {
      socket.on('drop', (channel, { n }) => {
        drops.push(n);
        // It rains on for a while after the upgrade.
        if (upgradedAt !== undefined && drops.length > upgradedAt + 200) resolve();
        client.look?.();
      });
    }), 'the upgrade and what comes after it', 60_000);
    return client;
  }));
  stop = true;
  await raining;
  for (const client of clients) {
    await within(new Promise((resolve) => {
      client.look = () => client.drops.at(-1) === sent && resolve();
      client.look();
    }), `the last drop, ${sent}; the last was ${client.drops.at(-1)}`);
    const expected = Array.from({ length: client.drops.length }, (_, index) => client.drops[0] + index);
    assert.deepEqual(client.drops, expected);
  }
  assert.ok(clients.some((client) => client.upgradedAt() > 0), 'it rained before an upgrade, too');
});
