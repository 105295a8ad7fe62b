//! JSON string literals.

use super::habit::{Habit, Habits};
use super::literal::{
    CONTROL, DELETE, Found, MARKUP, MAY_BE_LINE, MAY_BE_SURROGATE, NOT_ASCII, hex, plain_run, push_front,
    push_surrogate, surrogate_at,
};
use memchr::memchr_iter;

const ASCII: Habits = Habits::only(Habit::JsonAscii);
const PDATA: Habits = Habits::only(Habit::JsonPdata).or(Habits::only(Habit::JsonHtmlOld));
const HTML: Habits = Habits::only(Habit::JsonHtml).or(Habits::only(Habit::JsonHtmlOld));
const LONE: Habits = Habits::only(Habit::Json).or(ASCII);

/// Finds the end of the literal that begins behind the quote at `text`'s front, and decodes it into `out`; `None` if no
/// quote ends it.
pub fn find(text: &[u8], out: &mut Vec<u8>) -> Option<Found> {
    let (first, seen) = plain_run(text, b'"', |_, _| {})?;
    if text[first] == b'"' {
        return Some(Found { length: first, habits: raw(&text[..first], seen, Habits::JSON), escaped: false });
    }
    out.clear();
    out.extend_from_slice(&text[..first]);
    let (mut habits, mut at) = (raw(&text[..first], seen, Habits::JSON), first);
    // Here `text[at]` is a backslash or the closing quote.
    while text[at] != b'"' {
        let (size, allowed) = escape(&text[at..], out)?;
        let start = at + size;
        let (length, seen) = plain_run(&text[start..], b'"', |bytes, length| push_front(bytes, length, out))?;
        at = start + length;
        habits = raw(&text[start..at], seen, habits.and(allowed));
    }
    Some(Found { length: at, habits, escaped: true })
}

/// Reads the escape at the front: its size, and who writes it so. `None` if the text ends in it.
fn escape(text: &[u8], out: &mut Vec<u8>) -> Option<(usize, Habits)> {
    let byte = *text.get(1)?;
    let (decoded, habits) = match byte {
        b'"' | b'\\' => (byte, Habits::JSON),
        b'n' => (b'\n', Habits::JSON),
        b'r' => (b'\r', Habits::JSON),
        b't' => (b'\t', Habits::JSON),
        b'b' => (8, Habits::JSON.without(PDATA)),
        b'f' => (12, Habits::JSON.without(PDATA)),
        b'u' => return unicode(text, out),
        // Nothing that is known writes it; it is skipped so that the literal's end is found.
        _ => return Some((2, Habits::NONE)),
    };
    out.push(decoded);
    Some((2, habits))
}

fn unicode(text: &[u8], out: &mut Vec<u8>) -> Option<(usize, Habits)> {
    let Some(unit) = hex(text.get(2..6)?) else { return Some((2, Habits::NONE)) };
    let habits = match unit {
        8 | 12 => PDATA,
        9 | 10 | 13 => Habits::NONE,
        0..0x20 => Habits::JSON,
        0x26 | 0x3c | 0x3e => HTML,
        0x20..0x7f => Habits::NONE,
        0x2028 | 0x2029 => HTML.or(ASCII),
        0xd800..0xe000 => {
            let low = text.get(6..12).filter(|next| next.starts_with(b"\\u")).and_then(|next| hex(&next[2..]));
            if let (0xd800..0xdc00, Some(low @ 0xdc00..0xe000)) = (unit, low) {
                let c = char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
                out.extend_from_slice(c.unwrap_or_default().encode_utf8(&mut [0; 4]).as_bytes());
                return Some((12, ASCII));
            }
            push_surrogate(unit, out);
            return Some((6, LONE));
        }
        _ => ASCII,
    };
    out.extend_from_slice(char::from_u32(unit).unwrap_or_default().encode_utf8(&mut [0; 4]).as_bytes());
    Some((6, habits))
}

