//! Parsing of many forms of messages.

use super::*;

/// The tree in one line: types, and the decoded text of leaves.
fn shape(part: &Part<'_>) -> String {
    match &part.body {
        Body::Leaf(content) => {
            format!("{}={:?}", part.media_type.name(), String::from_utf8_lossy(&content.decode().value))
        }
        Body::Elsewhere { size, .. } => format!("{}={size} bytes", part.media_type.name()),
        Body::Parts(parts) => {
            format!("{}[{}]", part.media_type.name(), parts.iter().map(shape).collect::<Vec<_>>().join(" "))
        }
    }
}

fn of(text: &str) -> String {
    shape(&Part::parse(text.as_bytes()).unwrap())
}

const TWO: &str =
    "Content-Type: multipart/mixed; boundary=b\n\npreamble\n--b\n\none\n--b\nContent-Type: text/html\n\ntwo\n\n--b--\nepilogue\n";

#[test]
fn parts_lose_the_line_end_before_the_delimiter_only() {
    assert_eq!(of(TWO), r#"multipart/mixed[text/plain="one" text/html="two\n"]"#);
    assert_eq!(of(&TWO.replace('\n', "\r\n")), r#"multipart/mixed[text/plain="one" text/html="two\r\n"]"#);
}

#[test]
fn only_whole_lines_are_delimiters() {
    let text =
        "Content-Type: multipart/mixed; boundary=\"a\"\n\n--a \t\n\nx --a\n--aa\n--a-\n --a\n--a--b\n--a\n\ny\n--a--  \n--a\n\nz";
    assert_eq!(of(text), r#"multipart/mixed[text/plain="x --a\n--aa\n--a-\n --a\n--a--b" text/plain="y"]"#);
}

#[test]
fn an_inner_multipart_ends_where_the_outer_part_ends() {
    let text = "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: multipart/mixed; boundary=i\n\n--i\n\nin\n--o\n\nout\n--o--\n";
    assert_eq!(of(text), r#"multipart/mixed[multipart/mixed[text/plain="in"] text/plain="out"]"#);
}

#[test]
fn an_invalid_multipart_is_text() {
    for header in ["multipart/mixed", "multipart/mixed; boundary=\"\"", "multipart/mixed; boundary=other"] {
        let text = format!("Content-Type: {header}\n\n--b\n\none\n--b--\n");
        assert_eq!(of(&text), r#"text/plain="--b\n\none\n--b--\n""#, "{header}");
    }
    assert_eq!(of("Content-Type: multipart/mixed; boundary=b\n\n--b--\n"), r#"text/plain="--b--\n""#);
    assert_eq!(of("Content-Type: multipart/mixed; boundary=b"), r#"text/plain="""#);
}

#[test]
fn in_a_digest_the_parts_are_messages() {
    let text =
        "Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\n\none\n--b\nContent-Type: text/plain\n\ntwo\n--b--\n";
    assert_eq!(of(text), r#"multipart/digest[message/rfc822="Subject: x\n\none" text/plain="two"]"#);
}

#[test]
fn every_prefix_of_a_multipart_is_a_message() {
    let inner = TWO.replace("boundary=b", "boundary=i").replace("--b", "--i");
    let whole = format!(
        "Subject: x\nContent-Type: multipart/mixed; boundary=o\n\n--o\n{inner}\n--o\nContent-Type: application/pdf\n\
         Content-Transfer-Encoding: base64\n\nSGVsbG8=\n--o\nContent-Transfer-Encoding: quoted-printable\n\na=3Db=\n--o--\n"
    );
    for text in [whole.clone(), whole.replace('\n', "\r\n")] {
        for cut in 0..=text.len() {
            let part = Part::parse(&text.as_bytes()[..cut]).unwrap();
            let shape = shape(&part);
            if cut == text.len() {
                assert!(shape.ends_with(r#"application/pdf="Hello" text/plain="a=b"]"#), "{shape}");
            }
        }
    }
}

fn nested(depth: usize, kind: &str) -> String {
    let mut text = String::new();
    for i in 0..depth {
        text.push_str(&format!("Content-Type: multipart/{kind}; boundary=b{i}x\n\n--b{i}x\n"));
    }
    text.push_str("\nbottom\n");
    for i in (0..depth).rev() {
        text.push_str(&format!("--b{i}x--\n"));
    }
    text
}

#[test]
fn fifty_levels_are_accepted_and_a_hundred_thousand_refused() {
    let text = nested(50, "mixed");
    let mut part = Part::parse(text.as_bytes()).unwrap();
    let mut depth = 0;
    while let Body::Parts(mut parts) = part.body {
        depth += 1;
        part = parts.remove(0);
    }
    assert_eq!((depth, shape(&part).as_str()), (50, r#"text/plain="bottom""#));
    assert!(Part::parse(nested(MAX_DEPTH, "mixed").as_bytes()).is_ok());
    assert_eq!(Part::parse(nested(MAX_DEPTH + 1, "mixed").as_bytes()).unwrap_err(), Refusal::NestedTooDeep);
    assert_eq!(Part::parse(nested(10_000, "alternative").as_bytes()).unwrap_err(), Refusal::NestedTooDeep);
}

/// The mail that aborts the process if mail-parser builds the tree.
#[test]
fn messages_within_messages_are_one_leaf() {
    let text = "Content-Type: message/rfc822\n\n".repeat(100_000) + "Subject: x\n\nbody\n";
    let part = Part::parse(text.as_bytes()).unwrap();
    let Body::Leaf(content) = &part.body else { panic!("not a leaf") };
    assert_eq!(part.media_type.name(), "message/rfc822");
    assert_eq!(content.decode().value.len(), text.len() - "Content-Type: message/rfc822\n\n".len());
}

#[test]
fn a_million_parts_are_refused() {
    let text = "Content-Type: multipart/mixed; boundary=b\n\n".to_owned() + &"--b\n\n".repeat(1_000_000);
    assert_eq!(Part::parse(text.as_bytes()).unwrap_err(), Refusal::TooManyParts);
}

#[test]
fn any_bytes_are_a_message() {
    let pieces: [&[u8]; 16] = [
        b"\n",
        b"\r\n",
        b"--b",
        b"--b\n",
        b"--b--",
        b"Content-Type: ",
        b"multipart/mixed; boundary=b\n",
        b"message/rfc822\n",
        b":",
        b" ",
        b"\0",
        b"\xff\xfe",
        b"=?utf-8?q?=C3",
        b"base64",
        b"Content-Transfer-Encoding: quoted-printable\n",
        b"a",
    ];
    for seed in 0..3000_u64 {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut raw = b"Content-Type: multipart/mixed; boundary=b\n".to_vec();
        for _ in 0..40 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            raw.extend_from_slice(pieces[(random % pieces.len() as u64) as usize]);
        }
        let part = Part::parse(&raw).unwrap();
        for name in ["Subject", "Content-Type", "Date"] {
            let headers = &part.headers;
            drop((headers.text(name), headers.ids(name), headers.date(name), headers.addresses(name), headers.media_type(name)));
        }
        assert!(!shape(&part).is_empty(), "seed {seed}");
    }
}

/// For well-formed mail, mail-parser's tree and this one have the same leaves.
#[test]
fn the_samples_have_the_leaves_that_mail_parser_sees() {
    fn leaves<'p, 'a>(part: &'p Part<'a>, found: &mut Vec<&'p Content<'a>>) {
        match &part.body {
            Body::Leaf(content) => found.push(content),
            Body::Parts(parts) => parts.iter().for_each(|part| leaves(part, found)),
            Body::Elsewhere { .. } => {}
        }
    }
    let samples = crate::canonicalization::tests::samples();
    let mut compared = 0;
    // Well-formed, with all text in UTF-8 (mail-parser returns decoded text), without nested messages.
    for number in [3, 4, 5] {
        let raw = &samples[number - 1];
        let part = Part::parse(raw).unwrap();
        let mut ours = Vec::new();
        leaves(&part, &mut ours);
        let theirs = mail_parser::MessageParser::default().parse(raw.as_slice()).unwrap();
        let theirs: Vec<_> = theirs.parts.iter().filter(|part| part.sub_parts().is_none()).collect();
        assert_eq!(ours.len(), theirs.len(), "message {number}");
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert_eq!(ours.decode().value, theirs.contents(), "message {number}");
            compared += 1;
        }
    }
    assert_eq!(compared, 7);
}
