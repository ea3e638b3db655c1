// text.js: what is not known is never a zero, and units turn over cleanly.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ago, bytes, duration, micros, number, several, word } from '../../inference-service/page/text.js';

const table = (of, cases) => {
	for (const [value, want] of cases) assert.equal(of(value), want, String(value));
};

test('numbers', () => {
	table(number, [[undefined, '–'], [0, '0'], [1234567, '1,234,567'], [2n ** 63n, '9,223,372,036,854,775,808'], [-3, '-3']]);
	table((value) => several(value, 'face'), [[0, '0 faces'], [1, '1 face'], [1n, '1 face'], [2000, '2,000 faces']]);
});

test('bytes', () => {
	table(bytes, [[undefined, '–'], [0, '0 B'], [1023, '1023 B'], [1024, '1.0 KiB'], [52 << 20, '52.0 MiB'], [104752742, '99.9 MiB'], [2 ** 40, '1.0 TiB']]);
});

test('times', () => {
	table(micros, [[undefined, '–'], [0, '0 µs'], [999, '999 µs'], [1000, '1.0 ms'], [9960, '10 ms'], [2_500_000, '2.5 s']]);
	table(duration, [
		[undefined, '–'], [-5, '0.0 s'], [240, '0.2 s'], [9940, '9.9 s'], [9960, '10 s'], [59_400, '59 s'], [59_600, '1 min'],
		[61_000, '1 min 1 s'], [600_000, '10 min'], [3_600_000, '1 h'], [5_400_000, '1 h 30 min'], [90_000_000, '1 d 1 h'],
	]);
	assert.equal(ago(200), '0.2 s ago');
});

test('words of the protocol', () => {
	assert.equal(word('CAMERA_STATE_LIVE', 'CAMERA_STATE_'), 'live');
	assert.equal(word('DROP_REASON_TOO_LARGE', 'DROP_REASON_'), 'too large');
	assert.equal(word('UNRECOGNIZED_9', 'OUTCOME_'), 'unrecognized 9');
});
