/**
 * Elements out of text. Nothing here makes HTML of a string: names and payloads are whatever somebody sends.
 */

export const byId = (id) => document.getElementById(id);

/** An element with this class, these children (texts or elements), and these properties. */
export function make(tag, className = '', ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== undefined && child !== null && child !== ''));
  return element;
}

/** A name or value of others as code. */
export const code = (text) => make('code', '', plain(text));

/** Control characters, and those that turn the direction of writing or are not to be seen, as escapes. */
export function plain(text) {
  return String(text ?? '').replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (character) => `\\u{${character.codePointAt(0).toString(16)}}`);
}

/** Replaces the text only if it differs, so that what reads the page aloud has nothing to say again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const numbers = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });
export const number = (value) => numbers.format(value);

/** "1 connection", "2 connections". */
export const count = (value, one) => `${number(value)} ${one}${value === 1 ? '' : 's'}`;

/** Seconds as "3 d 4 h", "4 h 5 min", "5 min 6 s" or "6 s". */
export function duration(seconds) {
  const whole = Math.floor(seconds);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  if (minutes) return `${minutes} min ${whole % 60} s`;
  return `${whole} s`;
}
