// The Debian package on a fresh Debian: built, installed, started as its unit says, used, and removed without a trace.
// The .rpm is built and looked at; there is no Fedora here to install it on.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFileSync, chmodSync, copyFileSync, mkdtempSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { before } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Component, freePort } from './lib/component.mjs';
import { RawClient } from './lib/raw.mjs';
import { RedisClient, startRedis } from './lib/redis.mjs';
import { binary, REDIS_IS_THERE } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const NAME = 'laravel-echo-server';
const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const file = fileLifetime();
let built;

/** Runs a program to its end; returns what it says. Its complaints are in the error. */
function run(program, args, options = {}) {
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 1 << 26, ...options, env: { ...process.env, PATH, LC_ALL: 'C', ...options.env } });
}

const packageOf = (end) => join(built, readdirSync(built).find((name) => name.endsWith(end)));

before(() => {
  built = mkdtempSync(join(tmpdir(), 'les-packages-'));
  file.keep({ stop: () => run('rm', ['-rf', built]) });
  run(join(ROOT, 'packaging/build'), ['--binary', binary(), '--to', built]);
});

/** The settings of a unit file, each the list of its values. */
function unit(text) {
  const settings = {};
  for (const line of text.split('\n').filter((line) => /^[A-Z]\w*=/.test(line))) {
    const [, key, value] = line.match(/^(\w+)=(.*)$/);
    (settings[key] ??= []).push(value);
  }
  return settings;
}

promise('the .deb on a fresh Debian: installed, started as its unit says, used, purged', async (life) => {
  assert.equal(process.getuid(), 0, 'a Debian of its own is made by root only: sudo ./test e2e');
  const root = mkdtempSync(join(tmpdir(), 'les-debian-'));
  life.keep({ stop: () => run('rm', ['-rf', '--one-file-system', root]) });
  chmodSync(root, 0o755);
  run('debootstrap', ['--variant=minbase', 'bookworm', root]);
  const inside = (...args) => run('chroot', [root, ...args]);
  const found = () => inside('find', '/', '-xdev', '(', '-path', '/proc', '-o', '-path', '/sys', '-o', '-path', '/var/lib/dpkg', '-o', '-path', '/var/log', ')', '-prune', '-o', '-print').split('\n');
  const accounts = () => ['passwd', 'group', 'shadow', 'gshadow'].map((name) => readFileSync(join(root, 'etc', name), 'utf8'));
  const [filesBefore, accountsBefore] = [found(), accounts()];

  const deb = packageOf('.deb');
  copyFileSync(deb, join(root, 'tmp', basename(deb)));
  inside('dpkg', '--install', join('/tmp', basename(deb)));
  inside('rm', join('/tmp', basename(deb)));
  assert.match(inside('stat', '--format=%U:%G %a', `/etc/${NAME}/${NAME}.json`), /^root:laravel-echo-server 640/);
  assert.match(inside('dpkg', '--verify', NAME), /^$/);

  // As systemd would start it: by this user, in this directory, with these variables.
  const service = unit(readFileSync(join(root, `lib/systemd/system/${NAME}.service`), 'utf8'));
  const redis = await life.keep(startRedis());
  const port = await freePort();
  const variables = service.EnvironmentFile[0].replace(/^-/, '');
  writeFileSync(join(root, variables), `LARAVEL_ECHO_SERVER_HOST=127.0.0.1\nLARAVEL_ECHO_SERVER_PORT=${port}\nLARAVEL_ECHO_SERVER_REDIS_PORT=${redis.port}\nLARAVEL_ECHO_SERVER_LOG_FORMAT=text\n`);
  inside('install', '-d', '-o', service.User[0], '-g', service.Group[0], `/run/${service.RuntimeDirectory[0]}`);
  const server = new Component(NAME, { prefix: 'deb' });
  life.keep(server);
  server.run('chroot', [`--userspec=${service.User}:${service.Group}`, root, '/bin/sh', '-c', `cd ${service.WorkingDirectory} && set -a && . ${variables} && exec ${service.ExecStart}`], { env: { PATH } });
  await server.line(/Server ready!/);
  await server.line(REDIS_IS_THERE);
  // How many files may be open is the unit's LimitNOFILE, which is not applied here.
  assert.ok(!server.log.items.some((line) => / WARN (?!Only \d+ files may be open)| ERROR /.test(line)), server.log.items.join('\n'));
  assert.match(inside('ls', `/run/${service.RuntimeDirectory}`), /laravel-echo-server\.lock/);

  const client = await RawClient.open({ port, key: 'my-app-key' });
  await client.subscribed('orders');
  const publisher = await life.keep(RedisClient.open(redis.port));
  await publisher.publish('orders', 'shipped', { id: 7 });
  assert.deepEqual(JSON.parse((await client.event('shipped')).data), { id: 7 });
  server.kill('SIGTERM');
  assert.equal((await client.closed).code, 1012);
  assert.deepEqual(await server.exited, { code: 0, signal: null });
  assert.match(inside('ls', `/run/${service.RuntimeDirectory}`), /^$/);
  inside('rmdir', `/run/${service.RuntimeDirectory}`);

  // What an administrator has changed survives all but a purge.
  appendFileSync(join(root, `etc/${NAME}/${NAME}.json`), '\n');
  inside('dpkg', '--remove', NAME);
  assert.ok(found().includes(`/etc/${NAME}/${NAME}.json`));
  inside('dpkg', '--purge', NAME);
  assert.deepEqual(found().filter((name) => !filesBefore.includes(name) && !/^\/etc\/.*-$|\.lock$/.test(name)), []);
  assert.deepEqual(accounts(), accountsBefore);
}, { timeout: 600_000 });

promise('the unit is one that systemd takes, and locks the server in', () => {
  const path = join(ROOT, `packaging/${NAME}.service`);
  // The program is not installed here.
  const text = readFileSync(path, 'utf8').replace(`/usr/bin/${NAME}`, '/bin/true').replace(/^(Documentation|User|Group)=.*\n/gm, '');
  const own = join(built, `${NAME}.service`);
  writeFileSync(own, text);
  assert.equal(run('systemd-analyze', ['verify', '--man=no', own]), '');
  // From 0, locked in, to 100.
  run('systemd-analyze', ['security', '--offline=true', '--threshold=25', path]);
});

promise('the .rpm holds the same files, and its settings are kept', () => {
  const rpm = packageOf('.rpm');
  const listed = run('rpm', ['-qp', '--queryformat', '[%{FILENAMES} %{FILEFLAGS:fflags} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEMODES:perms}\n]', rpm]).split('\n');
  for (const wanted of [
    `/usr/bin/${NAME}  root:root -rwxr-xr-x`,
    `/usr/lib/systemd/system/${NAME}.service  root:root -rw-r--r--`,
    `/etc/${NAME}/${NAME}.json cn root:${NAME} -rw-r-----`,
  ]) assert.ok(listed.includes(wanted), `${wanted} is not in\n${listed.join('\n')}`);
  const inDeb = run('dpkg-deb', ['--contents', packageOf('.deb')]).split('\n').map((line) => line.split(' ').pop().slice(1));
  const names = listed.map((line) => line.split(' ')[0]);
  for (const name of inDeb.filter((name) => /^\/(usr\/bin|usr\/share\/(man|fish|bash-completion|laravel-echo-server))\/.*[^/]$/.test(name))) {
    assert.ok(names.includes(name), `${name} is in the .deb only`);
  }
  assert.match(run('rpm', ['-qp', '--scripts', rpm]), /useradd --system/);
});
