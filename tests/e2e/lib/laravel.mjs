// The real Laravel application of tests/laravel-app, and how its users speak to it.
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Component, freePort } from './component.mjs';
import { within } from './waiting.mjs';

const APP = fileURLToPath(new URL('../../laravel-app/', import.meta.url));

/** What this application, like every new one, puts before channel names in Redis. */
export const PREFIX = 'talent2income_database_';

/** The seeded users, as they stand in the database. */
export const USERS = {
  john: { id: 1, name: 'John Doe', token: 'token-john', email: 'john@example.com' },
  jane: { id: 2, name: 'Jane Roe', token: 'token-jane', email: 'jane@example.com' },
  ada: { id: 3, name: 'Ada Min', token: 'token-ada', email: 'ada@example.com' },
  zoe: { id: 4, name: 'Zoë Žižek 李', token: 'token-zoe', email: 'zoe@example.com' },
};

/** What the callback of the presence channel `online-users` says of a user. */
export function memberInfo({ id, name }) {
  return { id, name, avatar: `https://example.com/avatars/${id}.jpg` };
}

export async function startLaravel({ redis, env = {} }) {
  const laravel = new Component('Laravel', { prefix: 'laravel' });
  laravel.port = await freePort();
  laravel.url = `http://127.0.0.1:${laravel.port}`;
  laravel.run('sh', [join(APP, 'serve.sh')], {
    env: { PORT: String(laravel.port), REDIS_PORT: String(redis.port), APP_STORAGE: join(laravel.dir, 'storage'), APP_URL: `http://localhost:${laravel.port}`, ...env },
  });
  await laravel.line(/Development Server .* started/);
  return laravel;
}

/** `POST path` with a bearer token, at Laravel itself or through whatever stands at `base`. */
export async function post(base, path, { token, socketId, body = {}, headers = {} } = {}) {
  const response = await within(fetch(base + path, {
    method: 'POST',
    redirect: 'manual',
    headers: {
      Accept: 'application/json',
      'Content-Type': 'application/json',
      ...(token && { Authorization: `Bearer ${token}` }),
      ...(socketId && { 'X-Socket-ID': socketId }),
      ...headers,
    },
    body: JSON.stringify(body),
  }), `POST ${path}`);
  const text = await response.text();
  if (!response.ok) throw new Error(`POST ${path} was answered ${response.status}: ${text.slice(0, 500)}`);
  return text ? JSON.parse(text) : undefined;
}

/** Signs in with the form, as a browser does; returns the value of the `Cookie` header. */
export async function signIn(base, { email }) {
  const jar = new Map();
  const keep = (response) => {
    // Debian 12's Node has no getSetCookie; a comma within a cookie is that of its date.
    for (const cookie of response.headers.get('set-cookie').split(/, (?=[\w-]+=)/)) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(cookie);
      jar.set(name, value);
    }
  };
  const cookies = () => [...jar].map(([name, value]) => `${name}=${value}`).join('; ');

  const form = await within(fetch(`${base}/login`), 'the login form');
  keep(form);
  const token = /name="_token" value="([^"]+)"/.exec(await form.text())[1];
  const answer = await within(fetch(`${base}/login`, {
    method: 'POST',
    redirect: 'manual',
    headers: { Cookie: cookies() },
    body: new URLSearchParams({ _token: token, email, password: 'password' }),
  }), 'signing in');
  keep(answer);
  if (answer.status !== 302 || !/:\d+\/?$/.test(answer.headers.get('location'))) {
    throw new Error(`signing in was answered ${answer.status} to ${answer.headers.get('location')}`);
  }
  return cookies();
}
