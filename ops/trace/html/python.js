/* Colours of Python: keywords, strings, comments, numbers and the names of definitions, line by line. */

const KEYWORDS = new Set(
  (
    "and as assert async await break case class continue def del elif else except finally for from global if import in " +
    "is lambda match nonlocal not or pass raise return try type while with yield"
  ).split(" "),
);
const CONSTANTS = new Set(["None", "True", "False", "self", "cls"]);
const TOKEN =
  /(#.*)|([rbuf]{0,2}(?:"""|'''))|([rbuf]{0,2}(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?))|(\b\d[\w.]*)|(@[\w.]+)|([^\W\d]\w*)/giu;

/* The parts [class, text] of a line; `open` is the quote of a string that the line before left open, or "". Returns
   the parts, and the quote that this line leaves open. */
function colour(text, open) {
  const parts = [];
  let from = 0;
  const add = (kind, to) => {
    if (to > from) parts.push([kind, text.slice(from, to)]);
    from = to;
  };
  const close = (quote, start) => {
    const end = text.indexOf(quote, start);
    add("string", end < 0 ? text.length : end + 3);
    return end < 0 ? quote : "";
  };
  if (open) open = close(open, 0);
  let defines = false;
  while (from < text.length && !open) {
    TOKEN.lastIndex = from;
    const found = TOKEN.exec(text);
    if (!found) break;
    const [all, comment, triple, string, digits, decorator, word] = found;
    add("", found.index);
    const end = found.index + all.length;
    if (triple) open = close(triple.slice(-3), end);
    else if (comment) add("comment", end);
    else if (string) add("string", end);
    else if (digits) add("digits", end);
    else if (decorator) add(/^\s*$/.test(text.slice(0, found.index)) ? "defined" : "", end);
    else if (KEYWORDS.has(word) && !isName(text, word, found.index, end)) add("keyword", end);
    else if (CONSTANTS.has(word)) add("constant", end);
    else add(defines ? "defined" : "", end);
    defines = word === "def" || word === "class";
  }
  add("", text.length);
  return { parts, open };
}

/* `match`, `case` and `type` are keywords at the start of a statement only, and names everywhere else. */
function isName(text, word, start, end) {
  if (word !== "match" && word !== "case" && word !== "type") return false;
  return text.slice(0, start).trim() !== "" || !/^\s+[^\s=.,):]/.test(text.slice(end));
}
