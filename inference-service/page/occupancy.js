// Sets how many people are beyond a line, after asking.

import { byId, setHidden, setText } from './dom.js';

const DEADLINE_MS = 5000;
const MOST = 1_000_000;

export class Occupancy {
	#client;
	#dialog = byId('occupancy');
	#asked = null;
	#done;

	// `done()` when it is set.
	constructor(client, { done }) {
		this.#client = client;
		this.#done = done;
		byId('occupancy-cancel').addEventListener('click', () => this.#dialog.close());
		byId('occupancy-set').addEventListener('click', () => this.#set());
		byId('occupancy-people').addEventListener('keydown', (event) => event.key === 'Enter' && this.#set());
	}

	ask(camera_id, crossing) {
		this.#asked = { camera_id, name: crossing.name };
		setText(byId('occupancy-words'), `How many people are beyond “${crossing.name}” of ${camera_id} now? It says ${crossing.occupancy}.`);
		byId('occupancy-people').value = '0';
		this.#complain('');
		this.#dialog.showModal();
		byId('occupancy-people').select();
	}

	async #set() {
		const button = byId('occupancy-set');
		const people = byId('occupancy-people').valueAsNumber;
		if (button.disabled) return;
		if (!Number.isInteger(people) || Math.abs(people) > MOST) {
			this.#complain('Use a whole number.');
			return;
		}
		const asked = this.#asked;
		button.disabled = true;
		try {
			await this.#client.unary('ResetOccupancy', { ...asked, occupancy: people }, { deadline_ms: DEADLINE_MS });
			if (this.#asked === asked) this.#dialog.close();
			setText(byId('spoken'), `${asked.name} is set to ${people}.`);
			this.#done();
		} catch (error) {
			this.#complain(`Not set: ${error.message}`);
		} finally {
			button.disabled = false;
		}
	}

	#complain(words) {
		setText(byId('occupancy-error'), words);
		setHidden(byId('occupancy-error'), words === '');
	}
}
