//! Conversion of HTML to text as a person sees it, one line per block. Used for previews and for the index.
//!
//! Uses html5ever's tokenizer, which implements the HTML standard: comments, stray `<` and unclosed tags are handled as in
//! browsers. No tree is built, so memory does not grow with nesting.

use html5ever::TokenizerResult;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};
use std::cell::RefCell;

/// Returns the text of HTML. Blocks, rows and list items become lines, and cells are separated by a space. Scripts, styles and
/// the title are omitted.
pub fn text(html: &str) -> String {
    let sink = Sink(RefCell::new(Text { shown: String::with_capacity(html.len() / 2), ..Text::default() }));
    let tokenizer = Tokenizer::new(sink, TokenizerOpts::default());
    let input = BufferQueue::default();
    input.push_back(StrTendril::from_slice(html));
    // The tokenizer pauses where a browser would run a script.
    while !matches!(tokenizer.feed(&input), TokenizerResult::Done) {}
    tokenizer.end();
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
    /// The element whose content is hidden, until its end tag.
    hidden: Option<&'static str>,
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
    matches!(name, "td" | "th" | "button" | "select" | "textarea" | "input" | "img" | "object" | "video" | "audio" | "rt" | "rp")
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
        if let Some(hidden) = self.hidden {
            if tag.kind == TagKind::EndTag && name == hidden {
                self.hidden = None;
            }
            return TokenSinkResult::Continue;
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
        self.hidden = HIDDEN.into_iter().find(|hidden| *hidden == name);
        match name {
            "title" | "textarea" => TokenSinkResult::RawData(RawKind::Rcdata),
            "style" | "xmp" | "iframe" | "noembed" | "noframes" => TokenSinkResult::RawData(RawKind::Rawtext),
            "script" => TokenSinkResult::RawData(RawKind::ScriptData),
            "plaintext" => TokenSinkResult::Plaintext,
            _ => TokenSinkResult::Continue,
        }
    }
}

impl TokenSink for Sink {
    type Handle = ();

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
    fn deep_nesting_is_handled() {
        let html = format!("{}x{}", "<div>".repeat(200_000), "</div>".repeat(200_000));
        assert_eq!(text(&html), "x");
    }
}
