// Who may not: each refusal is clear to the application (`error`) and in the log, and nothing gets through.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { FrontEnd, PUSHERS, called } from './lib/front-end.mjs';
import { USERS, post, signIn, startLaravel } from './lib/laravel.mjs';
import { RawClient, sign } from './lib/raw.mjs';
import { startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const { john, jane } = USERS;
const SECRET = 'talent2income-secret';
const file = fileLifetime();
let redis;
let laravel;
let server;
let johnsCookie;

before(async () => {
  redis = await file.keep(startRedis());
  laravel = await file.keep(startLaravel({ redis }));
  server = await file.keep(startServer({ redis, laravel, secret: SECRET, proxy: true }));
  johnsCookie = await signIn(laravel.url, john);
});

const open = (life, headers = {}, at = server) => life.keep(RawClient.open({ port: at.port, headers }));

/** Headers of a handshake from a page of the application itself, which is on another port of this host. */
const own = () => ({ Cookie: johnsCookie, Origin: `http://127.0.0.1:${laravel.port}` });

/** A refusal that helps: a type, a status, and a sentence. */
function helps({ type, error, status }, wantedStatus, sentence) {
  assert.equal(type, 'AuthError');
  assert.equal(status, wantedStatus);
  assert.match(error, sentence);
  assert.ok(error.includes(' ') && !error.includes('[object'), `a sentence: ${error}`);
}

/** The line of the log that says why, from line `from` on. No secret may stand in any line. */
async function logged(wanted, from, at = server) {
  const line = await at.line(wanted, { from });
  for (const secret of [SECRET, john.token, decodeURIComponent(johnsCookie), johnsCookie.split('=')[1]]) {
    assert.ok(!at.log.items.some((text) => text.includes(secret)), 'a secret stands in the log');
  }
  return line;
}

// Gateway and proxy, with real front ends.

for (const pusher of Object.keys(PUSHERS)) {
  promise(`gateway: without a token, and on another user's channel, ${called(pusher)} is told and the log says why`, async (life) => {
    const authEndpoint = `${server.url}/broadcasting/auth`;
    // From 5.1 on the error is an object; before it was the bare status.
    const status = (error) => error?.status ?? error;

    const nobody = await life.keep(FrontEnd.open({ pusher, port: server.port, token: '', options: { authEndpoint } }));
    let from = server.mark;
    assert.equal(status(await nobody.private('user.1').refused()), 401);
    await logged(/private-user\.1.*401|401.*private-user\.1/, from);
    from = server.mark;
    assert.equal(status(await nobody.join('online-users').refused()), 401);
    await logged(/presence-online-users.*401|401.*presence-online-users/, from);

    const johns = await life.keep(FrontEnd.open({ pusher, port: server.port, token: john.token, options: { authEndpoint } }));
    from = server.mark;
    assert.equal(status(await johns.private('user.2').refused()), 403);
    await logged(/private-user\.2.*403|403.*private-user\.2/, from);
    assert.equal(status(await johns.private('admin').refused()), 403);
    assert.equal(status(await johns.private('conversation.2-3').refused()), 403);
    assert.equal(status(await johns.private('no-such-channel').refused()), 403);
    await johns.private('user.1').subscribed();

    // None of them hears what is sent there.
    const janes = await life.keep(FrontEnd.open({ pusher, port: server.port, token: jane.token, options: { authEndpoint } }));
    const [inbox, fence, nobodysFence] = await Promise.all([janes.private('user.2'), johns.channel('fence'), nobody.channel('fence')].map((channel) => channel.subscribed()));
    await post(laravel.url, '/api/test/broadcast', { body: { channels: ['private-user.2', 'private-user.1', 'private-admin', 'fence'], event: 'secret', data: { n: 1 } } });
    await Promise.all([inbox, fence, nobodysFence].map((channel) => channel.event('secret')));
    assert.deepEqual(johns.private('user.2').names(), []);
    assert.deepEqual(johns.private('admin').names(), []);
    assert.deepEqual(nobody.private('user.1').names(), []);
  });
}

promise('gateway: a presence channel whose callback returns true is refused, and the cause is named', async (life) => {
  const tab = await life.keep(FrontEnd.open({ port: server.port, token: john.token, options: { authEndpoint: `${server.url}/broadcasting/auth` } }));
  const from = server.mark;
  const error = await tab.join('true-room').refused();
  assert.equal(error.status, 403);
  await logged(/presence-true-room.*true/, from);
});

// Callback: the cookie of the handshake is all there is.

promise('callback: a private channel by session cookie works with nothing changed, and only for its user', async (life) => {
  const raw = await open(life, own());
  await raw.subscribed('private-user.1');
  await raw.subscribed('private-conversation.1-2');

  let from = server.mark;
  helps(await raw.refused('private-user.2'), 403, /403|not allow|refus|no such/i);
  await logged(/private-user\.2/, from);

  await post(laravel.url, '/api/messages', { token: jane.token, body: { recipient_id: john.id, content: 'Hello!' } });
  assert.equal(JSON.parse((await raw.event('message.sent')).data).content, 'Hello!');

  from = raw.frames.items.length;
  await post(laravel.url, '/api/test/broadcast', { body: { channels: ['private-user.2', 'private-user.1'], event: 'both', data: {} } });
  assert.equal((await raw.event('both', { from })).channel, 'private-user.1');
});

promise('callback: a presence channel by session cookie, for clients that send the subscribe', async (life) => {
  const raw = await open(life, own());
  const { data } = await raw.subscribed('presence-room.1-2');
  assert.deepEqual(JSON.parse(data), { presence: { count: 1, ids: ['1'], hash: { 1: { id: 1, name: 'John Doe' } } } });
});

promise('callback: a presence channel answered true is refused', async (life) => {
  const raw = await open(life, own());
  const from = server.mark;
  helps(await raw.refused('presence-true-room'), 403, /true/);
  await logged(/presence-true-room/, from);
});

promise('callback: a page of another origin with the same cookie is refused', async (life) => {
  for (const Origin of ['http://evil.example', 'https://127.0.0.1.evil.example', 'null']) {
    const raw = await open(life, { ...own(), Origin });
    const from = server.mark;
    helps(await raw.refused('private-user.1'), 403, /origin/i);
    assert.match(await logged(/private-user\.1/, from), /origin/i);
    await raw.subscribed('orders');
  }
});

promise('callback: without any credentials the refusal names the ways out', async (life) => {
  const raw = await open(life, { Origin: `http://127.0.0.1:${laravel.port}` });
  const from = server.mark;
  helps(await raw.refused('private-user.1'), 401, /authEndpoint/);
  await logged(/private-user\.1/, from);
});

promise('callback: an unknown session is refused', async (life) => {
  const raw = await open(life, { ...own(), Cookie: 'talent2income_session=nonsense' });
  helps(await raw.refused('private-user.1'), 401, /401|signed in|session/i);
});

promise('callback: a redirect is refused, though it leads to a page that is answered 200', async (life) => {
  const moved = await life.keep(startServer({ redis, laravel, authEndpoint: '/moved/broadcasting/auth' }));
  assert.equal((await fetch(`${laravel.url}/moved/broadcasting/auth`, { method: 'POST' })).status, 200, 'followed, it ends in a yes');
  const raw = await open(life, own(), moved);
  const from = moved.mark;
  const { error } = await raw.refused('private-user.1');
  assert.match(error, /302|redirect/i);
  assert.match(await logged(/private-user\.1/, from, moved), /302|redirect/i);
});

promise('gateway: a redirect is refused, too', async (life) => {
  const moved = await life.keep(startServer({ redis, laravel, authEndpoint: '/moved/broadcasting/auth' }));
  const tab = await life.keep(FrontEnd.open({ port: moved.port, token: john.token, options: { authEndpoint: `${moved.url}/moved/broadcasting/auth` } }));
  await tab.private('user.1').refused();
  const answer = await fetch(`${moved.url}/moved/broadcasting/auth`, { method: 'POST', redirect: 'manual', headers: { Authorization: `Bearer ${john.token}` }, body: new URLSearchParams({ socket_id: tab.socketId, channel_name: 'private-user.1' }) });
  assert.notEqual(answer.status, 200);
  assert.doesNotMatch(await answer.text(), /"auth"/);
});

promise('callback: Laravel away is a refusal that says so, and the server lives on', async (life) => {
  const alone = await life.keep(startServer({ redis, authTimeoutMs: 500 }));
  const raw = await open(life, { Cookie: johnsCookie }, alone);
  const from = alone.mark;
  const { status, error } = await raw.refused('private-user.1');
  assert.ok(status >= 500, `status ${status}`);
  assert.match(error, / /);
  await logged(/private-user\.1/, from, alone);
  await raw.subscribed('orders');
});

// Signature.

promise('signature: one that is wrong, or made for another socket, channel or member, is refused', async (life) => {
  const [raw, other] = [await open(life), await open(life)];
  const channel = 'private-user.1';
  const good = sign(SECRET, raw.socketId, channel);
  for (const auth of [
    sign('wrong', raw.socketId, channel),
    sign(SECRET, other.socketId, channel),
    sign(SECRET, raw.socketId, 'private-user.2'),
    good.slice(0, -1),
    good.replace('talent2income-key', 'another-key'),
    `${good}0`,
    'nonsense',
  ]) {
    helps(await raw.refused(channel, { auth }), 401, /signature|secret|auth/i);
  }
  const member = JSON.stringify({ user_id: 1 });
  const room = sign(SECRET, raw.socketId, 'presence-room.1-2', member);
  helps(await raw.refused('presence-room.1-2', { auth: room, channel_data: JSON.stringify({ user_id: 2 }) }), 401, /signature|secret|auth/i);
  await raw.subscribed('presence-room.1-2', { auth: room, channel_data: member });
  await raw.subscribed(channel, { auth: good });
});

promise('a private channel under the key prefix is as private as without it', async (life) => {
  const raw = await open(life);
  helps(await raw.refused('talent2income_database_private-user.1'), 401, /authEndpoint/);
  const johns = await open(life, own());
  await johns.subscribed('talent2income_database_private-user.1');
  helps(await johns.refused('talent2income_database_private-user.2'), 403, / /);
});

promise('names that Laravel would read as another channel are refused before it is asked', async (life) => {
  const raw = await open(life, own());
  for (const channel of [' private-user.1', 'private-user.1 ', 'private-user.1\u0000', 'private-user.1\n', `private-${'x'.repeat(5000)}`]) {
    await raw.refused(channel);
  }
});

promise('an unknown app key is told and closed with 4001, after which pusher-js stays away', async (life) => {
  const raw = await life.keep(RawClient.open({ port: server.port, key: 'unknown' }));
  const { event, data } = raw.frames.items[0];
  assert.equal(event, 'pusher:error');
  assert.equal((typeof data === 'string' ? JSON.parse(data) : data).code, 4001);
  assert.equal((await raw.closed).code, 4001);
});
