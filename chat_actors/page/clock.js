/** The server's clock, as far as its timestamps tell: those are whole seconds, cut off. */

let ahead = 0; // milliseconds that this machine's clock is ahead of the server's

const middle = (timestamp) => timestamp * 1000 + 500;

/** Learn from a timestamp of this moment. */
export function learn(timestamp) {
  ahead = Date.now() - middle(timestamp);
}

/** @returns {number} milliseconds since then, at most `most`; 0 where the clocks are too far apart to tell */
export function since(timestamp, most) {
  const past = Date.now() - ahead - middle(timestamp);
  return past > -1500 && past < most + 1500 ? Math.min(Math.max(past, 0), most) : 0;
}
