// Numbers and times as a person reads them. What is not known is a dash, never
// a zero.

export const UNKNOWN = '–';

const plain = new Intl.NumberFormat('en');
const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export const number = (value) => (value === undefined ? UNKNOWN : plain.format(value));

// One digit behind the point below ten.
const short = (value) => (Math.abs(value) < 9.95 ? value.toFixed(1) : plain.format(Math.round(value)));

export function bytes(value) {
	if (value === undefined) return UNKNOWN;
	let scaled = Number(value);
	let unit = 0;
	while (Math.abs(scaled) >= 1024 && unit < BYTE_UNITS.length - 1) {
		scaled /= 1024;
		unit += 1;
	}
	const digits = unit === 0 || Math.abs(scaled) >= 99.95 ? 0 : 1;
	return `${scaled.toFixed(digits)} ${BYTE_UNITS[unit]}`;
}

export function micros(value) {
	if (value === undefined) return UNKNOWN;
	if (value < 1000) return `${value} µs`;
	return value < 1e6 ? `${short(value / 1e3)} ms` : `${short(value / 1e6)} s`;
}

// A length of time in at most two units.
export function duration(ms) {
	if (ms === undefined) return UNKNOWN;
	const seconds = Math.max(0, ms) / 1000;
	if (seconds < 59.5) return `${short(seconds)} s`;
	const whole = Math.max(60, Math.floor(seconds));
	const units = [[60, 'min', 1, 's'], [3600, 'h', 60, 'min'], [86_400, 'd', 3600, 'h']];
	const [one, unit, other, smaller] = units.findLast(([seconds]) => whole >= seconds);
	// From ten minutes to an hour, seconds say nothing.
	const rest = whole >= 600 && whole < 3600 ? 0 : Math.floor((whole % one) / other);
	return `${Math.floor(whole / one)} ${unit}${rest > 0 ? ` ${rest} ${smaller}` : ''}`;
}

export const ago = (ms) => `${duration(ms)} ago`;

export const timeOfDay = (unix_ms) => clock.format(unix_ms);

// The day is named unless it is today's.
export function moment(unix_ms, now_ms) {
	const isToday = new Date(unix_ms).toDateString() === new Date(now_ms).toDateString();
	return isToday ? timeOfDay(unix_ms) : `${day.format(unix_ms)} ${timeOfDay(unix_ms)}`;
}

// An enum's value for a person: "CAMERA_STATE_LIVE" is "live".
export const word = (value, prefix) => value.replace(prefix, '').toLowerCase().replaceAll('_', ' ');

// "1 visit", "2 visits".
export const several = (count, one, many = `${one}s`) => `${number(count)} ${Number(count) === 1 ? one : many}`;
