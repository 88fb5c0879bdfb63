// Laravel's own hooks for React and Vue, bundled as in an application, in a real browser: with React's StrictMode each
// component subscribes, leaves and subscribes again at once.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { newUser, noted, startBrowser } from './lib/browser.mjs';
import { called, setup } from './lib/front-end.mjs';
import { USERS, memberInfo, post, startLaravel } from './lib/laravel.mjs';
import { startRedis } from './lib/redis.mjs';
import { startServer } from './lib/server.mjs';
import { fileLifetime, promise } from './lib/suite.mjs';

const { john, jane } = USERS;
const file = fileLifetime();
let browser;
let laravel;
let server;

before(async () => {
  const redis = await file.keep(startRedis());
  laravel = await file.keep(startLaravel({ redis }));
  server = await file.keep(startServer({ redis, laravel, proxy: true }));
  browser = await file.keep(startBrowser());
});

async function bundle(framework) {
  const entry = fileURLToPath(new URL(`fixtures/hooks-${framework}.js`, import.meta.url));
  const { outputFiles } = await build({
    entryPoints: [entry],
    bundle: true,
    write: false,
    format: 'iife',
    // As in development, where StrictMode mounts twice.
    define: { 'process.env.NODE_ENV': '"development"', __VUE_OPTIONS_API__: 'false', __VUE_PROD_DEVTOOLS__: 'false', __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: 'false' },
    absWorkingDir: fileURLToPath(new URL('.', import.meta.url)),
    alias: { 'pusher-js': 'pusher-js-8' },
    logLevel: 'error',
  });
  return outputFiles[0].text;
}

/** A page of this user's with the application in it. */
async function tab(life, code, user) {
  const context = await life.keep(newUser(browser));
  const page = await context.newPage();
  await page.goto(`${server.url}/login`);
  await page.addScriptTag({ content: code });
  await page.evaluate(([text, token, id]) => {
    window.received = [];
    class Options {
      constructor(options) {
        Object.assign(this, options);
      }
    }
    new Function('Echo', 'token', text)(Options, token);
    window.run({ ...window.Echo, cluster: '' }, id, (...what) => window.received.push(what));
  }, [setup(server.port), user.token, user.id]);
  await page.waitForFunction(() => document.querySelector('#status')?.textContent === 'connected');
  await noted(page, 'here');
  return page;
}

for (const framework of ['react', 'vue']) {
  promise(`the hooks of ${called(`@laravel/echo-${framework}`)} subscribe, hear, leave and come back`, async (life) => {
    const code = await bundle(framework);
    const janes = await tab(life, code, jane);
    const johns = await tab(life, code, john);
    assert.deepEqual(await noted(janes, 'joining', { id: john.id }), memberInfo(john));

    await post(laravel.url, '/api/messages', { token: john.token, body: { recipient_id: jane.id, content: 'Hello, hooks!' } });
    assert.equal((await noted(janes, 'inbox')).content, 'Hello, hooks!');

    await johns.evaluate(() => window.show(false));
    assert.deepEqual(await noted(janes, 'leaving', { id: john.id }), memberInfo(john));
    await janes.evaluate(() => {
      window.received = [];
    });
    await johns.evaluate(() => {
      window.received = [];
      window.show(true);
    });
    assert.deepEqual((await noted(johns, 'here')).map(({ id }) => id).sort(), [john.id, jane.id].sort());
    await noted(janes, 'joining', { id: john.id });
    await post(laravel.url, '/api/messages', { token: john.token, body: { recipient_id: jane.id, content: 'Once more' } });
    await noted(janes, 'inbox', { content: 'Once more' });
    assert.equal(await janes.evaluate(() => window.received.filter(([what]) => what === 'inbox').length), 1);
  });
}
