// The dashboard in a real Chromium: what the real Laravel broadcasts is seen there, whatever somebody sends stays
// text, and no other page gets at it. SCREENSHOTS=folder keeps pictures of it.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { before } from 'node:test';
import { newUser, startBrowser, startForeignSite } from './lib/browser.mjs';
import { USERS, memberInfo, post, startLaravel } from './lib/laravel.mjs';
import { RawClient, sign } from './lib/raw.mjs';
import { RedisClient, startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const SECRET = 'talent2income-secret';
const EVIL = '<img/src=x/onerror=document.title=1>';
const file = fileLifetime();
let browser;
let laravel;
let publisher;
let server;

before(async () => {
  const redis = await file.keep(startRedis());
  laravel = await file.keep(startLaravel({ redis }));
  publisher = await file.keep(RedisClient.open(redis.port));
  server = await file.keep(startServer({ redis, laravel, secret: SECRET }));
  browser = await file.keep(startBrowser());
});

/** The dashboard, once it is live; what goes wrong in it is an error at the end. */
async function dashboard(life, options = {}) {
  const context = await life.keep(browser.newContext(options));
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  const problems = [];
  page.on('pageerror', (error) => problems.push(String(error)));
  // That a request is refused is said here, too, and may be meant.
  const isMeant = (text) => text.startsWith('Failed to load resource');
  page.on('console', (message) => message.type() === 'error' && !isMeant(message.text()) && problems.push(message.text()));
  page.on('dialog', (dialog) => problems.push(dialog.message()));
  await life.keep({ stop: () => assert.deepEqual(problems, []) });
  await page.goto(`${server.url}/echo-server/`);
  await page.locator('#chip-live', { hasText: 'Live' }).waitFor();
  return page;
}

/** A member of the presence channel. */
async function member(life, user) {
  const client = await life.keep(RawClient.open({ port: server.port }).then((raw) => Object.assign(raw, { stop: () => raw.socket.terminate() })));
  const channelData = JSON.stringify({ user_id: String(user.id), user_info: memberInfo(user) });
  await client.subscribed('presence-online-users', { auth: sign(SECRET, client.socketId, 'presence-online-users', channelData), channel_data: channelData });
  return client;
}

/** Waits for a line of the inspector with these texts in it. */
const line = (page, ...texts) => texts.reduce((found, hasText) => found.filter({ hasText }), page.locator('#lines .line')).first();

promise('an event that Laravel broadcasts shows up with its way, and who got it', async (life) => {
  const page = await dashboard(life);
  const client = await life.keep(RawClient.open({ port: server.port }).then((raw) => Object.assign(raw, { stop: () => raw.socket.terminate() })));
  await client.subscribed('private-user.2', { auth: sign(SECRET, client.socketId, 'private-user.2') });
  await line(page, 'joined', 'private-user.2').waitFor();
  await post(laravel.url, '/api/messages', { token: USERS.john.token, body: { recipient_id: 2, content: 'Hello <b>Jane</b>' } });
  const seen = line(page, 'message.sent', 'published as talent2income_database_private-user.2', '→ private-user.2 delivered to 1 connection');
  await seen.waitFor();
  await seen.locator('summary').click();
  await seen.locator('pre', { hasText: '"content": "Hello <b>Jane</b>"' }).waitFor();
  // The same event for the conversation, where nobody is.
  await line(page, '→ private-conversation.1-2 nobody is subscribed').waitFor();
  await page.locator('#chip-redis', { hasText: 'Redis is connected' }).waitFor();
});

promise('a test event goes out, and the form says to how many', async (life) => {
  const page = await dashboard(life);
  const client = await member(life, USERS.john);
  await page.getByLabel('Channel', { exact: true }).fill('presence-online-users');
  await page.getByLabel('Event', { exact: true }).fill('tried');
  await page.getByLabel('Data').fill('{"n": 1}');
  await page.getByRole('button', { name: 'Send' }).click();
  await page.locator('#sent', { hasText: 'Sent to presence-online-users: 1 subscription.' }).waitFor();
  const { data } = await client.frames.first(({ event }) => event === 'tried', 'the test event');
  assert.equal(data, '{"n": 1}');
  await page.getByLabel('Channel', { exact: true }).fill('no such channel');
  await page.getByRole('button', { name: 'Send' }).click();
  await page.locator('#sent', { hasText: 'Not sent: the channel name contains' }).waitFor();
});

promise('channels, and the members of one', async (life) => {
  const page = await dashboard(life);
  await member(life, USERS.john);
  await member(life, USERS.zoe);
  const row = page.locator('#channels tr', { hasText: 'presence-online-users' });
  await row.locator('td:last-child', { hasText: '2' }).waitFor();
  await row.getByRole('button', { name: /2 users of presence-online-users/ }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByText('2 users with 2 subscriptions.').waitFor();
  await dialog.locator('li', { hasText: USERS.zoe.name }).waitFor();
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'hidden' });
  await page.getByRole('searchbox', { name: 'Filter' }).last().fill('nothing-*');
  await page.getByText('No channel has this in its name.').waitFor();
});

