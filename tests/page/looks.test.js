// What the page looks like, from a phone to a wall. With FLATFRAME_SHOTS the
// pictures are kept in that folder; nothing may stick out sideways.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Pair, browser as startBrowser, open, picture, until } from './harness.js';

const FOLDER = process.env.FLATFRAME_SHOTS;
const SIZES = { phone: [360, 740], tablet: [820, 1180], desktop: [1440, 900], wall: [2560, 1440] };
const VIEWS = ['live', 'counts', 'incidents', 'health'];
const CAMERAS = [
	'id = "1"\nname = "Front door"\nsource = "pattern"\nfps = 5.0',
	'id = "2"\nname = "Back yard"\nsource = "pattern"\nfps = 5.0\nfaces = 2\nseed = 2',
	'id = "3"\nname = "Bus 12, rear door"\nsource = "pattern"\nfps = 5.0\nfaces = 3\nseed = 3',
	'id = "4-a-camera-with-a-name-that-does-not-fit-anywhere"\nsource = "pattern"\nfps = 5.0\nseed = 4',
];
const LINES = '[{ camera = "3", name = "door", from = [0.5, 0.0], to = [0.5, 1.0] }]';

test('nothing sticks out, at any size', async () => {
	const pair = await Pair.start({ cameras: CAMERAS, settings: { 'people.lines': LINES } });
	const browser = await startBrowser();
	try {
		for (const [size, [width, height]] of Object.entries(SIZES)) {
			for (const colorScheme of ['light', 'dark']) {
				const { context, page, complaints } = await open(browser, pair.url, { viewport: { width, height }, colorScheme, reducedMotion: 'reduce' });
				for (const view of VIEWS) {
					await page.goto(`${pair.url}#${view}`);
					if (view === 'live') await picture(page, 'Front door');
					if (view === 'health') await until('memory', () => page.locator('#memory-chart .line').count());
					const wide = await page.evaluate(() => document.scrollingElement.scrollWidth - innerWidth);
					assert.ok(wide <= 0, `${size} ${view}: ${wide} px too wide`);
					if (FOLDER) {
						mkdirSync(FOLDER, { recursive: true });
						await page.screenshot({ path: join(FOLDER, `${size}-${colorScheme}-${view}.png`) });
					}
				}
				assert.deepEqual(complaints, []);
				await context.close();
			}
		}
	} finally {
		await browser.close();
		await pair.end();
	}
});
