/** One message on the page, from its sending to its expiry. Its text must only be set as text, never as HTML. */

const VANISHING = 700; // milliseconds that an expired message takes to vanish: the animation is in chat.css
const GRACE = 2_000; // milliseconds to wait for the server's `expired` before the page's own countdown decides

/** Format a duration. @param {number} seconds @returns {string} such as 29, 5 min, 3 h */
export function short(seconds) {
  if (seconds < 100) return `${seconds}`;
  return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

export class MessageView {
  id = null; // null until the server has given one
  #deadline = Infinity; // of `performance.now()`, which nobody sets, unlike the time of day
  #ttl = 0;
  #isSeen = false;
  #left;
  #state;

  /**
   * @param {HTMLTemplateElement} template
   * @param {{username: string, text: string, own: boolean}} message
   */
  constructor(template, { username, text, own }) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.text = text;
    this.element.classList.toggle("own", own);
    this.element.querySelector(".name").textContent = own ? "you" : username;
    this.element.querySelector(".text").textContent = text;
    this.#left = this.element.querySelector(".left");
    this.#state = this.element.querySelector(".state");
  }

  /** Start the countdown to `deadline`. @param {number} id @param {number} deadline @param {number} ttl milliseconds */
  start(id, deadline, ttl) {
    this.id = id;
    this.#ttl = ttl;
    this.#deadline = deadline;
    this.element.dataset.id = id;
    this.element.classList.add("alive");
    this.setSeen(this.#isSeen);
  }

  /** Run the animations only while the message is in view; in view again, they continue at the current time. */
  setSeen(isSeen) {
    this.#isSeen = isSeen;
    this.element.classList.toggle("seen", isSeen);
    if (!isSeen || this.id === null) return;
    this.element.style.setProperty("--ttl", `${this.#ttl}ms`);
    this.element.style.setProperty("--delay", `${this.#deadline - this.#ttl - performance.now()}ms`);
    this.tick();
  }

  /** @returns {"sending"|"waiting"|"delivered"|"unsure"|undefined} undefined for messages of others */
  get state() {
    return this.element.dataset.state;
  }

  show(state, text) {
    this.element.dataset.state = state;
    this.#state.textContent = text;
  }

  /** Update the countdown if the message is in view. */
  tick() {
    if (!this.#isSeen) return;
    const seconds = Math.ceil((this.#deadline - performance.now()) / 1000);
    const left = this.#deadline === Infinity ? "" : short(Math.max(0, seconds));
    if (this.#left.textContent !== left) this.#left.textContent = left;
  }

  /** Whether its time is over by the page's own countdown: the server may be out of reach and cannot say so. */
  get isOver() {
    return performance.now() > this.#deadline + GRACE;
  }

  /** Fade out if it is in view, then remove the element. */
  vanish() {
    if (!this.#isSeen) return this.element.remove();
    this.element.classList.add("gone");
    setTimeout(() => this.element.remove(), VANISHING);
  }

  /** Make a text that is longer than its box scrollable by keyboard. It measures the page: after all changes to it. */
  fit() {
    const text = this.element.querySelector(".text");
    if (text.scrollHeight > text.clientHeight + 1) text.tabIndex = 0;
  }
}
