// The page in a browser, before the real services and real pictures.

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Pair, START_MS, browser as startBrowser, open, picture, pixels, setHidden, until } from './harness.js';

const CARD = 'id = "card"\nname = "Front door"\nsource = "pattern"';
const CLIP = join(import.meta.dirname, '../../../shared/media/face-demographics-walking-and-pause.mjpeg');
const MAX_PAGE_BYTES = 100_000;
// A line in a corner that the card's face does not reach.
const LINES = { 'people.lines': '[{ camera = "card", name = "door", from = [0.99, 0.99], to = [1.0, 0.99] }]' };
// Female, as 0xOOBBGGRR.
const ORANGE = 0xff28a0f0;

let browser;
before(async () => {
	browser = await startBrowser();
});
after(() => browser.close());

// A pair and an open page, both ended after `look`.
async function looking(options, look) {
	const pair = await Pair.start({ cameras: [CARD], ...options });
	try {
		const opened = await open(browser, pair.url, options.context);
		await look({ pair, ...opened });
		assert.deepEqual(opened.complaints, []);
		await opened.context.close();
	} finally {
		await pair.end();
	}
}

const labelOf = (tile) => tile.locator('canvas').getAttribute('aria-label');
const says = (page, selector, want) =>
	until(`${selector} says ${want}`, async () => {
		const place = page.locator(selector).first();
		return (await place.isVisible()) && want.test(await place.innerText());
	});
const calls = (page, method) => {
	const seen = [];
	page.on('request', (request) => request.url().endsWith(`/${method}`) && seen.push(request));
	return seen;
};

test('the right face, with its gender, and nothing from elsewhere', () => looking({}, async ({ pair, page, sizes }) => {
	const tile = await picture(page, 'Front door');
	await until('one female face', async () => (await labelOf(tile)) === 'Picture of Front door, 1 face female');
	await until('one female visit now', async () => /^1\s*F 1$/.test(await page.locator('#people-now .split').innerText()));
	// The box is drawn in the colour of its gender.
	await until('an orange box', async () => (await pixels(tile.locator('canvas'), ORANGE)) > 100);
	await says(page, '.tile .age', /^\d\.\d s ago$/);
	await says(page, '#cameras-live', /^1 of 1$/);
	await says(page, '#open-incidents', /^0$/);
	const bytes = [...sizes.values()].reduce((sum, size) => sum + size, 0);
	console.log(`the page: ${bytes} bytes in ${sizes.size} files`);
	assert.ok(bytes > 10_000 && bytes < MAX_PAGE_BYTES, `${bytes} bytes`);
	assert.equal(await page.evaluate(() => globalThis.blobUrls), 0);
	const response = await page.request.get(pair.url);
	assert.match(response.headers()['content-security-policy'], /default-src 'none'; script-src 'self'/);
}));

test('three faces in the shared clip', { skip: !existsSync(CLIP) && `SKIPPED: there is no ${CLIP}` }, () =>
	looking({ cameras: [`id = "clip"\nsource = "file:${CLIP}"`] }, async ({ page }) => {
		const tile = await picture(page, 'clip');
		await until('three faces', async () => / 3 faces /.test(await labelOf(tile)));
		await until('three visits now', async () => /^3\b/.test(await tile.locator('[data-part=now] .split').innerText()));
	}));

// A zone where it is noon now, so that today has a past and a future.
function zoneAtNoon() {
	const west = new Date().getUTCHours() - 12;
	return `Etc/GMT${west < 0 ? west : `+${west}`}`;
}

test('counts over the hour and the day, with the time that was not watched', () => looking({ context: { timezoneId: zoneAtNoon() } }, async ({ page }) => {
	// The history is a few seconds behind; the page asks once a minute.
	await picture(page, 'Front door');
	await until('a visit in the history', async () => {
		await page.reload();
		await picture(page, 'Front door');
		return page.locator('#hour .chart .female').first().isVisible({ timeout: 1000 });
	}, 2 * START_MS);
	for (const id of ['hour', 'day']) {
		// The day is asked for after the hour.
		await until(`lost time of the ${id}`, () => page.locator(`#${id} .chart .lost`).count());
		await says(page, `#${id} .summary`, /not watched/);
		await page.locator(`#${id} summary`).click();
		// The table is filled by an event that comes after the click.
		await says(page, `#${id} tbody`, /–\s+–\s+–\s+–\s+100 %/);
	}
}));

test('without a history it says so', () => looking({ settings: { 'history.file': '""' } }, async ({ page }) => {
	await says(page, '#no-history', /No history is kept \(history\.file\)/);
	assert.equal(await page.locator('#hour').isVisible(), false);
}));

