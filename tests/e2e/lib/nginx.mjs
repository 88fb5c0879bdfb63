// A real nginx in front of Laravel, with the project's examples in its server block.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Component, freePort } from './component.mjs';

const EXAMPLES = new URL('../../../examples/nginx/', import.meta.url);

/** `edit` changes an example's text before nginx reads it. */
export async function startNginx({ laravel, server, edit = (text) => text }) {
  const nginx = new Component('nginx');
  nginx.port = await freePort();
  nginx.url = `http://127.0.0.1:${nginx.port}`;
  for (const name of ['broadcasting-auth.conf', 'websocket.conf', 'socket.io.conf']) {
    const example = readFileSync(new URL(name, EXAMPLES), 'utf8');
    if (!example.includes('127.0.0.1:6001')) throw new Error(`${name} does not lead to 127.0.0.1:6001`);
    writeFileSync(join(nginx.dir, name), edit(example.replaceAll('127.0.0.1:6001', `127.0.0.1:${server.port}`), name));
  }
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${nginx.dir}/${name};`).join(' ');
  writeFileSync(join(nginx.dir, 'nginx.conf'), `
    daemon off; pid ${nginx.dir}/pid; worker_processes 1; error_log stderr notice;
    events { worker_connections 128; }
    http {
      access_log off; ${temporary}
      server {
        listen 127.0.0.1:${nginx.port};
        location / {
          proxy_pass http://127.0.0.1:${laravel.port};
          proxy_set_header Host $http_host;
        }
        include ${nginx.dir}/broadcasting-auth.conf;
        include ${nginx.dir}/websocket.conf;
        include ${nginx.dir}/socket.io.conf;
      }
    }`);
  nginx.run('nginx', ['-e', 'stderr', '-p', nginx.dir, '-c', join(nginx.dir, 'nginx.conf')], { env: { PATH: `${process.env.PATH}:/usr/sbin` } });
  await nginx.line(/start worker process \d/);
  return nginx;
}
