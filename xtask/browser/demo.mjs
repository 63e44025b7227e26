// The screens of `fota demo`: while its story runs, and after it.
import { api, blemishes, equal, holds, until } from './tests.mjs';

const DEVICES = 24;
const STORY_MS = 180_000;
const JS_BYTES_MAX = 60 * 1024, PAGE_BYTES_MAX = 150 * 1024;
const origin = (page) => new URL(page.url()).origin;
export const SCREENS = ['/', '/devices', '/devices/ESP32-005?rollout=2', '/releases', '/releases/1', '/rollouts', '/rollouts/r-2',
  '/rollouts/new?release=1&all=1&failures_max=2&canary=1&waves=10+100&between=1h&download=02:00-05:00&zone=Europe/Berlin', '/activity', '/activity/reasons', '/activity/audit', '/settings', '/connect',
  '/reference', '/rollouts/r-4/pause', '/bulk/hold?to=ESP32-001&to=ESP32-002'];

// While the story runs: what changes is seen without a reload.
export async function live(tests, address) {
  const page = await tests.page(address);
  let loads = 1;
  page.on('load', () => { loads += 1; });
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
  const origin = new URL(address).origin;
  await page.goto(`${origin}/devices`, { waitUntil: 'load' });
  loads = 1;
  await page.getByTestId('device').nth(11).waitFor({ timeout: STORY_MS });
  const moved = () => Object.entries(window.barsSeen).some(([label, seen]) =>
    label.startsWith('Download of') && seen.some((value) => value > 0 && value < 100));
  await page.waitForFunction(moved, null, { timeout: STORY_MS, polling: 100 });
  tests.check(loads === 1, 'a download moves while one looks, without a reload');
  const seen = await page.evaluate(() => window.barsSeen);
  const wrong = Object.values(seen).flat().filter((value) => value < 0 || value > 100);
  tests.check(wrong.length === 0, `no bar leaves 0 to 100 (${Object.keys(seen).length} bars seen)`);
  await until('the end of the story', async () => {
    const devices = (await api(page, '/api/v1/devices')).items;
    return devices.length === DEVICES && devices.every((device) => device.version === '1.0.8' && device.confirmed !== false);
  }, STORY_MS);
  await page.context().close();
}

// After it: every device is on 1.0.8, one has gone back from 1.0.6.
export async function demo(tests, address) {
  const page = await tests.page(address);
  const origin = new URL(address).origin;
  const go = (path) => page.goto(origin + path, { waitUntil: 'load' });
  tests.image = await (await page.request.get(`${origin}/api/v1/releases/1/image`)).body();
  await fleet(tests, page, go);
  await devices(tests, page, go);
  await device(tests, page, go);
  await rollouts(tests, page, go);
  await activity(tests, page, go);
  await globals(tests, page, origin);
  await page.context().close();
}

async function fleet(tests, page, go) {
  await tests.criterion('AC1.1', 'tiles are the summary, and the version bar adds up', async () => {
    await go('/');
    const summary = await api(page, '/api/v1/fleet/summary');
    for (const [tile, wanted] of Object.entries({ total: summary.total, online: summary.online, late: summary.late,
      offline: summary.offline, updating: summary.updating, failed: summary.failed_24h })) {
      equal(Number(await page.getByTestId(`tile-${tile}`).locator('.count').textContent()), wanted, tile);
    }
    const counts = await page.getByTestId('version-count').allTextContents();
    equal(counts.map(Number).reduce((sum, count) => sum + count, 0), summary.total, 'the version bar');
  });
  await tests.criterion('AC1.4', 'the range is in the address, survives a reload, and the chart has a table', async () => {
    await go('/');
    await page.getByTestId('range-7d').click();
    holds(page.url().endsWith('?range=7d'), page.url());
    await page.reload();
    equal(await page.getByTestId('range-7d').getAttribute('aria-current'), 'true', 'the range');
    const series = await page.getByTestId('series').count();
    holds(series >= 2, `${series} series`);
    await page.getByText('The same as a table').click();
    holds(await page.getByTestId('chart-table').locator('tbody tr').count() >= 5, 'no table');
    return `${series} series`;
  });
}

async function devices(tests, page, go) {
  await tests.criterion('AC2.2', 'a filter is in the address and survives a reload', async () => {
    await go('/devices');
    await page.getByTestId('filter-state').selectOption('rolled_back');
    await page.waitForURL('**state=rolled_back');
    const shown = async () => page.getByTestId('device').count();
    await until('the filter', async () => (await shown()) < DEVICES);
    const before = await shown();
    await page.reload();
    equal(await shown(), before, 'devices after the reload');
    equal(await page.getByTestId('filter-state').inputValue(), 'rolled_back', 'the filter');
  });
}

