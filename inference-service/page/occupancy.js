// Sets how many people are beyond a line, after asking.

import { byId, setText } from './dom.js';
import { ask } from './question.js';

const DEADLINE_MS = 5000;
const MOST = 1_000_000;

// `done()` when it is set.
export function askOccupancy(client, camera_id, { name, occupancy }, done) {
	const words = `How many people are beyond “${name}” of ${camera_id} now? It says ${occupancy}.`;
	ask({ title: 'Reset the line', words, label: 'People beyond it', yes: 'Set', type: 'number', value: '0' }, async (field) => {
		const people = field.valueAsNumber;
		if (!Number.isInteger(people) || Math.abs(people) > MOST) throw new Error('Use a whole number.');
		try {
			await client.unary('ResetOccupancy', { camera_id, name, occupancy: people }, { deadline_ms: DEADLINE_MS });
		} catch (error) {
			throw new Error(`Not set: ${error.message}`);
		}
		setText(byId('spoken'), `${name} is set to ${people}.`);
		done();
	});
}
