/** The server's token (its shared secret) as the page has it: one for all connections. No DOM must be used here. */

export class Token {
  #given = ""; // by a person, and not refused
  #accepted = ""; // a server has let in with it

  /** The token for the next join; empty if there is none. */
  get value() {
    return this.#given || this.#accepted;
  }

  /** The token that is kept for the next page. */
  get accepted() {
    return this.#accepted;
  }

  /** Take what a person has entered; no-op if that is empty. */
  give(token) {
    this.#given = token.trim() || this.#given;
  }

  /** Note that a server has let in with this token; no-op if it is empty. */
  accept(token) {
    this.#accepted = token || this.#accepted;
  }

  /** Note that a server has refused this token. @returns {boolean} whether there is another one to try */
  refuse(token) {
    if (token === this.#accepted) this.#accepted = "";
    if (token === this.#given) this.#given = "";
    return Boolean(this.value) && this.value !== token;
  }
}
