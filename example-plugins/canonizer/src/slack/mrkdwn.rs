//! Conversion of Slack's mrkdwn to plain text: resolves `<…>`, and unescapes `&amp;`, `&lt;` and `&gt;`. Keeps stars and
//! underscores, because people also write them as text. [`Names`] provides the names.

use lorchestra_plugin_api::serde_json::Value;

/// Access to names by id.
pub(crate) trait Names {
    fn user(&self, id: &str) -> Option<&str>;
    fn channel(&self, id: &str) -> Option<&str>;
}

/// Maximum nesting in which text is searched for. Slack uses about a dozen levels.
const MAX_DEPTH: usize = 40;

/// Returns the text as a person reads it.
pub(crate) fn plain(text: &str, names: &impl Names) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        unescape(&rest[..start], &mut plain);
        let inside = &rest[start + 1..];
        // Users' own `<` are escaped; one that is not closed is text.
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
            // A date in the reader's time zone, with a fallback text.
            (Some(("date", _)), Some(label)) => unescape(label, plain),
            (Some((_, id)), None) => named('@', id, plain),
            (_, Some(label)) => named('@', label, plain),
            (None, None) => named('@', command, plain),
        }
    } else {
        link(what, label, plain);
    }
}

/// The URL, with its label if that adds information.
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

/// Returns the texts of a message's blocks, one line each.
pub(crate) fn of_blocks(blocks: &Value, names: &impl Names) -> String {
    let mut texts = Vec::new();
    collect(blocks, names, MAX_DEPTH, &mut texts);
    texts.join("\n")
}

/// Returns a text with those lines of its blocks that it does not include yet. Slack's own clients write the same text twice;
/// many bots write a placeholder as the text, and the content in blocks.
pub(crate) fn with_blocks(text: String, blocks: &str) -> String {
    let known = words(&text);
    let known_letters = known.concat();
    let mut all = text;
    for line in blocks.lines() {
        let words = words(line);
        let letters = words.concat();
        // Formatting may split words differently. A short line, such as a number, may be a part of another word.
        let is_known = (letters.chars().count() >= LONG_LINE && known_letters.contains(&letters))
            || known.windows(words.len().max(1)).any(|window| window == words);
        if !letters.is_empty() && !is_known {
            if !all.is_empty() {
                all.push('\n');
            }
            all.push_str(line);
        }
    }
    all
}

/// Number of letters from which a line is compared without the borders of its words.
const LONG_LINE: usize = 12;

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

fn collect(value: &Value, names: &impl Names, depth: usize, texts: &mut Vec<String>) {
    if depth == 0 {
        return;
    }
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, names, depth - 1, texts)),
        Value::Object(object) => {
            let kind = object.get("type").and_then(Value::as_str).unwrap_or_default();
            if matches!(kind, "rich_text_section" | "rich_text_quote" | "rich_text_preformatted") {
                let mut line = String::new();
                for element in object.get("elements").and_then(Value::as_array).into_iter().flatten() {
                    inline(element, names, &mut line);
                }
                texts.push(line);
                return;
            }
            for name in ["title", "text", "fields", "elements", "rows", "accessory", "description", "alt_text"] {
                match object.get(name) {
                    Some(Value::String(text)) if kind == "mrkdwn" => texts.push(plain(text, names)),
                    Some(Value::String(text)) => texts.push(text.clone()),
                    Some(value) => collect(value, names, depth - 1, texts),
                    None => {}
                }
            }
        }
        _ => {}
    }
}

/// Appends a piece of rich text to its line.
fn inline(element: &Value, names: &impl Names, line: &mut String) {
    let get = |name: &str| element.get(name).and_then(Value::as_str);
    let sigil = |sigil: char, id: Option<&str>, name: Option<&str>, line: &mut String| {
        if let Some(shown) = name.or(id) {
            line.push(sigil);
            line.push_str(shown.trim_start_matches(sigil));
        }
    };
    match get("type").unwrap_or_default() {
        "link" => link(get("url").unwrap_or_default(), get("text").filter(|text| !text.is_empty()), line),
        "user" => sigil('@', get("user_id"), get("user_id").and_then(|id| names.user(id)), line),
        "channel" => sigil('#', get("channel_id"), get("channel_id").and_then(|id| names.channel(id)), line),
        "usergroup" => sigil('@', get("usergroup_id"), None, line),
        "broadcast" => sigil('@', get("range"), None, line),
        "emoji" => {
            if let Some(name) = get("name") {
                line.push_str(&format!(":{name}:"));
            }
        }
        "date" => line.push_str(get("fallback").unwrap_or_default()),
        "color" => line.push_str(get("value").unwrap_or_default()),
        _ => line.push_str(get("text").unwrap_or_default()),
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
    fn any_text_can_be_converted() {
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
    fn blocks_add_what_the_text_lacks() {
        for (text, blocks, expected) in [
            ("*Hello* you", "Hello you", "*Hello* you"),
            ("", "Hello", "Hello"),
            ("This content can't be displayed.", "On *Tapir* street", "This content can't be displayed.\nOn *Tapir* street"),
            ("one\nтри", "one\ntwo\nТРИ\n---", "one\nтри\ntwo"),
            // Words, not letters; but a long line may be split into words in another way.
            ("14 on Monday, we start", "4\non\nart\nday", "14 on Monday, we start\n4\nart\nday"),
            ("the quick brown fox", "thequick-brown", "the quick brown fox"),
        ] {
            assert_eq!(with_blocks(text.into(), blocks), expected);
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
        let rich = json!([{"type": "rich_text", "elements": [
            {"type": "rich_text_section", "elements": [
                {"type": "text", "text": "see "}, {"type": "link", "url": "https://example.org/plan", "text": "the plan"},
                {"type": "text", "text": " by "}, {"type": "user", "user_id": "U1"}, {"type": "text", "text": " in "},
                {"type": "channel", "channel_id": "C1"}, {"type": "emoji", "name": "tada"}, {"type": "broadcast", "range": "here"},
            ]},
            {"type": "rich_text_list", "elements": [
                {"type": "rich_text_section", "elements": [{"type": "text", "text": "one"}]},
                {"type": "rich_text_section", "elements": [{"type": "user", "user_id": "U9"}]},
            ]},
        ]}, {"type": "image", "title": {"type": "plain_text", "text": "Chart"}, "alt_text": "a chart of okapis"}]);
        let text =
            "see the plan (https://example.org/plan) by @Anna Berg in #general:tada:@here\none\n@U9\nChart\na chart of okapis";
        assert_eq!(of_blocks(&rich, &Book), text);
        assert_eq!(of_blocks(&blocks, &Book), "Build & deploy\nby @Anna Berg\n*ok*\na < b");
        assert_eq!(of_blocks(&json!("x"), &Book), "");
        let deep = (0..100).fold(json!({"text": "x"}), |inner, _| json!([inner]));
        assert_eq!(of_blocks(&deep, &Book), "");
    }
}
