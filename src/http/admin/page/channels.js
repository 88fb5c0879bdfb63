/**
 * The channels that have subscribers, and who is in a presence channel.
 */
import { ask } from './api.js';
import { byId, code, count, make, number, plain, say } from './dom.js';
import { filterBy } from './inspector.js';

const ROWS = 200;

export async function refreshChannels(onTotals) {
  const filter = byId('channel-filter').value.trim();
  const { total, channels } = await ask('channels', { query: { filter, limit: ROWS } });
  // Totals are of everything only if everything was asked for.
  if (!filter) onTotals(total);
  say(byId('channels-count'), number(total.channels));
  const more = total.channels > channels.length ? ` The ${channels.length} with the most subscriptions are shown.` : '';
  say(byId('channels-note'), `${count(total.subscriptions, 'subscription')} on all servers.${more}`);
  const body = byId('channels');
  const key = JSON.stringify(channels);
  if (body.dataset.key === key) return;
  body.dataset.key = key;
  body.replaceChildren(...(channels.length ? channels.map(row) : [empty(filter)]));
  byId('known-channels').replaceChildren(...channels.slice(0, 100).map(({ name }) => {
    const option = make('option');
    option.value = name;
    return option;
  }));
}

function empty(filter) {
  const cell = make('td', 'empty', filter ? 'No channel has this in its name.' : 'Nobody is subscribed to anything.');
  cell.colSpan = 4;
  return make('tr', '', cell);
}

function row(channel) {
  const { name, access, subscriptions, users } = channel;
  const find = make('button', 'link', code(name));
  find.type = 'button';
  find.title = 'Show what passes on this channel';
  find.addEventListener('click', () => {
    filterBy(name);
    byId('inspector').scrollIntoView();
    byId('filter').focus();
  });
  const tags = [make('span', `tag ${access}`, access)];
  if (channel.is_encrypted) tags.push(' ', make('span', 'tag', 'encrypted'));
  if (channel.is_cache) tags.push(' ', make('span', 'tag', 'cache'));
  let who = '';
  if (users !== undefined) {
    who = make('button', 'link', number(users));
    who.type = 'button';
    who.setAttribute('aria-label', `${count(users, 'user')} of ${name}: show them`);
    who.addEventListener('click', () => showUsers(channel));
  }
  return make('tr', '', make('td', '', find), make('td', '', ...tags), make('td', 'amount', number(subscriptions)), make('td', 'amount', who));
}

async function showUsers({ app, name }) {
  say(byId('users-title'), plain(name));
  say(byId('users-note'), 'Asking …');
  byId('users-list').replaceChildren();
  byId('users').showModal();
  try {
    const { total, subscriptions, users } = await ask('users', { query: { app, channel: name } });
    say(byId('users-note'), `${count(total, 'user')} with ${count(subscriptions, 'subscription')}.`);
    byId('users-list').replaceChildren(...users.map(({ user_id: id, user_info: info }) =>
      make('li', '', make('strong', '', plain(id)), info === undefined ? '' : code(JSON.stringify(info)))));
  } catch (error) {
    say(byId('users-note'), error.message);
  }
}

byId('users-close').addEventListener('click', () => byId('users').close());
