//! Every habit writes what its encoder writes, and what is read is written back the same.

use super::{Habit, Habits, Unicode, is_printable, json, python, unescaped};
use proptest::prelude::*;
use std::io::Write;
use std::process::{Command, Stdio};

/// The text that stands between quotes, and who writes it so; `None` if they do not end where they should.
fn read(habit: Habit, quote: u8, literal: &[u8]) -> Option<(Vec<u8>, Habits)> {
    let quoted = [literal, &[quote]].concat();
    let mut out = Vec::new();
    let found = match habit.is_python() {
        true => python::find(&quoted, quote, &mut out),
        false => json::find(&quoted, &mut out),
    }?;
    let text = if found.escaped { out } else { literal.to_vec() };
    (found.length == literal.len()).then_some((text, found.habits))
}

fn written(habit: Habit, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    habit.encode(text, &mut out);
    out
}

/// Python's rule, in words of its own.
fn quote_of(habit: Habit, text: &[u8]) -> u8 {
    let (single, double) = (text.contains(&b'\''), text.contains(&b'"'));
    if habit.is_python() && (double || !single) { b'\'' } else { b'"' }
}

/// Texts of everything that some encoder treats in a way of its own.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let special = prop::sample::select(vec![
        "\0",
        "\u{7}",
        "\u{8}",
        "\t",
        "\n",
        "\u{b}",
        "\u{c}",
        "\r",
        "\u{1f}",
        " ",
        "\"",
        "'",
        "\\",
        "/",
        "<",
        ">",
        "&",
        "\u{7f}",
        "\u{80}",
        "\u{a0}",
        "\u{ad}",
        "é",
        "\u{200b}",
        "\u{2028}",
        "\u{2029}",
        "\u{2027}",
        "\u{202a}",
        "\u{fffc}",
        "\u{feff}",
        "\u{ffff}",
        "\u{e000}",
        "\u{d7ff}",
        "\u{378}",
        "\u{897}",
        "\u{1f6dc}",
        "😀",
        "\u{10ffff}",
        "\\u0041",
        "\\n",
        "\\x",
        "plain",
    ]);
    let broken = prop::sample::select(vec![
        &b"\xed\xa0\x80"[..],
        b"\xed\xb0\x80",
        b"\xed\xa0\xbd\xed\xb8\x80",
        b"\xed",
        b"\xed\xa0",
        b"\xff",
        b"\xe2\x80",
        b"\xe2",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
        b"\x80",
    ]);
    let piece = prop_oneof![
        6 => special.prop_map(|text| text.as_bytes().to_vec()),
        3 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
        1 => broken.prop_map(<[u8]>::to_vec),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Literals as encoders write them, and as none does.
fn literal() -> impl Strategy<Value = Vec<u8>> {
    let escape = prop::sample::select(vec![
        r#"\""#,
        r"\\",
        r"\/",
        r"\b",
        r"\f",
        r"\n",
        r"\r",
        r"\t",
        r"\'",
        r"\u0008",
        r"\u000a",
        r"\u000c",
        r"\u001f",
        r"\u0000",
        r"\u0022",
        r"\u003c",
        r"\u003C",
        r"\u003e",
        r"\u0026",
        r"\u0041",
        r"\u007f",
        r"\u00e9",
        r"\u2028",
        r"\u2029",
        r"\u20AC",
        r"\ud800",
        r"\udc00",
        r"\ud83d\ude00",
        r"\ud83d\ud83d\ude00",
        r"\ud83d",
        r"\uD83D\uDE00",
        r"\u",
        r"\u12",
        r"\x00",
        r"\x7f",
        r"\xa0",
        r"\xe9",
        r"\xAD",
        r"\u0378",
        r"\u0897",
        r"\U0001f6dc",
        r"\U00000041",
        r"\U0010ffff",
        r"\U00110000",
        r"\ud",
        r"\N",
        r"\",
    ]);
    let piece = prop_oneof![4 => escape.prop_map(|text| text.as_bytes().to_vec()), 3 => text()];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// True if surrogates that are a pair stand as two: only other bytes than a literal's are so.
fn has_pair(text: &[u8]) -> bool {
    text.windows(6).any(|bytes| matches!(bytes, [0xed, 0xa0..=0xaf, 0x80..=0xbf, 0xed, 0xb0..=0xbf, 0x80..=0xbf]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_a_habit_wrote_is_read_again(text in text().prop_filter("not WTF-8, so never read from a literal", |text| !has_pair(text))) {
        for habit in Habit::ALL {
            let literal = written(habit, &text);
            let quote = quote_of(habit, &text);
            let Some((again, habits)) = read(habit, quote, &literal) else {
                prop_assert!(false, "{habit:?} wrote {literal:?}, which does not end");
                return Ok(());
            };
            if habits.has_any(Habits::only(habit)) {
                prop_assert_eq!(&again, &text, "{:?}", habit);
            }
            if std::str::from_utf8(&text).is_ok() {
                prop_assert!(habits.has_any(Habits::only(habit)), "{habit:?} does not know its own {literal:?}");
            }
        }
    }

    #[test]
    fn a_literal_ends_where_the_next_quote_without_a_backslash_is(
        literal in literal(),
        behind in "[\"'a ]{0,4}",
        quote in prop::sample::select(b"'\"".to_vec()),
    ) {
        let text = [&literal[..], &[quote], behind.as_bytes()].concat();
        if let Some(found) = json::find(&text, &mut Vec::new()) {
            prop_assert_eq!(Some(found.length), unescaped(b'"', &text));
        }
        if let Some(found) = python::find(&text, quote, &mut Vec::new()) {
            prop_assert_eq!(Some(found.length), unescaped(quote, &text));
        }
    }

    #[test]
    fn what_is_read_is_written_the_same_by_everyone_who_writes_it_so(literal in literal(), quote in prop::sample::select(b"'\"".to_vec())) {
        for habit in Habit::ALL {
            let quote = if habit.is_python() { quote } else { b'"' };
            let Some((text, habits)) = read(habit, quote, &literal) else { continue };
            if habits.has_any(Habits::only(habit)) {
                prop_assert_eq!(written(habit, &text), literal.clone(), "{:?} of {:?}", habit, text);
                if habit.is_python() {
                    prop_assert_eq!(quote_of(habit, &text), quote);
                }
            }
        }
    }

    #[test]
    fn serde_json_is_of_the_first_habit(text in any::<String>()) {
        let theirs = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(written(Habit::Json, text.as_bytes()), &theirs.as_bytes()[1..theirs.len() - 1]);
    }
}

/// All code points but surrogates, and texts of several.
fn samples() -> Vec<String> {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = text();
    let random = (0..4000).filter_map(|_| {
        let text = proptest::strategy::ValueTree::current(&strategy.new_tree(&mut runner).unwrap());
        String::from_utf8(text).ok()
    });
    let every = (0..0x11_0000u32).filter_map(char::from_u32).collect::<Vec<_>>();
    random.chain(every.chunks(512).map(|chars| chars.iter().collect())).collect()
}

/// What a program answers to the samples, a line each, in JSON; `None` if it is not installed.
fn answers(program: &str, arguments: &[&str]) -> Option<Vec<Vec<String>>> {
    let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&serde_json::to_vec(&samples()).unwrap()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{program} failed");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn python_writes_as_we_do() {
    const SCRIPT: &str = "
import json, sys, unicodedata
texts = json.loads(sys.stdin.buffer.read())
answers = [[json.dumps(t), json.dumps(t, ensure_ascii=False), repr(t)] for t in texts]
printable = ''.join(str(int(chr(c).isprintable())) for c in range(0x110000))
json.dump(answers + [[unicodedata.unidata_version, printable]], sys.stdout)";
    let mut answers = answers("python3", &["-c", SCRIPT]).expect("python3 is there");
    let about = answers.pop().unwrap();
    let unicode = match about[0].as_str() {
        "14.0.0" => Some((Habit::Python14, Unicode::V14)),
        "16.0.0" => Some((Habit::Python16, Unicode::V16)),
        other => {
            println!("SKIPPED for repr: this Python has Unicode {other}");
            None
        }
    };
    for (text, answer) in samples().iter().zip(&answers) {
        let quoted = |habit| format!("\"{}\"", String::from_utf8(written(habit, text.as_bytes())).unwrap());
        assert_eq!(quoted(Habit::JsonAscii), answer[0]);
        assert_eq!(quoted(Habit::Json), answer[1]);
        if let Some((habit, _)) = unicode {
            let quote = char::from(quote_of(habit, text.as_bytes()));
            let inner = String::from_utf8(written(habit, text.as_bytes())).unwrap();
            assert_eq!(format!("{quote}{inner}{quote}"), answer[2]);
        }
    }
    assert_eq!(answers.len(), samples().len());
    if let Some((_, unicode)) = unicode {
        for c in (0..0x11_0000).filter_map(char::from_u32) {
            assert_eq!(is_printable(c, unicode), about[1].as_bytes()[c as usize] == b'1', "{c:?}");
        }
    }
}

#[test]
fn pieces_of_utf_8_are_utf_8() {
    for start in ["", "a", "ab", "abc"] {
        let text = format!("{start}{}", "é🚀日".repeat(20_000));
        let pieces: Vec<_> = super::cut(text.as_bytes()).collect();
        assert!(pieces.len() > 4 && pieces.iter().all(|piece| std::str::from_utf8(piece).is_ok()));
        assert_eq!(pieces.concat(), text.as_bytes());
    }
    // Nothing is lost of what is no text.
    let bytes = [0x80; 100_000];
    assert_eq!(super::cut(&bytes).collect::<Vec<_>>().concat(), bytes);
}

#[test]
fn javascript_writes_as_we_do() {
    const SCRIPT: &str = "
const texts = JSON.parse(require('fs').readFileSync(0, 'utf8'));
process.stdout.write(JSON.stringify(texts.map(t => [JSON.stringify(t)])));";
    let Some(answers) = answers("node", &["-e", SCRIPT]) else {
        println!("SKIPPED, no node");
        return;
    };
    for (text, answer) in samples().iter().zip(&answers) {
        assert_eq!(format!("\"{}\"", String::from_utf8(written(Habit::Json, text.as_bytes())).unwrap()), answer[0]);
    }
    assert_eq!(answers.len(), samples().len());
}

#[test]
fn go_writes_by_this_table() {
    for (text, pdata, html, old) in [
        ("<a & b>", r"<a & b>", r"\u003ca \u0026 b\u003e", r"\u003ca \u0026 b\u003e"),
        ("\u{8}\u{c}", r"\u0008\u000c", r"\b\f", r"\u0008\u000c"),
        ("\n\r\t\"\\", r#"\n\r\t\"\\"#, r#"\n\r\t\"\\"#, r#"\n\r\t\"\\"#),
        ("\u{0}\u{1f}\u{7f}", "\\u0000\\u001f\u{7f}", "\\u0000\\u001f\u{7f}", "\\u0000\\u001f\u{7f}"),
        ("\u{2028}\u{2029}é", "\u{2028}\u{2029}é", "\\u2028\\u2029é", "\\u2028\\u2029é"),
    ] {
        for (habit, expected) in [(Habit::JsonPdata, pdata), (Habit::JsonHtml, html), (Habit::JsonHtmlOld, old)] {
            assert_eq!(written(habit, text.as_bytes()), expected.as_bytes(), "{habit:?}");
        }
    }
}

#[test]
fn python_chooses_its_quotes_by_the_text() {
    for (quote, literal, text) in [
        (b'\'', "plain", Some("plain")),
        (b'"', "plain", None),
        (b'"', "it's", Some("it's")),
        (b'\'', r"it\'s", None),
        (b'\'', r#"it\'s "so""#, Some(r#"it's "so""#)),
        (b'"', r#"it's \"so\""#, None),
        (b'\'', r#"say "so""#, Some(r#"say "so""#)),
    ] {
        let (read, habits) = read(Habit::Python14, quote, literal.as_bytes()).unwrap();
        assert_eq!(habits.has_any(Habits::PYTHON), text.is_some(), "{literal}");
        if let Some(text) = text {
            assert_eq!(read, text.as_bytes());
        }
    }
}
