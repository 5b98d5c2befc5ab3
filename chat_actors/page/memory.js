/**
 * What a tab remembers of its rooms, in its session storage, so that a reload comes back into them as the same members.
 * It is stored at each change: a tab that the browser discards, or that crashes, gets no chance to store it at its end.
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
    const isOurs = kept !== null && (navigator.locks ? await hold(kept.tab) : kept.isClosed || isSameTab());
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
   * Store the rooms; no-op before `open` is done. Where nothing can be stored, nothing comes back.
   * @param {Kept[]} rooms
   * @param {string} token the server's, empty if there is none
   */
  save(rooms, token) {
    if (!this.#tab) return;
    try {
      sessionStorage.removeItem(this.#key); // if the rest fails, an old state is worse than none
      const state = { version: VERSION, tab: this.#tab, isClosed: this.#isClosed, token, rooms };
      if (rooms.length) sessionStorage.setItem(this.#key, JSON.stringify(state));
    } catch {
      // Blocked or full.
    }
  }

  #read() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(this.#key));
      const isSound = kept?.version === VERSION && [kept.tab, kept.token].every(isText) && kept.rooms.every(isKept);
      return isSound ? kept : null;
    } catch {
      return null; // blocked, or not ours
    }
  }
}

function isKept(room) {
  return [room.username, room.name, room.topic, room.resume, room.draft].every(isText) && room.ttl > 0;
}

function isText(value) {
  return typeof value === "string";
}

/** Hold the lock of a tab as long as the page lives. @returns {Promise<boolean>} false if another page keeps it */
function hold(tab) {
  return new Promise((done) => {
    const held = () => {
      done(true);
      return new Promise(() => {});
    };
    const signal = AbortSignal.timeout(PATIENCE);
    navigator.locks?.request(`chat_actors ${tab}`, { signal }, held).catch(() => done(false));
  });
}

/** Whether this page stands in the tab of the page before it: a duplicate is loaded as a step in the history. */
function isSameTab() {
  return document.wasDiscarded || performance.getEntriesByType("navigation")[0]?.type === "reload";
}
