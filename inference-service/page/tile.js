// One camera: its picture, how old it is, who is there, and its lines and
// zones. Paints only while it can be seen.

import { copy, element, Rows, setHidden, setLabel, setText } from './dom.js';
import { Split } from './gender.js';
import { facesInWords, Picture } from './picture.js';
import { ago, number, several, word } from './text.js';

// A picture is stale after so long, or after so many periods of its camera.
const STALE_MS = 3000;
const STALE_PERIODS = 4;

export class Tile {
	#parts;
	#picture;
	#now;
	#visits;
	#crossings;
	#info = null;
	#snapshot = null;
	#isOnScreen = false;
	// By performance.now().
	#captured = undefined;

	// `reset(crossing)` asks for the occupancy of a line.
	constructor({ reset }) {
		const { root, parts } = copy('tile');
		this.root = root;
		this.#parts = parts;
		this.#picture = new Picture(parts.canvas);
		this.#now = new Split(parts.now);
		this.#visits = new Split(parts.visits);
		this.#crossings = new Rows(parts.crossings, () => crossingRow(reset));
		parts.enlarge.addEventListener('click', () => {
			const isLarge = root.classList.toggle('large');
			parts.enlarge.setAttribute('aria-pressed', String(isLarge));
		});
	}

	// What the server knows of the camera.
	show(info) {
		this.#info = info;
		setText(this.#parts.name, this.#name);
		setLabel(this.#parts.enlarge, `Enlarge ${this.#name}`);
		this.#describe();
		const state = word(info.state, 'CAMERA_STATE_');
		const isLive = state === 'live';
		this.root.dataset.state = state;
		setText(this.#parts.state, state);
		// The green dot says it to those who see it.
		this.#parts.state.classList.toggle('for-readers', isLive);
		setText(this.#parts.rate, isLive ? rate(info.analyzed_fps) : '');
		if (!this.#snapshot && info.last_frame_age_ms !== undefined) {
			this.#captured = performance.now() - Number(info.last_frame_age_ms);
		}
		this.#showCounts(info.counts);
	}

	get #name() {
		return this.#info.display_name || this.#info.camera_id;
	}

	// A new picture.
	see(snapshot) {
		this.#captured = performance.now() - Number(snapshot.age_ms);
		this.#snapshot = snapshot;
		if (snapshot.result && !snapshot.result.faces_withheld) this.#showCounts(snapshot.result.counts);
		if (this.#isOnScreen) this.#picture.show(snapshot);
		this.#describe();
		this.tick();
	}

	// What is drawn, in words; a reader hears it on asking.
	#describe() {
		const faces = this.#snapshot?.result?.faces;
		const seen = faces ? `, ${several(faces.length, 'face')} ${facesInWords(faces)}` : '';
		setLabel(this.#parts.canvas, `Picture of ${this.#name}${seen}`.trim());
	}

	// Pictures are not to be had: `why` is for a person; empty when they are.
	set noPicture(why) {
		this.root.classList.toggle('blind', why !== '');
		if (why !== '') this.#snapshot = null;
		this.#parts.why.dataset.blind = why;
	}

	set isOnScreen(value) {
		const appears = value && !this.#isOnScreen;
		this.#isOnScreen = value;
		if (!value) this.#picture.rest();
		if (appears && this.#snapshot) this.#picture.show(this.#snapshot);
		if (appears) this.tick();
	}

	set width_px(value) {
		this.#picture.width_px = value;
	}

	get canvasHost() {
		return this.#parts.picture;
	}

	// The age goes on.
	tick() {
		if (!this.#isOnScreen) return;
		const age_ms = this.#captured === undefined ? undefined : Math.max(0, performance.now() - this.#captured);
		setText(this.#parts.age, age_ms === undefined ? 'no picture yet' : ago(age_ms));
		const period_ms = this.#info.analyzed_fps > 0 ? 1000 / this.#info.analyzed_fps : 0;
		const isLive = this.#info.state === 'CAMERA_STATE_LIVE';
		const isFresh = isLive && age_ms !== undefined && age_ms < Math.max(STALE_MS, STALE_PERIODS * period_ms);
		this.root.classList.toggle('stale', !isFresh);
		setText(this.#parts.why, this.#reason(isLive, isFresh));
		setHidden(this.#parts.why, this.#parts.why.textContent === '');
	}

	#reason(isLive, isFresh) {
		if (!isLive) {
			const state = word(this.#info.state, 'CAMERA_STATE_');
			return this.#info.detail ? `${state}: ${this.#info.detail}` : state;
		}
		if (this.#parts.why.dataset.blind) return this.#parts.why.dataset.blind;
		if (!isFresh) return this.#captured === undefined ? 'no picture yet' : 'the picture is old';
		return '';
	}

	#showCounts(counts) {
		const instead = { instead: counts ? undefined : 'withheld', isLeast: counts?.truncated };
		this.#now.show(counts?.now, instead);
		this.#visits.show(counts?.visits, instead);
		this.#crossings.show(counts?.crossings ?? [], ({ kind, name }) => `${kind} ${name}`);
		setHidden(this.#parts.crossed, !counts?.crossings.length);
	}

	close() {
		this.#picture.close();
		this.root.remove();
	}
}

const rate = (fps) => `${fps.toFixed(fps < 9.95 ? 1 : 0)} fps`;

function crossingRow(reset) {
	const cells = ['entered', 'left', 'occupancy'].map(() => element('td'));
	const name = element('th', { scope: 'row' });
	const last = element('td');
	const root = element('tr', {}, name, ...cells, last);
	let shown;
	return {
		root,
		show(crossing) {
			if (!shown && crossing.kind === 'CROSSING_KIND_LINE') {
				const button = element('button', { type: 'button', class: 'small', 'aria-label': `Reset ${crossing.name}` }, 'Reset');
				button.addEventListener('click', () => reset(shown));
				last.append(button);
			}
			shown = crossing;
			setText(name, crossing.name);
			name.title = word(crossing.kind, 'CROSSING_KIND_');
			setText(cells[0], number(crossing.entered?.faces));
			setText(cells[1], number(crossing.left?.faces));
			setText(cells[2], number(crossing.occupancy));
		},
	};
}
