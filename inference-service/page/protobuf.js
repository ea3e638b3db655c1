// Messages of the protocol to bytes and back, driven by schema.js. Knows the
// wire format, no meaning. Bytes that are no message throw; they never loop and
// never take more memory than they have bytes.

import { enums, messages } from './schema.js';

// Kinds of values on the wire.
const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;
// Messages within messages; ours go five deep.
const MAX_DEPTH = 16;
const MAX_VARINT_BYTES = 10;

const VARINTS = new Set(['uint32', 'uint64', 'int64', 'bool']);
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

// What was wrong with the bytes.
export class WireError extends Error {
	name = 'WireError';
}

// Names of the values of each enum, by number.
const choices = new Map(
	Object.entries(enums).map(([name, text]) => {
		const [prefix, ...names] = text.split(' ');
		return [name, names.map((one) => prefix + one)];
	}),
);

// Fields of each message by number and by name, made once.
const layouts = new Map();

function layout(name) {
	let found = layouts.get(name);
	if (!found) {
		if (!Object.hasOwn(messages, name)) throw new WireError(`there is no message ${name}`);
		const written = messages[name] === '' ? [] : messages[name].split(',');
		const fields = written.map((text) => {
			const [number, field, type = 'string', label] = text.split(' ');
			const isMessage = Object.hasOwn(messages, type);
			return { number: Number(number), field, type, label, wire: wireOf(type), isMessage };
		});
		found = { fields, byNumber: new Map(fields.map((field) => [field.number, field])) };
		layouts.set(name, found);
	}
	return found;
}

function wireOf(type) {
	if (VARINTS.has(type) || choices.has(type)) return VARINT;
	if (type === 'float') return FIXED32;
	if (type === 'double') return FIXED64;
	return BYTES;
}

// A Number where that is exact, else a BigInt.
const exact = (big) => (big === BigInt(Number(big)) && Number.isSafeInteger(Number(big)) ? Number(big) : big);

class Reader {
	constructor(bytes) {
		this.bytes = bytes;
		this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
		this.at = 0;
	}

	// An unsigned number of up to 64 bits.
	varint() {
		let low = 0;
		let high = 0n;
		for (let index = 0; index < MAX_VARINT_BYTES; index += 1) {
			const byte = this.bytes[this.take(1)];
			// Seven groups of seven bits are exact in a Number.
			if (index < 7) low += (byte & 0x7f) * 2 ** (7 * index);
			else high |= BigInt(byte & 0x7f) << BigInt(7 * index);
			if (byte < 0x80) return high === 0n ? low : exact(BigInt.asUintN(64, high + BigInt(low)));
		}
		throw new WireError(`a number has more than ${MAX_VARINT_BYTES} bytes`);
	}

	// Goes on by so many bytes; gives where they begin.
	take(length) {
		const left = this.bytes.length - this.at;
		if (length > left) throw new WireError(`${length} bytes should follow, ${left} do`);
		this.at += length;
		return this.at - length;
	}

	delimited() {
		const length = this.varint();
		const from = this.take(length);
		return this.bytes.subarray(from, from + length);
	}

	skip(wire) {
		if (wire === VARINT) this.varint();
		else if (wire === FIXED64) this.take(8);
		else if (wire === BYTES) this.delimited();
		else if (wire === FIXED32) this.take(4);
		else throw new WireError(`there is no kind of value ${wire}`);
	}

	text() {
		const bytes = this.delimited();
		try {
			return utf8.decode(bytes);
		} catch {
			throw new WireError('a text is not UTF-8');
		}
	}

