#!/usr/bin/env python3
"""Writes tests/fixtures/templates/snippets.json: small templates and what Jinja2 makes of them in the
environment that transformers uses for chat templates. Needs jinja2 (made with 3.1.6); run it by hand
after adding a line, the tests only read its result."""
import datetime
import json
import pathlib

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

VARIABLES = {
    "s": "Hello, World", "u": "Grüße 你好 😀", "e": "", "ws": " \t x y\n ", "n": 7, "neg": -7, "f": 2.5,
    "big": 1234567890123, "t": True, "no": False, "nil": None, "l": [3, 1, 2], "words": ["b", "A", "c", "a"],
    "d": {"b": 1, "a": 2, "C": 3, "items": "key"}, "nested": [{"k": "x", "v": {"n": 1}}, {"k": "y"}, {"k": "x", "v": {"n": 3}}],
    "lines": "one\n  two\n\nthree\n", "q": "it's \"q\" \\ \n\t\x7f<&>", "empty": [], "eo": {}, "deep": {"a": [1, {"b": None}], "z": True},
}

EXPRESSIONS = """
1 + 2 * 3 - 4 / 2
7 // 2, -7 // 2, 7 // -2, 7 % 3, -7 % 3, 7 % -3, 7.5 % 2, -7.5 % 2
2 ** 10, 2 ** -1, 2 ** 3 ** 2, -2 ** 2
1 / 3, 10 / 5, 1e3, 1.5e-7, 1e16, 123456789.125, 0.1 + 0.2, 1e22, 5e-324, 100000.0
1_000, 0.5, 1.25e2
"a" ~ 1 ~ none ~ true ~ 1.0 ~ [1, 'x'] ~ {'a': none}
"a" + "b", "ab" * 3, 2 * "xy", [1] + [2], [0] * 3, (1,) + (2,)
"a" + 1
1 + "a"
"a" - "b"
l + s
nil + 1
s[0], s[-1], s[1:3], s[:2], s[-3:], s[::-1], s[::2], s[10:100], s[5:2], s[99] is undefined
u[0], u[-1], u[6:8], u[::-1], u|length, u[-3:]
l[0], l[-1], l[1:], l[::-1], l[:-1], l[5] is defined, l['x'] is defined, l[-9] is defined
l[0:3:2], l[::-2], l[2:0:-1], l[-100:100], l[3:], l[none:2]
l[::0]
d.a, d['b'], d.zzz is defined, d['items'], d.items is defined, d.C
d.items()|list, d.keys()|list, d.values()|list, d.items()|length
d.get('a'), d.get('zzz'), d.get('zzz', 5), d.get('zzz') is none
'a' in d, 'zz' in d, 1 in l, 9 not in l, 'ell' in s, '' in s, 'x' not in s
1 in s
1 in nil
1 in undefd, 'a' in undefd
undefd, undefd is defined, undefd is undefined, undefd|default('x'), undefd|length, undefd == undefd2
undefd.x
undefd + 1
undefd['x']
undefd()
nil.x, nil.x is defined, nil['x'] is defined, n.x is defined, s.nope is defined
nil.x.y
d.zzz.y
undefd < 1
nil < 1
1 < 2 < 3, 1 < 3 < 2, 3 > 2 >= 2, 1 == 1.0, 1 == true, 'a' < 'b', [1,2] < [1,3], (1,) == (1,), [1] == (1,)
1 < 'a'
{'a': 1} == {'a': 1.0}, {'a': 1} != {'a': 2}, none == none, 'a' == 1, [] == []
true and 'x', 0 or 'y', '' and 1, [] or {}, not 0, not 'a', not undefd
1 if t else 2, 1 if no else 2, 'x' if no, (1 if no) is undefined
1 if no else 2 if no else 3
t is true, t is false, no is false, 1 is true, nil is none, nil is not none, undefd is none
n is number, f is number, t is number, s is number, n is integer, t is integer, f is float, n is float
s is string, n is string, d is mapping, l is mapping, l is sequence, s is sequence, d is sequence, n is sequence
l is iterable, s is iterable, n is iterable, nil is iterable, d is iterable, undefd is iterable
4 is even, 3 is odd, 9 is divisibleby 3, 9 is divisibleby(2), 3 is sameas 3, t is sameas true, s is lower, 'abc' is lower, 'ABC' is upper, '12' is upper
1 is in [1, 2], 'x' is not in 'abc', 3 is eq 3, 3 is ne 4, 3 is gt 2, 3 is ge 3, 3 is lt 4, 3 is le 2
t is boolean, n is boolean, 'upper' is filter, 'nope' is filter, 'defined' is test, range is callable, s is callable
s|upper, s|lower, s|title, "hello wORLD-foo (bar"|title, "hELLO"|capitalize, u|upper, 'straßE'|lower
s.upper(), s.lower(), s.title(), "they're bill's"|title, "they're bill's".title(), s.swapcase(), "hELLO x".capitalize()
ws|trim, ws.strip()|length, ws.lstrip()|length, ws.rstrip()|length, 'xxaxx'.strip('x'), 'xyaxy'|trim('xy'), 'abc'.strip('')
s.split(), s.split(', '), s.split('l'), s.split('l', 1), 'a,b,,c'.split(','), ''.split(), ''.split(','), '  a  b '.split(none, 1)
s.rsplit('l', 1), ' a b '.split(none, 0), ' a b c '.rsplit(none, 1), 'a b c'.rsplit(none, 1), 'a b  c'.rsplit(), 'a,b,c'.rsplit(',', 1)[0]
s.split('')
lines.splitlines(), lines.splitlines(true), 'a\\r\\nb\\rc'.splitlines()
s.startswith('Hell'), s.startswith(('x', 'He')), s.endswith('ld'), s.endswith('x'), ''.startswith('')
s.replace('l', 'L'), s.replace('l', 'L', 1), s|replace('o', '0'), 'aaa'|replace('a', 'b', 2), 'ab'.replace('', '-')
s.find('o'), s.rfind('o'), s.find('zz'), s.count('l'), s.index('W'), u.find('你')
s.index('zz')
'-'.join(['a', 'b']), ','.join('abc'), '-'.join([1])
','.join([1, 2])
'abc'.isalpha(), 'a1'.isalnum(), '12'.isdigit(), ' '.isspace(), ''.isalpha(), 'Abc'.isupper(), 'ABC'.isupper(), 'éa'.isalpha()
'a'.ljust(3) ~ '|', 'a'.rjust(3, '*'), 'ab'.center(5, '-'), 'ab'.center(6), 'abc'.center(4, '.'), '7'.zfill(3)
'a=b=c'.partition('='), 'a=b=c'.rpartition('='), 'abc'.partition('='), 'abc'.removeprefix('a'), 'abc'.removesuffix('bc')
'{} and {}'.format(1, 'x'), '{0}{1}{0}'.format('a', 'b'), '{x}-{y}'.format(x=1, y=none), '{{}}'.format(), '{:>5}|{:<5}|{:05d}|{:.2f}'.format('a', 'b', 42, 3.14159)
'{d[a]} {l[0]} {d[k].z}'.format(d={'a': 1, 'k': {'z': 2}}, l=[9])
'{}'.format()
'%s is %d and %.2f %5s|%-5s|%05d %x %%' % ('a', 3, 1.5, 'r', 'l', 42, 255)
'%s' % s, '%(a)s-%(b)d' % {'a': 'x', 'b': 2}, '%r' % 'q'
'%d' % 'x'
'%s %s' % 'a'
'%s'|format('x'), '%s %s'|format(1, 2)
l|join, l|join('-'), nested|join(',', attribute='k'), 'abc'|join('.'), [1, none, true]|join(' ')
l|first, l|last, s|first, s|last, empty|first is defined, u|last, d|first
l|length, s|length, d|length, e|length, l|count, eo|length
n|length
nil|length
l|sort, l|sort(reverse=true), words|sort, words|sort(case_sensitive=true), nested|sort(attribute='k')|map(attribute='k')|list
[1, 'a']|sort
l|max, l|min, words|max, words|min, empty|max is defined, l|sum, nested|map(attribute='k')|join, [1.5, 2]|sum
nested|map(attribute='v.n')|list|length, nested|map(attribute='v.n', default=0)|list
words|map('upper')|list, words|map('replace', 'b', 'BB')|list, ['1', '2']|map('int')|sum
nested|selectattr('k', 'equalto', 'x')|list|length, nested|selectattr('v')|list|length, nested|selectattr('v', 'defined')|list|length
nested|rejectattr('k', 'equalto', 'x')|map(attribute='k')|list, nested|selectattr('k', 'in', ['y', 'z'])|list
[1, 2, 3, 4]|select('even')|list, [1, 2, 3]|reject('odd')|list, [0, 1, '', 'a']|select|list
[1, 2, 2, 1, 'a', 'A']|unique|list, words|unique(case_sensitive=true)|list, nested|unique(attribute='k')|map(attribute='k')|list
d|dictsort, d|dictsort(true), d|dictsort(by='value'), d|dictsort(reverse=true), {'b':1,'A':2}|dictsort|map('first')|list
d|items|list, undefd|items|list, {}|items|list
l|list, s|list, d|list, (1,2)|list, undefd|list
n|list
s|reverse, l|reverse|list, u|reverse
n|string, nil|string, l|string, t|string, 1.0|string, d|string
"12"|int, " 12 "|int, "x"|int, "x"|int(9), "3.7"|int, 3.9|int, -3.9|int, "0x1f"|int(base=16), "ff"|int(0, 16), true|int, nil|int, "1_0"|int
"1.5"|float, "x"|float, "x"|float(2.5), 3|float, nil|float, true|float
-3|abs, 3|abs, -2.5|abs, 2.5|round, 3.5|round, 2.567|round(2), 2.5|round(method='ceil'), 2.5|round(0, 'floor'), 7|round, 7|round(2), 7.0|round, 7|round(0, 'ceil')
undefd|default, undefd|default('x'), e|default('x'), e|default('x', true), nil|default('x'), nil|default('x', boolean=true), n|d(1)
lines|indent, lines|indent(2), lines|indent(2, true), lines|indent(2, first=true, blank=true), 'a'|indent, ''|indent(3, true), 'a\\n'|indent('>>')
q|e ~ q|escape ~ s|safe, 'a b  c'|wordcount, s|string|trim|upper
d|attr('a') is defined, s|attr('upper') is defined
d|tojson, l|tojson, q|tojson, u|tojson, nil|tojson, t|tojson, f|tojson, 1.0|tojson, e|tojson, deep|tojson
deep|tojson(indent=2), l|tojson(indent=4), empty|tojson(indent=2), eo|tojson(indent=2), {'a': {}}|tojson(indent=1)
u|tojson(ensure_ascii=true), d|tojson(sort_keys=true), d|tojson(separators=(',', ':')), {1: 2, none: 3, true: 4, 1.5: 5}|tojson
undefd|tojson
range|tojson
(l|map('string'))|tojson
range(3)|list, range(1, 4)|list, range(5, 0, -2)|list, range(0)|list, range(3)|length, range(3)[1], range(2, 8, 3)|list
range(1000000)
range(1, 5, 0)
dict(a=1, b=2), dict({'a': 1}, c=3), dict([('x', 1)]), dict()
namespace(a=1).a, namespace(a=1).b is defined, namespace({'z': 5}).z
[1, [2, 'x'], (3,), {'k': none}], (), (1,), [], {}, {1: 2}, ('a', "it's"), ["\\n\\t\\\\", "a\\"b'c"]
'a' 'b' "c", 'tab\\tnl\\nq\\'x\\x41\\u00e9\\U0001F600\\101\\z'
[1, 2,], {'a': 1,}, (1, 2,), l [0], d . a
l.append(4)
d.update({})
d.pop('a')
l.pop is defined
l.count(1), l.index(2), (1, 1).count(1)
l.nope()
s()
n.foo
true, True, false, False, none, None
not true is false, not (n is odd), n is not odd, not n is odd
- n, -n + 1, +n, - - n, n - -1, (n)
n.0 is defined, l.0, l.1 + 1
1.5.x is defined
(n if t else 0) ~ '!', [n if t else 0], {'k': n if no else 'z'}
l|length > 2, l|length + 1, -l|length, l|join ~ 'x', 'a' ~ 'b'|upper
(l|length) is divisibleby 3, l|length is odd
s.split(' ')[0].strip(',').lower()|length
nested[0].v.n, nested[0]['v']['n'], nested[1].v is defined, nested[-1].k
raise_exception('stop it')
raise_exception('x' ~ 1)
strftime_now('%Y-%m-%d'), strftime_now('%d %B %Y %H:%M')
s|nope
s is nope
deep.a[1].b is none, deep.a[1].b.c is defined
'a' if undefd else 'b', 'a' if undefd is defined and undefd.x else 'b'
(1, 2) + (3,), [1, 2] == [1, 2.0], 'x' * 0, [] * 5, 'x' * -1
"\u00a0x\u2003"|trim, "a\u3000b".split(), '\\u00df'.upper() is string
1 == 1 and 2 == 2 or 3 == 4, 1 or 2 and 3, not 1 == 2
lines.split('\\n')|length, lines.strip().split('\\n')[-1]
d|length == 4 and 'a' in d and d.a == 2
x is defined and x is not none, (x or 'dflt')
loop is defined
caller is defined
"%05.1f|%+d|% d|%e" % (3.14159, 5, 5, 12345.678)
7 // 0
7 % 0
1 / 0
9223372036854775807 + 0, -9223372036854775807
""".strip("\n").split("\n")

