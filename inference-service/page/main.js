// Starts the page: what is asked of the server and how often, which view is
// shown, and rest while nobody looks.

import { Counts } from './counts.js';
import { byId } from './dom.js';
import { Glance } from './glance.js';
import { Client } from './grpc_web.js';
import { Health } from './health.js';
import { Incidents } from './incidents.js';
import { Link } from './link.js';
import { Live } from './live.js';
import { askOccupancy } from './occupancy.js';
import { Repeat } from './repeat.js';
import { askToken, keptToken } from './token.js';

const CAMERAS_EVERY_MS = 2000;
const CAMERAS_DEADLINE_MS = 4000;
const INCIDENTS_EVERY_MS = 5000;
const COUNTS_EVERY_MS = 60_000;
const HEALTH_EVERY_MS = 2000;
const HEALTH_UNSEEN_EVERY_MS = 10_000;
// The stream of pictures ends only when the server ends it.
const PICTURES_AGAIN_MS = 1000;
const TICK_MS = 250;
const VIEWS = { live: 'Live', counts: 'Counts', incidents: 'Incidents', health: 'Health' };

const client = new Client();
client.token = keptToken();
const link = new Link();
const glance = new Glance();
const counts = new Counts(client);
const incidents = new Incidents(client);
const health = new Health(client);
const live = new Live(client, {
	reset: (camera, crossing) => askOccupancy(client, camera, crossing, () => repeats.cameras.hurry()),
});

async function askCameras(signal, heard) {
	const { cameras } = await client.unary('ListCameras', {}, { deadline_ms: CAMERAS_DEADLINE_MS, signal });
	heard();
	incidents.cameras = cameras;
	glance.cameras = cameras;
	health.cameras = cameras;
	live.show(cameras);
}

// A call of one kind, again and again; the link hears how it goes.
function repeat(kind, every_ms, call, alsoFailed = () => {}) {
	const run = (signal, succeeds) =>
		call(signal, () => {
			succeeds();
			link.heard(kind);
		});
	const failed = (error) => {
		link.failed(kind, error);
		alsoFailed(error);
		askToken(client, error, hurry);
	};
	return new Repeat({ run, every_ms, failed });
}

const repeats = {
	cameras: repeat('cameras', CAMERAS_EVERY_MS, askCameras),
	pictures: repeat('pictures', PICTURES_AGAIN_MS, (...call) => live.watch(...call), (error) => live.failed(error)),
	incidents: repeat('incidents', INCIDENTS_EVERY_MS, (...call) => incidents.ask(...call)),
	counts: repeat('counts', COUNTS_EVERY_MS, (...call) => counts.ask(...call), (error) => counts.failed(error)),
	health: repeat('health', HEALTH_UNSEEN_EVERY_MS, (...call) => health.ask(...call)),
};

let view = 'live';
let ticking;

const hurry = () => Object.values(repeats).forEach((repeat) => repeat.hurry());

// What is asked follows from what is seen.
function follow() {
	const isSeen = document.visibilityState === 'visible';
	for (const [kind, repeat] of Object.entries(repeats)) {
		if (isSeen && (kind !== 'pictures' || view === 'live')) {
			repeat.start();
		} else {
			repeat.stop();
			link.forget(kind);
		}
	}
	repeats.health.every_ms = view === 'health' ? HEALTH_EVERY_MS : HEALTH_UNSEEN_EVERY_MS;
	clearInterval(ticking);
	if (isSeen) ticking = setInterval(tick, TICK_MS);
}

function tick() {
	link.tick();
	if (view === 'live') live.tick();
	incidents.tick();
}

function showView() {
	const asked = location.hash.slice(1);
	// Other targets, such as the skip link's, leave the view as it is.
	if (Object.hasOwn(VIEWS, asked)) view = asked;
	else if (asked === '') view = 'live';
	document.body.dataset.view = view;
	document.title = `${VIEWS[view]} – Flatframe`;
	for (const anchor of byId('views').querySelectorAll('a')) {
		if (anchor.hash === `#${view}`) anchor.setAttribute('aria-current', 'page');
		else anchor.removeAttribute('aria-current');
	}
	follow();
}

addEventListener('hashchange', showView);
document.addEventListener('visibilitychange', follow);
addEventListener('online', hurry);
// A page that leaves, also into the browser's memory, holds no connection.
addEventListener('pagehide', () => Object.values(repeats).forEach((repeat) => repeat.stop()));
addEventListener('pageshow', (event) => event.persisted && follow());
showView();
