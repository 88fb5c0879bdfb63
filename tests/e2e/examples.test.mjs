// What examples/ and packaging/ give people to copy: proxies are used for real, the rest is read as its program reads it.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { before } from 'node:test';
import { fileURLToPath } from 'node:url';
import Ajv from 'ajv';
import { parse, parseAllDocuments } from 'yaml';
import { startNginx } from './lib/nginx.mjs';
import { startApache, startCaddy } from './lib/proxies.mjs';
import { RawClient } from './lib/raw.mjs';
import { RedisClient, startRedis } from './lib/redis.mjs';
import { binary, startServer } from './lib/server.mjs';
import { SocketIoTab } from './lib/socketio.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const ROOT = new URL('../../', import.meta.url);
const read = (path) => readFileSync(new URL(path, ROOT), 'utf8');
const isConfiguration = new Ajv({ strict: false }).compile(JSON.parse(read('schema/laravel-echo-server.schema.json')));
const file = fileLifetime();
let redis, laravel, server, publisher;

/** An application that says yes to everybody, and has one page. */
async function startApplication() {
  const application = createServer((request, response) => {
    if (request.url === '/broadcasting/auth') response.setHeader('Content-Type', 'application/json').end('true');
    else response.end('the application');
    request.resume();
  });
  await new Promise((resolve) => application.listen(0, '127.0.0.1', resolve));
  return { port: application.address().port, stop: () => new Promise((resolve) => { application.close(resolve); application.closeAllConnections(); }) };
}

/** A command line of an example is one that the program takes; `--help` keeps it from doing anything. */
function takes(words) {
  execFileSync(binary(), [...words, '--help'], { stdio: 'pipe' });
}

before(async () => {
  redis = await file.keep(startRedis());
  laravel = await file.keep(startApplication());
  server = await file.keep(startServer({ redis, laravel }));
  publisher = await file.keep(RedisClient.open(redis.port));
});

for (const [name, start] of Object.entries({ nginx: startNginx, Apache: startApache, Caddy: startCaddy })) {
  promise(`behind ${name}: the application, WebSockets, Socket.IO, and the way Gateway`, async (life) => {
    const proxy = await life.keep(start({ laravel, server }));
    assert.equal(await (await fetch(proxy.url)).text(), 'the application');

    const client = await life.keep(RawClient.open({ port: proxy.port }));
    const leave = await fetch(`${proxy.url}/broadcasting/auth`, { method: 'POST', body: new URLSearchParams({ socket_id: client.socketId, channel_name: 'private-user.1' }), headers: { Authorization: 'Bearer t' } });
    assert.equal(leave.status, 200, await leave.clone().text());
    await client.subscribed('private-user.1', { auth: (await leave.json()).auth });
    const tab = await life.keep(SocketIoTab.open({ server: Object.create(server, { url: { value: proxy.url } }) }));
    await tab.channel('orders').subscribed();
    await client.subscribed('orders');
    await publisher.publish('orders', 'shipped', { id: 7 });
    assert.deepEqual(JSON.parse((await client.event('shipped')).data), { id: 7 });
    await tab.events.first(([event, channel]) => event === 'shipped' && channel === 'orders', 'the event');
  });
}

promise('Supervisor reads its example, and the command is one', () => {
  const script = `
import configparser, json, sys
p = configparser.RawConfigParser(strict=True, inline_comment_prefixes=(';',)); p.read(sys.argv[1])
print(json.dumps(dict(p['program:laravel-echo-server'])))`;
  const program = JSON.parse(execFileSync('python3', ['-c', script, fileURLToPath(new URL('examples/supervisor/laravel-echo-server.conf', ROOT))], { encoding: 'utf8' }));
  takes(program.command.split(' ').slice(1));
  assert.equal(program.stopsignal, 'TERM');
});

promise('the compose file leads to files that are there, and its configuration is one', () => {
  const { services } = parse(read('examples/docker/compose.yaml'), { merge: true });
  const echo = services['laravel-echo-server'];
  assert.ok(existsSync(new URL(`examples/docker/${echo.build.context}/${echo.build.dockerfile}`, ROOT)));
  const [host, inside] = echo.volumes[0].split(':');
  assert.equal(inside, '/app/laravel-echo-server.json');
  const configuration = JSON.parse(read(`examples/docker/${host}`));
  assert.ok(isConfiguration(configuration), JSON.stringify(isConfiguration.errors));
  for (const name of [configuration.databaseConfig.redis.host, new URL(configuration.authHost).hostname, ...echo.depends_on]) assert.ok(services[name], name);
  assert.deepEqual(echo.ports, [`${configuration.port}:${configuration.port}`]);
});

