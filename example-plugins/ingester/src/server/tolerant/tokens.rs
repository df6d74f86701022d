//! The framing of responses, and their tokens: lines, literals, and what is between blanks and parentheses. Reads any bytes, and never fails.

/// Returns the text of a response without its literals.
pub(super) fn outside_literals(answer: &[u8]) -> Vec<u8> {
    pieces(answer).into_iter().flat_map(|(line, _)| line).copied().collect()
}

/// Splits a response into lines, each with the literal that it announces.
pub(super) fn pieces(answer: &[u8]) -> Vec<(&[u8], Option<&[u8]>)> {
    let mut pieces = Vec::new();
    let mut rest = answer;
    while !rest.is_empty() {
        let end = rest.iter().position(|&b| b == b'\n').map_or(rest.len(), |at| at + 1);
        let (line, after) = rest.split_at(end);
        let size = literal(line).and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= after.len());
        pieces.push((line, size.map(|size| &after[..size])));
        rest = &after[size.unwrap_or(0)..];
    }
    pieces
}

/// Human-readable responses may end like a literal.
pub(super) fn may_have_literals(line: &[u8]) -> bool {
    line.starts_with(b"* ")
        && !["OK", "NO", "BAD", "BYE", "PREAUTH"].iter().any(|status| {
            line.get(2..2 + status.len()).is_some_and(|word| word.eq_ignore_ascii_case(status.as_bytes()))
                && line.get(2 + status.len()).is_none_or(u8::is_ascii_whitespace)
        })
}

/// Returns the size of the literal that a line announces.
pub(super) fn literal(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line).strip_suffix(b"}")?;
    let at = line.iter().rposition(|&b| b == b'{')?;
    std::str::from_utf8(&line[at + 1..]).ok()?.trim_end_matches('+').parse().ok()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Open,
    Close,
    Atom(&'a [u8]),
    /// A quoted string or a literal.
    Text(Vec<u8>),
}

/// Splits a response into tokens, whatever their characters are.
pub(super) fn tokens(answer: &[u8]) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = answer;
    while let Some((&byte, tail)) = rest.split_first() {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => rest = tail,
            b'(' | b')' => {
                tokens.push(if byte == b'(' { Token::Open } else { Token::Close });
                rest = tail;
            }
            b'"' => {
                let (text, after) = quoted(tail);
                tokens.push(Token::Text(text));
                rest = after;
            }
            b'{' if let Some((text, after)) = literal_at(rest) => {
                tokens.push(Token::Text(text.to_vec()));
                rest = after;
            }
            _ => {
                let is_end = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b'(' | b')');
                let mut end = rest.iter().position(is_end).unwrap_or(rest.len());
                // `BODY[HEADER.FIELDS (DATE)]`
                if rest[..end].to_ascii_uppercase().starts_with(b"BODY[")
                    && let Some(close) = rest.iter().position(|&b| b == b']')
                {
                    end = end.max(close + 1);
                }
                tokens.push(Token::Atom(&rest[..end]));
                rest = &rest[end..];
            }
        }
    }
    tokens
}

pub(super) fn quoted(rest: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut text = Vec::new();
    let mut i = 0;
    while let Some(&byte) = rest.get(i) {
        match byte {
            b'"' => return (text, &rest[i + 1..]),
            // Not closed: it ends with the line.
            b'\r' | b'\n' => break,
            b'\\' if i + 1 < rest.len() => {
                text.push(rest[i + 1]);
                i += 1;
            }
            _ => text.push(byte),
        }
        i += 1;
    }
    (text, &rest[i..])
}

fn literal_at(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = rest.iter().position(|&b| b == b'\n')?;
    let size = usize::try_from(literal(&rest[..=end])?).ok()?;
    Some((rest.get(end + 1..end + 1 + size)?, &rest[end + 1 + size..]))
}
