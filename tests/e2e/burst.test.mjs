// Ten thousand events at once: all of them, in order, at fifty subscribers.
import assert from 'node:assert/strict';
import { FrontEnd } from './lib/front-end.mjs';
import { RawClient, sign } from './lib/raw.mjs';
import { RedisClient, laravelPayload, startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { promise } from './lib/suite.mjs';
import { within } from './lib/waiting.mjs';

const EVENTS = 10_000;
const SUBSCRIBERS = 50;
const SECRET = 'talent2income-secret';
const CHANNEL = 'private-user.2';

/** Resolves when the last event is there, and with the first gap if there is one. */
function inOrder(listen) {
  let expected = 0;
  return new Promise((resolve, reject) => {
    listen((n) => {
      if (n !== expected) reject(new Error(`event ${n} came where ${expected} was due`));
      expected += 1;
      if (expected === EVENTS) resolve(expected);
    });
  });
}

promise(`${EVENTS} events published in a burst arrive complete and in order at ${SUBSCRIBERS} subscribers`, async (life) => {
  const redis = await life.keep(startRedis());
  const server = await life.keep(startServer({ redis, secret: SECRET }));
  const publisher = await life.keep(RedisClient.open(redis.port));

  const raws = await Promise.all(Array.from({ length: SUBSCRIBERS - 1 }, () => life.keep(RawClient.open({ port: server.port }))));
  await Promise.all(raws.map((raw) => raw.subscribed(CHANNEL, { auth: sign(SECRET, raw.socketId, CHANNEL) })));
  const tab = await life.keep(FrontEnd.open({
    port: server.port,
    // pusher-js signs by itself here: the way of leave is not what this is about.
    options: { authorizer: ({ name }) => ({ authorize: (socketId, done) => done(null, { auth: sign(SECRET, socketId, name) }) }) },
  }));
  const inbox = await tab.private('user.2').subscribed();

  const arrivals = raws.map((raw, index) => {
    const closed = raw.closed.then(({ code, reason }) => {
      throw new Error(`subscriber ${index} was closed: ${code} ${reason}`);
    });
    closed.catch(() => {});
    raw.socket.removeAllListeners('message');
    return Promise.race([closed, inOrder((next) => raw.socket.on('message', (bytes) => next(Number(/\\"n\\":(\d+)/.exec(bytes)[1]))))]);
  });
  arrivals.push(inOrder((next) => inbox.echo.listen('.burst', ({ n }) => next(n))));

  const text = 'x'.repeat(60);
  await publisher.pipeline(Array.from({ length: EVENTS }, (_, n) => ['PUBLISH', `talent2income_database_${CHANNEL}`, laravelPayload('burst', { n, text })]));
  const counts = await within(Promise.all(arrivals), 'the last of the events', 60_000);
  assert.deepEqual(counts, Array(SUBSCRIBERS).fill(EVENTS));
}, { timeout: 120_000 });
