/**
 * A small client of the Pusher protocol, with the methods of laravel-echo that the page uses, so
 * that the page's code reads like an application's. It shows what goes over the wire and in which
 * order; an application should use laravel-echo and pusher-js.
 *
 *   const client = new Client({ key, token });
 *   client.connect();
 *   client.private('user.1').listen('.message.sent', (message) => …).error((error) => …);
 *   client.join('online-users').here((members) => …).joining((member) => …).leaving((member) => …);
 */
export class Client {
  /** What the other side may call: `onState(state)` and `onFrame('in' | 'out', text)`. */
  constructor({ key, token, host = location.host, onState = () => {}, onFrame = () => {} }) {
    this.url = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${host}/app/${key}?protocol=7&client=demo&version=1`;
    this.token = token;
    this.onState = onState;
    this.onFrame = onFrame;
    this.state = 'disconnected';
    this.channels = new Map();
    this.attempts = 0;
    this.id = undefined;
  }

  // The connection.

  connect() {
    if (this.socket) return;
    clearTimeout(this.retryTimer);
    this.setState('connecting');
    const socket = (this.socket = new WebSocket(this.url));
    socket.onmessage = ({ data }) => this.receive(data);
    socket.onclose = ({ code }) => this.closed(code);
    this.expectFrameWithin(HANDSHAKE_MS);
  }

  disconnect() {
    clearTimeout(this.retryTimer);
    this.dropSocket();
    this.setState('disconnected');
  }

  /** The id that the server gave this connection. Sent as `X-Socket-ID`, it lets `toOthers()` work. */
  socketId() {
    return this.id;
  }

  /** The socket has closed. The code says what to do next: see the protocol's table of codes. */
  closed(code) {
    this.dropSocket();
    const refused = (code >= 4000 && code <= 4099) || (code >= 4300 && code <= 4399);
    if (refused) return this.setState('failed');
    // Wait longer each time, and never exactly as long as everybody else does.
    const longest = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** this.attempts++);
    this.setState('waiting');
    this.retryTimer = setTimeout(() => this.connect(), longest * (0.5 + Math.random() / 2));
  }

  dropSocket() {
    clearTimeout(this.silenceTimer);
    if (this.socket) {
      this.socket.onmessage = this.socket.onclose = null;
      this.socket.close();
    }
    this.socket = this.id = undefined;
    for (const channel of this.channels.values()) channel.reset();
  }

  /** Each frame proves that the server is there; after a silence it is asked, then given up. */
  expectFrameWithin(milliseconds, otherwise = () => this.closed(SILENCE)) {
    clearTimeout(this.silenceTimer);
    this.silenceTimer = setTimeout(otherwise, milliseconds);
  }

  expectActivity() {
    this.expectFrameWithin(this.activityTimeout * 1000, () => {
      this.send('pusher:ping', {});
      this.expectFrameWithin(PONG_MS);
    });
  }

  setState(state) {
    this.state = state;
    this.onState(state);
  }

  // Messages.

  send(event, data, channel) {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    const text = JSON.stringify({ event, data, channel });
    this.onFrame('out', text);
    this.socket.send(text);
  }

  receive(text) {
    this.onFrame('in', text);
    const message = parse(text);
    // Laravel's data come as a string with JSON in it, a client event's as plain JSON.
    const data = typeof message.data === 'string' ? parse(message.data) : message.data;
    if (message.event === 'pusher:connection_established') {
      this.id = data.socket_id;
      this.activityTimeout = data.activity_timeout;
      this.attempts = 0;
      this.setState('connected');
      // After each reconnect all channels are asked for again: the socket's id is a new one.
      for (const channel of this.channels.values()) channel.subscribe();
    }
    if (this.state === 'connected') this.expectActivity();
    if (message.event === 'pusher:ping') this.send('pusher:pong', {});
    if (message.channel) this.channels.get(message.channel)?.receive(message.event, data);
  }

  // Channels.

  channel(name) {
    if (!this.channels.has(name)) {
      const channel = new Channel(this, name);
      this.channels.set(name, channel);
      channel.subscribe();
    }
    return this.channels.get(name);
  }

  private(name) {
    return this.channel(`private-${name}`);
  }

  join(name) {
    return this.channel(`presence-${name}`);
  }

  /** Leaves the channel of this name, be it public, private or presence. */
  leave(name) {
    for (const full of [name, `private-${name}`, `presence-${name}`]) {
      if (this.channels.get(full)?.isSubscribed) this.send('pusher:unsubscribe', { channel: full });
      this.channels.delete(full);
    }
  }
}

/** One channel, and those who listen to it. */
class Channel {
  constructor(client, name) {
    this.client = client;
    this.name = name;
    this.handlers = new Map();
    this.reset();
  }

  /** `.message.sent` is an event by its own name; `MessageSent` is the class App\Events\MessageSent. */
  listen(event, handler) {
    return this.on(event.startsWith('.') ? event.slice(1) : `App\\Events\\${event}`, handler);
  }

  listenForWhisper(name, handler) {
    return this.on(`client-${name}`, handler);
  }

  /** To the channel's other subscribers, past the application: the server passes it on. */
  whisper(name, data) {
    this.client.send(`client-${name}`, data, this.name);
    return this;
  }

  subscribed(handler) {
    return this.on('subscribed', handler);
  }

  error(handler) {
    return this.on('pusher:subscription_error', handler);
  }

  here(handler) {
    return this.on('here', handler);
  }

  joining(handler) {
    return this.on('joining', handler);
  }

  leaving(handler) {
    return this.on('leaving', handler);
  }

  on(event, handler) {
    this.handlers.set(event, [...(this.handlers.get(event) ?? []), handler]);
    return this;
  }

  emit(event, data) {
    for (const handler of this.handlers.get(event) ?? []) handler(data);
  }

  reset() {
    this.isSubscribed = false;
    this.members = new Map();
  }

  /** Public channels are open; for others the application is asked for a signature first. */
  async subscribe() {
    const socketId = this.client.socketId();
    if (!socketId) return;
    try {
      const permission = /^(private|presence)-/.test(this.name) ? await this.authorize(socketId) : {};
      const stillWanted = this.client.channels.get(this.name) === this && this.client.socketId() === socketId;
      if (stillWanted) this.client.send('pusher:subscribe', { ...permission, channel: this.name });
    } catch (error) {
      this.emit('pusher:subscription_error', { type: 'AuthError', error: error.message, status: error.status });
    }
  }

  /** POST /broadcasting/auth; the answer is `{auth, channel_data?}`, signed for this very socket. */
  async authorize(socketId) {
    const response = await fetch('/broadcasting/auth', {
      method: 'POST',
      headers: { Authorization: `Bearer ${this.client.token}`, Accept: 'application/json' },
      body: new URLSearchParams({ socket_id: socketId, channel_name: this.name }),
    });
    const answer = parse(await response.text());
    if (response.ok && answer.auth) return answer;
    const reason = answer.error || answer.message || 'the application said no';
    throw Object.assign(new Error(`${this.name}: ${reason}`), { status: response.status });
  }

  receive(event, data) {
    switch (event) {
      case 'pusher_internal:subscription_succeeded':
        this.isSubscribed = true;
        this.emit('subscribed');
        if (data?.presence) {
          this.members = new Map(Object.entries(data.presence.hash));
          this.emit('here', [...this.members.values()]);
        }
        break;
      case 'pusher_internal:member_added':
        this.members.set(String(data.user_id), data.user_info);
        this.emit('joining', data.user_info);
        break;
      case 'pusher_internal:member_removed':
        this.emit('leaving', this.members.get(String(data.user_id)));
        this.members.delete(String(data.user_id));
        break;
      default:
        this.emit(event, data);
    }
  }
}

/** JSON from elsewhere may be none at all; then it says nothing. */
function parse(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

const HANDSHAKE_MS = 10_000;
const PONG_MS = 30_000;
const BACKOFF_MS = 1_000;
const BACKOFF_MAX_MS = 15_000;
/** What `closed` is told when nobody closed, but nothing came either: "no pong". */
const SILENCE = 4201;
