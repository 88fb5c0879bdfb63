// A bare Engine.IO 3 connection over a WebSocket: the frames of Socket.IO as they are on the wire.
import WebSocket from 'ws';
import { Recorder, within } from './waiting.mjs';

export class Frames {
  /** Every text frame. */
  items = new Recorder();
  /** How many frames have been looked at. */
  #seen = 0;

  static async open({ port, headers = {} }) {
    const frames = new Frames();
    frames.socket = new WebSocket(`ws://127.0.0.1:${port}/socket.io/?EIO=3&transport=websocket`, { headers });
    frames.socket.on('message', (bytes) => frames.items.record(String(bytes)));
    frames.closed = new Promise((resolve) => frames.socket.on('close', (code) => resolve(code)));
    frames.socket.on('error', () => {});
    await frames.items.first((frame) => frame === '40', 'the namespace to be open');
    frames.sid = JSON.parse(frames.items.items[0].slice(1)).sid;
    return frames;
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  send(text) {
    if (this.isOpen) this.socket.send(text);
  }

  emit(...event) {
    this.send(`42${JSON.stringify(event)}`);
  }

  /** The next frame that is like this, of those that have not been looked at. */
  next(wanted, what = String(wanted)) {
    return this.items.first((frame) => wanted.test(frame), what, { from: this.#seen });
  }

  /** All frames that have come since the last look. */
  look() {
    const fresh = this.items.items.slice(this.#seen);
    this.#seen = this.items.items.length;
    return fresh;
  }

  close() {
    this.socket.close();
    return within(this.closed, 'the connection to close');
  }
}
