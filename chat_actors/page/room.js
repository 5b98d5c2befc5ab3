/** What one topic looks like: who is here, what is said and for how long yet, and the field to say something. */

import { MessageLog } from "./log.js";
import { short } from "./message.js";

const GAPS = {
  expired: (count) => `${count} lived and died while you were away.`,
  evicted: (count) => `${count} are lost: this topic was too busy to keep them.`,
};
const ENDS = {
  1008: "The server closed this connection: too many messages in a row were refused.",
  1009: "The server closed this connection: that message was too big for it.",
  4409: "This topic goes on in another window.",
};

let numbered = 0; // rooms so far

export class Room {
  connection = null; // which tells this room what happens

  // What is shown elsewhere.
  topic = "";
  users = 0;
  isDown = false;

  #part; // the elements of this room, by class
  #changed; // called when what others show of this room has changed
  #log;
  #ours = new Map(); // by ref: MessageViews that have no id yet
  #unread = new Set(); // ids
  #others = []; // usernames
  #wantsTopics = false;

  /** @param {{changed: () => void, left: () => void, back: () => void}} callbacks */
  constructor({ changed, left, back }) {
    this.#changed = changed;
    this.element = document.getElementById("room-template").content.firstElementChild.cloneNode(true);
    this.#log = new MessageLog(this.element);
    const part = (this.#part = (name) => this.element.querySelector(`.${name}`));
    part("problem").id = `problem-${++numbered}`;
    part("field").setAttribute("aria-describedby", part("problem").id);
    part("leave").onclick = left;
    part("back").onclick = back;
    part("again").onclick = () => this.#openAgain();
    part("composer").onsubmit = (event) => {
      event.preventDefault();
      this.#submit();
    };
    part("field").onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    };
    part("people").ontoggle = () => this.#showEveryone();
    part("people").onkeydown = ({ key }) => {
      if (key !== "Escape") return;
      part("people").open = false;
      part("people").firstElementChild.focus();
    };
  }

  get isShown() {
    return !this.element.hidden;
  }

  /** How many messages were not seen yet, and still can be. */
  get unread() {
    return this.#unread.size;
  }

  show(isShown) {
    this.element.hidden = !isShown;
    if (isShown) this.look();
  }

  /** Somebody looks: the page has become visible, or this room on it. */
  look() {
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
    // On a screen that is touched the field would bring up the keyboard.
    this.#part(matchMedia("(pointer: coarse)").matches ? "title" : "field").focus();
  }

  /** Once a second. */
  tick() {
    const over = this.#log.tick();
    if (over) this.take_expired({ through: over });
  }

  /** @param {import("./connection.js").Event} event for which there is a method below */
  take(event) {
    this[`take_${event.type}`](event);
  }

  take_renamed({ username }) {
    const name = this.#part("me");
    if (name.textContent && name.textContent !== username) this.#log.note(`Your name here is ${username} now.`);
    name.textContent = username;
  }

  take_joined({ topic, username, users, ttl }) {
    this.take_renamed({ username });
    this.#log.ttl = ttl * 1000;
    const life = ttl < 100 ? `${ttl} second${ttl === 1 ? "" : "s"}` : short(ttl);
    this.#part("life").textContent = life;
    this.#part("field").placeholder = `It will last ${life}`;
    this.#part("title").firstElementChild.textContent = topic;
    this.#part("label").textContent = `Message to ${topic}`;
    this.#part("log").setAttribute("aria-label", `Messages in ${topic}`);
    this.topic = topic;
    this.users = users;
    this.#setDown("");
    for (const view of this.#ours.values()) if (view.state === "waiting") this.#showSending(view);
  }

  take_members({ users, members }) {
    this.users = users;
    this.#others = [...members].filter((name) => name !== this.#part("me").textContent);
    this.#part("count").textContent = `${users} here`;
    this.#part("others").textContent = this.#others.slice(0, 20).join(", ") || "nobody else yet";
    this.#showEveryone();
    this.#changed();
  }

  take_message(event) {
    this.#log.add(event);
    if (event.own || (this.isShown && document.visibilityState === "visible")) return;
    this.#unread.add(event.id);
    this.#changed();
  }

  take_delivered({ ref, id, recipients, lived }) {
    const view = this.#ours.get(ref);
    this.#ours.delete(ref);
    view.show("delivered", recipients ? `delivered to ${recipients}` : "delivered to no one");
    this.#log.settle(view, id, lived);
  }

  take_refused({ ref, text, detail }) {
    this.#discard(ref);
    this.#giveBack(text);
    this.#complain(detail);
  }

  take_unsure({ ref }) {
    const view = this.#ours.get(ref);
    view.show("unsure", "may not have arrived");
    const choose = (name, andThen) => {
      view.element.querySelector(name).onclick = () => {
        this.#discard(ref);
        andThen();
        this.#part("field").focus();
      };
    };
    choose(".send-again", () => this.#send(view.text));
    choose(".discard", () => {});
  }

  take_expired({ through }) {
    this.#log.expire(through);
    for (const id of this.#unread) if (id <= through) this.#unread.delete(id);
    this.#changed();
  }

  take_gap({ from, to, reason }) {
    if (reason === "restarted") {
      this.take_expired({ through: Infinity }); // they went with the topic
      this.#log.note("While you were away this topic ended, and began anew. Whatever was said in between is lost.");
    } else {
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
    this.#setDown(`${detail ? `Not connected: ${detail}.` : "Connection lost."} ${when}`);
    for (const view of this.#ours.values()) if (view.state === "sending") this.#showSending(view);
  }

  take_ended({ code, detail, unsent }) {
    this.#setDown(ENDS[code] ?? `The server closed this connection: ${detail || `code ${code}`}.`, true);
    for (const [ref, view] of this.#ours) if (view.state !== "unsure") this.#discard(ref);
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
    const view = this.#log.addOurs(text);
    this.#ours.set(this.connection.send(text), view);
    this.#showSending(view);
  }

  #showSending(view) {
    if (this.isDown) view.show("waiting", "waiting for the connection");
    else view.show("sending", "sending…");
  }

  #discard(ref) {
    this.#log.discard(this.#ours.get(ref));
    this.#ours.delete(ref);
  }

  #giveBack(text) {
    const field = this.#part("field");
    field.value = field.value ? `${text}\n${field.value}` : text;
  }

  /** @param {string} detail of what is wrong with the message; none: nothing is */
  #complain(detail) {
    this.#part("field").setAttribute("aria-invalid", String(Boolean(detail)));
    this.#part("problem").textContent = detail;
  }

  #showEveryone() {
    const item = (name) => Object.assign(document.createElement("li"), { textContent: name, dir: "auto" });
    if (this.#part("people").open) this.#part("everyone").replaceChildren(...this.#others.map(item));
  }

  #setDown(words, forGood = false) {
    this.isDown = Boolean(words);
    if (words) this.#part("count").textContent = "not connected";
    this.#part("status").textContent = words;
    this.#part("again").hidden = !forGood;
    this.element.classList.toggle("down", this.isDown);
    this.#changed();
  }

  #openAgain() {
    this.#part("again").hidden = true;
    this.#part("status").textContent = "Connecting…";
    this.#part("field").focus();
    this.connection.open();
  }
}
