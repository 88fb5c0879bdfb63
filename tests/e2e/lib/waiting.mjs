// Waiting for what happens, never for time to pass: everything here ends with the event or with a
// deadline that says what was missed.

/** Milliseconds that one awaited thing may take on a busy machine. */
export const PATIENCE = 20_000;

/** The promise, or an error that names `what` after `ms`. */
export function within(promise, what, ms = PATIENCE) {
  let timer;
  const deadline = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms} ms for ${what}`)), ms);
  });
  return Promise.race([promise, deadline]).finally(() => clearTimeout(timer));
}

/** Keeps all that was recorded, and lets a test wait for an item that it has not seen yet. */
export class Recorder {
  items = [];
  #waiting = new Set();

  record(item) {
    this.items.push(item);
    for (const wait of [...this.#waiting]) wait();
  }

  /** The first item, past or to come, from number `from` on, that `wanted` says yes to. */
  first(wanted, what, { from = 0, ms = PATIENCE } = {}) {
    let look;
    const found = new Promise((resolve) => {
      look = () => {
        const item = this.items.slice(from).find(wanted);
        if (item !== undefined) resolve(item);
      };
      this.#waiting.add(look);
      look();
    });
    return within(found, what, ms)
      .catch((error) => {
        error.message += `; there were ${this.items.length} others, the last: ${JSON.stringify(this.items.slice(-5))}`;
        throw error;
      })
      .finally(() => this.#waiting.delete(look));
  }

  /** Resolves when there are `count` items. */
  count(count, what, ms = PATIENCE) {
    return this.first((_, index) => index === count - 1, `${count} × ${what}`, { ms });
  }
}
