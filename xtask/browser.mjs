// browser.mjs ADDRESS FOLDER: opens the page of a running demo as a person would, and checks that
// it shows the fleet live. Screenshots go to FOLDER. Run by `cargo xtask browser`.
import { chromium } from 'playwright-core';

const [address, folder] = process.argv.slice(2);
const DEVICES_MIN = 12;
const WAIT_MS = 120_000;
const WIDTHS = [1440, 390];
const failures = [];
const check = (holds, what) => {
  console.log(`${holds ? 'ok' : 'FAILED'}  ${what}`);
  if (!holds) failures.push(what);
};

const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const page = await browser.newPage({ viewport: { width: WIDTHS[0], height: 900 } });

const origin = new URL(address).origin;
const errors = [], foreign = [];
let loads = 0;
page.on('console', (message) => { if (message.type() === 'error') errors.push(message.text()); });
page.on('pageerror', (error) => errors.push(String(error)));
page.on('request', (request) => { if (new URL(request.url()).origin !== origin) foreign.push(request.url()); });
page.on('load', () => { loads += 1; });

// What every progress bar showed, looked at often: `label -> [values in the order seen]`.
await page.addInitScript(() => {
  window.barsSeen = {};
  setInterval(() => {
    for (const bar of document.querySelectorAll('[role=progressbar]')) {
      const seen = window.barsSeen[bar.getAttribute('aria-label')] ??= [];
      const value = Number(bar.getAttribute('aria-valuenow'));
      if (seen.at(-1) !== value) seen.push(value);
    }
  }, 20);
});

try {
  await page.goto(address, { waitUntil: 'load' });
  const rows = page.getByTestId('device');
  await rows.nth(DEVICES_MIN - 1).waitFor({ timeout: WAIT_MS });
  check(true, `${await rows.count()} device rows appear`);

  const moved = () => Object.entries(window.barsSeen).some(([label, seen]) =>
    label.startsWith('Download of') && seen.includes(100) && seen.some((value) => value > 0 && value < 100));
  await page.waitForFunction(moved, null, { timeout: WAIT_MS, polling: 100 });
  const seen = await page.evaluate(() => window.barsSeen);
  check(loads === 1, 'a download moves to 100 % while one looks, without a reload');
  const wrong = Object.entries(seen).filter(([, values]) => values.some((value) => value < 0 || value > 100));
  check(wrong.length === 0, `no bar leaves 0 to 100 (${Object.keys(seen).length} bars seen)`);

  for (const width of WIDTHS) {
    await page.setViewportSize({ width, height: 900 });
    await page.waitForTimeout(500);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    check(overflow <= 0, `no horizontal scroll at ${width} px`);
    await page.screenshot({ path: `${folder}/fleet-${width}.png`, fullPage: true });
  }
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.setViewportSize({ width: WIDTHS[0], height: 900 });
  await page.screenshot({ path: `${folder}/fleet-dark.png` });
} catch (error) {
  check(false, String(error));
  await page.screenshot({ path: `${folder}/failed.png` }).catch(() => {});
}
check(errors.length === 0, `no error on the console${errors.map((text) => `\n        ${text}`).join('')}`);
check(foreign.length === 0, `no request to another origin ${foreign.join(' ')}`);
await browser.close();
console.log(`${folder}: screenshots`);
process.exit(failures.length ? 1 : 0);
