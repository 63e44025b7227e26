// Rollouts with a plan, on a server of their own: waves, a gate that stops them, a server that is
// killed in the middle, the file of the plan and the export.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Ajv from 'ajv/dist/2020.js';
import { Own } from './own.mjs';
import { api, equal, holds, until } from './tests.mjs';

const GOOD = 8, BAD = 4;

export async function plan(tests, fota) {
  const server = new Own(fota);
  try {
    const page = await tests.page(await server.serve('127.0.0.1:0'));
    server.good = server.sim('GOOD-', GOOD);
    server.bad = server.sim('BAD-', BAD, ['--panics-on', '1.0.6']);
    await until('the devices', async () => (await api(page, '/api/v1/devices')).items.length === GOOD + BAD, 30_000);
    server.token = readFileSync(join(server.data, 'operator-token'), 'utf8').trim();
    const headers = { 'content-type': 'application/octet-stream', authorization: `Bearer ${server.token}` };
    const upload = await fetch(`${server.origin}/api/v1/releases`, { method: 'POST', headers, body: tests.image });
    equal(upload.status, 201, 'the upload');
    await several(tests, page, server);
    await file(tests, page, server);
    await waves(tests, page, server);
    await breach(tests, page, server);
    await schema(tests, page, server);
  } finally {
    await server.end();
  }
}

async function several(tests, page, server) {
  await tests.criterion('AC2.3', 'the selected devices are held, and let go', async () => {
    await page.goto(`${server.origin}/devices?filter=id+%3D~+GOOD-*`);
    equal(await page.getByTestId('device').count(), GOOD, 'rows that the filter names');
    const both = async (button) => {
      for (const id of ['GOOD-001', 'GOOD-002']) await page.getByLabel(`Select ${id}`).check();
      await page.getByRole('button', { name: button }).click();
      await page.waitForURL('**/bulk/**');
    };
    await both('Hold');
    await page.getByTestId('reason').fill('lunch');
    await Promise.all([page.waitForURL('**/devices'), page.getByTestId('do').click()]);
    equal(await page.getByTestId('pin').allTextContents(), ['held', 'held'], 'pins');
    const why = await api(page, '/api/v1/devices/GOOD-001/why');
    holds(JSON.stringify(why).includes('no rollout names it'), why.answer);
    await both('Let go');
    await Promise.all([page.waitForURL('**/devices'), page.getByTestId('do').click()]);
    equal(await page.getByTestId('pin').count(), 0, 'pins');
    holds(/heard in 1 of the last 1 half hours/.test(await page.getByTestId('device').first().innerHTML()), 'no bar');
  });
}

async function file(tests, page, server) {
  await tests.criterion('R12', 'the file of a plan is what the command takes, and says the same', async () => {
    await page.goto(`${server.origin}/rollouts/new?release=1&filter=id+%3D~+GOOD-*&canary=1&waves=50+100&between=2s&failures_max=2&parallel=4&retry=1`);
    const path = join(server.data, 'plan.toml');
    writeFileSync(path, await page.getByTestId('plan-file').textContent());
    const env = { ...process.env, FOTA_SERVER: server.origin, FOTA_TOKEN: server.token };
    const told = spawnSync(server.fota, ['rollout', 'plan', '-f', path, '--dry-run', '--json'], { env, encoding: 'utf8' });
    equal(told.status, 0, told.stderr);
    equal(JSON.parse(told.stdout).sentence, await page.getByTestId('sentence').textContent(), 'the sentence');
  });
}

const counts = async (page, id) => (await api(page, `/api/v1/rollouts/${id}`)).counts;

