// Client events: from a member of a private or presence channel to the others there, and to nobody else.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { CLIENTS, FrontEnd, called } from './lib/front-end.mjs';
import { USERS, startLaravel } from './lib/laravel.mjs';
import { RawClient, sign } from './lib/raw.mjs';
import { startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const { john, jane, ada } = USERS;
const SECRET = 'talent2income-secret';
const file = fileLifetime();
let server;

before(async () => {
  const redis = await file.keep(startRedis());
  const laravel = await file.keep(startLaravel({ redis }));
  server = await file.keep(startServer({ redis, laravel, secret: SECRET }));
});

for (const client of CLIENTS) {
  promise(`a whisper reaches the others of the channel, not its sender, with ${called(client.echo)} and ${called(client.pusher)}`, async (life) => {
    const open = (user) => life.keep(FrontEnd.open({ ...client, port: server.port, token: user.token, options: { authEndpoint: `${server.url}/broadcasting/auth` } }));
    const [johns, janes, adas] = await Promise.all([john, jane, ada].map(open));
    for (const enter of [(tab) => tab.private('conversation.1-2'), (tab) => tab.join('room.1-2')]) {
      const [atJohn, atJane] = await Promise.all([johns, janes].map((tab) => enter(tab).subscribed()));
      const elsewhere = await adas.private('user.3').subscribed();
      const heard = new Promise((resolve) => atJane.echo.listenForWhisper('typing', resolve));

      atJohn.echo.whisper('typing', { name: 'John', list: [1, 'ü'] });
      assert.deepEqual(await heard, { name: 'John', list: [1, 'ü'] });
      // Jane's answer comes after whatever could have come back to John.
      atJane.echo.whisper('typing', { name: 'Jane' });
      assert.deepEqual(await atJohn.event('client-typing'), { name: 'Jane' });

      assert.deepEqual(atJohn.names(), ['client-typing'], 'John hears Jane alone');
      assert.deepEqual(atJane.names(), ['client-typing'], 'Jane hears John alone');
      assert.deepEqual(elsewhere.names(), []);
    }
  });
}

promise('a whisper on a public channel, or on one that its sender has not joined, reaches nobody', async (life) => {
  const channel = 'private-conversation.1-2';
  const open = async () => {
    const raw = await life.keep(RawClient.open({ port: server.port }));
    await raw.subscribed('orders', { auth: '' });
    return raw;
  };
  const [outsider, member, other] = await Promise.all([open(), open(), open()]);
  for (const raw of [member, other]) await raw.subscribed(channel, { auth: sign(SECRET, raw.socketId, channel) });

  outsider.send({ event: 'client-typing', channel: 'orders', data: { n: 1 } });
  outsider.send({ event: 'client-typing', channel, data: { n: 2 } });
  // A name that is not a client event's would pass for one of the application's own.
  member.send({ event: 'message.sent', channel, data: { n: 3 } });
  member.send({ event: 'pusher_internal:member_removed', channel, data: { n: 4 } });
  // The answer to a subscription comes after whatever the messages before it caused.
  await outsider.subscribed('fence', { auth: '' });
  member.send({ event: 'client-typing', channel, data: { n: 5 } });

  assert.deepEqual((await other.event('client-typing')).data, { n: 5 });
  const heard = (raw) => raw.frames.items.filter(({ event }) => !event.startsWith('pusher')).map(({ data }) => data.n);
  assert.deepEqual(heard(other), [5]);
  assert.deepEqual(heard(member), []);
  assert.deepEqual(heard(outsider), []);
  assert.deepEqual(other.frames.items.filter(({ event }) => event === 'pusher_internal:member_removed'), []);
});

promise('on a presence channel a whisper says whose it is', async (life) => {
  const channel = 'presence-room.1-2';
  const enter = async ({ id }) => {
    const raw = await life.keep(RawClient.open({ port: server.port }));
    const channelData = JSON.stringify({ user_id: id });
    await raw.subscribed(channel, { auth: sign(SECRET, raw.socketId, channel, channelData), channel_data: channelData });
    return raw;
  };
  const [johns, janes] = [await enter(john), await enter(jane)];
  johns.send({ event: 'client-typing', channel, data: {} });
  assert.equal((await janes.event('client-typing')).user_id, '1');
});
