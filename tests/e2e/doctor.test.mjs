// `doctor` on set-ups that are broken on purpose, with the real Laravel and a real nginx: it names the cause and
// the line to change. Those that need neither are in tests/doctor.rs.
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { before } from 'node:test';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Component } from './lib/component.mjs';
import { PREFIX, USERS, post, signIn, startLaravel } from './lib/laravel.mjs';
import { startNginx } from './lib/nginx.mjs';
import { startRedis } from './lib/redis.mjs';
import { binary, configuration, startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const { john } = USERS;
const APP = fileURLToPath(new URL('../laravel-app/', import.meta.url));
const SECRET = 'talent2income-secret';
const file = fileLifetime();
let redis;
let laravel;
let server;

before(async () => {
  redis = await file.keep(startRedis());
  laravel = await file.keep(startLaravel({ redis }));
  server = await file.keep(startServer({ redis, laravel }));
});

/** The doctor, about a configuration with `extra` in it and a copy of the application that `edit` may change. */
function startDoctor({ args = [], at = laravel, port = 0, edit = (_, text) => text, ...extra }) {
  const doctor = new Component('doctor');
  // A limit that this machine keeps, whichever it is: it is not what these tests are about.
  const config = configuration({ redisPort: redis.port, laravelPort: at.port, port, extra: { limits: { connections: 50 }, ...extra } });
  writeFileSync(join(doctor.dir, 'laravel-echo-server.json'), JSON.stringify(config));
  const app = join(doctor.dir, 'app');
  mkdirSync(app);
  const copied = { '.env': (text) => text.replace('REDIS_PORT=6379', `REDIS_PORT=${redis.port}`) };
  for (const part of ['.env', 'artisan', 'app', 'bootstrap', 'config', 'routes']) cpSync(join(APP, part), join(app, part), { recursive: true });
  for (const name of ['.env', 'app/Providers/BroadcastServiceProvider.php', 'config/broadcasting.php']) {
    const text = (copied[name] ?? ((same) => same))(readFileSync(join(app, name), 'utf8'));
    writeFileSync(join(app, name), edit(name, text));
  }
  return doctor.run(binary(), ['doctor', '--json', '--dir', doctor.dir, '--app', app, ...args]);
}

/** Its report: the exit code, and the one finding of an id. */
async function report(doctor) {
  const { code } = await doctor.exited;
  const text = doctor.log.items.join('\n');
  const { findings } = JSON.parse(text);
  const one = (id) => {
    const found = findings.filter((finding) => finding.id === id);
    assert.equal(found.length, 1, `${found.length} findings ${id}: ${text}`);
    return found[0];
  };
  for (const secret of [SECRET, john.token, 'another-secret']) assert.ok(!text.includes(secret), 'a secret stands in the report');
  return { code, one, text };
}

/** It has this level, and names cause, file and line. */
function names(finding, { level, cause, place, line }) {
  assert.equal(finding.level, level, JSON.stringify(finding));
  assert.match(finding.what, cause);
  assert.ok(finding.file.includes(place), `${place} is not in ${finding.file}`);
  assert.ok(finding.lines.includes(line), `${line} is not in ${JSON.stringify(finding.lines)}`);
}

const examine = async (life, { args = [], ...options } = {}) => report(await life.keep(startDoctor({ args: ['--listen', '0', ...args], ...options })));

promise('an application that works: nothing but ok, and the way that fits', async (life) => {
  const Cookie = await signIn(laravel.url, john);
  const { code, one, text } = await examine(life, { args: ['--token', john.token, '--cookie', Cookie, '--channel', 'private-user.1'] });
  assert.equal(code, 0, text);
  for (const id of ['laravel.driver', 'redis.same', 'redis.prefix', 'auth.route', 'auth.way']) assert.equal(one(id).level, 'ok');
  assert.match(one('redis.prefix').what, new RegExp(PREFIX));
  assert.ok(!text.includes(Cookie.split('=')[1]), 'the cookie stands in the report');
});

promise('the wrong prefix, by what the real Laravel publishes', async (life) => {
  // Without what its files say.
  const doctor = await life.keep(startDoctor({ args: ['--listen', '3'], keyPrefix: 'other_database_', edit: (name, text) => (name === '.env' ? text.replace(/APP_NAME=.*/, 'APP_NAME=Zoë') : text) }));
  const ended = doctor.exited.then(() => true);
  const event = { channels: ['private-user.1', 'orders'], event: 'shipped', data: { n: 1 } };
  do await post(laravel.url, '/api/test/broadcast', { body: event });
  while (!(await Promise.race([ended, new Promise((resolve) => setImmediate(resolve, false))])));
  const { code, one } = await report(doctor);
  assert.equal(code, 2);
  names(one('redis.prefix'), { level: 'problem', cause: new RegExp(`events are published under "${PREFIX}"`), place: 'databaseConfig.redis', line: `"keyPrefix": "${PREFIX}"` });
});

promise('the auth route is missing', async (life) => {
  const provider = 'app/Providers/BroadcastServiceProvider.php';
  const edit = (name, text) => (name === provider ? text.replaceAll('Broadcast::routes', 'noRoutes') : text);
  const { code, one } = await examine(life, { authEndpoint: '/nowhere/broadcasting/auth', edit });
  assert.equal(code, 2);
  names(one('auth.route'), { level: 'problem', cause: /no broadcasting route .*\(404\)/, place: provider, line: 'Broadcast::routes();' });
  // It is registered, and under another path.
  const other = (await examine(life, { authEndpoint: '/nowhere/broadcasting/auth' })).one('auth.route');
  names(other, { level: 'problem', cause: /\(404\)/, place: 'laravel-echo-server.json', line: '"authEndpoint": "/(the path of the route)"' });
  assert.ok(other.fix.includes(provider), other.fix);
});

promise('the route wants a CSRF token', async (life) => {
  const { code, one } = await examine(life, { authEndpoint: '/own/broadcasting/auth' });
  assert.equal(code, 2);
  names(one('auth.csrf'), { level: 'problem', cause: /CSRF token .*\(419\)/, place: 'app/Http/Middleware/VerifyCsrfToken.php', line: "protected $except = ['own/broadcasting/auth'];" });
});

promise('bearer tokens only', async (life) => {
  const line = `authEndpoint: 'http://' + window.location.hostname + ':6001/token/broadcasting/auth',`;
  const expected = { level: 'warning', cause: /bearer tokens only/, place: 'new Echo', line };
  const common = { authEndpoint: '/token/broadcasting/auth', port: 6001 };
  // By what Laravel answers to a cookie and to a token.
  const Cookie = await signIn(laravel.url, john);
  const answered = await examine(life, { ...common, args: ['--token', john.token, '--cookie', Cookie, '--channel', 'private-user.1'] });
  names(answered.one('auth.way'), expected);
  // By what its files say.
  const edit = (_, text) => text.replace("['web', 'auth:web,api']", "['auth:api']");
  const read = (await examine(life, { ...common, edit })).one('auth.way');
  names(read, expected);
  assert.match(read.what, /BroadcastServiceProvider\.php, line \d+/);
});

promise('Laravel signs with the wrong secret', async (life) => {
  for (const [secret, level] of [['another-secret', 'problem'], [SECRET, 'ok']]) {
    const signing = await life.keep(startLaravel({ redis, env: { BROADCAST_DRIVER: 'signed-redis', PUSHER_APP_SECRET: secret } }));
    const edit = (name, text) => (name === '.env' ? text.replace('BROADCAST_DRIVER=redis', 'BROADCAST_DRIVER=signed-redis').replace(SECRET, secret) : text);
    for (const channel of ['private-user.1', 'presence-online-users']) {
      const { one } = await examine(life, { at: signing, secret: SECRET, edit, args: ['--token', john.token, '--channel', channel] });
      for (const id of ['auth.signature', 'laravel.secret']) assert.equal(one(id).level, level, `${id} ${channel}`);
      if (level === 'ok') continue;
      names(one('auth.signature'), { level, cause: /another secret/, place: 'laravel-echo-server.json, in clients[0]', line: '"secret": "(Laravel\'s)"' });
    }
  }
});

promise('a proxy that does not pass Upgrade on, one that leads nowhere, and one that is right', async (life) => {
  const dial = async (edit, at = server) => {
    const nginx = await life.keep(startNginx({ laravel, server: at, edit }));
    return examine(life, { port: server.port, args: ['--url', nginx.url] });
  };
  const right = await dial();
  for (const id of ['proxy.app', 'proxy.socketio']) assert.equal(right.one(id).level, 'ok');
  // Without the location for Socket.IO, Laravel answers there.
  const half = await dial((text, name) => (name === 'socket.io.conf' ? '' : text));
  assert.equal(half.one('proxy.app').level, 'ok');
  names(half.one('proxy.socketio'), { level: 'warning', cause: /does not lead to this server: the answer is 404/, place: 'nginx', line: 'location /socket.io/ {' });

  const { code, one } = await dial((text) => text.replace(/^.*(Upgrade|Connection).*$/gm, ''));
  assert.equal(code, 2);
  for (const line of ['proxy_http_version 1.1;', 'proxy_set_header Upgrade $http_upgrade;', 'proxy_set_header Connection "upgrade";']) {
    names(one('proxy.app'), { level: 'problem', cause: /does not pass the Upgrade header on/, place: 'location /app/', line });
  }

  const nowhere = (await dial(undefined, { port: 9 })).one('proxy.app');
  names(nowhere, { level: 'problem', cause: /does not reach this server \(502\)/, place: 'nginx', line: `    proxy_pass http://127.0.0.1:${server.port};` });
});
