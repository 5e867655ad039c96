// Elements from text. Nothing here, nor anywhere on this page, reads text as HTML.

export const find = (id) => document.getElementById(id);

/** An element with these properties and children; `class` and `data-…` are attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class" || name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Says `text` where it is news: what does not change does not flicker, nor is it read out again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function mark(element, name, on) {
  element.classList.toggle(name, Boolean(on));
}

/** A number and its unit. */
export function sayFigure(element, [number, unit]) {
  if (element.dataset.shown === `${number} ${unit}`) return;
  element.dataset.shown = `${number} ${unit}`;
  element.replaceChildren(number, ...(unit ? [make("small", {}, ` ${unit}`)] : []));
}

/** Makes the children those of `items`, in order; each keeps its element while its key is there. */
export function keyed(parent, items, key, create, update) {
  const known = parent.known ?? (parent.known = new Map());
  const kept = new Set();
  let before = null;
  for (const item of items) {
    const name = key(item);
    let element = known.get(name);
    if (!element) known.set(name, (element = create(item)));
    update(element, item);
    kept.add(name);
    const place = before ? before.nextSibling : parent.firstChild;
    if (place !== element) parent.insertBefore(element, place);
    before = element;
  }
  for (const [name, element] of known) {
    if (kept.has(name)) continue;
    element.remove();
    known.delete(name);
  }
}
