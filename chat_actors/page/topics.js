/** The live list of active topics: requested every few seconds, over a joined connection or over a short one. */

const INTERVAL = 5_000; // milliseconds between two requests
const MAX_INTERVAL = 30_000; // while the server cannot be reached
const ANSWER = 8_000; // milliseconds for an answer

export class TopicWatch {
  #url;
  #findJoined;
  #tell;
  #socket = null; // the short connection
  #timer = 0; // to the next request
  #overdue = 0; // timer: the answer that is awaited must have come
  #wait = INTERVAL;

  /**
   * @param {string} url
   * @param {() => ?import("./connection.js").Connection} findJoined returns a connection that is in a topic, or null
   * @param {(answer: {topics?: {topic: string, users: number}[], error?: string}) => void} tell `error`: one of the
   *   server, "unreachable", or "unanswered": no answer has come in time
   */
  constructor(url, findJoined, tell) {
    this.#url = url;
    this.#findJoined = findJoined;
    this.#tell = tell;
  }

  /** Start or stop the requests. @param {boolean} isWanted true: request now and every few seconds from now */
  watch(isWanted) {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#wait = INTERVAL;
    if (isWanted) return this.#ask();
    this.#settle();
    this.#drop();
  }

  /** Take an answer, over whichever connection it came. */
  take(answer) {
    this.#settle();
    this.#drop();
    this.#wait = INTERVAL;
    this.#tell(answer);
  }

  #ask() {
    clearTimeout(this.#timer);
    const connection = this.#findJoined();
    if (connection) this.#wait = INTERVAL;
    if (connection && this.#socket) {
      this.#settle();
      this.#drop();
    }
    this.#timer = setTimeout(() => this.#ask(), this.#wait);
    this.#overdue ||= setTimeout(() => this.#giveUp("unanswered"), ANSWER);
    if (connection) return connection.askTopics(); // the answer is an event of that connection
    if (this.#socket) return;
    const socket = (this.#socket = new WebSocket(this.#url));
    socket.onopen = () => socket.send("/list");
    socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    // Once a room has joined, that connection is asked in place of this one.
    socket.onclose = () => (this.#findJoined() ? this.#ask() : this.#giveUp("unreachable"));
  }

  #giveUp(error) {
    this.#settle();
    this.#drop();
    this.#wait = Math.min(this.#wait * 2, MAX_INTERVAL);
    this.#tell({ error });
  }

  #settle() {
    clearTimeout(this.#overdue);
    this.#overdue = 0;
  }

  /** Close the short connection, even one whose handshake is never answered, and ignore its further events. */
  #drop() {
    const socket = this.#socket;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    this.#socket = null;
  }
}
