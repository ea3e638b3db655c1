// The token that the server may want: asked for once, and kept for as long as
// this tab is open.

import { ask, isAsking } from './question.js';

const KEY = 'token';

export const keptToken = () => sessionStorage.getItem(KEY);

// A call failed; `done()` when there is another token.
export function askToken(client, { code, message }, done) {
	if (code !== 'UNAUTHENTICATED' || isAsking()) return;
	ask({ title: 'A token is needed', words: message, label: 'Token', yes: 'Use', type: 'password' }, (field) => {
		client.token = field.value.trim();
		sessionStorage.setItem(KEY, client.token);
		done();
	});
}