promise('the inspector filters, pauses and shows refusals with their reason', async (life) => {
  const page = await dashboard(life);
  const client = await life.keep(RawClient.open({ port: server.port }).then((raw) => Object.assign(raw, { stop: () => raw.socket.terminate() })));
  await client.refused('private-user.1', { auth: 'talent2income-key:00' });
  await line(page, 'refused', 'private-user.1', 'Invalid signature').waitFor();
  await page.locator('#refusals .line', { hasText: 'Invalid signature' }).first().waitFor();
  await publisher.command('PUBLISH', 'talent2income_database_orders', 'no event');
  await line(page, 'ignored', 'the payload is not a JSON object').waitFor();
  await page.getByRole('button', { name: 'Pause' }).click();
  await publisher.publish('talent2income_database_orders', 'order.shipped', { n: 1 });
  await page.locator('#lines-note', { hasText: '1 newer line' }).waitFor();
  assert.equal(await line(page, 'order.shipped').count(), 0);
  await page.getByRole('button', { name: 'Go on' }).click();
  await line(page, 'order.shipped').waitFor();
  await page.locator('#filter').fill('ORDER.SHIPPED');
  await line(page, 'ignored').waitFor({ state: 'detached' });
  await page.getByRole('checkbox', { name: 'Events' }).uncheck();
  await page.getByText('Nothing that was seen has this.').waitFor();
});

promise('whatever somebody sends stays text', async (life) => {
  const page = await dashboard(life);
  const client = await life.keep(RawClient.open({ port: server.port }).then((raw) => Object.assign(raw, { stop: () => raw.socket.terminate() })));
  await client.subscribed(EVIL);
  const user = JSON.stringify({ user_id: EVIL, user_info: { name: EVIL } });
  const channel = `presence-${EVIL}`;
  await client.subscribed(channel, { auth: sign(SECRET, client.socketId, channel, user), channel_data: user });
  await client.refused(`private-${EVIL}`, { auth: EVIL });
  await publisher.publish(`talent2income_database_${EVIL}`, EVIL, { text: `${EVIL}</pre><script>document.title=1</script>\u202e` });
  await publisher.command('PUBLISH', `talent2income_database_${EVIL}`, EVIL);
  const seen = line(page, 'event', EVIL, 'delivered to 1 connection');
  await seen.locator('summary').click();
  await seen.locator('pre', { hasText: '</pre><script>document.title=1</script>\\u{202e}' }).waitFor();
  await line(page, 'ignored', EVIL).waitFor();
  await line(page, 'refused', EVIL).waitFor();
  const row = page.locator('#channels tr', { hasText: channel });
  await row.getByRole('button', { name: /1 user of/ }).click();
  await page.getByRole('dialog').locator('li', { hasText: EVIL }).waitFor();
  assert.equal(await page.locator('img, script:not([src]), main a').count(), 0, 'nothing was made of it');
  assert.equal(await page.title(), 'laravel-echo-server');
});

promise('no page of another origin gets at it', async (life) => {
  const site = await life.keep(startForeignSite());
  const context = await life.keep(newUser(browser));
  const page = await context.newPage();
  await page.goto(`http://localhost:${site.port}/`);
  const got = await page.evaluate(async (base) => {
    const reach = (path, options) => fetch(base + path, options).then((response) => `${response.type} ${response.status}`, () => 'nothing');
    const frame = document.createElement('iframe');
    const loaded = new Promise((resolve) => frame.addEventListener('load', resolve));
    frame.src = `${base}/echo-server/`;
    document.body.append(frame);
    await loaded;
    let framed;
    try {
      framed = frame.contentDocument === null ? 'not to be read' : frame.contentDocument.body.textContent;
    } catch {
      framed = 'not to be read';
    }
    return {
      read: await reach('/echo-server/api/status'),
      blind: await reach('/echo-server/api/feed', { mode: 'no-cors' }),
      send: await reach('/echo-server/api/events', { method: 'POST', mode: 'no-cors', body: '{"name":"evil","channel":"orders","data":"1"}' }),
      framed,
    };
  }, server.url);
  assert.deepEqual(got, { read: 'nothing', blind: 'nothing', send: 'nothing', framed: 'not to be read' });
  // A name of the page's own that leads here.
  const rebound = await fetch(`${server.url}/echo-server/api/status`, { headers: { 'X-Forwarded-Host': 'evil.example' } });
  assert.equal(rebound.status, 403);
});

promise('it fits a phone, in light and dark', async (life) => {
  const page = await dashboard(life, { viewport: { width: 1440, height: 1000 } });
  await member(life, USERS.ada);
  await page.locator('#channels tr', { hasText: 'presence-online-users' }).waitFor();
  for (const [name, width, colorScheme] of [['light', 1440, 'light'], ['dark', 1440, 'dark'], ['phone', 390, 'light'], ['phone-dark', 390, 'dark']]) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 844 });
    const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wider <= 0, `${name}: nothing sticks out (${wider}px)`);
    if (process.env.SCREENSHOTS) await page.screenshot({ path: join(process.env.SCREENSHOTS, `dashboard-${name}.png`), fullPage: true });
  }
  // Everything that can be used has a name.
  const nameless = await page.evaluate(() => [...document.querySelectorAll('button, input, select, textarea')]
    .filter((element) => !element.hidden && !(element.getAttribute('aria-label') || element.labels?.length || element.textContent.trim()))
    .map((element) => element.outerHTML));
  assert.deepEqual(nameless, []);
  // From the first key press on one gets to the inspector.
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Skip to the inspector');
});
