// Each deliberate difference between the npm package laravel-echo-server 1.6.3 and this server that the
// side-by-side tests see, with its reason. A difference that is not here fails them; docs/upgrading.md has the same list.
export const DIFFERENCES = {
  'headers of Express': 'this server sends no X-Powered-By, ETag or Content-Security-Policy, and answers no If-None-Match with 304: they said only what the old one was made of',
  'refusals say why': 'beside the old "error" a refusal has a "message", a sentence that says what to do',
  'what is not there': 'a path or method that does not exist is 404 as before, with JSON in place of an HTML page',
  'paths of Pusher': 'paths of Pusher\'s HTTP API that the old server did not have are here, and ask for a signature: 401 without one, where it said 404',
  'bodies that are no event': '400, where the old server crashed',
  'types of an event': '400 with a sentence for names that are no text: nobody could have subscribed to them',
  'the key from elsewhere': 'the key stands in every browser, so it is taken from this machine only; from elsewhere requests are signed, or "httpApiKeyAuth" is "anywhere"',
  'the key from a page': 'a page of any site could send requests to this machine; only those of apiOriginAllow may',
  'signatures': 'a signature that is there is verified, if the app has a secret; the old server ignored it',
  'memory of the process': 'there is no JavaScript heap: heapTotal and heapUsed are what memory the process has beside its files, external and arrayBuffers are 0',
  'order of users': 'users are listed by id, not in the order of joining: so each list of the same users is the same text',
  'socket in data': 'Laravel puts the sender\'s socket id into the event\'s data as well; it is taken out, since whose it is concerns no page',
  'events without a name': 'what has no event name is no event: it is not delivered, where the old server sent null for the name',
  'socketId of members': 'members are told without their socket ids: Echo reads them nowhere, and with the old server whoever had one could listen in on that socket',
};
