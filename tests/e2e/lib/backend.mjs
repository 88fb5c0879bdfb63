// A backend of the official server library: it publishes, and says in its own signature who may join
// and who the user is, as Laravel's pusher driver does.
import { createServer } from 'node:http';
import Pusher from 'pusher';
import { KEY } from './raw.mjs';

/** Of encrypted channels; it never leaves the backend. */
const MASTER_KEY = Buffer.alloc(32, 'k').toString('base64');

/** The library, pointed at a server. */
export function library({ port, secret }) {
  return new Pusher({ appId: 'talent2income', key: KEY, secret, host: '127.0.0.1', port: String(port), useTLS: false, encryptionMasterKeyBase64: MASTER_KEY });
}

/**
 * An application that signs with `secret`, at `/broadcasting/auth` and `/broadcasting/user-auth`. Who
 * asks says in its header `X-User` who it is, as JSON.
 */
export async function startBackend({ secret }) {
  const signer = library({ port: 9, secret });
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const part of request) body += part;
    const fields = new URLSearchParams(body);
    const user = JSON.parse(request.headers['x-user'] ?? 'null');
    const [status, answer] = answers(signer, request.url, fields, user);
    response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  const close = () => new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections?.();
  });
  return { port, url: `http://127.0.0.1:${port}`, close };
}

function answers(signer, path, fields, user) {
  if (!user) return [403, { message: '' }];
  const [socketId, channel] = [fields.get('socket_id'), fields.get('channel_name')];
  if (path === '/broadcasting/user-auth') return [200, signer.authenticateUser(socketId, user)];
  if (path !== '/broadcasting/auth') return [404, { message: '' }];
  const member = channel.startsWith('presence-') ? { user_id: user.id, user_info: user.user_info } : undefined;
  return [200, signer.authorizeChannel(socketId, channel, member)];
}
