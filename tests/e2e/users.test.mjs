// Users with unmodified pusher-js: signin, events for a user, and who of a watchlist is online.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { library, startBackend } from './lib/backend.mjs';
import { FrontEnd, called } from './lib/front-end.mjs';
import { startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';
import { Recorder, within } from './lib/waiting.mjs';

const SECRET = 'talent2income-secret';
const file = fileLifetime();
const ways = {};
let backend;

before(async () => {
  const redis = await file.keep(startRedis());
  const signer = await file.keep(startBackend({ secret: SECRET }));
  const server = await file.keep(startServer({ redis, secret: SECRET }));
  backend = library({ port: server.port, secret: SECRET });
  ways.signature = { server, endpoint: signer.url };
  // A backend that signs with another secret than the server's: the gateway signs anew.
  const other = await file.keep(startBackend({ secret: 'another-secret' }));
  const gateway = await file.keep(startServer({ redis, laravel: other, secret: SECRET }));
  ways.gateway = { server: gateway, endpoint: gateway.url };
});

/** One tab of a user, signed in; `events` are those that pusher-js hands to the user. */
async function signedIn(life, { server, endpoint }, pusher, user) {
  const headers = { 'X-User': JSON.stringify(user) };
  const options = {
    channelAuthorization: { endpoint: `${endpoint}/broadcasting/auth`, headers },
    userAuthentication: { endpoint: `${endpoint}/broadcasting/user-auth`, headers },
  };
  const tab = await life.keep(FrontEnd.open({ pusher, port: server.port, options }));
  const events = new Recorder();
  const watched = new Recorder();
  tab.pusher.user.bind_global((event, data) => events.record({ event, data }));
  tab.pusher.user.watchlist.bind_global((event, data) => watched.record({ event, ids: [...data.user_ids].sort() }));
  tab.pusher.signin();
  await within(tab.pusher.user.signinDonePromise, `the signin of ${user?.id}`);
  return { tab, events, watched };
}

for (const pusher of ['pusher-js-7', 'pusher-js-8']) {
  for (const way of ['signature', 'gateway']) {
    promise(`${way}: an event for a user reaches that user, with ${called(pusher)}`, async (life) => {
      const ann = await signedIn(life, ways[way], pusher, { id: 'ann' });
      const bob = await signedIn(life, ways[way], pusher, { id: 'bob' });
      assert.deepEqual(ann.tab.pusher.user.user_data, { id: 'ann' });
      // pusher-js subscribes to the user's own channel by itself; until it has, nobody would hear.
      for (const { tab } of [ann, bob]) {
        const channel = tab.pusher.user.serverToUserChannel;
        if (!channel.subscribed) await within(new Promise((resolve) => channel.bind('pusher:subscription_succeeded', resolve)), 'the user\'s channel');
      }
      const to = library({ port: ways[way].server.port, secret: SECRET });
      assert.equal((await to.sendToUser('ann', 'notice', { n: 1 })).status, 200);
      assert.equal((await to.sendToUser('bob', 'notice', { n: 2 })).status, 200);
      assert.deepEqual((await bob.events.first(() => true, 'an event for bob')), { event: 'notice', data: { n: 2 } });
      assert.deepEqual((await ann.events.first(() => true, 'an event for ann')), { event: 'notice', data: { n: 1 } });
      assert.equal(ann.events.items.length, 1);
    });
  }

  promise(`a watchlist says who is online, who comes and who goes, with ${called(pusher)}`, async (life) => {
    const bob = await signedIn(life, ways.signature, pusher, { id: 'bob' });
    const { watched } = await signedIn(life, ways.signature, pusher, { id: 'ann', watchlist: ['bob', 'eve'] });
    await watched.count(2, 'of the first watchlist event');
    assert.deepEqual(watched.items, [{ event: 'online', ids: ['bob'] }, { event: 'offline', ids: ['eve'] }]);
    await signedIn(life, ways.signature, pusher, { id: 'eve' });
    await watched.count(3, 'eve to come');
    bob.tab.close();
    await watched.count(4, 'bob to go');
    assert.deepEqual(watched.items.slice(2), [{ event: 'online', ids: ['eve'] }, { event: 'offline', ids: ['bob'] }]);
  });
}

promise('a signin with another secret disconnects for good, and one without a user is not tried', async (life) => {
  const other = await life.keep(startBackend({ secret: 'another-secret' }));
  const { server } = ways.signature;
  const { tab } = await signedIn(life, { server, endpoint: ways.signature.endpoint }, 'pusher-js-8', null);
  assert.equal(tab.pusher.user.user_data, null);
  assert.equal(tab.pusher.connection.state, 'connected');
  const options = { userAuthentication: { endpoint: `${other.url}/broadcasting/user-auth`, headers: { 'X-User': '{"id":"ann"}' } } };
  const forged = await life.keep(FrontEnd.open({ port: server.port, options }));
  const disconnected = new Promise((resolve) => forged.pusher.connection.bind('disconnected', resolve));
  forged.pusher.signin();
  await within(disconnected, 'the forged one to be disconnected');
});

promise('who is signed in joins a presence channel as that user, without channel_data', async (life) => {
  const ann = await signedIn(life, ways.signature, 'pusher-js-8', { id: 'ann', user_info: { name: 'Ann' } });
  // An authorisation that leaves the member out; only pusher-js from 7.4 on passes it on.
  const authorise = ({ socketId, channelName }, done) => done(null, backend.authorizeChannel(socketId, channelName));
  ann.tab.pusher.config.channelAuthorizer = authorise;
  const room = ann.tab.pusher.subscribe('presence-signed-in');
  const members = await within(new Promise((resolve, reject) => {
    room.bind('pusher:subscription_succeeded', resolve);
    room.bind('pusher:subscription_error', (error) => reject(new Error(JSON.stringify(error))));
  }), 'the room');
  assert.deepEqual([members.count, members.myID, members.me], [1, 'ann', { id: 'ann', info: { name: 'Ann' } }]);
});
