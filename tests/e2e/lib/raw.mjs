// A bare WebSocket that speaks Pusher's protocol 7: for what a library would hide or a browser would set.
import { createHmac } from 'node:crypto';
import WebSocket from 'ws';
import { Recorder, within } from './waiting.mjs';

export const KEY = 'talent2income-key';

/** The signature of a subscription. */
export function sign(secret, socketId, channel, channelData) {
  const text = [socketId, channel, ...(channelData === undefined ? [] : [channelData])].join(':');
  return `${KEY}:${createHmac('sha256', secret).update(text).digest('hex')}`;
}

export class RawClient {
  /** Every frame, parsed: `{ event, channel, data }` as they came. */
  frames = new Recorder();

  /** Opens a connection; `headers` are those of the handshake, such as Cookie and Origin. */
  static async open({ port, key = KEY, headers = {} }) {
    const client = new RawClient();
    client.socket = new WebSocket(`ws://127.0.0.1:${port}/app/${key}?protocol=7&client=js&version=8.6.0&flash=false`, { headers });
    client.socket.on('message', (bytes) => client.frames.record(JSON.parse(bytes)));
    client.closed = new Promise((resolve) => {
      client.socket.on('close', (code, reason) => resolve({ code, reason: String(reason) }));
    });
    client.socket.on('error', () => {});
    const first = await client.frames.first(() => true, 'the first frame');
    if (first.event === 'pusher:connection_established') client.socketId = JSON.parse(first.data).socket_id;
    return client;
  }

  send(message) {
    this.socket.send(JSON.stringify(message));
  }

  /** Subscribes and waits for the answer: the frame that says succeeded or error. */
  async subscribe(channel, extra = {}) {
    const from = this.frames.items.length;
    this.send({ event: 'pusher:subscribe', data: { channel, ...extra } });
    return this.frames.first(
      (frame) => frame.channel === channel && ['pusher_internal:subscription_succeeded', 'pusher:subscription_error'].includes(frame.event),
      `an answer to the subscription of ${channel}`,
      { from },
    );
  }

  /** Subscribes; anything but yes is an error. */
  async subscribed(channel, extra) {
    const answer = await this.subscribe(channel, extra);
    if (answer.event !== 'pusher_internal:subscription_succeeded') throw new Error(`${channel} was refused: ${JSON.stringify(answer)}`);
    return answer;
  }

  /** Subscribes; returns the refusal's data, `{ type, error, status }`, and being let in is an error. */
  async refused(channel, extra) {
    const answer = await this.subscribe(channel, extra);
    if (answer.event !== 'pusher:subscription_error') throw new Error(`${channel} was not refused: ${JSON.stringify(answer)}`);
    return typeof answer.data === 'string' ? JSON.parse(answer.data) : answer.data;
  }

  event(name, options) {
    return this.frames.first((frame) => frame.event === name, `${name}`, options);
  }

  async close() {
    this.socket.close();
    return within(this.closed, 'the connection to close');
  }
}
