//! Python's `repr` of a `str`.

use super::habit::{Habit, Habits};
use super::literal::{CONTROL, DELETE, Found, NOT_ASCII, hex, plain_run, push_front};
use super::printable::{Unicode, is_printable};
use crate::lanes::{LANES, Lanes};
use memchr::memchr;

const OLD: Habits = Habits::only(Habit::Python14);
const NEW: Habits = Habits::only(Habit::Python16);

/// Finds the end of the literal that begins behind `quote` at `text`'s front, as [`super::json::find`] does.
pub fn find(text: &[u8], quote: u8, out: &mut Vec<u8>) -> Option<Found> {
    let (first, seen) = plain_run(text, quote, |_, _| {})?;
    if text[first] == quote {
        let habits =
            if quote_fits(&text[..first], quote) { raw(&text[..first], seen, Habits::PYTHON) } else { Habits::NONE };
        return Some(Found { length: first, habits, escaped: false });
    }
    out.clear();
    out.extend_from_slice(&text[..first]);
    let (mut habits, mut at) = (raw(&text[..first], seen, Habits::PYTHON), first);
    // Here `text[at]` is a backslash or the closing quote.
    while text[at] != quote {
        let (size, allowed) = escape(&text[at..], quote, out)?;
        let start = at + size;
        let (length, seen) = plain_run(&text[start..], quote, |bytes, length| push_front(bytes, length, out))?;
        at = start + length;
        habits = raw(&text[start..at], seen, habits.and(allowed));
    }
    let habits = if quote_fits(out, quote) { habits } else { Habits::NONE };
    Some(Found { length: at, habits, escaped: true })
}

/// `'`, but `"` if there is a `'` and no `"` in the text.
fn quote_of(text: &[u8]) -> u8 {
    match memchr(b'\'', text).is_some() && memchr(b'"', text).is_none() {
        true => b'"',
        false => b'\'',
    }
}

fn quote_fits(text: &[u8], quote: u8) -> bool {
    quote_of(text) == quote
}

fn escape(text: &[u8], quote: u8, out: &mut Vec<u8>) -> Option<(usize, Habits)> {
    let byte = *text.get(1)?;
    let digits = match byte {
        b'\\' => return Some(simple(b'\\', out)),
        b'\'' if quote == b'\'' => return Some(simple(b'\'', out)),
        b'n' => return Some(simple(b'\n', out)),
        b'r' => return Some(simple(b'\r', out)),
        b't' => return Some(simple(b'\t', out)),
        b'x' => 2,
        b'u' => 4,
        b'U' => 8,
        _ => return Some((2, Habits::NONE)),
    };
    let number = text.get(2..2 + digits).and_then(hex);
    let Some(c) = number.and_then(char::from_u32) else { return Some((2, Habits::NONE)) };
    let shortest = match c as u32 {
        9 | 10 | 13 => 0,
        0..0x100 => 2,
        0x100..0x1_0000 => 4,
        _ => 8,
    };
    let mut habits = Habits::NONE;
    if digits == shortest {
        for (habit, unicode) in [(OLD, Unicode::V14), (NEW, Unicode::V16)] {
            if !is_printable(c, unicode) {
                habits = habits.or(habit);
            }
        }
    }
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    Some((2 + digits, habits))
}

fn simple(byte: u8, out: &mut Vec<u8>) -> (usize, Habits) {
    out.push(byte);
    (2, Habits::PYTHON)
}

/// Who of `habits` prints these bytes, of the classes `seen`, as they are.
#[inline]
fn raw(bytes: &[u8], seen: u8, habits: Habits) -> Habits {
    match seen & (CONTROL | DELETE | NOT_ASCII) {
        0 => habits,
        NOT_ASCII => not_ascii(bytes, habits),
        _ => Habits::NONE,
    }
}

fn not_ascii(bytes: &[u8], mut habits: Habits) -> Habits {
    let Ok(mut text) = std::str::from_utf8(bytes) else { return Habits::NONE };
    while let Some(c) = next_not_ascii(&mut text) {
        match c {
            'ÿ'..'ɐ' | '\u{2010}'..'\u{2028}' | '一'..='龥' | '가'..='힣' => {}
            _ if !is_printable(c, Unicode::V16) => return Habits::NONE,
            _ if !is_printable(c, Unicode::V14) => habits = habits.without(OLD),
            _ => {}
        }
    }
    habits
}

/// Goes behind the next character that is not ASCII.
fn next_not_ascii(text: &mut &str) -> Option<char> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(next) = bytes[at..].first_chunk::<LANES>() {
        let found = Lanes::new(next).at_least(0x80).to_bitmask();
        if found != 0 {
            at += found.trailing_zeros() as usize;
            break;
        }
        at += LANES;
    }
    at += bytes[at..].iter().position(|byte| !byte.is_ascii())?;
    let mut chars = text[at..].chars();
    let c = chars.next();
    *text = chars.as_str();
    c
}

/// Appends what stands between the quotes. A quote of the kind that [`quote_of`] does not choose stands as it is.
pub fn encode(text: &[u8], habit: Habit, out: &mut Vec<u8>) {
    let unicode = if habit == Habit::Python14 { Unicode::V14 } else { Unicode::V16 };
    let quote = quote_of(text);
    // What is lifted is UTF-8: `find` takes no other.
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                '\'' if quote == b'\'' => out.extend_from_slice(b"\\'"),
                ' '..'\u{7f}' => out.push(c as u8),
                _ if is_printable(c, unicode) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                _ => {
                    let code = c as u32;
                    let escape = match code {
                        0..0x100 => format!("\\x{code:02x}"),
                        0x100..0x1_0000 => format!("\\u{code:04x}"),
                        _ => format!("\\U{code:08x}"),
                    };
                    out.extend_from_slice(escape.as_bytes());
                }
            }
        }
        out.extend_from_slice(chunk.invalid());
    }
}
