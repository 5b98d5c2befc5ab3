/** The live list of active topics: requested every few seconds, over a joined connection or over a short one. */

const INTERVAL = 5_000; // milliseconds between two requests
const MAX_INTERVAL = 30_000; // while the server cannot be reached

export class TopicWatch {
  #url;
  #findJoined;
  #tell;
  #socket = null;
  #timer = 0;
  #wait = INTERVAL;

  /**
   * @param {string} url
   * @param {() => ?import("./connection.js").Connection} findJoined returns a connection that is in a topic, or null
   * @param {(answer: {topics?: {topic: string, users: number}[], error?: string, detail?: string}) => void} tell
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
    if (isWanted) this.#ask();
  }

  #ask() {
    const connection = this.#findJoined();
    if (connection) this.#wait = INTERVAL;
    this.#timer = setTimeout(() => this.#ask(), this.#wait);
    if (connection) return connection.askTopics(); // the answer is an event of that connection
    if (this.#socket) return;
    const socket = (this.#socket = new WebSocket(this.#url));
    let isAnswered = false;
    socket.onopen = () => socket.send("/list");
    socket.onmessage = ({ data }) => {
      isAnswered = true;
      this.#wait = INTERVAL;
      socket.close();
      this.#tell(JSON.parse(data));
    };
    socket.onclose = () => {
      this.#socket = null;
      if (isAnswered) return;
      this.#wait = Math.min(this.#wait * 2, MAX_INTERVAL);
      this.#tell({ error: "unreachable" });
    };
  }
}
