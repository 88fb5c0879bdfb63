// In a real browser: the set-up of design 1 word for word through `proxy` and through nginx, and private
// channels by the session cookie that only a browser sends by itself.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { loadLibraries, newUser, noted, signIn, startBrowser, startEcho, startForeignSite } from './lib/browser.mjs';
import { PUSHERS, called } from './lib/front-end.mjs';
import { USERS, memberInfo, post, startLaravel } from './lib/laravel.mjs';
import { startNginx } from './lib/nginx.mjs';
import { startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const { john, jane, ada } = USERS;
const file = fileLifetime();
let browser;
let laravel;
let redis;
let plain;
const ways = {};

before(async () => {
  redis = await file.keep(startRedis());
  laravel = await file.keep(startLaravel({ redis }));
  plain = await file.keep(startServer({ redis, laravel }));
  const proxy = await file.keep(startServer({ redis, laravel, proxy: true }));
  const nginx = await file.keep(startNginx({ laravel, server: plain }));
  browser = await file.keep(startBrowser());
  ways['"proxy": true'] = { page: proxy, server: proxy };
  ways['the nginx location'] = { page: nginx, server: plain };
});

/** A page of the application with Echo in it, subscribed to what its user has. */
async function tab(life, way, user, pusher) {
  const context = await life.keep(newUser(browser));
  const page = await context.newPage();
  await page.goto(`${ways[way].page.url}/`);
  await loadLibraries(page, { pusher });
  await startEcho(page, { port: ways[way].server.port, token: user.token });
  await page.evaluate((id) => {
    const { Echo, note } = window;
    const inbox = Echo.private(`user.${id}`).listen('.message.sent', (data) => note('inbox', data));
    const conversation = Echo.private('conversation.1-2').listen('.message.sent', (data) => note('conversation', data)).error((error) => note('refused', error));
    for (const [name, channel] of [['inbox subscribed', inbox], ['conversation subscribed', conversation]]) channel.subscription.bind('pusher:subscription_succeeded', () => note(name));
    Echo.join('online-users').here((users) => note('here', users)).joining((one) => note('joining', one)).leaving((one) => note('leaving', one));
  }, user.id);
  await noted(page, 'inbox subscribed');
  return page;
}

for (const way of ['"proxy": true', 'the nginx location']) {
  for (const pusher of Object.keys(PUSHERS)) {
    promise(`with ${way} the front end of design 1 works unchanged, with ${called(pusher)}`, async (life) => {
      const janes = await tab(life, way, jane, pusher);
      assert.deepEqual(await noted(janes, 'here'), [memberInfo(jane)]);
      const johns = await tab(life, way, john, pusher);
      const adas = await tab(life, way, ada, pusher);
      assert.equal((await noted(adas, 'refused')).status ?? 403, 403);
      await Promise.all([janes, johns].map((page) => noted(page, 'conversation subscribed')));
      assert.deepEqual(await noted(janes, 'joining', { id: john.id }), memberInfo(john));

      await johns.evaluate(async (token) => {
        await fetch('/api/messages', {
          method: 'POST',
          headers: { 'Content-Type': 'application/json', Accept: 'application/json', Authorization: `Bearer ${token}`, 'X-Socket-ID': window.Echo.socketId() },
          body: JSON.stringify({ recipient_id: 2, content: 'Hello, Jane!' }),
        });
      }, john.token);
      const data = await noted(janes, 'inbox');
      assert.equal(data.content, 'Hello, Jane!');
      assert.ok(!('socket' in data));
      assert.deepEqual(await noted(janes, 'conversation'), data);

      await johns.close();
      assert.deepEqual(await noted(janes, 'leaving', { id: john.id }), memberInfo(john));

      const heard = (page) => page.evaluate(() => window.received.filter(([what]) => ['inbox', 'conversation'].includes(what)).length);
      assert.equal(await heard(janes), 2);
      assert.equal(await heard(adas), 0);
    });
  }
}

promise('private channels by session cookie, with nothing changed', async (life) => {
  const context = await life.keep(newUser(browser));
  const base = `http://localhost:${laravel.port}`;
  const page = await signIn(context, base, john);
  await loadLibraries(page, { pusher: 'pusher-js-7' });
  await startEcho(page, { port: plain.port, token: '' });
  await page.evaluate(() => {
    const { Echo, note } = window;
    for (const name of ['user.1', 'user.2']) {
      Echo.private(name).listen('.message.sent', (data) => note(name, data)).error((error) => note(`${name} refused`, error))
        .subscription.bind('pusher:subscription_succeeded', () => note(`${name} subscribed`));
    }
  });
  await noted(page, 'user.1 subscribed');
  await noted(page, 'user.2 refused');
  await post(laravel.url, '/api/messages', { token: jane.token, body: { recipient_id: john.id, content: 'By cookie' } });
  assert.equal((await noted(page, 'user.1')).content, 'By cookie');
});

promise('a page of another origin, to which the browser gives the same cookie, is refused', async (life) => {
  // Two hosts of one site, so that SameSite=Lax does not keep the cookie away; a browser takes both to loopback.
  const host = 'app.talent.localhost';
  const context = await life.keep(newUser(browser));
  await signIn(context, `http://${host}:${laravel.port}`, john);

  const evil = await life.keep(startForeignSite());

  const attack = async (origin) => {
    const page = await context.newPage();
    await page.goto(`${origin}/`);
    const answer = await page.evaluate((url) => new Promise((resolve) => {
      const socket = new WebSocket(url);
      socket.onmessage = ({ data }) => {
        const { event, data: inner } = JSON.parse(data);
        if (event === 'pusher:connection_established') socket.send(JSON.stringify({ event: 'pusher:subscribe', data: { channel: 'private-user.1' } }));
        else resolve({ event, data: typeof inner === 'string' ? JSON.parse(inner) : inner });
      };
      socket.onclose = ({ code }) => resolve({ event: `closed ${code}` });
    }), `ws://${host}:${plain.port}/app/talent2income-key?protocol=7&client=js&version=8.6.0&flash=false`);
    await page.close();
    return answer;
  };

  const from = plain.mark;
  assert.equal((await attack(`http://${host}:${laravel.port}`)).event, 'pusher_internal:subscription_succeeded', 'the same from the application\'s own page');
  const { event, data } = await attack(`http://evil.talent.localhost:${evil.port}`);
  assert.equal(event, 'pusher:subscription_error');
  assert.equal(data.status, 403);
  assert.match(data.error, /origin/i);
  await plain.line(/evil\.talent\.localhost/, { from });
});
