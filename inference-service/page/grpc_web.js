// Calls to the server by gRPC-Web: one POST for each call, answers in frames.
// Knows the framing and its errors; decides no retry.

import { decode, encode } from './protobuf.js';

// Numbers of the gRPC specification.
const CODES = [
	'OK', 'CANCELLED', 'UNKNOWN', 'INVALID_ARGUMENT', 'DEADLINE_EXCEEDED', 'NOT_FOUND', 'ALREADY_EXISTS',
	'PERMISSION_DENIED', 'RESOURCE_EXHAUSTED', 'FAILED_PRECONDITION', 'ABORTED', 'OUT_OF_RANGE', 'UNIMPLEMENTED',
	'INTERNAL', 'UNAVAILABLE', 'DATA_LOSS', 'UNAUTHENTICATED',
];
const CONTENT_TYPE = 'application/grpc-web+proto';
const HEADER_BYTES = 5;
// Clocks that differ by less are taken for the same.
const CLOCK_SLACK_MS = 2000;
const TRAILERS = 0x80;
// Larger than any picture the server can be told to take.
export const MAX_MESSAGE_BYTES = 24 << 20;
const MAX_TRAILER_BYTES = 64 << 10;

// Where a method is served; all others are ResultService's.
const SERVICES = { GetResources: 'AdminService' };

// How a call failed: `code` is the gRPC code's name, `message` is for a person.
export class GrpcError extends Error {
	name = 'GrpcError';

	constructor(code, message) {
		super(message || code);
		this.code = code;
	}
}

// Takes bytes as they come and gives whole frames: { isTrailers, body }.
export class Deframer {
	#header = new Uint8Array(HEADER_BYTES);
	#headerBytes = 0;
	#body = null;
	#bodyBytes = 0;
	#isTrailers = false;
	#isOver = false;

	// Whether the last byte ended a frame.
	get isBetweenFrames() {
		return this.#headerBytes === 0;
	}

