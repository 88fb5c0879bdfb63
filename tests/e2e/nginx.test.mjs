// Everything through one nginx, as a page that came by https needs it: the application, the request for
// leave, and the WebSocket on nginx's own port.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { ECHOS, FrontEnd, PUSHERS, called } from './lib/front-end.mjs';
import { USERS, memberInfo, post, signIn, startLaravel } from './lib/laravel.mjs';
import { startNginx } from './lib/nginx.mjs';
import { RawClient } from './lib/raw.mjs';
import { startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const { john, jane } = USERS;
const file = fileLifetime();
let nginx;

before(async () => {
  const redis = await file.keep(startRedis());
  const laravel = await file.keep(startLaravel({ redis }));
  const server = await file.keep(startServer({ redis, laravel }));
  nginx = await file.keep(startNginx({ laravel, server }));
});

for (const [index, pusher] of Object.keys(PUSHERS).entries()) {
  promise(`messages, presence and refusals behind nginx, with ${called(ECHOS[index % 2])} and ${called(pusher)}`, async (life) => {
    const [johns, janes] = await Promise.all([john, jane].map((user) => life.keep(FrontEnd.open({
      echo: ECHOS[index % 2], pusher, port: nginx.port, token: user.token, options: { authEndpoint: `${nginx.url}/broadcasting/auth` },
    }))));
    const [inbox, room] = await Promise.all([janes.private('user.2'), janes.join('online-users')].map((channel) => channel.subscribed()));
    await johns.join('online-users').subscribed();
    assert.deepEqual(await room.saw('joining'), memberInfo(john));
    await johns.private('user.2').refused();
    await post(nginx.url, '/api/messages', { token: john.token, socketId: johns.socketId, body: { recipient_id: jane.id, content: 'Through nginx' } });
    assert.equal((await inbox.event('message.sent')).content, 'Through nginx');
  });
}

promise('by session cookie behind nginx: the application\'s page may, another origin may not', async (life) => {
  const Cookie = await signIn(nginx.url, john);
  const own = await life.keep(RawClient.open({ port: nginx.port, headers: { Cookie, Origin: nginx.url } }));
  await own.subscribed('private-user.1');
  const evil = await life.keep(RawClient.open({ port: nginx.port, headers: { Cookie, Origin: 'http://evil.example' } }));
  assert.match((await evil.refused('private-user.1')).error, /origin/i);
});
