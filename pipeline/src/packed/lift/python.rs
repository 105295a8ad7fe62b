//! Python's `repr` of a `str`.

use super::habit::{Habit, Habits};
use super::literal::{Found, hex};
use super::printable::{Unicode, is_printable};
use memchr::{memchr, memchr2};

const OLD: Habits = Habits::only(Habit::Python14);
const NEW: Habits = Habits::only(Habit::Python16);

/// Finds the end of the literal that begins behind `quote` at `text`'s front, as [`super::json::find`] does.
pub fn find(text: &[u8], quote: u8, least: usize, out: &mut Vec<u8>) -> Option<Found> {
    let first = memchr2(quote, b'\\', text)?;
    if text[first] == quote {
        let fits = first >= least && quote_fits(&text[..first], quote);
        let habits = if fits { raw(&text[..first], Habits::PYTHON) } else { Habits::NONE };
        return Some(Found { length: first, habits, escaped: false });
    }
    out.clear();
    let (mut habits, mut at, mut plain) = (Habits::PYTHON, first, 0);
    loop {
        if !habits.is_empty() {
            habits = raw(&text[plain..at], habits);
            out.extend_from_slice(&text[plain..at]);
        }
        if text[at] == quote {
            let fits = at >= least && quote_fits(out, quote);
            let habits = if fits { habits } else { Habits::NONE };
            return Some(Found { length: at, habits, escaped: true });
        }
        let (size, allowed) = escape(&text[at..], quote, out)?;
        habits = habits.and(allowed);
        at += size;
        plain = at;
        at += memchr2(quote, b'\\', &text[at..])?;
    }
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

/// Who of `habits` prints these bytes as they are.
fn raw(bytes: &[u8], mut habits: Habits) -> Habits {
    if bytes.is_ascii() {
        let printable = bytes.iter().fold(true, |all, &byte| all & (byte >= 0x20) & (byte != 0x7f));
        return if printable { habits } else { Habits::NONE };
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return Habits::NONE };
    for c in text.chars() {
        match c {
            ' '..'\u{7f}' | 'ÿ'..'ɐ' | '\u{2010}'..'\u{2028}' | '一'..='龥' | '가'..='힣' => {}
            _ if !is_printable(c, Unicode::V16) => return Habits::NONE,
            _ if !is_printable(c, Unicode::V14) => habits = habits.without(OLD),
            _ => {}
        }
    }
    habits
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
