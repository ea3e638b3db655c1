// Many reconnects leave nothing behind, in the browser or in the server; and
// what a tab with 16 cameras costs.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Pair, browser as startBrowser, open, picture, until } from './harness.js';

const RECONNECTS = 1000;
const WARM_UP = 100;
const RELOADS = 20;
// Garbage collection is not exact; a leak of a picture each would be 10 MB.
const HEAP_SLACK_BYTES = 300_000;
// A busy machine adds some: a row for each new fate of a frame. A leak would be one each.
const NODES_SLACK = RECONNECTS / 10;
const WATCHED_S = 10;

const card = (index, fps) => `id = "card-${index}"\nsource = "pattern"\nfps = ${fps}\nseed = ${index}`;

// Hides and shows the tab so many times; each time a stream must have begun.
const reconnect = (page, times) => page.evaluate(async (times) => {
	if (!globalThis.streamBegins) {
		const { fetch } = globalThis;
		globalThis.fetch = async (...asked) => {
			const response = await fetch(...asked);
			if (String(asked[0]).endsWith('/WatchSnapshots') && response.ok) globalThis.streamBegins.resolve();
			return response;
		};
	}
	const show = (state) => {
		Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });
		document.dispatchEvent(new Event('visibilitychange'));
	};
	for (let round = 0; round < times; round += 1) {
		globalThis.streamBegins = Promise.withResolvers();
		show('hidden');
		show('visible');
		await globalThis.streamBegins.promise;
	}
}, times);

async function held(session, page) {
	await session.send('HeapProfiler.collectGarbage');
	const { usedSize } = await session.send('Runtime.getHeapUsage');
	const { nodes, documents, jsEventListeners } = await session.send('Memory.getDOMCounters');
	return { heap_bytes: usedSize, nodes, documents, listeners: jsEventListeners, blobUrls: await page.evaluate(() => globalThis.blobUrls) };
}

async function heldByServer(pair) {
	const { open_files, places } = await pair.resources();
	const live = (place) => Number(places.find(({ name }) => name === place).live);
	return { open_files, viewers: live('viewers'), page_connections: live('page_connections') };
}

test(`${RECONNECTS} reconnects leave nothing behind`, async () => {
	const pair = await Pair.start({ cameras: [card(1, 10)] });
	const browser = await startBrowser();
	try {
		const { page, context, complaints } = await open(browser, pair.url);
		const session = await context.newCDPSession(page);
		await picture(page, 'card-1');
		await reconnect(page, WARM_UP);
		await picture(page, 'card-1');
		const before = await held(session, page);
		const one = async () => (await heldByServer(pair)).viewers === 1;
		await until('one viewer', one);
		const server = await heldByServer(pair);
		await reconnect(page, RECONNECTS);
		await picture(page, 'card-1');
		const later = await held(session, page);
		await until('one viewer again', one);
		console.log('before', { ...before, ...server }, 'after', { ...later, ...(await heldByServer(pair)) });
		assert.ok(later.heap_bytes < before.heap_bytes + HEAP_SLACK_BYTES, 'the heap grew');
		for (const key of ['nodes', 'documents', 'listeners']) assert.ok(later[key] <= before[key] + NODES_SLACK, `${key}: ${before[key]}, then ${later[key]}`);
		assert.equal(later.blobUrls, 0);
		await until('the server holds no more', async () => {
			const now = await heldByServer(pair);
			return now.viewers === 1 && now.page_connections <= server.page_connections + 1 && now.open_files <= server.open_files + 1;
		});
		for (let round = 0; round < RELOADS; round += 1) {
			await page.reload();
			await picture(page, 'card-1');
		}
		await until('the server holds one viewer', one);
		assert.deepEqual(complaints, []);
		await context.close();
		await until('the server holds none', async () => {
			const now = await heldByServer(pair);
			return now.viewers === 0 && now.page_connections <= 1;
		});
		assert.equal((await pair.resources()).ledger_balance, 0);
	} finally {
		await browser.close();
		await pair.end();
	}
});

test('what a tab with 16 cameras costs', async () => {
	const pair = await Pair.start({ cameras: Array.from({ length: 16 }, (_, index) => card(index, 2)) });
	const browser = await startBrowser();
	try {
		const { page, context, complaints } = await open(browser, pair.url);
		const session = await context.newCDPSession(page);
		await until('16 live cameras', async () => (await page.locator('#cameras-live').innerText()) === '16 of 16');
		await picture(page, 'card-0');
		await session.send('Performance.enable', { timeDomain: 'threadTicks' });
		const metrics = async () => {
			const { metrics } = await session.send('Performance.getMetrics');
			return Object.fromEntries(metrics.map(({ name, value }) => [name, value]));
		};
		const begin = await metrics();
		const { uptime_s } = await pair.resources();
		await until('the time is over', async () => (await pair.resources()).uptime_s >= uptime_s + WATCHED_S, 60_000);
		const end = await metrics();
		const share = (name) => `${((100 * (end[name] - begin[name])) / (end.Timestamp - begin.Timestamp)).toFixed(1)} %`;
		const tasks = ['TaskDuration', 'ScriptDuration', 'LayoutDuration', 'RecalcStyleDuration'].map((name) => `${name} ${share(name)}`);
		console.log(`16 cameras: ${tasks.join(', ')} of one core; heap ${(end.JSHeapUsedSize / 1e6).toFixed(1)} MB, ${end.Nodes} nodes`);
		assert.deepEqual(complaints, []);
	} finally {
		await browser.close();
		await pair.end();
	}
});
