/**
 * Keys of an input method (Japanese, Chinese, Korean …) are its own: arrows choose a candidate, Enter takes it, Escape
 * closes the list. No other handler of the page sees such a key, and it submits no form.
 */

const COMPOSING = 229; // keyCode of such a key: Safari ends the composition before the key that ends it comes

addEventListener(
  "keydown",
  (event) => {
    if (!event.isComposing && event.keyCode !== COMPOSING) return;
    event.stopImmediatePropagation();
    if (event.key === "Enter") event.preventDefault();
  },
  { capture: true },
);