async function device(tests, page, go) {
  await tests.criterion('AC3.1', 'after a crash loop the timeline shows each step with its time', async () => {
    await go('/devices/ESP32-005?rollout=2');
    const steps = await page.getByTestId('step').evaluateAll((steps) => steps.map((step) => [step.querySelector('.badge').textContent, step.querySelector('time').dateTime]));
    const words = steps.map(([word]) => word);
    equal(words[0], 'offered', 'the first step');
    equal(words.at(-1), 'rolled back: boot', 'the last step');
    holds(words.includes('downloading'), words.join());
    const times = steps.map(([, time]) => time);
    equal(times, times.toSorted(), 'the times');
    return words.join(' → ');
  });
  await tests.criterion('AC3.5', 'each event has its absolute time', async () => {
    await go('/devices/ESP32-005');
    const times = await page.getByTestId('event').locator('time').evaluateAll((times) => times.map((time) => time.dateTime));
    holds(times.length >= 5, `${times.length} events`);
    holds(times.every((time) => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(time)), times.join());
  });
  await tests.criterion('AC3.3', 'an operator rollback names from and to, and blocks the release here', async () => {
    await go('/devices/ESP32-006');
    const before = await api(page, '/api/v1/devices/ESP32-006');
    await page.getByTestId('rollback').click();
    const dialog = page.locator('dialog[open]');
    const text = await dialog.textContent();
    holds(text.includes(before.version) && text.includes(before.rollback_version), text);
    await dialog.getByTestId('reason').fill('a test of the dashboard');
    await Promise.all([page.waitForURL('**/devices/ESP32-006'), dialog.getByTestId('do').click()]);
    await until('the device on its earlier image', async () => (await page.getByTestId('running').textContent()) === before.rollback_version, 30_000);
    await until('the end in the timeline', async () => (await page.getByTestId('event').allTextContents()).some((text) => text.includes('rollback.done')));
    equal((await page.getByTestId('step').locator('.badge').allTextContents()).at(-1), 'rolled back: operator', 'the last step');
    holds((await page.getByTestId('blocked').textContent()).includes(before.version), 'not blocked');
  });
}

