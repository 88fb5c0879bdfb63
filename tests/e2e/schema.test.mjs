// The JSON Schema by which editors complete and check laravel-echo-server.json, with the validator that
// many of them have: what the server takes is right, what it refuses or does not know is marked.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import Ajv from 'ajv';
import { promise } from './lib/suite.mjs';

const root = new URL('../../', import.meta.url);
const read = (path) => readFileSync(new URL(path, root), 'utf8').replace(/^\uFEFF/, '');
const validate = new Ajv({ allErrors: true, strict: true, strictTypes: false, allowUnionTypes: true }).compile(JSON.parse(read('schema/laravel-echo-server.schema.json')));

/** Files that the schema marks, and where; the server says the same of them at its start. */
const WRONG = {
  'clients-as-object': ['/clients'],
  misspelt: ['auth_host', 'sslCertChain'],
};

function complaints(text) {
  if (validate(JSON.parse(text))) return [];
  return validate.errors.map(({ instancePath, params }) => `${instancePath} ${params.additionalProperty ?? ''}`);
}

promise('configurations of old users are right, and what the server does not know is marked', () => {
  let valid = 0;
  for (const name of readdirSync(new URL('tests/configurations/', root)).filter((name) => name.endsWith('.json'))) {
    const text = read(`tests/configurations/${name}`);
    let parsed = true;
    try { JSON.parse(text); } catch { parsed = false; }
    if (!parsed) continue;
    const found = complaints(text);
    const wanted = WRONG[name.replace('.json', '')] ?? [];
    for (const place of wanted) assert.ok(found.some((one) => one.includes(place)), `${name}: ${place} is not marked: ${found}`);
    if (wanted.length === 0) {
      assert.deepEqual(found, [], name);
      valid += 1;
    }
  }
  assert.ok(valid > 20, `only ${valid} are right`);
});

promise('the configurations that are shown and shipped are right', () => {
  assert.deepEqual(complaints(read('laravel-echo-server.json')), []);
  assert.deepEqual(complaints(read('packaging/laravel-echo-server.json')), []);
  let blocks = 0;
  for (const name of readdirSync(new URL('docs/', root)).filter((name) => name.endsWith('.md'))) {
    for (const [, block] of read(`docs/${name}`).matchAll(/^```json\n([\s\S]*?)^```/gm)) {
      const whole = block.trim().startsWith('{') ? block : `{${block.trim().replace(/,$/, '')}}`;
      assert.deepEqual(complaints(whole), [], `docs/${name}: ${block}`);
      blocks += 1;
    }
  }
  assert.ok(blocks > 4, `only ${blocks} blocks`);
});

promise('values of a wrong kind are marked', () => {
  for (const [wrong, place] of [
    ['{"port": "abc"}', '/port'],
    ['{"protocol": "ftp"}', '/protocol'],
    ['{"clients": [{"appId": "a"}]}', '/clients/0'],
    ['{"databaseConfig": {"redis": {"db": "x"}}}', '/databaseConfig/redis'],
    ['{"limits": {"messageBytes": true}}', '/limits/messageBytes'],
    ['{"clients": [{"appId": "a", "key": "k", "limits": {"messageBytes": 5}}]}', '/clients/0/limits'],
    ['{"devMode": 1}', '/devMode'],
    ['{"httpApiKeyAuth": "yes"}', '/httpApiKeyAuth'],
  ]) assert.ok(complaints(wrong).some((one) => one.startsWith(place)), `${wrong}: ${complaints(wrong)}`);
  assert.deepEqual(complaints('{"$schema": "x", "_comment": 1, "devMode": "true"}'), []);
});
