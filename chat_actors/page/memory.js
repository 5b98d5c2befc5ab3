/**
 * What a tab remembers of its rooms, so that a reload comes back into them as the same members: in its session storage or,
 * where that is blocked or full, with the page's entry in the tab's history. It is stored at each change: a tab that the
 * browser discards, or that crashes, gets no chance to store it at its end.
 *
 * A duplicated tab has a copy of the storage, and must not take the place of the first tab. So a tab holds a Web Lock
 * named in what it stores: the lock ends with the page, however the page ends, and a duplicate cannot have it. Without
 * Web Locks (http from another machine) the rooms belong to the page after one that said goodbye, that was discarded,
 * or that was reloaded.
 *
 * @typedef {{username: string, name: string, topic: string, resume: string, ttl: number, draft: string,
 *            isShown: boolean}} Kept a room, as `Connection.identity` with the text in its field
 */

const VERSION = 2; // of what is stored
const PATIENCE = 2_000; // milliseconds for the page before this one to let go of its lock

export class Memory {
  #key;
  #tab = ""; // name of this tab, and of its lock; empty until `open` is done
  #isClosed = false; // whether the page has said goodbye

  /** @param {string} key in the session storage: one for each server of an origin */
  constructor(key) {
    this.#key = key;
  }

  /**
   * Take over the rooms of the page before this one in this tab, and the server's token.
   * @returns {Promise<{rooms: Kept[], token: string}>} empty if there are none
   */
  async open() {
    const kept = this.#read();
    const isOurs = kept !== null && ((await hold(kept.tab)) ?? (kept.isClosed || isSameTab()));
    const tab = isOurs ? kept.tab : crypto.getRandomValues(new Uint32Array(4)).join("-");
    if (!isOurs) hold(tab);
    this.#tab = tab;
    return isOurs ? kept : { rooms: [], token: "" };
  }

  /** The page goes, so far as it knows: the next page in this tab may have what is saved from now on. */
  close() {
    this.#isClosed = true;
  }

  /** Hold the lock again, after the browser has kept the page aside and brought it back. */
  reopen() {
    this.#isClosed = false;
    if (this.#tab) hold(this.#tab);
  }

  /**
   * Store the rooms; no-op before `open` is done.
   * @param {Kept[]} rooms
   * @param {string} token the server's, empty if there is none
   */
  save(rooms, token) {
    if (!this.#tab) return;
    const state = { version: VERSION, tab: this.#tab, isClosed: this.#isClosed, token, rooms };
    write(this.#key, rooms.length ? JSON.stringify(state) : "");
  }

  #read() {
    try {
      const kept = JSON.parse(read(this.#key));
      const isSound = kept?.version === VERSION && [kept.tab, kept.token].every(isText) && kept.rooms.every(isKept);
      return isSound ? kept : null;
    } catch {
      return null; // not ours
    }
  }
}

function isKept(room) {
  return [room.username, room.name, room.topic, room.resume, room.draft].every(isText) && room.ttl > 0;
}

function isText(value) {
  return typeof value === "string";
}

/** Keep a text for the next page in this tab; empty: keep none. */
function write(key, text) {
  let rest = text; // what the session storage does not take
  try {
    sessionStorage.removeItem(key); // if the rest fails, an old state is worse than none
    if (text) sessionStorage.setItem(key, text);
    rest = "";
  } catch {
    // Blocked or full.
  }
  try {
    if ((history.state?.[key] ?? "") !== rest) history.replaceState({ ...history.state, [key]: rest }, "");
  } catch {
    // Too long, or too often for this browser: the next change is stored again.
  }
}

/** @returns {?string} the text that was kept under a key */
function read(key) {
  try {
    return sessionStorage.getItem(key) ?? history.state?.[key];
  } catch {
    return history.state?.[key];
  }
}

/**
 * Hold the lock of a tab as long as the page lives.
 * @returns {Promise<?boolean>} false if another page keeps it; null if the browser has no locks, or denies them
 */
async function hold(tab) {
  if (!navigator.locks) return null;
  return new Promise((done) => {
    const held = () => {
      done(true);
      return new Promise(() => {});
    };
    const signal = AbortSignal.timeout(PATIENCE);
    const fail = ({ name }) => done(name === "SecurityError" ? null : false);
    navigator.locks.request(`chat_actors ${tab}`, { signal }, held).catch(fail);
  });
}

/** Whether this page stands in the tab of the page before it: a duplicate is loaded as a step in the history. */
function isSameTab() {
  return document.wasDiscarded || performance.getEntriesByType("navigation")[0]?.type === "reload";
}
