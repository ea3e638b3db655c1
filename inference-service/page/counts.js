// Visits over the last hour and over today, from the server's history. What was
// not watched and what is withheld is shown as such, not as zero.

import { Alternative, ColumnChart } from './charts.js';
import { byId, setHidden, setText } from './dom.js';
import { inWords, Split, sum } from './gender.js';
import { duration, number, several, timeOfDay, UNKNOWN } from './text.js';

const MINUTE_S = 60;
const QUARTER_S = 900;
const HOUR_S = 3600;
const DEADLINE_MS = 8000;
// The newest seconds are still on their way into the history.
const ON_THE_WAY_S = 20;

export class Counts {
	#client;
	#hour;
	#day;

	constructor(client) {
		this.#client = client;
		this.#hour = new Span('hour', 'Visits in the last hour');
		this.#day = new Span('day', 'Visits today');
	}

	// Asks for both; `heard()` at each answer.
	async ask(signal, heard) {
		const now_s = Math.floor(this.#client.now() / 1000);
		try {
			for (const span of [hour(now_s), day(now_s)]) {
				const answer = await this.#query(span, signal);
				heard();
				const target = span.isDay ? this.#day : this.#hour;
				target.show({ ...span, ...answer, now_s });
			}
			this.#say('');
		} catch (error) {
			if (error.code !== 'FAILED_PRECONDITION') throw error;
			heard();
			this.#say('No history is kept (history.file): there are no counts over time.');
		}
	}

	// A history that cannot be read is told here: the server itself is there.
	failed(error) {
		if (error.code === 'INTERNAL') this.#say(`No counts for now: ${error.message}`);
	}

	// Where few are withheld only whole quarters that are over may be asked for.
	async #query({ from, until, bucket_s }, signal) {
		const ask = (bucket_s, until) => {
			const start = Math.floor(from / bucket_s) * bucket_s;
			if (until <= start) return undefined;
			const request = { from_unix_s: start, to_unix_s: until, bucket_s };
			return this.#client.unary('QueryCounts', request, { deadline_ms: DEADLINE_MS, signal });
		};
		let used_s = bucket_s;
		let answer;
		try {
			answer = await ask(bucket_s, until);
		} catch (error) {
			if (error.code !== 'INVALID_ARGUMENT') throw error;
			used_s = QUARTER_S;
			answer = await ask(QUARTER_S, Math.floor(until / QUARTER_S) * QUARTER_S);
		}
		return { series: answer?.series[0], bucket_s: used_s };
	}

	#say(why) {
		setText(byId('no-history'), why);
		setHidden(byId('no-history'), why === '');
		for (const id of ['hour', 'day', 'counts-key']) setHidden(byId(id), why !== '');
	}
}

function hour(now_s) {
	const to = (Math.floor(now_s / MINUTE_S) + 1) * MINUTE_S;
	return { from: to - HOUR_S, to, until: now_s, bucket_s: MINUTE_S, isDay: false };
}

// The day of whoever looks.
function day(now_s) {
	const begin = new Date(now_s * 1000);
	begin.setHours(0, 0, 0, 0);
	const from = begin.getTime() / 1000;
	begin.setDate(begin.getDate() + 1);
	return { from, to: begin.getTime() / 1000, until: Math.max(now_s, from + 1), bucket_s: QUARTER_S, isDay: true };
}

// The share of a bucket's time that was not watched, 0 to 1.
function lost(bucket, { cameras, bucket_s, until, now_s }) {
	const end = Math.min(bucket.start_unix_s + bucket_s, until);
	const due = (Math.min(end, now_s - ON_THE_WAY_S) - bucket.start_unix_s) * cameras;
	return due <= 0 ? 0 : Math.max(0, Math.min(1, 1 - bucket.covered_seconds / due));
}

// One of the two charts, with its total and its table.
class Span {
	#chart;
	#total;
	#table;
	#bucket_s = MINUTE_S;

	constructor(id, label) {
		const host = byId(id);
		this.#chart = new ColumnChart(host.querySelector('.plot'), {
			height_px: 150,
			label: `${label}, as columns; the table below tells the same`,
			describe: (bucket) => `${this.#name(bucket)}: ${tell(bucket)}`,
		});
		this.#total = new Split(host.querySelector('[data-part=total]'));
		this.#table = new Alternative(host, label, ['From', 'Visits', 'Female', 'Male', 'Unknown', 'Not watched']);
	}

	show({ from, to, until, series, bucket_s, now_s, isDay }) {
		this.#bucket_s = bucket_s;
		const cameras = series?.cameras ?? 0;
		const buckets = (series?.buckets ?? []).map((bucket) => ({
			start: bucket.start_unix_s,
			counts: bucket.visits,
			isWithheld: bucket.withheld,
			lost: lost(bucket, { cameras, bucket_s, until, now_s }),
		}));
		const known = buckets.filter(({ counts }) => counts);
		const isWithheld = buckets.some((bucket) => bucket.isWithheld);
		if (isWithheld) setHidden(byId('withheld-key'), false);
		const instead = isWithheld ? 'withheld' : UNKNOWN;
		this.#total.show(known.length ? sum(known.map(({ counts }) => counts)) : undefined, { instead, isLeast: isWithheld });
		const first = buckets.length ? Math.min(from, buckets[0].start) : from;
		const words = summary(buckets, bucket_s, cameras);
		this.#chart.show({ from: first, to, bucket_s, buckets, ticks: ticks(first, to, isDay), summary: words });
		this.#table.show(() => buckets.map((bucket) => this.#cells(bucket)));
	}

	#name({ start }) {
		return `${timeOfDay(start * 1000)}–${timeOfDay((start + this.#bucket_s) * 1000)}`;
	}

	#cells({ start, counts, isWithheld, lost }) {
		const people = (key) => (counts ? number(counts[key]) : isWithheld ? 'withheld' : UNKNOWN);
		const columns = ['faces', 'female', 'male', 'unknown'].map(people);
		return [timeOfDay(start * 1000), ...columns, lost > 0 ? percent(lost) : '0 %'];
	}
}

const percent = (share) => `${Math.max(1, Math.round(share * 100))} %`;

function tell({ counts, isWithheld, lost }) {
	const people = counts ? `visits ${inWords(counts)}` : isWithheld ? 'withheld, few visits' : 'nothing known';
	return lost > 0.02 ? `${people}; ${percent(lost)} not watched` : people;
}

function summary(buckets, bucket_s, cameras) {
	if (cameras === 0) return 'History knows no camera yet.';
	const lost_s = buckets.reduce((total, { lost }) => total + lost * bucket_s, 0);
	const of = `${several(cameras, 'camera')}, columns of ${several(bucket_s / 60, 'minute')}`;
	return lost_s < 1 ? of : `${of}; ${duration(lost_s * 1000)} not watched`;
}

// Every ten minutes, or every three hours.
function ticks(from, to, isDay) {
	const step_s = isDay ? 3 * HOUR_S : 10 * MINUTE_S;
	const all = [];
	const first = isDay ? from : Math.ceil(from / step_s) * step_s;
	for (let time = first; time <= to; time += step_s) all.push({ time, words: timeOfDay(time * 1000) });
	return all;
}