test('blurred pictures where only they are allowed', () => looking({ settings: { 'privacy.mode': '"blurred"' } }, async ({ page }) => {
	const tile = await picture(page, 'Front door');
	await until('one face', async () => / 1 face female/.test(await labelOf(tile)));
}));

test('no pictures and no counts where they are withheld', () => looking({ settings: { 'privacy.mode': '"counts_only"' } }, async ({ page }) => {
	await says(page, '.picture p', /Pictures are not shown: .*\(privacy\.mode\)/);
	for (const id of ['people-now', 'people-visits']) await says(page, `#${id} .split`, /^withheld$/);
	await says(page, '.tile [data-part=now] .split', /^withheld$/);
	await says(page, '#hour .summary', /columns of 15 minutes|knows no camera/);
	await until('a camera that is fresh', () => page.locator('.tile:not(.stale)').count());
}));

test('a line is reset after asking', () => looking({ settings: LINES }, async ({ page }) => {
	await picture(page, 'Front door');
	const reset = page.getByRole('button', { name: 'Reset door' });
	const asked = calls(page, 'ResetOccupancy');
	await reset.click();
	await page.getByRole('button', { name: 'Cancel' }).click();
	assert.equal(await page.locator('dialog').isVisible(), false);
	assert.equal(asked.length, 0);
	// The page gives the focus back.
	assert.equal(await reset.evaluate((button) => button === document.activeElement), true);
	await reset.press('Enter');
	await page.getByLabel('People beyond it').fill('1.5');
	await page.keyboard.press('Enter');
	await says(page, '#question-error', /whole number/);
	await page.getByLabel('People beyond it').fill('7');
	await page.getByRole('button', { name: 'Set', exact: true }).click();
	await until('7 inside', async () => (await page.locator('.tile tbody td').nth(2).innerText()) === '7');
	assert.equal(asked.length, 1);
	// A picture may tell of it before the answer does.
	await until('no question', async () => !(await page.locator('dialog').isVisible()));
}));

test('a token is asked for once and kept for the tab', () => looking({ role: 'snapshot' }, async ({ pair, page }) => {
	const words = page.locator('#question-words');
	const field = page.getByLabel('Token', { exact: true });
	await says(page, '#question-words', /a token is needed/);
	await until('a wrong one is not known', async () => {
		await field.fill('flatframe_wrong');
		if (/not known/.test(await words.innerText())) return true;
		// Once more, where a call without a token was still on its way.
		await page.keyboard.press('Enter');
		return false;
	});
	await field.fill(pair.token);
	await page.getByRole('button', { name: 'Use', exact: true }).click();
	await picture(page, 'Front door');
	await page.reload();
	await picture(page, 'Front door');
	assert.equal(await page.locator('dialog').isVisible(), false);
	assert.equal(page.url().includes(pair.token), false);
}));

test('without the role for pictures the rest is shown', () => looking({ role: 'read' }, async ({ pair, page }) => {
	await says(page, '#question-words', /a token is needed/);
	await page.getByLabel('Token', { exact: true }).fill(pair.token);
	await page.keyboard.press('Enter');
	await says(page, '.picture p', /Pictures are not shown: .*role read/);
	await until('a camera that is fresh', () => page.locator('.tile:not(.stale)').count());
}));

test('a restart of the server is survived, and what is gone goes', () => looking({}, async ({ pair, page }) => {
	await picture(page, 'Front door');
	await page.evaluate(() => {
		globalThis.isSame = true;
	});
	await pair.server.end();
	await says(page, '#link-state', /^Reconnecting$/);
	await says(page, '#link-age', /last data \d+(\.\d)? s ago/);
	await until('the old picture is grey', () => page.locator('.tile.stale').count());
	await pair.startServer();
	await picture(page, 'Front door');
	await says(page, '#link-state', /^Connected$/);
	// A server that has seen no camera yet.
	await pair.ingest.end();
	await says(page, '.picture p', /offline/);
	await pair.server.end();
	await pair.startServer();
	await says(page, '#no-cameras', /No camera has connected yet/);
	assert.equal(await page.locator('.tile').count(), 0);
	assert.equal(await page.evaluate(() => globalThis.isSame), true);
}));

