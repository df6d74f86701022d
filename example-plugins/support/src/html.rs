//! Conversion of HTML to text as a person sees it, one line per block. Used for previews and for the index.
//!
//! Uses html5ever's tokenizer, which implements the HTML standard: comments, stray `<` and unclosed tags are handled as in
//! browsers. No tree is built, so memory does not grow with nesting.

use html5ever::TokenizerResult;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};
use std::cell::RefCell;

/// Number of bytes of HTML that are converted at once.
const CHUNK: usize = 8 << 10;

/// Returns the text of HTML. Blocks, rows and list items become lines, and cells are separated by a space. Scripts, styles and
/// the title are omitted. As in mail programs, which run no scripts, the content of `<noscript>` is shown.
pub fn text(html: &str) -> String {
    beginning(html, usize::MAX)
}

/// Returns the start of the text of HTML: at least `length` bytes, if there are so many. The rest is not read, so that the time does not
/// depend on its size.
pub fn beginning(html: &str, length: usize) -> String {
    let shown = String::with_capacity((html.len() / 2).min(length));
    let tokenizer = Tokenizer::new(Sink(RefCell::new(Text { shown, ..Text::default() })), TokenizerOpts::default());
    let input = BufferQueue::default();
    let mut rest = html;
    while !rest.is_empty() && tokenizer.sink.0.borrow().shown.len() < length {
        let (chunk, after) = rest.split_at(rest.ceil_char_boundary(CHUNK));
        rest = after;
        input.push_back(StrTendril::from_slice(chunk));
        // The tokenizer pauses where a browser would run a script.
        while !matches!(tokenizer.feed(&input), TokenizerResult::Done) {}
    }
    if rest.is_empty() {
        tokenizer.end();
    }
    let mut shown = tokenizer.sink.0.into_inner().shown;
    shown.truncate(shown.trim_end().len());
    shown
}

struct Sink(RefCell<Text>);

#[derive(Default)]
struct Text {
    shown: String,
    gap: Gap,
    /// Nesting level of `<pre>`.
    preformatted: u32,
    hidden: Option<Hidden>,
    /// Nesting level of `<svg>` and `<math>`, whose elements have other rules.
    foreign: u32,
    /// Such levels around the HTML in each `<foreignObject>`.
    around: Vec<u32>,
}

/// An element with hidden content.
struct Hidden {
    name: &'static str,
    /// Number of levels in which it is nested in itself.
    level: u32,
    is_foreign: bool,
}

/// What to write before the next character.
#[derive(Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    #[default]
    None,
    Blank,
    Line,
}

/// Elements with hidden content.
const HIDDEN: [&str; 7] = ["script", "style", "title", "iframe", "noembed", "noframes", "template"];

/// The same in SVG and MathML.
const HIDDEN_FOREIGN: [&str; 9] =
    ["title", "desc", "metadata", "style", "script", "defs", "symbol", "annotation", "annotation-xml"];

/// Start tags of HTML that end SVG and MathML in which they appear.
fn ends_foreign(name: &str) -> bool {
    is_block(name) && !matches!(name, "title" | "option")
        || matches!(
            name,
            "b" | "big"
                | "code"
                | "em"
                | "embed"
                | "i"
                | "img"
                | "meta"
                | "nobr"
                | "ruby"
                | "s"
                | "small"
                | "span"
                | "strong"
                | "strike"
                | "sub"
                | "sup"
                | "tt"
                | "u"
                | "var"
        )
}

/// Elements that start and end a line.
fn is_block(name: &str) -> bool {
    matches!(
        name,
        "address"
            | "article"
            | "aside"
            | "blockquote"
            | "body"
            | "br"
            | "caption"
            | "center"
            | "dd"
            | "details"
            | "dialog"
            | "dir"
            | "div"
            | "dl"
            | "dt"
            | "fieldset"
            | "figcaption"
            | "figure"
            | "footer"
            | "form"
            | "h1"
            | "h2"
            | "h3"
            | "h4"
            | "h5"
            | "h6"
            | "head"
            | "header"
            | "hgroup"
            | "hr"
            | "html"
            | "legend"
            | "li"
            | "main"
            | "menu"
            | "nav"
            | "ol"
            | "optgroup"
            | "option"
            | "p"
            | "pre"
            | "search"
            | "section"
            | "summary"
            | "table"
            | "tbody"
            | "tfoot"
            | "thead"
            | "tr"
            | "ul"
            | "xmp"
    )
}

