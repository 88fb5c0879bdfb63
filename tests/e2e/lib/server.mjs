// The server under test: the real binary with the project's own example configuration.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Component, freePort } from './component.mjs';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** `LES_BIN`, or what cargo has built. */
export function binary() {
  if (process.env.LES_BIN) return process.env.LES_BIN;
  const target = process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target');
  const built = ['release', 'debug'].map((profile) => join(target, profile, 'laravel-echo-server')).find(existsSync);
  if (!built) throw new Error('there is no laravel-echo-server binary: cargo build --release, or name one in LES_BIN');
  return built;
}

/**
 * The configuration of the project's root, where nothing is replaced but the addresses of this
 * test's Redis, Laravel and server; `extra` is what a test is about.
 */
export function configuration({ redisPort, laravelPort, port, extra = {} }) {
  const config = JSON.parse(readFileSync(join(ROOT, 'laravel-echo-server.json'), 'utf8'));
  config.port = String(port);
  config.authHost = `http://localhost:${laravelPort}`;
  config.databaseConfig.redis.port = String(redisPort);
  const { keyPrefix, secret, ...rest } = extra;
  Object.assign(config, rest);
  if (keyPrefix !== undefined) config.databaseConfig.redis.keyPrefix = keyPrefix;
  if (secret) config.clients[0].secret = secret;
  return config;
}

/** What the log says when events from Redis arrive from now on, and when they no longer do. */
export const REDIS_IS_THERE = /INFO.*(Listening for events from Redis at|Redis at \S+ is back)/;
export const REDIS_IS_AWAY = /WARN.*Redis/;

/**
 * Starts it and waits until it is ready. `extra` goes into the configuration: `keyPrefix` into
 * databaseConfig.redis, `secret` into the first client, the rest to the top.
 */
export async function startServer({ redis, laravel, port, ...extra }) {
  const server = new Component('laravel-echo-server', { prefix: 'server' });
  server.port = port ?? await freePort();
  server.url = `http://127.0.0.1:${server.port}`;
  // Where a test has no Laravel, nobody listens there; port 9 is that of nobody.
  const config = configuration({ redisPort: redis.port, laravelPort: laravel?.port ?? 9, port: server.port, extra });
  writeFileSync(join(server.dir, 'laravel-echo-server.json'), JSON.stringify(config, null, 2));
  server.run(binary(), ['start', '--dir', server.dir]);
  await server.line(/Server ready!/);
  // It is ready without Redis, too; where there is one, events that a test publishes shall not come too early.
  if (redis.child) await server.line(REDIS_IS_THERE);
  return server;
}
