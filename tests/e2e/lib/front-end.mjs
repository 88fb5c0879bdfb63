// Front ends under node: real laravel-echo and pusher-js, set up by the text of fixtures/echo-setup.js.
import { readFileSync } from 'node:fs';
import { PREFIX } from './laravel.mjs';
import { Tab } from './tab.mjs';
import { PATIENCE, Recorder, within } from './waiting.mjs';

const SETUP = readFileSync(new URL('../fixtures/echo-setup.js', import.meta.url), 'utf8');

/** The set-up as the application has it, but for this test's port. */
export function setup(port) {
  return SETUP.replace('6001', String(port));
}

async function load(name) {
  const module = await import(name);
  return module.default?.default ?? module.default;
}

export const ECHOS = ['laravel-echo-1', 'laravel-echo-2'];

/** From 8.0 on pusher-js starts only with a `cluster`; any text will do. */
export const PUSHERS = {
  'pusher-js-4': {},
  'pusher-js-7': {},
  'pusher-js-8': { cluster: '' },
};

/** Every pair of them. */
export const CLIENTS = ECHOS.flatMap((echo) => Object.keys(PUSHERS).map((pusher) => ({ echo, pusher })));

/** The library's real name and version: `pusher-js 4.4.0`. */
export function called(folder) {
  const { name, version } = JSON.parse(readFileSync(new URL(`../node_modules/${folder}/package.json`, import.meta.url), 'utf8'));
  return `${name} ${version}`;
}

export class FrontEnd extends Tab {
  /** Connects one "tab". `options` are added to the set-up's, for the ways that ask for a line there. */
  static async open({ echo = 'laravel-echo-2', pusher = 'pusher-js-8', port, token, options = {} }) {
    const [Echo, Pusher] = await Promise.all([load(echo), load(pusher)]);
    const window = { location: { hostname: '127.0.0.1' } };
    class ConfiguredEcho extends Echo {
      constructor(given) {
        // A browser has Pusher as a global; here it is handed over.
        super({ ...given, ...PUSHERS[pusher], Pusher, ...options });
      }
    }
    new Function('window', 'Echo', 'token', setup(port))(window, ConfiguredEcho, token);
    const tab = new FrontEnd();
    tab.echo = window.Echo;
    tab.pusher = window.Echo.connector.pusher;
    await within(new Promise((resolve) => {
      if (tab.pusher.connection.state === 'connected') resolve();
      tab.pusher.connection.bind('connected', resolve);
    }), `${echo} with ${pusher} to connect`);
    return tab;
  }

  watched(name, subscribe) {
    return new Watched(name, subscribe());
  }
}

/** A channel as Echo hands it out, and all that arrives on it. */
class Watched {
  /** `{ event, data }` of every event, without Pusher's own. */
  events = new Recorder();
  /** `[what, value]` of here, joining and leaving. */
  presence = new Recorder();

  constructor(name, channel) {
    this.name = name;
    this.echo = channel;
    this.outcome = new Promise((resolve) => {
      channel.subscription.bind('pusher:subscription_succeeded', () => resolve({}));
      channel.error((error) => resolve({ error }));
    });
    channel.subscription.bind_global((event, data) => {
      if (!event.startsWith('pusher:')) this.events.record({ event, data });
    });
    if (name.startsWith('presence-')) {
      for (const what of ['here', 'joining', 'leaving']) channel[what]((value) => this.presence.record([what, value]));
    }
  }

  /** Resolves with the channel once it is subscribed; a refusal is an error. */
  async subscribed() {
    const { error } = await within(this.outcome, `an answer to the subscription of ${this.name}`);
    if (error !== undefined) throw new Error(`${this.name} was refused: ${JSON.stringify(error)}`);
    return this;
  }

  /** Resolves with the error that the application sees; being let in is an error. */
  async refused() {
    const outcome = await within(this.outcome, `a refusal of ${this.name}`);
    if (!('error' in outcome)) throw new Error(`${this.name} was not refused`);
    return outcome.error;
  }

  /** The data of the next event of that name. */
  event(name, options) {
    return this.events.first(({ event }) => event === name, `${name} on ${this.name}`, options).then(({ data }) => data);
  }

  /** The value of the next here, joining or leaving. */
  async saw(what, wanted = () => true, options) {
    const [, value] = await this.presence.first(([kind, value]) => kind === what && wanted(value), `${what} on ${this.name}`, options);
    return value;
  }

  names() {
    return this.events.items.map(({ event }) => event);
  }
}

let fences = 0;

/**
 * Proves that nothing more is on its way: an event on a public channel, after all others and by the
 * same road, that each front end waits for.
 */
export async function fence(redis, tabs) {
  fences += 1;
  const number = fences;
  const channels = await Promise.all(tabs.map((tab) => tab.channel('fence').subscribed()));
  // Under the application's prefix: a second one would be a second application's.
  await redis.publish(`${PREFIX}fence`, 'fence', { number });
  await Promise.all(channels.map((channel) => channel.events.first(({ data }) => data.number === number, `fence ${number}`, { ms: PATIENCE })));
}
