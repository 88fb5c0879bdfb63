// What is the same of every front end that laravel-echo makes, whatever it speaks.

/** One "tab". Whoever extends it sets `echo`, and says with `watched(name, subscribe)` how a channel is watched. */
export class Tab {
  #channels = new Map();

  get socketId() {
    return this.echo.socketId();
  }

  channel(name) {
    return this.#watch(name, () => this.echo.channel(name));
  }

  private(name) {
    return this.#watch(`private-${name}`, () => this.echo.private(name));
  }

  join(name) {
    return this.#watch(`presence-${name}`, () => this.echo.join(name));
  }

  leave(name) {
    this.echo.leave(name);
    for (const full of [name, `private-${name}`, `presence-${name}`]) this.#channels.delete(full);
  }

  close() {
    this.echo.disconnect();
  }

  #watch(name, subscribe) {
    if (!this.#channels.has(name)) this.#channels.set(name, this.watched(name, subscribe));
    return this.#channels.get(name);
  }
}