promise('the Kubernetes objects fit together, and their configuration is one', async () => {
  const documents = parseAllDocuments(read('examples/kubernetes/laravel-echo-server.yaml'));
  for (const document of documents) assert.deepEqual(document.errors, []);
  const objects = Object.fromEntries(documents.map((document) => document.toJS()).map((object) => [object.kind, object]));
  const configuration = JSON.parse(objects.ConfigMap.data['laravel-echo-server.json']);
  assert.ok(isConfiguration(configuration), JSON.stringify(isConfiguration.errors));
  assert.equal(configuration.clients[0].key, objects.Secret.stringData.PUSHER_APP_KEY);
  const { spec, metadata } = objects.Deployment.spec.template;
  const [container] = spec.containers;
  assert.equal(container.ports[0].containerPort, configuration.port);
  for (const labels of [objects.Service.spec.selector, objects.Deployment.spec.selector.matchLabels, objects.PodDisruptionBudget.spec.selector.matchLabels]) assert.deepEqual(labels, metadata.labels);
  for (const { path, backend } of objects.Ingress.spec.rules[0].http.paths) {
    assert.deepEqual(backend, { service: { name: objects.Service.metadata.name, port: { name: objects.Service.spec.ports[0].name } } }, path);
  }
  assert.equal(container.volumeMounts[0].mountPath, '/app');
  // The probes ask for what the server has.
  for (const probe of [container.livenessProbe, container.readinessProbe]) {
    assert.equal((await fetch(server.url + probe.httpGet.path)).status, 200, probe.httpGet.path);
  }
});

promise('the container file copies what is there, and starts what is a command', (life) => {
  const text = read('packaging/Containerfile').replace(/\\\n/g, ' ');
  const instructions = text.split('\n').filter((line) => line.trim() && !line.startsWith('#')).map((line) => line.match(/^([A-Z]+) (.*)$/).slice(1));
  const known = ['FROM', 'RUN', 'WORKDIR', 'COPY', 'ENV', 'USER', 'EXPOSE', 'HEALTHCHECK', 'ENTRYPOINT', 'CMD'];
  const of = (name) => instructions.filter(([instruction]) => instruction === name).map(([, rest]) => rest);
  for (const [instruction] of instructions) assert.ok(known.includes(instruction), instruction);
  // Only what .dockerignore lets through is there to be copied.
  const sent = read('.dockerignore').split('\n').filter((line) => line.startsWith('!')).map((line) => line.slice(1));
  for (const copied of of('COPY').filter((rest) => !rest.startsWith('--from'))) {
    for (const source of copied.split(' ').slice(0, -1)) {
      assert.ok(existsSync(new URL(source, ROOT)) && sent.includes(source), source);
    }
  }
  // What is sent is enough for cargo: no target of Cargo.toml is left behind.
  const folder = mkdtempSync(join(tmpdir(), 'les-container-'));
  life.keep({ stop: () => rmSync(folder, { recursive: true }) });
  for (const source of sent) cpSync(new URL(source, ROOT), join(folder, source), { recursive: true });
  execFileSync('cargo', ['metadata', '--locked', '--offline', '--no-deps', '--format-version=1'], { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] });
  assert.ok(of('COPY').some((rest) => rest === '--from=build /source/target/release/laravel-echo-server /usr/local/bin/laravel-echo-server'));
  assert.match(read('Cargo.toml'), new RegExp(`rust-version = "${of('FROM')[0].match(/rust:([\d.]+)-/)[1]}"`));
  assert.match(of('USER').at(-1), /^[1-9]\d*:[1-9]\d*$/, 'not root, and by number, since there is no /etc/passwd');
  const [entry, command] = [of('ENTRYPOINT'), of('CMD')].map(([rest]) => JSON.parse(rest));
  assert.deepEqual(entry, ['laravel-echo-server']);
  takes(command);
  const [program, ...check] = JSON.parse(of('HEALTHCHECK')[0].split('CMD ')[1]);
  assert.equal(program, entry[0]);
  takes(check);
});
