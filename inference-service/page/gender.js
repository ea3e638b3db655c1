// Apparent gender in the page: its order, colours and marks, the same
// everywhere. Each has a letter too, for those who cannot tell the colours.

import { element, setText } from './dom.js';
import { number, UNKNOWN } from './text.js';

// The colours are those of the server's own annotated pictures.
export const GENDERS = [
	{ key: 'female', mark: 'F', colour: 'rgb(240 160 40)' },
	{ key: 'male', mark: 'M', colour: 'rgb(60 160 240)' },
	{ key: 'unknown', mark: '?', colour: 'rgb(230 230 230)' },
];

// As a text: "3: 2 female, 1 male".
export function inWords(counts) {
	const parts = GENDERS.filter(({ key }) => counts[key] > 0).map(({ key }) => `${number(counts[key])} ${key}`);
	return parts.length ? `${number(counts.faces)}: ${parts.join(', ')}` : number(counts.faces);
}

export function sum(all) {
	const total = { faces: 0, female: 0, male: 0, unknown: 0 };
	for (const counts of all) for (const key of Object.keys(total)) total[key] += counts[key];
	return total;
}

// A number of people and how it splits.
export class Split {
	#total = element('b');
	#words = element('span', { class: 'for-readers' });
	#marks;

	constructor(root) {
		this.#marks = GENDERS.map(({ key, mark }) => ({
			key,
			root: element('span', { class: `mark ${key}`, hidden: true }, element('i', {}, mark), ' ', element('span')),
		}));
		const seen = element('span', { class: 'split', 'aria-hidden': 'true' }, this.#total);
		seen.append(...this.#marks.map((mark) => mark.root));
		root.replaceChildren(seen, this.#words);
	}

	// `instead`: what to say where there are no counts; `isLeast`: there may be
	// more.
	show(counts, { instead = UNKNOWN, isLeast = false } = {}) {
		setText(this.#total, counts ? `${number(counts.faces)}${isLeast ? '+' : ''}` : instead);
		this.#total.classList.toggle('is-text', !counts);
		const words = counts ? inWords(counts) : instead === UNKNOWN ? 'not known' : instead;
		setText(this.#words, isLeast ? `at least ${words}` : words);
		for (const { key, root } of this.#marks) {
			root.hidden = !(counts?.[key] > 0);
			setText(root.lastChild, counts ? number(counts[key]) : '');
		}
	}
}
