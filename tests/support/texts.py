"""Sentences for the tiny model in tests/golden, and text that has broken translation systems."""

PLAIN = "Two women said that a child bought the book."

EDGE_CASES = [
    *("", " ", "\t", "\u3000", "\r", "a\rb", "\0", "a\0b", "\x1b[31m", "\x07\x08\x7f", "\ufeff", "\ufffe", "\u2028"),
    *("\u2029", "\x85", "\x0b\x0c", "\x1c\x1d", "\ud800", "\udc00\ud800", "\udcff", "a\ud83db", "\U0010ffff"),
    *("?", "...!!!", "---", "\u0300", "e\u0301\u0301", "\ufdfa", "\u202eabc\u202c", "\u200b\u200d", "漢字かな交じり文"),
    *("עברית ועוד", "مرحبا بالعالم", "\U0001f469\u200d\U0001f467\ufe0f", "\U0001f1e9\U0001f1ea", "ß" * 300),
    *("<s>", "</s>", "<pad>", "<unk>", "<pad> <pad> a", "</s> a </s>", "▁", "▁▁ ▁", "@@ @@", "a" * 5000, "a b " * 2000),
    *("${oc.env:HOME}", "%s {} {0}", "H-0\t-1\tx", "S-1\ty", "\\n", "1e999", "NaN"),
]
