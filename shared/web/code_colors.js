// Colours for code in any language: comments, strings, numbers and common keywords. It knows no grammar, and
// what it doesn't know stays as it is.

const HASH = /^(py|python|sh|bash|zsh|shell|console|rb|ruby|yaml|yml|toml|ini|conf|r|perl|pl|make|makefile|cmake|dockerfile|docker|nix|elixir|julia|jl|tf|graphql)$/i;
const DASHES = /^(sql|lua|haskell|hs|ada|elm|vhdl)$/i;
const PLAIN = /^(text|txt|plain|plaintext|markdown|md|csv|log|diff|output)?$/i;
const MARKUP = /^(html|xml|svg|vue|svelte)$/i;
const SIZE_MAX = 50000; // longer code stays plain: it would be coloured again with every token

const WORDS = new Set(("abstract and as assert async await begin bool boolean break case catch char class const " +
  "constexpr continue def default defer del delete do done double echo elif else elsif end enum esac except export " +
  "extends extern false False fi final finally float fn for foreach from func function global go goto if impl " +
  "implements import in include inline instanceof int interface is lambda let local long loop match mod module " +
  "mut namespace new nil None nonlocal not null of operator or package pass private protected pub public raise " +
  "ref return self short signed sizeof static struct super switch template then this throw throws trait true True " +
  "try type typedef typename typeof undefined union unless unsigned until use using var virtual void volatile when " +
  "where while with yield SELECT FROM WHERE INSERT INTO VALUES UPDATE SET DELETE CREATE TABLE JOIN LEFT RIGHT INNER " +
  "OUTER ON GROUP BY ORDER HAVING LIMIT AND OR NOT NULL AS DISTINCT PRIMARY KEY").split(" "));

// A string has an end soon or is none: code full of quotes is not searched for the end of each.
const STRING = /"(?:[^"\\\n]|\\.){0,1000}"|'(?:[^'\\\n]|\\.){0,1000}'|`(?:[^`\\]|\\[^]){0,1000}`/.source;
const TAIL = String.raw`|(?<number>\b(?:0[xXbB][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\b)|(?<word>[A-Za-z_]\w*)`;

function pattern(language) {
  if (MARKUP.test(language)) {
    return new RegExp(String.raw`(?<comment><!--[^]*?(?:-->|$))|(?<string>${STRING})|(?<keyword><\/?[\w:-]+|\/?>)`, "g");
  }
  const comment = HASH.test(language) ? String.raw`(?<![\w$&])#[^\n]*`
    : DASHES.test(language) ? String.raw`--[^\n]*`
    : String.raw`\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)`;
  const triple = /^py/i.test(language) ? String.raw`"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|` : "";
  return new RegExp(`(?<comment>${comment})|(?<string>${triple}${STRING})${TAIL}`, "g");
}

export function colorCode(code, language, parent) {
  if (PLAIN.test(language) || code.length > SIZE_MAX) {
    parent.append(code);
    return;
  }
  let at = 0;
  for (const match of code.matchAll(pattern(language))) {
    const groups = match.groups;
    const kind = groups.comment ? "comment" : groups.string ? "string" : groups.number ? "number"
      : groups.keyword || WORDS.has(groups.word) ? "keyword" : null;
    if (!kind) continue;
    const span = document.createElement("span");
    span.className = `code-${kind}`;
    span.textContent = match[0];
    parent.append(code.slice(at, match.index), span);
    at = match.index + match[0].length;
  }
  parent.append(code.slice(at));
}
