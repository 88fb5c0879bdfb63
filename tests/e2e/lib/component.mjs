// One program that a test needs: started, watched line by line, and ended by its own process id.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Recorder, within } from './waiting.mjs';

/** What runs now; the logs of these are shown when a test fails. */
const running = new Set();

/** Temporary folders that are to be gone at the end, also those of programs that did not start. */
const folders = new Set();

// A test that throws half-way, or is ended from outside, leaves nothing behind.
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => process.exit(1));
process.on('exit', () => {
  for (const component of running) component.kill('SIGTERM');
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

export class Component {
  /** Everything it wrote to stdout and stderr, a string a line. */
  log = new Recorder();
  /** Resolves with `{ code, signal }`. */
  exited;

  /** `dir` is a new temporary folder; it is the working directory, too, unless `cwd` says otherwise. */
  constructor(name, { prefix = name } = {}) {
    this.name = name;
    this.dir = mkdtempSync(join(tmpdir(), `les-${prefix}-`));
    folders.add(this.dir);
  }

  run(command, args, { env = {}, cwd = this.dir } = {}) {
    this.child = spawn(command, args, { cwd, env: { LARAVEL_ECHO_SERVER_LOG_FORMAT: 'text', ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    running.add(this);
    for (const stream of ['stdout', 'stderr']) {
      let rest = '';
      this.child[stream].setEncoding('utf8').on('data', (text) => {
        const lines = (rest + text).split('\n');
        rest = lines.pop();
        for (const line of lines) this.log.record(line);
      });
      this.child[stream].on('end', () => rest && this.log.record(rest));
    }
    this.exited = new Promise((resolve, reject) => {
      this.child.on('error', (error) => reject(new Error(`${this.name} does not start: ${error.message}`)));
      // "close" comes after the last line has been read; "exit" may come before.
      this.child.on('close', (code, signal) => {
        this.ended = true;
        running.delete(this);
        resolve({ code, signal });
      });
    });
    this.exited.catch(() => running.delete(this));
    return this;
  }

  /** Waits for a line, or for the end of the program, which is an error then. */
  async line(wanted, { from = 0, ms } = {}) {
    const gone = this.exited.then(({ code, signal }) => {
      throw new Error(`${this.name} ended with ${signal ?? code} before it said ${wanted}:\n${this.log.items.join('\n')}`);
    });
    gone.catch(() => {});
    return Promise.race([this.log.first((line) => wanted.test(line), `${this.name} to say ${wanted}`, { from, ms }), gone]);
  }

  /** The number of lines so far; give it to `line` as `from`. */
  get mark() {
    return this.log.items.length;
  }

  kill(signal) {
    if (!this.ended && this.child?.pid) this.child.kill(signal);
  }

  /** Ends it, and only it. */
  async stop(signal = 'SIGTERM') {
    this.kill(signal);
    try {
      return await within(this.exited, `${this.name} to end after ${signal}`);
    } catch (error) {
      this.kill('SIGKILL');
      throw error;
    } finally {
      rmSync(this.dir, { recursive: true, force: true });
    }
  }
}

/** What the programs that still run have said, for the report of a failed test. */
export function logs(lines = 60) {
  return [...running]
    .map(({ name, log }) => `--- the last lines of ${name}\n${log.items.slice(-lines).join('\n')}`)
    .join('\n');
}

/**
 * A free TCP port on loopback. Below the range from which the kernel takes the ports of outgoing
 * connections: one of those could take a port between this look and the program that is to have it,
 * or while a program is away that comes back to its port.
 */
export async function freePort() {
  for (let tries = 0; tries < 100; tries += 1) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const free = await new Promise((resolve) => {
      const probe = createServer();
      probe.on('error', () => resolve(false));
      probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
    });
    if (free) return port;
  }
  throw new Error('no free port between 20000 and 32000');
}
