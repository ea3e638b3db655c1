// The real services as child processes, and a browser that looks at the page.
// Everything ends with the test that started it; every wait has a limit.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { chromium } from 'playwright-core';
import { Client } from '../../inference-service/page/grpc_web.js';

const here = import.meta.dirname;
const BINARIES = process.env.FLATFRAME_BIN ?? join(here, '../../target/debug');
const CHROMIUM = process.env.FLATFRAME_CHROMIUM ?? '/usr/bin/chromium';
// With FLATFRAME_PAGE the page's files come from that folder, not from the
// binary: to try a change without a build.
const PAGE = process.env.FLATFRAME_PAGE;
const CSP =
	"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const TYPES = { html: 'text/html; charset=utf-8', css: 'text/css', js: 'text/javascript' };
const CHROMIUM_FLAGS = [
	'--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
	'--disable-component-update', '--disable-sync', '--js-flags=--expose-gc', '--enable-precise-memory-info',
];
export const START_MS = 60_000;
const END_MS = 15_000;
const AGAIN_MS = 50;
const BLACK = 0xff000000;

// Waits until `check` gives something true, and gives that.
export async function until(what, check, limit_ms = START_MS) {
	const end = performance.now() + limit_ms;
	let last;
	for (;;) {
		try {
			const value = await check();
			if (value) return value;
			last = undefined;
		} catch (error) {
			last = error;
		}
		if (performance.now() > end) throw new Error(`not within ${limit_ms} ms: ${what}`, { cause: last });
		await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
	}
}

// All are held until the last is known: no two are the same.
async function freePorts(count) {
	const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
	await Promise.all(servers.map((server) => once(server, 'listening')));
	const ports = servers.map((server) => server.address().port);
	await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
	return ports;
}

class Service {
	#child;
	#ended;

	constructor(name, args) {
		const path = join(BINARIES, name);
		assert.ok(existsSync(path), `${path} is not built: run cargo build --workspace`);
		const log = process.env.FLATFRAME_TEST_LOG ? 'inherit' : 'ignore';
		this.#child = spawn(path, args, { stdio: ['ignore', log, log] });
		this.#ended = new Promise((resolve) => this.#child.once('exit', resolve));
	}

	get hasEnded() {
		return this.#child.exitCode !== null || this.#child.signalCode !== null;
	}

	async end() {
		this.#child.kill('SIGTERM');
		const timer = setTimeout(() => this.#child.kill('SIGKILL'), END_MS);
		await this.#ended;
		clearTimeout(timer);
	}
}

// Both services on free ports with `cameras`, lines of TOML each; `settings` of
// inference-service are TOML by key; with `role` clients need a token, and
// `pair.token` has that role.
export class Pair {
	static async start({ cameras = ['id = "card"\nsource = "pattern"'], settings = {}, role } = {}) {
		const pair = new Pair();
		pair.folder = mkdtempSync(join(tmpdir(), 'flatframe-page-'));
		const [grpc, admin, page, ingestAdmin] = await freePorts(4);
		pair.ports = { grpc, admin, page, ingest: ingestAdmin };
		const all = {
			'history.file': JSON.stringify(join(pair.folder, 'history.db')),
			'history.min_free_bytes': '1',
			'telemetry.log': '"warn"',
			...(role ? { 'auth.tokens': JSON.stringify(join(pair.folder, 'tokens.toml')) } : {}),
			...settings,
		};
		for (const name of ['grpc', 'admin', 'page']) all[`listen.${name}`] = `"127.0.0.1:${pair.ports[name]}"`;
		writeFileSync(join(pair.folder, 'inference.toml'), Object.entries(all).map(([key, value]) => `${key} = ${value}`).join('\n'));
		pair.url = `http://127.0.0.1:${pair.ports.page}/`;
		pair.client = new Client(pair.url.slice(0, -1));
		if (role) {
			const file = join(pair.folder, 'tokens.toml');
			const command = ['tokens', 'add', 'page', '--role', role, '--file', file];
			pair.token = execFileSync(join(BINARIES, 'inference-service'), command, { encoding: 'utf8' }).trim();
			pair.client.token = pair.token;
		}
		const ingest = [
			`server.address = "http://127.0.0.1:${pair.ports.grpc}"`,
			`admin.listen = "127.0.0.1:${pair.ports.ingest}"`,
			'telemetry.log = "warn"',
			...cameras.map((camera) => `[[camera]]\n${camera}`),
		];
		writeFileSync(join(pair.folder, 'ingest.toml'), ingest.join('\n'));
		await pair.startServer();
		pair.startIngest();
		return pair;
	}

