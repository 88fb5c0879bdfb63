// The npm package laravel-echo-server and this server, started with one file, asked and watched by one script.
import assert from 'node:assert/strict';
import { existsSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Component, freePort } from './component.mjs';
import { binary, REDIS_IS_THERE } from './server.mjs';
import { within } from './waiting.mjs';

const OLD = fileURLToPath(new URL('../old-server/node_modules/laravel-echo-server/bin/server.js', import.meta.url));

/** How each of them is run: program and first arguments. */
export function programs() {
  if (!existsSync(OLD)) throw new Error('the old server is not installed: npm ci --ignore-scripts --prefix tests/e2e/old-server');
  return { old: [process.execPath, [OLD]], ours: [binary(), []] };
}

/** The file as the old server's `init` writes it, with the addresses of this test; `extra` replaces whole keys, as there. */
export function oldConfiguration({ redis, laravel, port, db, publishPresence, extra = {} }) {
  return {
    authHost: `http://127.0.0.1:${laravel?.port ?? 9}`,
    authEndpoint: '/broadcasting/auth',
    clients: [{ appId: 'app1', key: 'key1' }],
    database: 'redis',
    databaseConfig: { redis: { host: '127.0.0.1', port: String(redis.port), db: String(db), keyPrefix: 'talent2income_database_' }, sqlite: { databasePath: '/database/laravel-echo-server.sqlite' }, ...(publishPresence && { publishPresence }) },
    devMode: true,
    host: null,
    port: String(port),
    protocol: 'http',
    socketio: {},
    secureOptions: 67108864,
    sslCertPath: '',
    sslKeyPath: '',
    sslCertChainPath: '',
    sslPassphrase: '',
    subscribers: { http: true, redis: true },
    apiOriginAllow: { allowCors: false, allowOrigin: '', allowMethods: '', allowHeaders: '' },
    ...extra,
  };
}

async function start(which, options) {
  const [program, args] = programs()[which];
  const server = new Component(which === 'old' ? 'the old server' : 'laravel-echo-server', { prefix: which });
  server.which = which;
  server.port = await freePort();
  server.url = `http://127.0.0.1:${server.port}`;
  // Both keep presence lists under one key; each has a database of its own for them. Events know no databases.
  server.db = which === 'old' ? 1 : 2;
  const redis = options.redis[which] ?? options.redis;
  const config = oldConfiguration({ ...options, redis, port: server.port, db: server.db });
  writeFileSync(join(server.dir, 'laravel-echo-server.json'), JSON.stringify(config, null, '\t'));
  server.run(program, [...args, 'start', '--dir', server.dir], { env: { FORCE_COLOR: '0' } });
  await server.line(/Server ready!/);
  if (which === 'ours') await server.line(REDIS_IS_THERE);
  return server;
}

/** Starts both; each in a directory of its own. `redis` may be one for each: `{ old, ours }`. */
export async function startBoth(life, options) {
  const [old, ours] = await Promise.all(['old', 'ours'].map((which) => life.keep(start(which, options))));
  return { old, ours };
}

/**
 * Compares what the two have shown. What is different must be deliberate: `because` names an entry of
 * DIFFERENCES; one that is named and is not there is an error as well, so that the list stays true.
 */
export class Comparison {
  #used = new Set();

  constructor(differences) {
    this.differences = differences;
  }

  same(what, { old, ours }) {
    assert.deepEqual(ours, old, `${what}: this server (actual) against the old one (expected)`);
  }

  /** They differ: `expected` says how, `{ old, ours }`. */
  different(what, { old, ours }, because, expected) {
    assert.ok(because in this.differences, `${because} is not on the list of deliberate differences`);
    this.#used.add(because);
    assert.notDeepEqual(ours, old, `${what}: no longer different; take it off the list: ${because}`);
    assert.deepEqual({ old, ours }, expected, what);
  }

  get used() {
    return this.#used;
  }
}

/** Whether an HTTP answer is there as a whole. */
function isWhole(text, method) {
  const end = text.indexOf('\r\n\r\n');
  const length = /\r\ncontent-length: *(\d+)/i.exec(text.slice(0, Math.max(end, 0)));
  return length !== null && (method === 'HEAD' || Buffer.byteLength(text) >= end + 4 + Number(length[1]));
}

/** An HTTP request as it stands, on a connection of its own; answers may be none. */
export async function rawRequest({ port }, { method = 'GET', path, headers = {}, body = '' }) {
  const socket = connect(port, '127.0.0.1');
  const lines = [`${method} ${path} HTTP/1.1`];
  const all = { Host: `127.0.0.1:${port}`, ...(body && { 'Content-Length': Buffer.byteLength(body) }), ...headers };
  for (const [name, value] of Object.entries(all)) lines.push(`${name}: ${value}`);
  socket.write(`${lines.join('\r\n')}\r\n\r\n${body}`);
  const chunks = [];
  socket.on('data', (chunk) => {
    chunks.push(chunk);
    // Not by `Connection: close`: it is one of the things that make a request look like a proxy's.
    if (isWhole(Buffer.concat(chunks).toString(), method)) socket.end();
  });
  await within(new Promise((resolve) => {
    socket.on('close', resolve);
    socket.on('error', () => {});
  }), `an answer to ${method} ${path}`);
  const text = Buffer.concat(chunks).toString();
  if (!text) return { status: 0 };
  const [head, content = ''] = [text.slice(0, text.indexOf('\r\n\r\n')), text.slice(text.indexOf('\r\n\r\n') + 4)];
  const [first, ...rest] = head.split('\r\n');
  const answer = { status: Number(first.split(' ')[1]), headers: {} };
  for (const line of rest) answer.headers[line.slice(0, line.indexOf(':')).toLowerCase()] = line.slice(line.indexOf(':') + 1).trim();
  answer.body = content;
  return answer;
}
