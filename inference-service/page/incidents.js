// Incidents: those that are open first, then the latest that are over. New ones
// are told to screen readers.

import { byId, element, Rows, setHidden, setText } from './dom.js';
import { IncidentPictures } from './incident_pictures.js';
import { duration, moment, several, UNKNOWN, word } from './text.js';

const DEADLINE_MS = 4000;
// More than the server keeps.
const MAX_ASKED = 1000;
const MAX_SHOWN = 100;

const keyOf = ({ camera_id, kind, started_unix_ms, incident_id, replica }) =>
	`${incident_id} ${kind} ${started_unix_ms} ${camera_id} ${replica}`;
const isOpen = (incident) => incident.ended_unix_ms === undefined;
const lastMoment = (incident) => Number(incident.ended_unix_ms ?? incident.started_unix_ms);
const kindOf = (incident) => word(incident.kind, 'INCIDENT_KIND_');

export class Incidents {
	#client;
	#rows = new Rows(byId('incident-rows'), () => this.#row());
	#names = new Map();
	#known = null;
	#shown = [];

	constructor(client) {
		this.#client = client;
	}

	// What the cameras are called.
	set cameras(cameras) {
		this.#names = new Map(cameras.map(({ camera_id, display_name }) => [camera_id, display_name || camera_id]));
	}

	async ask(signal, heard) {
		const all = [];
		const request = { only_known: true };
		for await (const { incident } of this.#client.stream('WatchIncidents', request, { deadline_ms: DEADLINE_MS, signal })) {
			if (incident) all.push(incident);
			if (all.length >= MAX_ASKED) break;
		}
		heard();
		// Open ones first, the newest at the top.
		all.sort((one, other) => isOpen(other) - isOpen(one) || lastMoment(other) - lastMoment(one));
		this.#shown = all.slice(0, MAX_SHOWN);
		const open = all.filter(isOpen);
		this.#tell(open);
		this.#rows.show(this.#shown, keyOf);
		setHidden(byId('no-incidents'), all.length > 0);
		setHidden(byId('incident-rows'), all.length === 0);
		setText(byId('open-incidents'), String(open.length));
		byId('open-incidents').classList.toggle('bad', open.length > 0);
		setText(byId('incident-count'), open.length > 0 ? String(open.length) : '');
		setHidden(byId('incident-count'), open.length === 0);
	}

	// Time goes on for those that are open.
	tick() {
		if (this.#shown.some(isOpen)) this.#rows.show(this.#shown, keyOf);
	}

	// Those that are new since the last answer; at first, how many there are.
	#tell(open) {
		const before = this.#known;
		this.#known = new Set(open.map(keyOf));
		const fresh = before ? open.filter((incident) => !before.has(keyOf(incident))) : open;
		if (fresh.length === 0) return;
		const words = fresh.slice(0, 3).map((incident) => `${kindOf(incident)}: ${this.#nameOf(incident)}`);
		setText(byId('spoken'), `${several(fresh.length, before ? 'new incident' : 'open incident')}. ${words.join('. ')}`);
	}

	#nameOf({ camera_id, replica }) {
		return camera_id ? (this.#names.get(camera_id) ?? camera_id) : `the server ${replica}`.trim();
	}

	#row() {
		const [what, where, detail, span, length] = ['b', 'span', 'span', 'span', 'span'].map((tag) => element(tag));
		detail.className = span.className = 'quiet';
		const root = element('li', {}, what, where, length, detail, span);
		let shown, pictures;
		return {
			root,
			close: () => pictures?.close(),
			show: (incident) => {
				shown = incident;
				if (!pictures && incident.camera_id && !incident.replica) {
					pictures = new IncidentPictures(this.#client, () => ({ incident: shown, name: this.#nameOf(shown) }));
					root.append(pictures.root);
				}
				const now_ms = this.#client.now();
				root.classList.toggle('open', isOpen(incident));
				setText(what, kindOf(incident));
				setText(where, this.#nameOf(incident));
				setText(detail, incident.detail || UNKNOWN);
				const end = isOpen(incident) ? 'still open' : moment(incident.ended_unix_ms, now_ms);
				setText(span, `${moment(incident.started_unix_ms, now_ms)} – ${end}`);
				setText(length, duration((incident.ended_unix_ms ?? now_ms) - incident.started_unix_ms));
			},
		};
	}
}
