// Releases, settings, activity and the connect page, on a server of their own.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Own } from './own.mjs';
import { api, equal, holds, until } from './tests.mjs';

export async function screens(tests, fota, images) {
  const server = new Own(fota);
  try {
    const page = await tests.page(await server.serve('127.0.0.1:0'));
    await connect(tests, page, server);
    await facts(tests, page, server, images[0]);
    await mismatch(tests, page, server, images[1]);
    await tail(tests, page, server);
    await settings(tests, page, server);
    await look(tests, page, server);
  } finally {
    await server.end();
  }
}

async function connect(tests, page, server) {
  await tests.criterion('connect', 'a device appears on the page as it checks in, without a reload', async () => {
    await page.goto(`${server.origin}/connect?with=simulated`);
    let loads = 0;
    page.on('load', () => { loads += 1; });
    holds((await page.locator('#watch').textContent()).includes('Waiting for the first check-in'), 'no wait');
    const began = Date.now();
    server.sim('NEW-', 2);
    await page.getByTestId('newest').filter({ hasText: 'NEW-001' }).waitFor({ timeout: 15_000 });
    await page.getByTestId('newest').filter({ hasText: 'NEW-002' }).waitFor({ timeout: 15_000 });
    equal(loads, 0, 'reloads');
    return `${Date.now() - began} ms after its start`;
  });
}

async function drop(page, bytes, name) {
  await page.getByTestId('file').setInputFiles({ name, mimeType: 'application/octet-stream', buffer: bytes });
}

// `Label: value` lines of `esptool image-info`.
function told(esptool, file) {
  const lines = execFileSync(esptool, ['image-info', file], { encoding: 'utf8' }).split('\n');
  const value = (label) => lines.find((line) => line.startsWith(`${label}:`))?.slice(label.length + 1).trim() ?? '';
  return { Product: value('Project name'), Version: value('App version'), 'ESP-IDF': value('ESP-IDF'),
    'Secure version': value('Secure version'), 'ELF SHA-256': value('ELF file SHA256'),
    'Validation hash': value('Validation hash').split(' ')[0], Compiled: value('Compile time'),
    chip: value('Chip ID'), least: value('Minimal chip revision'), most: value('Maximal chip revision') };
}

async function facts(tests, page, server, image) {
  const esptool = process.env.FOTA_ESPTOOL;
  await tests.criterion('AC4.1', 'the facts of a release are those that esptool tells', async () => {
    await page.goto(`${server.origin}/releases`);
    await drop(page, image, 'app.bin');
    await until('the upload', async () => (await page.getByTestId('outcome').textContent()).includes('is here'));
    await page.goto(`${server.origin}/releases/1`);
    const shown = await page.getByTestId('facts').evaluate((list) => Object.fromEntries([...list.querySelectorAll('dt')].map((dt) => [dt.textContent, dt.nextElementSibling.textContent.trim()])));
    const file = join(server.data, 'app.bin');
    writeFileSync(file, image);
    const wanted = told(esptool, file);
    const { chip, least, most, ...same } = wanted;
    for (const [name, text] of Object.entries(same)) equal(shown[name], text, name);
    holds(chip.toLowerCase().replaceAll('-', '').includes(shown.Chip.toLowerCase()), `${chip}: ${shown.Chip}`);
    const [from, to] = shown['Chip revisions'].split(' to ');
    holds(least.startsWith(`v${from}`), `${least}: ${from}`);
    holds(most === `v${to}` || to === 'any', `${most}: ${to}`);
    equal(shown.Size, `${image.length.toLocaleString('en')} bytes`, 'Size');
    return `${shown.Product} ${shown.Version} for ${shown.Chip}`;
  });
}

