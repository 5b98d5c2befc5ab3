/**
 * The page: connects rooms, lobby and live list, and brings the rooms back after a reload. A room is a topic's view.
 * There is one room for each topic, whatever opened it.
 */

import { Connection } from "./connection.js";
import { Lobby } from "./lobby.js";
import { Memory } from "./memory.js";
import { Room } from "./room.js";
import { Token } from "./token.js";
import { TopicWatch } from "./topics.js";

const SAVING = 500; // milliseconds that a change of what is only convenient waits to be stored with others

const url = new URL("ws", location.href);
url.protocol = url.protocol.replace("http", "ws");
url.search = url.hash = "";

const TROUBLES = { server_full: "The server is full.", unanswered: "The server does not answer." };

/** @type {Room[]} in the order in which they were opened */
const rooms = [];
let shown = null; // the room that is shown; null: the lobby
let active = null; // active topics in the last answer of the server; null: none yet
let trouble = ""; // why that answer is missing or old
let drawing = 0; // timer
let saving = 0; // timer

const lobby = new Lobby(join, goTo);
const find = (topic) => rooms.find((room) => room.topic === topic);
const findJoined = () => rooms.find((room) => room.connection.isIn)?.connection;
const watch = new TopicWatch(url.href, findJoined, takeTopics);
const memory = new Memory(url.href);
const token = new Token();
const connect = (who, take) => new Connection(url.href, who, () => token.value, take);
const fieldOf = (room) => room.element.querySelector(".field");

/** Join a topic. @returns {Promise<?Room>} the topic's room, once the server has let in; null if it has not */
function enter(who) {
  return new Promise((done) => {
    let room = null;
    const connection = connect(who, (event) => {
      if (room) return take(room, event);
      if (event.type === "joined") {
        room = add(connection, event);
        done(find(event.topic)); // as the server writes it
      } else if (event.type === "ended") {
        const detail = event.detail || "The server cannot be reached. Try again in a moment.";
        if (event.error === "unauthorized") token.refuse(connection.token);
        lobby.refuse(event.error, detail, who.topic, connection.token);
        done(null);
      }
    });
  });
}

/** Bring back a room of the page before this one. @param {import("./memory.js").Kept} kept */
function bringBack({ draft, isShown, ...who }) {
  if (find(who.topic)) return;
  let room = null;
  const connection = connect(who, (event) => take(room, event));
  room = add(connection, { type: "joined", username: who.name, topic: who.topic, users: 0, ttl: who.ttl });
  room.take({ type: "lost", detail: "", wait: 0 });
  fieldOf(room).value = draft;
  lobby.showUsername(who.username);
  if (isShown) show(room);
}

/** Add a room, before its connection tells anything else. */
function add(connection, joined) {
  const room = new Room({ changed: refresh, left: () => leave(room), back: () => show(null) });
  room.connection = connection;
  room.element.hidden = true;
  rooms.push(room);
  document.getElementById("rooms").append(room.element);
  take(room, joined);
  return room;
}

/** Take an event of a room's connection. */
function take(room, event) {
  if (event.type === "topics") watch.take(event);
  room.take(event);
  saveSoon();
  if (event.type === "joined") {
    token.accept(room.connection.token);
    save();
    refresh();
    const first = find(room.topic);
    if (first === room) return;
    leave(room); // the server has given it a topic that another room has
    show(first);
  } else if (event.type === "ended" && event.error === "unauthorized") {
    askForToken(room, event);
  }
}

/** The server has refused the token of a room's connection. */
function askForToken(room, { error, detail }) {
  if (token.refuse(room.connection.token)) return room.joinAgain(); // the page has another one by now
  if (shown && room !== shown) return lobby.askForToken(); // the room that is shown is refused too, or will be
  if (shown) show(null);
  lobby.refuse(error, detail, room.topic, room.connection.token);
}

async function join(who) {
  lobby.setBusy(true);
  watch.watch(false); // a browser opens its connections to a server one after the other
  await restored;
  const room = goTo(who.topic) ? shown : await enter(who);
  lobby.setBusy(false);
  watchIfSeen();
  if (!room) return;
  lobby.clear();
  show(room);
}

/**
 * @returns {string} the topic as the server nearly always writes it (docs/protocol.md, "Names"). It saves a join of a
 *   topic that is open; what decides is the topic in the server's answer.
 */
