// The cameras as tiles, and the one stream of pictures that feeds them. Asks
// for the plainest pictures that the privacy mode allows.

import { byId, setHidden, setText } from './dom.js';
import { STYLES } from './picture.js';
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
		const ids = new Set(shown.map((camera) => camera.camera_id));
		for (const [id, tile] of this.#tiles) if (!ids.has(id)) this.#remove(id, tile);
		let before = byId('tiles').firstElementChild;
		for (const camera of shown) {
			const tile = this.#tiles.get(camera.camera_id) ?? this.#add(camera);
			if (tile.root === before) before = before.nextElementSibling;
			else byId('tiles').insertBefore(tile.root, before);
			tile.show(camera);
		}
		setHidden(byId('no-cameras'), cameras.length > 0);
		const left = cameras.length - shown.length;
		setHidden(byId('more-cameras'), left <= 0);
		if (left > 0) setText(byId('more-cameras'), `${left} more cameras are not shown.`);
	}

	// Watches pictures until the stream ends; `heard()` at each message.
	async watch(signal, heard) {
		let denied;
		for (const { style, max_width_px } of STYLES) {
			try {
				const request = { style, max_width_px, max_fps: PICTURES_FPS };
				for await (const { snapshot } of this.#client.stream('WatchSnapshots', request, { quiet_ms: QUIET_MS, signal })) {
					heard();
					if (!snapshot) continue;
					this.#say('');
					this.#tiles.get(snapshot.camera_id)?.see(snapshot);
				}
				return;
			} catch (error) {
				if (error.code !== 'PERMISSION_DENIED') throw error;
				denied = error;
			}
		}
		throw denied;
	}

	// Why there are no pictures for now.
	failed(error) {
		if (error.code === 'PERMISSION_DENIED') this.#say('Pictures are not shown (privacy.mode)');
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

	#add(camera) {
		const tile = new Tile({ reset: (crossing) => this.#reset(camera.camera_id, crossing) });
		this.#tiles.set(camera.camera_id, tile);
		this.#byElement.set(tile.root, tile);
		this.#onScreen.observe(tile.root);
		this.#widths.observe(tile.canvasHost);
		tile.noPicture = this.#noPicture;
		return tile;
	}

	#remove(id, tile) {
		this.#onScreen.unobserve(tile.root);
		this.#widths.unobserve(tile.canvasHost);
		this.#byElement.delete(tile.root);
		this.#tiles.delete(id);
		tile.close();
	}
}
