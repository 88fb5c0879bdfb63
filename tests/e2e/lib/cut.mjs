// A network that can be cut: a TCP proxy between browsers and the server.
import { createServer, connect } from 'node:net';
import { once } from 'node:events';

export class Cut {
  #pairs = new Set();
  /** Browsers that try to connect while there is no network. */
  #waiting = [];
  #isCut = false;
  #server;
  #to;

  /** Relays to the port that `to` gives for each new connection. */
  static async to(to) {
    const cut = new Cut();
    cut.#to = to;
    cut.#server = createServer((client) => {
      client.on('error', () => {});
      // Without a network nothing is refused: nothing comes of it until there is one.
      if (cut.#isCut) cut.#waiting.push(client.pause());
      else cut.#relay(client);
    });
    cut.#server.listen(0, '127.0.0.1');
    await once(cut.#server, 'listening');
    cut.port = cut.#server.address().port;
    return cut;
  }

  #relay(client) {
    if (client.destroyed) return;
    const server = connect(this.#to(), '127.0.0.1').on('error', () => client.destroy());
    const pair = { client, server };
    this.#pairs.add(pair);
    for (const [from, onto] of [[client, server], [server, client]]) {
      from.on('data', (bytes) => pair.isDead || onto.write(bytes));
      from.on('close', () => {
        if (!pair.isDead) onto.destroy();
      });
    }
    server.on('close', () => this.#pairs.delete(pair));
    client.resume();
  }

  /** Both sides are told that the connection is gone. */
  reset() {
    this.#isCut = true;
    this.#destroy();
  }

  /** The browser has another network now: the server is told nothing, and nothing arrives any more. */
  move() {
    this.silence();
    for (const { client } of this.#pairs) client.destroy();
  }

  /** Nobody is told anything, and nothing arrives any more. */
  silence() {
    this.#isCut = true;
    for (const pair of this.#pairs) pair.isDead = true;
  }

  mend() {
    this.#isCut = false;
    for (const client of this.#waiting.splice(0)) this.#relay(client);
  }

  close() {
    this.#server.close();
    this.#destroy();
    for (const client of this.#waiting) client.destroy();
  }

  #destroy() {
    for (const { client, server } of this.#pairs) for (const socket of [client, server]) socket.destroy();
  }
}
