// The figures at the top: people now, visits, cameras.

import { byId, setText } from './dom.js';
import { Split, sum } from './gender.js';
import { number, UNKNOWN } from './text.js';

export class Glance {
	#now = new Split(byId('people-now'));
	#visits = new Split(byId('people-visits'));

	set cameras(cameras) {
		const counted = cameras.map(({ counts }) => counts).filter(Boolean);
		const instead = cameras.length > 0 && counted.length === 0 ? 'withheld' : UNKNOWN;
		const isLeast = counted.some(({ truncated }) => truncated);
		const show = (split, key) => {
			const known = counted.map((counts) => counts[key]).filter(Boolean);
			split.show(known.length > 0 ? sum(known) : undefined, { instead, isLeast });
		};
		show(this.#now, 'now');
		show(this.#visits, 'visits');
		const live = cameras.filter(({ state }) => state === 'CAMERA_STATE_LIVE').length;
		setText(byId('cameras-live'), `${number(live)} of ${number(cameras.length)}`);
		byId('cameras-live').classList.toggle('bad', live < cameras.length);
	}
}
