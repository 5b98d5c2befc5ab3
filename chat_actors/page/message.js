/** One message on the page, from its sending to its expiry. Its text must only be set as text, never as HTML. */

const VANISHING = 700; // milliseconds that an expired message takes to vanish: the animation is in chat.css
const GRACE = 2_000; // milliseconds to wait for the server's `expired` before this machine's clock decides

/** Format a duration. @param {number} seconds @returns {string} such as 29, 5 min, 3 h */
export function short(seconds) {
  if (seconds < 100) return `${seconds}`;
  return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

export class MessageView {
  id = null; // null until the server has given one
  #deadline = Infinity; // milliseconds since 1970, by this machine's clock
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

  /** Start the countdown. @param {number} id @param {number} age milliseconds @param {number} ttl milliseconds */
  start(id, age, ttl) {
    this.id = id;
    this.#ttl = ttl;
    this.#deadline = Date.now() - age + ttl;
    this.element.dataset.id = id;
    this.element.classList.add("alive");
    this.setSeen(this.#isSeen);
  }

  /** Run the animations only while the message is in view; in view again, they continue at the current time. */
  setSeen(isSeen) {
    this.#isSeen = isSeen;
    this.element.classList.toggle("seen", isSeen);
    if (!isSeen) return;
    this.#fit();
    if (this.id === null) return;
    this.element.style.setProperty("--ttl", `${this.#ttl}ms`);
    this.element.style.setProperty("--delay", `${this.#deadline - this.#ttl - Date.now()}ms`);
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
    const left = this.#deadline === Infinity ? "" : short(Math.max(0, Math.ceil((this.#deadline - Date.now()) / 1000)));
    if (this.#left.textContent !== left) this.#left.textContent = left;
  }

  /** Whether its time is over by this machine's clock: the server may be out of reach and cannot say so. */
  get isOver() {
    return Date.now() > this.#deadline + GRACE;
  }

  /** Fade out, then remove the element. */
  vanish() {
    this.element.classList.add("gone");
    setTimeout(() => this.element.remove(), VANISHING);
  }

  /** Make a text that is longer than its box scrollable by keyboard. */
  #fit() {
    const text = this.element.querySelector(".text");
    if (text.scrollHeight > text.clientHeight + 1) text.tabIndex = 0;
  }
}
