/**
 * The demo page in a real browser: `laravel-echo-server demo` alone, Chromium, both users.
 *
 * Needs playwright-core (from this folder's node_modules) and Debian's chromium. Environment:
 * LES_BIN, the program to test; SCREENSHOTS, print where the screenshots are and keep them.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const MODULES = fileURLToPath(new URL('./node_modules', import.meta.url));
/** The page's clients: its own, and pairs of the libraries by their folders' names here. */
const CLIENTS = {
  'own client': undefined,
  'laravel-echo 1 and pusher-js 7': ['laravel-echo-1', 'pusher-js-7'],
  'laravel-echo 2 and pusher-js 8': ['laravel-echo-2', 'pusher-js-8'],
};
const WAIT_MS = 15_000;

let browser;
let screenshots;

before(async () => {
  screenshots = await mkdtemp(join(tmpdir(), 'demo-page-'));
  if (process.env.SCREENSHOTS) console.log(`screenshots: ${screenshots}`);
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
});

after(async () => {
  await browser?.close();
  if (!process.env.SCREENSHOTS) await rm(screenshots, { recursive: true, force: true });
});

for (const [client, libraries] of Object.entries(CLIENTS)) {
  describe(`demo with ${client}`, () => {
    let demo;
    let page;
    let john;
    let jane;
    const problems = [];

    before(async () => {
      demo = await startDemo(...(libraries ? ['--assets', await assets(...libraries)] : []));
      const context = await browser.newContext({ viewport: { width: 1200, height: 900 } });
      context.setDefaultTimeout(WAIT_MS);
      page = await context.newPage();
      page.on('pageerror', (error) => problems.push(String(error)));
      page.on('console', (message) => /Content Security Policy/.test(message.text()) && problems.push(message.text()));
      await page.goto(demo.address);
      john = page.locator('#user-1');
      jane = page.locator('#user-2');
    });

    after(async () => {
      await page?.context().close();
      await demo?.stop();
    });

    test('both users connect and see each other online', async () => {
      for (const pane of [john, jane]) {
        await shows(pane.locator('.state'), 'Connected');
        await pane.locator('.members', { hasText: 'John Doe' }).filter({ hasText: 'Jane Roe' }).waitFor();
        await subscriptions(pane, 3);
      }
      const shown = await page.locator('#library').textContent();
      if (libraries) assert.match(shown.replace(/(\d)\.\d+\.\d+/g, '$1').replace('+', 'and'), new RegExp(`^${client}$`));
      else assert.match(shown, /client\.js/);
    });

    for (const way of ['whisper', 'event']) {
      test(`typing is seen by the other side alone, as ${way}`, async () => {
        await page.locator(`input[name=typing][value=${way}]`).check();
        await jane.locator('input[name=content]').pressSequentially('Hel');
        await shows(john.locator('.typing'), 'Jane is typing …');
        assert.equal(await jane.locator('.typing').textContent(), '');
        await jane.locator('input[name=content]').fill('');
        await shows(john.locator('.typing'), '');
      });
    }

    test('a message arrives once at the recipient, by both channels, as text', async () => {
      const content = 'Hello <b>Jane</b> Zoë 😀 1/2';
      await john.locator('input[name=content]').fill(content);
      await john.getByRole('button', { name: 'Send' }).click();
      const bubble = jane.locator('.bubble');
      await shows(bubble.locator('p'), content);
      await shows(bubble.locator('small'), 'via private-user.2, private-conversation.1-2');
      assert.equal(await bubble.count(), 1);
    });

    test('toOthers leaves the sender’s own socket out', async () => {
      // The answer to Jane comes after John’s own message on every way that could bring it to him.
      await jane.locator('input[name=content]').fill('Hello John');
      await jane.locator('input[name=content]').press('Enter');
      await shows(john.locator('.bubble:not(.own) small'), 'via private-user.1, private-conversation.1-2');
      await shows(john.locator('.bubble.own small'), 'sent');
      const events = await john.locator('.frames .in code', { hasText: '"message.sent"' }).allTextContents();
      assert.deepEqual(events.map((text) => eventData(text).content), ['Hello John', 'Hello John']);
      assert.ok(!('socket' in eventData(events[0])), 'Laravel’s inner socket is removed');
    });

    test('leaving and joining are seen', async () => {
      await jane.getByRole('button', { name: 'Go offline' }).click();
      await shows(jane.locator('.state'), 'Offline');
      await shows(john.locator('.members'), 'John Doe (you)');
      await jane.getByRole('button', { name: 'Go online' }).click();
      await shows(jane.locator('.state'), 'Connected');
      for (const pane of [john, jane]) {
        await pane.locator('.members', { hasText: 'John Doe' }).filter({ hasText: 'Jane Roe' }).waitFor();
      }
      await subscriptions(jane, 6);
    });

    test('after coming back, messages arrive again', async () => {
      await john.locator('input[name=content]').fill('Welcome back');
      await john.locator('input[name=content]').press('Enter');
      await shows(jane.locator('.bubble:not(.own)').last().locator('p'), 'Welcome back');
    });

    test('a lost connection comes back by itself, with all its channels', async () => {
      const other = await page.context().newPage();
      const sockets = [];
      await other.routeWebSocket(/\/app\//, (socket) => {
        sockets.push(socket);
        socket.connectToServer();
      });
      await other.goto(demo.address);
      const panes = [other.locator('#user-1'), other.locator('#user-2')];
      for (const pane of panes) await subscriptions(pane, 3);
      const lost = sockets.splice(0);
      assert.equal(lost.length, 2);
      for (const socket of lost) await socket.close({ code: 1012, reason: 'restart' });
      for (const pane of panes) {
        await subscriptions(pane, 6);
        await shows(pane.locator('.state'), 'Connected');
      }
      await panes[0].locator('input[name=content]').fill('Still there?');
      await panes[0].locator('input[name=content]').press('Enter');
      await shows(panes[1].locator('.bubble p'), 'Still there?');
      await other.close();
    });

    test('the other’s private channel is refused, and says why', async () => {
      for (let round = 0; round < 2; round += 1) {
        await john.getByRole('button', { name: 'Listen to Jane’s private channel' }).click();
        const outcome = john.locator('.outcome li');
        await outcome.nth(1).waitFor();
        const [asked, skipped] = await outcome.allTextContents();
        assert.match(asked, /^Ask Laravel first: 403 · .*\w/);
        assert.match(skipped, /^Subscribe without a signature: 40[13] · .*\w{3}/);
      }
      // Nor does he hear what is sent to her.
      await john.locator('input[name=content]').fill('To you alone');
      await john.locator('input[name=content]').press('Enter');
      await shows(jane.locator('.bubble:not(.own)').last().locator('p'), 'To you alone');
      const frames = await john.locator('.frames .in code').allTextContents();
      assert.ok(frames.every((text) => !text.includes('To you alone')));
    });

    test('it fits a phone, in light and dark', async () => {
      await john.locator('.wire summary').click();
      for (const [name, width, colorScheme] of [
        ['desktop-light', 1200, 'light'],
        ['desktop-dark', 1200, 'dark'],
        ['phone-light', 390, 'light'],
        ['phone-dark', 390, 'dark'],
      ]) {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize({ width, height: 844 });
        const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(wider <= 0, `${name}: nothing sticks out (${wider}px)`);
        await page.screenshot({ path: join(screenshots, `${client.replaceAll(' ', '-')}-${name}.png`), fullPage: true });
      }
    });

    test('nothing went wrong in the browser', () => {
      assert.deepEqual(problems, []);
    });
  });
}

