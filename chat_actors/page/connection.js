/**
 * The connection of one topic: it joins, sends one request at a time, and resumes after a lost connection, without lost
 * or doubled messages (docs/protocol.md, "The window"). No DOM must be used here: the connection reports these events.
 *
 * @typedef {{type: "joined", username: string, topic: string, users: number, ttl: number}} Joined `ttl`: seconds
 * @typedef {{type: "renamed", username: string}} Renamed this member has another name now
 * @typedef {{type: "members", users: number, members: ?Set<string>, joined: string[], left: string[]}} Members
 *   what has changed; `members`: all members, oldest first, as they are when it is read; null if they are not named
 * @typedef {{type: "message", id: number, username: string, text: string, own: boolean, replayed: boolean,
 *            deadline: number}} Message `deadline`: of `performance.now()`, when the server deletes it
 * @typedef {{type: "delivered", ref: string, id: number, recipients: number, deadline: number}} Delivered own message
 * @typedef {{type: "refused", ref: string, text: string, detail: string}} Refused an own message, by the server
 * @typedef {{type: "unsure", ref: string}} Unsure an own message may be in the topic: sending it again may double it
 * @typedef {{type: "expired", through: number}} Expired the messages up to the id `through`
 * @typedef {{type: "gap", from: number, to: ?number, reason: string}} Gap these messages are lost
 * @typedef {{type: "topics", message: string, topics: {topic: string, users: number}[]}} Topics
 * @typedef {{type: "lost", detail: string, wait: number}} Lost the next attempt starts in `wait` milliseconds
 * @typedef {{type: "ended", code: number, error: string, detail: string, unsent: string[]}} Ended for good
 * @typedef {Joined|Renamed|Members|Message|Delivered|Refused|Unsure|Expired|Gap|Topics|Lost|Ended} Event
 */

// After these codes (RFC 6455, section 7.4.1) the server would close this client again, does not understand it, or serves
// the member on another connection. After any other code the client reconnects.
const FINAL = new Set([1002, 1003, 1007, 1008, 1009, 1010, 4409]);
const RESUMED_ELSEWHERE = 4409;
const LOST = 1006;

// Milliseconds. The wait before an attempt is random, up to a limit that doubles from the first value to the second.
const BACKOFF = [500, 5000];
// Milliseconds. After SILENCE a request tests the connection; without an answer in ANSWER it is given up. Together they
// leave time to resume within the window of 30 seconds.
const SILENCE = 10_000;
const ANSWER = 8_000;
const CHECK = 2_000; // between two checks

export class Connection {
  username = ""; // given by the server
  token = ""; // what the last join gave as the server's token

  // The connection.
  #url;
  #getToken;
  #tell;
  #socket = null;
  #isIn = false;
  #wasIn = false;
  #unansweredJoins = 0;
  #began = 0; // when this attempt began
  #heard = 0; // when the last frame came, or the last request went
  #failures = 0; // in a row
  #retryAfter = null; // milliseconds, from the server's `closing`; null if it has sent none
  #refusal = null; // the error that answered the join
  #retry = 0; // timer
  #checking = 0; // timer
  // The next join frame, and the state of the member.
  #join;
  #seen = 0; // highest id seen, own messages included
  #isSameMember = false; // whether the last join resumed the member
  #members = new Set(); // null: the server does not name them, for they are too many
  #users = 0;
  #ttl = 0; // milliseconds
  // Requests, one at a time: an error has no ref, so only one request may wait for its answer.
  #queue = []; // {ref, text, written: when it was first sent}; without a text it is /list
  #inFlight = false;
  #held = []; // replayed messages that may be the unacknowledged own message: the ack will tell

  /**
   * @param {string} url
   * @param {{username: string, topic: string, resume?: string, name?: string, ttl?: number}} who
   *   `resume`: token of the member to resume, `name` and `ttl` as it last had them
   * @param {() => string} getToken returns the server's token for a join, empty if there is none
   * @param {(event: Event) => void} tell
   */
  constructor(url, { username, topic, resume = "", name = "", ttl = 0 }, getToken, tell) {
    this.#url = url;
    this.#getToken = getToken;
    this.#tell = tell;
    this.#join = { username, topic, since: 0, resume, events: true };
    this.#wasIn = Boolean(resume);
    this.username = name;
    this.#ttl = ttl * 1000;
    this.open();
  }

