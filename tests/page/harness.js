// The real services as child processes, and a browser that looks at the page.
// Everything ends with the test that started it; every wait has a limit.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
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
export const START_MS = 30_000;
const END_MS = 15_000;
const AGAIN_MS = 50;

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

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
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

  async end() {
    this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), END_MS);
    await this.#ended;
    clearTimeout(timer);
  }
}

// Both services on free ports with `cameras` (lines of TOML each); `settings`
// are inference-service's.
export class Pair {
  static async start({ cameras = ['id = "card"\nsource = "pattern"'], settings = {} } = {}) {
    const pair = new Pair();
    pair.folder = mkdtempSync(join(tmpdir(), 'flatframe-page-'));
    pair.ports = { grpc: await freePort(), admin: await freePort(), page: await freePort(), ingest: await freePort() };
    const all = { 'history.file': join(pair.folder, 'history.db'), 'history.min_free_bytes': 1, 'telemetry.log': 'warn', ...settings };
    for (const name of ['grpc', 'admin', 'page']) all[`listen.${name}`] = `127.0.0.1:${pair.ports[name]}`;
    pair.settings = Object.entries(all).flatMap(([key, value]) => ['--set', `${key}=${value}`]);
    pair.url = `http://127.0.0.1:${pair.ports.page}/`;
    pair.client = new Client(pair.url.slice(0, -1));
    const config = [
      `[server]\naddress = "http://127.0.0.1:${pair.ports.grpc}"`,
      `[admin]\nlisten = "127.0.0.1:${pair.ports.ingest}"`,
      '[telemetry]\nlog = "warn"',
      ...cameras.map((camera) => `[[camera]]\n${camera}`),
    ];
    pair.config = join(pair.folder, 'ingest.toml');
    writeFileSync(pair.config, config.join('\n'));
    await pair.startServer();
    pair.ingest = new Service('ingest-service', ['--config', pair.config]);
    return pair;
  }

  async startServer() {
    this.server = new Service('inference-service', this.settings);
    await until('the server answers', () => this.resources());
  }

  resources() {
    return this.client.unary('GetResources', {}, { deadline_ms: 5000 });
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
  await page.goto(url);
  return { context, page, complaints, sizes };
}

async function serveFromFolder(route) {
  const name = basename(new URL(route.request().url()).pathname) || 'index.html';
  const path = join(PAGE, name);
  if (!existsSync(path)) return route.fulfill({ status: 404, body: '' });
  const headers = { 'content-type': TYPES[name.split('.').pop()], 'content-security-policy': CSP };
  return route.fulfill({ headers, body: readFileSync(path) });
}

// Waits until a camera's tile shows a picture that is not black, live.
export async function picture(page, name) {
  const tile = page.locator('.tile', { has: page.getByRole('heading', { name, exact: true }) });
  await until(`a live picture of ${name}`, () => tile.evaluate((root) => {
    const canvas = root.querySelector('canvas');
    if (root.classList.contains('stale') || canvas.width < 100) return false;
    const { data } = canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1);
    return data[0] + data[1] + data[2] > 0;
  }));
  return tile;
}

// As if the tab went behind another or came back.
export const setHidden = (page, isHidden) => page.evaluate((state) => {
  Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}, isHidden ? 'hidden' : 'visible');
