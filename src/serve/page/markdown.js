// The part of Markdown that models write, as DOM nodes. Text never becomes HTML, so an answer cannot run a script.
"use strict";

/** Inline code, bold and italic text of one line, appended to `parent`. */
function addInline(parent, text) {
  const marks = /(`+)(.+?)\1|\*\*(?=\S)(.+?)\*\*|\*(?=\S)([^*]+?)\*/g;
  let end = 0;
  for (const found of text.matchAll(marks)) {
    parent.append(text.slice(end, found.index));
    const [all, , code, bold, italic] = found;
    const node = document.createElement(code !== undefined ? "code" : bold !== undefined ? "strong" : "em");
    if (code !== undefined) node.textContent = code;
    else addInline(node, bold ?? italic);
    parent.append(node);
    end = found.index + all.length;
  }
  parent.append(text.slice(end));
}

function codeBlock(lines) {
  const pre = document.createElement("pre");
  const code = pre.appendChild(document.createElement("code"));
  code.textContent = lines.join("\n");
  return pre;
}

/** Consecutive lines of one paragraph, heading or list. */
function textBlocks(lines, out) {
  let list = null;
  let paragraph = null;
  for (const line of lines) {
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    const item = /^\s*(?:[-*+]|(\d+)[.)])\s+(.*)$/.exec(line);
    if (line.trim() === "") {
      paragraph = null;
    } else if (heading) {
      list = paragraph = null;
      const level = Math.min(heading[1].length + 2, 6);
      addInline(out.appendChild(document.createElement(`h${level}`)), heading[2]);
    } else if (item) {
      paragraph = null;
      const tag = item[1] === undefined ? "UL" : "OL";
      if (list?.tagName !== tag) {
        list = out.appendChild(document.createElement(tag));
        if (item[1] !== undefined) list.start = Number(item[1]);
      }
      addInline(list.appendChild(document.createElement("li")), item[2]);
    } else if (list && /^\s/.test(line)) {
      list.lastChild.append(" ");
      addInline(list.lastChild, line.trim());
    } else {
      list = null;
      if (paragraph) paragraph.append(document.createElement("br"));
      else paragraph = out.appendChild(document.createElement("p"));
      addInline(paragraph, line);
    }
  }
}

/** The nodes of a text that may still grow: a code block without an end reaches to the end. */
function markdown(text) {
  const out = document.createDocumentFragment();
  let plain = [];
  let code = null;
  let fence = "";
  for (const line of text.split("\n")) {
    const mark = /^\s*(`{3,}|~{3,})/.exec(line)?.[1];
    if (code === null && mark) {
      textBlocks(plain, out);
      plain = [];
      code = [];
      fence = mark;
    } else if (code !== null && mark?.startsWith(fence) && line.trim() === mark) {
      out.append(codeBlock(code));
      code = null;
    } else {
      (code ?? plain).push(line);
    }
  }
  textBlocks(plain, out);
  if (code !== null) out.append(codeBlock(code));
  return out;
}