test('a camera that goes offline is grey, with the reason, and becomes an incident', () =>
	looking({ settings: { 'incidents.offline_s': '0' } }, async ({ pair, page }) => {
		await picture(page, 'Front door');
		await pair.ingest.end();
		await says(page, '.picture p', /^offline/);
		await until('grey', () => page.locator('.tile.stale').count());
		await says(page, '#incident-rows li', /offline\s+Front door[^]*still open/);
		await until('it is spoken', async () => /offline: Front door/.test(await page.locator('#spoken').textContent()));
		await says(page, '#cameras-live', /^0 of 1$/);
		// The one that is open is the first.
		const row = page.locator('#incident-rows li').first();
		const moments = row.locator('.moments figure');
		await row.locator('summary').click();
		await until('how it looked', () => moments.locator('canvas').evaluate(({ width, height }) => width >= 320 && height >= 200));
		await says(page, '.moments figcaption', /^when it began$/);
		assert.equal(await moments.count(), 1, 'it is not over');
		await row.locator('summary').click();
		await until('given back', async () => (await moments.count()) === 0);
	}));

test('a hidden tab asks nothing and comes back', () => looking({}, async ({ pair, page }) => {
	await picture(page, 'Front door');
	await until('a viewer', async () => (await pair.live('viewers')) === 1);
	await setHidden(page, true);
	await until('no viewer', async () => (await pair.live('viewers')) === 0);
	const asked = [];
	page.on('request', (request) => asked.push(request.url()));
	const { uptime_s } = await pair.resources();
	await until('five more seconds of the server', async () => (await pair.resources()).uptime_s >= uptime_s + 5);
	assert.deepEqual(asked, []);
	await setHidden(page, false);
	await picture(page, 'Front door');
	await until('a viewer', async () => (await pair.live('viewers')) === 1);
}));

test('only the live view has a stream, and one', () => looking({}, async ({ pair, page }) => {
	await picture(page, 'Front door');
	await until('one viewer', async () => (await pair.live('viewers')) === 1);
	await page.getByRole('link', { name: 'Health' }).click();
	await until('no viewer', async () => (await pair.live('viewers')) === 0);
	await says(page, '#rss', /MiB/);
	await says(page, '#balance', /^0$/);
	await says(page, '#places', /viewers\s+0 \/ \d+/);
	await says(page, '#stages', /detect\s+[\d.]+ (µs|ms)/);
	await says(page, '#ledger-cameras', /captured\s+[1-9]/);
	await until('a line of memory', () => page.locator('#memory-chart .line').count());
	await page.goBack();
	await picture(page, 'Front door');
}));

test('by keyboard alone', () => looking({}, async ({ page }) => {
	await picture(page, 'Front door');
	const focused = () => page.evaluate(() => {
		const at = document.activeElement;
		const { outlineStyle, outlineWidth } = getComputedStyle(at);
		const words = (at.ariaLabel ?? at.textContent).trim().split(/\s+/)[0];
		return { words, isSeen: at.matches(':focus-visible') && outlineStyle !== 'none' && outlineWidth !== '0px' };
	});
	const walk = [];
	for (let step = 0; step < 8; step += 1) {
		await page.keyboard.press('Tab');
		const { words, isSeen } = await focused();
		assert.ok(isSeen, `the focus on ${words} cannot be seen`);
		walk.push(words);
	}
	assert.deepEqual(walk, ['Skip', 'Live', 'Counts', 'Incidents', 'Health', 'Enlarge', 'As', 'As']);
	await page.locator('.skip').press('Enter');
	// A browser gives it the focus with the next frame that it draws.
	await until('the content has the focus', () => page.evaluate(() => document.activeElement.id === 'content'));
	await page.keyboard.press('Tab');
	await page.keyboard.press('Space');
	assert.equal(await page.locator('.tile.large').count(), 1);
	await page.keyboard.press('Tab');
	await page.keyboard.press('Enter');
	assert.ok(await page.locator('#hour table').isVisible());
	await page.getByRole('link', { name: 'Counts' }).press('Enter');
	await says(page, 'nav [aria-current=page]', /^Counts$/);
	assert.equal(await page.title(), 'Counts – Flatframe');
}));

test('no known barrier in any view, light or dark', () => looking({ settings: LINES }, async ({ page }) => {
	const axe = readFileSync(join(import.meta.dirname, 'node_modules/axe-core/axe.min.js'), 'utf8');
	await picture(page, 'Front door');
	await page.evaluate(axe);
	for (const colorScheme of ['light', 'dark']) {
		await page.emulateMedia({ colorScheme });
		for (const view of ['Live', 'Counts', 'Incidents', 'Health']) {
			await page.getByRole('link', { name: view }).click();
			const { violations } = await page.evaluate(() => globalThis.axe.run());
			const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join('; ')}`);
			assert.deepEqual(told, [], `${view}, ${colorScheme}`);
		}
	}
}));
