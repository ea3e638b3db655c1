// Whether the server is heard: connecting, connected, or reconnecting with the
// time since the last data. A change is told to screen readers, the time is not.

import { byId, setText } from './dom.js';
import { ago } from './text.js';

// Failures that mean that the server cannot be reached; others are its answer.
const AWAY = new Set(['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'UNKNOWN']);

export class Link {
	#failing = new Map();
	#heard = undefined;

	// Data of one kind came.
	heard(kind) {
		this.#heard = performance.now();
		this.#failing.delete(kind);
		this.tick();
	}

	failed(kind, error) {
		// An error of this page is none of the server's.
		if (error.code === undefined && error.name !== 'WireError') console.error(error);
		if (error.code === undefined || AWAY.has(error.code)) this.#failing.set(kind, error.message);
		else this.#failing.delete(kind);
		this.tick();
	}

	// What is no longer asked for cannot fail.
	forget(kind) {
		this.#failing.delete(kind);
	}

	tick() {
		const isAway = this.#failing.size > 0;
		const state = isAway ? 'reconnecting' : this.#heard === undefined ? 'connecting' : 'connected';
		if (document.body.dataset.link !== state) {
			document.body.dataset.link = state;
			setText(byId('link-state'), state[0].toUpperCase() + state.slice(1));
		}
		const age = this.#heard === undefined ? '' : `, last data ${ago(performance.now() - this.#heard)}`;
		setText(byId('link-age'), isAway ? age : '');
		const why = [...new Set(this.#failing.values())].join('; ');
		if (byId('link-state').title !== why) byId('link-state').title = why;
	}
}
