// Real Apache and Caddy in front of an application, with the project's examples in its site. nginx: nginx.mjs.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Component, freePort } from './component.mjs';

/** The example, leading to this server. */
function example(path, server) {
  const text = readFileSync(new URL(`../../../examples/${path}`, import.meta.url), 'utf8');
  if (!text.includes('127.0.0.1:6001')) throw new Error(`${path} does not lead to 127.0.0.1:6001`);
  return text.replaceAll('127.0.0.1:6001', `127.0.0.1:${server.port}`);
}

async function proxy(name) {
  const component = new Component(name);
  component.port = await freePort();
  component.url = `http://127.0.0.1:${component.port}`;
  return component;
}

export async function startApache({ laravel, server }) {
  const apache = await proxy('apache2');
  const modules = ['mpm_event', 'authz_core', 'proxy', 'proxy_http', 'proxy_wstunnel', 'headers']
    .map((name) => `LoadModule ${name}_module /usr/lib/apache2/modules/mod_${name}.so`);
  // Modules that a distribution has compiled in are none to load.
  const there = modules.filter((line) => existsSync(line.split(' ')[2]));
  writeFileSync(join(apache.dir, 'apache.conf'), `
    ServerRoot ${apache.dir}
    ServerName localhost
    PidFile ${apache.dir}/pid
    DefaultRuntimeDir ${apache.dir}
    ErrorLog "|/bin/cat"
    User www-data
    Group www-data
    Listen 127.0.0.1:${apache.port}
    ${there.join('\n')}
    <VirtualHost *:${apache.port}>
      ${example('apache/laravel-echo-server.conf', server)}
      ProxyPass "/" "http://127.0.0.1:${laravel.port}/"
    </VirtualHost>`);
  apache.run('apache2', ['-f', join(apache.dir, 'apache.conf'), '-DFOREGROUND'], { env: { PATH: `${process.env.PATH}:/usr/sbin` } });
  await apache.line(/resuming normal operations/);
  return apache;
}

export async function startCaddy({ laravel, server }) {
  const caddy = await proxy('caddy');
  writeFileSync(join(caddy.dir, 'Caddyfile'), `{
    admin off
    auto_https off
    storage file_system ${caddy.dir}
}
http://127.0.0.1:${caddy.port} {
${example('caddy/laravel-echo-server.caddy', server)}
reverse_proxy 127.0.0.1:${laravel.port}
}
`);
  caddy.run('caddy', ['run', '--config', join(caddy.dir, 'Caddyfile'), '--adapter', 'caddyfile'], { env: { HOME: caddy.dir, XDG_CONFIG_HOME: caddy.dir } });
  await caddy.line(/serving initial configuration/);
  return caddy;
}
