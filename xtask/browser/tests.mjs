// What the tests share: a browser whose console, requests and pages are watched, and the checks that
// hold on every screen.
import { chromium } from 'playwright-core';

export class Tests {
  static async begin(folder) {
    const tests = new Tests();
    tests.folder = folder;
    tests.failures = [];
    tests.errors = [];
    tests.foreign = [];
    tests.origins = new Set();
    tests.done = new Set();
    tests.browser = await chromium.launch({
      executablePath: '/usr/bin/chromium',
      args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
        '--disable-background-networking', '--disable-component-update', '--disable-sync'],
    });
    return tests;
  }

  check(holds, what) {
    console.log(`${holds ? 'ok' : 'FAILED'}  ${what}`);
    if (!holds) this.failures.push(what);
  }

  // One criterion by its name: fails where anything in it throws.
  async criterion(name, what, body) {
    this.done.add(name);
    try {
      const detail = await body();
      this.check(true, `${name} ${what}${detail ? ` (${detail})` : ''}`);
    } catch (error) {
      const text = String(error?.message ?? error).split('\n').slice(0, 4).join(' ');
      this.check(false, `${name} ${what}: ${text}`);
      await this.last?.screenshot({ path: `${this.folder}/failed-${name}.png` }).catch(() => {});
    }
  }

  async page(address, options = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
    const page = await context.newPage();
    this.origins.add(new URL(address).origin);
    page.on('console', (message) => {
      const text = message.text();
      // What a test provokes on purpose: a refusal, a server that is gone.
      if (/status of 4\d\d|net::ERR_|ERR_CONNECTION/.test(text)) return;
      if (['error', 'warning'].includes(message.type())) this.errors.push(`${page.url()}: ${text}`);
    });
    page.on('pageerror', (error) => this.errors.push(String(error)));
    page.on('request', (request) => {
      const { origin, protocol } = new URL(request.url());
      if (protocol.startsWith('http') && !this.origins.has(origin)) this.foreign.push(request.url());
    });
    await page.goto(address, { waitUntil: 'load' });
    this.last = page;
    return page;
  }

  // The images of the demo's first two releases, as soon as they are there.
  async images(address) {
    const page = await this.page(address);
    const image = async (id) => {
      const reply = await page.request.get(`${new URL(address).origin}/api/v1/releases/${id}/image`);
      return reply.ok() && reply.body();
    };
    const images = [await until('a release', () => image(1), 60_000), await until('another release', () => image(2), 120_000)];
    await page.context().close();
    return images;
  }

  async end() {
    this.check(this.errors.length === 0, `G1 no error or warning on the console${this.errors.map((text) => `\n        ${text}`).join('')}`);
    this.check(this.foreign.length === 0, `G2 no request to another origin ${this.foreign.join(' ')}`);
    await this.browser.close();
    console.log(`${this.done.size} criteria: ${[...this.done].join(' ')}`);
    console.log(`${this.folder}: screenshots`);
    process.exit(this.failures.length ? 1 : 0);
  }
}

export function equal(got, wanted, what = '') {
  const [one, other] = [JSON.stringify(got), JSON.stringify(wanted)];
  if (one !== other) throw new Error(`${what} is ${one}, not ${other}`);
}

export function holds(condition, what) {
  if (!condition) throw new Error(what);
}

// The API as the page's own session sees it.
export async function api(page, path, method = 'GET', body) {
  return page.evaluate(async ([path, method, body]) => {
    const headers = { 'x-fota-csrf': document.querySelector('meta[name=csrf]').content };
    if (body) headers['content-type'] = 'application/json';
    const reply = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    const text = await reply.text();
    return text ? JSON.parse(text) : null;
  }, [path, method, body]);
}

export async function until(what, probe, ms = 15_000) {
  const end = Date.now() + ms;
  let last;
  for (;;) {
    try { const found = await probe(); if (found) return found; } catch (error) { last = error; }
    if (Date.now() > end) throw new Error(`waited ${ms} ms for ${what}${last ? `: ${last.message}` : ''}`);
    await new Promise((wake) => setTimeout(wake, 100));
  }
}

// Text whose contrast with what is behind it is below 4.5, and controls without a name.
export function blemishes() {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const over = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const bad = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (element.closest('.hide, .skip, option, :disabled, svg')) continue;
    const behind = [];
    for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const back = over(behind), front = over([`rgb(${back})`, getComputedStyle(element).color]);
    const [low, high] = [light(back), light(front)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) bad.push(`contrast ${ratio.toFixed(2)}: ${element.className || element.tagName} "${element.textContent.trim().slice(0, 30)}"`);
  }
  for (const control of document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, summary')) {
    if (!control.checkVisibility()) continue;
    const labels = [...(control.labels ?? [])].map((label) => label.textContent).join('');
    const name = control.getAttribute('aria-label') || labels || control.textContent || control.title;
    if (!name.trim()) bad.push(`no name: ${control.outerHTML.slice(0, 80)}`);
  }
  const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
  bad.push(...ids.filter((id, index) => ids.indexOf(id) !== index).map((id) => `two elements are #${id}`));
  return [...new Set(bad)];
}
