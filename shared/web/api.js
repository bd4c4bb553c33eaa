// Requests to the server that the page came from. Paths are relative, so that pages work below a prefix, too.

const KEY = "lm-api-key";
const LINE_MAX = 16 << 20; // characters of one line of a stream

export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// The key lives as long as the tab.
let memoryKey = "";
export function getKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return memoryKey;
  }
}
export function setKey(key) {
  memoryKey = key;
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // memoryKey has it
  }
}

// What asks for a key when the server wants one: (message) -> whether there is another one to try now.
let askForKey = async () => false;
export function onKeyWanted(ask) {
  askForKey = ask;
}

async function errorOf(response) {
  const text = await response.text().catch(() => "");
  let message = text.slice(0, 500) || `The server answered ${response.status}.`;
  let code = "";
  try {
    const body = JSON.parse(text);
    message = body.error?.message ?? body.message ?? body.detail ?? message;
    code = body.error?.code ?? "";
  } catch {
    // no JSON, then: something between us and the server
  }
  const wait = response.headers.get("retry-after");
  if (wait && response.status !== 401) message += ` (Try again in ${wait} s.)`;
  return new ApiError(response.status, String(message), String(code ?? ""));
}

// A response whose status is 2xx; else an ApiError. Where a key is wanted it is asked for, and tried.
export async function request(path, { method = "GET", body, signal } = {}) {
  for (;;) {
    const headers = {};
    const key = getKey();
    if (/[^ -\xff]/.test(key)) throw new ApiError(0, "The API key has a character that no key can have.", "bad_key");
    if (key) headers.authorization = `Bearer ${key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    let response;
    try {
      response = await fetch(path, {
        method, headers, signal, cache: "no-store",
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The server can't be reached.", "unreachable");
    }
    if (response.ok) return response;
    const error = await errorOf(response);
    // Somebody may have given another key meanwhile.
    const again = response.status === 401 && (getKey() !== key || await askForKey(error.message));
    if (!again) throw error;
  }
}

export async function getJson(path, options) {
  return (await request(path, options)).json();
}

// Lines of a stream as they come, without their ends.
export async function* lines(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      let from = 0;
      for (let end; (end = rest.indexOf("\n", from)) >= 0; from = end + 1) {
        yield rest.slice(from, rest[end - 1] === "\r" ? end - 1 : end);
      }
      rest = rest.slice(from);
      if (done) break;
      if (rest.length > LINE_MAX) throw new ApiError(0, "The server sent a line without an end.");
    }
    if (rest) yield rest;
  } finally {
    reader.cancel().catch(() => {});
  }
}

// The data of server-sent events. A last event without its empty line isn't whole, and isn't given.
export async function* events(response) {
  let data = [];
  for await (const line of lines(response)) {
    if (line === "") {
      if (data.length) yield data.join("\n");
      data = [];
    } else if (line.startsWith("data:")) {
      data.push(line.slice(line[5] === " " ? 6 : 5));
    }
  }
}
