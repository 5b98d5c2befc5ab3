/** The server's clock, estimated from its timestamps. They are whole seconds, rounded down. */

let ahead = 0; // milliseconds by which this machine's clock is ahead of the server's

const middle = (timestamp) => timestamp * 1000 + 500;

/** Estimate the server's clock. @param {number} timestamp Unix seconds, of a frame that has just come */
export function adjust(timestamp) {
  ahead = Date.now() - middle(timestamp);
}

/** @returns {number} milliseconds since `timestamp`, at most `max`; 0 if the clocks are too far apart to tell */
export function since(timestamp, max) {
  const past = Date.now() - ahead - middle(timestamp);
  return past > -1500 && past < max + 1500 ? Math.min(Math.max(past, 0), max) : 0;
}
