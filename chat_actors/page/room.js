/** What one topic looks like: who is here, what is said and for how long yet, and the field to say something. */

import { MessageView, short } from "./message.js";

const MOST_SHOWN = 500; // messages; a browser that has to draw more would not keep up
const GAPS = {
  expired: (count) => `${count} lived and died while you were away.`,
  evicted: (count) => `${count} are lost: this topic was too busy to keep them.`,
};
const ENDS = {
  1008: "The server closed this connection: too many of its frames were refused.",
  1009: "The server closed this connection: that message was too big for it.",
  4409: "This topic goes on in another window.",
};

let numbered = 0; // rooms so far

export class Room {
  connection = null; // which tells this room what happens

  #template;
  #part; // the elements of this room, by class
  #changed; // called when what others show of this room has changed
  #ttl = 0; // milliseconds
  #settled = []; // MessageViews that have an id, in its order
  #pending = new Map(); // by ref: ours that have none yet
  #views = new WeakMap(); // by element
  #sight; // tells which of them are seen
  #followsEnd = true;
  #end = 0; // how far the messages could be scrolled
  #notes = []; // {element, until}
  #unread = new Set(); // ids
  #others = []; // usernames
  #cut = 0; // the highest id that is not shown, though it may live
  #wantsTopics = false;

  /** What is shown elsewhere. */
  topic = "";
  users = 0;
  isDown = false;

