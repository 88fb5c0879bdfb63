// `laravel-echo-server start`: what it says when it works, and one sentence and exit code 1 when not.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Component } from './lib/component.mjs';
import { startRedis } from './lib/redis.mjs';
import { binary, configuration, startServer } from './lib/server.mjs';
import { promise } from './lib/suite.mjs';
import { within } from './lib/waiting.mjs';

/** Runs `start` with a file of that text until it ends by itself. */
async function fails(text, args = []) {
  const server = new Component('laravel-echo-server', { prefix: 'start' });
  if (text !== undefined) writeFileSync(join(server.dir, 'laravel-echo-server.json'), text);
  server.run(binary(), ['start', '--dir', server.dir, ...args]);
  try {
    const { code } = await within(server.exited, 'it to end');
    return { code, said: server.log.items.join('\n') };
  } finally {
    await server.stop();
  }
}

promise('the banner names version, address, apps, Redis, authHost and the prefix', async (life) => {
  const redis = await life.keep(startRedis());
  const server = await life.keep(startServer({ redis, laravel: { port: 8000 } }));
  const said = server.log.items.join('\n');
  assert.match(said, /\d+\.\d+\.\d+/);
  assert.match(said, new RegExp(`\\b${server.port}\\b`));
  assert.match(said, /talent2income/);
  assert.match(said, new RegExp(`127\\.0\\.0\\.1:${redis.port}\\b`));
  assert.match(said, /http:\/\/localhost:8000/);
  assert.match(said, /prefix/i);
});

promise('TERM ends it with exit code 0, and its clients are told to come back', async (life) => {
  const redis = await life.keep(startRedis());
  const server = await startServer({ redis });
  const { RawClient } = await import('./lib/raw.mjs');
  const raw = await RawClient.open({ port: server.port });
  const ended = server.stop();
  const { code } = await within(raw.closed, 'the connection to close');
  assert.ok([1001, 1012].includes(code) || (code >= 4100 && code < 4300), `closed with ${code}`);
  assert.deepEqual(await ended, { code: 0, signal: null });
});

promise('a port in use is a sentence and exit code 1', async (life) => {
  const redis = await life.keep(startRedis());
  const server = await life.keep(startServer({ redis }));
  const { code, said } = await fails(JSON.stringify(configuration({ redisPort: redis.port, laravelPort: 9, port: server.port })));
  assert.equal(code, 1);
  assert.match(said, new RegExp(`${server.port}.*in use|in use.*${server.port}`, 'is'));
  assert.doesNotMatch(said, /panicked|backtrace/i);
});

promise('a file that is not there, also one named by --config, is a sentence and exit code 1', async () => {
  const none = await fails(undefined);
  assert.equal(none.code, 1);
  assert.match(none.said, /laravel-echo-server\.json/);
  const other = await fails(undefined, ['--config', 'elsewhere.json']);
  assert.equal(other.code, 1);
  assert.match(other.said, /elsewhere\.json/);
});

promise('a bad file is told by file, line, key, value and what would be right', async () => {
  const broken = await fails('{\n  "port": "6001",\n  "authHost" "http://localhost"\n}\n');
  assert.equal(broken.code, 1);
  assert.match(broken.said, /laravel-echo-server\.json/);
  assert.match(broken.said, /line 3|:3\b/);

  const wrong = await fails('{\n  "clients": [ { "appId": "a", "key": "b" } ],\n  "port": "sixty"\n}\n');
  assert.equal(wrong.code, 1);
  assert.match(wrong.said, /line 3|:3\b/);
  assert.match(wrong.said, /port/);
  assert.match(wrong.said, /sixty/);
  assert.match(wrong.said, /number|65535/);
});