async function mismatch(tests, page, server, image) {
  await tests.criterion('AC4.3', 'with the tick, it is taken under the version that was typed', async () => {
    await page.goto(`${server.origin}/releases`);
    await page.getByTestId('version').fill('9.9.9');
    await drop(page, image, 'app.bin');
    const again = page.locator('.again');
    await again.waitFor({ state: 'visible' });
    await again.getByRole('button', { name: 'Upload again' }).click();
    holds((await page.getByTestId('outcome').textContent()).includes('Tick the box first'), 'taken without the tick');
    await again.getByRole('checkbox').check();
    await again.getByRole('button', { name: 'Upload again' }).click();
    await until('the upload', async () => (await page.getByTestId('outcome').textContent()).includes('9.9.9 for'));
    equal((await api(page, '/api/v1/releases')).items[0].version, '9.9.9', 'the version');
  });
}

async function tail(tests, page, server) {
  await tests.criterion('AC7.3', 'rows come in without moving what is read', async () => {
    await page.goto(`${server.origin}/activity`);
    for (let number = 0; number < 60; number += 1) await api(page, '/api/v1/groups', 'POST', { name: `tail-${number}` });
    await page.reload();
    await page.evaluate(() => scrollTo(0, 500));
    const looked = () => page.evaluate(() => {
      const row = [...document.querySelectorAll('#events li[id]')].find((one) => one.getBoundingClientRect().top >= 0);
      return [row.id, Math.round(row.getBoundingClientRect().top)];
    });
    const [id, top] = await looked();
    for (let number = 60; number < 65; number += 1) await api(page, '/api/v1/groups', 'POST', { name: `tail-${number}` });
    await until('the new rows', async () => (await page.locator('#events').textContent()).includes('tail-64'));
    const now = await page.locator(`[id="${id}"]`).evaluate((row) => Math.round(row.getBoundingClientRect().top));
    holds(Math.abs(now - top) <= 1, `${id} moved from ${top} to ${now}`);
    await page.evaluate(() => scrollTo(0, 0));
    await api(page, '/api/v1/groups', 'POST', { name: 'tail-last' });
    await until('the newest row', async () => (await page.getByTestId('event').first().textContent()).includes('tail-last'));
    equal(await page.evaluate(() => scrollY), 0, 'at the top');
  });
}

async function settings(tests, page, server) {
  await tests.criterion('AC8.5', '"Back up now" downloads a whole backup', async () => {
    await page.goto(`${server.origin}/settings`);
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByTestId('backup').click()]);
    const file = join(server.data, 'downloaded.tar');
    await download.saveAs(file);
    const bytes = readFileSync(file);
    equal(bytes.subarray(0, 16).toString(), 'fota-backup.json', 'its beginning');
    holds(bytes.subarray(-2048, -2040).toString() === 'end.json', 'no end');
    execFileSync(server.fota, ['restore', file, '--data', join(server.data, 'restored')], { stdio: 'ignore' });
    return `${bytes.length} bytes`;
  });
  await tests.criterion('webhooks', 'a test shows what came of it', async () => {
    await page.goto(`${server.origin}/settings`);
    await page.getByTestId('webhook-name').fill('nowhere');
    await page.getByTestId('webhook-url').fill('http://127.0.0.1:1/');
    await page.getByTestId('add-webhook').click();
    holds((await page.getByTestId('secret').textContent()).startsWith('whsec_'), 'no key');
    await page.getByTestId('test-webhook').click();
    holds((await page.getByTestId('tested').textContent()).includes('did not answer'), 'no result');
    equal(await page.getByTestId('health').count(), 5, 'facts of health');
  });
}

// Pictures to look at.
async function look(tests, page, server) {
  for (const path of ['/releases', '/releases/1', '/releases/1?with=2', '/settings', '/activity', '/connect?with=simulated']) {
    for (const width of [1440, 390]) {
      for (const colorScheme of ['light', 'dark']) {
        await page.setViewportSize({ width, height: 900 });
        await page.emulateMedia({ colorScheme });
        await page.goto(server.origin + path, { waitUntil: 'load' });
        const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        tests.check(over <= 0, `G4 ${path} fits ${width} px (${colorScheme})`);
        const name = path.replaceAll(/[/?=]/g, '-').slice(1);
        await page.screenshot({ path: `${tests.folder}/own-${name}-${width}-${colorScheme}.png`, fullPage: true });
      }
    }
  }
}