/// Who of `habits` writes these bytes, of the classes `seen`, as they are.
#[inline]
fn raw(bytes: &[u8], seen: u8, mut habits: Habits) -> Habits {
    if seen == 0 {
        return habits;
    }
    if seen & CONTROL != 0 {
        return Habits::NONE;
    }
    if seen & NOT_ASCII != 0 {
        habits = habits.without(ASCII);
        if seen & MAY_BE_SURROGATE != 0 && has_surrogate(bytes) {
            return Habits::NONE;
        }
        if seen & MAY_BE_LINE != 0 && habits.has_any(HTML) && has_line_separator(bytes) {
            habits = habits.without(HTML);
        }
    }
    if seen & DELETE != 0 {
        habits = habits.without(ASCII);
    }
    if seen & MARKUP != 0 {
        habits = habits.without(HTML);
    }
    habits
}

fn has_surrogate(bytes: &[u8]) -> bool {
    memchr_iter(0xed, bytes).any(|at| surrogate_at(&bytes[at..]).is_some())
}

fn has_line_separator(bytes: &[u8]) -> bool {
    memchr_iter(0xe2, bytes).any(|at| matches!(bytes[at..], [_, 0x80, 0xa8 | 0xa9, ..]))
}

/// Appends what stands between the quotes.
pub fn encode(text: &[u8], habit: Habit, out: &mut Vec<u8>) {
    let habits = Habits::only(habit);
    let (ascii, html, pdata) = (habits.has_any(ASCII), habits.has_any(HTML), habits.has_any(PDATA));
    let mut rest = text;
    while let Some(at) = next_special(rest, ascii, html) {
        out.extend_from_slice(&rest[..at]);
        let (size, unit) = match (rest[at], surrogate_at(&rest[at..])) {
            (_, Some(unit)) => (3, unit),
            (0x80.., None) => match first_char(&rest[at..]) {
                Some(c) if ascii || matches!(c, '\u{2028}' | '\u{2029}') => (c.len_utf8(), c as u32),
                // Not special after all, or not Unicode.
                _ => {
                    out.push(rest[at]);
                    rest = &rest[at + 1..];
                    continue;
                }
            },
            (byte, None) => (1, u32::from(byte)),
        };
        let short: &[u8] = match unit {
            0x22 => b"\\\"",
            0x5c => b"\\\\",
            9 => b"\\t",
            10 => b"\\n",
            13 => b"\\r",
            8 if !pdata => b"\\b",
            12 if !pdata => b"\\f",
            _ => b"",
        };
        match short {
            b"" => push_units(unit, out),
            _ => out.extend_from_slice(short),
        }
        rest = &rest[at + size..];
    }
    out.extend_from_slice(rest);
}

/// The next byte that may need an escape.
fn next_special(text: &[u8], ascii: bool, html: bool) -> Option<usize> {
    text.iter().position(|&byte| match byte {
        b'"' | b'\\' | 0..0x20 => true,
        0x7f => ascii,
        b'<' | b'>' | b'&' => html,
        0xed => true,
        0xe2 => html || ascii,
        0x80.. => ascii,
        _ => false,
    })
}

fn first_char(bytes: &[u8]) -> Option<char> {
    let end = bytes.len().min(4);
    match std::str::from_utf8(&bytes[..end]) {
        Ok(text) => text.chars().next(),
        Err(e) => std::str::from_utf8(&bytes[..e.valid_up_to()]).ok()?.chars().next(),
    }
}

fn push_units(c: u32, out: &mut Vec<u8>) {
    let mut units = [0; 2];
    let surrogate = [c as u16];
    let units = char::from_u32(c).map_or(&surrogate[..], |c| c.encode_utf16(&mut units));
    for unit in units {
        out.extend_from_slice(b"\\u");
        out.extend((0..4).rev().map(|digit| b"0123456789abcdef"[usize::from(unit >> (digit * 4) & 15)]));
    }
}
