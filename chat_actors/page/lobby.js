/** The way in: who you are, what you want to talk about, what others talk about now, and where you are already. */

const MOST_LISTED = 100; // topics
const FIELDS = { invalid_username: "username", invalid_topic: "topic", token: "token" };

export class Lobby {
  #form = document.getElementById("join");
  #active = document.getElementById("active");
  #yours = document.getElementById("yours");
  #more = document.getElementById("more");
  #word = document.getElementById("active-word");
  #onJoin;
  #onOpen;

  /**
   * @param {(who: {username: string, topic: string, token: string}) => void} onJoin
   * @param {(topic: string) => boolean} onOpen whether that topic is open already, and shown now
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

  set username(name) {
    this.#fields.username.value = name;
  }

  /** @param {boolean} isBusy whether a join is under way */
  setBusy(isBusy) {
    this.#form.classList.toggle("busy", isBusy);
    document.getElementById("go").textContent = isBusy ? "Joining…" : "Join";
  }

  focus() {
    if (matchMedia("(pointer: coarse)").matches) return document.getElementById("hero").focus(); // no keyboard yet
    (this.username ? this.#fields.topic : this.#fields.username).focus();
  }

  /** Beside a room the lists come first, and the form is for one topic more. */
  standBeside(room) {
    if (room) this.#form.parentNode.append(this.#form);
    else document.getElementById("yours-part").before(this.#form);
  }

  /** The join has worked. */
  clear() {
    this.#complain("", "");
    this.#fields.topic.value = "";
  }

  /** Say what the server has against the join, where it belongs. */
  refuse(error, detail, topic) {
    if (topic) this.#fields.topic.value = topic;
    if (speaksOfToken(error, detail)) {
      this.askForToken();
      const wrong = this.#fields.token.value ? "The server does not take this token." : detail;
      return this.#complain("token", wrong);
    }
    this.#complain(FIELDS[error] ?? "form", detail);
  }

  askForToken() {
    document.getElementById("token-row").hidden = false;
  }

  /**
   * Show what is active, oldest first; those on the page stay the same elements, so that focus and pointer stay.
   * @param {?{topic: string, users: number}[]} topics none: they are not known yet
   * @param {(topic: string) => boolean} isOpen
   * @param {string} trouble why the list is not there, or not fresh
   */
  showActive(topics, isOpen, trouble) {
    const others = (topics ?? []).filter(({ topic }) => !isOpen(topic));
    const shown = others.slice(0, MOST_LISTED);
    update(this.#active, shown, (item, { topic, users }) => {
      item.querySelector(".users").textContent = `${users} here`;
      item.querySelector("button").onclick = () => this.#choose(topic);
    });
    const rest = others.length - shown.length;
    this.#more.textContent = rest ? `and ${rest} more` : "";
    const none = topics?.length ? "No other topic." : "None yet. Name one, and it begins.";
    const word = trouble || (topics && !others.length ? none : "");
    if (this.#word.textContent !== word) this.#word.textContent = word;
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
    this.#fields.topic.value = topic;
    this.#submit();
  }

  #submit() {
    if (this.#form.classList.contains("busy")) return;
    const [username, topic, token] = ["username", "topic", "token"].map((name) => this.#fields[name].value);
    this.#complain("", "");
    if (this.#onOpen(topic.trim().normalize("NFC"))) return this.clear();
    if (!username.trim()) return this.#complain("username", "Choose a name first.");
    if (!topic.trim()) return this.#complain("topic", "Choose a topic, or name a new one.");
    this.#onJoin({ username, topic, token });
  }

  /** @param {string} where the name of a field, "form", or "": nothing is wrong */
  #complain(where, what) {
    for (const name of ["username", "topic", "token", "form"]) {
      document.getElementById(`${name}-problem`).textContent = name === where ? what : "";
      const field = this.#fields[name];
      if (field) field.setAttribute("aria-invalid", String(name === where));
    }
    this.#fields[where]?.focus();
  }
}

/** Whether the server wants its shared secret. */
export function speaksOfToken(error, detail) {
  return ["invalid_join", "not_joined"].includes(error) && /token/i.test(detail);
}

/** Make the list's items those of `rows`, by topic, and let `fill` show each. */
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
