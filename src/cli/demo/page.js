/**
 * The demo's page: one pane a user. Whatever comes from elsewhere is shown as text, never as HTML.
 */
import { Client } from './client.js';
import { EchoClient, load } from './echo.js';

const STATES = {
  connected: 'Connected',
  connecting: 'Connecting …',
  waiting: 'Connection lost, trying again …',
  unavailable: 'Connection lost, trying again …',
  disconnected: 'Offline',
  failed: 'Refused by the server',
};
/** A typing user who says nothing more has probably gone away. */
const TYPING_ENDS_MS = 3_000;
/** While somebody types, the other side is told at most this often. */
const TYPING_AGAIN_MS = 1_500;
const FRAMES_MAX = 100;

class Pane {
  constructor(user, other, site) {
    this.user = user;
    this.other = other;
    this.conversation = `conversation.${[user.id, other.id].sort((a, b) => a - b).join('-')}`;
    this.members = new Map();
    this.bubbles = new Map();
    this.element = this.build();
    const ConnectingClient = site.libraries ? EchoClient : Client;
    this.client = new ConnectingClient({
      key: site.key,
      token: user.token,
      onState: (state) => this.showState(state),
      onFrame: (direction, text) => this.showFrame(direction, text),
    });
    this.subscribe();
    this.client.connect();
  }

  /** What an application with Echo would write. */
  subscribe() {
    const refused = (error) => this.showNotice(`Subscription refused: ${reason(error)}`);
    this.client
      .private(`user.${this.user.id}`)
      .listen('.message.sent', (message) => this.showMessage(message, `private-user.${this.user.id}`))
      .error(refused);
    this.client
      .private(this.conversation)
      .listen('.message.sent', (message) => this.showMessage(message, `private-${this.conversation}`))
      .listen('.user.typing', ({ is_typing }) => this.showTyping(is_typing))
      .listenForWhisper('typing', ({ is_typing }) => this.showTyping(is_typing))
      .error(refused);
    this.client
      .join('online-users')
      .here((members) => this.showMembers(members))
      .joining((member) => this.showMembers([...this.members.values(), member]))
      .leaving((member) => this.showMembers([...this.members.values()].filter(({ id }) => id !== member?.id)))
      .error(refused);
  }

  // What the user does.

  async sendMessage(content) {
    const { data } = await this.post('/api/messages', { recipient_id: this.other.id, content });
    this.showMessage(data, 'sent');
  }

  /** `begins`: a key was pressed; else the message was sent or given up. */
  tellTyping(begins) {
    const now = performance.now();
    const told = this.toldTyping !== undefined;
    if (begins ? told && now < this.toldTyping + TYPING_AGAIN_MS : !told) return;
    this.toldTyping = begins ? now : undefined;
    const way = document.querySelector('input[name=typing]:checked').value;
    if (way === 'whisper') {
      this.client.private(this.conversation).whisper('typing', { is_typing: begins });
    } else {
      this.post(`/api/messages/typing/${this.other.id}`, { is_typing: begins }).catch((error) =>
        this.showNotice(error.message),
      );
    }
  }

  /** As an application's HTTP client does: `X-Socket-ID` tells Laravel whom `toOthers()` leaves out. */
  async post(path, body) {
    const headers = {
      Authorization: `Bearer ${this.user.token}`,
      Accept: 'application/json',
      'Content-Type': 'application/json',
    };
    if (this.client.socketId()) headers['X-Socket-ID'] = this.client.socketId();
    const response = await fetch(path, { method: 'POST', headers, body: JSON.stringify(body) });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(`${path} answered ${response.status}: ${answer.message ?? ''}`);
    return answer;
  }

  toggle() {
    if (this.state === 'disconnected' || this.state === 'failed') this.client.connect();
    else this.client.disconnect();
  }

  /** Asks for the other's channel, first by the rules, then as somebody would who skips them. */
  listenToTheOther() {
    const name = `user.${this.other.id}`;
    const outcome = this.find('.outcome');
    outcome.replaceChildren();
    const show = (label, text) => outcome.append(element('li', '', element('b', '', label), text));
    if (this.state !== 'connected') return show('', 'Go online first: only a connection can be refused a channel.');
    this.client.leave(name);
    let asked = false;
    this.client
      .private(name)
      .subscribed(() => show('', `${this.user.name} listens to private-${name}. That should not have happened.`))
      .error((error) => {
        if (asked) return show('Subscribe without a signature: ', reason(error));
        asked = true;
        show('Ask Laravel first: ', reason(error));
        this.client.send('pusher:subscribe', { channel: `private-${name}` });
      });
  }

  // What the user sees.

