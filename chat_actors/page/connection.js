/**
 * One topic's WebSocket: it joins, asks one thing at a time, and comes back after a drop, so that nothing is missed and
 * nothing is doubled (README, "The window"). No DOM here: what happens is told, as one of these events.
 *
 * @typedef {{type: "joined", username: string, topic: string, users: number, ttl: number}} Joined each time it gets in
 * @typedef {{type: "members", users: number, members: Iterable<string>}} Members who is here now, oldest member first
 * @typedef {{type: "message", id: number, username: string, text: string, own: boolean, replayed: boolean,
 *            lived: number}} Message `lived`: milliseconds since it was sent
 * @typedef {{type: "delivered", ref: string, id: number, recipients: number, lived: number}} Delivered
 * @typedef {{type: "refused", ref: string, text: string, detail: string}} Refused one of our messages, by the server
 * @typedef {{type: "unsure", ref: string}} Unsure nobody can say whether it arrived: to send it again may double it
 * @typedef {{type: "expired", through: number}} Expired
 * @typedef {{type: "gap", from: number, to: ?number, reason: string}} Gap these messages are lost
 * @typedef {{type: "topics", message: string, topics: {topic: string, users: number}[]}} Topics
 * @typedef {{type: "lost", detail: string, wait: number}} Lost it tries again in so many milliseconds
 * @typedef {{type: "ended", code: number, error: string, detail: string, unsent: string[]}} Ended for good
 * @typedef {Joined|Members|Message|Delivered|Refused|Unsure|Expired|Gap|Topics|Lost|Ended} Event
 */

import * as clock from "./clock.js";

// The server would close this client again, or does not understand it (RFC 6455); after any other code it comes back.
const FINAL = new Set([1002, 1003, 1007, 1008, 1009, 1010, 4409]);
const RESUMED_ELSEWHERE = 4409;
const LOST = 1006;

// Milliseconds. The wait before an attempt is anything up to a limit that doubles from the first to the second.
const BACKOFF = [500, 5000];
// A connection this silent is asked for a sign of life, and given up without one: in time for the 30 seconds' window.
const SILENCE = 10_000;
const ANSWER = 8_000;
const CHECK = 2_000;

export class Connection {
  username = ""; // as the server gave it

  // The connection.
  #url;
  #tell;
  #socket = null;
  #isIn = false;
  #wasIn = false;
  #unansweredJoins = 0;
  #began = 0;
  #heard = 0;
  #failures = 0; // in a row
  #retryAfter = null; // milliseconds, where the server has said when to come back
  #refusal = null; // the error that answered our join
  #retry = 0;
  #checking = 0;
  // What it joins with, and has seen.
  #join;
  #seen = 0; // the highest id, our own included
  #isSameMember = false; // as on the connection before
  #members = new Set();
  #ttl = 0; // milliseconds
  // What it asks, one at a time: so an error, which has no ref, can only mean the one that waits for its answer.
  #queue = []; // {ref, text, written}; without a text it is /list
  #inFlight = false;
  #held = []; // replayed messages that may be the one whose ack was lost: the ack will tell

  /**
   * @param {string} url
   * @param {{username: string, topic: string, token?: string, resume?: string}} who `token`: the server's secret;
   *   `resume`: of a member that comes back
   * @param {(event: Event) => void} tell
   */
  constructor(url, { username, topic, token, resume = "" }, tell) {
    this.#url = url;
    this.#tell = tell;
    this.#join = { username, topic, since: 0, resume, events: true, ...(token ? { token } : {}) };
    this.open();
  }

