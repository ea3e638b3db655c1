// How the server is: its ledger, the places where data can wait, the time of
// each stage, and memory against its budget.

import { LineChart } from './charts.js';
import { byId, element, Rows, setHidden, setText } from './dom.js';
import { bytes, duration, micros, number, several, UNKNOWN, word } from './text.js';

const DEADLINE_MS = 4000;
// Stages are drawn from 10 µs to 10 s, each factor of ten as wide as the next.
const FIRST_DECADE = 1;
const LAST_DECADE = 7;
// Before, bytes an hour are a guess.
const SLOPE_FROM_S = 3600;

export class Health {
	#client;
	#places = new Rows(byId('places'), placeRow);
	#stages = new Rows(byId('stages'), stageRow);
	#atCameras = new Rows(byId('ledger-cameras'), pairRow);
	#atServer = new Rows(byId('ledger-server'), pairRow);
	#memoryFacts = new Rows(byId('memory-facts'), pairRow);
	#memory = new LineChart(byId('memory-chart'), { height_px: 150, label: 'Resident memory over time, with the budget above it' });

	constructor(client) {
		this.#client = client;
	}

	async ask(signal, heard) {
		const resources = await this.#client.unary('GetResources', {}, { deadline_ms: DEADLINE_MS, signal });
		heard();
		const balance = resources.ledger_balance;
		const isEven = Number(balance) === 0;
		setText(byId('balance'), number(balance));
		setText(byId('balance-words'), `is the balance of the ledger${isEven ? '' : ', a defect: please report it with the log'}`);
		byId('balance').classList.toggle('bad', !isEven);
		this.#places.show(resources.places, ({ name }) => name);
		this.#stages.show(resources.stages, ({ name }) => name);
		this.#showMemory(resources);
		setText(byId('software'), `${resources.software}, running for ${duration(Number(resources.uptime_s) * 1000)}`);
		const isOver = resources.rss_bytes !== undefined && resources.rss_bytes > resources.budget_bytes;
		const isShort = resources.pressure?.lasts_ms !== undefined;
		setHidden(byId('health-mark'), isEven && !isOver && !isShort);
	}

	// The ledgers come with the cameras. They balance: captured = dropped + sent
	// + waiting, sent = answered + lost + in flight, received = answered + queued.
	set cameras(cameras) {
		const sender = cameras.map(({ ingest_ledger }) => ingest_ledger).filter(Boolean);
		const server = cameras.map(({ ledger }) => ledger).filter(Boolean);
		const total = (all, key) => [
			word(key, ''),
			all.length ? number(all.reduce((sum, one) => sum + Number(one[key]), 0)) : UNKNOWN,
		];
		const dropped = tally(sender.flatMap(({ dropped }) => dropped), 'reason', 'DROP_REASON_');
		const others = ['waiting', 'sent', 'in_flight', 'lost'].map((key) => total(sender, key));
		this.#atCameras.show([total(sender, 'captured'), ...dropped, ...others], nameOf);
		const answered = tally(server.flatMap(({ answered }) => answered), 'outcome', 'OUTCOME_');
		this.#atServer.show([total(server, 'received'), ...answered, total(server, 'queued')], nameOf);
	}

	#showMemory({ rss_bytes, rss_peak_bytes, budget_bytes, trend, pressure, uptime_s }) {
		setText(byId('rss'), bytes(rss_bytes));
		setText(byId('rss-budget'), `of ${bytes(budget_bytes)}`);
		fillBar(byId('rss-bar'), rss_bytes, budget_bytes);
		const lasts = pressure?.lasts_ms;
		const facts = [
			['Slope', slope(trend, uptime_s)],
			['Highest', bytes(rss_peak_bytes)],
			['Memory is short', lasts === undefined ? 'no' : `for ${duration(lasts)}`],
			['Was short', pressure ? several(pressure.times, 'time') : UNKNOWN],
			['Counts as short from', bytes(pressure?.soft_limit_bytes)],
		];
		this.#memoryFacts.show(facts, nameOf);
		const points = (trend?.samples ?? []).map((sample) => ({ time: sample.uptime_s, value: sample.rss_bytes }));
		if (rss_bytes !== undefined) points.push({ time: uptime_s, value: rss_bytes });
		this.#memory.show({
			points,
			bound: { value: budget_bytes, words: 'budget' },
			words: (value) => String(Math.round(value / (1 << 20))),
			ticks: uptimeTicks(uptime_s),
		});
	}
}

