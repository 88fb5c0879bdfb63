/**
 * The server that this page came from.
 */

/** An answer as JSON, or an error with the server's sentence. */
export async function ask(path, { query = {}, body } = {}) {
  const parameters = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== '' && value !== undefined));
  const options = { cache: 'no-store', credentials: 'same-origin', signal: AbortSignal.timeout(20_000) };
  if (body) Object.assign(options, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
  const response = await fetch(`api/${path}${parameters.size ? `?${parameters}` : ''}`, options);
  const text = await response.text();
  if (response.ok) return JSON.parse(text);
  let sentence = `${response.status}`;
  try {
    sentence = JSON.parse(text).error ?? sentence;
  } catch {
    // A proxy's own page, most likely.
  }
  throw new Error(sentence);
}

const AGAIN_MS = [500, 1000, 2000, 5000];

/** Reads the feed for ever. `onLine` gets each line, `onState` true while the feed is there. */
export async function follow(onLine, onState) {
  for (let failures = 0; ; failures += 1) {
    try {
      const response = await fetch('api/feed', { cache: 'no-store', credentials: 'same-origin' });
      if (!response.ok) throw new Error(`${response.status}`);
      for await (const line of lines(response.body)) {
        if (line.kind === 'hello') {
          failures = 0;
          onState(true);
        } else if (line.kind !== 'beat') onLine(line);
      }
    } catch {
      // The server restarts, or the machine slept.
    }
    onState(false);
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS[Math.min(failures, AGAIN_MS.length - 1)]));
  }
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split('\n');
      rest = parts.pop();
      for (const part of parts) if (part) yield JSON.parse(part);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
