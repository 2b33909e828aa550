// The chat: its messages and settings are kept in this browser, the server keeps nothing but its prefix cache.
"use strict";

const byId = (id) => document.getElementById(id);
const chat = byId("chat");
const settings = byId("settings");
const input = byId("text");

/** [{role, content, thinking?, note?}] in order; an assistant message may still grow. */
let messages = load("messages", []);
/** The request that is answered at the moment. */
let running = null;

function load(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`bitnet-gpu.${name}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

function save(name, value) {
  try {
    localStorage.setItem(`bitnet-gpu.${name}`, JSON.stringify(value));
  } catch {
    // Storage full or forbidden: the chat goes on, and is lost on reload.
  }
}

function field(name) {
  return settings.elements[name].value.trim();
}

function headers() {
  const all = { "Content-Type": "application/json" };
  if (field("key")) all.Authorization = `Bearer ${field("key")}`;
  return all;
}

/** The body of a request for the next answer. */
function request() {
  const body = { messages: [], stream: true, stream_options: { include_usage: true } };
  if (field("model")) body.model = field("model");
  if (field("system")) body.messages.push({ role: "system", content: field("system") });
  for (const { role, content } of messages) {
    if (content || role === "user") body.messages.push({ role, content });
  }
  for (const name of ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"]) {
    if (field(name) !== "") body[name] = Number(field(name));
  }
  if (field("thinking")) body.chat_template_kwargs = { enable_thinking: field("thinking") === "on" };
  return body;
}

/** The objects of a stream of server-sent events, until `[DONE]`. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function errorText(response) {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text);
    return error.message ?? String(error);
  } catch {
    return text || response.statusText;
  }
}

function rate(usage, timings, first, begun) {
  const tokens = usage?.completion_tokens ?? timings?.predicted_n;
  if (!tokens) return "";
  const seconds = (performance.now() - (first ?? begun)) / 1000;
  const perSecond = timings?.predicted_per_second ?? (tokens - 1) / seconds;
  const parts = [`${tokens} tokens`];
  if (Number.isFinite(perSecond) && tokens > 1) parts.push(`${perSecond.toFixed(1)} a second`);
  if (first) parts.push(`first after ${((first - begun) / 1000).toFixed(1)} s`);
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  if (usage?.prompt_tokens) parts.push(`prompt ${usage.prompt_tokens}` + (cached ? `, ${cached} reused` : ""));
  return parts.join(" · ");
}

/** Asks for an answer to the messages so far and shows it as it comes. */
async function answer() {
  const message = { role: "assistant", content: "", thinking: "" };
  const body = request();
  messages.push(message);
  const shown = append(message, messages.length - 1);
  const abort = new AbortController();
  running = abort;
  busy(true);
  const begun = performance.now();
  let first = null;
  let usage = null;
  let timings = null;
  try {
    const options = { method: "POST", headers: headers(), body: JSON.stringify(body), signal: abort.signal };
    const response = await fetch("v1/chat/completions", options);
    if (!response.ok) throw new Error(await errorText(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      timings = event.timings ?? timings;
      const delta = event.choices[0]?.delta ?? {};
      if (!delta.content && !delta.reasoning_content) continue;
      first ??= performance.now();
      message.content += delta.content ?? "";
      message.thinking += delta.reasoning_content ?? "";
      fill(shown, message);
    }
    message.note = rate(usage, timings, first, begun);
  } catch (error) {
    if (error.name === "AbortError") message.note = "stopped";
    else message.error = error.message;
  }
  running = null;
  busy(false);
  save("messages", messages);
  show();
}

function busy(is) {
  byId("send").hidden = is;
  byId("stop").hidden = !is;
  chat.classList.toggle("busy", is);
}

function button(text, action) {
  const node = document.createElement("button");
  node.type = "button";
  node.textContent = text;
  node.addEventListener("click", action);
  return node;
}

/** Puts the text of a message into its element; only scrolls along for a reader who is at the end. */
function fill(element, { role, content, thinking, error }) {
  const atEnd = chat.scrollHeight - chat.scrollTop - chat.clientHeight < 40;
  const body = element.querySelector(".body");
  if (role === "user") body.textContent = content;
  else body.replaceChildren(markdown(content));
  const thoughts = element.querySelector(".thinking");
  thoughts.hidden = !thinking;
  thoughts.querySelector("div").textContent = thinking ?? "";
  if (error) {
    const line = body.appendChild(document.createElement("p"));
    line.className = "error";
    line.textContent = error;
  }
  if (atEnd) chat.scrollTop = chat.scrollHeight;
}

function append(message, index) {
  const element = document.createElement("article");
  element.className = `message ${message.role}`;
  const thoughts = element.appendChild(document.createElement("details"));
  thoughts.className = "thinking";
  thoughts.appendChild(document.createElement("summary")).textContent = "Thinking";
  thoughts.appendChild(document.createElement("div"));
  element.appendChild(document.createElement("div")).className = "body";
  const tools = element.appendChild(document.createElement("div"));
  tools.className = "tools";
  if (message.role === "user") {
    tools.append(button("Edit", () => edit(index)));
  } else {
    tools.append(button("Copy", () => navigator.clipboard?.writeText(message.content)));
    tools.append(button("Regenerate", () => regenerate(index)));
    tools.append(message.note ?? "");
  }
  chat.append(element);
  fill(element, message);
  chat.scrollTop = chat.scrollHeight;
  return element;
}

function show() {
  chat.replaceChildren();
  messages.forEach(append);
}

/** Drops the messages from `index` on. */
function cut(index) {
  running?.abort();
  messages.length = index;
  save("messages", messages);
  show();
}

function edit(index) {
  if (running) return;
  input.value = messages[index].content;
  cut(index);
  grow();
  input.focus();
}

function regenerate(index) {
  if (running) return;
  cut(index);
  answer();
}

function grow() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
}

async function get(path) {
  const response = await fetch(path, { headers: headers() });
  if (!response.ok) throw Object.assign(new Error(await errorText(response)), { status: response.status });
  return response.json();
}

/** Time between two looks at a server that is still loading its model, in milliseconds. */
const LOADING_PAUSE = 1000;

/** Lets the user choose where there are several models. */
function offer(names) {
  byId("models").hidden = names.length < 2;
  const select = settings.elements.model;
  const chosen = select.value || load("settings", {}).model;
  select.replaceChildren(...(names.length < 2 ? [] : names.map((name) => new Option(name))));
  if (names.includes(chosen)) select.value = chosen;
}

/** The model's name, and which backend runs what. */
async function describe() {
  const status = byId("status");
  try {
    const { data } = await get("v1/models");
    offer(data.map(({ id }) => id));
    byId("model").textContent = document.title = field("model") || (data[0]?.id ?? "bitnet-gpu");
    const props = await get("props");
    const placement = (props.placement ?? []).map(({ backend, layers }) => `${backend}: ${layers}`).join(", ");
    byId("placement").textContent = placement;
    byId("placement").title = (props.placement ?? []).map(({ reason }) => reason).join("\n");
    status.textContent = "";
    status.className = "";
  } catch (error) {
    status.textContent = error.message;
    status.className = "error";
    if (error.status === 503) setTimeout(describe, LOADING_PAUSE);
  }
}

byId("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  const content = input.value.trim();
  if (running || !content) return;
  input.value = "";
  grow();
  messages.push({ role: "user", content });
  append(messages.at(-1), messages.length - 1);
  save("messages", messages);
  answer();
});
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("compose").requestSubmit();
  }
});
input.addEventListener("input", grow);
byId("stop").addEventListener("click", () => running?.abort());
byId("new").addEventListener("click", () => cut(0));
byId("show-settings").addEventListener("click", (event) => {
  settings.hidden = !settings.hidden;
  event.target.setAttribute("aria-expanded", String(!settings.hidden));
});
settings.addEventListener("submit", (event) => event.preventDefault());
settings.addEventListener("change", (event) => {
  save("settings", Object.fromEntries(new FormData(settings)));
  if (["key", "model"].includes(event.target.name)) describe();
});

for (const [name, value] of Object.entries(load("settings", {}))) {
  if (settings.elements[name]) settings.elements[name].value = value;
}
show();
describe();