// Five at most, at round times since start.
function uptimeTicks(uptime_s) {
	const step = [10, 30, 60, 300, 900, 3600, 10_800, 43_200, 86_400].find((step) => uptime_s / step <= 5) ?? uptime_s / 5;
	const ticks = [];
	for (let time = step; time <= uptime_s; time += step) ticks.push({ time, words: duration(time * 1000).replace('.0', '') });
	return ticks;
}

function slope(trend, uptime_s) {
	if (trend?.slope_bytes_per_hour === undefined || uptime_s < SLOPE_FROM_S) return 'too early to tell';
	const value = `${trend.slope_bytes_per_hour < 0 ? '−' : '+'}${bytes(Math.abs(trend.slope_bytes_per_hour))}`;
	return `${value} an hour, ± ${bytes(trend.slope_ci_bytes_per_hour)}`;
}

// Sums by name, the largest first: [[word, frames, true]].
function tally(counts, key, prefix) {
	const sums = new Map();
	for (const count of counts) {
		const name = word(count[key], prefix);
		sums.set(name, (sums.get(name) ?? 0) + Number(count.frames));
	}
	return [...sums].sort(([, one], [, other]) => other - one).map(([name, frames]) => [name, number(frames), true]);
}

function fillBar(bar, live, cap) {
	const share = live === undefined || Number(cap) === 0 ? 0 : Math.min(1, Number(live) / Number(cap));
	bar.style.transform = `scaleX(${share})`;
}

function placeRow() {
	const [name, live] = [element('th', { scope: 'row' }), element('td', { class: 'number' })];
	const bar = element('i', { class: 'fill' });
	const root = element('tr', {}, name, element('td', { class: 'wide' }, element('span', { class: 'bar' }, bar)), live);
	return {
		root,
		show(place) {
			setText(name, place.name.replaceAll('_', ' '));
			setText(live, `${number(place.live)} / ${number(place.cap)}`);
			fillBar(bar, place.live, place.cap);
		},
	};
}

function stageRow() {
	const name = element('th', { scope: 'row' });
	const [frames, p50, p99] = [0, 1, 2].map(() => element('td', { class: 'number' }));
	const bar = element('i', { class: 'range' });
	const wide = element('td', { class: 'wide' }, element('span', { class: 'bar' }, bar));
	const root = element('tr', {}, name, wide, p50, p99, frames);
	const at = (us) => (Math.log10(Math.max(10, Number(us))) - FIRST_DECADE) / (LAST_DECADE - FIRST_DECADE);
	return {
		root,
		show(stage) {
			setText(name, stage.name.replaceAll('_', ' '));
			const isKnown = Number(stage.frames) > 0;
			setText(p50, isKnown ? micros(stage.p50_us) : UNKNOWN);
			setText(p99, isKnown ? micros(stage.p99_us) : UNKNOWN);
			setText(frames, number(stage.frames));
			const [from, to] = [at(stage.p50_us), Math.min(1, at(stage.p99_us))];
			bar.style.left = `${100 * from}%`;
			bar.style.width = isKnown ? `max(4px, ${100 * (to - from)}%)` : '0';
		},
	};
}

const nameOf = ([name]) => name;

// What is part of the row above is set back.
function pairRow([, , isPart]) {
	const [name, value] = [element('th', { scope: 'row' }), element('td', { class: 'number' })];
	return {
		root: element('tr', { class: isPart ? 'inner' : undefined }, name, value),
		show(words) {
			setText(name, words[0]);
			setText(value, words[1]);
		},
	};
}
