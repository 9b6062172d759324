"use strict";
// Shows /api/v1/status once a second. Text goes in as text, never as markup:
// names and errors come from outside.
const byId = (id) => document.getElementById(id);
const count = (n) => n.toLocaleString("en");
const perSec = (x) => (x < 10 ? x.toFixed(1) : count(Math.round(x)));
const bytes = (n) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${n.toFixed(unit && n < 100 ? 1 : 0)} ${units[unit]}`;
};
const duration = (secs) => {
  if (secs === null) return "–";
  if (secs < 120) return `${secs} s`;
  if (secs < 7200) return `${Math.round(secs / 60)} min`;
  if (secs < 172800) return `${Math.round(secs / 3600)} h`;
  return `${Math.round(secs / 86400)} d`;
};
const rates = [];

function cell(row, text, className) {
  const td = row.insertCell();
  td.textContent = text;
  if (className) td.className = className;
  return td;
}

function show(s) {
  const state = byId("state");
  state.textContent = s.ready ? "delivering" : "not delivering";
  state.className = s.ready ? "pill good" : "pill bad";
  byId("about").textContent = `version ${s.version}, up ${duration(s.uptime_secs)}`;
  byId("rate").textContent = perSec(s.ledger.accepted_per_sec);
  byId("connections").textContent = count(s.broker.sessions_open);
  byId("buffered").textContent = count(s.store.buffered);
  byId("in-quarantine").textContent = count(s.store.in_quarantine);
  byId("size").textContent = `${bytes(s.store.file_bytes)} of ${bytes(s.store.max_bytes)}`;
  byId("fill").value = s.store.file_bytes / s.store.max_bytes;
  byId("full-in").textContent = s.store.full ? "full: devices are pushed back"
    : s.store.time_to_full_secs === null ? "" : `full in ${duration(s.store.time_to_full_secs)}`;

  rates.push(s.ledger.accepted_per_sec);
  if (rates.length > 60) rates.shift();
  const top = Math.max(1, ...rates);
  byId("rate-line").firstElementChild.setAttribute("points",
    rates.map((r, n) => `${(n / 59) * 120},${27 - (r / top) * 26}`).join(" "));

  const l = s.ledger;
  byId("ledger").textContent = `${count(l.accepted)} accepted = ${count(l.stored)} stored + `
    + `${count(l.duplicate)} duplicates + ${count(l.quarantined)} quarantined`
    + (l.refused_full ? `; ${count(l.refused_full)} turned away while full` : "");

  const body = byId("destinations");
  body.replaceChildren();
  for (const d of s.destinations) {
    const row = body.insertRow();
    cell(row, d.name);
    cell(row, d.state);
    cell(row, count(d.delivered), "n");
    cell(row, perSec(d.delivered_per_sec), "n");
    cell(row, count(d.backlog), "n");
    cell(row, duration(d.oldest_undelivered_age_secs), "n");
    cell(row, duration(d.time_to_drain_secs), "n");
    cell(row, count(d.retrying), "n");
    cell(row, count(d.dead), "n");
    cell(row, count(d.expired), "n");
    cell(row, count(d.evicted), "n");
    if (d.error) cell(body.insertRow(), d.error, "error").colSpan = 11;
  }

  const remotes = byId("remotes");
  byId("remotes-section").hidden = s.remotes.length === 0;
  remotes.replaceChildren();
  for (const r of s.remotes) {
    const row = remotes.insertRow();
    cell(row, r.name);
    cell(row, r.state);
    for (const n of [r.received, r.shown, r.kept, r.circles, r.refused]) cell(row, count(n), "n");
    if (r.error) cell(remotes.insertRow(), r.error, "error").colSpan = 7;
  }
}

const CLIENTS_SHOWN = 50;

function showBroker(b, clients) {
  const refused = Object.keys(b).filter((key) => key.startsWith("refused_") && key !== "refused_queue_full")
    .reduce((sum, key) => sum + b[key], 0);
  const dropped = Object.keys(b).filter((key) => key.startsWith("dropped_"))
    .reduce((sum, key) => sum + b[key], 0);
  byId("broker").textContent = `${count(b.sessions_open)} connected, ${count(b.subscriptions)} subscriptions, `
    + `${count(b.retained)} retained; ${count(b.delivered)} messages to subscribers, ${count(dropped)} dropped; `
    + `${count(refused)} connections refused, ${count(b.publishes_paused)} slowed for their rate`;
  const body = byId("clients");
  body.replaceChildren();
  for (const c of clients.items) {
    const row = body.insertRow();
    cell(row, c.client_id, "name");
    cell(row, c.user ?? "–");
    cell(row, c.address ?? "local");
    cell(row, c.protocol);
    cell(row, duration(c.connected_secs), "n");
    cell(row, perSec(c.publishes_in_per_sec), "n");
    cell(row, perSec(c.publishes_out_per_sec), "n");
    cell(row, count(c.in_flight_in + c.in_flight_out), "n");
    cell(row, bytes(c.queue_bytes), "n");
    cell(row, count(c.dropped), "n");
  }
  byId("clients-more").textContent = clients.items.length === 0 ? "nobody is connected"
    : clients.next === null ? ""
    : `the first ${count(clients.items.length)} of ${count(b.sessions_open)}; penstock broker clients lists all`;
}

async function refresh() {
  try {
    const [status, ready, clients] = await Promise.all([fetch("/api/v1/status"), fetch("/readyz"),
      fetch(`/api/v1/broker/clients?connected=true&limit=${CLIENTS_SHOWN}`)]);
    const account = await status.json();
    show(account);
    showBroker(account.broker, await clients.json());
    const { reasons } = await ready.json();
    byId("reasons").hidden = reasons.length === 0;
    byId("reasons").textContent = reasons.join("; ");
  } catch {
    byId("state").textContent = "gateway unreachable";
    byId("state").className = "pill bad";
  }
  setTimeout(refresh, 1000);
}
refresh();
