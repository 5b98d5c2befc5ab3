/** The live list of active topics: asked for every few seconds, over a joined connection or else a short one. */

const EVERY = 5_000; // milliseconds
const SLOWEST = 30_000; // where the server is not there

export class TopicWatch {
  #url;
  #joined;
  #tell;
  #socket = null;
  #timer = 0;
  #wait = EVERY;

  /**
   * @param {string} url
   * @param {() => ?import("./connection.js").Connection} joined one that is in a topic, if there is one
   * @param {(news: {topics?: {topic: string, users: number}[], error?: string, detail?: string}) => void} tell
   */
  constructor(url, joined, tell) {
    this.#url = url;
    this.#joined = joined;
    this.#tell = tell;
  }

  /** Ask now, and from now on, or no more. */
  watch(isWanted) {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#wait = EVERY;
    if (isWanted) this.#ask();
  }

  #ask() {
    const connection = this.#joined();
    if (connection) this.#wait = EVERY;
    this.#timer = setTimeout(() => this.#ask(), this.#wait);
    if (connection) return connection.askTopics(); // the answer comes to whoever listens to that connection
    if (this.#socket) return;
    const socket = (this.#socket = new WebSocket(this.#url));
    let isAnswered = false;
    socket.onopen = () => socket.send("/list");
    socket.onmessage = ({ data }) => {
      isAnswered = true;
      this.#wait = EVERY;
      socket.close();
      this.#tell(JSON.parse(data));
    };
    socket.onclose = () => {
      this.#socket = null;
      if (isAnswered) return;
      this.#wait = Math.min(this.#wait * 2, SLOWEST);
      this.#tell({ error: "unreachable" });
    };
  }
}
