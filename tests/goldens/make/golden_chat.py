#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["transformers==5.17.0", "jinja2==3.1.6"]
# ///
"""Writes tests/goldens/chat.json: what Hugging Face's apply_chat_template makes of chats, for the constructs that templates
of real models use and for whole templates in the style of the families.

The tokenizer is fixtures/tiny-coqa's; the clock stands still. Run in the repository's root.
usage: golden_chat.py > tests/goldens/chat.json
"""
import datetime
import json

from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

NOW = datetime.datetime(2024, 7, 6, 13, 5, 9)


class Still(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = Still

TOKENIZER = PreTrainedTokenizerFast(
    tokenizer_file="fixtures/tiny-coqa/tokenizer.json", bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
)

CHATS = {
    "plain": [
        {"role": "user", "content": " Hi there, who are you? "},
        {"role": "assistant", "content": "I am a small model.\nI answer."},
        {"role": "user", "content": "Why is the sky blue?"},
        {"role": "assistant", "content": "Because of the air."},
    ],
    "system": [
        {"role": "system", "content": "\nBe brief. \n"},
        {"role": "user", "content": "a < b && c > 'd' \"e\" é 小 \\ / \u2028 \x7f"},
        {"role": "assistant", "content": "<think>\nhm, hm\n</think>\n\nYes."},
    ],
    "tools": [
        {"role": "user", "content": "What is the weather in Rome?", "name": "Ana"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome", "days": 2, "units": None, "exact": True, "scale": 1.5}}}]},
        {"role": "tool", "content": "{\"sky\": \"clear\"}", "tool_call_id": "c1"},
        {"role": "assistant", "content": "Clear."},
    ],
    "parts": [
        {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "text", "text": " a cat"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    ],
}

EACH = "{% for m in messages %}"
END = "{% endfor %}"

# Name, chat, template.
CONSTRUCTS = [
    # what transformers passes
    ("tools and documents are None", "plain", "{%- if tools is not none %}T{% endif %}{%- if documents is not none %}D{% endif %}{{ tools is none }}{{ documents is defined }}{{ tools }}"),
    ("no generation prompt", "plain", "{% if add_generation_prompt %}P{% else %}N{% endif %}{{ add_generation_prompt }}"),
    ("unset special tokens are undefined", "plain", "{{ bos_token }}{{ pad_token }}{{ unk_token is defined }}{{ eos_token }}"),
    ("undefined variables", "plain", "{% if custom_tools is defined %}x{% endif %}{% if not enable_thinking %}n{% endif %}{{ xml | default('d') }}{{ date_string or 'none' }}"),
    ("a default that is set", "plain", "{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{{ date_string }}"),
    ("keys of a message", "tools", EACH + "{{ m.keys() | list }}{{ m.name }}{{ m['none'] is defined }}" + END),
    ("content that is None", "tools", EACH + "{{ m.content }}|{{ m.content is none }}|{{ m.content or '' }};" + END),
    ("content in parts", "parts", EACH + "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endif %}\n" + END),
    ("a list is printed as Python does", "parts", EACH + "{{ m.content }}\n" + END),
    ("a message is printed as Python does", "tools", EACH + "{{ m }}\n" + END),
    ("quotes in a printed list", "system", "{{ [messages[1].content, \"it's\", 'a\nb\tc'] }}{{ {'k': 'é\\x7f', 2: 1.0} }}"),
    ("numbers and constants printed", "plain", "{{ true }} {{ false }} {{ none }} {{ 1.0 }} {{ 1e20 }} {{ 0.1 + 0.2 }} {{ 3 / 2 }} {{ 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 1e-7 }} {{ 1e16 }} {{ 123456789.0 }}"),
    ("a tuple printed", "plain", "{{ (1, 'a') }}{{ (1,) }}{{ () }}"),
    ("concatenation of anything", "tools", "{{ 'a' ~ 1 ~ none ~ true ~ [1, 'b'] ~ messages[1].tool_calls[0].function.arguments }}"),
    # tojson
    ("tojson without escapes", "system", EACH + "{{ m | tojson }}\n" + END),
    ("tojson with an indent", "tools", "{{ messages | tojson(indent=4) }}{{ {'a': [], 'b': {}} | tojson(indent=2) }}"),
    ("tojson in ASCII", "system", "{{ messages[1].content | tojson(ensure_ascii=True) }}{{ '😀' | tojson(true) }}"),
    ("tojson with separators", "tools", "{{ messages[1] | tojson(separators=(',', ':')) }}"),
    ("tojson with separators and an indent", "tools", "{{ messages[1] | tojson(separators=(', ', ' : '), indent=1) }}"),
    ("tojson with sorted keys", "tools", "{{ messages[1].tool_calls | tojson(sort_keys=true) }}"),
    ("tojson of numbers", "plain", "{{ [1, 1.0, 1e20, 1e16, 1e-7, 0.1, true, none, -0.0] | tojson }}{{ 'a\\tb\\x01\\x7f' | tojson }}"),
    ("tojson with an indent of text", "plain", "{{ {'a': [1]} | tojson(indent='--') }}{{ [1] | tojson(indent=0) }}"),
    # tags
    ("generation", "plain", EACH + "<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{{ eos_token }}" + END),
    ("generation that strips", "plain", EACH + "{{ m.role }} \n {%- generation -%} \n {{ m.content }} \n {%- endgeneration -%} \n x" + END),
    ("generation at a line's beginning", "plain", EACH + "\n  {% generation %}\n  {{ m.content }}\n  {% endgeneration %}\nx" + END),
    ("generation that keeps", "plain", EACH + "\n  {%+ generation +%}\n{{ m.content }}{%+ endgeneration +%}\nx" + END),
    ("generation in text and comments", "plain", "{{ '{% generation %}' }}{# {% generation %} #}{% raw %}{% generation %}{% endraw %}{% set generation = 1 %}{{ generation }}"),
    ("names set in a generation block stay there", "plain", "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"),
    ("break and continue", "plain", EACH + "{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.role }}{% if loop.index == 3 %}{% break %}{% endif %}" + END),
    ("trimmed and stripped blocks", "plain", "  {% if true %}\n    a\n  {% endif %}\n  {# c #}\nb\n{{ 1 }}\n\n"),
    ("a line feed at the end", "plain", "a\n"),
    ("two line feeds at the end", "plain", "a\n\n"),
    ("blocks that keep white space", "plain", "a\n  {%+ if true +%}\n b {%- endif %}  \n c"),
    ("raw", "plain", "{% raw %}{{ x }}{% endraw %}{%- raw -%} {% y %} {%- endraw -%} z"),
    ("set blocks and filter blocks", "plain", "{% set x %} a b {% endset %}[{{ x }}]{% filter upper %}c{{ x }}{% endfilter %}{% set y | trim %} q {% endset %}[{{ y }}]"),
    ("macros with defaults", "tools", "{% macro t(x, y='d', z=none) %}<{{ x }},{{ y }},{{ z }}>{% endmacro %}{{ t(1) }}{{ t(1, z=2) }}{{ t('a', 'b', 'c') }}"),
    ("a recursive macro", "parts", "{%- macro show(v) -%}{%- if v is mapping -%}{{ '{' }}{%- for k, w in v | items -%}{{ k }}={{ show(w) }};{%- endfor -%}{{ '}' }}{%- elif v is iterable and v is not string -%}[{%- for w in v -%}{{ show(w) }},{%- endfor -%}]{%- else -%}{{ v }}{%- endif -%}{%- endmacro -%}{{ show(messages) }}"),
    ("call blocks", "plain", "{% macro b() %}<{{ caller() }}>{% endmacro %}{% call b() %}in{% endcall %}"),
    ("a namespace", "system", "{%- set ns = namespace(last=-1, system=false, text='') %}" + EACH + "{% if m.role == 'system' %}{% set ns.system = true %}{% endif %}{% set ns.last = loop.index0 %}{% set ns.text = ns.text + m.role %}" + END + "{{ ns.last }}{{ ns.system }}{{ ns.text }}"),
    ("a loop does not set names outside", "plain", "{% set x = 0 %}" + EACH + "{% set x = x + 1 %}{{ x }}" + END + "{{ x }}"),
    ("an if does set names", "plain", "{% if true %}{% set x = 3 %}{% endif %}{{ x }}"),
    ("a loop's own names", "plain", EACH + "{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.cycle('a', 'b') }}{{ loop.depth }};" + END),
    ("a loop's neighbours", "plain", EACH + "{% if loop.previtem is defined %}<{{ loop.previtem.role }}{% endif %}{% if loop.nextitem %}>{{ loop.nextitem.role }}{% endif %}{{ loop.changed(m.role) }};" + END),
    ("a loop with a condition", "plain", "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% else %}none{% endfor %}{% for m in messages if m.role == 'x' %}{% else %}none{% endfor %}"),
    ("a loop that unpacks", "tools", "{% for k, v in messages[1].tool_calls[0].function.arguments.items() %}{{ k }}: {{ v }}\n{% endfor %}{% for k in messages[0] %}{{ k }}{% endfor %}"),
    ("a loop over a slice", "plain", "{% for m in messages[1:] %}{{ m.role }}{% endfor %}{% for m in messages[::-1] %}{{ m.role }}{% endfor %}{{ messages[-1].role }}{{ messages[:2] | length }}{{ 'abcdef'[1:-1] }}{{ 'abcdef'[::-2] }}{{ 'abc'[0] }}{{ 'abc'[-1] }}"),
    ("range", "plain", "{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(5, 0, -2) %}{{ i }}{% endfor %}{{ range(2) | list }}{% for i in range(messages | length - 1, -1, -1) %}{{ messages[i].role }}{% endfor %}"),
    ("nested set of loop", "plain", "{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}{% for m in loop_messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}x{% endif %}{{ loop.index0 % 2 }}{% endfor %}{{ system }}"),
    # Python's methods
    ("methods of text", "plain", "{{ ' a b '.strip() }}{{ 'xxaxx'.strip('x') }}{{ ' a'.lstrip() }}{{ 'a '.rstrip() }}|{{ 'A b'.lower() }}{{ 'a b'.upper() }}{{ 'a b'.title() }}{{ 'ab C'.capitalize() }}{{ 'a-b-c'.split('-') }}{{ 'a b  c'.split() }}{{ 'a-b-c'.split('-', 1) }}"),
    ("more methods of text", "plain", "{{ 'a-b-c'.rsplit('-', 1) }}{{ 'a-b-c'.rsplit('-') }}{{ 'a b  c '.rsplit() }}{{ 'a b c'.rsplit(None, 1) }}{{ 'a=b=c'.partition('=') }}{{ 'a=b=c'.rpartition('=') }}{{ 'x'.partition('=') }}{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}"),
    ("still more methods of text", "plain", "{{ 'abab'.replace('a', 'c') }}{{ 'abab'.replace('a', 'c', 1) }}{{ 'abc'.startswith('ab') }}{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith('bc') }}{{ 'abcb'.find('b') }}{{ 'abcb'.rfind('b') }}{{ 'abcb'.count('b') }}{{ 'abc'.index('c') }}{{ ', '.join(['a', 'b']) }}{{ 'a\nb\n\nc'.splitlines() }}"),
    ("methods that ask", "plain", "{{ 'ab1'.isalnum() }}{{ 'ab'.isalpha() }}{{ '12'.isdigit() }}{{ 'a'.islower() }}{{ 'A'.isupper() }}{{ ' '.isspace() }}{{ ''.isspace() }}{{ 'x'.isdecimal() }}"),
    ("methods that fill", "plain", "{{ 'ab'.center(6) }}|{{ 'ab'.ljust(5) }}|{{ 'ab'.rjust(5, '.') }}|{{ '7'.zfill(3) }}|{{ 'aB'.swapcase() }}|{{ 'STRASSE'.casefold() }}"),
    ("text.format", "plain", "{{ '{} and {}'.format('a', 2) }}{{ '{0}{1}{0}'.format('x', 'y') }}{{ '{a:>4}|{b:03d}|{c:.2f}'.format(a='r', b=7, c=1.5) }}"),
    ("the percent operator", "plain", "{{ '%s is %d' % ('a', 3) }}{{ '%s' % 'x' }}{{ '%05.1f%%' % 2.25 }}{{ '%(k)s' % {'k': 'v'} }}{{ '%x' % 255 }}"),
    ("the format filter", "plain", "{{ '%s is %d' | format('a', 3) }}{{ '%5.2f|%-4s|' | format(1.239, 'ab') }}"),
    ("methods of mappings", "tools", "{{ messages[0].get('name') }}{{ messages[2].get('name') }}{{ messages[2].get('name', 'x') }}{{ messages[0].keys() | list }}{{ messages[0].values() | list }}{% for k, v in messages[0].items() %}{{ k }}{{ v }}{% endfor %}{{ messages[0].items() | list }}"),
    ("methods of lists", "plain", "{{ [1, 2, 1].count(1) }}{{ ['a', 'b'].index('b') }}{{ [1, 2] + [3] }}{{ [0] * 3 }}{{ 'ab' * 2 }}"),
    ("text that is indexed", "system", "{{ messages[2].content.split('</think>')[-1].lstrip('\\n') }}{{ messages[2]['content'].split('</think>')[0].split('<think>')[-1].strip('\\n') }}{{ (messages[2].content.split('</think>') | last) | trim }}"),
    # filters
    ("filters of lists", "plain", "{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | rejectattr('role', '==', 'user') | map(attribute='content') | first }}{{ [3, 1, 2] | sort | last }}{{ [1, 2] | sum }}{{ ['b', 'a', 'b'] | unique | list }}{{ [1, 2, 3] | select('odd') | list }}{{ ['a', 'B'] | map('upper') | join }}"),
    ("more filters of lists", "plain", "{{ [1, 2, 3] | reverse | list }}{{ 'abc' | reverse }}{{ [1, 2, 3] | batch(2) | list }}{{ [1, 2, 3, 4] | slice(2) | list }}{{ [3, 1] | min }}{{ [3, 1] | max }}{{ ['a', 'B'] | sort }}{{ [{'a': 2}, {'a': 1}] | sort(attribute='a') }}{{ 'abc' | list }}{{ [1, 2] | string }}"),
    ("filters of mappings", "tools", "{{ {'b': 1, 'a': 2} | dictsort }}{{ {'b': 1, 'a': 2} | items | list }}{{ {'b': 1} | length }}{% for k, v in messages[1].tool_calls[0].function.arguments | dictsort %}{{ k }}{{ v }}{% endfor %}{{ messages | groupby('role') | map(attribute='grouper') | list }}"),
    ("filters of text", "plain", "{{ ' a b ' | trim }}|{{ 'xax' | trim('x') }}|{{ 'a b' | upper }}{{ 'A' | lower }}{{ 'hello wORLD' | title }}{{ 'hELLO' | capitalize }}{{ 'aab' | replace('a', 'x') }}{{ 'aab' | replace('a', 'x', 1) }}{{ 'a b c' | wordcount }}{{ 'a\nb' | indent(2) }}{{ 'a\nb\n\nc' | indent(2, true) }}{{ 'a\nb\n\nc' | indent(2, blank=true) }}{{ 'a\nb' | indent('> ') }}"),
    ("filters of numbers", "plain", "{{ '3' | int }}{{ 'x' | int }}{{ 'x' | int(7) }}{{ '1.5' | float }}{{ 3.7 | int }}{{ -2 | abs }}{{ 2.567 | round(1) }}{{ 2.5 | round }}{{ 2.1 | round(0, 'ceil') }}{{ 3 | string }}{{ '3' | int + 1 }}"),
    ("filters that escape", "system", "{{ '<a>&\"\\'' | e }}{{ '<a>' | safe }}{{ '<b>' | escape }}"),
    ("defaults", "tools", "{{ messages[1].content | default('d', true) }}{{ messages[0].x | default('y') }}{{ none | default('n') }}{{ '' | d('e', boolean=true) }}"),
    ("length and count", "plain", "{{ messages | length }}{{ 'abc' | count }}{{ {} | length }}{{ 'é小' | length }}"),
    # tests and operators
    ("tests", "parts", "{{ messages is iterable }}{{ 'a' is string }}{{ {} is mapping }}{{ [] is sequence }}{{ 'a' is sequence }}{{ {} is iterable }}{{ 1 is number }}{{ 1 is integer }}{{ 1.0 is float }}{{ true is boolean }}{{ true is number }}{{ x is undefined }}{{ none is none }}{{ 'a' is in ['a'] }}{{ 3 is odd }}{{ 4 is divisibleby 2 }}{{ true is true }}{{ 1 is true }}{{ 'a' is lower }}{{ 1 is eq 1 }}{{ 2 is gt 1 }}{{ 'trim' is filter }}{{ messages.append is defined }}"),
    ("in and not in", "plain", "{{ 'a' in 'abc' }}{{ 'role' in messages[0] }}{{ 'x' not in messages[0] }}{{ 1 in [1] }}{{ 'z' in ['a'] }}"),
    ("comparisons and logic", "plain", "{{ 1 < 2 <= 2 }}{{ 1 == 1.0 }}{{ 'a' < 'b' }}{{ not 1 }}{{ 1 and 0 }}{{ 0 or 'x' }}{{ '' or none }}{{ [] and 1 }}{{ true == 1 }}{{ 'a' != 'b' }}{{ (1, 2) == (1, 2) }}"),
    ("conditional expressions", "plain", "{{ 'a' if messages[0].role == 'user' else 'b' }}{{ 'a' if false }}{{ ('x' if true else 'y') ~ 'z' }}{{ 'a' if messages[0].content and messages[0].content is string else '' }}"),
    ("literals", "plain", "{{ 'a' 'b' }}{{ \"it's\" }}{{ 'l\\n\\t\\\\\\'\\u00e9' }}{{ 1_000 }}{{ 0x10 }}{{ {'a': 1,}.a }}{{ [1, 2,][1] }}{{ True and not False }}{{ None is none }}"),
    ("attributes and keys", "tools", "{{ messages[1].tool_calls[0].function.name }}{{ messages[1]['tool_calls'][0]['function']['arguments']['city'] }}{{ messages[0]['content'][0] }}{{ messages[1].tool_calls | length }}{{ {'items': 1}['items'] }}"),
    ("attr and map of indexes", "tools", "{{ messages[1].tool_calls | map(attribute='function.name') | list }}{{ [[1, 2], [3, 4]] | map(attribute=0) | list }}{{ messages | map(attribute='name', default='-') | list }}"),
    ("selectattr that asks", "tools", "{{ messages | selectattr('tool_calls', 'defined') | list | length }}{{ messages | selectattr('name') | list | length }}{{ messages | rejectattr('content', 'none') | list | length }}{{ messages | map(attribute='role') | select('in', ['tool']) | list }}"),
    ("the clock", "plain", "{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%Y-%m-%d %H:%M:%S %A %j %p %y %B %e') }}|{% if strftime_now is defined %}{{ strftime_now('%-d/%-m') }}{% endif %}"),
    ("with blocks", "plain", "{% with x = 1, y = 2 %}{{ x + y }}{% endwith %}{{ x is defined }}"),
    ("a joiner, a cycler, a dict", "plain", "{% set j = joiner(', ') %}{% for i in [1, 2] %}{{ j() }}{{ i }}{% endfor %}{{ dict(a=1, b='c') }}{% set c = cycler('o', 'e') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}"),
    ("unpacking and swapped sets", "plain", "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}"),
    ("arithmetic with precedence", "plain", "{{ 1 + 2 * 3 - 4 // 3 }}{{ -2 ** 2 }}{{ (loop_index or 3) % 2 }}{{ 1 + messages | length }}{{ 'a' ~ (1 + 1) }}"),
    ("line feeds of other systems", "plain", "a\r\nb{% if true %}\r\nc{% endif %}\r\n"),
    ("an empty text", "plain", ""),
    ("None through filters", "tools", "{{ messages[1].content | trim }}{{ none | upper }}{{ none | string }}{{ none | replace('N', 'x') }}{{ none ~ 'a' }}{{ none | tojson }}{{ [none, 1] | join('-') }}"),
    ("attributes of None", "tools", "{{ none.x }}{{ messages[1].content.x }}{{ (messages[1].content).y is defined }}"),
    ("undefined in operations", "plain", "{% for i in nothing %}x{% endfor %}{{ 'a' in nothing }}{{ nothing | length }}{{ nothing | list }}{{ nothing | first }}|{{ nothing | join }}{{ nothing | trim }}{{ 'a' ~ nothing }}{{ nothing == other }}{{ nothing is string }}{{ not nothing }}{{ nothing | upper }}{{ [nothing] }}"),
    ("a loop seen from a generation block", "plain", EACH + "{% generation %}{{ loop.index }}{% if not loop.last %},{% endif %}{% endgeneration %}" + END),
    ("booleans as numbers", "plain", "{{ true + 1 }}{{ [true, false] | sum }}{{ 'ab'[true] }}"),
    ("numbers in text", "plain", "{{ '%d%%' % 3 }}{{ '%5s|%-5s|' % ('a', 'b') }}{{ '%.3s' % 'abcdef' }}{{ '%e' % 12345.678 }}{{ '%c' % 'x' }}"),
    ("filters on calls and slices", "plain", "{{ messages[0]['content'].strip() | upper }}{{ messages[0]['content'].strip()[:2] | lower }}{{ (messages | first).role }}{{ messages | last | tojson }}"),
    ("products strung together", "plain", "{% set x = 0.5 %}{% set t = 2.5 %}{{ 'n=' ~ 0.5 * 4 }}|{{ 2 * x ~ '!' }}|{{ 'a' ~ t / 2 }}|{{ t // 2 ~ t % 2 ~ 'b' }}|{{ 2 ** -1 ~ 4 * x ** 2 }}|{{ 'c' ~ 2 * 1.5 ~ x * 2 * 2 }}"),
    ("signs and numbers strung together", "plain", "{{ -2.5 ~ -1 }}|{{ 1e-7 ~ 'a' ~ 1.5e+3 * 2 ~ 0x1e }}|{{ 'a' ~ -2 * 1.5 }}|{{ 1_0.5 ~ 1E2 }}"),
    ("strings of everything else", "tools", "{{ 1.0 == 1.0 ~ '' }}{{ 'a' ~ 1 is odd ~ 2.0 }}{{ 'ab' in 'a' ~ 'bc' }}{{ not '' ~ '' }}{{ 'x' ~ 1 if 'a' ~ 'b' else 2 }}{{ [1] * 2 ~ [0.5] }}{{ {'a' ~ 1.0: 'b' ~ (1, 2.0)} }}{{ messages[0].role ~ messages[1].tool_calls[0].function.arguments.scale * 2 }}{{ ('a' ~ 1.0 * 2) | upper ~ 'b' | upper }}"),
    ("a string in a set and in a call", "plain", "{% set x = 'a' ~ 1.5 * 2 %}{{ x }}{{ x.replace('3' ~ '.0', 'b' ~ 0.5 * 2) }}{% for c in 'a' ~ 1.5 * 2 %}{{ c }},{% endfor %}{% if 'a' ~ 1.0 * 1 == 'a1.0' %}y{% endif %}{% with y = 1.0 ~ 2 * 2 %}{{ y }}{% endwith %}{% macro f(a='b' ~ 1.0 * 3) %}{{ a ~ 0.5 * 2 }}{% endmacro %}{{ f() }}{{ f(a=2 * 1.0 ~ '') }}"),
    ("numbers added to a string", "plain", "{{ 1 + 2 ~ 3 }}"),
    ("text added to strings", "plain", "{{ 'a' + 1 ~ 2.0 * 2 + 'b' }}"),
    ("percent in a string", "plain", "{{ 'Day ' ~ '%02d' % 7 }}|{{ '%d' % -1 }}|{{ '%d' % 2 ** 3 }}|{{ '%s' % 'a' * 3 }}|{{ '%s' % '%s' % 3 }}|{{ '%s' % 3 is odd }}|{{ '%.1f' % 2.25 ~ '%s' % [0.5] }}|{{ 'a' + '%s' % 'b' + 'c' }}|{{ '%s-%s' % (1, 'x' ~ 1.0 * 2) }}"),
    ("percent without a value", "plain", "{{ '%s' % }}"),
    ("a string without an end", "plain", "{{ 'a' ~ }}"),
    ("a slice is a list", "tools", "{{ messages[1:] is sequence }}{{ messages[1:] | tojson }}{{ messages[::-1] | tojson }}{{ messages[1:].index(messages[2]) }}{{ messages[::2].count(messages[0]) }}{{ messages[1:] | tojson(indent=1) }}{{ messages[:0] | tojson }}{{ messages[1:][1:] == messages[2:] }}{{ messages[3:] == [messages[3]] }}"),
    ("a sum or product of lists is a list", "plain", "{% set a = [0] %}{{ (a + [1]) is sequence }}{{ (a + [1]) | tojson }}{{ (a * 3) | tojson }}{{ {'k': a + [1]} | tojson }}{{ (a + [1]).index(1) }}{{ (a * 3).count(0) }}{% set ns = namespace(a=[]) %}" + EACH + "{% set ns.a = ns.a + [m.role] %}" + END + "{{ ns.a | tojson }}{{ ns.a is sequence }}{{ ns.a.index('assistant') }}{{ 'a%s' % [ns.a] }}"),
    ("an index that is not in a slice", "plain", "{{ messages[1:].index(messages[0]) }}"),
    ("splits that keep the other end", "plain", "{{ 'a b  '.split(none, 1) | last }}|{{ ' a  b c '.split(none, 1) }}{{ '  a b '.rsplit(none, 1) }}{{ ' a b  c '.rsplit(none, 1) }}{{ ' a b '.split(none, 0) }}{{ ' a b '.rsplit(none, 0) }}{{ 'a  '.split(none, 1) }}{{ ' a'.rsplit(none, 1) }}{{ ' a b c '.split(none, 9) }}{{ ' a b c '.rsplit(none, 9) }}{{ '  '.split(none, 1) }}"),
    ("title of other letters", "plain", "{{ \"they're a1b 3RD o\u2019neil ß xß é_é\".title() }}{{ \"they're\" | title }}{{ ''.title() }}"),
    ("parts of a second", "plain", "{{ strftime_now('%f') }}|{{ strftime_now('%H:%M:%S.%f %%f %%%f') }}"),
    ("a sum of lists in a namespace", "plain", "{% set ns = namespace(all=[]) %}" + EACH + "{% set ns.all = ns.all + [m.role] %}" + END + "{{ ns.all }}{{ ns.all | join }}"),
    ("text and None", "plain", "{{ 'a' + none }}"),
    ("text and a number", "plain", "{{ 'a' + 1 }}"),
    ("text and undefined", "plain", "{{ 'a' + nothing }}"),
    ("the length of None", "plain", "{{ none | length }}"),
    ("an attribute of undefined", "plain", "{{ nothing.x }}"),
    ("a call of undefined", "plain", "{{ nothing() }}"),
    ("a list is not changed", "plain", "{{ messages.append(1) }}"),
    ("tojson of undefined", "plain", "{{ nothing | tojson }}"),
    ("an unknown method", "plain", "{{ 'a'.nothing() }}"),
    ("an unknown filter", "plain", "{{ 'a' | nothing }}"),
    ("an index beyond the end", "plain", "{{ messages[9] }}{{ messages[9] is defined }}"),
    ("an attribute beyond the end", "plain", "{{ messages[9].role }}"),
    ("comments", "plain", "{# a #}b{#- c -#} d {#\n e #}\nf"),
]

WHOLE = [
    ("Llama 2", "plain", "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"),
    ("Llama 3", "system", "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"),
    ("Llama 3.1", "tools", """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message may come first. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{#- System message #}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""),
    ("Qwen 2.5", "tools", """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""),
    ("Qwen 3", "system", """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""),
    ("Mistral", "plain", """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] " ~ (tools | tojson) ~ "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""),
    ("Phi 3", "system", "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"),
    ("ChatML", "plain", "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"),
    ("ChatML with generation", "plain", """{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
        {{- message['content'] + '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
"""),
    ("Gemma", "plain", "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"),
    ("Gemma 3", "parts", """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
"""),
    ("Gemma refuses a system message", "system", "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"),
    ("DeepSeek R1 style", "tools", "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<|User|>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is none %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls']%}{%- if not ns.is_first %}{{'<|Assistant|>' + tool['type'] + '<sep>' + tool['function']['name'] + '\\n' + '```json' + '\\n' + tool['function']['arguments'] | string + '\\n' + '```'}}{%- set ns.is_first = true -%}{%- endif %}{%- endfor %}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{{'<|Assistant|>' + message['content'] + eos_token}}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{{'<out>' + message['content'] + '</out>'}}{%- endif %}{%- endfor -%}"),
]


def golden(name, chat, template):
    case = {"name": name, "chat": chat, "template": template}
    try:
        text = TOKENIZER.apply_chat_template(CHATS[chat], chat_template=template, tokenize=False)
    except Exception as error:
        return {**case, "error": str(error)}
    ids = TOKENIZER.apply_chat_template(CHATS[chat], chat_template=template, return_dict=False)
    return {**case, "text": text, "ids": ids}


cases = [golden(*case) for case in CONSTRUCTS + WHOLE]
print(json.dumps({"now": NOW.strftime("%Y-%m-%dT%H:%M:%S"), "chats": CHATS, "cases": cases}, ensure_ascii=True, indent=1))
