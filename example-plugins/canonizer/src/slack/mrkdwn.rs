//! Slack's mrkdwn as plain text: what stands between `<` and `>` is resolved, `&amp;`, `&lt;` and `&gt;` are undone. Stars and
//! underscores stay: they are also what people write. Talks to whoever knows [`Names`].

use lorchestra_plugin_api::serde_json::Value;

/// Where the names of ids are.
pub(crate) trait Names {
    fn user(&self, id: &str) -> Option<&str>;
    fn channel(&self, id: &str) -> Option<&str>;
}

/// Arrays and objects inside one another in which text is looked for, at most; Slack has a dozen.
const MAX_DEPTH: usize = 40;

/// The text as a person reads it.
pub(crate) fn plain(text: &str, names: &impl Names) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        unescape(&rest[..start], &mut plain);
        let inside = &rest[start + 1..];
        // People's own are escaped; one that is not closed is text.
        let Some(end) = inside.find(['<', '>']).filter(|&end| inside[end..].starts_with('>')) else {
            plain.push('<');
            rest = inside;
            continue;
        };
        entity(&inside[..end], names, &mut plain);
        rest = &inside[end + 1..];
    }
    unescape(rest, &mut plain);
    plain
}

fn entity(inside: &str, names: &impl Names, plain: &mut String) {
    let (what, label) = match inside.split_once('|') {
        Some((what, label)) => (what, Some(label).filter(|label| !label.is_empty())),
        None => (inside, None),
    };
    let named = |sigil: char, name: &str, plain: &mut String| {
        if !name.starts_with(sigil) {
            plain.push(sigil);
        }
        unescape(name, plain);
    };
    if let Some(id) = what.strip_prefix('@') {
        named('@', label.or_else(|| names.user(id)).unwrap_or(id), plain);
    } else if let Some(id) = what.strip_prefix('#') {
        named('#', label.or_else(|| names.channel(id)).unwrap_or(id), plain);
    } else if let Some(command) = what.strip_prefix('!') {
        match (command.split_once('^'), label) {
            // A date in the reader's own zone, and what to show where there is none.
            (Some(("date", _)), Some(label)) => unescape(label, plain),
            (Some((_, id)), None) => named('@', id, plain),
            (_, Some(label)) => named('@', label, plain),
            (None, None) => named('@', command, plain),
        }
    } else {
        link(what, label, plain);
    }
}

/// The address, and what it was called where that says more.
fn link(url: &str, label: Option<&str>, plain: &mut String) {
    let shown = ["mailto:", "tel:"].iter().find_map(|scheme| url.strip_prefix(scheme)).unwrap_or(url);
    let bare = shown.split_once("://").map_or(shown, |(_, bare)| bare);
    match label {
        Some(label) if label == url || label == shown => unescape(shown, plain),
        Some(label) if label.trim_end_matches('/') == bare.trim_end_matches('/') => unescape(url, plain),
        Some(label) => {
            unescape(label, plain);
            plain.push_str(" (");
            unescape(shown, plain);
            plain.push(')');
        }
        None => unescape(shown, plain),
    }
}

fn unescape(text: &str, plain: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let (sign, escaped) = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;")]
            .into_iter()
            .find(|(_, escaped)| rest.starts_with(escaped))
            .unwrap_or(('&', "&"));
        plain.push(sign);
        rest = &rest[escaped.len()..];
    }
    plain.push_str(rest);
}

/// The texts of a message's blocks, a line each: what bots write that leave `text` empty.
pub(crate) fn of_blocks(blocks: &Value, names: &impl Names) -> String {
    let mut texts = Vec::new();
    collect(blocks, names, MAX_DEPTH, &mut texts);
    texts.join("\n")
}

fn collect(value: &Value, names: &impl Names, depth: usize, texts: &mut Vec<String>) {
    if depth == 0 {
        return;
    }
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, names, depth - 1, texts)),
        Value::Object(object) => {
            let is = |kind: &str| object.get("type").is_some_and(|t| t == kind);
            match object.get("text") {
                Some(Value::String(text)) if is("mrkdwn") => texts.push(plain(text, names)),
                Some(Value::String(text)) => texts.push(text.clone()),
                Some(value) => collect(value, names, depth - 1, texts),
                None => {}
            }
            for name in ["fields", "elements"] {
                if let Some(value) = object.get(name) {
                    collect(value, names, depth - 1, texts);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorchestra_plugin_api::serde_json::json;

    struct Book;

    impl Names for Book {
        fn user(&self, id: &str) -> Option<&str> {
            (id == "U1").then_some("Anna Berg")
        }

        fn channel(&self, id: &str) -> Option<&str> {
            (id == "C1").then_some("general")
        }
    }

    #[test]
    fn entities() {
        for (text, expected) in [
            ("", ""),
            ("plain *bold* _it_ `code`", "plain *bold* _it_ `code`"),
            ("<@U1> and <@U2>, <@U3|ben>, <@W4|@carl>", "@Anna Berg and @U2, @ben, @carl"),
            ("<#C1> <#C2|random> <#C3> <#C1|>", "#general #random #C3 #general"),
            ("<!here> <!channel|channel> <!subteam^S1|@team> <!subteam^S2>", "@here @channel @team @S2"),
            ("<!date^1392734382^{date}^https://x|Feb 18, 2014>", "Feb 18, 2014"),
            ("<https://example.org/?a=1&amp;b=2>", "https://example.org/?a=1&b=2"),
            ("<https://example.org|here &amp; now>", "here & now (https://example.org)"),
            ("<http://example.org/|example.org> <https://x.org|https://x.org>", "http://example.org/ https://x.org"),
            ("<mailto:a@example.org|a@example.org> <mailto:a@example.org|Anna>", "a@example.org Anna (a@example.org)"),
            ("<tel:+4912|+49 12>", "+49 12 (+4912)"),
            ("1 &lt; 2 &amp;&amp; 3 &gt; 2 &amp;lt; &nbsp; &", "1 < 2 && 3 > 2 &lt; &nbsp; &"),
            ("a < b <@U1", "a < b <@U1"),
            ("<<@U1>> <>", "<@Anna Berg> "),
            ("é<@U1>é", "é@Anna Bergé"),
        ] {
            assert_eq!(plain(text, &Book), expected, "{text}");
        }
    }

    #[test]
    fn any_text_is_text() {
        let pieces = ["<", ">", "|", "@", "#", "!", "^", "&", "amp;", "lt;", "U1", "é", "http://", "mailto:", " "];
        for seed in 0..5000_u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut text = String::new();
            for _ in 0..12 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                text.push_str(pieces[(random % pieces.len() as u64) as usize]);
            }
            let shown = plain(&text, &Book);
            if !text.contains(['<', '&']) {
                assert_eq!(shown, text);
            }
        }
    }

    #[test]
    fn blocks() {
        let blocks = json!([
            {"type": "header", "text": {"type": "plain_text", "text": "Build & deploy"}},
            {"type": "section", "text": {"type": "mrkdwn", "text": "by <@U1>"}, "fields": [{"type": "mrkdwn", "text": "*ok*"}]},
            {"type": "divider"},
            {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [{"type": "text", "text": "a < b"}]}]},
        ]);
        assert_eq!(of_blocks(&blocks, &Book), "Build & deploy\nby @Anna Berg\n*ok*\na < b");
        assert_eq!(of_blocks(&json!("x"), &Book), "");
        let deep = (0..100).fold(json!({"text": "x"}), |inner, _| json!([inner]));
        assert_eq!(of_blocks(&deep, &Book), "");
    }
}
