// Who is here: here, joining and leaving, where a user counts once however many tabs are open.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { ECHOS, FrontEnd, PUSHERS, called } from './lib/front-end.mjs';
import { USERS, memberInfo, startLaravel } from './lib/laravel.mjs';
import { startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const { john, jane, ada, zoe } = USERS;
const SECRET = 'talent2income-secret';
const file = fileLifetime();
const ways = {};

before(async () => {
  const redis = await file.keep(startRedis());
  const laravel = await file.keep(startLaravel({ redis }));
  const signing = await file.keep(startLaravel({ redis, env: { BROADCAST_DRIVER: 'signed-redis', PUSHER_APP_SECRET: SECRET } }));
  const gateway = await file.keep(startServer({ redis, laravel }));
  const proxy = await file.keep(startServer({ redis, laravel, proxy: true }));
  const signature = await file.keep(startServer({ redis, laravel: signing, secret: SECRET }));
  ways.gateway = { server: gateway, authEndpoint: `${gateway.url}/broadcasting/auth` };
  ways.proxy = { server: proxy, authEndpoint: `${proxy.url}/broadcasting/auth` };
  ways.signature = { server: signature, authEndpoint: `${signing.url}/broadcasting/auth` };
});

const byId = (a, b) => a.id - b.id;
const members = (...users) => users.map(memberInfo);

for (const way of ['gateway', 'proxy', 'signature']) {
  for (const [pusher, echo] of Object.keys(PUSHERS).map((name, index) => [name, ECHOS[index % 2]])) {
    promise(`${way}: here, joining and leaving, and two tabs count once, with ${called(echo)} and ${called(pusher)}`, async (life) => {
      const { server, authEndpoint } = ways[way];
      const open = (user) => life.keep(FrontEnd.open({ echo, pusher, port: server.port, token: user.token, options: { authEndpoint } }));
      const joined = async (tab) => {
        const room = await tab.join('online-users').subscribed();
        return [room, (await room.saw('here')).sort(byId)];
      };

      const [janes, alone] = await joined(await open(jane));
      assert.deepEqual(alone, members(jane));

      const first = await open(john);
      const [firstRoom, both] = await joined(first);
      assert.deepEqual(both, members(john, jane));
      assert.deepEqual(await janes.saw('joining'), memberInfo(john));

      const second = await open(john);
      const [, stillBoth] = await joined(second);
      assert.deepEqual(stillBoth, members(john, jane), 'the second tab is no second member');

      const [, three] = await joined(await open(zoe));
      assert.deepEqual(three, members(john, jane, zoe));
      for (const room of [janes, firstRoom]) await room.saw('joining', ({ id }) => id === zoe.id);

      // The answer to a later message of the first tab says that its leaving has been taken in.
      first.leave('online-users');
      await first.channel('orders').subscribed();
      const [, four] = await joined(await open(ada));
      assert.deepEqual(four, members(john, jane, ada, zoe), 'john is here by his second tab');
      await janes.saw('joining', ({ id }) => id === ada.id);

      second.close();
      assert.deepEqual(await janes.saw('leaving'), memberInfo(john));

      assert.deepEqual(janes.presence.items.map(([what, value]) => [what, value.id]).slice(1), [
        ['joining', john.id],
        ['joining', zoe.id],
        ['joining', ada.id],
        ['leaving', john.id],
      ], 'each of them once, in this order');
      assert.deepEqual(firstRoom.presence.items.filter(([what]) => what === 'joining').map(([, { id }]) => id), [zoe.id], 'nobody sees himself join');
    });
  }

  promise(`${way}: who is not of a conversation cannot join its room`, async (life) => {
    const { server, authEndpoint } = ways[way];
    const tab = await life.keep(FrontEnd.open({ port: server.port, token: john.token, options: { authEndpoint } }));
    assert.equal((await tab.join('room.2-3').refused()).status, 403);
    assert.deepEqual(await (await tab.join('room.1-2').subscribed()).saw('here'), [{ id: john.id, name: john.name }]);
  });
}
