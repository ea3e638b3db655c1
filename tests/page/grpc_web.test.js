// grpc_web.js against a server that answers as it is told: framing, errors,
// deadlines, and what a hostile server may do.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { Client, Deframer, GrpcError, MAX_MESSAGE_BYTES, parseTrailers } from '../../inference-service/page/grpc_web.js';
import { encode } from '../../inference-service/page/protobuf.js';
import { pause_ms, Repeat } from '../../inference-service/page/repeat.js';

// Nothing here takes this long unless it is broken.
const DEADLINE_MS = 30_000;
const TYPE = { 'content-type': 'application/grpc-web+proto' };
const frame = (flags, body, length = body.length) => {
	const head = Buffer.alloc(5);
	head[0] = flags;
	head.writeUInt32BE(length, 1);
	return Buffer.concat([head, Buffer.from(body)]);
};
const trailers = (text) => frame(0x80, Buffer.from(text));
const OK = trailers('grpc-status: 0\r\n');
const cameras = frame(0, encode('ListCamerasResponse', { cameras: [{ camera_id: 'door' }] }));
const nothing = frame(0, []);

let server;
let client;
let answer;
before(async () => {
	server = createServer((request, response) => {
		const parts = [];
		request.on('data', (part) => parts.push(part));
		request.on('end', () => answer(response, request, Buffer.concat(parts)));
	}).listen(0, '127.0.0.1');
	await new Promise((resolve) => server.once('listening', resolve));
	client = new Client(`http://127.0.0.1:${server.address().port}`);
});
after(() => {
	server.closeAllConnections();
	server.close();
});

const says = (...parts) => (response) => {
	response.writeHead(200, TYPE);
	for (const part of parts) response.write(part);
	response.end();
};
const list = () => client.unary('ListCameras', {}, { deadline_ms: DEADLINE_MS });
const fails = (code, message) => (error) => error instanceof GrpcError && error.code === code && (!message || message.test(error.message));

test('a question and its answer', async () => {
	let asked;
	answer = (response, request, body) => {
		asked = { url: request.url, headers: request.headers, body };
		says(cameras, OK)(response);
	};
	const { cameras: found } = await list();
	assert.equal(found[0].camera_id, 'door');
	assert.equal(asked.url, '/flatframe.v1.ResultService/ListCameras');
	assert.equal(asked.headers['content-type'], 'application/grpc-web+proto');
	assert.equal(asked.headers['grpc-timeout'], '30000m');
	assert.deepEqual([...asked.body], [0, 0, 0, 0, 0]);
	await client.unary('GetResources', {}, { deadline_ms: DEADLINE_MS }).catch(() => {});
	assert.equal(asked.url, '/flatframe.v1.AdminService/GetResources');
});

test('an answer in pieces of one byte', () => {
	const deframer = new Deframer();
	const bytes = Buffer.concat([cameras, nothing, OK]);
	const frames = [...bytes].flatMap((byte) => [...deframer.push(Uint8Array.of(byte))]);
	assert.deepEqual(frames.map(({ isTrailers, body }) => [isTrailers, body.length]), [[false, cameras.length - 5], [false, 0], [true, OK.length - 5]]);
	assert.ok(deframer.isBetweenFrames);
});

test('errors in trailers and in headers', async () => {
	answer = says(trailers('grpc-status: 9\r\nGrpc-Message: no%20history%20%E2%80%93%20%22off%22\r\n'));
	await assert.rejects(list(), fails('FAILED_PRECONDITION', /^no history – "off"$/));
	answer = (response) => response.writeHead(200, { ...TYPE, 'grpc-status': '7', 'grpc-message': 'not%20here' }).end();
	await assert.rejects(list(), fails('PERMISSION_DENIED', /not here/));
	answer = says(cameras, trailers('grpc-status: 14\r\ngrpc-message: 100%\r\n'));
	await assert.rejects(list(), fails('UNAVAILABLE', /^100%$/));
	for (const text of ['', 'grpc-status: \r\n', 'grpc-status: 1e0\r\n', 'grpc-status: 99\r\n', 'grpc-status: -1\r\n']) {
		answer = says(cameras, trailers(text));
		await assert.rejects(list(), fails('UNKNOWN'), text);
	}
});