  build() {
    const pane = document.getElementById('pane').content.cloneNode(true).firstElementChild;
    this.element = pane;
    pane.id = `user-${this.user.id}`;
    pane.dataset.user = this.user.id;
    const heading = this.find('h2');
    heading.textContent = this.user.name;
    heading.id = `name-${this.user.id}`;
    pane.setAttribute('aria-labelledby', heading.id);
    this.find('.avatar').textContent = this.user.name[0];
    this.find('.messages').setAttribute('aria-label', `Messages of ${this.user.name}`);
    this.find('.frames').setAttribute('aria-label', `Frames of ${this.user.name}, newest last`);
    this.find('.listen').textContent = `Listen to ${firstName(this.other)}’s private channel`;
    this.find('.listen').onclick = () => this.listenToTheOther();
    this.find('.toggle').onclick = () => this.toggle();

    const form = this.find('form');
    const input = this.find('input');
    input.id = `content-${this.user.id}`;
    input.placeholder = `Message to ${firstName(this.other)}`;
    const label = this.find('label');
    label.htmlFor = input.id;
    label.textContent = input.placeholder;
    input.oninput = () => this.tellTyping(input.value !== '');
    input.onblur = () => this.tellTyping(false);
    form.onsubmit = (event) => {
      event.preventDefault();
      const content = input.value.trim();
      if (content === '') return;
      input.value = '';
      this.tellTyping(false);
      this.sendMessage(content).catch((error) => this.showNotice(error.message));
    };
    document.getElementById('panes').append(pane);
    return pane;
  }

  showState(state) {
    this.state = state;
    this.element.dataset.state = state;
    this.find('.state').textContent = STATES[state] ?? state;
    const offline = state === 'disconnected' || state === 'failed';
    this.find('.toggle').textContent = offline ? 'Go online' : 'Go offline';
    if (state !== 'connected') {
      this.showMembers([]);
      this.showTyping(false);
    }
  }

  showMembers(members) {
    this.members = new Map(members.map((member) => [member.id, member]));
    const item = ({ id, name }) => element('li', '', id === this.user.id ? `${name} (you)` : name);
    const nobody = element('li', 'nobody', 'not known while offline');
    this.find('.members').replaceChildren(...(members.length ? [...this.members.values()].map(item) : [nobody]));
  }

  /** The same message may come on several channels; it is shown once, with all of them. */
  showMessage({ id, content, sender_id }, channel) {
    let bubble = this.bubbles.get(id);
    if (!bubble) {
      const own = sender_id === this.user.id;
      bubble = element('div', own ? 'bubble own' : 'bubble', element('p', '', content), element('small'));
      this.bubbles.set(id, bubble);
      this.append(bubble);
      if (!own) this.showTyping(false);
    }
    const ways = bubble.querySelector('small');
    const before = ways.textContent;
    if (channel === 'sent') ways.textContent = 'sent';
    else ways.textContent = before ? `${before}, ${channel}` : `via ${channel}`;
    this.scrollToLast();
  }

  showNotice(text) {
    this.append(element('p', 'notice', text));
  }

  append(node) {
    const messages = this.find('.messages');
    this.find('.empty')?.remove();
    messages.append(node);
    this.scrollToLast();
  }

  scrollToLast() {
    const messages = this.find('.messages');
    messages.scrollTop = messages.scrollHeight;
  }

  showTyping(isTyping) {
    clearTimeout(this.typingTimer);
    this.find('.typing').textContent = isTyping ? `${firstName(this.other)} is typing …` : '';
    if (isTyping) this.typingTimer = setTimeout(() => this.showTyping(false), TYPING_ENDS_MS);
  }

  showFrame(direction, text) {
    this.frames = (this.frames ?? 0) + 1;
    this.find('.count').textContent = this.frames;
    const arrow = element('span', 'arrow', direction === 'in' ? '↓' : '↑');
    arrow.setAttribute('role', 'img');
    arrow.setAttribute('aria-label', direction === 'in' ? 'received' : 'sent');
    const list = this.find('.frames');
    list.append(element('li', direction, arrow, element('code', '', text)));
    if (list.children.length > FRAMES_MAX) list.firstElementChild.remove();
    list.scrollTop = list.scrollHeight;
  }

  find(selector) {
    return this.element.querySelector(selector);
  }
}

/** Clients differ in how much they say of an error. */
function reason(error) {
  if (typeof error !== 'object' || error === null) return String(error ?? 'no reason given');
  return [error.status, error.error].filter(Boolean).join(' · ') || error.type || 'no reason given';
}

function firstName({ name }) {
  return name.split(' ')[0];
}

/** An element with children; texts become text nodes. */
function element(tag, className = '', ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

try {
  const site = await (await fetch('/demo/site.json')).json();
  if (site.libraries) await load();
  const names = Object.entries(site.libraries ?? {}).map(([name, version]) => `${name} ${version}`);
  document.getElementById('library').textContent = names.join(' + ') || 'the demo’s own (client.js)';
  const [john, jane] = site.users;
  new Pane(john, jane, site);
  new Pane(jane, john, site);
} catch (error) {
  document.getElementById('panes').append(element('p', 'notice', `The demo could not start: ${error.message}`));
}