  /** What a later connection needs to resume this member. `since` is 0: a new page has none of the messages. */
  get identity() {
    const { username, topic, resume } = this.#join;
    return { username, name: this.username, topic, resume, ttl: this.#ttl / 1000 };
  }

  /** Whether it has ended for want of the server's token. */
  get isUnauthorized() {
    return this.#refusal?.error === "unauthorized";
  }

  get isIn() {
    return this.#isIn;
  }

  /** Connect; no-op if connected or connecting. After `ended`: join again, as the same member if it is still known. */
  open() {
    if (this.#socket) return;
    this.#detach();
    this.#checking = setInterval(() => this.#check(), CHECK);
    this.#began = this.#heard = performance.now();
    this.#refusal = this.#retryAfter = null;
    const socket = (this.#socket = new WebSocket(this.#url));
    socket.onopen = () => {
      this.#unansweredJoins += 1;
      this.token = this.#getToken();
      socket.send(JSON.stringify({ ...this.#join, ...(this.token ? { token: this.token } : {}) }));
    };
    socket.onmessage = ({ data }) => {
      this.#heard = performance.now();
      this.#take(JSON.parse(data));
    };
    socket.onclose = ({ code }) => this.#lose(code);
  }

  /** Leave the topic. */
  close() {
    this.#detach()?.close(1000);
  }

  /** Test the connection, or reconnect, at once: for a change of the network or of the page's visibility. */
  nudge() {
    if (this.#isIn) this.askTopics();
    else if (this.#retry && this.#retryAfter === null) this.open();
  }

  /** Send a message, now or after the next join. @returns {string} the ref of the message in later events */
  send(text) {
    const ref = [...crypto.getRandomValues(new Uint32Array(3))].map((part) => part.toString(36)).join("-");
    this.#queue.push({ ref, text, written: null });
    this.#askNext();
    return ref;
  }

  /** Request the active topics: a `topics` event is the answer. No-op while one is requested, or not in the topic. */
  askTopics() {
    if (this.#isIn && this.#queue.every((request) => request.text !== undefined)) {
      this.#queue.push({ written: null });
      this.#askNext();
    }
  }

  #askNext() {
    const [request] = this.#queue;
    if (!this.#isIn || this.#inFlight || !request) return;
    this.#inFlight = true;
    this.#heard = performance.now();
    request.written ??= performance.now();
    const { ref, text } = request;
    this.#socket.send(text === undefined ? "/list" : JSON.stringify({ message: text, ref }));
  }

  /** Take the answered request from the queue, and send the next one once the answer is handled. */
  #answered() {
    this.#inFlight = false;
    queueMicrotask(() => this.#askNext());
    return this.#queue.shift();
  }

  #take(frame) {
    switch (frame.type) {
      case "joined":
        return this.#welcome(frame);
      case "message":
        return this.#takeMessage(frame);
      case "ack":
        return this.#takeAck(frame);
      case "error":
        return this.#takeError(frame);
      case "topics":
        this.#answered();
        return this.#tell(frame);
      case "presence":
        return this.#takePresence(frame);
      case "renamed":
        return this.#rename(frame);
      case "expired":
        return this.#tell(frame);
      case "closing":
        this.#retryAfter = frame.retry_after_ms;
    }
  }

  #takePresence({ users, joined = [], left = [] }) {
    if (!joined.length && !left.length) this.#members = null; // until the next join
    for (const name of left) this.#members?.delete(name);
    for (const name of joined) this.#members?.add(name);
    this.#users = users;
    this.#tellMembers(joined, left);
  }

  #tellMembers(joined = [], left = []) {
    this.#tell({ type: "members", users: this.#users, members: this.#members, joined, left });
  }

  #rename({ username, renamed }) {
    this.#members?.delete(username);
    this.#members?.add(renamed);
    if (username === this.username) {
      this.username = renamed;
      this.#tell({ type: "renamed", username: renamed });
    }
    this.#tellMembers();
  }

  #welcome(frame) {
    this.#isSameMember = frame.resume === this.#join.resume;
    this.#isIn = this.#wasIn = true;
    this.#unansweredJoins -= 1;
    this.#ttl = frame.ttl * 1000;
    this.#members = frame.members ? new Set(frame.members) : null;
    this.#users = frame.users;
    this.username = frame.username;
    Object.assign(this.#join, { topic: frame.topic, epoch: frame.epoch, resume: frame.resume });
    this.#tell({ type: "joined", username: frame.username, topic: frame.topic, users: frame.users, ttl: frame.ttl });
    this.#tellMembers();
    // `performance.now()` may stand still while the machine sleeps: no countdown knows then what the server has deleted.
    if (frame.expired_through) this.#tell({ type: "expired", through: frame.expired_through });
    if (frame.gap) {
      this.#seen = frame.gap.to ?? 0;
      if (frame.gap.reason === "restarted") this.#held = [];
      this.#tell({ type: "gap", ...frame.gap });
    }
    // The server recognises a ref only from a member that it knows, and only until it deletes the message of that ref.
    // Where `performance.now()` has stood still, the gap tells that messages are deleted.
    const [request] = this.#queue;
    const isForgotten = () => performance.now() - request.written > this.#ttl * 0.9 || frame.gap;
    if (request?.written && (!this.#isSameMember || isForgotten())) {
      this.#queue.shift();
      this.#tell({ type: "unsure", ref: request.ref });
      this.#release();
    }
    this.#askNext();
  }

  #takeMessage({ id, username, message, replayed = false, remaining_ms = this.#ttl }) {
    if (id <= this.#seen) return;
    this.#seen = id;
    const own = replayed && this.#isSameMember && username === this.username; // another member may have had our name
    const deadline = performance.now() + remaining_ms;
    const event = { type: "message", id, username, text: message, own, replayed, deadline };
    const [request] = this.#queue;
    if (own && request?.written && request.text === message) this.#held.push(event);
    else this.#tell(event);
  }

  #takeAck({ id, recipients, duplicate = false, remaining_ms = this.#ttl }) {
    const request = this.#answered();
    if (!duplicate) this.#seen = id;
    const deadline = performance.now() + remaining_ms;
    this.#tell({ type: "delivered", ref: request.ref, id, recipients, deadline });
    this.#release(id);
  }

  #takeError({ error, detail }) {
    if (!this.#isIn) {
      this.#unansweredJoins -= 1;
      this.#refusal = { error, detail };
      if (error !== "server_full") this.#end(LOST, error, detail); // after server_full a close follows
      return;
    }
    const request = this.#answered();
    if (request?.text !== undefined) this.#tell({ type: "refused", ref: request.ref, text: request.text, detail });
    this.#release();
  }

  /** Report the messages that were held back. @param {number} [own] id of the own message among them, not reported */
  #release(own) {
    const held = this.#held;
    this.#held = [];
    for (const message of held) if (message.id !== own) this.#tell(message);
  }

  #check() {
    const now = performance.now();
    const awaits = !this.#isIn || this.#inFlight;
    if (awaits && now - this.#heard > ANSWER) this.#lose(LOST);
    else if (!awaits && now - this.#heard > SILENCE) this.askTopics();
  }

  #lose(code) {
    const own = this.#isIn ? 0 : 1; // the join of this connection, not of an earlier one
    const elsewhere = code === RESUMED_ELSEWHERE && this.#unansweredJoins > own;
    if (elsewhere) this.#unansweredJoins -= 1; // "elsewhere" may be our own earlier connection, whose join came late
    if ((FINAL.has(code) && !elsewhere) || !this.#wasIn) {
      return this.#end(code, this.#refusal?.error ?? "", this.#refusal?.detail ?? "");
    }
    this.#detach()?.close();
    if (performance.now() - this.#began >= BACKOFF[1]) this.#failures = 0;
    const limit = Math.min(BACKOFF[1], BACKOFF[0] * 2 ** this.#failures);
    this.#failures += 1;
    const wait = this.#retryAfter ?? Math.random() * limit;
    this.#join.since = this.#seen;
    this.#retry = setTimeout(() => this.open(), wait);
    this.#tell({ type: "lost", detail: this.#refusal?.detail ?? "", wait });
  }

  #end(code, error, detail) {
    this.#release();
    const unsent = this.#queue.filter((request) => request.text !== undefined).map((request) => request.text);
    this.#queue = [];
    this.#join.since = this.#seen;
    this.#detach()?.close();
    this.#tell({ type: "ended", code, error, detail, unsent });
  }

  /** Release the socket and ignore its further events. @returns {?WebSocket} */
  #detach() {
    clearTimeout(this.#retry);
    clearInterval(this.#checking);
    this.#retry = 0;
    const socket = this.#socket;
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    this.#socket = null;
    this.#isIn = this.#inFlight = false;
    this.#queue = this.#queue.filter((request) => request.text !== undefined);
    return socket;
  }
}