TEMPLATES = [
    "{% for x in l %}{{ loop.index }}/{{ loop.length }}:{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for x in l %}{{ loop.first }}{{ loop.last }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }};{% endfor %}",
    "{% for x in l %}{{ loop.previtem|default('-') }}<{{ x }}>{{ loop.nextitem|default('-') }} {% endfor %}",
    "{% for x in empty %}a{% else %}none{% endfor %}{% for x in l if x > 1 %}{{ x }}{{ loop.length }}{% else %}z{% endfor %}",
    "{% for x in l if x > 9 %}{{ x }}{% else %}nothing{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}",
    "{% for c in s %}{{ c }}.{% endfor %}{% for c in undefd %}x{% else %}none{% endfor %}",
    "{% for x in nil %}a{% endfor %}",
    "{% for x in n %}a{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% if x == 2 %}{% break %}{% endif %}{% endfor %}|",
    "{% for x in range(3) %}{% for y in range(3) %}{% if y == 1 %}{% break %}{% endif %}{{ x }}{{ y }} {{ loop.depth }}{% endfor %}{% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }}{% endfor %}",
    "{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}",
    "{% set ns = namespace(x=1) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{% set ns.new = 'n' %}{{ ns.new }}",
    "{% set d.x = 1 %}",
    "{% set undefd.x = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, e2) = [3, 4] %}{{ c }}{{ e2 }}{% set z = 1, 2 %}{{ z }}",
    "{% set x %}a{{ n }}b{% endset %}[{{ x }}]{% set y | upper | trim %} abc {% endset %}[{{ y }}]",
    "{% if t %}{% set x = 5 %}{% endif %}{{ x }}{% if no %}{% set w = 1 %}{% endif %}{{ w is defined }}",
    "{% if no %}a{% elif n == 7 %}b{% elif t %}c{% else %}d{% endif %}{% if no %}{% else %}e{% endif %}",
    "{% macro m(a, b=2, c='x') %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(1, c='z') }} {{ m() }}{{ m(a='k', b=none) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, z=4) }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% set g = 'outer' %}{% macro m() %}{{ g }}{% set g = 'in' %}{{ g }}{% endmacro %}{{ m() }}{{ g }}",
    "{% macro m() %}<{{ caller('a') }}>{% endmacro %}{% call(x) m() %}{{ x }}{{ n }}{% endcall %}",
    "{% macro m(t) %}{{ t }}[{{ caller() }}]{% endmacro %}{% call m('T') %}body{% endcall %}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(3) }}",
    "{% macro m(x) %}{{ x|upper }}{% endmacro %}{{ m('a') ~ m('b') }}{{ m('q')|length }}{{ (m('w') == 'W') }}",
    "{% filter upper %}abc {{ n }}{% endfilter %}{% filter replace('a', 'b') %}aaa{% endfilter %}{% filter trim|upper %} x {% endfilter %}",
    "{% with a=1, b=n %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}",
    "{% raw %}{{ x }}{% if %}{% endraw %}|{%- raw -%}  a  {%- endraw -%}  |",
    "a{# comment #}b{#- c -#} d {#\nx\n#}\ne",
    "  {% if t %}\n  yes\n  {% endif %}\nend",
    "  {%+ if t %}\nx\n  {%+ endif +%}\nend",
    "a\n  {%- if t -%}\n  yes  \n  {%- endif -%}\n b",
    "  {{ n }}\n  {{- n }}  \n {{ n -}}  \n x",
    "{{ n }}\n{% if t %}\n\nx{% endif %}\n\n",
    "x\n\n", "x\n", "\n", "", "a\r\nb\rc\r\n", "{{ 'a\r\nb' }}",
    "{% set x = [\n  1,\n  2\n] %}\n{{ x }}", "{{ {'a': {'b': 1}}.a.b }}", "{{ {'a':1}|tojson }}{{'}}'}}{{ '%}' }}",
    "{% for x in l -%}\n {{ x }}\n{%- endfor %}", "\t {% set x = 1 %} \t{{ x }}", "a {% set x = 1 %}\n b {% if t %} c {% endif %}\n",
    "{# a #}\n{# b -#}\n  c", "  {# x #}\n  y", "{{ n -}}\n\n{{ n }}", "{%- if t %}\n a{% endif -%}\n b", "{% if t -%} {{- ' x ' -}} {%- endif %}",
    "{% print 1, 2 %}", "{% if t: %}x{% endif: %}",
    "{{ }}", "{{ 1 + }}", "{% if %}{% endif %}", "{% if t %}", "{% endif %}", "{% for x l %}{% endfor %}", "{{ 'abc }}", "{{ (1 }}", "{{ 1) }}",
    "{% nope %}", "{# x", "{% raw %}x", "{% set %}", "{% set 1 = 2 %}", "{% macro 1() %}{% endmacro %}", "{{ a b }}", "{{ a. }}", "{{ a| }}", "{{ a is }}",
    "{{ f(a=1, 2) }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% break %}", "{{ x[ }}", "{{ {1} }}", "{{ [1 2] }}", "{% if t %}{% endfor %}", "{{ '\\x' }}",
    "{% set ns = namespace(l=[]) %}{% for x in l %}{% set ns.l = ns.l + [x * 2] %}{% endfor %}{{ ns.l|join(',') }}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns['a'] }}",
    "{% for m in nested %}{% if loop.index0 % 2 == 0 %}{{ m.k }}{% endif %}{% endfor %}",
    "{% for x in l|sort|reverse %}{{ x }}{% endfor %}{% for x in nested|selectattr('k','equalto','x') %}{{ loop.last }}{% endfor %}",
    "{% set g = l|map('string') %}{{ g|join }}{{ g|join }}|", "{% set g = nested|selectattr('v') %}{% if g %}y{% endif %}{{ g|length }}",
    "{% for i in range(2) %}{% set v = i %}{% endfor %}{{ v is defined }}{% for i in range(2) %}{{ v is defined }}{% set v = 1 %}{% endfor %}",
    "{% for x in l %}{% if loop.first %}{% set a = x %}{% endif %}{{ a is defined }}{% endfor %}",
    "{{ loop }}", "{% for x in l %}{{ loop }}{% endfor %}", "{{ namespace(a=1) }}",
    "{% for x in l %}{% set y %}{{ x }}{% if x == 1 %}{% break %}{% endif %}{% endset %}{{ y }}{% endfor %}",
    "{%- set messages = [{'role': 'user', 'content': 'a'}] -%}{%- for m in messages -%}{{- '<|' + m.role + '|>\\n' -}}{{- m['content'] | trim -}}{%- endfor -%}",
    "{% set x = 'a' if t else 'b' %}{{ x }}{% set y = not t %}{{ y }}{% set z = l is defined and l|length > 0 %}{{ z }}",
    "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% do l %}",
    "{{ s }}{{ '{{' }}{% if '%}' == '%}' %}ok{% endif %}", "{{ \"}}\" }}", "{{ '\\'' }}{{ \"\\\"\" }}{{ '\\\\n' }}",
    "{%if t%}a{%endif%}{{n}}{%for x in l%}{{x}}{%endfor%}", "{{n}}{{-n}}{{+n}}{{ - n}}", "{{ n-}}x", "{{n -1}}{{n- 1}}{{n-1}}",
]


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime(2025, 1, 2, 3, 4, 5).strftime(f)
    return env


def main():
    env = environment()
    cases = []
    for source in ["{{ " + e + " }}" for e in EXPRESSIONS] + TEMPLATES:
        case = {"template": source}
        try:
            case["rendered"] = env.from_string(source).render(**VARIABLES)
        except Exception as error:  # any kind: the template must fail
            case["error"] = f"{type(error).__name__}: {error}"[:200]
        assert "0x7f" not in case.get("rendered", ""), source  # an address
        cases.append(case)
    out = pathlib.Path(__file__).parent.parent / "fixtures/templates/snippets.json"
    data = {"by": f"jinja2 {jinja2.__version__}", "now": "2025-01-02T03:04:05", "variables": VARIABLES, "cases": cases}
    out.write_text(json.dumps(data, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(len(cases), "cases,", sum("error" in c for c in cases), "errors")


if __name__ == "__main__":
    main()
