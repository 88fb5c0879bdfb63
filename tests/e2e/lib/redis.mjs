// A real redis-server of one's own, and just enough of a client to publish and to listen.
import { connect } from 'node:net';
import { Component, freePort } from './component.mjs';
import { PATIENCE, Recorder, within } from './waiting.mjs';

export async function startRedis({ port } = {}) {
  port ??= await freePort();
  const redis = new Component('redis-server', { prefix: 'redis' });
  redis.port = port;
  redis.run('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', redis.dir]);
  await redis.line(/Ready to accept connections/);
  return redis;
}

/** A connection that sends commands and reads the answers in order. */
export class RedisClient {
  #waiting = [];
  #input = Buffer.alloc(0);
  /** Messages of SUBSCRIBE: `{ channel, payload }`. */
  messages = new Recorder();

  static async open(port) {
    const client = new RedisClient();
    client.socket = connect(port, '127.0.0.1');
    await within(new Promise((resolve, reject) => client.socket.once('connect', resolve).once('error', reject)), 'Redis to take a connection');
    client.socket.on('data', (bytes) => client.#read(bytes));
    client.socket.on('error', () => {});
    return client;
  }

  command(...words) {
    return this.pipeline([words]).then(([answer]) => answer);
  }

  /** Many commands in one write, such as a burst of events. */
  pipeline(commands, ms = PATIENCE) {
    const answers = commands.map(() => new Promise((resolve, reject) => this.#waiting.push({ resolve, reject })));
    this.socket.write(commands.map((words) => `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`).join(''));
    return within(Promise.all(answers), 'Redis to answer', ms);
  }

  /** Publishes an event in the form of Laravel's redis broadcaster. */
  publish(channel, event, data, socket = null) {
    return this.command('PUBLISH', channel, laravelPayload(event, data, socket));
  }

  close() {
    this.socket.destroy();
  }

  #read(bytes) {
    this.#input = Buffer.concat([this.#input, bytes]);
    let at = 0;
    for (;;) {
      const answer = parse(this.#input, at);
      if (!answer) break;
      at = answer.end;
      if (Array.isArray(answer.value) && answer.value[0] === 'message') {
        this.messages.record({ channel: answer.value[1], payload: answer.value[2] });
      } else {
        const { resolve, reject } = this.#waiting.shift();
        answer.value instanceof Error ? reject(answer.value) : resolve(answer.value);
      }
    }
    this.#input = this.#input.subarray(at);
  }
}

export function laravelPayload(event, data, socket = null) {
  return JSON.stringify({ event, data: { ...data, socket }, socket });
}

/** One RESP value from `at` on, or nothing if it is not all there. */
function parse(input, at) {
  const stop = input.indexOf('\r\n', at);
  if (stop < 0) return undefined;
  const text = input.toString('utf8', at + 1, stop);
  const end = stop + 2;
  switch (String.fromCharCode(input[at])) {
    case '+': return { value: text, end };
    case '-': return { value: new Error(text), end };
    case ':': return { value: Number(text), end };
    case '$': {
      const length = Number(text);
      if (length < 0) return { value: null, end };
      if (input.length < end + length + 2) return undefined;
      return { value: input.toString('utf8', end, end + length), end: end + length + 2 };
    }
    case '*': {
      const value = [];
      let next = end;
      for (let n = 0; n < Number(text); n += 1) {
        const part = parse(input, next);
        if (!part) return undefined;
        value.push(part.value);
        next = part.end;
      }
      return { value, end: next };
    }
    default: throw new Error(`not RESP: ${text}`);
  }
}