/// Elements separated from their surroundings by a space.
fn is_box(name: &str) -> bool {
    matches!(
        name,
        "td" | "th"
            | "button"
            | "select"
            | "textarea"
            | "input"
            | "img"
            | "object"
            | "video"
            | "audio"
            | "rt"
            | "rp"
            | "svg"
            | "text"
    )
}

impl Text {
    fn add(&mut self, text: &str) {
        if self.hidden.is_some() {
            return;
        }
        for c in text.chars() {
            match c {
                '\n' if self.preformatted > 0 => {
                    self.gap = Gap::Line;
                }
                ' ' | '\t' | '\n' | '\r' | '\u{c}' | '\u{a0}' => self.gap = self.gap.max(Gap::Blank),
                c => {
                    if !self.shown.is_empty() {
                        match self.gap {
                            Gap::None => {}
                            Gap::Blank => self.shown.push(' '),
                            Gap::Line => self.shown.push('\n'),
                        }
                    }
                    self.gap = Gap::None;
                    self.shown.push(c);
                }
            }
        }
    }

    fn tag(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        let name: &str = &tag.name;
        if self.is_hidden_after(tag) {
            return TokenSinkResult::Continue;
        }
        if self.foreign > 0 && tag.kind == TagKind::StartTag && ends_foreign(name) {
            self.foreign = 0;
        }
        match (name, tag.kind) {
            ("svg" | "math", TagKind::StartTag) if !tag.self_closing => self.foreign = self.foreign.saturating_add(1),
            ("svg" | "math", TagKind::EndTag) => self.foreign = self.foreign.saturating_sub(1),
            ("foreignobject", TagKind::StartTag) if self.foreign > 0 && !tag.self_closing => {
                self.around.push(std::mem::take(&mut self.foreign));
            }
            ("foreignobject", TagKind::EndTag) => self.foreign = self.around.pop().unwrap_or(self.foreign),
            _ => {}
        }
        if is_block(name) {
            self.gap = Gap::Line;
        } else if is_box(name) {
            self.gap = self.gap.max(Gap::Blank);
        }
        if name == "pre" {
            self.preformatted = match tag.kind {
                TagKind::StartTag => self.preformatted.saturating_add(1),
                TagKind::EndTag => self.preformatted.saturating_sub(1),
            };
        }
        if tag.kind == TagKind::EndTag {
            return TokenSinkResult::Continue;
        }
        let is_foreign = self.foreign > 0;
        // `<style/>` is empty there, and starts a style everywhere else.
        if !(is_foreign && tag.self_closing) {
            let names: &[&str] = if is_foreign { &HIDDEN_FOREIGN } else { &HIDDEN };
            self.hidden = names.iter().find(|hidden| **hidden == name).map(|name| Hidden { name, level: 1, is_foreign });
        }
        match name {
            _ if is_foreign => TokenSinkResult::Continue,
            "title" | "textarea" => TokenSinkResult::RawData(RawKind::Rcdata),
            "style" | "xmp" | "iframe" | "noembed" | "noframes" => TokenSinkResult::RawData(RawKind::Rawtext),
            "script" => TokenSinkResult::RawData(RawKind::ScriptData),
            "plaintext" => TokenSinkResult::Plaintext,
            _ => TokenSinkResult::Continue,
        }
    }
}

impl Text {
    /// Returns whether the content after a tag is hidden, because the tag is inside of a hidden element or ends it.
    fn is_hidden_after(&mut self, tag: &Tag) -> bool {
        let Some(hidden) = &mut self.hidden else { return false };
        let name: &str = &tag.name;
        if hidden.is_foreign && tag.kind == TagKind::EndTag && matches!(name, "svg" | "math") {
            // Elements in it that were not closed end with it.
            self.hidden = None;
            return false;
        }
        if name == hidden.name {
            match tag.kind {
                TagKind::StartTag if hidden.is_foreign && tag.self_closing => {}
                TagKind::StartTag => hidden.level = hidden.level.saturating_add(1),
                TagKind::EndTag => hidden.level -= 1,
            }
            if hidden.level == 0 {
                self.hidden = None;
            }
        }
        true
    }
}

impl TokenSink for Sink {
    type Handle = ();

