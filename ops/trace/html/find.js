/* The search: a text, or a /regular expression/, over `module:line: source` and the values of each step. */

/* What a query looks for; null if it is empty. Throws SyntaxError. Letters are alike in both cases, unless the query
   has capital letters or is a regular expression. */
function pattern(query) {
  if (!query) return null;
  const given = /^\/(.+)\/([a-z]*)$/.exec(query);
  if (given) return new RegExp(given[1], `${given[2].replace(/[gy]/g, "")}g`);
  return new RegExp(query.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), query === query.toLowerCase() ? "gi" : "g");
}

/* Where a pattern is in a text: [from, to] of each. */
function ranges(sought, text) {
  if (!sought) return [];
  return [...text.matchAll(sought)].filter(([all]) => all).map(({ 0: all, index }) => [index, index + all.length]);
}

/* The positions in `shown` of the steps that match. Each place and each text is looked at once. */
function find(trace, shown, sought) {
  const found = [];
  if (!sought) return found;
  const matches = (text) => text.search(sought) >= 0;
  const { module, line, text } = trace.places;
  const places = Uint8Array.from(text, (each, place) => matches(`${module[place]}:${line[place]}: ${each}`));
  const texts = Uint8Array.from(trace.texts, matches);
  shown.forEach((step, position) => {
    let hit = places[trace.place[step]];
    for (let at = trace.valueFrom[step]; !hit && at < trace.valueFrom[step + 1]; at++) hit = texts[trace.valueText[at]];
    if (hit) found.push(position);
  });
  return found;
}

/* The first index of a sorted list whose element is at least the value. */
function lowerBound(sorted, value) {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
