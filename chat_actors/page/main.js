/** The wiring: rooms, the lobby, the live list, and what is kept while the page is reloaded. */

import { Connection } from "./connection.js";
import { Lobby, speaksOfToken } from "./lobby.js";
import { Room } from "./room.js";
import { TopicWatch } from "./topics.js";

const url = new URL("ws", location.href);
url.protocol = url.protocol.replace("http", "ws");
url.search = url.hash = "";

/** @type {Map<string, Room>} by topic */
const rooms = new Map();
let shown = null; // the room that is shown; none: the lobby
let active = null; // the topics as the server last gave them
let trouble = ""; // why it does not
let drawing = 0;

const lobby = new Lobby(join, goTo);
const watch = new TopicWatch(url.href, () => [...rooms.values()].find((room) => room.connection.isIn)?.connection, learn);

/** @param {{username: string, topic: string, token?: string, resume?: string}} who @returns {Promise<boolean>} */
function enter(who) {
  return new Promise((done) => {
    let room = null;
    const connection = new Connection(url.href, who, (event) => {
      if (event.type === "topics") learn(event);
      if (room) return room.take(event);
      if (event.type === "joined") {
        room = add(connection, event);
        done(true);
      } else if (event.type === "ended") {
        lobby.refuse(event.error, event.detail || "The server cannot be reached.", who.topic);
        done(false);
      }
    });
  });
}

function add(connection, joined) {
  const room = new Room({ changed: refresh, left: () => leave(room), back: () => show(null) });
  room.connection = connection;
  room.element.hidden = true;
  room.take(joined);
  rooms.set(joined.topic, room);
  document.getElementById("rooms").append(room.element);
  refresh();
  return room;
}

async function join(who) {
  lobby.setBusy(true);
  const before = new Set(rooms.keys());
  const isIn = await enter(who);
  lobby.setBusy(false);
  if (!isIn) return;
  lobby.clear();
  show([...rooms.values()].find((room) => !before.has(room.topic)));
}

/** @param {string} topic @returns {boolean} whether it is open, and shown now */
function goTo(topic) {
  const room = rooms.get(topic);
  if (room) show(room);
  return Boolean(room);
}

function leave(room) {
  room.connection.close();
  room.element.remove();
  const names = [...rooms.keys()];
  const at = names.indexOf(room.topic);
  rooms.delete(room.topic);
  show(rooms.get(names[at + 1] ?? names[at - 1]) ?? null);
  watch.watch(true);
}

/** @param {?Room} room none: the lobby */
function show(room) {
  shown = room;
  document.body.dataset.view = room ? "room" : "lobby";
  lobby.standBeside(room);
  for (const one of rooms.values()) one.show(one === room);
  refresh();
  watchIfSeen();
  (room ?? lobby).focus();
}

/** The list has come, or has not. */
function learn({ topics, error, detail }) {
  if (topics) {
    active = topics;
    trouble = "";
  } else if (error === "not_joined") {
    if (speaksOfToken(error, detail)) lobby.askForToken();
    active = null;
    trouble = "They are shown to those who have joined one.";
    watch.watch(false);
  } else {
    trouble = error === "server_full" ? "The server is full. Trying again…" : "The server cannot be reached. Trying again…";
  }
  refresh();
}

/** Show in the lobby and elsewhere what has changed; many changes at once are one. */
function refresh() {
  drawing ||= setTimeout(draw, 50);
}

function draw() {
  drawing = 0;
  const all = [...rooms.values()];
  const unread = all.reduce((sum, room) => sum + room.unread, 0);
  document.title = `${unread ? `(${unread}) ` : ""}${shown ? `${shown.topic} · ` : ""}chat_actors`;
  lobby.showYours(all);
  lobby.showActive(active, (topic) => rooms.has(topic), trouble);
  for (const room of all) room.showElsewhere(unread - room.unread);
}

function watchIfSeen() {
  watch.watch(document.visibilityState === "visible");
}

setInterval(() => rooms.forEach((room) => room.tick()), 1000);

document.addEventListener("visibilitychange", () => {
  watchIfSeen();
  if (document.visibilityState !== "visible") return;
  rooms.forEach((room) => room.connection.nudge());
  shown?.look();
});
for (const change of ["online", "offline"]) {
  addEventListener(change, () => rooms.forEach((room) => room.connection.nudge()));
}

addEventListener("keydown", (event) => {
  if (!event.altKey || !["ArrowUp", "ArrowDown"].includes(event.key) || rooms.size === 0) return;
  event.preventDefault();
  const all = [...rooms.values()];
  const step = event.key === "ArrowDown" ? 1 : -1;
  show(all[(all.indexOf(shown) + step + all.length) % all.length]);
});

// A reload comes back as the same member. What that takes is kept only from the page's end to its next beginning: so a
// tab that is duplicated meanwhile has none of it, and does not take the first one's place.
addEventListener("pagehide", () => {
  const kept = [...rooms.values()].map((room) => ({ ...room.connection.identity, isShown: room === shown }));
  if (kept.length) sessionStorage.setItem("rooms", JSON.stringify(kept));
});

async function restore() {
  const kept = JSON.parse(sessionStorage.getItem("rooms") ?? "[]");
  sessionStorage.removeItem("rooms");
  for (const { isShown, ...who } of kept) {
    lobby.username = who.username;
    if ((await enter(who)) && isShown) show(rooms.get(who.topic));
  }
}

addEventListener("pageshow", ({ persisted }) => persisted && sessionStorage.removeItem("rooms"));
watchIfSeen();
lobby.focus();
restore();
