// A server of the tests' own: empty at first, killed and started again, with devices that come and go.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { api, equal, holds, until } from './tests.mjs';

const POLL_S = 1;

export class Own {
  constructor(fota) {
    this.fota = fota;
    this.data = mkdtempSync(join(tmpdir(), 'fota-browser-'));
    this.children = new Set();
  }

  run(args, env = {}) {
    const child = spawn(this.fota, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
    // Both are read to their end, or a chatty child would wait for ever.
    child.said = '';
    child.stderr.on('data', (bytes) => { child.said += bytes; });
    child.stdout.resume();
    this.children.add(child);
    child.on('exit', () => this.children.delete(child));
    return child;
  }

  async serve(listen) {
    const args = ['serve', '--data', this.data, '--listen', listen, '--poll', String(POLL_S), '--allow-unsigned'];
    this.server = this.run(args);
    let text = '';
    const link = new Promise((found, lost) => {
      this.server.stdout.on('data', (bytes) => {
        text += bytes;
        const address = text.match(/server\s+(http:\/\/\S+)[\s\S]*token/);
        if (address) found(address[1]);
      });
      this.server.on('exit', () => lost(new Error(`the server ended: ${text}`)));
    });
    this.origin = await link;
    const token = readFileSync(join(this.data, 'operator-token'), 'utf8').trim();
    return `${this.origin}/?token=${token}`;
  }

  sim(prefix, devices, more = []) {
    return this.run(['sim', '--server', this.origin, '--prefix', prefix, '--devices', String(devices), '--trust', 'anybody', '--speed', '4', '--poll', '1s', ...more]);
  }

  async stop(child, signal = 'SIGKILL') {
    const gone = new Promise((done) => child.on('exit', done));
    child.kill(signal);
    await gone;
  }

  async end() {
    for (const child of this.children) child.kill('SIGKILL');
    await new Promise((wake) => setTimeout(wake, 200));
    rmSync(this.data, { recursive: true, force: true });
  }
}

export async function own(tests, fota) {
  const server = new Own(fota);
  try {
    const page = await tests.page(await server.serve('127.0.0.1:0'));
    await empty(tests, page, server);
    await presence(tests, page, server);
    await hostile(tests, page, server);
    await releases(tests, page, server);
    await rollout(tests, page, server);
    await people(tests, page, server);
    await away(tests, page, server);
  } finally {
    await server.end();
  }
}

async function empty(tests, page, server) {
  await tests.criterion('AC1.5', 'an empty fleet shows how to connect the first device, not zeros', async () => {
    const text = await page.getByTestId('empty').textContent();
    holds(text.includes('Connect your first device') && text.includes(`--server ${server.origin}`), text);
    equal(await page.getByTestId('tile-total').count(), 0, 'tiles');
    holds(await page.locator('[data-copy]').first().isVisible(), 'nothing to copy');
  });
}

async function presence(tests, page, server) {
  server.stay = server.sim('STAY-', 3);
  const leave = server.sim('GO-', 3);
  await tests.criterion('AC1.3', 'three devices that stop are offline, and none of them failed', async () => {
    const tile = async (name) => Number(await page.getByTestId(`tile-${name}`).locator('.count').textContent());
    await until('six devices online', async () => (await tile('online')) === 6, 20_000);
    await server.stop(leave);
    // Offline is more than six intervals without a check-in; then it takes at most three to show.
    await until('three devices offline', async () => (await tile('offline')) === 3, (6 + 3) * POLL_S * 1000 + 6_000);
    equal([await tile('online'), await tile('failed')], [3, 0], 'online and failed');
  });
  await tests.criterion('AC2.3', 'a selection says how many of them are online', async () => {
    await page.goto(`${server.origin}/devices`);
    for (const id of ['STAY-001', 'STAY-002', 'STAY-003', 'GO-001', 'GO-002']) await page.getByLabel(`Select ${id}`).check();
    equal(await page.getByTestId('bulk-count').textContent(), '5 selected · 3 online · 2 will update when they next check in', 'the line');
    await page.getByRole('button', { name: 'Update the selected' }).click();
    await page.waitForURL('**/rollouts/new**');
  });
  await tests.criterion('AC2.4', 'the order by last seen is stable and is chosen by keyboard', async () => {
    await page.goto(`${server.origin}/devices`);
    await page.getByTestId('sort').filter({ hasText: 'away longest' }).focus();
    await page.keyboard.press('Enter');
    await page.waitForURL('**sort=away');
    const rows = () => page.getByTestId('device').evaluateAll((rows) => rows.map((row) => [Number(row.querySelector('.seen time').dataset.at), row.id]));
    const first = (await rows()).slice(0, 3);
    equal(first, first.toSorted(([a, x], [b, y]) => a - b || (x < y ? -1 : 1)), 'the order');
    holds(first.every(([, id]) => id.startsWith('d-GO-')), first.join());
    await page.reload();
    equal((await rows()).slice(0, 3), first, 'the order after a reload');
  });
  await tests.criterion('AC3.2', 'a device with one image cannot be rolled back, and it says why', async () => {
    await page.goto(`${server.origin}/devices/STAY-001`);
    holds(await page.getByTestId('rollback').isDisabled(), 'it can be clicked');
    holds((await page.locator('#deeds').textContent()).includes('no other valid image'), 'no reason');
  });
}

async function hostile(tests, page, server) {
  const name = '<img src=x onerror=alert(1)>';
  await tests.criterion('AC2.5', 'a hostile name is shown as it is', async () => {
    await page.goto(`${server.origin}/devices`);
    const reply = await page.evaluate(async ([name]) => {
      const body = JSON.stringify({ fota_status: { boot_status: 'success', new_version: name } });
      const reply = await fetch('/api/inverter/fota/status', { method: 'POST', body, headers: { 'content-type': 'application/json', 'Device-ID': 'XSS-1' } });
      return reply.status;
    }, [name]);
    equal(reply, 200, 'the answer');
    const alerts = [];
    page.on('dialog', (dialog) => { alerts.push(dialog.message()); dialog.dismiss(); });
    for (const path of ['/devices', '/devices/XSS-1', '/', '/activity', '/devices?q=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E']) {
      await page.goto(server.origin + path);
      equal(await page.locator('main img').count(), 0, `images on ${path}`);
    }
    await page.waitForTimeout(200);
    equal(alerts, [], 'alerts');
    await page.goto(`${server.origin}/devices/XSS-1`);
    holds((await page.locator('main').textContent()).includes(name), 'the text is not shown');
  });
  await tests.criterion('G9', 'the policy allows nothing inline', async () => {
    for (const path of ['/', '/devices', '/connect', '/reference']) {
      const reply = await page.goto(server.origin + path);
      const policy = reply.headers()['content-security-policy'] ?? '';
      holds(policy.startsWith("default-src 'none'") && !policy.includes('unsafe'), `${path}: ${policy}`);
    }
  });
}

async function drop(page, bytes, name) {
  await page.getByTestId('file').setInputFiles({ name, mimeType: 'application/octet-stream', buffer: bytes });
}

async function releases(tests, page, server) {
  const image = tests.image;
  const said = () => page.getByTestId('outcome').textContent();
  const stored = async () => (await api(page, '/api/v1/releases')).items.length;
  await page.goto(`${server.origin}/releases`);
  await tests.criterion('AC4.2', 'what no chip would boot is refused with its own sentence, and nothing is stored', async () => {
    const bad = { truncated: image.subarray(0, image.length - 999), magic: Buffer.concat([Buffer.from([0x42]), image.subarray(1)]),
      checksum: Buffer.concat([image.subarray(0, 40_000), Buffer.from([image[40_000] ^ 1]), image.subarray(40_001)]),
      elf: Buffer.concat([Buffer.from('\x7fELF\x01\x01\x01', 'latin1'), Buffer.alloc(4096)]) };
    const told = [];
    for (const [kind, bytes] of Object.entries(bad)) {
      await drop(page, bytes, `${kind}.bin`);
      const text = await until('an answer', async () => { const text = await said(); return text && !text.startsWith('Uploading') && !told.includes(text) && text; });
      told.push(text);
    }
    equal(new Set(told).size, 4, 'different sentences');
    equal(await stored(), 0, 'releases');
    return told.map((text) => text.slice(0, 60)).join(' | ');
  });
  await tests.criterion('AC4.6', 'too large a file is refused before it is sent', async () => {
    let sent = 0;
    const count = (request) => { if (request.method() === 'POST') sent += 1; };
    page.on('request', count);
    const large = join(server.data, 'large.bin');
    writeFileSync(large, Buffer.alloc(16 * 1024 * 1024 + 8192));
    await page.getByTestId('file').setInputFiles(large);
    holds((await said()).includes('at most 16,777,216 are taken'), await said());
    page.off('request', count);
    equal(sent, 0, 'requests');
  });
  await tests.criterion('AC4.3', 'another version than the file says needs a tick', async () => {
    await page.getByTestId('version').fill('1.0.9');
    await drop(page, image, 'acme.bin');
    await until('the mismatch', async () => (await said()).includes('1.0.6'));
    equal(await stored(), 0, 'releases');
    holds(await page.locator('.again').isVisible(), 'no tick');
    await page.getByTestId('version').fill('');
    await page.goto(`${server.origin}/releases`);
  });
  await tests.criterion('AC4.4', 'the same bytes again are told to be there', async () => {
    await drop(page, image, 'acme.bin');
    await until('the upload', async () => (await said()).includes('is here'));
    await until('the row', async () => (await page.getByTestId('release').count()) === 1);
    await page.goto(`${server.origin}/releases`);
    await drop(page, image, 'acme.bin');
    await until('the answer', async () => (await said()).includes('already uploaded as 1.0.6'));
    equal(await stored(), 1, 'releases');
  });
}

async function rollout(tests, page, server) {
  await tests.criterion('AC5.4', 'a double click starts one rollout', async () => {
    await page.goto(`${server.origin}/rollouts/new?release=1&devices=STAY-001+STAY-002+STAY-003+GO-001`);
    await page.getByTestId('start').dblclick();
    await page.waitForURL('**/rollouts/r-1');
    await page.waitForTimeout(500);
    equal((await api(page, '/api/v1/rollouts')).items.length, 1, 'rollouts');
  });
  await tests.criterion('AC1.2', 'a rollout shows up without a reload, and its bar only grows', async () => {
    await page.goto(`${server.origin}/`);
    const bar = page.getByTestId('rollout-1').getByRole('progressbar');
    const seen = [];
    await until('three of four devices', async () => { seen.push(Number(await bar.getAttribute('aria-valuenow'))); return seen.at(-1) >= 75; }, 30_000);
    equal(seen, seen.toSorted((a, b) => a - b), 'the values');
    const began = Date.now();
    await api(page, '/api/v1/rollouts', 'POST', { release: '1', to: ['STAY-001'] });
    await page.getByTestId('rollout-2').waitFor({ timeout: 2_000 });
    return `card after ${Date.now() - began} ms`;
  });
  await tests.criterion('AC6.5', 'offline targets wait and are counted', async () => {
    await page.goto(`${server.origin}/rollouts/r-1`);
    holds((await page.locator('#progress').textContent()).includes('1 waiting'), await page.locator('#progress').textContent());
  });
  await tests.criterion('AC6.2', 'an abort says what happens to whom; those not started are aborted, confirmed ones stay', async () => {
    await page.goto(`${server.origin}/rollouts/r-1`);
    await page.getByTestId('abort').click();
    const effects = await page.locator('dialog [data-testid=effect]').allTextContents();
    holds(effects.some((text) => text.includes('1 not started') && text.includes('aborted')), effects.join('; '));
    holds(effects.some((text) => text.includes('3 confirmed') && text.includes('stay')), effects.join('; '));
    await Promise.all([page.waitForURL('**/rollouts/r-1'), page.locator('dialog').getByTestId('do').click()]);
    const after = await api(page, '/api/v1/rollouts/1');
    equal([after.state, after.counts.succeeded, after.counts.ended, after.counts.waiting], ['aborted', 3, 1, 0], 'the counts');
  });
  await tests.criterion('AC6.3', '"Roll back all" brings every device back to what it ran', async () => {
    await page.goto(`${server.origin}/rollouts/r-1`);
    await page.getByTestId('rollback-all').click();
    await page.locator('dialog').getByTestId('reason').fill('a test of the dashboard');
    await page.locator('dialog').getByTestId('do').click();
    await until('three devices back', async () => {
      const devices = (await api(page, '/api/v1/devices')).items.filter((device) => device.id.startsWith('STAY-'));
      return devices.every((device) => device.version === '1.0.5' && device.blocked.includes('1.0.6'));
    }, 30_000);
  });
}

async function people(tests, page, server) {
  await tests.criterion('AC8.1', 'a token is shown once', async () => {
    await page.goto(`${server.origin}/settings`);
    await page.getByTestId('token-name').fill('watcher');
    await page.getByTestId('make-token').click();
    server.viewer = await page.getByTestId('secret').textContent();
    holds(/^fota_t_[0-9a-f]{64}$/.test(server.viewer), server.viewer);
    await page.goto(`${server.origin}/settings`);
    holds(!(await page.content()).includes(server.viewer), 'it is shown again');
    equal(await page.getByTestId('token').filter({ hasText: 'watcher' }).count(), 1, 'rows');
  });
  await tests.criterion('AC8.3', 'a viewer sees no control that changes something, and gets 403', async () => {
    const other = await tests.page(`${server.origin}/?token=${server.viewer}`);
    for (const path of ['/', '/devices', '/devices/STAY-001', '/releases', '/rollouts', '/rollouts/r-1']) {
      await other.goto(server.origin + path);
      equal(await other.locator('main form[method=post], main [data-dialog], main [href^="/rollouts/new"]').count(), 0, `controls on ${path}`);
    }
    const reply = await other.evaluate(async () => {
      const csrf = document.querySelector('meta[name=csrf]').content;
      const body = new URLSearchParams({ csrf, reason: 'x' });
      return [(await fetch('/rollouts/r-1/abort', { method: 'POST', body })).status, (await fetch('/activity/audit')).status];
    });
    equal(reply, [403, 403], 'answers');
    await other.context().close();
  });
}

async function away(tests, page, server) {
  await tests.criterion('G6', 'a lost connection is said within 3 s, and the page is live again within 3 s', async () => {
    await page.goto(`${server.origin}/`);
    await page.getByTestId('live').waitFor();
    const listen = new URL(server.origin).host;
    await server.stop(server.server);
    await page.getByTestId('connection-lost').waitFor({ state: 'visible', timeout: 3_000 });
    equal(await page.evaluate(() => document.body.classList.contains('stale')), true, 'stale');
    await server.serve(listen);
    await page.getByTestId('connection-lost').waitFor({ state: 'hidden', timeout: 3_000 });
  });
}