test('a folder without the libraries is a sentence and exit code 1', async () => {
  const args = ['demo', '--assets', screenshots, '--port', '0'];
  const child = spawn(program(), args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', (chunk) => (said += chunk));
  const [code] = await once(child, 'close');
  assert.equal(code, 1);
  assert.match(said, /echo\.iife\.js.*npm install laravel-echo pusher-js/s);
});

test('a port in use is a sentence and another port', async () => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  const { port } = other.address();
  const demo = await startDemo('--port', String(port));
  try {
    assert.notEqual(new URL(demo.address).port, String(port));
    assert.match(await demo.line(), new RegExp(`Port ${port} is in use`));
    assert.equal((await fetch(demo.address)).status, 200);
  } finally {
    await demo.stop();
    other.close();
  }
});

/** A node_modules as an application has it, with these versions under the packages' own names. */
async function assets(echo, pusher) {
  const folder = await mkdtemp(join(screenshots, 'node_modules-'));
  await symlink(join(MODULES, echo), join(folder, 'laravel-echo'));
  await symlink(join(MODULES, pusher), join(folder, 'pusher-js'));
  return folder;
}

/** Starts the program on a free port and waits for the address that it prints. */
async function startDemo(...args) {
  const port = args.includes('--port') ? [] : ['--port', '0'];
  const child = spawn(program(), ['demo', ...port, ...args], { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const line = async () => (await lines.next()).value;
  const stop = async () => {
    child.kill('SIGINT');
    const late = setTimeout(() => child.kill('SIGKILL'), WAIT_MS);
    const [code] = await exited;
    clearTimeout(late);
    assert.equal(code, 0, 'Ctrl-C ends the demo in good order');
  };
  for (let text = await line(); text !== undefined; text = await line()) {
    const [address] = text.match(/(?<=^Demo: open )http:\/\/\S+/) ?? [];
    if (address) return { address, line, stop };
  }
  throw new Error('the demo ended without printing its address');
}

function program() {
  if (process.env.LES_BIN) return process.env.LES_BIN;
  const builds = ['release', 'debug'].map((profile) => join(ROOT, 'target', profile, 'laravel-echo-server'));
  return builds.find((path) => existsSync(path)) ?? builds[0];
}

/** Waits until the element's text is exactly this. */
async function shows(locator, text) {
  const deadline = Date.now() + WAIT_MS;
  await locator.waitFor({ state: 'attached' });
  for (;;) {
    const shown = await locator.textContent();
    if (shown === text) return;
    if (Date.now() > deadline) assert.equal(shown, text);
    await locator.page().evaluate(() => new Promise((resolve) => requestAnimationFrame(resolve)));
  }
}

/** Waits until the pane's client has heard this many times that it is subscribed. */
async function subscriptions(pane, count) {
  const frames = pane.locator('.frames .in', { hasText: 'subscription_succeeded' });
  await frames.nth(count - 1).waitFor({ state: 'attached' });
}

/** The data of an event's frame: a string of JSON on the wire, parsed already by pusher-js. */
function eventData(frame) {
  const { data } = JSON.parse(frame);
  return typeof data === 'string' ? JSON.parse(data) : data;
}