async function rollouts(tests, page, go) {
  await tests.criterion('AC5.1', 'the preview is the API\'s own', async () => {
    await go('/rollouts/new?release=2&all=1');
    const wanted = await api(page, '/api/v1/rollouts/preview', 'POST', { release: '2', to: ['all'] });
    for (const [id, count] of [['matched', wanted.matched], ['online', wanted.online], ['excluded', wanted.excluded.length]]) {
      equal(Number(await page.getByTestId(id).textContent()), count, id);
    }
    const counted = await page.getByTestId('left-out').locator('b').allTextContents();
    equal(counted.map(Number).reduce((sum, count) => sum + count, 0), wanted.excluded.length, 'reasons');
  });
  await tests.criterion('AC5.2', 'the sentence changes with every entry', async () => {
    await go('/rollouts/new?release=1&devices=ESP32-099');
    await page.locator('.section').evaluateAll((sections) => sections.forEach((section) => { section.open = true; }));
    const sentence = () => page.getByTestId('sentence').textContent();
    const seen = [await sentence()];
    const fill = (name, text) => () => page.getByTestId(`in-${name}`).fill(text);
    const check = (name) => () => page.getByTestId(`in-${name}`).check();
    const entries = [
      () => page.getByTestId('in-release').selectOption('2'),
      fill('devices', 'ESP32-099 ESP32-098'), fill('filter', 'chip == esp32 or has tag.site'),
      fill('failures_max', '3'), fill('failure_percent', '5'), check('rollback_on_failure'), check('sequential'),
      fill('canary', '2'), fill('waves', '10 50 100'), fill('between', '30m'), fill('soak', '10m'), fill('healthy_percent', '95'),
      fill('parallel', '20'), fill('starts_per_minute', '60'), fill('bytes_per_s', '100000'),
      fill('download', 'mon-fri 22:00-06:00'), fill('install', '02:00-05:00'), fill('zone', 'Europe/Berlin'),
      fill('starts_at', '2030-01-02T03:04'), fill('ends_at', '2031-01-02T03:04'),
      fill('via', '1.0.4'), fill('trial_s', '45'), check('retry'), check('approval'), check('allow_product_change'), check('all'),
    ];
    for (const enter of entries) {
      await enter();
      seen.push(await until(`another sentence than ${seen.at(-1)}`, async () => { const text = await sentence(); return text !== seen.at(-1) && text; }));
    }
    const known = await page.locator('[data-testid^=in-]').count();
    equal(entries.length, known, 'inputs tried');
    equal(new Set(seen).size, seen.length, 'different sentences');
    return `${entries.length} inputs; at last: ${seen.at(-1)}`;
  });
  await tests.criterion('AC5.5', 'outside its window it tells the next start in the fleet\'s zone and in the browser\'s', async () => {
    const other = await tests.page(origin(page), { timezoneId: 'America/New_York', storageState: await page.context().storageState() });
    // A window of one hour, twelve hours from now in Berlin.
    const hour = (Number(new Intl.DateTimeFormat('en-GB', { hour: '2-digit', timeZone: 'Europe/Berlin' }).format()) + 12) % 24;
    const two = (number) => String(number % 24).padStart(2, '0');
    await other.goto(`${origin(page)}/rollouts/new?release=1&all=1&zone=Europe/Berlin&download=${two(hour)}:00-${two(hour + 1)}:00`);
    const fleet = await other.getByTestId('clock-fleet').textContent();
    const local = await other.getByTestId('clock-here').textContent();
    const moment = Date.parse(await other.getByTestId('clock-here').getAttribute('datetime'));
    const clock = (timeZone) => `${new Date(moment).toLocaleString('sv-SE', { dateStyle: 'short', timeStyle: 'short', timeZone })} ${timeZone}`;
    equal([fleet, local], [clock('Europe/Berlin'), clock('America/New_York')], 'the two clocks');
    holds(fleet.includes(` ${two(hour)}:00 `), fleet);
    await other.context().close();
    return `${fleet} = ${local}`;
  });
  await tests.criterion('AC5.1', 'a filter that is none is marked where it is wrong, while one types', async () => {
    await go('/rollouts/new?release=1');
    await page.getByTestId('in-filter').fill('chip == esp32 and vesion < 2');
    await page.getByTestId('misread').waitFor();
    equal(await page.getByTestId('misread').locator('mark').textContent(), 'vesion', 'what is marked');
    holds((await page.getByTestId('misread').textContent()).includes('character 19'), await page.getByTestId('misread').textContent());
    await page.getByTestId('in-filter').fill('id == ESP32-003 or id == ESP32-004');
    await page.getByTestId('sentence').waitFor();
    const counted = Number(await page.getByTestId('matched').textContent()) + Number(await page.getByTestId('excluded').textContent());
    equal(counted, 2, 'devices that the filter names');
  });
  await tests.criterion('AC5.6', 'the back button keeps what was entered', async () => {
    await go('/rollouts/new');
    await page.getByTestId('in-release').selectOption('2');
    await page.getByTestId('in-failures_max').fill('7');
    await page.getByText('Step by step').click();
    await page.getByTestId('in-waves').fill('10 100');
    await page.waitForURL('**failures_max=7&waves=10+100');
    await page.getByRole('link', { name: 'Devices', exact: true }).click();
    await page.waitForURL('**/devices');
    await page.goBack();
    equal(await page.getByTestId('in-failures_max').inputValue(), '7', 'the limit');
    equal(await page.getByTestId('in-waves').inputValue(), '10 100', 'the waves');
    holds(await page.getByTestId('in-waves').isVisible(), 'the section is closed');
    equal(await page.getByTestId('in-release').inputValue(), '2', 'the release');
  });
  await tests.criterion('AC6.1', 'the screen of a rollout that paused itself tells the rule and the numbers', async () => {
    await go('/rollouts/r-2');
    const told = await page.getByTestId('event').allTextContents();
    holds(told.some((text) => /1 failed, the limit is 1; the last was ESP32-005: rolled_back:boot/.test(text)), told.join('\n'));
    equal(await page.getByTestId('failure-count').allTextContents(), ['1'], 'failures');
  });
}

async function activity(tests, page, go) {
  await tests.criterion('AC7.1', 'each change is in the audit log once, with who, when and what', async () => {
    await go('/settings');
    const name = `browser-${Date.now()}`;
    await api(page, '/api/v1/groups', 'POST', { name });
    await go('/activity/audit');
    const entries = page.getByTestId('entry').filter({ hasText: name });
    equal(await entries.count(), 1, 'entries');
    const text = await entries.textContent();
    holds(text.includes('group.created') && text.includes('operator-token') && text.includes(`group:${name}`), text);
    holds((await entries.locator('time').getAttribute('datetime')).endsWith('Z'), 'no time');
  });
  await tests.criterion('AC7.2', 'reasons add up to the outcomes', async () => {
    await go('/activity/reasons');
    const counts = (await page.getByTestId('reason-count').allTextContents()).map(Number);
    equal(counts.reduce((sum, count) => sum + count, 0), Number(await page.getByTestId('reason-total').textContent()), 'the sum');
    holds(counts.length >= 1, 'no reason');
  });
}

