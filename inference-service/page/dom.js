// Elements of the page. Never writes markup from text: what a camera is called
// stays text.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
	for (const [name, value] of Object.entries(attributes)) {
		if (value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : value);
	}
	node.append(...children);
	return node;
}

export const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
	fill(document.createElementNS(SVG, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

// A copy of a template's only element, and its parts by `data-part`.
export function copy(template) {
	const root = byId(template).content.firstElementChild.cloneNode(true);
	const parts = {};
	for (const part of root.querySelectorAll('[data-part]')) parts[part.dataset.part] = part;
	return { root, parts };
}

// Changes nothing when nothing changes, and keeps the text's node.
export function setText(node, text) {
	const only = node.firstChild;
	if (only?.nodeType === Node.TEXT_NODE && only === node.lastChild) {
		if (only.data !== text) only.data = text;
	} else {
		node.textContent = text;
	}
}

export function setLabel(node, words) {
	if (node.ariaLabel !== words) node.ariaLabel = words;
}

export function setHidden(node, isHidden) {
	if (node.hidden !== isHidden) node.hidden = isHidden;
}

// Rows that follow `items`: made, changed and removed by key, so that focus and
// selection stay.
export class Rows {
	#body;
	#make;
	#rows = new Map();

	// `make()` gives { root, show(item) }, and close() where a row holds
	// something.
	constructor(body, make) {
		this.#body = body;
		this.#make = make;
	}

	show(items, keyOf) {
		const keys = new Set(items.map(keyOf));
		for (const [key, row] of this.#rows) {
			if (keys.has(key)) continue;
			row.close?.();
			row.root.remove();
			this.#rows.delete(key);
		}
		let before = this.#body.firstElementChild;
		for (const item of items) {
			const key = keyOf(item);
			let row = this.#rows.get(key);
			if (!row) {
				row = this.#make(item);
				this.#rows.set(key, row);
			}
			if (row.root === before) before = before.nextElementSibling;
			else this.#body.insertBefore(row.root, before);
			row.show(item);
		}
	}
}
