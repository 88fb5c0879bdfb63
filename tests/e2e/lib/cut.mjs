// A network that can be cut: a TCP proxy between browsers and the server.
import { createServer, connect } from 'node:net';
import { once } from 'node:events';

export class Cut {
  #pairs = new Set();
  #isCut = false;

  /** Relays to the port that `to` gives for each new connection. */
  static async to(to) {
    const cut = new Cut();
    cut.#server = createServer((client) => {
      client.on('error', () => {});
      if (cut.#isCut) return client.destroy();
      const server = connect(to(), '127.0.0.1').on('error', () => client.destroy());
      const pair = { client, server };
      cut.#pairs.add(pair);
      for (const [from, onto] of [[client, server], [server, client]]) {
        from.on('data', (bytes) => pair.isDead || onto.write(bytes));
        from.on('close', () => {
          if (!pair.isDead) onto.destroy();
        });
      }
      server.on('close', () => cut.#pairs.delete(pair));
    });
    cut.#server.listen(0, '127.0.0.1');
    await once(cut.#server, 'listening');
    cut.port = cut.#server.address().port;
    return cut;
  }

  #server;

  /** Both sides are told that the connection is gone, and new ones fail. */
  reset() {
    this.#isCut = true;
    for (const { client, server } of this.#pairs) for (const socket of [client, server]) socket.destroy();
  }

  /** The browser has another network now: the server is told nothing, and nothing arrives any more. */
  move() {
    this.#isCut = true;
    for (const pair of this.#pairs) {
      pair.isDead = true;
      pair.client.destroy();
    }
  }

  /** Nobody is told anything, and nothing arrives any more. */
  silence() {
    this.#isCut = true;
    for (const pair of this.#pairs) pair.isDead = true;
  }

  mend() {
    this.#isCut = false;
  }

  close() {
    this.#server.close();
    for (const { client, server } of this.#pairs) for (const socket of [client, server]) socket.destroy();
  }
}
