//! The text of a calendar invitation (iCalendar, RFC 5545) that people would search for: title, place and people.
//!
//! Not a parser of calendars: it takes the values of some properties at any position.

/// Properties whose values are text.
const TEXTS: [&str; 5] = ["SUMMARY", "LOCATION", "DESCRIPTION", "COMMENT", "CATEGORIES"];
/// Properties of people, whose names are in the parameter `CN`.
const PEOPLE: [&str; 2] = ["ORGANIZER", "ATTENDEE"];

/// Returns the texts of a calendar, one to a line.
pub(crate) fn text(calendar: &str) -> String {
    // A line that starts with a blank continues the one before it.
    let unfolded = calendar.replace("\r\n", "\n").replace("\n ", "").replace("\n\t", "");
    let mut lines: Vec<String> = Vec::new();
    for line in unfolded.lines() {
        let Some((property, value)) = split(line) else { continue };
        let (name, parameters) = property.split_once(';').unwrap_or((property, ""));
        let is_one_of = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known));
        let found = if is_one_of(&TEXTS) {
            unescaped(value)
        } else if is_one_of(&PEOPLE) {
            let common = parameters.split(';').find_map(|parameter| parameter.strip_prefix("CN="));
            let address = value.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("mailto:")).map_or("", |_| &value[7..]);
            format!("{} {address}", common.unwrap_or_default().trim_matches('"'))
        } else {
            continue;
        };
        let found = found.trim().to_owned();
        // The time zones and alarms of an invitation repeat its texts.
        if !found.is_empty() && !lines.contains(&found) {
            lines.push(found);
        }
    }
    lines.join("\n")
}

/// Splits a line at the colon before its value: not one in a quoted parameter.
fn split(line: &str) -> Option<(&str, &str)> {
    let mut is_quoted = false;
    let colon = line.bytes().position(|byte| {
        is_quoted ^= byte == b'"';
        byte == b':' && !is_quoted
    })?;
    Some((&line[..colon], &line[colon + 1..]))
}

fn unescaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut escaped = false;
    for c in value.chars() {
        match c {
            'n' | 'N' if escaped => text.push(' '),
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            c => text.push(c),
        }
        escaped = false;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn title_place_and_people_are_extracted() {
        let calendar = "BEGIN:VCALENDAR\r\nPRODID:-//x//y\r\nBEGIN:VEVENT\r\nSUMMARY;LANGUAGE=de:Quartals\r\n planung\\, Teil 2\r\n\
                        LOCATION:Raum Zugspitze\r\nDESCRIPTION:Zahlen\\nund Ziele\r\n\
                        ORGANIZER;CN=\"Berg: Anna\":mailto:anna@example.org\r\nATTENDEE;ROLE=REQ;CN=Ben:MAILTO:ben@example.com\r\n\
                        DTSTART:20240105T100000Z\r\nBEGIN:VALARM\r\nDESCRIPTION:Zahlen\\nund Ziele\r\nEND:VALARM\r\nEND:VEVENT\r\n";
        assert_eq!(
            text(calendar),
            "Quartalsplanung, Teil 2\nRaum Zugspitze\nZahlen und Ziele\nBerg: Anna anna@example.org\nBen ben@example.com"
        );
        assert_eq!(text("no calendar"), "");
    }
}