function clean(topic) {
  const spaced = topic.normalize("NFC").trim().replace(/\p{Zs}+/gu, " ");
  const isShownSo = /(\p{Emoji_Presentation})\uFE0F|((?![#*0-9]|\p{Emoji_Presentation})\p{Emoji})\uFE0E/gu;
  return spaced.replace(isShownSo, "$1$2"); // without a selector that asks for what is shown without it
}

/**
 * Take the token that somebody has entered, and show the room of a topic.
 * @param {string} topic as somebody has typed it
 * @param {string} [entered] the rooms that have ended for want of a token try this one
 * @returns {boolean} false if there is no such room
 */
function goTo(topic, entered = "") {
  const room = find(clean(topic));
  token.give(entered);
  if (entered.trim()) for (const one of rooms) if (one.connection.isUnauthorized) one.joinAgain();
  if (!room) return false;
  show(room);
  return true;
}

function leave(room) {
  room.connection.close();
  room.element.remove();
  const at = rooms.indexOf(room);
  rooms.splice(at, 1);
  if (room === shown) show(rooms[at] ?? rooms[at - 1] ?? null);
  save();
  watchIfSeen();
}

/** Show a room. @param {?Room} room null: the lobby */
function show(room) {
  shown = room;
  document.body.dataset.view = room ? "room" : "lobby";
  lobby.standBeside(room);
  for (const one of rooms) one.show(one === room);
  refresh();
  save();
  watchIfSeen();
  (room ?? lobby).focus();
}

/** Take the answer to a request for the active topics, or the error in its place. */
function takeTopics({ topics, error }) {
  if (topics) {
    active = topics;
    trouble = "";
  } else if (error === "unauthorized") {
    lobby.askForToken();
    active = null;
    trouble = "Join a topic to see this list.";
    watch.watch(false);
  } else {
    const why = TROUBLES[error] ?? "The server cannot be reached.";
    trouble = `${why} ${active?.length ? "This list may be old. " : ""}Trying again…`;
  }
  refresh();
}

/** Draw the lobby and the title soon; many changes at once are drawn once. */
function refresh() {
  drawing ||= setTimeout(draw, 50);
}

function draw() {
  drawing = 0;
  const unread = rooms.reduce((sum, room) => sum + room.unread, 0);
  document.title = `${unread ? `(${unread}) ` : ""}${shown ? `${shown.topic} · ` : ""}chat_actors`;
  lobby.showYours(rooms);
  const open = new Set(rooms.map((room) => room.topic));
  lobby.showActive(active, (topic) => open.has(topic), trouble);
  for (const room of rooms) room.showElsewhere(unread - room.unread);
}

/** Store the rooms, for a reload. */
function save() {
  clearTimeout(saving);
  saving = 0;
  const kept = (room) => ({ ...room.connection.identity, draft: fieldOf(room).value, isShown: room === shown });
  memory.save(rooms.map(kept), token.accepted);
}

function saveSoon() {
  saving ||= setTimeout(save, SAVING);
}

function watchIfSeen() {
  watch.watch(document.visibilityState === "visible");
}

setInterval(() => rooms.forEach((room) => room.tick()), 1000);

document.addEventListener("visibilitychange", () => {
  watchIfSeen();
  save();
  if (document.visibilityState !== "visible") return;
  rooms.forEach((room) => room.connection.nudge());
  shown?.markRead();
});
for (const change of ["online", "offline"]) {
  addEventListener(change, () => rooms.forEach((room) => room.connection.nudge()));
}

addEventListener("keydown", (event) => {
  if (!event.altKey || !["ArrowUp", "ArrowDown"].includes(event.key) || rooms.length === 0) return;
  event.preventDefault();
  const step = event.key === "ArrowDown" ? 1 : -1;
  show(rooms[(rooms.indexOf(shown) + step + rooms.length) % rooms.length]);
});

// The text in the field of a room: after the room has handled the key or the button.
for (const change of ["input", "keydown", "submit"]) {
  document.getElementById("rooms").addEventListener(change, saveSoon);
}
addEventListener("pagehide", () => {
  memory.close();
  save();
});
addEventListener("pageshow", ({ persisted }) => {
  if (!persisted) return;
  memory.reopen();
  save();
});

async function restore() {
  const before = await memory.open();
  token.accept(before.token);
  if (before.token) lobby.showToken(before.token);
  for (const kept of before.rooms) bringBack(kept);
  save(); // a copy that is another tab's goes
}

watchIfSeen();
lobby.focus();
const restored = restore();
