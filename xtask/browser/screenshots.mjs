// screenshots.mjs ADDRESS FOLDER: the three pictures of the dashboard that README shows, of a demo
// in the middle of its story. Run by `cargo xtask screenshots`.
import { chromium } from 'playwright-core';
import { mkdirSync, statSync } from 'node:fs';

const [address, folder] = process.argv.slice(2);
const STORY_MS = 180_000;
const PICTURES = [
  ['fleet', '/', { width: 1280, height: 800, scheme: 'light' }],
  ['rollout', '/rollouts/r-2', { width: 1280, height: 800, scheme: 'dark' }],
  ['device', '/devices/ESP32-005?rollout=2', { width: 390, height: 844, scheme: 'light' }],
];

mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking'] });
const page = await browser.newPage();
await page.goto(address);
// The most telling moment: the failure limit has just paused the rollout.
for (const end = Date.now() + STORY_MS; ;) {
  // Not there yet, or not yet of a rollout: both are waited for.
  const reply = await page.request.get(`${new URL(address).origin}/api/v1/rollouts/2`);
  const rollout = reply.ok() ? await reply.json() : null;
  if (rollout?.state === 'paused' && rollout.counts.updating === 0) break;
  if (Date.now() > end) throw new Error('the story did not come to its pause');
  await new Promise((wake) => setTimeout(wake, 100));
}
for (const [name, path, { width, height, scheme }] of PICTURES) {
  await page.emulateMedia({ colorScheme: scheme });
  await page.setViewportSize({ width, height });
  await page.goto(new URL(address).origin + path, { waitUntil: 'load' });
  await page.getByTestId('warning').evaluateAll((banners) => banners.forEach((banner) => banner.remove()));
  await page.waitForTimeout(300);
  const file = `${folder}/${name}.png`;
  await page.screenshot({ path: file });
  console.log(`${file}: ${statSync(file).size} bytes`);
}
await browser.close();
