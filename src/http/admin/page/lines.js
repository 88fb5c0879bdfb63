/**
 * A line of the feed as an element, and the words by which it is found.
 */
import { code, count, make, number, plain } from './dom.js';

const WORDS = {
  disconnected: 'gone', subscribed: 'joined', unsubscribed: 'left', request_refused: 'refused', rejected: 'refused',
};

/** The checkbox that shows lines of this kind. */
export function group({ kind }) {
  if (kind === 'event') return 'events';
  if (kind === 'ignored') return 'ignored';
  if (['refused', 'rejected', 'request_refused'].includes(kind)) return 'refused';
  if (['subscribed', 'unsubscribed'].includes(kind)) return 'subscriptions';
  return kind === 'missed' ? undefined : 'connections';
}

/** Whether the line has this text, in small letters, somewhere in it. */
export function has(line, text) {
  if (!text) return true;
  line.words ??= JSON.stringify(line).toLowerCase();
  return line.words.includes(text);
}

export function show(line) {
  const word = WORDS[line.kind] ?? line.kind;
  const time = make('time', '', timeOf(line.at));
  if (line.at) time.dateTime = new Date(line.at).toISOString();
  const badge = make('span', `badge ${word === 'joined' || word === 'left' ? 'subscribed' : plain(word)}`, plain(word));
  return make('li', 'line', time, badge, make('div', '', ...describe(line)));
}

function timeOf(at) {
  if (!at) return '';
  const date = new Date(at);
  const two = (value) => String(value).padStart(2, '0');
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`;
}

function describe(line) {
  switch (line.kind) {
    case 'event': return event(line);
    case 'ignored': return [make('p', '', 'Redis channel ', code(line.redis_channel)), make('p', 'quiet', plain(line.reason))];
    case 'refused': return [
      make('p', '', line.channel === null ? 'Signing in' : code(line.channel), make('span', 'quiet', ` by ${line.socket_id}${line.status ? ` · ${line.status}` : ''}`)),
      make('p', '', plain(line.error)),
      line.detail ? make('p', 'quiet', plain(line.detail)) : undefined,
    ].filter(Boolean);
    case 'rejected': return [make('p', '', 'A connection ', make('span', 'quiet', `· ${line.code}`)), make('p', '', plain(line.error))];
    case 'request_refused': return [make('p', '', 'A request of the HTTP API ', make('span', 'quiet', `· ${line.status}`)), make('p', '', plain(line.error))];
    case 'connected': return [make('p', '', code(line.socket_id), make('span', 'quiet', ` speaks ${plain(line.client)} · app ${plain(line.app) || '–'}`))];
    case 'disconnected': return [make('p', '', code(line.socket_id), make('span', 'quiet',
      ` by the ${plain(line.by)}${line.code ? ` with ${line.code}` : ''}${line.reason ? `: ${plain(line.reason)}` : ''}`))];
    case 'subscribed':
    case 'unsubscribed': return [make('p', '', code(line.channel), make('span', 'quiet', ` by ${line.socket_id}`))];
    case 'missed': return [make('p', '', `${count(line.count, 'line')} came faster than they could be shown`)];
    default: return [make('p', 'quiet', plain(JSON.stringify(line)))];
  }
}

function event(line) {
  const from = {
    redis: () => ['from Redis, published as ', code(line.from.channel)],
    http: () => ['from the HTTP API'],
    client: () => ['from the client ', code(line.from.socket_id)],
    node: () => ['from another server'],
  }[line.from.source] ?? (() => []);
  const parts = [make('p', '', make('strong', '', code(line.event)), ' ', make('span', 'quiet', ...from()))];
  for (const { channel, delivered, excluded } of line.to) {
    const left = excluded ? `, ${number(excluded)} left out` : '';
    const outcome = delivered || excluded
      ? make('span', 'got', `delivered to ${count(delivered, 'connection')}${left}`)
      : make('span', 'none', 'nobody is subscribed');
    parts.push(make('p', '', '→ ', code(channel), ' ', outcome));
  }
  const details = make('details', '', make('summary', '', `Data, ${count(line.data_bytes, 'byte')}: ${plain(line.data.slice(0, 80))}`));
  // Made when it is looked at.
  details.addEventListener('toggle', () => details.querySelector('pre') ?? details.append(make('pre', '', plain(pretty(line.data)))));
  parts.push(details);
  return parts;
}

function pretty(data) {
  try {
    return JSON.stringify(JSON.parse(data), null, 2);
  } catch {
    return data;
  }
}
