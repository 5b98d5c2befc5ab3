/** The messages of a room, in the order of their ids, each for as long as it lives; ours that have no id yet behind. */

import { MessageView } from "./message.js";

const MOST_SHOWN = 500; // messages; a browser that has to draw more would not keep up

export class MessageLog {
  ttl = 0; // milliseconds

  #template = document.getElementById("message-template");
  #scroller;
  #list;
  #latest;
  #cutNotice;
  #settled = []; // MessageViews that have an id, in its order
  #waiting = new Set(); // those that have none yet
  #notes = []; // {element, until}
  #cut = 0; // the highest id that is not shown, though it may live
  #views = new WeakMap(); // by element
  #sight; // tells which of them are seen
  #followsEnd = true;
  #end = 0; // how far the messages could be scrolled

  /** @param {HTMLElement} room */
  constructor(room) {
    [this.#scroller, this.#list, this.#latest, this.#cutNotice] = ["log", "messages", "latest", "cut"].map((name) =>
      room.querySelector(`.${name}`),
    );
    this.#sight = new IntersectionObserver(
      (entries) => entries.forEach((entry) => this.#views.get(entry.target).look(entry.isIntersecting)),
      { root: this.#scroller, rootMargin: "100px" },
    );
    const size = new ResizeObserver(() => this.#followEnd());
    size.observe(this.#scroller);
    size.observe(this.#scroller.firstElementChild);
    this.#scroller.onscroll = () => this.#noteScroll();
    this.#latest.onclick = () => this.scrollDown();
  }

  /** One of somebody's, or of ours that the server has repeated. */
  add({ id, username, text, own, lived }) {
    this.settle(this.#draw({ username, text, own }), id, lived);
  }

  /** One of ours, on its way. @returns {MessageView} */
  addOurs(text) {
    const view = this.#draw({ username: "", text, own: true });
    this.#waiting.add(view);
    this.#list.append(view.element);
    return view;
  }

  /** Its life has begun: it goes where its id belongs, which is nearly always behind all that have one. */
  settle(view, id, lived) {
    this.#waiting.delete(view);
    view.live(id, lived, this.ttl);
    const at = this.#settled.findLastIndex((other) => other.id < id) + 1;
    this.#settled.splice(at, 0, view);
    this.#place(view.element, this.#settled[at + 1]?.element);
    if (this.#settled.length > MOST_SHOWN) {
      const oldest = this.#settled.shift();
      this.discard(oldest);
      this.#cut = oldest.id;
      this.#cutNotice.hidden = false;
    }
  }

  discard(view) {
    this.#waiting.delete(view);
    this.#sight.unobserve(view.element);
    view.element.remove();
  }

  /** Those up to that id are gone. */
  expire(through) {
    while (this.#settled.length && this.#settled[0].id <= through) {
      const view = this.#settled.shift();
      this.#sight.unobserve(view.element);
      view.go();
    }
    if (through >= this.#cut) this.#cutNotice.hidden = true;
  }

  /** A line of the page's own; like all else here it does not stay. */
  note(text) {
    const element = document.createElement("li");
    element.className = "note";
    element.textContent = text;
    this.#place(element);
    this.#notes.push({ element, until: Date.now() + this.ttl });
  }

  /** Count down. @returns {number} the highest id whose time is over though the server has not said so, or 0 */
  tick() {
    for (const view of this.#settled) view.tick();
    while (this.#notes.length && this.#notes[0].until < Date.now()) this.#notes.shift().element.remove();
    return this.#settled.findLast((view) => view.isOver)?.id ?? 0;
  }

  scrollDown() {
    this.#followsEnd = true;
    this.#followEnd();
  }

  #draw(message) {
    const view = new MessageView(this.#template, message);
    this.#views.set(view.element, view);
    this.#sight.observe(view.element);
    return view;
  }

  /** Put it there, or before ours that wait, unless it is there already: to move it would begin its animations anew. */
  #place(element, before = this.#waiting.values().next().value?.element ?? null) {
    if (!element.parentNode || element.nextSibling !== before) this.#list.insertBefore(element, before);
  }

  /** The messages, or the room for them, have become more or less: who was reading the newest still does. */
  #followEnd() {
    if (this.#followsEnd) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#end = this.#scroller.scrollHeight - this.#scroller.clientHeight;
  }

  #noteScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    // What has come since the end was noted has not been followed yet: that is no scrolling away.
    this.#followsEnd = scrollTop > Math.min(this.#end, scrollHeight - clientHeight) - 24;
    this.#scroller.classList.toggle("following", this.#followsEnd);
    this.#latest.hidden = this.#followsEnd;
  }
}
