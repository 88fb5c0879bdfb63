// Front ends of the old server: real laravel-echo with its socket.io connector and the real socket.io-client.
import { Tab } from './tab.mjs';
import { PATIENCE, Recorder, within } from './waiting.mjs';

async function load(name) {
  const module = await import(name);
  return module.default?.default ?? module.default;
}

/** Pairs of Echo and client that work with each other: Echo 1 knows the client of version 2 alone. */
export const SOCKETIO_CLIENTS = [
  { echo: 'laravel-echo-1', client: 'socket.io-client-2' },
  { echo: 'laravel-echo-2', client: 'socket.io-client-2' },
  { echo: 'laravel-echo-2', client: 'socket.io-client-4' },
];

/** What `transports` may be; the client's default begins with polling and goes on over a WebSocket. */
export const TRANSPORTS = { polling: ['polling'], websocket: ['websocket'], upgrade: ['polling', 'websocket'] };

/** The socket.io-client of that folder, as a page would have it. */
export function socketIoClient(folder) {
  return load(folder);
}

/** The name by which the server's log knows a socket: without the secret of a version 2 client's id. */
export function logName(id) {
  const [high, low] = id.split('.');
  // The old server's ids have no dot, and stand in its log as they are.
  if (low === undefined) return id;
  return low.length > 10 ? `${high}.${Number(low.slice(0, 10))}` : id;
}

export class SocketIoTab extends Tab {
  /** `[event, channel, data]` of all that arrives. */
  events = new Recorder();

  /** Connects one "tab"; `options` go to Echo, and so to the client. */
  static async open({ echo = 'laravel-echo-1', client = 'socket.io-client-2', transports = TRANSPORTS.upgrade, server, token, options = {} }) {
    const [Echo, io] = await Promise.all([load(echo), load(client)]);
    const tab = new SocketIoTab();
    tab.server = server;
    tab.echo = new Echo({
      broadcaster: 'socket.io',
      client: io,
      host: server.url,
      auth: { headers: token ? { Authorization: `Bearer ${token}` } : {} },
      transports,
      forceNew: true,
      ...options,
    });
    tab.socket = tab.echo.connector.socket;
    const hand = tab.socket.onevent.bind(tab.socket);
    tab.socket.onevent = (packet) => {
      tab.events.record(packet.data);
      hand(packet);
    };
    await tab.#connected(transports);
    return tab;
  }

  async #connected(transports) {
    const { socket } = this;
    await within(new Promise((resolve) => (socket.connected ? resolve() : socket.once('connect', resolve))), 'socket.io-client to connect');
    const { engine } = socket.io;
    if (engine.transport.name !== transports.at(-1)) {
      await within(new Promise((resolve) => engine.once('upgrade', resolve)), 'the upgrade');
    }
  }

  get transport() {
    return this.socket.io.engine.transport.name;
  }

  watched(name, subscribe) {
    return new Watched(this, name, subscribe);
  }
}

class Watched {
  /** `[what, value]` of here, joining and leaving. */
  presence = new Recorder();

  constructor(tab, name, subscribe) {
    this.tab = tab;
    this.name = name;
    this.from = tab.server.mark;
    this.echo = subscribe();
    if (name.startsWith('presence-')) {
      for (const what of ['here', 'joining', 'leaving']) this.echo[what]((value) => this.presence.record([what, value]));
    }
  }

  /** The protocol has no answer to a subscription that succeeds, so the server's log tells. */
  async subscribed({ from = this.from } = {}) {
    const line = `${logName(this.tab.socketId)} joined channel: ${this.name}`.replaceAll('.', '\\.');
    await this.tab.server.line(new RegExp(`${line}$`), { from });
    return this;
  }

  /** Resolves with the status of the refusal. */
  async refused() {
    const [, , status] = await this.tab.events.first(([event, channel]) => event === 'subscription_error' && channel === this.name, `a refusal of ${this.name}`);
    return status;
  }

  /** The data of the next event of that name. */
  async event(name, options) {
    const [, , data] = await this.tab.events.first(([event, channel]) => event === name && channel === this.name, `${name} on ${this.name}`, options);
    return data;
  }

  async saw(what, wanted = () => true) {
    const [, value] = await this.presence.first(([kind, value]) => kind === what && wanted(value), `${what} on ${this.name}`, { ms: PATIENCE });
    return value;
  }

  names() {
    return this.tab.events.items.filter(([, channel]) => channel === this.name).map(([event]) => event);
  }
}
