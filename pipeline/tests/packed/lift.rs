//! Texts become nodes and texts again.

use crate::nodes::InMemory;
use gravity_pipeline::packed::lift::{CUT_FROM, Habit, Lifter, cut};
use gravity_pipeline::packed::node::Kind;
use proptest::prelude::*;
use std::collections::HashSet;

#[track_caller]
fn comes_back(text: &[u8]) -> InMemory {
    let nodes = InMemory::default();
    let id = Lifter::new(&nodes).node(text);
    let mut out = Vec::new();
    nodes.expand(id, &mut out);
    assert!(out == text, "{} became {}", String::from_utf8_lossy(text), String::from_utf8_lossy(&out));
    nodes
}

/// A text as an encoder writes it, with its quotes.
fn literal(habit: Habit, text: &[u8]) -> Vec<u8> {
    let double = !habit.is_python() || (text.contains(&b'\'') && !text.contains(&b'"'));
    let quote = if double { b'"' } else { b'\'' };
    let mut out = vec![quote];
    habit.encode(text, &mut out);
    out.push(quote);
    out
}

fn habit() -> impl Strategy<Value = Habit> {
    prop::sample::select(Habit::ALL.to_vec())
}

/// Documents in documents in documents, and what becomes of them when bytes are changed or cut off.
fn nested() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => "[ -~]{0,90}".prop_map(String::into_bytes),
        2 => any::<String>().prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..90),
        1 => Just("\u{fffc}".as_bytes().to_vec()),
        1 => Just(b"\xed\xa0\x80 lone".to_vec()),
        1 => Just("it's \"both\" \n \\ \u{2028} é 😀 \u{7f}".repeat(3).into_bytes()),
    ];
    let whole = word.prop_recursive(10, 60, 3, |inner| {
        (prop::collection::vec((inner, habit()), 1..4), any::<u8>()).prop_map(|(inner, form)| {
            let literals: Vec<Vec<u8>> = inner.iter().map(|(text, habit)| literal(*habit, text)).collect();
            match form % 4 {
                0 => [&b"["[..], &literals.join(&b", "[..]), b"]"].concat(),
                1 => [&b"{\"content\":"[..], &literals.join(&b",\"x\":"[..]), b"}"].concat(),
                2 => [&b"{'role': 'user', 'content': "[..], &literals.join(&b", 'x': "[..]), b"}"].concat(),
                _ => literals[0].clone(),
            }
        })
    });
    (whole, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), 0..4).prop_map(
        |(mut text, at, end, byte, change)| {
            if change == 1 && !text.is_empty() {
                let at = at.index(text.len());
                text[at] = byte;
            }
            if change == 2 {
                text.truncate(end.index(text.len() + 1));
            }
            text
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn any_bytes_come_back(text in prop::collection::vec(any::<u8>(), 0..300)) {
        comes_back(&text);
    }

    #[test]
    fn documents_in_documents_come_back(text in nested()) {
        comes_back(&text);
    }

    /// The second is known by its own bytes, and is not decoded.
    #[test]
    fn a_literal_that_was_there_before_comes_back(text in nested(), habit in habit()) {
        let long = literal(habit, &text.repeat(1 + 256 / text.len().max(1)));
        let all = [&long[..], &long, &literal(Habit::Json, &long), &literal(Habit::Json, &long)].join(&b", "[..]);
        comes_back(&[&b"["[..], &all, b"]"].concat());
    }

    #[test]
    fn what_stands_in_a_literal_of_any_habit_is_a_node(text in "[ -~é\n\t<>&\u{7f}\u{2028}\u{8}]{70,120}", habit in habit()) {
        let open: &[u8] = if habit.is_python() { b"{'a': " } else { b"{\"a\":" };
        let nodes = comes_back(&[open, &literal(habit, text.as_bytes()), b"}"].concat());
        prop_assert!(nodes.leaves().contains(&text.into_bytes()));
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn pieces_joined_are_the_text_and_are_bounded(lines in prop::collection::vec("[ -~]{0,200}", 0..900)) {
        let text = lines.join("\n").into_bytes();
        let pieces: Vec<&[u8]> = cut(&text).collect();
        prop_assert!(pieces.concat() == text);
        prop_assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= 32 << 10));
        let short = pieces.iter().rev().skip(1).filter(|piece| piece.len() < 2 << 10).count();
        prop_assert_eq!(short, 0);
    }
}

#[test]
fn the_same_message_is_one_node_however_it_is_written() {
    let message = "The cat said: \"it's raining\",\nand <went> out & came back — soaked, of course, at once.";
    let nodes = InMemory::default();
    let mut lifter = Lifter::new(&nodes);
    let ids: Vec<usize> = Habit::ALL
        .into_iter()
        .map(|habit| {
            let open: &[u8] = if habit.is_python() { b"[{'c': " } else { b"[{\"c\":" };
            let text = [open, &literal(habit, message.as_bytes()), b"}]"].concat();
            lifter.node(&text)
        })
        .collect();
    assert_eq!(nodes.leaves(), [message.as_bytes()]);
    assert!(ids.iter().all(|&id| matches!(nodes.kind(id), Kind::Template(_))));
}

#[test]
fn texts_in_texts_are_followed_to_a_depth_and_no_further() {
    let mut text = b"x".repeat(100);
    for _ in 0..12 {
        text = [
            &b"[\""[..],
            &{
                let mut out = Vec::new();
                Habit::Json.encode(&text, &mut out);
                out
            },
            b"\"]",
        ]
        .concat();
    }
    comes_back(&text);
}

#[test]
fn a_line_more_in_a_large_text_changes_few_pieces() {
    let lines: Vec<String> = (0..20_000).map(|n| format!("line {n}: {}", n * 7919 % 10_007)).collect();
    let before = lines.join("\n").into_bytes();
    let mut changed = lines.clone();
    changed.insert(10_000, "a line that was not there".into());
    let after = changed.join("\n").into_bytes();
    assert!(before.len() > CUT_FROM);
    let known: HashSet<&[u8]> = cut(&before).collect();
    let new: Vec<&[u8]> = cut(&after).filter(|piece| !known.contains(piece)).collect();
    assert!(known.len() > 50, "{} pieces", known.len());
    assert!(new.len() <= 2, "{} of {} pieces are new", new.len(), known.len());
    comes_back(&after);
}

#[test]
fn long_texts_without_lines_come_back() {
    for length in [CUT_FROM - 1, CUT_FROM, 32 << 10, (32 << 10) + 1, 200_000] {
        comes_back(&b"x".repeat(length));
        comes_back(&[b"[\"".to_vec(), b"y".repeat(length), b"\"]".to_vec()].concat());
    }
}
