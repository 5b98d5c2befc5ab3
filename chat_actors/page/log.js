/** The messages of a room until they expire, in the order of their ids; own messages without an id come last. */

import { MessageView } from "./message.js";

const MAX_SHOWN = 500; // messages; a browser cannot draw many more in time
// A message is drawn as it comes. In a flood so many are drawn in a period and the others wait; of more than MAX_SHOWN that
// wait, the oldest are never drawn. So no turn of the page draws more.
const MAX_DRAWN = 100; // messages
const PERIOD = 100; // milliseconds

export class MessageLog {
  ttl = 0; // milliseconds

  #template = document.getElementById("message-template");
  #scroller;
  #list;
  #latest;
  #cutNotice;
  #settled = []; // MessageViews with an id, in the order of the ids
  #waiting = new Set(); // MessageViews without an id
  #notes = []; // {element, deadline: of `performance.now()`}
  #flood = []; // messages that wait to be drawn, in the order of their ids
  #drawn = 0; // messages drawn in this period
  #period = 0; // timer
  #cut = 0; // the highest id that is not shown because of MAX_SHOWN
  #views = new WeakMap(); // MessageView by element
  #visibility; // tells which messages are in view
  #followsEnd = true; // whether the newest message stays in view
  #end = 0; // the largest scrollTop when it was last measured

  /** @param {HTMLElement} room */
  constructor(room) {
    [this.#scroller, this.#list, this.#latest, this.#cutNotice] = ["log", "messages", "latest", "cut"].map((name) =>
      room.querySelector(`.${name}`),
    );
    this.#visibility = new IntersectionObserver(
      (entries) => this.#setSeen(entries),
      { root: this.#scroller, rootMargin: "100px" },
    );
    const size = new ResizeObserver(() => this.#followEnd());
    size.observe(this.#scroller);
    size.observe(this.#scroller.firstElementChild);
    this.#scroller.onscroll = () => this.#noteScroll();
    this.#latest.onclick = () => this.scrollDown();
  }

  /** Add a message from the server: another member's, or an own message in a replay. */
  add(message) {
    this.#period ||= setTimeout(() => this.#endPeriod(), PERIOD);
    if (this.#drawn < MAX_DRAWN) {
      this.#drawn += 1;
      this.#show(message);
    } else {
      this.#flood.push(message);
      if (this.#flood.length > MAX_SHOWN) this.#noteCut(this.#flood.shift().id);
    }
  }

  /** Add an own message that has not been acknowledged. @returns {MessageView} */
  addOwn(text) {
    const view = this.#draw({ username: "", text, own: true });
    this.#waiting.add(view);
    this.#list.append(view.element);
    return view;
  }

  /** Place a message by its id, nearly always last, and start its countdown to `deadline`. */
  settle(view, id, deadline) {
    this.#waiting.delete(view);
    view.start(id, deadline, this.ttl);
    const at = this.#settled.findLastIndex((other) => other.id < id) + 1;
    this.#settled.splice(at, 0, view);
    this.#place(view.element, this.#settled[at + 1]?.element);
    if (this.#settled.length > MAX_SHOWN) {
      const oldest = this.#settled.shift();
      this.discard(oldest);
      this.#noteCut(oldest.id);
    }
  }

  discard(view) {
    this.#waiting.delete(view);
    this.#visibility.unobserve(view.element);
    view.element.remove();
  }

  /** Remove the messages up to the id `through`. */
  expire(through) {
    while (this.#settled.length && this.#settled[0].id <= through) {
      const view = this.#settled.shift();
      this.#visibility.unobserve(view.element);
      view.vanish();
    }
    this.#flood = this.#flood.filter(({ id }) => id > through);
    if (through < this.#cut) return;
    this.#cut = 0; // in another epoch the ids begin again
    this.#cutNotice.hidden = true;
  }

  /** Add a line by the page itself; it expires like a message. */
  note(text) {
    this.#showFlood(MAX_SHOWN); // it comes after them
    const element = document.createElement("li");
    element.className = "note";
    element.textContent = text;
    this.#place(element);
    this.#notes.push({ element, deadline: performance.now() + this.ttl });
  }

  /** Update every countdown. @returns {number} the highest id whose time is over by the countdown, or 0 */
  tick() {
    for (const view of this.#settled) view.tick();
    while (this.#notes.length && this.#notes[0].deadline < performance.now()) this.#notes.shift().element.remove();
    return this.#settled.findLast((view) => view.isOver)?.id ?? 0;
  }

  scrollDown() {
    this.#followsEnd = true;
    this.#followEnd();
  }

  #show({ id, username, text, own, deadline }, isLate = false) {
    const view = this.#draw({ username, text, own });
    view.element.classList.toggle("late", isLate);
    this.settle(view, id, deadline);
  }

  /** @returns {number} how many have been drawn */
  #showFlood(most) {
    const messages = this.#flood.splice(0, most);
    for (const message of messages) this.#show(message, true);
    return messages.length;
  }

  #endPeriod() {
    this.#drawn = this.#showFlood(MAX_DRAWN);
    this.#period = this.#drawn && setTimeout(() => this.#endPeriod(), PERIOD);
  }

  /** Tell that messages up to `id` are not shown, for they are too many. */
  #noteCut(id) {
    this.#cut = Math.max(this.#cut, id);
    this.#cutNotice.hidden = false;
  }

  #setSeen(entries) {
    for (const { target, isIntersecting } of entries) this.#views.get(target).setSeen(isIntersecting);
    for (const { target, isIntersecting } of entries) if (isIntersecting) this.#views.get(target).fit();
  }

  #draw(message) {
    const view = new MessageView(this.#template, message);
    this.#views.set(view.element, view);
    this.#visibility.observe(view.element);
    return view;
  }

  /** Insert `element` before `before`, by default before own messages without an id. A move restarts animations. */
  #place(element, before = this.#waiting.values().next().value?.element ?? null) {
    if (!element.parentNode || element.nextSibling !== before) this.#list.insertBefore(element, before);
  }

  /** Keep the newest message in view after a change of size, if it was in view before. */
  #followEnd() {
    if (this.#followsEnd) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#end = this.#scroller.scrollHeight - this.#scroller.clientHeight;
  }

  #noteScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    // Messages added since `#end` was measured are not scrolled to yet: the reader has not scrolled away.
    this.#followsEnd = scrollTop > Math.min(this.#end, scrollHeight - clientHeight) - 24;
    this.#scroller.classList.toggle("following", this.#followsEnd);
    this.#latest.hidden = this.#followsEnd;
  }
}
