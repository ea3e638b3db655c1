// Charts as SVG: columns of people by apparent gender over time, and lines.
// Time that was not watched is hatched, never drawn as nobody. Knows no server;
// redraws only for new data or another width.

import { element, setText, svg } from './dom.js';
import { GENDERS } from './gender.js';

const LEFT_PX = 36;
const RIGHT_PX = 4;
const TOP_PX = 8;
const BOTTOM_PX = 20;
const TICK_PX = 44;
// Less lost than this is not drawn: seconds at the edges.
const LEAST_LOST = 0.02;

// A round number of at least `value`: 1, 2 or 5 times a power of ten.
function round(value) {
	const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
	return power * [1, 2, 5, 10].find((step) => step * power >= value * (1 - 1e-9));
}

// What both charts share: a picture that is drawn anew at another width.
class Chart {
	#draw;
	#width_px = 0;

	constructor(host, height_px, label, draw) {
		this.height_px = height_px;
		this.root = svg('svg', { class: 'chart', height: height_px, role: 'img', 'aria-label': label });
		host.prepend(this.root);
		this.#draw = draw;
		new ResizeObserver(([{ contentRect }]) => {
			if (contentRect.width === this.#width_px || contentRect.width === 0) return;
			this.#width_px = contentRect.width;
			this.redraw();
		}).observe(host);
	}

	redraw() {
		if (this.#width_px === 0) return;
		this.root.replaceChildren();
		this.root.setAttribute('viewBox', `0 0 ${this.#width_px} ${this.height_px}`);
		this.#draw({
			left: LEFT_PX,
			right: this.#width_px - RIGHT_PX,
			top: TOP_PX,
			bottom: this.height_px - BOTTOM_PX,
			width: this.#width_px - LEFT_PX - RIGHT_PX,
			height: this.height_px - TOP_PX - BOTTOM_PX,
		});
	}

	add(shape, attributes, ...children) {
		this.root.append(svg(shape, attributes, ...children));
	}

	text(x, y, anchor, words) {
		this.add('text', { x, y, 'text-anchor': anchor }, words);
	}

	// A level line with its number at the left.
	level(area, y, words, name = 'level') {
		this.add('line', { class: name, x1: area.left, x2: area.right, y1: y, y2: y });
		this.text(area.left - 6, y + 3.5, 'end', words);
	}

	// The marks of time below; as many as there is room for. `at` gives the x.
	times(area, ticks, at) {
		const every = Math.ceil((ticks.length * TICK_PX) / area.width) || 1;
		ticks.forEach(({ time, words }, index) => {
			if (index % every !== 0) return;
			const x = at(time);
			if (x < area.left || x > area.right - 14) return;
			this.add('line', { class: 'tick', x1: x, x2: x, y1: area.bottom, y2: area.bottom + 4 });
			this.text(x, area.bottom + 15, 'middle', words);
		});
	}
}

let charts = 0;

export class ColumnChart {
	#chart;
	#data = null;
	#hatch = `hatch-${(charts += 1)}`;
	#describe;
	#summary = element('p', { class: 'summary' });

	// `describe(bucket)` tells of one column.
	constructor(host, { height_px, label, describe }) {
		this.#chart = new Chart(host, height_px, label, (area) => this.#data && this.#draw(area));
		this.#chart.root.after(this.#summary);
		this.#describe = describe;
	}

