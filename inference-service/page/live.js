// The cameras as tiles, and the one stream of pictures that feeds them. Asks
// for the plainest pictures that the privacy mode allows.

import { byId, Rows, setHidden, setText } from './dom.js';
import { plainest } from './picture.js';
import { Tile } from './tile.js';

// More cameras than this are not drawn.
const MAX_TILES = 256;
const PICTURES_FPS = 2;
// The server sends something every 5 s, picture or not.
const QUIET_MS = 12_000;

export class Live {
	#client;
	#reset;
	#tiles = new Map();
	#rows = new Rows(byId('tiles'), (camera) => this.#add(camera));
	#byElement = new Map();
	#noPicture = '';
	#onScreen = new IntersectionObserver((entries) => {
		for (const { target, isIntersecting } of entries) {
			const tile = this.#byElement.get(target);
			if (tile) tile.isOnScreen = isIntersecting;
		}
	});
	#widths = new ResizeObserver((entries) => {
		for (const { target, contentRect } of entries) {
			const tile = this.#byElement.get(target.closest('.tile'));
			if (tile && contentRect.width > 0) tile.width_px = contentRect.width;
		}
	});

	// `reset(camera, crossing)` asks for the occupancy of a line.
	constructor(client, { reset }) {
		this.#client = client;
		this.#reset = reset;
	}

	// The cameras there are.
	show(cameras) {
		const shown = cameras.slice(0, MAX_TILES);
		this.#rows.show(shown, (camera) => camera.camera_id);
		setHidden(byId('no-cameras'), cameras.length > 0);
		const left = cameras.length - shown.length;
		setHidden(byId('more-cameras'), left <= 0);
		if (left > 0) setText(byId('more-cameras'), `${left} more cameras are not shown.`);
	}

	// Watches pictures until the stream ends; `heard()` at each message.
	async watch(signal, heard) {
		await plainest(async ({ style, max_width_px }) => {
			const request = { style, max_width_px, max_fps: PICTURES_FPS };
			for await (const { snapshot } of this.#client.stream('WatchSnapshots', request, { quiet_ms: QUIET_MS, signal })) {
				heard();
				if (!snapshot) continue;
				this.#say('');
				this.#tiles.get(snapshot.camera_id)?.see(snapshot);
			}
		});
	}

	// Why there are no pictures for now.
	failed(error) {
		if (error.code === 'PERMISSION_DENIED') this.#say(`Pictures are not shown: ${error.message}`);
		if (error.code === 'RESOURCE_EXHAUSTED') this.#say('Too many viewers: no pictures for now');
	}

	tick() {
		for (const tile of this.#tiles.values()) tile.tick();
	}

	#say(why) {
		if (why === this.#noPicture) return;
		this.#noPicture = why;
		for (const tile of this.#tiles.values()) tile.noPicture = why;
	}

	#add({ camera_id }) {
		const tile = new Tile({ reset: (crossing) => this.#reset(camera_id, crossing) });
		this.#tiles.set(camera_id, tile);
		this.#byElement.set(tile.root, tile);
		this.#onScreen.observe(tile.root);
		this.#widths.observe(tile.canvasHost);
		tile.noPicture = this.#noPicture;
		const close = () => {
			this.#onScreen.unobserve(tile.root);
			this.#widths.unobserve(tile.canvasHost);
			this.#byElement.delete(tile.root);
			this.#tiles.delete(camera_id);
			tile.close();
		};
		return { root: tile.root, show: (camera) => tile.show(camera), close };
	}
}
