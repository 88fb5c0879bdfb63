// What every test file begins with: a test that shows the programs' logs when it fails, and things
// that are ended when their test or their file ends.
import { after, test } from 'node:test';
import { logs } from './component.mjs';

/** Ends things in the opposite order of their beginning. */
export class Lifetime {
  #ends = [];

  /** Keeps what has `stop()` or `close()` until the end; returns it. */
  async keep(thing) {
    const kept = await thing;
    this.#ends.push(() => (kept.stop ? kept.stop() : kept.close()));
    return kept;
  }

  async end() {
    const errors = [];
    while (this.#ends.length) {
      try {
        await this.#ends.pop()();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length) throw errors[0];
  }
}

/** For what a whole file shares. */
export function fileLifetime() {
  const lifetime = new Lifetime();
  after(() => lifetime.end());
  return lifetime;
}

/** A test. `body` gets a lifetime of its own. */
export function promise(name, body, { timeout = 90_000 } = {}) {
  return test(name, { timeout }, async () => {
    const lifetime = new Lifetime();
    try {
      await body(lifetime);
    } catch (error) {
      process.stderr.write(`\n"${name}" failed: ${error.message}\n${logs()}\n`);
      throw error;
    } finally {
      await lifetime.end();
    }
  });
}
