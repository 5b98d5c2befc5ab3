/** One message on the page, from its sending to its end. Its text is only ever text. */

const GOING = 700; // milliseconds a message takes to vanish once it is gone from the server; chat.css says how
const GRACE = 2_000; // milliseconds the server's word is waited for before the clock decides

/** A length of time as it is shown, from seconds: 29, 5 min, 3 h. */
export function short(seconds) {
  if (seconds < 100) return `${seconds}`;
  return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

export class MessageView {
  id = null; // once it has one
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

  /** Its life at the server has begun, `lived` milliseconds ago, and takes `ttl`. */
  live(id, lived, ttl) {
    this.id = id;
    this.#ttl = ttl;
    this.#deadline = Date.now() - lived + ttl;
    this.element.dataset.id = id;
    this.element.classList.add("alive");
    this.look(this.#isSeen);
  }

  /** It has come into sight, or goes out of it: what nobody sees is not animated, and begins again where it is then. */
  look(isSeen) {
    this.#isSeen = isSeen;
    this.element.classList.toggle("seen", isSeen);
    if (!isSeen) return;
    this.#fit();
    if (this.id === null) return;
    this.element.style.setProperty("--ttl", `${this.#ttl}ms`);
    this.element.style.setProperty("--delay", `${this.#deadline - this.#ttl - Date.now()}ms`);
    this.tick();
  }

  /** @returns {"sending"|"waiting"|"delivered"|"unsure"} of one of ours */
  get state() {
    return this.element.dataset.state;
  }

  show(state, words) {
    this.element.dataset.state = state;
    this.#state.textContent = words;
  }

  /** Count down, where it is seen. */
  tick() {
    if (!this.#isSeen) return;
    const left = this.#deadline === Infinity ? "" : short(Math.max(0, Math.ceil((this.#deadline - Date.now()) / 1000)));
    if (this.#left.textContent !== left) this.#left.textContent = left;
  }

  /** Whether its time is over, though the server has not said so: it cannot be heard. */
  get isOver() {
    return Date.now() > this.#deadline + GRACE;
  }

  /** Fade and be gone. */
  go() {
    this.element.classList.add("gone");
    setTimeout(() => this.element.remove(), GOING);
  }

  /** Give what is longer than its box a scroll bar that the keyboard reaches. */
  #fit() {
    const text = this.element.querySelector(".text");
    if (text.scrollHeight > text.clientHeight + 1) text.tabIndex = 0;
  }
}
