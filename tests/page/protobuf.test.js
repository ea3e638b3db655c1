// protobuf.js: what it writes it reads, and hostile bytes are refused.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decode, encode, WireError } from '../../inference-service/page/protobuf.js';
import { messages } from '../../inference-service/page/schema.js';

const face = {
	box: { x_px: 1.5, y_px: -2, width_px: 30, height_px: 40 },
	score: 0.5,
	landmarks: [{ x_px: 0, y_px: 0 }, { x_px: 7, y_px: 8 }],
	gender: 'GENDER_FEMALE',
	female_probability: 0,
	track: { track_id: 3, is_visit: true, gender: 'GENDER_UNKNOWN', female_probability: undefined, age_ms: 12 },
};
const snapshot = {
	camera_id: 'Tür-1 🚪',
	jpeg: Uint8Array.of(0xff, 0xd8, 0, 0xff, 0xd9),
	style: 'SNAPSHOT_STYLE_PLAIN',
	age_ms: 180,
	state: 'CAMERA_STATE_LIVE',
	result: {
		position: 2 ** 53 - 1, server_epoch: 2n ** 64n - 1n, camera_id: 'a', session_id: 2n ** 53n, frame_number: 0,
		captured_unix_us: -1, latency_us: 128, width_px: 4294967295, height_px: 480, faces: [face, face], truncated: true,
		detector: '', gender_model: 'g', counts: undefined, observed_unix_us: 1_800_000_000_000_000, faces_withheld: false,
		late: false, replica: '',
	},
};
const bytes = encode('Snapshot', snapshot);

test('what is written is read', () => {
	assert.deepEqual(decode('Snapshot', bytes), snapshot);
	const line = { name: 'door', kind: 'CROSSING_KIND_LINE', entered: undefined, left: undefined, occupancy: -(2n ** 63n) };
	assert.deepEqual(decode('CrossingCounts', encode('CrossingCounts', line)), line);
});

test('the bytes are those of the specification', () => {
	const request = { style: 'SNAPSHOT_STYLE_PLAIN', max_width_px: 300, max_fps: 2, camera_ids: ['a', ''] };
	const want = [0x0a, 1, 0x61, 0x0a, 0, 0x10, 3, 0x18, 0xac, 2, 0x25, 0, 0, 0, 0x40];
	assert.deepEqual([...encode('WatchSnapshotsRequest', request)], want);
	assert.deepEqual([...encode('ResetOccupancyRequest', { occupancy: -1 })], [0x18, ...Array(9).fill(0xff), 1]);
	assert.deepEqual([...encode('ListCamerasRequest', {})], []);
});

test('what is absent is not zero', () => {
	const camera = decode('CameraInfo', new Uint8Array(0));
	assert.equal(camera.last_frame_age_ms, undefined);
	assert.equal(camera.counts, undefined);
	assert.equal(camera.analyzed_fps, 0);
	assert.equal(camera.state, 'CAMERA_STATE_UNSPECIFIED');
	assert.deepEqual(camera.incidents, []);
	// An optional field that is there is told apart from one that is not.
	assert.equal(decode('CameraInfo', Uint8Array.of(0x20, 0)).last_frame_age_ms, 0);
});

test('what a newer server adds is passed over', () => {
	const added = [0x98, 6, 1, 0x9a, 6, 2, 1, 2, 0x9d, 6, 0, 0, 0, 0, 0x99, 6, 0, 0, 0, 0, 0, 0, 0, 0];
	assert.deepEqual(decode('Snapshot', Uint8Array.from([...bytes, ...added])), snapshot);
	assert.equal(decode('Snapshot', Uint8Array.of(0x28, 99)).state, 'UNRECOGNIZED_99');
});

test('packed numbers are read too', () => {
	messages.Packed = '1 values uint32 *';
	assert.deepEqual(decode('Packed', Uint8Array.of(0x0a, 3, 1, 0xac, 2, 0x08, 7)), { values: [1, 300, 7] });
	assert.throws(() => decode('Packed', Uint8Array.of(0x0a, 2, 1, 0xac)), WireError);
});

test('hostile bytes are refused', () => {
	const cases = {
		'a number without end': Array(20).fill(0xff),
		'a number of 11 bytes': [0x20, ...Array(10).fill(0x80), 0],
		'a number cut short': [0x20, 0x80],
		'a length beyond the end': [0x0a, 5, 0x61],
		'a length of 4 GiB': [0x12, 0xff, 0xff, 0xff, 0xff, 0x0f],
		'a length of 2^63': [0x12, ...Array(9).fill(0x80), 1],
		'field number 0': [0, 0],
		'a field number beyond 2^29': [0x80, 0x80, 0x80, 0x80, 0x80, 1, 0],
		'a group': [0x9b, 6],
		'kind 7': [0x9f, 6],
		'another kind of value': [0x08, 1],
		'a text that is not UTF-8': [0x0a, 2, 0xc3, 0x28],
		'an unknown length beyond the end': [0x9a, 6, 100, 1],
		'a float cut short': [0x32, 3, 0x2d, 0, 0],
	};
	for (const [what, hostile] of Object.entries(cases)) {
		assert.throws(() => decode('Snapshot', Uint8Array.from(hostile)), WireError, what);
	}
});

test('messages nested without end are refused', () => {
	messages.Nest = '1 inner Nest';
	let nest = Uint8Array.of();
	for (let depth = 0; depth < 40; depth += 1) nest = Uint8Array.of(0x0a, nest.length, ...nest);
	assert.throws(() => decode('Nest', nest), /nested too deeply/);
});

// A generator of its own, so that a failure comes again.
function* numbers(seed) {
	let state = seed;
	for (;;) {
		state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
		yield state;
	}
}

test('every cut and every kind of damage ends, with a message or an error', () => {
	const random = numbers(7);
	const next = (below) => random.next().value % below;
	let refused = 0;
	for (let round = 0; round < 20_000; round += 1) {
		const damaged = bytes.slice(0, 1 + next(bytes.length));
		for (let change = next(4); change > 0; change -= 1) damaged[next(damaged.length)] = next(256);
		try {
			decode('Snapshot', damaged);
		} catch (error) {
			assert.ok(error instanceof WireError, error.stack);
			refused += 1;
		}
	}
	assert.ok(refused > 5000, `${refused} of 20000 were refused`);
});

test('the page cannot ask what the protocol has not', () => {
	assert.throws(() => encode('ListCamerasRequest', { typo: 1 }), /has no field typo/);
	assert.throws(() => encode('WatchSnapshotsRequest', { style: 'BRIGHT' }), /has no BRIGHT/);
	assert.throws(() => decode('Nothing', new Uint8Array(0)), /no message Nothing/);
	assert.throws(() => decode('toString', new Uint8Array(0)), /no message toString/);
});