	async startServer() {
		this.server = new Service('inference-service', ['--config', join(this.folder, 'inference.toml')]);
		try {
			await until('the server answers', () => this.server.hasEnded || this.resources());
			assert.ok(!this.server.hasEnded, 'inference-service ended: FLATFRAME_TEST_LOG=1 shows why');
		} catch (error) {
			await this.end();
			throw error;
		}
	}

	startIngest() {
		this.ingest = new Service('ingest-service', ['--config', join(this.folder, 'ingest.toml')]);
	}

	resources() {
		return this.client.unary('GetResources', {}, { deadline_ms: 20_000 });
	}

	// What a place holds now, by name.
	async live(place) {
		const { places } = await this.resources();
		const found = places.find(({ name }) => name === place);
		assert.ok(found, `there is no place ${place}: ${places.map(({ name }) => name)}`);
		return Number(found.live);
	}

	async end() {
		await Promise.all([this.ingest, this.server].map((service) => service?.end()));
		rmSync(this.folder, { recursive: true });
	}
}

export const browser = () => chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_FLAGS });

// A page that is watched: `complaints` are errors and requests to elsewhere.
export async function open(browser, url, options = {}) {
	const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
	const complaints = [];
	const sizes = new Map();
	context.on('request', (request) => {
		if (!request.url().startsWith(url) && !request.url().startsWith('data:')) complaints.push(`asks ${request.url()}`);
	});
	if (PAGE) await context.route((asked) => /^\/([a-z_]+\.[a-z]+)?$/.test(asked.pathname), serveFromFolder);
	// Pictures that were not given back would show here.
	await context.addInitScript(() => {
		globalThis.blobUrls = 0;
		const { createObjectURL, revokeObjectURL } = URL;
		URL.createObjectURL = (...blob) => ((globalThis.blobUrls += 1), createObjectURL.apply(URL, blob));
		URL.revokeObjectURL = (...name) => ((globalThis.blobUrls -= 1), revokeObjectURL.apply(URL, name));
	});
	const page = await context.newPage();
	page.on('pageerror', (error) => complaints.push(`throws ${error.stack}`));
	page.on('console', (message) => {
		// A server that is away is told by the browser itself.
		const isAway = /net::ERR_(CONNECTION|EMPTY_RESPONSE|INCOMPLETE)/.test(message.text());
		if (['error', 'warning'].includes(message.type()) && !isAway) complaints.push(message.text());
	});
	page.on('response', async (response) => {
		if (response.request().method() !== 'GET') return;
		const body = await response.body().catch(() => Buffer.alloc(0));
		sizes.set(new URL(response.url()).pathname, body.length);
	});
	const { ok, status } = await page.goto(url).then((response) => ({ ok: response.ok(), status: response.status() }));
	assert.ok(ok, `the page is answered with HTTP ${status}`);
	return { context, page, complaints, sizes };
}

async function serveFromFolder(route) {
	const name = basename(new URL(route.request().url()).pathname) || 'index.html';
	const path = join(PAGE, name);
	if (!existsSync(path)) return route.fulfill({ status: 404, body: '' });
	const headers = { 'content-type': TYPES[name.split('.').pop()], 'content-security-policy': CSP };
	return route.fulfill({ headers, body: readFileSync(path) });
}

// How many pixels of a canvas are of a colour, 0xOOBBGGRR. A copy is read: the
// page's own canvas is never read back.
export const pixels = (canvas, colour) => canvas.evaluate((canvas, colour) => {
	const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
	copy.drawImage(canvas, 0, 0);
	const all = new Uint32Array(copy.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
	return all.filter((pixel) => pixel === colour).length;
}, colour);

// Waits until a camera's tile shows a picture that is not black, live.
export async function picture(page, name) {
	const tile = page.locator('.tile', { has: page.getByRole('heading', { name, exact: true }) });
	const canvas = tile.locator('canvas');
	await until(`a live picture of ${name}`, async () => {
		const area = await tile.evaluate((root) => {
			const { width, height } = root.querySelector('canvas');
			return root.classList.contains('stale') || width < 100 ? 0 : width * height;
		});
		return area > 0 && (await pixels(canvas, BLACK)) < area / 2;
	});
	return tile;
}

// As if the tab went behind another or came back.
export const setHidden = (page, isHidden) => page.evaluate((state) => {
	Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });
	document.dispatchEvent(new Event('visibilitychange'));
}, isHidden ? 'hidden' : 'visible');
