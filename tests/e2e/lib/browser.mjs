// A real Chromium, in which the web builds of Echo and pusher-js run as in an application.
import { existsSync } from 'node:fs';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { PUSHERS, setup } from './front-end.mjs';
import { PATIENCE } from './waiting.mjs';

const MODULES = fileURLToPath(new URL('../node_modules/', import.meta.url));

/** `CHROMIUM`, or where the distributions put it. */
function executable() {
  const found = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) => path && existsSync(path));
  if (!found) throw new Error('there is no Chromium: apt-get install chromium, or name one in CHROMIUM');
  return found;
}

/** With an empty profile, which is gone afterwards. */
export function startBrowser() {
  return chromium.launch({
    executablePath: executable(),
    headless: true,
    timeout: 60_000,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
}

/** A new user at the browser: own cookies. */
export async function newUser(browser) {
  const context = await browser.newContext();
  context.setDefaultTimeout(PATIENCE);
  return context;
}

/** A site of somebody else's: an empty page, under any name that leads to loopback. */
export async function startForeignSite() {
  const site = createServer((_, response) => response.setHeader('Content-Type', 'text/html').end('<!DOCTYPE html><title>evil</title>'));
  await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve));
  return { port: site.address().port, close: () => site.close() };
}

/** Signs in with the form of the page. */
export async function signIn(context, base, { email }) {
  const page = await context.newPage();
  await page.goto(`${base}/login`);
  await page.fill('input[name=email]', email);
  await page.fill('input[name=password]', 'password');
  await Promise.all([page.waitForURL(`${base}/`), page.click('button')]);
  return page;
}

/** Loads pusher-js and Echo into the page as script tags, as a page without a bundler does. */
export async function loadLibraries(page, { echo = 'laravel-echo-2', pusher = 'pusher-js-8' } = {}) {
  await page.addScriptTag({ path: `${MODULES}${pusher}/dist/web/pusher.min.js` });
  await page.addScriptTag({ path: `${MODULES}${echo}/dist/echo.iife.js` });
  await page.evaluate((extra) => {
    // Echo 2 exports a module object under the name that Echo 1 gives to the class.
    const Loaded = window.Echo ?? Echo;
    const Class = Loaded.default ?? Loaded;
    window.EchoClass = Object.keys(extra).length ? class extends Class {
      constructor(options) {
        super({ ...options, ...extra });
      }
    } : Class;
    window.received = [];
    window.note = (...what) => window.received.push(what);
  }, PUSHERS[pusher]);
}

/** Runs the set-up of design 1 in the page, word for word but for the port, and waits for the connection. */
export async function startEcho(page, { port, token }) {
  await page.evaluate(([text, bearer]) => {
    new Function('Echo', 'token', text)(window.EchoClass, bearer);
    const { connection } = window.Echo.connector.pusher;
    return connection.state === 'connected' || new Promise((resolve) => connection.bind('connected', resolve));
  }, [setup(port), token]);
}

/** Waits until the page has noted what `wanted` finds among `[what, value]`; returns the value. */
export async function noted(page, what, match = {}) {
  const handle = await page.waitForFunction(
    ([name, wanted]) => window.received.find(([kind, value]) => kind === name && Object.entries(wanted).every(([key, part]) => value?.[key] === part)),
    [what, match],
    { polling: 50 },
  );
  return (await handle.jsonValue())[1];
}
