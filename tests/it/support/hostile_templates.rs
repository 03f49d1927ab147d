//! Chat templates that ask for more than a chat needs: work, memory, text, depth.

/// Templates that must be refused: what each is, and its text.
pub fn refused() -> Vec<(&'static str, String)> {
    let grow = |step: &str| {
        format!("{{% set ns = namespace(x='aaaaaaaa', l=[1], d={{}}) %}}{{% for i in range(99999) %}}{step}{{% endfor %}}")
    };
    let million = "{% set a = 'a' * 1000000 %}";
    let text = [
        ("nested ranges", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".to_owned()),
        ("nested ranges that write", "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}".to_owned()),
        ("three ranges", "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) %}{{ i }}{% endfor %}{% endfor %}{% endfor %}".to_owned()),
        ("a doubling text", grow("{% set ns.x = ns.x + ns.x %}")),
        ("a doubling text by tildes", grow("{% set ns.x = ns.x ~ ns.x %}")),
        ("a doubling list", grow("{% set ns.l = ns.l + ns.l %}")),
        ("a text times ten", grow("{% set ns.x = ns.x * 10 %}")),
        ("a list times ten", grow("{% set ns.l = ns.l * 10 %}")),
        ("a doubling block", grow("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}")),
        ("a doubling join", grow("{% set ns.x = ns.x | join(ns.x) %}")),
        ("a doubling joining method", grow("{% set ns.x = ns.x.join([ns.x, ns.x]) %}")),
        ("a doubling format", grow("{% set ns.x = '%s%s' | format(ns.x, ns.x) %}")),
        ("a doubling formatting method", grow("{% set ns.x = '{0}{0}'.format(ns.x) %}")),
        ("a doubling percent", grow("{% set ns.x = '%s%s' % (ns.x, ns.x) %}")),
        ("a doubling replace", grow("{% set ns.x = ns.x | replace('a', 'aa') %}")),
        ("a doubling replacing method", grow("{% set ns.x = ns.x.replace('a', 'aa') %}")),
        ("a replace of a million by a million", format!("{million}{{{{ (a | replace('a', a)) | length }}}}")),
        ("a replacing method of a million by a million", format!("{million}{{{{ a.replace('a', a) | length }}}}")),
        ("a join of a million by a million", format!("{million}{{{{ a | join(a) | length }}}}")),
        ("a joining method of a million by a million", format!("{million}{{{{ a.join(a | list) | length }}}}")),
        ("a split to a hundred million", "{% set a = 'a ' * 49999999 %}{{ a.split() | length }}{{ a.split(' ') | length }}".to_owned()),
        ("an indent of a million lines by a million", "{% set a = 'a\n' * 1000000 %}{{ (a | indent(1000000)) | length }}".to_owned()),
        ("a wide format", "{{ '%1000000000d' | format(1) }}{{ '%1000000000d' | format(1) }}{{ '%1000000000d' | format(1) }}".to_owned()),
        ("a precise format", "{{ '%.1000000000f' | format(1.5) }}".to_owned()),
        ("a wide format by an argument", "{{ '%*d' | format(1000000000, 1) }}".to_owned()),
        ("a wide formatting method", "{{ '{:>1000000000}'.format(1) }}".to_owned()),
        ("a wide formatting method by an argument", "{{ '{:>{}}'.format(1, 1000000000) }}".to_owned()),
        ("a wide percent", "{{ '%1000000000s' % 'a' }}".to_owned()),
        ("wide methods", "{{ 'a'.center(1000000000) }}{{ 'a'.ljust(1000000000) }}{{ '1'.zfill(1000000000) }}".to_owned()),
        ("a wide indent of JSON", "{{ messages | tojson(indent=1000000000) }}".to_owned()),
        ("an indent of JSON of a hundred million", "{{ messages | tojson(indent=99999999) }}".to_owned()),
        ("JSON of a list in itself twice, sixty times", grow("{% set ns.l = [ns.l, ns.l] %}{% if i > 60 %}{{ ns.l | tojson }}{% endif %}")),
        ("a print of a list in itself twice, sixty times", grow("{% set ns.l = [ns.l, ns.l] %}{% if i > 60 %}{{ ns.l }}{% endif %}")),
        ("a text of a list in itself twice, sixty times", grow("{% set ns.l = [ns.l, ns.l] %}{% if i > 60 %}{{ ns.l ~ 'a' }}{% endif %}")),
        ("JSON of a deep list", grow("{% set ns.l = [ns.l] %}") + "{{ ns.l | tojson }}"),
        ("a print of a deep list", grow("{% set ns.l = [ns.l] %}") + "{{ ns.l }}"),
        ("a macro that calls itself", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}".to_owned()),
        ("a macro that calls itself twice", "{% macro f(x) %}{% if x %}{{ f(x - 1) }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(60) }}".to_owned()),
        ("a recursive loop", "{% for m in [messages] recursive %}{{ loop([messages]) }}{% endfor %}".to_owned()),
        ("a sum of lists", "{% set l = [1] * 999999 %}{{ ([l] * 99999) | sum(start=[]) | length }}".to_owned()),
        ("a doubling sum", grow("{% set ns.l = [ns.l, ns.l] | sum(start=[]) %}")),
        ("a doubling list on the right", grow("{% set ns.l = [0] * 0 + ns.l * 1 + 1 * ns.l %}")),
        ("a batch with a filler", "{{ [1] | batch(1000000000, 'x') | length }}".to_owned()),
        ("a billion slices", "{{ [1] | slice(1000000000) | length }}".to_owned()),
        ("powers", grow("{% set ns.x = 9 ** 99999 %}")),
        ("a comparison of twins, sixty times", grow("{% set ns.l = [ns.l, ns.l] %}{% set ns.d = [ns.d, ns.d] %}{% if i > 60 and ns.l == ns.d %}x{% endif %}")),
        ("a slice backwards", "{% set a = [1] * 99999999 %}{% for i in range(99999) %}{% set b = a[::-1] %}{% endfor %}".to_owned()),
        ("a template beyond the limit", "a".repeat((64 << 10) + 1)),
        ("a raised text of a hundred million", "{% set a = 'a' * 99999999 %}{{ raise_exception(a) }}".to_owned()),
        ("text beyond the limit", "{{ 'a' * 99999999 }}".to_owned()),
    ];
    text.into_iter().collect()
}

/// Chains as long as a template may be: each is rendered or refused.
pub fn chains() -> Vec<(&'static str, String)> {
    let most = 64 << 10;
    let chain = |before: &str, link: &str, middle: &str, back: &str, after: &str| {
        let links = (most - before.len() - middle.len() - after.len()) / (link.len() + back.len());
        format!("{before}{}{middle}{}{after}", link.repeat(links), back.repeat(links))
    };
    vec![
        ("signs", chain("{{ ", "-", "1", "", " }}")),
        ("negations", chain("{{ ", "not ", "1", "", " }}")),
        ("sums", chain("{{ ", "1+", "1", "", " }}")),
        ("powers", chain("{{ ", "1**", "1", "", " }}")),
        ("comparisons", chain("{{ ", "1<", "1", "", " }}")),
        ("tildes", chain("{{ ", "1~", "1", "", " }}")),
        ("or", chain("{{ ", "0 or ", "1", "", " }}")),
        ("attributes", chain("{{ messages", ".a", "", "", " }}")),
        ("indexes", chain("{{ messages", "[0]", "", "", " }}")),
        ("calls", chain("{{ namespace", "()", "", "", " }}")),
        ("filters", chain("{{ 1", "|abs", "", "", " }}")),
        ("tests", chain("{{ 1", " is odd", "", "", " }}")),
        ("conditions", chain("{{ ", "1 if 1 else ", "1", "", " }}")),
        ("elif", chain("{% if 0 %}", "{% elif 0 %}", "", "", "{% endif %}")),
        ("brackets", chain("{{ ", "(", "1", ")", " }}")),
        ("lists", chain("{{ ", "[", "1", "]", " }}")),
        ("blocks", chain("", "{% if 1 %}", "x", "{% endif %}", "")),
        ("loops", chain("", "{% for i in [1] %}", "x", "{% endfor %}", "")),
        ("generations", chain("", "{% generation %}", "x", "{% endgeneration %}", "")),
        ("macros", chain("", "{% macro f() %}", "x", "{% endmacro %}", "")),
        ("percents", chain("{{ '%s'", "%'%s'", "", "", " }}")),
    ]
}
