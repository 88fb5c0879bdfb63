// Backends: the same calls by the official server libraries, npm's and PyPI's, unmodified.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import Pusher from 'pusher';
import { within } from './waiting.mjs';

const PYTHON = fileURLToPath(new URL('../.venv/bin/python', import.meta.url));
const CALLS = fileURLToPath(new URL('../fixtures/call-pusher.py', import.meta.url));

/** What the server refused. */
export class Refused extends Error {
  constructor(status, body) {
    super(`${status}: ${body}`);
    this.status = status;
    this.body = JSON.parse(body);
  }
}

/** npm `pusher`. */
export class NodeBackend {
  constructor({ appId, key, secret, port, masterKey }) {
    this.pusher = new Pusher({ appId, key, secret, host: '127.0.0.1', port: String(port), useTLS: false, encryptionMasterKeyBase64: masterKey });
  }

  async #answer(promised) {
    try {
      return await (await promised).json();
    } catch (error) {
      if (error.status) throw new Refused(error.status, error.body);
      throw error;
    }
  }

  trigger = (channels, name, data, socketId) => this.#answer(this.pusher.trigger(channels, name, data, socketId && { socket_id: socketId }));
  batch = (events) => this.#answer(this.pusher.triggerBatch(events));
  channels = (prefix, attributes) => this.#answer(this.pusher.get({ path: '/channels', params: query({ filter_by_prefix: prefix, info: attributes?.join(',') }) }));
  channel = (name, attributes) => this.#answer(this.pusher.get({ path: `/channels/${name}`, params: query({ info: attributes?.join(',') }) }));
  users = (channel) => this.#answer(this.pusher.get({ path: `/channels/${channel}/users` }));
  sendToUser = (id, name, data) => this.#answer(this.pusher.sendToUser(id, name, data));
  terminate = (id) => this.#answer(this.pusher.terminateUserConnections(id));
  authorize = async (socketId, channel, member) => this.pusher.authorizeChannel(socketId, channel, member);
  authenticateUser = async (socketId, user) => this.pusher.authenticateUser(socketId, user);

  /** What a webhook says, or null if the library does not accept it. */
  async webhook({ headers, body }) {
    const webhook = this.pusher.webhook({ headers, rawBody: body });
    return webhook.isValid() ? webhook.getData() : null;
  }

  close() {}
}

function query(parameters) {
  return Object.fromEntries(Object.entries(parameters).filter(([, value]) => value !== undefined));
}

/** The status behind an error of PyPI's library. */
const STATUSES = { PusherBadRequest: 400, PusherBadAuth: 401, PusherForbidden: 403 };

/** PyPI `pusher`, in a Python of its own. */
export class PythonBackend {
  #waiting = [];

  constructor({ appId, key, secret, port, masterKey }) {
    if (!existsSync(PYTHON)) throw new Error('tests/e2e/.venv is missing; `./test e2e` makes it');
    const options = { app_id: appId, key, secret, host: '127.0.0.1', port, ssl: false, encryption_master_key_base64: masterKey };
    this.child = spawn(PYTHON, [CALLS, JSON.stringify(options)], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.ended = new Promise((resolve) => this.child.on('close', resolve).on('error', resolve));
    this.ended.then(() => this.#waiting.splice(0).forEach(({ reject }) => reject(new Error('Python has ended'))));
    createInterface({ input: this.child.stdout }).on('line', (line) => this.#waiting.shift().resolve(JSON.parse(line)));
    this.child.stdin.on('error', () => {});
  }

  async #call(method, ...args) {
    const answer = new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    this.child.stdin.write(`${JSON.stringify({ method, args })}\n`);
    const { result, error, message } = await within(answer, `Python's ${method}`);
    if (error === 'PusherBadStatus') throw new Refused(Number(message.split(':')[0]), message.slice(message.indexOf('{')));
    if (error in STATUSES) throw new Refused(STATUSES[error], message);
    if (error) throw new Error(`${error}: ${message}`);
    return result;
  }

  trigger = (channels, name, data, socketId) => this.#call('trigger', channels, name, data, ...(socketId ? [socketId] : []));
  batch = (events) => this.#call('trigger_batch', events);
  channels = (prefix, attributes) => this.#call('channels_info', prefix ?? null, attributes ?? []);
  channel = (name, attributes) => this.#call('channel_info', name, attributes ?? []);
  users = (channel) => this.#call('users_info', channel);
  sendToUser = (id, name, data) => this.#call('send_to_user', id, name, data);
  terminate = (id) => this.#call('terminate_user_connections', id);
  authorize = (socketId, channel, member) => this.#call('authenticate', channel, socketId, ...(member ? [member] : []));
  authenticateUser = (socketId, user) => this.#call('authenticate_user', socketId, user);
  webhook = ({ headers, body }) => this.#call('validate_webhook', headers['x-pusher-key'], headers['x-pusher-signature'], body);

  async close() {
    this.child.stdin.end();
    await within(this.ended, 'Python to end').catch((error) => {
      this.child.kill('SIGKILL');
      throw error;
    });
  }
}

/** By the name and version that its users know. */
export const BACKENDS = { 'npm pusher 5.3.4': NodeBackend, 'PyPI pusher 3.3.4': PythonBackend };
