/**
 * The list of what passes: bounded, filtered, and drawn once a frame however much comes.
 */
import { byId, count, make, plain, say } from './dom.js';
import { group, has, show } from './lines.js';

/** Lines that are kept, and of those that are shown. */
const KEPT_MAX = 2000;
const SHOWN_MAX = 250;

const kept = [];
let waiting = [];
let isPaused = false;
let isDrawing = false;

const list = byId('lines');
const filter = byId('filter');
const kinds = [...byId('kinds').querySelectorAll('input')];

/** Takes a line of the feed. */
export function take(line) {
  kept.push(line);
  if (kept.length > KEPT_MAX) kept.splice(0, kept.length - KEPT_MAX);
  waiting.push(line);
  if (waiting.length > SHOWN_MAX) waiting = waiting.slice(-SHOWN_MAX);
  if (!isPaused) drawSoon();
  else note();
}

/** Shows only what has this text. */
export function filterBy(text) {
  filter.value = text;
  drawAll();
}

function isMeant(line) {
  const of = group(line);
  return (!of || kinds.find(({ value }) => value === of).checked) && has(line, filter.value.trim().toLowerCase());
}

function drawSoon() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    const lines = waiting.filter(isMeant);
    waiting = [];
    list.querySelector('.empty')?.remove();
    for (const line of lines) {
      const element = show(line);
      element.classList.add('new');
      list.prepend(element);
    }
    while (list.childElementCount > SHOWN_MAX) list.lastElementChild.remove();
    note();
  });
}

function drawAll() {
  waiting = [];
  const lines = kept.filter(isMeant).slice(-SHOWN_MAX).reverse();
  list.replaceChildren(...lines.map(show));
  note();
}

function note() {
  if (!list.childElementCount) {
    const what = kept.length ? 'Nothing that was seen has this.' : 'Nothing has passed yet. Let Laravel broadcast, or send a test event.';
    list.append(make('li', 'empty', what));
  }
  const parts = [];
  if (isPaused) parts.push(`Paused; ${count(waiting.length, 'newer line')}.`);
  if (filter.value.trim()) parts.push(`Only what has “${plain(filter.value.trim())}” in it.`);
  say(byId('lines-note'), parts.join(' '));
}

byId('pause').addEventListener('click', () => {
  isPaused = !isPaused;
  byId('pause').setAttribute('aria-pressed', String(isPaused));
  say(byId('pause'), isPaused ? 'Go on' : 'Pause');
  if (isPaused) note();
  else drawAll();
});
byId('clear').addEventListener('click', () => {
  kept.length = 0;
  drawAll();
});
filter.addEventListener('input', drawAll);
for (const kind of kinds) kind.addEventListener('change', drawAll);
note();
