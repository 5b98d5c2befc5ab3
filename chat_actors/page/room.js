/** The room of one topic: its members, its messages with their countdowns, and the field for a new message. */

import { MessageLog } from "./log.js";
import { short } from "./message.js";
import { People } from "./people.js";

const GAPS = {
  expired: (count) => `${count} expired while you were away.`,
  evicted: (count) => `${count} lost while you were away: this topic was too busy.`,
};
const ENDS = {
  1008: "The server closed the connection: it refused too many messages in a row.",
  1009: "The server closed the connection: your message was too big. Make it shorter.",
  4409: "This topic is open in another window now.",
};

let lastId = 0; // makes the ids of elements unique

export class Room {
  connection = null; // whose events this room takes

  // Shown in the lobby.
  topic = "";
  users = 0;
  isDown = false;

  #part; // returns the element of this room with a class
  #changed; // called after a change of a field above, or of `unread`
  #log;
  #people;
  #own = new Map(); // MessageViews of own messages without an id, by ref
  #unread = new Set(); // ids
  #wantsTopics = false;

  /** @param {{changed: () => void, left: () => void, back: () => void}} callbacks */
  constructor({ changed, left, back }) {
    this.#changed = changed;
    this.element = document.getElementById("room-template").content.firstElementChild.cloneNode(true);
    this.#log = new MessageLog(this.element);
    const part = (this.#part = (name) => this.element.querySelector(`.${name}`));
    this.#people = new People(part);
    part("problem").id = `problem-${++lastId}`;
    part("field").setAttribute("aria-describedby", part("problem").id);
    part("leave").onclick = left;
    part("back").onclick = back;
    part("again").onclick = () => {
      this.joinAgain();
      part("field").focus();
    };
    part("composer").onsubmit = (event) => {
      event.preventDefault();
      this.#submit();
    };
    part("field").onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey) return;
      event.preventDefault();
      this.#submit();
    };
  }

  get isShown() {
    return !this.element.hidden;
  }

  /** The count of unread messages that have not expired. */
  get unread() {
    return this.#unread.size;
  }

  show(isShown) {
    this.element.hidden = !isShown;
    if (isShown) this.markRead();
  }

  /** Mark every message as read: the page, or this room on it, has become visible. */
  markRead() {
    this.#unread.clear();
    this.tick();
    this.#changed();
  }

  /** @param {number} unread in other rooms */
  showElsewhere(unread) {
    this.#part("back").textContent = unread ? `‹ ${unread} new` : "‹";
    this.#part("back").setAttribute("aria-label", unread ? `All topics, ${unread} new` : "All topics");
  }

  focus() {
    // On a touch screen a focused field opens the on-screen keyboard.
    this.#part(matchMedia("(pointer: coarse)").matches ? "title" : "field").focus();
  }

  /** Open the connection again after it has ended. */
  joinAgain() {
    this.#part("again").hidden = true;
    this.#part("status").textContent = "Connecting…";
    this.connection.open();
  }

  /** Update the countdowns. Called once a second. */
  tick() {
    const over = this.#log.tick();
    if (over) this.take_expired({ through: over });
  }

  /** Take an event with the method of its type. @param {import("./connection.js").Event} event */
  take(event) {
    this[`take_${event.type}`](event);
  }

  take_renamed({ username }) {
    if (this.#people.me && this.#people.me !== username) this.#log.note(`Your name here is now ${username}.`);
    this.#people.me = username;
  }

  take_joined({ topic, username, users, ttl }) {
    this.take_renamed({ username });
    this.#log.ttl = ttl * 1000;
    const duration = ttl < 100 ? `${ttl} second${ttl === 1 ? "" : "s"}` : short(ttl);
    this.#part("duration").textContent = duration;
    this.#part("field").placeholder = `A message lasts ${duration}`;
    this.#part("title").firstElementChild.textContent = topic;
    this.#part("label").textContent = `Message to ${topic}`;
    this.#part("log").setAttribute("aria-label", `Messages in ${topic}`);
    this.topic = topic;
    this.users = users;
    this.#setStatus("");
    for (const view of this.#own.values()) if (view.state === "waiting") this.#showSending(view);
  }

  take_members(event) {
    this.users = event.users;
    this.#people.take(event);
    this.#changed();
  }

  take_message(event) {
    this.#log.add(event);
    if (event.own || (this.isShown && document.visibilityState === "visible")) return;
    this.#unread.add(event.id);
    this.#changed();
  }

  take_delivered({ ref, id, recipients, deadline }) {
    const view = this.#own.get(ref);
    this.#own.delete(ref);
    view.show("delivered", recipients ? `delivered to ${recipients}` : "delivered to no one");
    this.#log.settle(view, id, deadline);
  }

  take_refused({ ref, text, detail }) {
    this.#discard(ref);
    this.#giveBack(text);
    this.#complain(detail);
  }

  take_unsure({ ref }) {
    const view = this.#own.get(ref);
    view.show("unsure", "may not have arrived");
    const offer = (name, andThen) => {
      view.element.querySelector(name).onclick = () => {
        this.#discard(ref);
        andThen();
        this.#part("field").focus();
      };
    };
    offer(".send-again", () => this.#send(view.text));
    offer(".discard", () => {});
  }

  take_expired({ through }) {
    this.#log.expire(through);
    for (const id of this.#unread) {
      if (id > through) break; // the ids ascend
      this.#unread.delete(id);
    }
    this.#changed();
  }

  take_gap({ from, to, reason }) {
    if (reason === "restarted") {
      this.take_expired({ through: Infinity }); // they ended with the old epoch
      this.#log.note("This topic restarted while you were away. Messages sent in between are lost.");
    } else {
      if (reason === "expired") this.take_expired({ through: to }); // and with them all older ones
      const count = to - from + 1;
      this.#log.note(GAPS[reason](count === 1 ? "1 message" : `${count} messages`));
    }
  }

  take_topics({ message }) {
    if (this.#wantsTopics) this.#log.note(message);
    this.#wantsTopics = false;
  }

  take_lost({ detail, wait }) {
    const when = wait > 1500 ? `Trying again in ${Math.round(wait / 1000)} s.` : "Trying again…";
    this.#setStatus(`${detail ? `Not connected (${detail}).` : "Connection lost."} ${when}`);
    for (const view of this.#own.values()) if (view.state === "sending") this.#showSending(view);
  }

  take_ended({ code, detail, unsent }) {
    this.#setStatus(ENDS[code] ?? `The server closed the connection: ${detail || `code ${code}`}.`, true);
    for (const [ref, view] of this.#own) if (view.state !== "unsure") this.#discard(ref);
    if (unsent.length) this.#giveBack(unsent.join("\n"));
  }

  #submit() {
    const field = this.#part("field");
    const text = field.value;
    this.#complain("");
    field.focus();
    if (!text.trim() || !this.#part("again").hidden) return;
    field.value = "";
    if (text.trim() === "/list") {
      this.#wantsTopics = true;
      this.connection.askTopics();
    } else {
      this.#send(text);
    }
    this.#log.scrollDown();
  }

  #send(text) {
    const view = this.#log.addOwn(text);
    this.#own.set(this.connection.send(text), view);
    this.#showSending(view);
  }

  #showSending(view) {
    if (this.isDown) view.show("waiting", "waiting for the connection");
    else view.show("sending", "sending…");
  }

  #discard(ref) {
    this.#log.discard(this.#own.get(ref));
    this.#own.delete(ref);
  }

  #giveBack(text) {
    const field = this.#part("field");
    field.value = field.value ? `${text}\n${field.value}` : text;
  }

  /** Show a problem at the field. @param {string} detail empty if nothing is wrong */
  #complain(detail) {
    this.#part("field").setAttribute("aria-invalid", String(Boolean(detail)));
    this.#part("problem").textContent = detail;
  }

  /**
   * Show the state of the connection.
   * @param {string} text empty if connected
   * @param {boolean} isFinal whether only "Join again" reconnects
   */
  #setStatus(text, isFinal = false) {
    this.isDown = this.#people.isDown = Boolean(text);
    this.#part("status").textContent = text;
    this.#part("again").hidden = !isFinal;
    this.element.classList.toggle("down", this.isDown);
    this.#changed();
  }
}
