/** The page: connects rooms, lobby and live list, and restores the rooms after a reload. A room is a topic's view. */

import { Connection } from "./connection.js";
import { Lobby, needsToken } from "./lobby.js";
import { Room } from "./room.js";
import { TopicWatch } from "./topics.js";

const url = new URL("ws", location.href);
url.protocol = url.protocol.replace("http", "ws");
url.search = url.hash = "";

/** @type {Map<string, Room>} by topic */
const rooms = new Map();
let shown = null; // the room that is shown; null: the lobby
let active = null; // active topics in the last answer of the server; null: none yet
let trouble = ""; // why that answer is missing or old
let drawing = 0; // timer

const lobby = new Lobby(join, goTo);
const findJoined = () => [...rooms.values()].find((room) => room.connection.isIn)?.connection;
const watch = new TopicWatch(url.href, findJoined, takeTopics);

/**
 * Join a topic and add its room.
 * @param {{username: string, topic: string, token?: string, resume?: string}} who
 * @returns {Promise<boolean>} whether the join succeeded
 */
function enter(who) {
  return new Promise((done) => {
    let room = null;
    const connection = new Connection(url.href, who, (event) => {
      if (event.type === "topics") takeTopics(event);
      if (room) return room.take(event);
      if (event.type === "joined") {
        room = add(connection, event);
        done(true);
      } else if (event.type === "ended") {
        lobby.refuse(event.error, event.detail || "The server cannot be reached. Try again in a moment.", who.topic);
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

/** Show the room of a topic. @param {string} topic @returns {boolean} false if there is no such room */
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

/** Show a room. @param {?Room} room null: the lobby */
function show(room) {
  shown = room;
  document.body.dataset.view = room ? "room" : "lobby";
  lobby.standBeside(room);
  for (const one of rooms.values()) one.show(one === room);
  refresh();
  watchIfSeen();
  (room ?? lobby).focus();
}

/** Take the answer to a request for the active topics, or the error in its place. */
function takeTopics({ topics, error, detail }) {
  if (topics) {
    active = topics;
    trouble = "";
  } else if (error === "not_joined") {
    if (needsToken(error, detail)) lobby.askForToken();
    active = null;
    trouble = "Join a topic to see this list.";
    watch.watch(false);
  } else {
    trouble = `${error === "server_full" ? "The server is full." : "The server cannot be reached."} Trying again…`;
  }
  refresh();
}

/** Draw the lobby and the title soon; many changes at once are drawn once. */
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
  shown?.markRead();
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

// A reload resumes as the same member. The tokens for that are stored only while no page is loaded: so a duplicated tab
// has none, and does not take the place of the first tab.
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