	scalar(type) {
		if (type === 'string') return this.text();
		if (type === 'bytes') return this.delimited();
		if (type === 'float') return this.view.getFloat32(this.take(4), true);
		if (type === 'double') return this.view.getFloat64(this.take(8), true);
		const value = this.varint();
		if (type === 'uint64') return value;
		if (type === 'int64') return typeof value === 'number' ? value : exact(BigInt.asIntN(64, value));
		if (type === 'bool') return value !== 0;
		const low = Number(BigInt.asUintN(32, BigInt(value)));
		// A newer server may know more values.
		return type === 'uint32' ? low : (namesOf(type)[low] ?? `UNRECOGNIZED_${low}`);
	}
}

function namesOf(type) {
	const names = choices.get(type);
	if (!names) throw new WireError(`there is no type ${type}`);
	return names;
}

// The value of a field that is not on the wire.
function absent({ label, isMessage, type }) {
	if (label === '*') return [];
	if (label === '?' || isMessage) return undefined;
	if (type === 'string') return '';
	if (type === 'bytes') return new Uint8Array(0);
	if (type === 'bool') return false;
	return choices.get(type)?.[0] ?? 0;
}

// The message in `bytes`. What is absent is undefined where the protocol can
// tell; `bytes` fields are views, not copies.
export function decode(name, bytes, depth = 0) {
	if (depth > MAX_DEPTH) throw new WireError('messages are nested too deeply');
	const { fields, byNumber } = layout(name);
	const message = {};
	for (const field of fields) message[field.field] = absent(field);
	const reader = new Reader(bytes);
	while (reader.at < bytes.length) {
		const tag = Number(reader.varint());
		const [number, wire] = [tag >>> 3, tag & 7];
		if (number === 0 || tag > 0xffffffff) throw new WireError(`${name} has a field without a number`);
		const field = byNumber.get(number);
		if (!field) {
			reader.skip(wire);
			continue;
		}
		const isPacked = field.label === '*' && wire === BYTES && field.wire !== BYTES;
		if (wire !== field.wire && !isPacked) {
			throw new WireError(`${name}.${field.field} is of kind ${wire} and should be of ${field.wire}`);
		}
		if (isPacked) {
			const packed = new Reader(reader.delimited());
			while (packed.at < packed.bytes.length) message[field.field].push(packed.scalar(field.type));
			continue;
		}
		const value = field.isMessage ? decode(field.type, reader.delimited(), depth + 1) : reader.scalar(field.type);
		if (field.label === '*') message[field.field].push(value);
		else message[field.field] = value;
	}
	return message;
}

function putVarint(out, value) {
	let left = BigInt.asUintN(64, BigInt(value));
	while (left > 0x7fn) {
		out.push(Number(left & 0x7fn) | 0x80);
		left >>= 7n;
	}
	out.push(Number(left));
}

function putValue(out, { type, isMessage, wire }, value) {
	if (wire === VARINT) {
		const names = choices.get(type);
		const number = names ? names.indexOf(value) : value;
		if (number < 0 && names) throw new WireError(`${type} has no ${value}`);
		putVarint(out, number);
		return;
	}
	let bytes = value;
	if (isMessage) bytes = encode(type, value);
	else if (type === 'string') bytes = new TextEncoder().encode(value);
	else if (type !== 'bytes') bytes = new Uint8Array((type === 'float' ? Float32Array : Float64Array).of(value).buffer);
	if (wire === BYTES) putVarint(out, bytes.length);
	for (const byte of bytes) out.push(byte);
}

// The bytes of `message`. Fields that are undefined are left out, and so are
// those at their default where the protocol takes that for the same.
export function encode(name, message) {
	const { fields } = layout(name);
	const unknown = Object.keys(message).find((key) => !fields.some(({ field }) => field === key));
	if (unknown !== undefined) throw new WireError(`${name} has no field ${unknown}`);
	const out = [];
	for (const field of fields) {
		const value = message[field.field];
		if (value === undefined || (value === absent(field) && !field.label)) continue;
		for (const one of field.label === '*' ? value : [value]) {
			putVarint(out, (field.number << 3) | field.wire);
			putValue(out, field, one);
		}
	}
	return Uint8Array.from(out);
}
