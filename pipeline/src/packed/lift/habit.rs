//! How an encoder writes string literals, and sets of such habits.

use super::{json, python};

/// How string literals are written. The numbers are stored: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Habit {
    /// JSON: only what must be escaped is, backspace and form feed in the short form, lone surrogates as `\udxxx`.
    /// `JSON.stringify`, `serde_json`, Python's `json.dumps(ensure_ascii=False)`.
    Json = 0,
    /// The same with `\u0008` and `\u000c`: the collector's pdata.
    JsonPdata = 1,
    /// JSON in ASCII, the rest as `\uxxxx` in lowercase, DEL too: Python's `json.dumps`.
    JsonAscii = 2,
    /// As [`Habit::Json`], and `<`, `>`, `&`, U+2028 and U+2029 escaped: Go's `encoding/json` since 1.22.
    JsonHtml = 3,
    /// As [`Habit::JsonHtml`], with `\u0008` and `\u000c`: Go's `encoding/json` before.
    JsonHtmlOld = 4,
    /// Python's `repr` of a `str`, with Unicode 14.0.
    Python14 = 5,
    /// Python's `repr` of a `str`, with Unicode 16.0.
    Python16 = 6,
}

impl Habit {
    /// All of them, by number.
    pub const ALL: [Self; 7] = [
        Self::Json,
        Self::JsonPdata,
        Self::JsonAscii,
        Self::JsonHtml,
        Self::JsonHtmlOld,
        Self::Python14,
        Self::Python16,
    ];

    /// The habit of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// True for Python's `repr`.
    pub fn is_python(self) -> bool {
        matches!(self, Self::Python14 | Self::Python16)
    }

    /// Appends what stands between the quotes of `text`'s literal.
    pub fn encode(self, text: &[u8], out: &mut Vec<u8>) {
        match self.is_python() {
            true => python::encode(text, self, out),
            false => json::encode(text, self, out),
        }
    }
}

/// A set of habits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Habits(u8);

impl Habits {
    /// None: the literal cannot be had back from its text.
    pub const NONE: Self = Self(0);
    /// Every way of writing JSON.
    pub const JSON: Self = Self(0b1_1111);
    /// Every way of writing a `repr`.
    pub const PYTHON: Self = Self(0b110_0000);

    /// One habit.
    pub const fn only(habit: Habit) -> Self {
        Self(1 << habit as u8)
    }

    /// Those in either.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// True if there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True if one of `other` is in it.
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The one with the smallest number.
    pub fn first(self) -> Option<Habit> {
        Habit::ALL.into_iter().find(|&habit| self.has_any(Self::only(habit)))
    }
}
