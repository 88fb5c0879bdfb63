/**
 * The dashboard: asks the server how it is, follows what passes, sends a test event.
 */
import { ask, follow } from './api.js';
import { refreshChannels } from './channels.js';
import { byId, count, make, number, plain, say } from './dom.js';
import { take } from './inspector.js';
import { group, show } from './lines.js';
import { showStatus, showTotals } from './overview.js';

const STATUS_MS = 2_000;
const CHANNELS_MS = 5_000;
const REFUSALS_MAX = 100;

/** Does it now and then again, each time so long after the last is done. Not while nobody sees the page. */
async function regularly(milliseconds, what) {
  for (;;) {
    const start = performance.now();
    if (!document.hidden) await what().catch(() => {});
    // Who takes long to answer is asked less often.
    const pause = Math.max(milliseconds, 10 * (performance.now() - start));
    await new Promise((resolve) => setTimeout(resolve, Math.min(pause, 60_000)));
  }
}

function showLive(isLive) {
  const chip = byId('chip-live');
  chip.className = `chip ${isLive ? 'good' : 'wait'}`;
  say(chip, isLive ? 'Live' : 'Connecting …');
  if (isLive) refreshRefusals().catch(() => {});
}

// --- refusals

let refusals = 0;

async function refreshRefusals() {
  const { refusals: lines } = await ask('refusals');
  byId('refusals').replaceChildren();
  refusals = 0;
  lines.forEach(addRefusal);
  if (!lines.length) byId('refusals').append(make('li', 'empty', 'Nothing was refused.'));
}

function addRefusal(line) {
  refusals += 1;
  const list = byId('refusals');
  list.querySelector('.empty')?.remove();
  list.prepend(show(line));
  while (list.childElementCount > REFUSALS_MAX) list.lastElementChild.remove();
  say(byId('refusals-count'), number(refusals) + (refusals >= REFUSALS_MAX ? '+' : ''));
}

// --- a test event

byId('send').addEventListener('submit', async (submitted) => {
  submitted.preventDefault();
  const { app, channel, event, data } = submitted.target.elements;
  let text = data.value.trim() || '{}';
  try {
    JSON.parse(text);
  } catch {
    text = JSON.stringify(text);
  }
  const name = channel.value.trim();
  try {
    const body = { name: event.value.trim(), channel: name, data: text, info: 'subscription_count' };
    const { channels } = await ask('events', { query: { app: app.value }, body });
    const subscriptions = channels[name].subscription_count;
    say(byId('sent'), `Sent to ${plain(name)}: ${subscriptions ? `${count(subscriptions, 'subscription')}.` : 'nobody is subscribed.'}`);
  } catch (error) {
    say(byId('sent'), `Not sent: ${plain(error.message)}`);
  }
});

function offerApps(apps) {
  const field = byId('send-app');
  const select = field.querySelector('select');
  if (select.childElementCount === apps.length) return;
  select.replaceChildren(...apps.map(({ id }) => {
    const option = make('option', '', id);
    option.value = id;
    return option;
  }));
  field.hidden = apps.length < 2;
}

// --- all of it

byId('channel-filter').addEventListener('input', () => refreshChannels(showTotals).catch(() => {}));

regularly(STATUS_MS, async () => {
  const status = await ask('status');
  offerApps(status.apps);
  showStatus(status);
});
regularly(CHANNELS_MS, () => refreshChannels(showTotals));
follow((line) => {
  take(line);
  if (group(line) === 'refused') addRefusal(line);
}, showLive);
