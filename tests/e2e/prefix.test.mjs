// Laravel's key prefix, which the configuration of design 1 does not name.
import assert from 'node:assert/strict';
import { post, startLaravel } from './lib/laravel.mjs';
import { RawClient } from './lib/raw.mjs';
import { RedisClient, startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { promise } from './lib/suite.mjs';

async function set(life, extra = {}) {
  const redis = await life.keep(startRedis());
  const server = await life.keep(startServer({ redis, ...extra }));
  const publisher = await life.keep(RedisClient.open(redis.port));
  const raw = await life.keep(RawClient.open({ port: server.port }));
  const heard = () => raw.frames.items.filter(({ event }) => event === 'order.shipped').map(({ channel, data }) => `${channel} ${JSON.parse(data).n}`);
  /** Subscribes these names. */
  const hear = async (...channels) => {
    for (const channel of channels) await raw.subscribed(channel);
  };
  /** Waits for an event that comes after all others. */
  const fence = async (channel, published = channel) => {
    await publisher.publish(published, 'fence', { n: 0 });
    await raw.frames.first((frame) => frame.event === 'fence' && frame.channel === channel, 'the fence');
  };
  return { redis, server, publisher, raw, heard, hear, fence };
}

/** The lines for the configuration that the log has offered so far; the banner only names the key. */
const advice = (server) => server.log.items.flatMap((line) => line.match(/"keyPrefix": "[^"]*"/g) ?? []);

promise('the default prefix of a real Laravel is found, and the log says once which line to add', async (life) => {
  const { redis, server, heard, hear, fence } = await set(life);
  const laravel = await life.keep(startLaravel({ redis }));
  await hear('orders', 'talent2income_database_orders', 'fence');
  for (const n of [1, 2]) await post(laravel.url, '/api/test/broadcast', { body: { channels: ['orders'], event: 'order.shipped', data: { n } } });
  await fence('fence', 'talent2income_database_fence');
  assert.deepEqual(heard().sort(), ['orders 1', 'orders 2', 'talent2income_database_orders 1', 'talent2income_database_orders 2']);

  assert.deepEqual(advice(server), ['"keyPrefix": "talent2income_database_"'], 'said once');
});

promise('the hyphenated prefix of the newest Laravel is found, too', async (life) => {
  const { redis, server, heard, hear, fence } = await set(life);
  const laravel = await life.keep(startLaravel({ redis, env: { REDIS_PREFIX: 'talent2income-database-' } }));
  await hear('orders', 'fence');
  await post(laravel.url, '/api/test/broadcast', { body: { channels: ['orders'], event: 'order.shipped', data: { n: 1 } } });
  await fence('fence', 'talent2income-database-fence');
  assert.deepEqual(heard(), ['orders 1']);
  assert.deepEqual(advice(server), ['"keyPrefix": "talent2income-database-"']);
});

promise('a Laravel without a prefix needs nothing said', async (life) => {
  const { redis, server, heard, hear, fence } = await set(life);
  const laravel = await life.keep(startLaravel({ redis, env: { REDIS_PREFIX: '' } }));
  await hear('orders', 'fence');
  await post(laravel.url, '/api/test/broadcast', { body: { channels: ['orders'], event: 'order.shipped', data: { n: 1 } } });
  await fence('fence');
  assert.deepEqual(heard(), ['orders 1']);
  assert.deepEqual(advice(server), []);
});

promise('a second application on the same Redis: neither is delivered under the bare name, and the log is loud', async (life) => {
  const { server, publisher, heard, hear, fence } = await set(life);
  await hear('orders', 'talent2income_database_orders', 'other_database_orders', 'other_database_fence');
  await publisher.publish('talent2income_database_orders', 'order.shipped', { n: 1 });
  await publisher.publish('other_database_orders', 'order.shipped', { n: 2 });
  await publisher.publish('talent2income_database_orders', 'order.shipped', { n: 3 });
  await fence('other_database_fence');
  assert.deepEqual(heard().filter((line) => line.startsWith('orders ')), ['orders 1'], 'under the bare name before the second one came, not after');
  assert.deepEqual(heard().filter((line) => !line.startsWith('orders ')), ['talent2income_database_orders 1', 'other_database_orders 2', 'talent2income_database_orders 3']);
  await server.line(/ERROR.*applications.*"keyPrefix": "other_database_"/);
  assert.deepEqual(advice(server).slice(-2), ['"keyPrefix": "talent2income_database_"', '"keyPrefix": "other_database_"']);
});

promise('keyPrefix in the file is exact: another application on the same Redis is not heard at all', async (life) => {
  const { server, publisher, heard, hear, fence } = await set(life, { keyPrefix: 'talent2income_database_' });
  await hear('orders', 'other_database_orders', 'talent2income_database_orders', 'fence');
  await publisher.publish('other_database_orders', 'order.shipped', { n: 1 });
  await publisher.publish('orders', 'order.shipped', { n: 2 });
  await publisher.publish('talent2income_database_orders', 'order.shipped', { n: 3 });
  await fence('fence', 'talent2income_database_fence');
  assert.deepEqual(heard(), ['orders 3']);
  assert.deepEqual(server.log.items.filter((line) => !line.includes('DEBUG') && line.includes('other_database_')), []);
});
