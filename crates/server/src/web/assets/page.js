// Keeps the page as the fleet is. The server renders (and escapes) every part; this script only
// fetches the parts again when an event comes, swaps those that changed, moves the progress bars
// in between, counts the ages on, and says so when the connection is lost.
'use strict';
(() => {
  const REFRESH_MS = 500;   // at most this often, however many events come
  const IDLE_MS = 5000;     // presence changes without an event
  const RETRY_MS = 1000;
  const fleet = document.getElementById('fleet');
  const shown = new Map();  // part id -> the HTML it was made from
  let clockOffset = 0, timer = 0, busy = false, again = false, source = null;

  const parts = (root) => root.querySelectorAll('[data-part]');
  const remember = (root) => { for (const part of parts(root)) shown.set(part.id, part.outerHTML); };

  function readClock() {
    const now = document.getElementById('now');
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
    for (const time of fleet.querySelectorAll('time[data-at]')) {
      const text = ago(now - Number(time.dataset.at));
      if (time.textContent !== text) time.textContent = text;
    }
  }

  // A bar never goes back because an answer was older than an event.
  function keepProgress(before, after) {
    const was = before.querySelector('progress'), is = after.querySelector('progress');
    if (was && is && was.value > is.value && was.dataset.rollout === is.dataset.rollout) setBar(is, was.value);
  }

  function setBar(bar, percent) {
    bar.value = percent;
    bar.setAttribute('aria-valuenow', percent);
    bar.parentNode.querySelector('.percent').textContent = percent + ' %';
  }

  function swap(before, after) {
    const html = after.outerHTML;
    if (shown.get(after.id) === html) return;
    shown.set(after.id, html);
    keepProgress(before, after);
    before.replaceWith(after);
  }

  function swapRows(before, after) {
    const rows = before.querySelector('tbody'), fresh = after.querySelector('tbody');
    if (!rows || !fresh || before.querySelector('.hint')?.textContent !== after.querySelector('.hint')?.textContent) {
      before.replaceWith(after);
      remember(after);
      return;
    }
    const wanted = [...fresh.children];
    const ids = new Set(wanted.map((row) => row.id));
    for (const row of [...rows.children]) if (!ids.has(row.id)) row.remove();
    wanted.forEach((row, index) => {
      const old = document.getElementById(row.id);
      if (old) swap(old, row); else { shown.set(row.id, row.outerHTML); rows.append(row); }
      const placed = document.getElementById(row.id);
      if (rows.children[index] !== placed) rows.insertBefore(placed, rows.children[index]);
    });
  }

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const reply = await fetch('/?part=fleet', { cache: 'no-store', credentials: 'same-origin' });
      if (reply.status === 401) { location.reload(); return; }
      if (!reply.ok) throw new Error(String(reply.status));
      const next = new DOMParser().parseFromString(await reply.text(), 'text/html').body;
      for (const part of [...next.children]) {
        const old = document.getElementById(part.id);
        if (!old) continue;
        if (part.id === 'devices') swapRows(old, part); else swap(old, part);
      }
      readClock();
      tick();
    } catch (error) {
      // The event stream notices a lost connection and says so.
    } finally {
      busy = false;
      if (again) { again = false; soon(); }
    }
  }

  function soon() {
    if (!timer) timer = setTimeout(() => { timer = 0; refresh(); }, REFRESH_MS);
  }

  function onEvent(message) {
    let event;
    try { event = JSON.parse(message.data); } catch (error) { return; }
    if (event.bytes_total) {
      const row = event.device && document.getElementById('d-' + event.device);
      const bar = row && row.querySelector('progress');
      if (bar && Number(bar.dataset.rollout) === event.rollout) {
        const percent = Math.min(100, Math.floor(event.bytes_done * 100 / event.bytes_total));
        if (percent > bar.value) setBar(bar, percent);
        return;
      }
    }
    soon();
  }

  function lost(is) {
    document.getElementById('lost').hidden = !is;
    document.getElementById('live').hidden = is;
    document.body.classList.toggle('stale', is);
  }

  function connect() {
    source = new EventSource('/api/v1/events/stream');
    source.onopen = () => { lost(false); refresh(); };
    source.onerror = () => { lost(true); source.close(); setTimeout(connect, RETRY_MS); };
    source.onmessage = onEvent;
    for (const kind of KINDS) source.addEventListener(kind, onEvent);
  }

  const KINDS = document.getElementById('fleet').dataset.kinds.split(' ');
  remember(fleet);
  readClock();
  connect();
  setInterval(tick, 1000);
  setInterval(() => { if (!document.hidden) refresh(); }, IDLE_MS);
})();
