// The commands of the npm package laravel-echo-server and of this server, given the same directory contents and the same
// words. What is different is on the list of lib/differences.mjs.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { Component } from './lib/component.mjs';
import { DIFFERENCES } from './lib/differences.mjs';
import { startRedis } from './lib/redis.mjs';
import { Comparison, oldConfiguration, programs, rawRequest, startBoth } from './lib/side-by-side.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';
import { within } from './lib/waiting.mjs';

const file = fileLifetime();
const comparison = new Comparison(DIFFERENCES);
let redis;

before(async () => {
  redis = await file.keep(startRedis());
});

/** Runs a command to its end: exit code, and what it said without colours. */
async function run(which, args, cwd) {
  const [program, first] = programs()[which];
  const child = spawn(program, [...first, ...args], { cwd, env: { LARAVEL_ECHO_SERVER_LOG_FORMAT: 'text', ...process.env, FORCE_COLOR: '0' }, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (said += text));
  const code = await within(new Promise((resolve) => child.on('close', resolve)), `the end of ${args.join(' ')}`);
  return { code, said };
}

/** The same command for both, each in a directory with these files. */
async function both(args, files = {}) {
  const results = {};
  for (const which of ['old', 'ours']) {
    const dir = mkdtempSync(join(tmpdir(), `les-cli-${which}-`));
    for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
    try {
      const { code, said } = await run(which, args, dir);
      const read = (name) => (existsSync(join(dir, name)) ? readFileSync(join(dir, name), 'utf8') : undefined);
      results[which] = { code, said, config: read('laravel-echo-server.json'), lock: read('laravel-echo-server.lock') };
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  }
  return results;
}

const codes = ({ old, ours }) => ({ old: old.code, ours: ours.code });
const config = (extra) => JSON.stringify(oldConfiguration({ redis: { port: 9 }, port: 6001, db: 0, extra }), null, '\t');

promise('start, what it says and leaves, and stop', async (life) => {
  const servers = await startBoth(life, { redis });
  for (const server of Object.values(servers)) {
    for (const line of ['Running at localhost on port', 'Server ready!']) await server.line(new RegExp(line));
  }
  const lock = ({ dir }) => readFileSync(join(dir, 'laravel-echo-server.lock'), 'utf8');
  const locks = { old: lock(servers.old).replace(String(servers.old.child.pid), 'PID'), ours: lock(servers.ours).replace(String(servers.ours.child.pid), 'PID') };
  assert.equal(locks.old, '{\n\t"process": PID\n}');
  comparison.different('the lock file', locks, 'the lock file', { old: locks.old, ours: `{\n\t"process": PID,\n\t"port": ${servers.ours.port}\n}` });

  const again = { old: await run('old', ['start', '--dir', servers.old.dir], tmpdir()), ours: await run('ours', ['start', '--dir', servers.ours.dir], tmpdir()) };
  for (const { said } of Object.values(again)) assert.match(said, /already a server running/);
  comparison.different('started twice', codes(again), 'exit codes', { old: 0, ours: 1 });
  for (const server of Object.values(servers)) assert.equal((await rawRequest(server, { path: '/' })).body, 'OK');

  const stopped = { old: await run('old', ['stop', '--dir', servers.old.dir], tmpdir()), ours: await run('ours', ['stop', '--dir', servers.ours.dir], tmpdir()) };
  for (const { said } of Object.values(stopped)) assert.match(said, /Closed the running server\./);
  comparison.same('stop', codes(stopped));
  const ends = { old: await servers.old.exited, ours: await servers.ours.exited };
  comparison.same('how the server ends', ends);
  assert.deepEqual(ends.ours, { code: 0, signal: null });
  for (const { dir } of Object.values(servers)) assert.ok(!existsSync(join(dir, 'laravel-echo-server.lock')));
});

// SIGHUP is among them with the old one; what it does here is the operator's choice.
for (const signal of ['SIGTERM', 'SIGINT']) {
  promise(`${signal} ends both with exit code 0`, async (life) => {
    const servers = await startBoth(life, { redis });
    for (const server of Object.values(servers)) server.kill(signal);
    comparison.same(signal, { old: await servers.old.exited, ours: await servers.ours.exited });
  });
}

promise('--force takes the place of the one that runs', async (life) => {
  for (const [which, first] of Object.entries(await startBoth(life, { redis }))) {
    const [program, args] = programs()[which];
    const second = new Component(`the second ${which}`, { prefix: which });
    second.run(program, [...args, 'start', '--dir', first.dir, '--force'], { env: { FORCE_COLOR: '0' } });
    await life.keep(second);
    await second.line(new RegExp(`Closing process ${first.child.pid} because you used the '--force' option`));
    assert.deepEqual(await first.exited, { code: 0, signal: null });
    // The old one does not wait for the port, and may find it taken: nothing more can be said of it.
    if (which === 'ours') await second.line(/Server ready!/);
  }
});

promise('what cannot be done', async () => {
  const cases = [
    [['stop'], {}, /lock file/],
    [['start'], {}, /laravel-echo-server\.json|could not be found/],
    [['start'], { 'laravel-echo-server.json': '{' }, /config file|laravel-echo-server\.json/],
    [['start', '--config=other.json'], { 'laravel-echo-server.json': config() }, /could not be found|other\.json/],
    [['start'], { 'laravel-echo-server.json': config({ protocol: 'https' }) }, /SSL paths|sslCertPath/],
    [['start'], { 'laravel-echo-server.json': config({ port: 'abc' }) }, /TypeError|port/],
    [['no-such-command'], {}, /^$|no-such-command/],
  ];
  for (const [args, files, wanted] of cases) {
    const results = await both(args, files);
    for (const { said } of Object.values(results)) assert.match(said, wanted, `${args}: ${said}`);
    const { old, ours } = codes(results);
    assert.ok(ours > 0, `${args}: ${results.ours.said}`);
    comparison.different(args.join(' '), { old, ours: ours > 0 }, 'exit codes', { old: 0, ours: true });
  }
  comparison.same('no command', { old: (await both([])).old.code > 0, ours: (await both([])).ours.code > 0 });
});

promise('--help and --version', async () => {
  for (const args of [['--help'], ['start', '--help'], ['--version']]) comparison.same(args.join(' '), codes(await both(args)));
  const { old, ours } = await both(['--help']);
  for (const command of ['start', 'stop', 'configure', 'init', 'client:add', 'client:remove']) {
    for (const { said } of [old, ours]) assert.ok(said.includes(command), said);
  }
  const start = await both(['start', '--help']);
  for (const option of ['--config', '--dir', '--force', '--dev']) {
    for (const { said } of Object.values(start)) assert.ok(said.includes(option), said);
  }
});

promise('client:add and client:remove', async () => {
  const files = { 'laravel-echo-server.json': config() };
  const clients = ({ config: text }) => JSON.parse(text).clients;
  const shape = (list) => list.map(({ appId, key }) => ({ appId: /^[0-9a-f]{16}$/.test(appId) ? '16 digits' : appId, key: /^[0-9a-f]{32}$/.test(key) ? '32 digits' : key }));

  for (const [args, words] of [
    [['client:add'], ['API Client added!', 'appId:', 'key:']],
    [['client:add', 'shop'], ['API Client added!', 'appId: shop']],
    [['client:add', 'app1'], ['API Client updated!', 'appId: app1']],
    [['client:remove', 'app1'], ['Client removed: app1']],
  ]) {
    const results = await both(args, files);
    for (const [which, { said }] of Object.entries(results)) for (const word of words) assert.ok(said.includes(word), `${which}: ${word} in ${said}`);
    comparison.same(args.join(' '), codes(results));
    comparison.same(`${args.join(' ')} in the file`, { old: shape(clients(results.old)), ours: shape(clients(results.ours)) });
  }
  const added = await both(['client:add', 'shop'], files);
  const names = ({ config: text }) => Object.keys(JSON.parse(text).clients.at(-1));
  comparison.different('a client', { old: names(added.old), ours: names(added.ours) }, 'secrets of clients', { old: ['appId', 'key'], ours: ['appId', 'key', 'secret'] });

  const number = await both(['client:add', '12345'], files);
  const id = ({ config: text }) => JSON.parse(text).clients.at(-1).appId;
  comparison.different('an id of digits', { old: id(number.old), ours: id(number.ours) }, 'ids of digits', { old: 12345, ours: '12345' });

  const kept = await both(['client:add', 'shop'], { 'laravel-echo-server.json': config({ mine: 1 }) });
  comparison.different('unknown keys', { old: 'mine' in JSON.parse(kept.old.config), ours: 'mine' in JSON.parse(kept.ours.config) }, 'what client:add writes', { old: false, ours: true });
  comparison.different('an unknown client', codes(await both(['client:remove', 'nobody'], files)), 'exit codes', { old: 0, ours: 1 });
});

const HERE = ['exit codes', 'secrets of clients', 'the lock file', 'ids of digits', 'what client:add writes'];

after(() => assert.deepEqual([...comparison.used].sort(), [...HERE].sort(), 'what these tests have seen of the list'));
