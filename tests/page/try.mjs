import { Pair, browser, open, picture, until } from './harness.js';
const pair = await Pair.start({ cameras: ['id = "card"\nname="Front door"\nsource = "pattern"'] , settings: {} });
const b = await browser();
try {
  const { page, complaints, sizes } = await open(b, pair.url);
  await picture(page, 'Front door');
  await page.waitForTimeout(4000);
  await page.screenshot({ path: '/tmp/mock/r.png' });
  console.log(JSON.stringify(await pair.resources(), (k, v) => typeof v === 'bigint' ? String(v) : k === 'samples' ? v.length : v, 1));
  console.log(complaints, [...sizes.values()].reduce((a, b) => a + b, 0));
} catch (e) { console.log(e); } finally { await b.close(); await pair.end(); }
