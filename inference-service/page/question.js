// The question that the page asks a person, one at a time, and what is done with
// the answer.

import { byId, setHidden, setText } from './dom.js';

const dialog = byId('question');
const field = byId('question-field');
const button = byId('question-yes');
let act;

// Asks for a value; `then(field)` uses it, and throws what is wrong with it.
export function ask({ title, words, label, yes, type, value = '' }, then) {
	act = then;
	for (const [part, text] of Object.entries({ title, words, label, yes })) setText(byId(`question-${part}`), text);
	field.type = type;
	field.value = value;
	complain('');
	dialog.showModal();
	field.select();
}

export const isAsking = () => dialog.open;

async function answer() {
	if (button.disabled) return;
	const asked = act;
	button.disabled = true;
	try {
		await asked(field);
		if (act === asked) dialog.close();
	} catch (error) {
		complain(error.message);
	} finally {
		button.disabled = false;
	}
}

function complain(words) {
	setText(byId('question-error'), words);
	setHidden(byId('question-error'), words === '');
}

byId('question-cancel').addEventListener('click', () => dialog.close());
button.addEventListener('click', answer);
field.addEventListener('keydown', (event) => event.key === 'Enter' && answer());
