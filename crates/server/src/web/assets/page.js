// Keeps the screens as the fleet is. The server renders (and escapes) every part; this script only
// fetches the parts again when an event comes, swaps those that changed, moves the progress bars
// in between, counts the ages on, and says so when the connection is lost. It also opens questions
// in a dialog, uploads files, and knows the keyboard; each of these works without it as a page, but
// the upload.
'use strict';
(() => {
  const REFRESH_MS = 500;   // at most this often, however many events come
  const REFRESH_SHARE = 8;  // and at most an eighth of the time, however dear the screen is
  const IDLE_MS = 5000;     // presence changes without an event
  const RETRY_MS = 1000;
  const KEY_MS = 1200;      // between `g` and the letter
  const body = document.body, main = document.getElementById('main');
  const live = body.dataset.live || '';
  const csrf = document.querySelector('meta[name=csrf]')?.content;
  const shown = new Map();  // part id -> the HTML it was made from
  let clockOffset = 0, timer = 0, busy = false, again = false, pause = REFRESH_MS;

  const $ = (id) => document.getElementById(id);
  const all = (root, selector) => [...root.querySelectorAll(selector)];

  // ---- what changes ----

  function remember(root) {
    for (const part of all(root, '[data-part]')) {
      shown.set(part.id, part.outerHTML);
      if ('keyed' in part.dataset) for (const row of all(part, 'tbody > tr[id]')) shown.set(row.id, row.outerHTML);
    }
  }

  function readClock() {
    const now = $('now');
    if (now) clockOffset = Number(now.dataset.now) - Date.now();
  }

  function ago(ms) {
    const s = Math.max(0, Math.floor(ms / 1000));
    if (s < 2) return 'now';
    if (s < 60) return s + ' s ago';
    if (s < 3600) return Math.floor(s / 60) + ' min ago';
    if (s < 86400) return Math.floor(s / 3600) + ' h ago';
    return Math.floor(s / 86400) + ' d ago';
  }

  function tick() {
    const now = Date.now() + clockOffset;
    for (const time of all(main, 'time[data-at]')) {
      const text = ago(now - Number(time.dataset.at));
      if (time.textContent !== text) time.textContent = text;
    }
  }

  function setBar(bar, percent) {
    bar.value = percent;
    bar.setAttribute('aria-valuenow', percent);
    const text = bar.parentNode.querySelector('.percent');
    if (text) text.textContent = percent + ' %';
  }

  // A bar never goes back because an answer was older than an event.
  function keepProgress(before, after) {
    for (const bar of all(after, 'progress[data-rollout]')) {
      const was = all(before, 'progress').find((old) => old.getAttribute('aria-label') === bar.getAttribute('aria-label'));
      if (was && was.value > bar.value && was.dataset.rollout === bar.dataset.rollout) setBar(bar, was.value);
    }
  }

  // What a person has open, ticked or focused stays so.
  function keepHands(before, after) {
    all(before, 'details').forEach((old, index) => { const fresh = all(after, 'details')[index]; if (fresh) fresh.open = old.open; });
    for (const old of all(before, 'input[type=checkbox]:checked')) {
      const fresh = all(after, 'input[type=checkbox]').find((box) => box.name === old.name && box.value === old.value);
      if (fresh) fresh.checked = true;
    }
    const active = document.activeElement;
    if (!active || !before.contains(active)) return () => {};
    const index = all(before, 'a, button, input, summary, select').indexOf(active);
    return () => all(after, 'a, button, input, summary, select')[index]?.focus({ preventScroll: true });
  }

  function prepare(root) {
    for (const button of all(root, '[data-copy]')) button.hidden = false;
    const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
    for (const time of all(root, 'time[data-local]')) {
      // Swedish writes 2026-12-01 22:00, as the server does.
      time.textContent = new Date(Number(time.dataset.local)).toLocaleString('sv-SE', { dateStyle: 'short', timeStyle: 'short' }) + ' ' + timeZone;
    }
  }

  function swap(before, after) {
    const html = after.outerHTML;
    if (shown.get(after.id) === html) return;
    shown.set(after.id, html);
    keepProgress(before, after);
    const focus = keepHands(before, after);
    before.replaceWith(after);
    prepare(after);
    focus();
  }

  // Rows one by one, so that a row which did not change is not touched.
  function swapRows(before, after) {
    const rows = before.querySelector('tbody'), fresh = after.querySelector('tbody');
    if (!rows || !fresh) { swap(before, after); remember(after); return; }
    for (const child of all(after, '.bar-head, .pages')) {
      const old = before.querySelector('.' + child.className);
      if (old && old.outerHTML !== child.outerHTML) old.replaceWith(child);
    }
    const wanted = [...fresh.children];
    const ids = new Set(wanted.map((row) => row.id));
    for (const row of [...rows.children]) if (!ids.has(row.id)) row.remove();
    wanted.forEach((row, index) => {
      const old = $(row.id);
      if (old) swap(old, row); else { shown.set(row.id, row.outerHTML); rows.append(row); }
      const placed = $(row.id);
      if (rows.children[index] !== placed) rows.insertBefore(placed, rows.children[index]);
    });
  }

  function take(html) {
    const next = new DOMParser().parseFromString(html, 'text/html').body;
    const ids = (root) => all(root, '[data-part]').map((one) => one.id).join();
    if (ids(next) !== ids(main)) {
      // Another screen altogether: the first device has come, or the last filter let none through.
      main.replaceChildren(...next.childNodes);
      remember(main);
      prepare(main);
    } else {
      for (const part of all(next, '[data-part]')) {
        if ('keyed' in part.dataset) swapRows($(part.id), part); else swap($(part.id), part);
      }
    }
    readClock();
    tick();
    countSelected();
  }

  async function part(address) {
    const url = new URL(address, location.href);
    url.searchParams.set('part', 'main');
    const reply = await fetch(url, { cache: 'no-store', credentials: 'same-origin' });
    if (reply.status === 401) { location.reload(); throw new Error('signed out'); }
    if (!reply.ok) throw new Error(String(reply.status));
    return reply.text();
  }

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    const began = performance.now();
    try {
      take(await part(location.href));
    } catch (error) {
      // The event stream notices a lost connection and says so.
    } finally {
      busy = false;
      pause = Math.max(REFRESH_MS, (performance.now() - began) * (REFRESH_SHARE - 1));
      if (again) { again = false; soon(); }
    }
  }

  function soon() {
    if (!timer) timer = setTimeout(() => { timer = 0; refresh(); }, pause);
  }

  function concerns(event) {
    const [what, id] = live.split(/:(.*)/s);
    return what === 'all' || (what === 'device' && event.device === id) || (what === 'rollout' && String(event.rollout) === id);
  }

  function onEvent(message) {
    let event;
    try { event = JSON.parse(message.data); } catch (error) { return; }
    if (!concerns(event)) return;
    if (event.bytes_total) {
      const row = event.device && $('d-' + event.device);
      const bar = row ? row.querySelector('progress') : all(main, 'progress[data-device]').find((one) => one.dataset.device === event.device);
      if (bar && Number(bar.dataset.rollout) === event.rollout) {
        const percent = Math.min(100, Math.floor(event.bytes_done * 100 / event.bytes_total));
        if (percent > bar.value) setBar(bar, percent);
        return;
      }
    }
    soon();
  }

  function lost(is) {
    $('lost').hidden = !is;
    $('live').hidden = is || !live;
    body.classList.toggle('stale', is);
  }

  function connect() {
    const source = new EventSource('/api/v1/events/stream');
    source.onopen = () => { lost(false); if (live) refresh(); };
    source.onerror = () => { lost(true); source.close(); setTimeout(connect, RETRY_MS); };
    source.onmessage = onEvent;
    for (const kind of body.dataset.kinds.split(' ')) source.addEventListener(kind, onEvent);
  }

  // ---- questions ----

  const dialog = $('dialog');

  async function ask(href) {
    try {
      const html = await part(href);
      dialog.replaceChildren(...new DOMParser().parseFromString(html, 'text/html').querySelectorAll('.question'));
      if (!dialog.firstChild) throw new Error('no question');
      prepare(dialog);
      dialog.showModal();
      dialog.querySelector('input:not([type=hidden]), select, button')?.focus();
    } catch (error) {
      location.href = href;
    }
  }

  document.addEventListener('click', (event) => {
    const link = event.target.closest('a[data-dialog]');
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) { event.preventDefault(); ask(link.href); return; }
    if (event.target.closest('dialog [data-close]')) { event.preventDefault(); dialog.close(); return; }
    if (event.target === dialog) dialog.close();
    const copy = event.target.closest('[data-copy]');
    if (copy) copyText(copy);
    const menu = document.querySelector('.menu[open]');
    if (menu && !menu.contains(event.target)) menu.open = false;
  });

  async function copyText(button) {
    const code = button.parentNode.querySelector('code');
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch (error) {
      // Not on plain HTTP: select it, so that Ctrl-C does it.
      getSelection().selectAllChildren(code);
      return;
    }
    button.classList.add('done');
    setTimeout(() => button.classList.remove('done'), 1500);
  }

  // A form that must do its deed once, however often it is clicked.
  document.addEventListener('submit', (event) => {
    const form = event.target;
    if (form.method !== 'post') return;
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = '1';
  });
  window.addEventListener('pageshow', () => { for (const form of all(document, 'form[data-sent]')) delete form.dataset.sent; });

  // ---- filters and the preview ----

  let typing = 0;
  function address(form) {
    const given = [...new FormData(form)].filter(([, value]) => value !== '');
    const query = new URLSearchParams(given).toString();
    return form.getAttribute('action') + (query && '?' + query);
  }

  async function follow(form) {
    const to = address(form);
    history.replaceState(null, '', to);
    try { take(await part(to)); } catch (error) { location.href = to; }
  }

  document.addEventListener('input', (event) => {
    countSelected();
    const form = event.target.closest('form[data-auto], form[data-preview]');
    if (!form) return;
    clearTimeout(typing);
    typing = setTimeout(() => follow(form), event.target.matches('input:not([type=checkbox]), textarea') ? 250 : 0);
  });

  // Links inside a list that only order or page it keep the screen where it is.
  function countSelected() {
    const count = document.querySelector('[data-testid=bulk-count]');
    if (!count) return;
    const boxes = all(main, '#bulk input[name=to]:checked');
    const online = boxes.filter((box) => box.dataset.presence === 'online').length;
    const away = boxes.length - online;
    count.parentNode.classList.toggle('some', boxes.length > 0);
    count.textContent = !boxes.length ? '' : boxes.length + ' selected · ' + online + ' online' +
      (away ? ' · ' + away + ' will update when they next check in' : '');
  }

  // ---- the upload ----

  const zone = $('upload');
  if (zone) {
    const outcome = zone.querySelector('.outcome'), progress = zone.querySelector('.progress');
    const again = zone.querySelector('.again'), field = (name) => zone.elements[name].value.trim();
    let file = null, request = null;
    zone.hidden = false;

    const say = (tone, text, link) => {
      outcome.className = 'outcome tone-' + tone;
      outcome.textContent = text;
      if (link) { const a = document.createElement('a'); a.href = link; a.textContent = 'Look at it'; outcome.append(' ', a); }
    };

    function upload(mismatch) {
      if (!file) return;
      const max = Number(zone.dataset.max);
      again.hidden = true;
      if (file.size > max + 4096) {
        say('bad', file.name + ' is ' + file.size.toLocaleString('en') + ' bytes; at most ' + max.toLocaleString('en') + ' are taken. Nothing was sent.');
        return;
      }
      const query = new URLSearchParams();
      if (field('version')) query.set('version', field('version'));
      if (field('notes')) query.set('notes', field('notes'));
      if (mismatch) query.set('allow_version_mismatch', 'true');
      const bar = progress.querySelector('progress');
      request = new XMLHttpRequest();
      request.open('POST', zone.dataset.upload + (query.size ? '?' + query : ''));
      request.setRequestHeader('content-type', 'application/octet-stream');
      if (csrf) request.setRequestHeader('x-fota-csrf', csrf);
      request.upload.onprogress = (event) => setBar(bar, Math.floor(event.loaded * 100 / event.total));
      request.onload = () => { progress.hidden = true; answered(request); };
      request.onerror = () => { progress.hidden = true; say('bad', 'The connection broke off: upload it again.'); };
      request.onabort = () => { progress.hidden = true; say('idle', 'Cancelled: nothing was stored.'); };
      setBar(bar, 0);
      progress.hidden = false;
      say('idle', 'Uploading ' + file.name + ' …');
      request.send(file);
    }

    function answered(reply) {
      let told = {};
      try { told = JSON.parse(reply.responseText); } catch (error) { /* not ours */ }
      if (reply.status === 201) say('ok', told.version + ' for ' + told.chip + ' is here.', '/releases/' + told.id);
      else if (reply.status === 200) say('ok', 'These bytes were already uploaded as ' + told.version + '.', '/releases/' + told.id);
      else {
        say('bad', told.detail || 'The server said ' + reply.status + '.');
        again.hidden = told.code !== 'version_mismatch';
      }
      if (reply.status < 300) refresh();
    }

    $('file').addEventListener('change', (event) => { file = event.target.files[0]; upload(false); });
    zone.addEventListener('submit', (event) => { event.preventDefault(); upload(false); });
    zone.querySelector('[data-cancel]').addEventListener('click', () => request?.abort());
    zone.querySelector('[data-again]').addEventListener('click', () => {
      if (zone.querySelector('[data-mismatch]').checked) upload(true); else say('bad', 'Tick the box first: the file says another version.');
    });
    for (const kind of ['dragenter', 'dragover']) zone.addEventListener(kind, (event) => { event.preventDefault(); zone.classList.add('over'); });
    for (const kind of ['dragleave', 'drop']) zone.addEventListener(kind, () => zone.classList.remove('over'));
    zone.addEventListener('drop', (event) => { event.preventDefault(); file = event.dataTransfer.files[0]; upload(false); });
    // A file that misses the zone must not replace the page.
    for (const kind of ['dragover', 'drop']) window.addEventListener(kind, (event) => event.preventDefault());
  }

  // ---- the keyboard ----

  let pressedG = 0;
  const isField = (element) => element.matches('input:not([type=checkbox]), textarea, select');

  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (isField(event.target)) { if (event.key === 'Escape') event.target.blur(); return; }
    if (dialog.open) return;
    if (Date.now() - pressedG < KEY_MS) {
      pressedG = 0;
      const link = document.querySelector('.side a[data-key="' + CSS.escape(event.key) + '"]');
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    const deed = { '/': () => ($('find').offsetParent ? $('find') : main.querySelector('input[type=search]'))?.focus(),
      g: () => { pressedG = Date.now(); }, '?': () => $('keys').togglePopover(), n: () => { location.href = '/rollouts/new'; },
      j: () => step(1), k: () => step(-1) }[event.key];
    if (deed) { event.preventDefault(); deed(); }
  });

  function step(by) {
    const links = all(main, '.row-link');
    const here = links.indexOf(document.activeElement);
    links[here < 0 ? (by > 0 ? 0 : links.length - 1) : Math.max(0, Math.min(links.length - 1, here + by))]?.focus();
  }

  document.documentElement.classList.add('js');
  remember(document);
  prepare(document);
  readClock();
  countSelected();
  connect();
  setInterval(tick, 1000);
  if (live) setInterval(() => { if (!document.hidden) refresh(); }, IDLE_MS);
})();