	*push(chunk) {
		let at = 0;
		while (at < chunk.length) {
			if (this.#isOver) throw new GrpcError('INTERNAL', 'the server sent more after the end of its answer');
			if (this.#headerBytes < HEADER_BYTES) {
				this.#header[this.#headerBytes] = chunk[at];
				this.#headerBytes += 1;
				at += 1;
				if (this.#headerBytes === HEADER_BYTES) this.#begin();
			} else {
				const part = chunk.subarray(at, at + this.#body.length - this.#bodyBytes);
				this.#body.set(part, this.#bodyBytes);
				this.#bodyBytes += part.length;
				at += part.length;
			}
			if (this.#headerBytes === HEADER_BYTES && this.#bodyBytes === this.#body.length) yield this.#end();
		}
	}

	#begin() {
		const flags = this.#header[0];
		const length = new DataView(this.#header.buffer).getUint32(1);
		if ((flags & ~TRAILERS) !== 0) throw new GrpcError('INTERNAL', `the server sent a frame with flags ${flags}`);
		this.#isTrailers = flags === TRAILERS;
		const limit = this.#isTrailers ? MAX_TRAILER_BYTES : MAX_MESSAGE_BYTES;
		if (length > limit) throw new GrpcError('INTERNAL', `the server sent a frame of ${length} bytes, at most ${limit}`);
		this.#body = new Uint8Array(length);
		this.#bodyBytes = 0;
	}

	#end() {
		const frame = { isTrailers: this.#isTrailers, body: this.#body };
		this.#isOver = this.#isTrailers;
		this.#body = null;
		this.#headerBytes = 0;
		return frame;
	}
}

// The headers in a frame of trailers.
export function parseTrailers(body) {
	const trailers = new Map();
	for (const line of new TextDecoder().decode(body).split('\r\n')) {
		const colon = line.indexOf(':');
		if (colon > 0) trailers.set(line.slice(0, colon).trim().toLowerCase(), line.slice(colon + 1).trim());
	}
	return trailers;
}

// Throws unless `trailers` (anything with get) tell of success.
function checkStatus(trailers) {
	const status = trailers.get('grpc-status');
	const number = /^\d{1,3}$/.test(status ?? '') ? Number(status) : 2;
	if (number === 0) return;
	let message = trailers.get('grpc-message') ?? '';
	try {
		message = decodeURIComponent(message);
	} catch {
		// Not encoded as it should be: better raw than not at all.
	}
	throw new GrpcError(CODES[number] ?? 'UNKNOWN', message);
}

function frame(message) {
	const bytes = new Uint8Array(HEADER_BYTES + message.length);
	new DataView(bytes.buffer).setUint32(1, message.length);
	bytes.set(message, HEADER_BYTES);
	return bytes;
}

// What a failed fetch means: the caller's own reason when it gave up, else that
// the server cannot be reached.
function unreachable(error, signal) {
	if (signal.aborted) return signal.reason instanceof GrpcError ? signal.reason : new GrpcError('CANCELLED');
	return error instanceof Error && ['GrpcError', 'WireError'].includes(error.name)
		? error
		: new GrpcError('UNAVAILABLE', 'the server does not answer');
}

// A connection to the services behind `base`: '' is where the page came from.
export class Client {
	#base;
	#ahead_ms = 0;
	// Shown with every call, if there is one.
	token = null;

	constructor(base = '') {
		this.#base = base;
	}

	// The server's clock, in milliseconds since the Unix epoch: times in answers
	// go by it, and this machine's may be wrong.
	now() {
		return Date.now() + this.#ahead_ms;
	}

	// One answer to one question.
	async unary(method, request, { deadline_ms, signal }) {
		let answer;
		for await (const message of this.stream(method, request, { deadline_ms, signal })) {
			if (answer) throw new GrpcError('INTERNAL', `${method} gave two answers`);
			answer = message;
		}
		if (!answer) throw new GrpcError('INTERNAL', `${method} gave no answer`);
		return answer;
	}

	// The answers of a stream as they come; it ends without an error only when
	// the server says so. `quiet_ms`: most time between bytes; `deadline_ms`: most
	// time for all. Leaving the loop ends the call.
	async *stream(method, request, { deadline_ms, quiet_ms, signal }) {
		const call = new AbortController();
		const giveUp = () => call.abort(new GrpcError('CANCELLED', 'given up'));
		const late = () => call.abort(new GrpcError('DEADLINE_EXCEEDED', 'the server takes too long'));
		signal?.addEventListener('abort', giveUp, { once: true });
		if (signal?.aborted) giveUp();
		let timer = deadline_ms || quiet_ms ? setTimeout(late, deadline_ms ?? quiet_ms) : undefined;
		try {
			const response = await this.#post(method, request, deadline_ms, call.signal);
			const reader = response.body.getReader();
			const deframer = new Deframer();
			let isOver = false;
			for (;;) {
				const { done, value } = await reader.read();
				if (done) break;
				if (!deadline_ms && quiet_ms) {
					clearTimeout(timer);
					timer = setTimeout(late, quiet_ms);
				}
				for (const { isTrailers, body } of deframer.push(value)) {
					if (!isTrailers) {
						yield decode(`${method}Response`, body);
						continue;
					}
					// Reading goes on to the end, so that the connection can be used again.
					checkStatus(parseTrailers(body));
					isOver = true;
				}
			}
			// Without answers, the status may have come as a header instead.
			if (!isOver && (!response.headers.has('grpc-status') || !deframer.isBetweenFrames)) {
				throw new GrpcError('UNAVAILABLE', 'the answer was cut short');
			}
		} catch (error) {
			throw unreachable(error, call.signal);
		} finally {
			clearTimeout(timer);
			signal?.removeEventListener('abort', giveUp);
			call.abort();
		}
	}

	async #post(method, request, deadline_ms, signal) {
		const service = SERVICES[method] ?? 'ResultService';
		const headers = { 'content-type': CONTENT_TYPE, 'x-grpc-web': '1' };
		if (this.token) headers.authorization = `Bearer ${this.token}`;
		if (deadline_ms) headers['grpc-timeout'] = `${deadline_ms}m`;
		const response = await fetch(`${this.#base}/flatframe.v1.${service}/${method}`, {
			method: 'POST',
			headers,
			body: frame(encode(`${method}Request`, request)),
			signal,
			cache: 'no-store',
			redirect: 'error',
		});
		// The header is cut to whole seconds, and was under way.
		const ahead_ms = Date.parse(response.headers.get('date') ?? '') + 500 - Date.now();
		if (Number.isFinite(ahead_ms)) this.#ahead_ms = Math.abs(ahead_ms) < CLOCK_SLACK_MS ? 0 : ahead_ms;
		if (response.headers.has('grpc-status')) checkStatus(response.headers);
		if (!response.ok) {
			throw new GrpcError('UNAVAILABLE', `the server answers with HTTP ${response.status}`);
		}
		if (!response.headers.get('content-type')?.startsWith('application/grpc-web')) {
			throw new GrpcError('UNKNOWN', 'something other than Flatframe answers here');
		}
		return response;
	}
}
