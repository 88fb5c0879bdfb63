// Nothing missed: a browser loses its network, Laravel goes on, the browser comes back. The libraries and the
// application's code are as they are everywhere; the configuration has "resume".
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { loadLibraries, newUser, noted, signIn, startBrowser, startEcho } from './lib/browser.mjs';
import { Cut } from './lib/cut.mjs';
import { called } from './lib/front-end.mjs';
import { PREFIX, USERS, post, startLaravel } from './lib/laravel.mjs';
import { RedisClient, startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const { john, jane } = USERS;
const EVENTS = 200;
/** How long the network is away, at least, in milliseconds; see CONTRIBUTING.md. */
const CUT_MS = Number(process.env.CUT_MS ?? 1000);
/** What the tab is subscribed to, as it is called in Redis. */
const CHANNELS = ['orders', 'private-conversation.1-2', 'presence-online-users'];
const file = fileLifetime();
let redis;
let publisher;
let laravel;
let browser;

before(async () => {
  redis = await file.keep(startRedis());
  publisher = await file.keep(RedisClient.open(redis.port));
  laravel = await file.keep(startLaravel({ redis }));
  browser = await file.keep(startBrowser());
});

const start = (life, extra = {}) => life.keep(startServer({ redis, laravel, proxy: true, resume: true, ...extra }));

/** A tab of the application's page with Echo that connects to `port`. The page is at the server's, which asks Laravel. */
async function open(life, server, who, { port, pusher = 'pusher-js-8', channels = CHANNELS, context, base = server.url }) {
  context ??= await life.keep(newUser(browser));
  const page = await context.newPage();
  await page.goto(`${base}/`);
  await loadLibraries(page, { pusher });
  // So that a connection over which nothing comes is given up soon.
  await page.evaluate(() => {
    const { EchoClass } = window;
    window.EchoClass = class extends EchoClass {
      constructor(options) {
        super({ ...options, pongTimeout: 1000 });
      }
    };
  });
  await startEcho(page, { port, token: who.token });
  await page.evaluate((names) => {
    const { Echo, note } = window;
    for (const name of names) {
      const [, kind, rest] = /^(private-|presence-)?(.*)$/.exec(name);
      const channel = { 'private-': () => Echo.private(rest), 'presence-': () => Echo.join(rest) }[kind]?.() ?? Echo.channel(rest);
      channel.listen('.number', ({ n }) => note(name, n));
      channel.listen('.echo-server:gap', (gap) => note(`${name} gap`, gap));
      channel.error?.((error) => note(`${name} refused`, error));
      channel.subscription.bind('pusher:subscription_succeeded', () => note(`${name} subscribed`));
    }
    Echo.connector.pusher.connection.bind('state_change', ({ current }) => note('state', current));
  }, channels);
  for (const name of channels) await noted(page, `${name} subscribed`);
  return page;
}

/** Numbered events on all channels; each fiftieth by Laravel itself, the others as it does it. */
async function send(from, to, channels = CHANNELS) {
  for (let n = from; n <= to; n += 1) {
    if (n % 50 === 0) await post(laravel.url, '/api/test/broadcast', { body: { channels, event: 'number', data: { n } } });
    else await publisher.pipeline(channels.map((name) => ['PUBLISH', `${PREFIX}${name}`, JSON.stringify({ event: 'number', data: { n, socket: null }, socket: null })]));
  }
}

/** All that the page has got of a channel's numbers, once the last has come. */
async function numbers(page, name, last) {
  await page.waitForFunction(([channel, n]) => window.received.some(([what, value]) => what === channel && value === n), [name, last], { polling: 50 });
  return page.evaluate((channel) => window.received.filter(([what]) => what === channel).map(([, value]) => value), name);
}

const state = (page, wanted) => page.waitForFunction((current) => window.Echo.connector.pusher.connection.state === current, wanted, { polling: 20 });
const gaps = (page) => page.evaluate(() => window.received.filter(([what]) => what.endsWith(' gap')));
const upTo = (last) => Array.from({ length: last }, (_, index) => index + 1);

/** Waits until the server knows that the page has got everything: it asks some times in a second. */
const settle = (page) => page.waitForTimeout(1500);

const CUTS = {
  ends: (network) => network.reset(),
  'changes, and the server is not told': (network) => network.move(),
  'goes silent': (network) => network.silence(),
};

/** Most of it with one version, unless somebody has time. */
const COMBINATIONS = ['pusher-js-7', 'pusher-js-8'].flatMap((pusher) => Object.keys(CUTS).map((what) => [pusher, what]))
  .filter(([pusher, what]) => process.env.CUT_MS || what === 'ends' || (pusher === 'pusher-js-8' && what !== 'goes silent'));

for (const [pusher, what] of COMBINATIONS) {
  promise(`${called(pusher)}: the network ${what}, and all ${EVENTS} events of the time come in order, none twice`, async (life) => {
    const server = await start(life, { limits: { activityTimeout: 1 } });
    const network = await life.keep(Cut.to(() => server.port));
    const page = await open(life, server, john, { port: network.port, pusher });
    await send(1, 3);
    for (const name of CHANNELS) await numbers(page, name, 3);
    await settle(page);
    CUTS[what](network);
    const since = Date.now();
    await send(4, 3 + EVENTS);
    await page.waitForFunction(() => window.received.some(([what, value]) => what === 'state' && value !== 'connected'), undefined, { polling: 20 });
    await page.waitForTimeout(Math.max(0, since + CUT_MS - Date.now()));
    network.mend();
    await state(page, 'connected');
    // What is live comes behind.
    await send(4 + EVENTS, 5 + EVENTS);
    for (const name of CHANNELS) assert.deepEqual(await numbers(page, name, 5 + EVENTS), upTo(5 + EVENTS), name);
    assert.deepEqual(await gaps(page), []);
  });
}

promise('the network ends amid a stream: nothing is lost, and only what had not been confirmed comes twice', async (life) => {
  const server = await start(life);
  const network = await life.keep(Cut.to(() => server.port));
  const page = await open(life, server, john, { port: network.port, channels: ['orders'] });
  const sending = send(1, EVENTS, ['orders']);
  await numbers(page, 'orders', 50);
  network.reset();
  await sending;
  network.mend();
  const got = await numbers(page, 'orders', EVENTS);
  assert.deepEqual([...new Set(got)].sort((a, b) => a - b), upTo(EVENTS), 'nothing is lost');
  process.stdout.write(`${got.length - EVENTS} of ${EVENTS} came twice\n`);
  const back = got.findIndex((n, index) => index > 0 && n <= got[index - 1]);
  const [first, second] = back < 0 ? [got, []] : [got.slice(0, back), got.slice(back)];
  assert.deepEqual(first, upTo(first.length), 'in order before');
  assert.deepEqual(second, upTo(EVENTS).slice((second[0] ?? EVENTS + 1) - 1), 'and after');
});

promise('two servers are restarted one after the other, and the page misses nothing', async (life) => {
  const nodes = [await start(life), await start(life)];
  const pages = await start(life, { cluster: false });
  let current = 0;
  const network = await life.keep(Cut.to(() => nodes[current].port));
  const page = await open(life, pages, john, { port: network.port, channels: ['orders'] });
  let isOver = false;
  let last = 0;
  const sending = (async () => {
    while (!isOver) {
      last += 1;
      await send(last, last, ['orders']);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  })();
  await numbers(page, 'orders', 5);
  for (const turn of [0, 1]) {
    const connected = page.evaluate(() => new Promise((resolve) => window.Echo.connector.pusher.connection.bind('connected', resolve)));
    current = 1 - turn;
    await nodes[turn].stop();
    await connected;
    await numbers(page, 'orders', last);
    if (turn === 0) nodes[0] = await start(life);
  }
  isOver = true;
  await sending;
  const got = await numbers(page, 'orders', last);
  assert.deepEqual([...new Set(got)].sort((a, b) => a - b), upTo(last), 'nothing is missed');
  assert.deepEqual(await gaps(page), []);
  process.stdout.write(`${got.length - last} of ${last} came twice\n`);
});

promise('two tabs of one browser get each its own, and another user nothing', async (life) => {
  const server = await start(life);
  const network = await life.keep(Cut.to(() => server.port));
  const context = await life.keep(newUser(browser));
  const first = await open(life, server, john, { context, port: network.port, channels: ['orders', 'private-user.1'] });
  const second = await open(life, server, john, { context, port: network.port, pusher: 'pusher-js-7', channels: ['orders', 'private-conversation.1-2'] });
  const third = await open(life, server, jane, { port: network.port, channels: ['orders'] });
  const pages = [first, second, third];
  network.reset();
  await send(1, 5, ['orders', 'private-user.1', 'private-conversation.1-2']);
  network.mend();
  for (const page of pages) assert.deepEqual(await numbers(page, 'orders', 5), upTo(5));
  assert.deepEqual(await numbers(first, 'private-user.1', 5), upTo(5));
  assert.deepEqual(await numbers(second, 'private-conversation.1-2', 5), upTo(5));
  // Jane has learnt the name of a channel that is not hers.
  await third.evaluate(() => {
    const { Echo, note } = window;
    Echo.private('user.1').listen('.number', ({ n }) => note('stolen', n)).error((error) => note('refused', error));
  });
  await noted(third, 'refused');
  await send(6, 6, ['orders']);
  for (const page of pages) assert.deepEqual(await numbers(page, 'orders', 6), upTo(6));
  assert.deepEqual(await third.evaluate(() => window.received.filter(([what]) => what === 'stolen')), []);
});

promise('who may no longer join gets nothing of what was missed', async (life) => {
  const server = await start(life);
  const network = await life.keep(Cut.to(() => server.port));
  const context = await life.keep(newUser(browser));
  const base = `http://localhost:${laravel.port}`;
  await (await signIn(context, base, john)).close();
  const page = await open(life, server, { token: '' }, { context, base, port: network.port, channels: ['private-user.1', 'orders'] });
  network.reset();
  await send(1, 5, ['private-user.1', 'orders']);
  // The session ends meanwhile; the cookie of "resume" stays.
  const cookies = await context.cookies();
  assert.equal(cookies.filter(({ name }) => name === 'echo_resume').length, 1);
  await context.clearCookies({ name: /^(?!echo_resume$)/ });
  network.mend();
  await noted(page, 'private-user.1 refused');
  assert.deepEqual(await numbers(page, 'orders', 5), upTo(5));
  assert.deepEqual(await page.evaluate(() => window.received.filter(([what]) => what === 'private-user.1')), []);
});

promise('what was too much to be kept is told, and so is what another process had kept', async (life) => {
  let server = await start(life, { resume: { eventsPerChannel: 10 } });
  const network = await life.keep(Cut.to(() => server.port));
  const page = await open(life, server, john, { port: network.port, channels: ['orders'] });
  network.reset();
  await send(1, 15, ['orders']);
  network.mend();
  assert.deepEqual(await numbers(page, 'orders', 15), upTo(15).slice(5));
  const { since, until } = await noted(page, 'orders gap');
  assert.ok(since <= until && until <= Date.now() && since > Date.now() - 600_000, `${since} ${until}`);
  await server.stop();
  server = await start(life);
  await page.waitForFunction(() => window.received.filter(([what]) => what === 'orders gap').length === 2, undefined, { polling: 50 });
  assert.equal((await gaps(page))[1][1].since, null);
});
