// Redis goes away, comes back, or was not there at the start: the server runs on and says so.
import assert from 'node:assert/strict';
import { freePort } from './lib/component.mjs';
import { FrontEnd } from './lib/front-end.mjs';
import { RedisClient, startRedis } from './lib/redis.mjs';
import { REDIS_IS_AWAY, REDIS_IS_THERE, startServer } from './lib/server.mjs';
import { promise } from './lib/suite.mjs';

/** An event that is published now arrives. */
async function flows(life, redis, channel, n) {
  const publisher = await life.keep(RedisClient.open(redis.port));
  await publisher.publish('talent2income_database_orders', 'order.shipped', { n });
  assert.deepEqual(await channel.events.first(({ data }) => data.n === n, `event ${n}`), { event: 'order.shipped', data: { n } });
}

promise('Redis killed and started again: what is published after it is back arrives, nothing crashed, the log says when', async (life) => {
  const first = await startRedis();
  const server = await life.keep(startServer({ redis: first }));
  const tab = await life.keep(FrontEnd.open({ port: server.port }));
  const orders = await tab.channel('orders').subscribed();
  await flows(life, first, orders, 1);
  const { socketId } = tab;

  let redis = first;
  const again = async () => {
    const from = server.mark;
    redis = await startRedis({ port: first.port });
    return server.line(REDIS_IS_THERE, { from });
  };
  for (const n of [2, 3]) {
    const from = server.mark;
    await redis.stop('SIGKILL');
    for (const line of [await server.line(REDIS_IS_AWAY, { from }), await again()]) {
      assert.match(line, /\d\d:\d\d:\d\d/, 'the line says when');
    }
    await flows(life, redis, orders, n);
  }
  await life.keep(redis);
  assert.equal(tab.socketId, socketId, 'the client has not noticed');
  assert.ok(!server.ended);
});

promise('Redis absent at the start: the server is ready, says so, and events flow once Redis is there', async (life) => {
  const port = await freePort();
  const server = await life.keep(startServer({ redis: { port } }));
  await server.line(REDIS_IS_AWAY);
  const tab = await life.keep(FrontEnd.open({ port: server.port }));
  const orders = await tab.channel('orders').subscribed();
  const before = server.mark;
  const redis = await life.keep(startRedis({ port }));
  await server.line(REDIS_IS_THERE, { from: before });
  await flows(life, redis, orders, 1);
});