async function waves(tests, page, server) {
  await tests.criterion('AC6.4', 'kill -9 in the middle of a wave: the counts are the same, and it goes on', async () => {
    // One device first, for three seconds; then half, two at a time; then all.
    await page.goto(`${server.origin}/rollouts/new?release=1&filter=id+%3D~+GOOD-*&canary=1&waves=50+100&between=3s&parallel=2`);
    await page.getByTestId('start').click();
    await page.waitForURL('**/rollouts/r-1');
    const wave = async () => (await page.getByTestId('wave').locator('.badge').allTextContents()).join();
    await until('the second wave on the screen', async () => (await wave()) === 'done,now,next', 30_000);
    await until('a device of it', async () => (await counts(page, 1)).succeeded >= 2, 30_000);
    const listen = new URL(server.origin).host;
    // The devices stand still, so that what changes is the server's doing alone.
    server.good.kill('SIGSTOP');
    const before = await counts(page, 1);
    const [shown, gate] = [await wave(), await page.getByTestId('gate').textContent()];
    await server.stop(server.server);
    await page.getByTestId('connection-lost').waitFor({ state: 'visible' });
    await server.serve(listen);
    await page.getByTestId('connection-lost').waitFor({ state: 'hidden' });
    equal(await counts(page, 1), before, 'the counts');
    holds(before.succeeded < GOOD, 'it was over before the kill');
    server.good.kill('SIGCONT');
    await until('every wave', async () => (await wave()) === 'done,done,done', 60_000);
    equal((await counts(page, 1)).succeeded, GOOD, 'devices with the release');
    const table = page.locator('#waves table tbody tr');
    equal(await table.count(), 3, 'rows of the table');
    return `${before.succeeded} of ${GOOD} before the kill, in ${shown}; ${gate.trim()}`;
  });
}

async function breach(tests, page, server) {
  await tests.criterion('AC6.1', 'a rollout that pauses itself says the rule, and no further device is offered it', async () => {
    const request = { release: '1', to: ['all'], failures_max: 2, plan: { filter: 'id =~ BAD-*', limits: { parallel: 1 } } };
    const { id } = await api(page, '/api/v1/rollouts', 'POST', request);
    await page.goto(`${server.origin}/rollouts/r-${id}`);
    await page.getByTestId('rule').filter({ hasText: '2 failed, the limit is 2' }).waitFor({ timeout: 60_000 });
    // What the simulator itself saw: who took the image. Ten more polls of each change nothing.
    const started = () => [...new Set(server.bad.said.split('\n').filter((line) => /1\.0\.6|install/i.test(line)).map((line) => line.split(' ')[0]))].sort();
    const seen = started();
    await page.waitForTimeout(10_000);
    equal(started(), seen, 'devices that were offered it, in the log of the simulator');
    equal(seen.length, 2, 'devices that took it');
    const { attempts } = await api(page, `/api/v1/rollouts/${id}`);
    equal(attempts.map((attempt) => attempt.state).sort(), ['rolled_back:boot', 'rolled_back:boot', 'waiting', 'waiting'], 'the states');
    // And why is beside each that waits.
    const waiting = page.getByTestId('attempt').filter({ hasText: 'waiting' });
    equal(await waiting.count(), 2, 'rows that wait');
    holds((await waiting.first().textContent()).includes('the rollout is paused (2 failed, the limit is 2'), await waiting.first().textContent());
    await waiting.first().getByTestId('why').click();
    await page.waitForURL('**/devices/BAD-*#why');
    holds((await page.getByTestId('why').textContent()).includes('paused'), 'no reason on the screen of the device');
    return seen.join();
  });
}

async function schema(tests, page, server) {
  await tests.criterion('AC6.7', 'the exported JSON is valid under the schema beside it', async () => {
    await page.goto(`${server.origin}/rollouts/r-2`);
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByTestId('export').click()]);
    const exported = JSON.parse(readFileSync(await download.path(), 'utf8'));
    const path = await page.getByTestId('schema').getAttribute('href');
    const reply = await page.request.get(server.origin + path);
    equal([reply.status(), reply.headers()['content-type']], [200, 'application/schema+json'], 'the schema');
    // Numbers have the formats of OpenAPI, such as int64, which add nothing to a schema.
    const validate = new Ajv({ strict: false, validateFormats: false, allErrors: true }).compile(await reply.json());
    holds(validate(exported), JSON.stringify(validate.errors));
    equal(exported.attempts.length, BAD, 'devices in the export');
    // A schema that takes everything would prove nothing.
    for (const break_it of [(one) => { delete one.id; }, (one) => { one.counts.failed = 'two'; }, (one) => { delete one.attempts[0].device; }, (one) => { one.plan.waves = 3; }]) {
      const broken = structuredClone(exported);
      break_it(broken);
      holds(!validate(broken), `${break_it} is taken`);
    }
    return `${Object.keys((await reply.json()).$defs).length} types`;
  });
}