	// { from, to, bucket_s, ticks, summary, buckets: [{ start, counts, isWithheld,
	// lost }] }, times in seconds; `lost` is the share that was not watched.
	show(data) {
		this.#data = data;
		setText(this.#summary, data.summary);
		this.#chart.redraw();
	}

	#draw(area) {
		const { from, to, bucket_s, buckets, ticks } = this.#data;
		const at = (time) => area.left + ((time - from) / (to - from)) * area.width;
		const most = Math.max(4, round(Math.max(0, ...buckets.map(({ counts }) => counts?.faces ?? 0))));
		const high = (people) => (people / most) * area.height;
		const chart = this.#chart;
		chart.root.append(hatching(this.#hatch));
		const step = Math.max(1, round(most / 4));
		for (let people = 0; people <= most; people += step) chart.level(area, area.bottom - high(people), `${people}`);
		const width = Math.max(1, (bucket_s / (to - from)) * area.width - 1);
		for (const bucket of buckets) {
			const { start, counts, isWithheld, lost } = bucket;
			const x = at(start) + 0.5;
			if (lost > LEAST_LOST) {
				const height = lost * area.height;
				chart.add('rect', { class: 'lost', x, y: area.top, width, height, fill: `url(#${this.#hatch})` });
			}
			if (isWithheld) {
				chart.add('rect', { class: 'withheld', x, y: area.bottom - 5, width, height: 5 });
			}
			let y = area.bottom;
			for (const { key } of GENDERS) {
				const height = high(counts?.[key] ?? 0);
				y -= height;
				if (height > 0) chart.add('rect', { class: key, x, y, width, height: Math.max(0.5, height - 0.5) });
			}
			// The whole column tells what it is to whoever points at it.
			const words = svg('title', {}, this.#describe(bucket));
			chart.add('rect', { class: 'column', x, y: area.top, width: width + 1, height: area.height }, words);
		}
		chart.times(area, ticks, at);
	}
}

function hatching(id) {
	const stripes = svg('path', { class: 'stripe', d: 'M-1 7 7 -1 M-1 1 1 -1 M5 7 7 5' });
	return svg('defs', {}, svg('pattern', { id, width: 6, height: 6, patternUnits: 'userSpaceOnUse' }, stripes));
}

export class LineChart {
	#chart;
	#data = null;

	constructor(host, { height_px, label }) {
		this.#chart = new Chart(host, height_px, label, (area) => this.#data && this.#draw(area));
	}

	// { points: [{ time, value }], bound: { value, words }, words(value), ticks },
	// times in seconds.
	show(data) {
		this.#data = data;
		this.#chart.redraw();
	}

	#draw(area) {
		const { points, bound, words, ticks } = this.#data;
		const most = Math.max(1, bound.value, ...points.map(({ value }) => value)) * 1.08;
		const to = Math.max(1, ...points.map(({ time }) => time));
		const at = (time) => area.left + (time / to) * area.width;
		const high = (value) => area.bottom - (value / most) * area.height;
		const chart = this.#chart;
		for (const share of [0, 0.5]) chart.level(area, high(bound.value * share), words(bound.value * share));
		chart.level(area, high(bound.value), words(bound.value), 'bound');
		chart.text(area.right, high(bound.value) + 14, 'end', bound.words);
		const line = points.map(({ time, value }) => `${at(time).toFixed(1)} ${high(value).toFixed(1)}`).join(' L');
		if (points.length > 0) {
			const [first, last] = [at(points[0].time).toFixed(1), at(points.at(-1).time).toFixed(1)];
			chart.add('path', { class: 'under', d: `M${first} ${area.bottom} L${line} L${last} ${area.bottom}Z` });
			chart.add('path', { class: 'line', d: `M${line}` });
		}
		chart.times(area, ticks, at);
	}
}

// A table that tells the same as a chart, made only when it is opened.
export class Alternative {
	#details;
	#body = element('tbody');
	#rows = () => [];

	constructor(host, caption, columns) {
		const head = element('tr', {}, ...columns.map((column) => element('th', { scope: 'col' }, column)));
		const table = element('table', {}, element('thead', {}, head), this.#body);
		const scroll = element('div', { class: 'scroll tall', tabindex: '0', role: 'region', 'aria-label': caption }, table);
		this.#details = element('details', {}, element('summary', {}, 'As a table'), scroll);
		this.#details.addEventListener('toggle', () => this.#fill());
		host.append(this.#details);
	}

	// `rows()` gives the cells of each row.
	show(rows) {
		this.#rows = rows;
		this.#fill();
	}

	#fill() {
		const rows = this.#details.open ? this.#rows() : [];
		const cell = (words, index) => element(index ? 'td' : 'th', index ? {} : { scope: 'row' }, words);
		this.#body.replaceChildren(...rows.map((cells) => element('tr', {}, ...cells.map(cell))));
	}
}
