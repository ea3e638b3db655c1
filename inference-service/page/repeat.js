// Repeats one call for as long as it is wanted: at a steady pace while it
// succeeds, with growing, randomised pauses while it fails, never two at once.

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8000;

// The pause after so many failures in a row: doubled each time up to a limit,
// and half of it by chance, so that many pages do not come back together.
export function pause_ms(failures, random = Math.random) {
	const full = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (failures - 1));
	return full / 2 + (full / 2) * random();
}

export class Repeat {
	#run;
	#every_ms;
	#failed;
	#stopper = null;
	#wake = null;
	// When the last call that succeeded began, by performance.now().
	#last_ms = -Infinity;

	// `run(signal, succeeds)` makes one call; a long one calls `succeeds()` when
	// it does. `failed(error)` hears of every failure but the end by `stop`.
	constructor({ run, every_ms, failed }) {
		this.#run = run;
		this.#every_ms = every_ms;
		this.#failed = failed;
	}

	start() {
		if (this.#stopper) return;
		this.#stopper = new AbortController();
		this.#loop(this.#stopper.signal);
	}

	// The call in flight is given up.
	stop() {
		this.#stopper?.abort();
		this.#stopper = null;
		this.#wake?.();
	}

	// The next call is made at once, unless one is in flight.
	hurry() {
		this.#wake?.();
	}

	set every_ms(value) {
		if (value < this.#every_ms) this.hurry();
		this.#every_ms = value;
	}

	async #loop(signal) {
		let failures = 0;
		const succeeds = () => {
			failures = 0;
		};
		// Who stops and starts again does not ask more often.
		await this.#rest(this.#left_ms());
		while (!signal.aborted) {
			const started_ms = performance.now();
			try {
				await this.#run(signal, succeeds);
				failures = 0;
				this.#last_ms = started_ms;
			} catch (error) {
				if (signal.aborted) return;
				failures += 1;
				this.#failed(error);
			}
			if (signal.aborted) return;
			await this.#rest(failures > 0 ? pause_ms(failures) : this.#left_ms());
		}
	}

	#left_ms() {
		return this.#last_ms + this.#every_ms - performance.now();
	}

	async #rest(ms) {
		if (ms <= 0) return;
		await new Promise((resolve) => {
			const timer = setTimeout(resolve, ms);
			this.#wake = () => {
				clearTimeout(timer);
				resolve();
			};
		});
	}
}