test('answers that are none', async () => {
	const cases = [
		[says(cameras), 'UNAVAILABLE', 'cut before the trailers'],
		[says(cameras.subarray(0, 7)), 'UNAVAILABLE', 'cut within a message'],
		[says(cameras, cameras, OK), 'INTERNAL', 'two answers'],
		[says(OK), 'INTERNAL', 'no answer'],
		[says(cameras, OK, cameras), 'INTERNAL', 'more after the end'],
		[says(frame(1, [])), 'INTERNAL', 'compressed'],
		[says(frame(0, [], MAX_MESSAGE_BYTES + 1)), 'INTERNAL', 'too large'],
		[says(frame(0, [], 0xffffffff)), 'INTERNAL', '4 GiB'],
		[says(frame(0x80, [], 1 << 20)), 'INTERNAL', 'trailers too large'],
		[(response) => response.writeHead(502).end('bad gateway'), 'UNAVAILABLE', 'HTTP 502'],
		[(response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<p>'), 'UNKNOWN', 'a web page'],
		[(response) => response.destroy(), 'UNAVAILABLE', 'hung up'],
		[(response) => response.writeHead(302, { location: '/elsewhere' }).end(), 'UNAVAILABLE', 'a redirect'],
	];
	for (const [how, code, what] of cases) {
		answer = how;
		await assert.rejects(list(), fails(code), what);
	}
	answer = says(frame(0, [0xff]), OK);
	await assert.rejects(list(), { name: 'WireError' });
});

// Holds the client's own timer: its time is over when the test says so, not
// because the machine stood still. Gives what says so.
function holdTime(mock) {
	const { setTimeout } = globalThis;
	let late;
	mock.method(globalThis, 'setTimeout', (act, ms, ...more) => {
		if (ms !== DEADLINE_MS) return setTimeout(act, ms, ...more);
		late = act;
	});
	return () => late();
}

test('a call that takes too long is given up, and hung up', async ({ mock }) => {
	const isOver = holdTime(mock);
	const hungUp = new Promise((resolve) => {
		answer = (response) => {
			response.writeHead(200, TYPE).write(cameras);
			response.on('close', resolve);
			isOver();
		};
	});
	await assert.rejects(list(), fails('DEADLINE_EXCEEDED'));
	await hungUp;
});

test('a stream that falls silent is given up', async ({ mock }) => {
	const isOver = holdTime(mock);
	answer = (response) => response.writeHead(200, TYPE).write(nothing);
	const seen = [];
	const watch = async () => {
		for await (const message of client.stream('WatchSnapshots', {}, { quiet_ms: DEADLINE_MS })) {
			seen.push(message);
			isOver();
		}
	};
	await assert.rejects(watch(), fails('DEADLINE_EXCEEDED'));
	assert.equal(seen.length, 1);
});

test('who leaves a stream, or is told to, hangs up', async () => {
	for (const how of ['break', 'abort']) {
		const hungUp = new Promise((resolve) => {
			answer = (response) => {
				response.writeHead(200, TYPE).write(nothing);
				response.on('close', resolve);
			};
		});
		const stopper = new AbortController();
		const watch = async () => {
			for await (const _ of client.stream('WatchSnapshots', {}, { quiet_ms: DEADLINE_MS, signal: stopper.signal })) {
				if (how === 'break') break;
				stopper.abort();
			}
		};
		if (how === 'break') await watch();
		else await assert.rejects(watch(), fails('CANCELLED'));
		await hungUp;
	}
});

test('trailers are read as they come', () => {
	const read = parseTrailers(Buffer.from('A: 1\r\n b : 2:3 \r\nno colon\r\n: empty\r\n'));
	assert.deepEqual([...read], [['a', '1'], ['b', '2:3']]);
});

test('the clock is the server\'s', async () => {
	answer = (response) => {
		response.writeHead(200, { ...TYPE, date: new Date(Date.now() + 3_600_000).toUTCString() });
		response.end(Buffer.concat([cameras, OK]));
	};
	await list();
	assert.ok(Math.abs(client.now() - Date.now() - 3_600_000) < 60_000);
	answer = says(cameras, OK);
	await list();
	const [begin, now, end] = [Date.now(), client.now(), Date.now()];
	assert.ok(begin <= now && now <= end, `${now} is not between ${begin} and ${end}`);
});

test('pauses double up to a limit, half of them by chance', () => {
	for (const [failures, full] of [[1, 500], [2, 1000], [5, 8000], [5000, 8000]]) {
		assert.equal(pause_ms(failures, () => 0), full / 2);
		assert.equal(pause_ms(failures, () => 1), full);
	}
});

test('never two calls of one kind at once, however often it is stopped and started', async () => {
	let open = 0;
	let calls = 0;
	const ended = new Promise((resolve) => {
		const repeat = new Repeat({
			every_ms: 1e6,
			failed: assert.fail,
			run: async (signal) => {
				calls += 1;
				open += 1;
				assert.equal(open, 1);
				await new Promise((resolve) => signal.addEventListener('abort', resolve));
				open -= 1;
			},
		});
		for (let round = 0; round < 100; round += 1) {
			repeat.start();
			repeat.start();
			repeat.stop();
		}
		resolve();
	});
	await ended;
	await new Promise(setImmediate);
	assert.equal(open, 0);
	assert.ok(calls <= 100);
});