  /** The name that was asked for, and what this member resumes by. */
  get identity() {
    return { username: this.#join.username, topic: this.#join.topic, resume: this.#join.resume };
  }

  get isIn() {
    return this.#isIn;
  }

  /** Connect, unless it does already. After `ended` this begins anew, as the same member where that is still known. */
  open() {
    if (this.#socket) return;
    this.#detach();
    this.#checking = setInterval(() => this.#check(), CHECK);
    this.#began = this.#heard = performance.now();
    this.#refusal = this.#retryAfter = null;
    const socket = (this.#socket = new WebSocket(this.#url));
    socket.onopen = () => {
      this.#unansweredJoins += 1;
      socket.send(JSON.stringify(this.#join));
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

  /** Something has changed that may matter, such as the network: try at once what would be tried later. */
  nudge() {
    if (this.#isIn) this.askTopics();
    else if (this.#retry && this.#retryAfter === null) this.open();
  }

  /** @returns {string} the ref under which the events will speak of this message */
  send(text) {
    const ref = [...crypto.getRandomValues(new Uint32Array(3))].map((part) => part.toString(36)).join("-");
    this.#queue.push({ ref, text, written: null });
    this.#askNext();
    return ref;
  }

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
    request.written ??= Date.now(); // which goes on while the machine sleeps
    const { ref, text } = request;
    this.#socket.send(text === undefined ? "/list" : JSON.stringify({ message: text, ref }));
  }

  /** The request that the frame we got answers; the next one is asked once that frame has been dealt with. */
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
        this.#members[frame.event === "joined" ? "add" : "delete"](frame.username);
        return this.#tell({ type: "members", users: frame.users, members: this.#members });
      case "renamed":
        return this.#rename(frame);
      case "expired":
        return this.#tell(frame);
      case "closing":
        this.#retryAfter = frame.retry_after_ms;
    }
  }

  #rename({ username, renamed }) {
    this.#members.delete(username);
    this.#members.add(renamed);
    if (username === this.username) {
      this.username = renamed;
      this.#tell({ type: "renamed", username: renamed });
    }
    this.#tell({ type: "members", users: this.#members.size, members: this.#members });
  }

  #welcome(frame) {
    this.#isSameMember = frame.resume === this.#join.resume;
    this.#isIn = this.#wasIn = true;
    this.#unansweredJoins -= 1;
    this.#ttl = frame.ttl * 1000;
    this.#members = new Set(frame.members);
    this.username = frame.username;
    Object.assign(this.#join, { topic: frame.topic, epoch: frame.epoch, resume: frame.resume });
    this.#tell({ type: "joined", username: frame.username, topic: frame.topic, users: frame.users, ttl: frame.ttl });
    this.#tell({ type: "members", users: frame.users, members: this.#members });
    if (frame.gap) {
      this.#seen = frame.gap.to ?? 0;
      if (frame.gap.reason === "restarted") this.#held = [];
      this.#tell({ type: "gap", ...frame.gap });
    }
    // The server knows a ref again if it knows the member, and for as long as the message that had it may live.
    const [request] = this.#queue;
    if (request?.written && (!this.#isSameMember || Date.now() - request.written > this.#ttl * 0.9)) {
      this.#queue.shift();
      this.#tell({ type: "unsure", ref: request.ref });
      this.#release();
    }
    this.#askNext();
  }

  #takeMessage({ id, username, message, timestamp, replayed = false }) {
    if (id <= this.#seen) return;
    this.#seen = id;
    if (!replayed) clock.learn(timestamp);
    const own = replayed && this.#isSameMember && username === this.username; // others may have had our name before us
    const lived = replayed ? clock.since(timestamp, this.#ttl) : 0;
    const event = { type: "message", id, username, text: message, own, replayed, lived };
    const [request] = this.#queue;
    if (own && request?.written && request.text === message) this.#held.push(event);
    else this.#tell(event);
  }

  #takeAck({ id, timestamp, recipients, duplicate = false }) {
    const request = this.#answered();
    if (!duplicate) {
      this.#seen = id;
      clock.learn(timestamp);
    }
    const lived = duplicate ? clock.since(timestamp, this.#ttl) : 0;
    this.#tell({ type: "delivered", ref: request.ref, id, recipients, lived });
    this.#release(id);
  }

  #takeError({ error, detail }) {
    if (!this.#isIn) {
      this.#unansweredJoins -= 1;
      this.#refusal = { error, detail };
      if (error !== "server_full") this.#end(LOST, error, detail); // that one the server closes, and we come back
      return;
    }
    const request = this.#answered();
    if (request?.text !== undefined) this.#tell({ type: "refused", ref: request.ref, text: request.text, detail });
    this.#release();
  }

  /** Tell of the messages that were held back, but for the one that was our own. */
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
    const elsewhere = code === RESUMED_ELSEWHERE && this.#unansweredJoins > 0;
    if (elsewhere) this.#unansweredJoins -= 1; // it may be a connection that we gave up, whose join came late
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

  /** Let go of the socket; nothing that it still says is heard. */
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
