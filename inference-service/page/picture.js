// One camera's picture on its canvas, with its faces marked. Decodes one
// picture at a time, the newest; what came meanwhile and is older is dropped.

import { GENDERS } from './gender.js';

const FONT_PX = 12;
const LINE_PX = 2;
// Boxes of faces that are not counted yet are dashed.
const DASH_PX = [5, 4];
// A sharper screen than this is not worth the work.
const MAX_DENSITY = 2;

// Where the server has to draw them anyway, no larger than they are seen.
const DRAWN_WIDTH_PX = 640;
// From the best to none. Plain pictures cost the server nothing.
const STYLES = [
	{ style: 'SNAPSHOT_STYLE_PLAIN', max_width_px: 0 },
	{ style: 'SNAPSHOT_STYLE_BLURRED', max_width_px: DRAWN_WIDTH_PX },
];

// Calls with one style after the other, until one is allowed.
export async function plainest(call) {
	let denied;
	for (const style of STYLES) {
		try {
			return await call(style);
		} catch (error) {
			if (error.code !== 'PERMISSION_DENIED') throw error;
			denied = error;
		}
	}
	throw denied;
}

const gender = (key) => GENDERS.find((gender) => gender.key === key);

// The gender to show: over the whole track where there is one. `undefined`: not
// estimated.
function estimate({ track, ...face }) {
	const best = track && track.gender !== 'GENDER_UNSPECIFIED' ? track : face;
	const female = best.female_probability;
	switch (best.gender) {
		case 'GENDER_FEMALE':
			return { ...gender('female'), probability: female };
		case 'GENDER_MALE':
			return { ...gender('male'), probability: female === undefined ? undefined : 1 - female };
		case 'GENDER_UNKNOWN':
			return gender('unknown');
		default:
			return undefined;
	}
}

// Faces one by one: "female, unknown".
export const facesInWords = (faces) => faces.map((face) => estimate(face)?.key ?? 'not estimated').join(', ');

export class Picture {
	#canvas;
	#context;
	#width_px = 0;
	#bitmap = null;
	#result = null;
	#waiting = null;
	#isDecoding = false;
	#isClosed = false;

	constructor(canvas) {
		this.#canvas = canvas;
		this.#context = canvas.getContext('2d', { alpha: false });
	}

	// The width it is seen at, in CSS pixels.
	set width_px(value) {
		if (value === this.#width_px) return;
		this.#width_px = value;
		this.#paint();
	}

	show(snapshot) {
		this.#waiting = snapshot;
		if (!this.#isDecoding) this.#decode();
	}

	// Not seen for now: the decoded picture is given back.
	rest() {
		this.#waiting = null;
		this.#bitmap?.close();
		this.#bitmap = null;
	}

	close() {
		this.#isClosed = true;
		this.rest();
		// Frees the canvas's memory at once.
		this.#canvas.width = 0;
	}

	async #decode() {
		this.#isDecoding = true;
		while (this.#waiting) {
			const { jpeg, result } = this.#waiting;
			this.#waiting = null;
			// A picture that cannot be decoded is not shown; the last one grows old.
			const bitmap = await createImageBitmap(new Blob([jpeg], { type: 'image/jpeg' })).catch(() => null);
			if (this.#isClosed) bitmap?.close();
			if (!bitmap || this.#isClosed) continue;
			this.#bitmap?.close();
			this.#bitmap = bitmap;
			this.#result = result;
			this.#paint();
		}
		this.#isDecoding = false;
	}

	#paint() {
		if (!this.#bitmap || this.#width_px === 0) return;
		const density = Math.min(devicePixelRatio, MAX_DENSITY);
		const width = Math.round(this.#width_px * density);
		const height = Math.round((width * this.#bitmap.height) / this.#bitmap.width);
		if (this.#canvas.width !== width || this.#canvas.height !== height) {
			this.#canvas.width = width;
			this.#canvas.height = height;
		}
		this.#context.drawImage(this.#bitmap, 0, 0, width, height);
		if (!this.#result?.width_px) return;
		const scale = width / this.#result.width_px;
		for (const face of this.#result.faces) if (face.box) this.#mark(face, scale, density);
	}

	#mark(face, scale, density) {
		const context = this.#context;
		const { box } = face;
		const [x, y] = [box.x_px * scale, box.y_px * scale];
		const [width, height] = [box.width_px * scale, box.height_px * scale];
		const found = estimate(face);
		const colour = found?.colour ?? gender('unknown').colour;
		// A dark line under the coloured one is seen on any ground.
		context.setLineDash([]);
		context.lineWidth = (LINE_PX + 2) * density;
		context.strokeStyle = 'rgb(0 0 0 / 55%)';
		context.strokeRect(x, y, width, height);
		context.lineWidth = LINE_PX * density;
		context.strokeStyle = colour;
		context.setLineDash(face.track?.is_visit === false ? DASH_PX.map((length) => length * density) : []);
		context.strokeRect(x, y, width, height);
		if (!found) return;
		const { mark, probability } = found;
		const label = probability === undefined ? mark : `${mark} ${Math.round(probability * 100)} %`;
		context.font = `600 ${FONT_PX * density}px system-ui, sans-serif`;
		const [wide, high] = [context.measureText(label).width + 8 * density, (FONT_PX + 5) * density];
		// Above the box, or in it where there is no room.
		const left = Math.max(0, Math.min(x - density, this.#canvas.width - wide));
		const top = y - high >= 0 ? y - high : Math.max(0, y);
		context.fillStyle = colour;
		context.fillRect(left, top, wide, high);
		context.fillStyle = 'rgb(16 20 24)';
		context.textBaseline = 'middle';
		context.fillText(label, left + 4 * density, top + high / 2 + density * 0.5);
	}
}