async function globals(tests, page, origin) {
  await tests.criterion('G3', 'the first page and its script are small', async () => {
    const fresh = await tests.browser.newContext({ storageState: await page.context().storageState() });
    const first = await fresh.newPage();
    const sizes = [];
    first.on('response', async (reply) => { if (!reply.url().includes('/stream')) sizes.push([reply.url(), (await reply.body().catch(() => '')).length]); });
    await first.goto(`${origin}/`, { waitUntil: 'load' });
    await first.waitForTimeout(300);
    const total = sizes.reduce((sum, [, bytes]) => sum + bytes, 0);
    const js = sizes.filter(([url]) => url.endsWith('.js')).reduce((sum, [, bytes]) => sum + bytes, 0);
    await fresh.close();
    holds(total <= PAGE_BYTES_MAX && js <= JS_BYTES_MAX, `${total} bytes, ${js} of them JS`);
    return `${total} bytes, ${js} of them JS`;
  });
  const overflows = [], flaws = [];
  for (const path of SCREENS) {
    for (const width of [1440, 390]) {
      await page.setViewportSize({ width, height: 900 });
      await page.goto(origin + path, { waitUntil: 'load' });
      const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      if (over > 0) overflows.push(`${path} at ${width} px by ${over}`);
      for (const colorScheme of ['light', 'dark']) {
        await page.emulateMedia({ colorScheme });
        flaws.push(...(await page.evaluate(blemishes)).map((flaw) => `${path} ${colorScheme} ${width}: ${flaw}`));
        const name = path.replace(/\?.*/, '').replaceAll('/', '-').slice(1) || 'fleet';
        await page.screenshot({ path: `${tests.folder}/${name}-${width}-${colorScheme}.png` });
      }
    }
  }
  await tests.criterion('G4', `no horizontal scroll on ${SCREENS.length} screens at 390 and 1440 px`, async () => equal(overflows, [], 'overflow'));
  await tests.criterion('G5', 'every control has a name and every text a contrast of 4.5', async () => equal(flaws.slice(0, 10), [], 'flaws'));
  await tests.criterion('G8', 'light and dark differ and follow the system', async () => {
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    await page.emulateMedia({ colorScheme: 'light' });
    const light = await ground();
    await page.emulateMedia({ colorScheme: 'dark' });
    holds(light !== await ground(), light);
    await page.emulateMedia({ colorScheme: 'light' });
  });
  await page.setViewportSize({ width: 1440, height: 900 });
  await tests.criterion('G5', 'the keyboard reaches everything, and its keys work', async () => {
    await page.goto(`${origin}/`, { waitUntil: 'load' });
    await page.keyboard.press('/');
    equal(await page.evaluate(() => document.activeElement.id), 'find', 'behind /');
    await page.keyboard.type('005');
    await Promise.all([page.waitForURL('**q=005'), page.keyboard.press('Enter')]);
    await page.keyboard.press('j');
    equal(await page.evaluate(() => document.activeElement.textContent), 'ESP32-005', 'behind j');
    await page.keyboard.press('?');
    holds(await page.locator('#keys').isVisible(), 'no list of keys');
    await page.keyboard.press('Escape');
    await page.keyboard.press('g');
    await Promise.all([page.waitForURL('**/rollouts'), page.keyboard.press('r')]);
    const reached = new Set();
    for (let count = 0; count < 60; count += 1) {
      await page.keyboard.press('Tab');
      reached.add(await page.evaluate(() => document.activeElement.textContent.trim()));
    }
    for (const name of ['Fleet', 'Settings', 'New rollout']) holds(reached.has(name), `Tab does not reach ${name}`);
  });
  await tests.criterion('G7', 'lists and questions work without JavaScript', async () => {
    const plain = await tests.page(`${origin}/`, { javaScriptEnabled: false, storageState: await page.context().storageState() });
    await plain.goto(`${origin}/devices?version=1.0.8`);
    holds(await plain.getByTestId('device').count() > 10, 'no devices');
    await plain.goto(`${origin}/rollouts/r-4`);
    await plain.getByTestId('rollback-all').click();
    holds((await plain.getByTestId('question').textContent()).includes('are ordered back'), 'no question');
    await plain.context().close();
  });
}
