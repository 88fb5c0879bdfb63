// In a real browser: a page of the application, on another port than this server, with Echo's socket.io connector. The
// browser asks for CORS headers with credentials, and gives the session cookie by itself.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { fileURLToPath } from 'node:url';
import { newUser, noted, signIn, startBrowser, startForeignSite } from './lib/browser.mjs';
import { called } from './lib/front-end.mjs';
import { USERS, post, startLaravel } from './lib/laravel.mjs';
import { startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { TRANSPORTS } from './lib/socketio.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const MODULES = fileURLToPath(new URL('./node_modules/', import.meta.url));
const PAIRS = [{ echo: 'laravel-echo-1', client: 'socket.io-client-2' }, { echo: 'laravel-echo-2', client: 'socket.io-client-4' }];
const { john, jane } = USERS;
const file = fileLifetime();
let browser;
let laravel;
let server;

before(async () => {
  const redis = await file.keep(startRedis());
  laravel = await file.keep(startLaravel({ redis }));
  server = await file.keep(startServer({ redis, laravel }));
  browser = await file.keep(startBrowser());
});

/** Starts Echo in the page, which notes what comes of `user.1` and `user.2`. */
async function startEcho(page, { echo, client, transports, host }) {
  await page.addScriptTag({ path: `${MODULES}${client}/dist/socket.io.js` });
  await page.addScriptTag({ path: `${MODULES}${echo}/dist/echo.iife.js` });
  await page.evaluate(([url, wanted]) => {
    const Loaded = window.Echo ?? Echo;
    const { io } = window;
    window.received = [];
    // Version 4 sends cookies only if it is told to.
    const echo = new (Loaded.default ?? Loaded)({ broadcaster: 'socket.io', client: io, host: url, transports: wanted, withCredentials: true });
    const { socket } = echo.connector;
    const note = (...what) => window.received.push(what);
    socket.on('subscription_error', (channel, status) => note(`${channel} refused`, status));
    const settled = () => {
      const { name } = socket.io.engine.transport;
      if (name === wanted.at(-1)) note('connected', name);
      return name === wanted.at(-1);
    };
    socket.on('connect', () => settled() || socket.io.engine.on('upgrade', settled));
    for (const name of ['user.1', 'user.2']) echo.private(name).listen('.message.sent', (data) => note(name, data));
    window.echo = echo;
  }, [host, transports]);
}

for (const pair of PAIRS) {
  for (const [how, transports] of Object.entries(TRANSPORTS)) {
    promise(`${how}: private channels by session cookie from another port, with ${called(pair.echo)} and ${called(pair.client)}`, async (life) => {
      const context = await life.keep(newUser(browser));
      const page = await signIn(context, `http://localhost:${laravel.port}`, john);
      const from = server.mark;
      await startEcho(page, { ...pair, transports, host: `http://localhost:${server.port}` });
      assert.equal(await noted(page, 'connected'), transports.at(-1));
      assert.equal(await noted(page, 'private-user.2 refused'), 403);
      await server.line(/joined channel: private-user\.1$/, { from });
      await post(laravel.url, '/api/messages', { token: jane.token, body: { recipient_id: john.id, content: `By ${how} ü\u{1f389}` } });
      assert.equal((await noted(page, 'user.1')).content, `By ${how} ü\u{1f389}`);
    });
  }
}

promise('a page of another origin may connect, but its visitor\'s cookie does not count', async (life) => {
  // Two hosts of one site, so that SameSite=Lax does not keep the cookie away.
  const host = 'app.talent.localhost';
  const context = await life.keep(newUser(browser));
  await signIn(context, `http://${host}:${laravel.port}`, john);
  const evil = await life.keep(startForeignSite());
  for (const transports of [['polling'], ['websocket']]) {
    const page = await context.newPage();
    await page.goto(`http://evil.talent.localhost:${evil.port}/`);
    await startEcho(page, { ...PAIRS[0], transports, host: `http://${host}:${server.port}` });
    assert.equal(await noted(page, 'private-user.1 refused'), 403);
    await page.close();
  }
});
