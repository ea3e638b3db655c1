// How it looked when an incident began, and when it was over. Asked for when a
// person opens it; given back when it is closed.

import { element, setText } from './dom.js';
import { Picture, plainest } from './picture.js';

const DEADLINE_MS = 4000;
const WIDTH_PX = 320;
const MOMENTS = [
	{ moment: 'INCIDENT_MOMENT_START', words: 'when it began' },
	{ moment: 'INCIDENT_MOMENT_END', words: 'when it was over' },
];

export class IncidentPictures {
	#client;
	#shown = [];
	#call = null;

	// `about()` gives the incident and what its camera is called.
	constructor(client, about) {
		this.#client = client;
		const figures = element('div', { class: 'moments' });
		this.root = element('details', {}, element('summary', {}, 'Pictures'), figures);
		this.root.addEventListener('toggle', () => {
			this.close();
			figures.replaceChildren();
			if (!this.root.open) return;
			this.#call = new AbortController();
			const { signal } = this.#call;
			const { incident, name } = about();
			const isOver = incident.ended_unix_ms !== undefined;
			for (const moment of isOver ? MOMENTS : MOMENTS.slice(0, 1)) {
				figures.append(this.#figure(moment, incident, name, signal));
			}
		});
	}

	close() {
		this.#call?.abort();
		for (const picture of this.#shown.splice(0)) picture.close();
	}

	#figure({ moment, words }, incident, name, signal) {
		const canvas = element('canvas', { role: 'img', 'aria-label': `${name} ${words}` });
		const caption = element('figcaption', { class: 'quiet' }, `${words} …`);
		const picture = new Picture(canvas);
		picture.width_px = WIDTH_PX;
		this.#shown.push(picture);
		this.#ask(incident, moment, signal).then(
			(snapshot) => {
				if (signal.aborted) return;
				picture.show(snapshot);
				setText(caption, words);
			},
			(error) => {
				const why = error.code === 'NOT_FOUND' ? 'no picture is kept' : error.message;
				setText(caption, `${words}: ${why}`);
			},
		);
		return element('figure', {}, canvas, caption);
	}

	#ask({ camera_id, incident_id }, moment, signal) {
		return plainest(async ({ style }) => {
			const request = { camera_id, incident_id, moment, style, max_width_px: WIDTH_PX };
			const { snapshot } = await this.#client.unary('GetSnapshot', request, { deadline_ms: DEADLINE_MS, signal });
			return snapshot;
		});
	}
}