  /** @param {{changed: () => void, left: () => void, back: () => void}} callbacks */
  constructor({ changed, left, back }) {
    this.#changed = changed;
    this.#template = document.getElementById("message-template");
    this.element = document.getElementById("room-template").content.firstElementChild.cloneNode(true);
    const part = (this.#part = (name) => this.element.querySelector(`.${name}`));
    part("problem").id = `problem-${++numbered}`;
    part("field").setAttribute("aria-describedby", part("problem").id);
    part("leave").onclick = left;
    part("back").onclick = back;
    part("again").onclick = () => this.#openAgain();
    part("latest").onclick = () => this.#scrollDown();
    part("composer").onsubmit = (event) => {
      event.preventDefault();
      this.#submit();
    };
    part("field").onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    };
    part("people").onkeydown = ({ key }) => {
      if (key !== "Escape") return;
      part("people").open = false;
      part("people").firstElementChild.focus();
    };
    this.#sight = new IntersectionObserver(
      (entries) => entries.forEach((entry) => this.#views.get(entry.target).look(entry.isIntersecting)),
      { root: part("log"), rootMargin: "100px" },
    );
    part("people").ontoggle = () => this.#showEveryone();
    part("log").onscroll = () => this.#noteScroll();
    const size = new ResizeObserver(() => this.#followEnd());
    size.observe(part("log"));
    size.observe(part("log").firstElementChild);
  }

  get isShown() {
    return !this.element.hidden;
  }

  /** Messages that were not seen yet, and still can be. */
  get unread() {
    return this.#unread.size;
  }

  show(isShown) {
    this.element.hidden = !isShown;
    if (isShown) this.look();
  }

  /** The page has become visible, or this room on it. */
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
    (matchMedia("(pointer: coarse)").matches ? this.#part("title") : this.#part("field")).focus();
  }

  /** Once a second. */
  tick() {
    const over = this.#settled.findLast((view) => view.isOver);
    if (over) this.#expire(over.id);
    for (const view of this.#settled) view.tick();
    while (this.#notes.length && this.#notes[0].until < Date.now()) this.#notes.shift().element.remove();
  }

  /** @returns {MessageView} */
  #draw(message) {
    const view = new MessageView(this.#template, message);
    this.#views.set(view.element, view);
    this.#sight.observe(view.element);
    return view;
  }

  /** @param {import("./connection.js").Event} event */
  take(event) {
    this[`take_${event.type}`](event);
  }

  take_joined({ topic, username, users, ttl }) {
    const name = this.#part("me");
    if (name.textContent && name.textContent !== username) this.#note(`Your name here is ${username} now.`);
    name.textContent = username;
    this.#ttl = ttl * 1000;
    if (!this.topic) {
      this.topic = topic;
      this.#part("title").firstElementChild.textContent = topic;
      this.#part("label").textContent = `Message to ${topic}`;
      this.#part("log").setAttribute("aria-label", `Messages in ${topic}`);
      const life = ttl < 100 ? `${ttl} second${ttl === 1 ? "" : "s"}` : short(ttl);
      this.#part("life").textContent = life;
      this.#part("field").placeholder = `It will last ${life}`;
    }
    this.users = users;
    this.#setDown("");
    for (const view of this.#pending.values()) if (view.element.dataset.state === "waiting") this.#showSending(view);
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
    const view = this.#draw(event);
    this.#settle(view, event.id, event.lived);
    if (!event.own && !(this.isShown && document.visibilityState === "visible")) {
      this.#unread.add(event.id);
      this.#changed();
    }
  }

  take_delivered({ ref, id, recipients, lived }) {
    const view = this.#pending.get(ref);
    this.#pending.delete(ref);
    view.show("delivered", recipients ? `delivered to ${recipients}` : "delivered to no one");
    this.#settle(view, id, lived);
  }

  take_refused({ ref, text, detail }) {
    this.#discard(ref);
    this.#giveBack(text);
    this.#complain(detail);
  }

  take_unsure({ ref }) {
    const view = this.#pending.get(ref);
    view.show("unsure", "may not have arrived");
    view.element.querySelector(".send-again").onclick = () => {
      this.#discard(ref);
      this.#send(view.text);
      this.#part("field").focus();
    };
    view.element.querySelector(".discard").onclick = () => {
      this.#discard(ref);
      this.#part("field").focus();
    };
  }

  take_expired({ through }) {
    this.#expire(through);
  }

  take_gap({ from, to, reason }) {
    if (reason === "restarted") {
      this.#expire(Infinity); // they went with the topic
      this.#note("While you were away this topic ended, and began anew. Whatever was said in between is lost.");
    } else {
      const count = to - from + 1;
      this.#note(GAPS[reason](count === 1 ? "1 message" : `${count} messages`));
    }
  }

  take_topics({ message }) {
    if (this.#wantsTopics) this.#note(message);
    this.#wantsTopics = false;
  }

  take_lost({ detail, wait }) {
    const when = wait > 1500 ? `Trying again in ${Math.round(wait / 1000)} s.` : "Trying again…";
    this.#setDown(`${detail ? `Not connected: ${detail}.` : "Connection lost."} ${when}`);
    for (const view of this.#pending.values()) {
      if (view.element.dataset.state === "sending") view.show("waiting", "waiting for the connection");
    }
  }

  take_ended({ code, detail, unsent }) {
    this.#setDown(ENDS[code] ?? `The server closed this connection: ${detail || `code ${code}`}.`, true);
    for (const [ref, view] of this.#pending) if (view.element.dataset.state !== "unsure") this.#discard(ref);
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
    this.#scrollDown();
  }

  #send(text) {
    const view = this.#draw({ username: "", text, own: true });
    this.#pending.set(this.connection.send(text), view);
    this.#showSending(view);
    this.#part("messages").append(view.element);
    view.fit();
  }

  #showSending(view) {
    if (this.isDown) view.show("waiting", "waiting for the connection");
    else view.show("sending", "sending…");
  }

  /** Put it where its id belongs: nearly always behind the last that has one, and before ours that have none. */
  #settle(view, id, lived) {
    view.live(id, lived, this.#ttl);
    const at = this.#settled.findLastIndex((other) => other.id < id) + 1;
    this.#settled.splice(at, 0, view);
    this.#place(view.element, this.#settled[at + 1]?.element);
    if (this.isShown) view.fit();
    if (this.#settled.length > MOST_SHOWN) {
      const cut = this.#settled.shift();
      cut.element.remove();
      this.#unread.delete(cut.id);
      this.#cut = cut.id;
      this.#part("cut").hidden = false;
    }
  }

  #place(element, before = this.#pending.values().next().value?.element ?? null) {
    if (!element.parentNode || element.nextSibling !== before) this.#part("messages").insertBefore(element, before);
  }

  #expire(through) {
    let gone = 0;
    while (gone < this.#settled.length && this.#settled[gone].id <= through) {
      const view = this.#settled[gone++];
      this.#unread.delete(view.id);
      view.go();
    }
    this.#settled.splice(0, gone);
    if (through >= this.#cut) this.#part("cut").hidden = true;
    this.#changed();
  }

  #discard(ref) {
    this.#pending.get(ref)?.element.remove();
    this.#pending.delete(ref);
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

  /** A line of the page's own; like all else here it does not stay. */
  #note(text) {
    const element = document.createElement("li");
    element.className = "note";
    element.textContent = text;
    this.#place(element);
    this.#notes.push({ element, until: Date.now() + this.#ttl });
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

  #scrollDown() {
    this.#followsEnd = true;
    this.#followEnd();
  }

  /** The messages, or the room for them, have become more or less: who was reading the newest still does. */
  #followEnd() {
    const log = this.#part("log");
    if (this.#followsEnd) log.scrollTop = log.scrollHeight;
    this.#end = log.scrollHeight - log.clientHeight;
  }

  #noteScroll() {
    const log = this.#part("log");
    // What has come since the end was noted has not been followed yet: that is no scrolling away.
    this.#followsEnd = log.scrollTop > Math.min(this.#end, log.scrollHeight - log.clientHeight) - 24;
    log.classList.toggle("following", this.#followsEnd);
    this.#part("latest").hidden = this.#followsEnd;
  }
}
