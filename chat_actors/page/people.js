/** The members of a room: in its header, in the list that opens below it, and in announcements. No topic is too big. */

const IN_HEADER = 20; // names; the header has no place for more
const MAX_LISTED = 1000; // names in the list
const NAMED = 3; // names in an announcement, at most
const ANNOUNCING = 1000; // milliseconds that joins and leaves wait for others, to be announced together

/** @param {string[]} names one or more @returns {string} such as "bob", "bob and carol", "bob, carol and 3 others" */
function listed(names) {
  const all = names.length > NAMED ? [...names.slice(0, NAMED - 1), `${names.length - NAMED + 1} others`] : names;
  const last = all.at(-1);
  return all.length === 1 ? last : `${all.slice(0, -1).join(", ")} and ${last}`;
}

export class People {
  #part; // returns the element of this room with a class
  #me = "";
  #users = 0;
  #members = new Set(); // the connection's own, so read it only to draw; null: the server does not name them
  #isDown = false; // whether the room is not connected
  #items = new Map(); // elements of the list by username, while it is open
  #more = document.createElement("li"); // in place of the names that are not listed
  #drawing = 0; // animation frame
  #news = new Map(); // who joined ("joined") or left ("left") and is to be announced, by username
  #announcing = 0; // timer

  /** @param {(name: string) => HTMLElement} part */
  constructor(part) {
    this.#part = part;
    this.#more.className = "hint";
    const people = part("people");
    people.ontoggle = () => this.#drawList();
    people.onkeydown = ({ key }) => {
      if (key !== "Escape") return;
      people.open = false;
      people.firstElementChild.focus();
    };
  }

  /** The name of this member. */
  get me() {
    return this.#me;
  }

  set me(name) {
    this.#me = name;
    this.#part("me").textContent = name;
  }

  set isDown(isDown) {
    this.#isDown = isDown;
    if (isDown) this.#part("count").textContent = "not connected";
  }

  /** Take a change of the members. It costs no more in a bigger room: only drawing reads them. */
  take({ users, members, joined, left }) {
    this.#users = users;
    this.#members = members;
    for (const name of left) {
      this.#remove(name); // joined again, the member has another place
      this.#addNews(name, "left");
    }
    for (const name of joined) this.#addNews(name, "joined");
    if (!members) this.#news.clear();
    this.#drawing ||= requestAnimationFrame(() => this.#draw()); // many changes at once are drawn once
  }

  #draw() {
    this.#drawing = 0;
    const count = this.#members ? 0 : this.#users - 1; // in place of the names
    const others = count ? `${count} other${count === 1 ? "" : "s"}` : this.#others(IN_HEADER).join(", ");
    this.#part("others").textContent = others || "no one else yet";
    if (!this.#isDown) this.#part("count").textContent = `${this.#users} here`;
    this.#drawList();
  }

  /** Draw the list if it is open: change only what has changed, for a browser takes long to lay out a new list. */
  #drawList() {
    const list = this.#part("everyone");
    const names = this.#part("people").open ? this.#others(MAX_LISTED) : [];
    const wanted = new Set(names);
    for (const name of this.#items.keys()) if (!wanted.has(name)) this.#remove(name);
    let next = list.firstElementChild;
    for (const name of names) {
      const item = this.#items.get(name) ?? this.#add(name);
      if (item === next) next = next.nextElementSibling;
      else list.insertBefore(item, next);
    }
    const rest = names.length < MAX_LISTED ? 0 : this.#members.size - Number(this.#members.has(this.#me)) - names.length;
    this.#more.textContent = `and ${rest} more`;
    if (!rest) this.#more.remove();
    else if (!this.#more.parentNode) list.append(this.#more);
  }

  /** @param {number} most @returns {string[]} usernames of so many other members, those first who came first */
  #others(most) {
    const names = [];
    for (const name of this.#members ?? []) {
      if (names.length === most) break;
      if (name !== this.#me) names.push(name);
    }
    return names;
  }

  #add(name) {
    const item = Object.assign(document.createElement("li"), { textContent: name, dir: "auto" });
    this.#items.set(name, item);
    return item;
  }

  #remove(name) {
    this.#items.get(name)?.remove();
    this.#items.delete(name);
  }

  /** Note a change for the next announcement. Who joins and leaves before it is not announced. */
  #addNews(name, what) {
    const before = this.#news.get(name);
    if (before && before !== what) this.#news.delete(name);
    else this.#news.set(name, what);
    this.#announcing ||= setTimeout(() => this.#announce(), ANNOUNCING);
  }

  /** Tell those who hear the page, and do not see its header, who joined and who left. */
  #announce() {
    this.#announcing = 0;
    const sentences = [];
    for (const what of ["joined", "left"]) {
      const names = [...this.#news.keys()].filter((name) => this.#news.get(name) === what);
      if (names.length) sentences.push(`${listed(names)} ${what}.`);
    }
    if (sentences.length) this.#part("news").textContent = sentences.join(" ");
    this.#news.clear();
  }
}
