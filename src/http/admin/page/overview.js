/**
 * What stands in numbers and tables: tiles, alerts, the server, its apps, nodes and webhooks.
 */
import { byId, code, count, duration, make, number, plain, say } from './dom.js';

/** Samples that rates are drawn of. */
const SAMPLES_MAX = 60;
/** Of so many seconds are the delivery times. */
const LATENCY_SECONDS = 60;

const samples = [];

export function showStatus(status) {
  const now = performance.now() / 1000;
  const before = samples.at(-1);
  // A server that has started anew counts anew.
  if (before && before.pid !== status.pid) samples.length = 0;
  samples.push({ at: now, pid: status.pid, connections: status.connections, counted: status.counted });
  if (samples.length > SAMPLES_MAX) samples.shift();
  say(byId('version'), status.version);
  say(byId('place'), `${status.listening.places.join(', ')} (${status.listening.protocol}) · up ${duration(status.uptime_seconds)}`);
  chips(status);
  alerts(status);
  tiles(status);
  server(status);
}

export function showTotals(total) {
  tile('channels', number(total.channels), count(total.subscriptions, 'subscription'));
  tile('users', number(total.members), `in ${count(total.presence, 'presence channel')}`);
}

function chips({ redis, nodes }) {
  const chip = byId('chip-redis');
  const state = { connected: ['good', 'Redis is connected'], away: ['bad', 'Redis is away'], off: ['', 'Redis is not listened to'] }[redis.state];
  chip.className = `chip ${state[0]}`;
  say(chip, state[1]);
  const others = byId('chip-nodes');
  others.hidden = nodes.length < 2;
  others.className = `chip ${nodes.some((node) => node.is_leaving) ? 'wait' : 'good'}`;
  say(others, `${nodes.length} servers`);
}

function alerts({ redis, warnings, bus }) {
  const lines = [];
  if (redis.state === 'away') lines.push(['', `Redis at ${redis.address} is away, so no events arrive from Laravel. ${redis.reason}`]);
  if (bus?.lost_events) lines.push(['mild', `${count(bus.lost_events, 'event')} reached this server's clients alone, since Redis was away or slow.`]);
  for (const warning of warnings) lines.push(['mild', warning]);
  const shown = byId('alerts');
  const key = JSON.stringify(lines);
  // Said once, not every other second.
  if (shown.dataset.key === key) return;
  shown.dataset.key = key;
  shown.replaceChildren(...lines.map(([kind, text]) => make('p', `alert ${kind}`, plain(text))));
}

function tiles(status) {
  const cluster = status.nodes.length > 1 ? `${number(status.cluster_connections)} on all servers` : `of at most ${number(status.connections_max)}`;
  tile('connections', number(status.connections), cluster, samples.map(({ connections }) => connections));
  const rates = (name) => samples.slice(1).map((sample, index) => {
    const last = samples[index];
    return Math.max(0, (sample.counted[name] - last.counted[name]) / (sample.at - last.at));
  });
  const { counted } = status;
  for (const [id, name, note] of [
    ['events', 'events_received', `${number(counted.events_received)} so far, ${number(counted.events_unheard)} to nobody`],
    ['delivered', 'messages_delivered', `${number(counted.messages_delivered)} so far`],
  ]) {
    const all = rates(name);
    // Of the last three, so that it does not jump.
    const recent = all.slice(-3);
    const rate = recent.reduce((sum, one) => sum + one, 0) / (recent.length || 1);
    tile(id, all.length ? number(rate < 10 ? rate : Math.round(rate)) : '–', note, all);
  }
  latency(status);
}

function latency({ counted }) {
  const first = samples.find(({ at }) => at >= samples.at(-1).at - LATENCY_SECONDS) ?? samples[0];
  const counts = counted.delivery_counts.map((all, index) => all - first.counted.delivery_counts[index]);
  const total = counts.at(-1);
  const quantile = (part) => {
    const index = counts.findIndex((below) => below >= total * part);
    const bound = counted.delivery_bounds_us[index];
    return bound === undefined ? 'over 10 s' : `≤ ${bound < 1000 ? `${bound} µs` : bound < 1e6 ? `${bound / 1000} ms` : `${bound / 1e6} s`}`;
  };
  tile('latency', total ? quantile(0.5) : '–', total ? `99 of 100 ${quantile(0.99)}` : 'none in the last minute');
}

function tile(id, value, note, history = []) {
  const element = byId(`tile-${id}`);
  say(element.querySelector('.number'), value);
  say(element.querySelector('.note'), note);
  const line = element.querySelector('polyline');
  if (!line || history.length < 2) return;
  const most = Math.max(...history, 1);
  const points = history.map((one, index) => `${(index / (history.length - 1)) * 100},${23 - (one / most) * 21}`);
  line.setAttribute('points', points.join(' '));
}

function server(status) {
  const { redis, apps, nodes, webhooks, bus } = status;
  const facts = [
    ['Settings', code(status.configuration)],
    ['Redis', redis.state === 'off' ? 'not listened to' : `${plain(redis.address)}, ${redis.state === 'away' ? 'away' : 'connected'} for ${duration(redis.seconds)}`],
    ['Key prefix', redis.key_prefix === null ? 'found out from what Laravel publishes' : code(redis.key_prefix || '(none)')],
    ['Process', `${status.pid}, ${number(status.memory_bytes / 1048576)} MB, ${count(status.shards, 'shard')}`],
    ['Refused', `${count(status.counted.subscriptions_refused, 'subscription')}, ${count(status.counted.slow_consumers_closed, 'slow reader')} closed`],
  ];
  if (nodes.length > 1) facts.push(['Between servers', `${number(bus.missed)} messages missed, ${number(bus.healed)} differences healed`]);
  byId('facts').replaceChildren(...facts.flatMap(([name, value]) => [make('dt', '', name), make('dd', '', value)]));
  const tables = [table('Apps', ['App', 'Connections'], apps.map((app) => [
    app.id ? code(app.id) : 'Socket.IO only',
    number(nodes.length > 1 ? app.cluster_connections : app.connections),
  ]))];
  if (nodes.length) {
    tables.push(table('Servers', ['Server', 'Version', 'Connections', 'Lag'], nodes.map((node) => [
      make('span', '', code(node.id), node.is_this ? ' this one' : '', node.is_leaving ? ' stops' : ''),
      plain(node.version), number(node.connections), `${node.lag_ms} ms`,
    ])));
  }
  if (webhooks.length) {
    tables.push(table('Webhooks', ['URL', 'Delivered', 'Failed', 'Lost'], webhooks.map((webhook) => [
      make('span', '', code(webhook.url), ` of ${plain(webhook.app)}`),
      number(webhook.delivered), number(webhook.failed_requests), number(webhook.given_up + webhook.overflowed),
    ])));
  }
  byId('tables').replaceChildren(...tables.flat());
}

function table(title, heads, rows) {
  const side = (index) => (index ? 'amount' : '');
  const head = make('tr', '', ...heads.map((text, index) => {
    const cell = make('th', side(index), text);
    cell.scope = 'col';
    return cell;
  }));
  const body = rows.map((cells) => make('tr', '', ...cells.map((cell, index) => make('td', side(index), cell))));
  return [make('h3', '', title), make('table', '', make('thead', '', head), make('tbody', '', ...body))];
}
