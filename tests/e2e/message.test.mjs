// The main job: a message that is posted to Laravel reaches its recipient and its conversation, and
// nobody else, with each pair of Echo and pusher-js, in each way of asking for leave.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { CLIENTS, FrontEnd, called, fence } from './lib/front-end.mjs';
import { USERS, post, startLaravel } from './lib/laravel.mjs';
import { RawClient, sign } from './lib/raw.mjs';
import { RedisClient, startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const { john, jane, ada } = USERS;
const SECRET = 'talent2income-secret';
const file = fileLifetime();
const ways = {};
let redis;
let publisher;

before(async () => {
  redis = await file.keep(startRedis());
  publisher = await file.keep(RedisClient.open(redis.port));
  const laravel = await file.keep(startLaravel({ redis }));
  const signing = await file.keep(startLaravel({ redis, env: { BROADCAST_DRIVER: 'signed-redis', REDIS_CLIENT: 'phpredis', PUSHER_APP_SECRET: SECRET } }));

  const gateway = await file.keep(startServer({ redis, laravel }));
  const proxy = await file.keep(startServer({ redis, laravel, proxy: true }));
  const signature = await file.keep(startServer({ redis, laravel: signing, secret: SECRET }));

  // One line is added to the front end: where to ask for leave.
  ways.gateway = { server: gateway, application: laravel.url, authEndpoint: `${gateway.url}/broadcasting/auth` };
  // The application is opened on the server's port; a page there needs no authEndpoint, node has no page.
  ways.proxy = { server: proxy, application: proxy.url, authEndpoint: `${proxy.url}/broadcasting/auth` };
  // Laravel signs; the server's own endpoint takes no part.
  ways.signature = { server: signature, application: signing.url, authEndpoint: `${signing.url}/broadcasting/auth` };
});

/** One user's tab, set up as design 1 has it. */
function open(way, user, client = {}) {
  const { server, authEndpoint } = ways[way];
  return FrontEnd.open({ ...client, port: server.port, token: user.token, options: { authEndpoint } });
}

for (const way of ['gateway', 'proxy', 'signature']) {
  for (const client of CLIENTS) {
    promise(`${way}: message.sent reaches the recipient and the conversation, nobody else, with ${called(client.echo)} and ${called(client.pusher)}`, async (life) => {
      const [sender, johnsOther, janes, adas] = await Promise.all([john, john, jane, ada].map((user) => life.keep(open(way, user, client))));
      const [senders, others, conversation, inbox, adasInbox, adasConversation, orders] = await Promise.all([
        sender.private('conversation.1-2'),
        johnsOther.private('conversation.1-2'),
        janes.private('conversation.1-2'),
        janes.private('user.2'),
        adas.private('user.3'),
        adas.private('conversation.2-3'),
        adas.channel('orders'),
      ].map((channel) => channel.subscribed()));
      const heard = new Promise((resolve) => inbox.echo.listen('.message.sent', resolve));

      const content = 'Ünï/"q" <b> \u{1f389} \u2028';
      const { data: stored } = await post(ways[way].application, '/api/messages', {
        token: john.token,
        socketId: sender.socketId,
        body: { recipient_id: jane.id, content, job_id: 1 },
      });

      for (const channel of [inbox, conversation, others]) {
        assert.deepEqual(await channel.event('message.sent'), {
          id: stored.id,
          content,
          sender_id: 1,
          recipient_id: 2,
          job_id: 1,
          is_read: false,
          created_at: stored.created_at.replace('.000000Z', 'Z'),
          sender: { id: 1, first_name: 'John', last_name: 'Doe', avatar: 'https://example.com/avatars/1.jpg' },
        });
      }
      assert.equal((await heard).content, content, 'what Echo.listen hands to the application');

      await fence(publisher, [sender, johnsOther, janes, adas]);
      for (const channel of [inbox, conversation, others]) assert.deepEqual(channel.names(), ['message.sent'], `once on ${channel.name}`);
      for (const channel of [senders, adasInbox, adasConversation, orders]) assert.deepEqual(channel.names(), [], `nothing on ${channel.name}`);
    });
  }

  promise(`${way}: message.read, user.typing and user.online arrive where design 1 has them`, async (life) => {
    const { application } = ways[way];
    const [johns, janes] = await Promise.all([john, jane].map((user) => life.keep(open(way, user))));
    const [inbox, conversation, online] = await Promise.all([johns.private('user.1'), janes.private('conversation.1-2'), johns.join('online-users')].map((channel) => channel.subscribed()));

    await post(application, '/api/messages/typing/2', { token: john.token, socketId: johns.socketId, body: { is_typing: true } });
    const { timestamp, ...typing } = await conversation.event('user.typing');
    assert.deepEqual(typing, { user_id: 1, user_name: 'John Doe', is_typing: true });
    assert.match(timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);

    const { data: message } = await post(application, '/api/messages', { token: john.token, body: { recipient_id: jane.id, content: 'Read this' } });
    await post(application, '/api/messages/mark-read/1', { token: jane.token, socketId: janes.socketId });
    const { data: { read_at: readAt, ...read } } = await inbox.events.first(({ event, data }) => event === 'message.read' && data.message_id === message.id, 'message.read');
    assert.deepEqual(read, { message_id: message.id, read_by: 2 });
    assert.match(readAt, /Z$/);

    await post(application, '/api/users/online-status', { token: jane.token, body: { is_online: true } });
    const { last_seen: lastSeen, ...status } = await online.event('user.online');
    assert.deepEqual(status, { user_id: 2, user_name: 'Jane Roe', avatar: 'https://example.com/avatars/2.jpg', is_online: true });
    assert.match(lastSeen, /Z$/);
  });
}

promise('the bytes of `data` are those that Laravel wrote, without the `socket` that its redis driver adds', async (life) => {
  const { server, application } = ways.signature;
  const listener = await life.keep(RedisClient.open(redis.port));
  await listener.command('SUBSCRIBE', 'talent2income_database_private-user.2');
  const raw = await life.keep(RawClient.open({ port: server.port }));
  await raw.subscribed('private-user.2', { auth: sign(SECRET, raw.socketId, 'private-user.2') });

  for (const content of ['plain', 'Ünï/"q" <b> \u{1f389} \u2028', 'a "socket":null in the text,"socket":null']) {
    const from = raw.frames.items.length;
    await post(application, '/api/messages', { token: john.token, socketId: '1.2', body: { recipient_id: 2, content } });
    const frame = await raw.event('message.sent', { from });
    const { payload } = await listener.messages.first(({ payload }) => JSON.parse(payload).data.content === content, 'the message in Redis');
    const [, data] = /^\{"event":"message\.sent","data":(\{.*),"socket":"1\.2"\},"socket":"1\.2"\}$/.exec(payload);
    assert.deepEqual(frame, { event: 'message.sent', channel: 'private-user.2', data: `${data}}` });
  }
});

promise('an event without broadcastAs and one without data arrive under their names', async (life) => {
  const { server, application } = ways.gateway;
  const tab = await life.keep(FrontEnd.open({ port: server.port, token: 'none' }));
  const orders = await tab.channel('orders').subscribed();
  const heard = new Promise((resolve) => orders.echo.listen('PlainEvent', resolve));
  await post(application, '/api/test/broadcast', { body: { channels: ['orders'], data: { n: 1 } } });
  assert.deepEqual(await heard, { data: { n: 1 } });
  await post(application, '/api/test/broadcast', { body: { channels: ['orders'], event: 'empty' } });
  assert.deepEqual(await orders.event('empty'), {});
});
