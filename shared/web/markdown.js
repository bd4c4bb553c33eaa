// Markdown as models write it -> elements. Text becomes text nodes and nothing else, HTML is shown as it is
// spelled, links lead to http, https and mailto only: whatever the text says, it can't become anything that runs.
//
// Work is linear in the text: nesting is bounded, and what looks for its other half looks a bounded way.
// A message that grows is rendered again from its first block that has changed (class Rendered).

import { copyText, el, flash } from "./dom.js";
import { colorCode } from "./code_colors.js";

const DEPTH_MAX = 12; // quotes in lists in quotes ...
const EMPHASIS_MAX = 50; // emphasis in emphasis ...
const LINK_TEXT_MAX = 500;
const LINK_MAX = 2000;
const MARKUP_LINE_MAX = 4000; // a longer line is text: patterns below go back and forth in it

// ---- links ----

// The address, if a page may lead there; else null.
export function safeAddress(text) {
  if (!/^(https?:\/\/|mailto:)/i.test(text)) return null;
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function link(address, ...children) {
  return el("a", { href: address, rel: "noopener noreferrer nofollow", target: "_blank" }, ...children);
}

// ---- inside a block ----

const SPACE = /\s/;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const ESCAPABLE = "\\`*_{}#+-.!|>~<\"";
const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "\"", "&#39;": "'", "&nbsp;": "\u00a0" };
const BARE_ADDRESS = /https?:\/\/[^\s<>"`]{1,2000}/iy; // LINK_MAX
const ENTITY = /&(?:amp|lt|gt|quot|#39|nbsp);/y;
const BREAK_TAG = /<br\s*\/?>/iy;
const ANGLE_ADDRESS = /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/iy;

function matchAt(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

// Where the bracket at `at` is closed; -1: nowhere near.
function closing(text, at, open, close, max) {
  let depth = 0;
  const end = Math.min(text.length, at + max);
  for (let i = at; i < end; i++) {
    const c = text[i];
    if (c === "\\") i++;
    else if (c === open) depth++;
    else if (c === close && --depth === 0) return i;
  }
  return -1;
}

// [text](address "title"), from its "[" on: { end, node } or null.
function linkAt(text, at, depth) {
  const close = closing(text, at, "[", "]", LINK_TEXT_MAX);
  if (close < 0 || text[close + 1] !== "(") return null;
  const end = closing(text, close + 1, "(", ")", LINK_MAX);
  if (end < 0) return null;
  const inner = text.slice(close + 2, end).trim();
  const address = safeAddress(inner.replace(/\s+(".*"|'.*')$/s, "").replace(/^<(.*)>$/, "$1"));
  if (!address) return null;
  const label = text.slice(at + 1, close);
  const node = link(address);
  if (label) inline(label, node, depth + 1, true);
  else node.append(address);
  return { end: end + 1, node };
}

function bareAddressAt(text, at) {
  if (at > 0 && /[\p{L}\p{N}]/u.test(text[at - 1])) return null;
  const found = matchAt(BARE_ADDRESS, text, at)?.[0].slice(0, LINK_MAX);
  if (!found) return null;
  let shown = found.replace(/[.,;:!?'*_~\]]+$/, "");
  let unopened = shown.split(")").length - shown.split("(").length;
  for (; unopened > 0 && shown.endsWith(")"); unopened--) shown = shown.slice(0, -1);
  const address = safeAddress(shown);
  return address ? { end: at + shown.length, node: link(address, shown) } : null;
}

// `code`, from its first backtick on; the number of backticks tells the end. `runs`: where runs of each length are
// known not to come any more, so that a text full of them is not searched for each.
function codeAt(text, at, ended) {
  let n = 1;
  while (text[at + n] === "`") n++;
  for (let i = ended[n] ? -1 : text.indexOf("`", at + n); i >= 0;) {
    let m = 1;
    while (text[i + m] === "`") m++;
    if (m === n) {
      let code = text.slice(at + n, i).replace(/\n/g, " ");
      if (/^ .*[^ ].* $/.test(code)) code = code.slice(1, -1);
      return { end: i + n, node: el("code", {}, code) };
    }
    i = text.indexOf("`", i + m);
  }
  ended[n] = true;
  return { end: at + n, node: "`".repeat(n) };
}

// Emphasis opens or closes by what is on both sides (CommonMark 6.2).
function delimiterAt(text, at) {
  const mark = text[at];
  let n = 1;
  while (text[at + n] === mark) n++;
  const before = at > 0 ? text[at - 1] : " ";
  const after = text[at + n] ?? " ";
  const left = !SPACE.test(after) && (!PUNCTUATION.test(after) || SPACE.test(before) || PUNCTUATION.test(before));
  const right = !SPACE.test(before) && (!PUNCTUATION.test(before) || SPACE.test(after) || PUNCTUATION.test(after));
  const usable = mark !== "~" || n === 2;
  return {
    mark, length: n, left: n, opens: [], closes: [],
    canOpen: usable && left && (mark !== "_" || !right || PUNCTUATION.test(before)),
    canClose: usable && right && (mark !== "_" || !left || PUNCTUATION.test(after)),
  };
}

// Pairs of delimiters get the tags that they open and close; what is left of them is text.
function pairDelimiters(delimiters) {
  const stack = [];
  const bottom = { "*": 0, "_": 0, "~": 0 }; // no opener of this mark is below
  for (const closer of delimiters) {
    while (closer.canClose && closer.left > 0) {
      let at = stack.length - 1;
      while (at >= bottom[closer.mark] && stack[at].mark !== closer.mark) at--;
      if (at < bottom[closer.mark]) {
        bottom[closer.mark] = stack.length;
        break;
      }
      const opener = stack[at];
      const n = closer.left >= 2 && opener.left >= 2 ? 2 : 1;
      const tag = closer.mark === "~" ? "del" : n === 2 ? "strong" : "em";
      opener.left -= n;
      closer.left -= n;
      opener.opens.unshift(tag);
      closer.closes.push(tag);
      stack.length = opener.left > 0 ? at + 1 : at;
      for (const mark in bottom) bottom[mark] = Math.min(bottom[mark], stack.length);
    }
    if (closer.canOpen && closer.left > 0) stack.push(closer);
  }
}

// Texts, nodes and delimiters in order.
function tokens(text, depth, inLink) {
  const found = [];
  const ended = {};
  let plain = "";
  const put = (token) => {
    if (plain) found.push(plain);
    plain = "";
    found.push(token);
  };
  for (let i = 0; i < text.length;) {
    const c = text[i];
    let part = null;
    if (c === "\\" && ESCAPABLE.includes(text[i + 1] ?? " ")) {
      plain += text[i + 1];
      i += 2;
      continue;
    }
    if (c === "`") part = codeAt(text, i, ended);
    else if (c === "*" || c === "_" || c === "~") {
      const delimiter = delimiterAt(text, i);
      part = { end: i + delimiter.length, node: delimiter };
    } else if (c === "\n") part = { end: i + 1, node: el("br") };
    else if (c === "[" && !inLink && depth < DEPTH_MAX) part = linkAt(text, i, depth);
    else if (c === "!" && text[i + 1] === "[" && !inLink && depth < DEPTH_MAX) part = linkAt(text, i + 1, depth);
    else if ((c === "h" || c === "H") && !inLink) part = bareAddressAt(text, i);
    else if (c === "&") {
      const entity = matchAt(ENTITY, text, i)?.[0];
      if (entity) part = { end: i + entity.length, node: ENTITIES[entity] };
    } else if (c === "<") {
      const tag = matchAt(BREAK_TAG, text, i)?.[0];
      const angle = tag || inLink ? null : matchAt(ANGLE_ADDRESS, text, i);
      const address = angle && safeAddress(angle[1]);
      if (tag) part = { end: i + tag.length, node: el("br") };
      else if (address) part = { end: i + angle[0].length, node: link(address, angle[1]) };
    }
    if (part) {
      put(part.node);
      i = part.end;
    } else {
      plain += c;
      i++;
    }
  }
  if (plain) found.push(plain);
  return found;
}

export function inline(text, parent, depth = 0, inLink = false) {
  const parts = tokens(text, depth, inLink);
  pairDelimiters(parts.filter((part) => part.mark));
  const open = [parent];
  for (const part of parts) {
    if (!part.mark) {
      open.at(-1).append(part);
      continue;
    }
    for (let n = part.closes.length; n > 0; n--) open.pop();
    if (part.left) open.at(-1).append(part.mark.repeat(part.left));
    for (const tag of part.opens) {
      const node = open.length > EMPHASIS_MAX ? open.at(-1) : el(tag);
      if (node !== open.at(-1)) open.at(-1).append(node);
      open.push(node);
    }
  }
}

// ---- blocks ----

const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s([^]*))?$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +|$)/;
const DELIMITER_ROW = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

const indentOf = (line) => line.length - line.trimStart().length;
const isMarkup = (line) => line !== undefined && line.length <= MARKUP_LINE_MAX;
const isTable = (lines, i) => lines[i].includes("|") && isMarkup(lines[i + 1]) && DELIMITER_ROW.test(lines[i + 1]) &&
  cells(lines[i]).length === cells(lines[i + 1]).length;

// Whether a line ends the paragraph before it.
function interrupts(lines, i) {
  const line = lines[i];
  if (!isMarkup(line)) return false;
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) ||
    /^ {0,3}(?:[-*+]|1[.)]) +\S/.test(line) || isTable(lines, i);
}

function fenceBlock(lines, at, fence) {
  const [, indent, mark, info] = fence;
  const end = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}\\s*$`);
  let i = at + 1;
  while (i < lines.length && !end.test(lines[i])) i++;
  const strip = new RegExp(`^ {0,${indent.length}}`);
  const code = lines.slice(at + 1, i).map((line) => line.replace(strip, ""));
  return { kind: "code", end: Math.min(i + 1, lines.length), language: info.trim().split(/\s/)[0], code: code.join("\n") };
}

function quoteBlock(lines, at) {
  let i = at;
  while (i < lines.length && QUOTE.test(lines[i])) i++;
  return { kind: "quote", end: i, lines: lines.slice(at, i).map((line) => line.replace(QUOTE, "")) };
}

// An item has the lines that are indented further than its mark, and those that go on its paragraph.
function listBlock(lines, at) {
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const base = first[1].length;
  const block = { kind: "list", ordered, start: parseInt(first[2], 10), items: [], loose: false };
  let i = at;
  while (i < lines.length) {
    const item = ITEM.exec(lines[i]);
    if (!item || item[1].length > base + 1 || item[1].length < base || /\d/.test(item[2]) !== ordered ||
        RULE.test(lines[i])) break;
    const inside = Math.min(item[0].length, item[1].length + item[2].length + 4);
    const content = [lines[i].slice(inside)];
    let blank = false;
    for (i++; i < lines.length; i++) {
      const line = lines[i];
      const indent = indentOf(line);
      if (line.trim() === "") {
        blank = true;
      } else if (indent >= base + 2) {
        if (blank) content.push("");
        content.push(line.slice(Math.min(indent, inside)));
        blank = false;
      } else if (!blank && !ITEM.test(line) && !interrupts(lines, i)) {
        content.push(line.trimStart());
      } else {
        break;
      }
    }
    block.items.push(content);
    if (blank && i < lines.length && ITEM.test(lines[i])) block.loose = true;
  }
  block.end = i;
  return block;
}

function cells(row) {
  const text = row.trim().replace(/^\|/, "").replace(/\|$/, "");
  return text.split(/(?<!\\)\|/).map((cell) => cell.trim().replace(/\\\|/g, "|"));
}

function tableBlock(lines, at) {
  const align = cells(lines[at + 1]).map((cell) =>
    cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left");
  let i = at + 2;
  while (i < lines.length && lines[i].includes("|") && lines[i].trim()) i++;
  return { kind: "table", end: i, align, head: cells(lines[at]), rows: lines.slice(at + 2, i).map(cells) };
}

function paragraphBlock(lines, at) {
  let i = at + 1;
  while (i < lines.length && lines[i].trim() && !interrupts(lines, i)) i++;
  return { kind: "text", end: i, text: lines.slice(at, i).map((line) => line.trim()).join("\n") };
}

// Without the marks that may close it: "Two ##".
const headingText = (text) => text.trim().replace(/(^|\s)#+$/, "").trimEnd();

function blockAt(lines, i, depth) {
  const line = lines[i];
  if (!isMarkup(line)) return paragraphBlock(lines, i);
  const fence = FENCE.exec(line);
  if (fence) return fenceBlock(lines, i, fence);
  const heading = HEADING.exec(line);
  if (heading) return { kind: "heading", end: i + 1, level: heading[1].length, text: headingText(heading[2] ?? "") };
  if (RULE.test(line)) return { kind: "rule", end: i + 1 };
  if (depth < DEPTH_MAX && QUOTE.test(line)) return quoteBlock(lines, i);
  if (depth < DEPTH_MAX && ITEM.test(line)) return listBlock(lines, i);
  if (isTable(lines, i)) return tableBlock(lines, i);
  return paragraphBlock(lines, i);
}

function blocks(lines, depth = 0) {
  const found = [];
  for (let i = 0; i < lines.length;) {
    if (lines[i].trim() === "") {
      i++;
      continue;
    }
    const block = blockAt(lines, i, depth);
    block.raw = lines.slice(i, block.end).join("\n");
    found.push(block);
    i = block.end;
  }
  return found;
}

// ---- elements ----

function codeElement({ language, code }) {
  const copy = el("button", { class: "button plain small", type: "button" }, "Copy");
  copy.addEventListener("click", async () => flash(copy, (await copyText(code)) ? "Copied" : "Not copied"));
  const body = el("code");
  colorCode(code, language, body);
  return el("figure", { class: "code" },
    el("figcaption", {}, el("span", {}, language || "code"), copy),
    el("pre", { tabindex: "0" }, body));
}

function listElement(block, depth) {
  const list = el(block.ordered ? "ol" : "ul", { start: block.ordered && block.start !== 1 ? block.start : null });
  for (const content of block.items) {
    const item = el("li");
    const task = /^\[([ xX])\] +/.exec(content[0]);
    if (task) {
      content[0] = content[0].slice(task[0].length);
      item.className = "task";
      item.append(el("input", { type: "checkbox", disabled: true, checked: task[1] !== " " }));
    }
    const inner = blocks(content, depth + 1);
    inner.forEach((child, at) => {
      if (child.kind === "text" && !block.loose && at === 0) inline(child.text, item, depth);
      else item.append(element(child, depth + 1));
    });
    list.append(item);
  }
  return list;
}

function tableElement({ align, head, rows }) {
  const row = (tag, texts) => el("tr", {}, align.map((side, at) => {
    const cell = el(tag, { class: `align-${side}` });
    inline(texts[at] ?? "", cell);
    return cell;
  }));
  return el("div", { class: "table", tabindex: "0" },
    el("table", {}, el("thead", {}, row("th", head)), el("tbody", {}, rows.map((texts) => row("td", texts)))));
}

function element(block, depth = 0) {
  let node;
  switch (block.kind) {
    case "code": return codeElement(block);
    case "rule": return el("hr");
    case "list": return listElement(block, depth);
    case "table": return tableElement(block);
    case "quote": return el("blockquote", {}, blocks(block.lines, depth + 1).map((child) => element(child, depth + 1)));
    case "heading": node = el(`h${Math.min(block.level + 2, 6)}`); break; // the page has h1 and h2
    default: node = el("p");
  }
  inline(block.text, node, depth);
  return node;
}

// A text that grows, in an element. set() touches only what has changed since the last one.
export class Rendered {
  constructor(parent) {
    this.parent = parent;
    this.shown = []; // raw texts of the blocks, in the order of the parent's children
  }

  set(text) {
    const wanted = blocks(text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n"));
    let same = 0;
    while (same < wanted.length && same < this.shown.length && wanted[same].raw === this.shown[same]) same++;
    while (this.parent.children.length > same) this.parent.lastElementChild.remove();
    this.parent.append(...wanted.slice(same).map((block) => element(block)));
    this.shown = wanted.map((block) => block.raw);
  }
}