    /// Whether `<![CDATA[` starts a text, and not a comment.
    fn adjusted_current_node_present_but_not_in_html_namespace(&self) -> bool {
        self.0.borrow().foreign > 0
    }

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut text = self.0.borrow_mut();
        match token {
            Token::CharacterTokens(characters) => text.add(&characters),
            Token::TagToken(tag) => return text.tag(&tag),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cells_and_items_are_separated() {
        for (html, expected) in [
            ("<div>Hello Ben,<div>the invoice</div><div>Regards</div></div>", "Hello Ben,\nthe invoice\nRegards"),
            ("<p><strong>Invoice</strong> number 12</p><p><b>Amount</b> eighty</p>", "Invoice number 12\nAmount eighty"),
            ("Hello<br><b>Room</b> twelve", "Hello\nRoom twelve"),
            ("<table><tr><td>a</td><td>b</td></tr><tr><th>c<td>d</table>e", "a b\nc d\ne"),
            ("<ul><li>one<li>two</ul>three", "one\ntwo\nthree"),
            ("un<b>believ</b>able <i> x </i> y", "unbelievable x y"),
            ("<pre>a\n  b</pre>c", "a\nb\nc"),
            ("a&nbsp;b&auml;&amp;&lt;c&#8364;&copy", "a bä&<c€©"),
            ("<option>red<option>green", "red\ngreen"),
        ] {
            assert_eq!(text(html), expected, "{html}");
        }
    }

    #[test]
    fn comments_tags_and_entities_are_parsed_as_in_browsers() {
        for (html, expected) in [
            ("<p>before</p><!------ Header ------><p>middle</p>", "before\nmiddle"),
            ("<p>one</p><!----><p>two</p>", "one\ntwo"),
            ("<p>x</p><!-- a --- b ---><p>after</p>", "x\nafter"),
            ("a<!-->b<!--->c<!-- d --!>e", "abce"),
            ("<![if !mso]>shown<![endif]><!--[if mso]>not<![endif]-->", "shown"),
            ("1 < 2 and 3 > 2, a<b", "1 < 2 and 3 > 2, a"),
            ("x <3 y </ z> w", "x <3 y w"),
            ("<a title=\"a > b\">link</a>", "link"),
            ("<style>p > a { color: red }</style>x<script>if (a < b) '</p>'</script>y", "xy"),
            ("<title>not &amp; this</title>shown<textarea><b>as it is</b></textarea>", "shown <b>as it is</b>"),
            ("never <!-- closed", "never"),
            ("cut <a href=", "cut"),
            ("", ""),
        ] {
            assert_eq!(text(html), expected, "{html}");
        }
    }

    #[test]
    fn content_that_browsers_do_not_show_is_hidden_and_nothing_else() {
        for (html, expected) in [
            ("<noscript>see <b>this</b></noscript> too", "see this too"),
            ("a<template>b<template>c</template>d</template>e", "ae"),
            ("<p>a<svg><title>b</title><style>c { }</style><text>d</text><text>e</text></svg>f", "a d e f"),
            // Elements that are empty in SVG do not hide the rest of the mail.
            ("a<svg><title/><style/><script/><desc/></svg>b", "a b"),
            ("<svg><style>a<b></svg>b", "b"),
            ("<svg/>a<title>b</title>c", "ac"),
            ("<svg><text><![CDATA[a < b]]></text></svg>", "a < b"),
            ("<svg><defs><text>a</text></defs><symbol>b</symbol><p>c</p><title>d</title>e", "c\ne"),
            ("<svg><foreignObject><div>a</div><title>b</title></foreignObject><title/><text>c", "a\nc"),
            ("<math><mi>x</mi><mo>=</mo><mn>1</mn><annotation>x=1</annotation></math>", "x=1"),
            ("<math><semantics><mi>y</mi><annotation-xml><ci>y</ci></annotation-xml></semantics></math>z", "yz"),
        ] {
            assert_eq!(text(html), expected, "{html}");
        }
    }

    #[test]
    fn a_beginning_is_that_of_the_whole_text() {
        let html =
            format!("<style>{}</style>{}", "p { color: red } ".repeat(10_000), "<p>Gr&uuml;ße &amp; <b>mehr</b> ".repeat(5_000));
        let whole = text(&html);
        assert_eq!(whole.lines().count(), 5_000);
        for length in [0, 1, 256, 10_000] {
            let beginning = beginning(&html, length);
            assert!(whole.starts_with(&beginning) && beginning.len() >= length && beginning.len() <= length + CHUNK, "{length}");
        }
        assert_eq!(beginning(&html, whole.len() + 1), whole);
    }

    #[test]
    fn deep_nesting_is_handled() {
        let html = format!("{}x{}", "<div>".repeat(200_000), "</div>".repeat(200_000));
        assert_eq!(text(&html), "x");
    }
}
