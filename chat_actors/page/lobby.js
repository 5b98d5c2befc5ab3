/** The lobby: the form to join a topic, the list of your topics, and the list of active topics. */

const MAX_LISTED = 100; // topics
const FIELDS = { invalid_username: "username", invalid_topic: "topic", unauthorized: "token" };

export class Lobby {
  #form = document.getElementById("join");
  #active = document.getElementById("active");
  #yours = document.getElementById("yours");
  #more = document.getElementById("more");
  #status = document.getElementById("active-word");
  #onJoin;
  #onOpen;

  /**
   * @param {(who: {username: string, topic: string}) => void} onJoin
   * @param {(topic: string, token?: string) => boolean} onOpen takes what was entered as the server's token, and shows
   *   the topic's room; returns false if there is none
   */
  constructor(onJoin, onOpen) {
    this.#onJoin = onJoin;
    this.#onOpen = onOpen;
    this.#form.onsubmit = (event) => {
      event.preventDefault();
      this.#submit();
    };
  }

  get #fields() {
    return this.#form.elements;
  }

  get username() {
    return this.#fields.username.value;
  }

  /** Show the name that was used before, unless something has been entered. */
  showUsername(name) {
    this.#fields.username.value ||= name;
  }

  /** Show the server's token, unless something has been entered; once there is one, it can be changed. */
  showToken(token) {
    this.#fields.token.value ||= token;
    this.askForToken();
  }

  /** @param {boolean} isBusy true while a join waits for its answer */
  setBusy(isBusy) {
    this.#form.classList.toggle("busy", isBusy);
    document.getElementById("go").textContent = isBusy ? "Joining…" : "Join";
  }

  focus() {
    // On a touch screen a focused field opens the on-screen keyboard.
    if (matchMedia("(pointer: coarse)").matches) return document.getElementById("hero").focus();
    (this.username ? this.#fields.topic : this.#fields.username).focus();
  }

  /** Order the parts of the lobby. @param {?Room} room shown beside the lobby: then the lists come before the form */
  standBeside(room) {
    if (room) this.#form.parentNode.append(this.#form);
    else document.getElementById("yours-part").before(this.#form);
  }

  /** Clear the form after a successful join. */
  clear() {
    this.#complain("", "");
    this.#fields.topic.value = "";
  }

  /**
   * Show why the join of `topic` failed, at the field with the problem.
   * @param {string} token what the join gave as the server's token
   */
  refuse(error, detail, topic, token) {
    this.#fields.topic.value ||= topic;
    if (error === "unauthorized") {
      this.askForToken();
      return this.#complain("token", token ? "Wrong token. Check it and try again." : "This server needs a token.");
    }
    this.#complain(FIELDS[error] ?? "form", detail);
  }

  askForToken() {
    document.getElementById("token-row").hidden = false;
  }

  /**
   * Show the active topics, oldest first. A topic keeps its element, so that focus and pointer stay in place.
   * @param {?{topic: string, users: number}[]} topics null if they are not known yet
   * @param {(topic: string) => boolean} isOpen whether the page has a room for the topic
   * @param {string} trouble why the list is missing or old; empty if it is neither
   */
  showActive(topics, isOpen, trouble) {
    const others = (topics ?? []).filter(({ topic }) => !isOpen(topic));
    const shown = others.slice(0, MAX_LISTED);
    update(this.#active, shown, (item, { topic, users }) => {
      item.querySelector(".users").textContent = `${users} here`;
      item.querySelector("button").onclick = () => this.#choose(topic);
    });
    const rest = others.length - shown.length;
    this.#more.textContent = rest ? `and ${rest} more` : "";
    const none = topics?.length ? "No other topics." : "No topics yet. Enter one to start it.";
    const status = trouble || (topics && !others.length ? none : "");
    if (this.#status.textContent !== status) this.#status.textContent = status;
  }

  /** @param {{topic: string, users: number, unread: number, isDown: boolean, isShown: boolean}[]} rooms */
  showYours(rooms) {
    document.getElementById("yours-part").hidden = rooms.length === 0;
    update(this.#yours, rooms, (item, { topic, users, unread, isDown, isShown }) => {
      const button = item.querySelector("button");
      button.onclick = () => this.#onOpen(topic);
      button.setAttribute("aria-current", String(isShown));
      item.querySelector(".users").textContent = unread ? `${unread} new` : isDown ? "not connected" : `${users} here`;
      item.querySelector(".users").classList.toggle("new", unread > 0);
    });
  }

  #choose(topic) {
    if (this.#isBusy) return;
    this.#fields.topic.value = topic;
    this.#submit();
  }

  get #isBusy() {
    return this.#form.classList.contains("busy");
  }

  #submit() {
    if (this.#isBusy) return;
    const [username, topic, token] = ["username", "topic", "token"].map((name) => this.#fields[name].value);
    this.#complain("", "");
    if (this.#onOpen(topic, token)) return this.clear();
    if (!username.trim()) return this.#complain("username", "Enter your name first.");
    if (!topic.trim()) return this.#complain("topic", "Enter a topic, or choose an active one.");
    this.#onJoin({ username, topic });
  }

  /**
   * Show a problem at one field and clear all others.
   * @param {string} where the name of a field, or "form"; empty if nothing is wrong
   * @param {string} problem
   */
  #complain(where, problem) {
    for (const name of ["username", "topic", "token", "form"]) {
      document.getElementById(`${name}-problem`).textContent = name === where ? problem : "";
      const field = this.#fields[name];
      if (field) field.setAttribute("aria-invalid", String(name === where));
    }
    this.#fields[where]?.focus();
  }
}

/** Give `list` one item for each of `rows`, by topic; `fill` writes an item. Items of the same topic are reused. */
function update(list, rows, fill) {
  const items = new Map([...list.children].map((item) => [item.dataset.topic, item]));
  const template = document.getElementById("topic-template").content.firstElementChild;
  let before = list.firstElementChild;
  for (const row of rows) {
    let item = items.get(row.topic);
    items.delete(row.topic);
    if (!item) {
      item = template.cloneNode(true);
      item.dataset.topic = row.topic;
      item.querySelector(".topic").textContent = row.topic;
    }
    if (item === before) before = before.nextElementSibling;
    else list.insertBefore(item, before);
    fill(item, row);
  }
  for (const item of items.values()) item.remove();
}
