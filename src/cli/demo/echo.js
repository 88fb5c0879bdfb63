/**
 * The page's client with the real laravel-echo and pusher-js (`--assets`): the set-up of an
 * application, and beside it the few things that the page wants to know beyond Echo.
 */
export async function load() {
  await script('/demo/pusher-js.js');
  await script('/demo/laravel-echo.js');
}

export class EchoClient {
  constructor({ key, token, onState, onFrame }) {
    // From Echo 2.4 on the browser build is a module's exports, before that the class itself.
    const Echo = window.Echo.default ?? window.Echo;
    this.echo = new Echo({
      broadcaster: 'pusher',
      key,
      wsHost: location.hostname,
      wsPort: location.port || 80,
      forceTLS: false,
      disableStats: true,
      cluster: '', // pusher-js 8 insists on it, others do not mind.
      enabledTransports: ['ws', 'wss'],
      auth: { headers: { Authorization: `Bearer ${token}` } },
    });
    this.pusher = this.echo.connector.pusher;
    this.pusher.connection.bind('state_change', ({ current }) => onState(current));
    onState(this.pusher.connection.state);
    this.watchFrames(onFrame);
  }

  connect() {
    this.pusher.connect();
  }

  disconnect() {
    this.pusher.disconnect();
  }

  socketId() {
    return this.echo.socketId();
  }

  private(name) {
    return this.echo.private(name);
  }

  join(name) {
    return this.echo.join(name);
  }

  leave(name) {
    this.echo.leave(name);
  }

  send(event, data, channel) {
    return this.pusher.send_event(event, data, channel);
  }

  /** pusher-js tells of what comes in; what goes out passes through one method. */
  watchFrames(onFrame) {
    const { connection } = this.pusher;
    connection.bind('message', (message) => onFrame('in', JSON.stringify(message)));
    const send = connection.send_event.bind(connection);
    connection.send_event = (event, data, channel) => {
      onFrame('out', JSON.stringify({ event, data, channel }));
      return send(event, data, channel);
    };
  }
}

function script(source) {
  return new Promise((resolve, reject) => {
    const element = document.createElement('script');
    element.src = source;
    element.onload = resolve;
    element.onerror = () => reject(new Error(`${source} did not load`));
    document.head.append(element);
  });
}
