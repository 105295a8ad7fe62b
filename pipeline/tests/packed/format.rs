//! What is written into Parquet is read from it, and what is not what was written is refused.

use bytes::Bytes;
use gravity_pipeline::packed::format::{
    Effort, Group, NodesFile, SpansWriter, Window, locate, metadata_of, read_located, read_nodes, read_rows,
    write_nodes,
};
use gravity_pipeline::packed::node::Kind;
use gravity_pipeline::packed::row::{Row, RowKind, Rows};
use proptest::option;
use proptest::prelude::*;
use std::sync::Arc;

const EFFORT: Effort = Effort { level: 1, level_of_few: 1, node_group_bytes: 300, span_group_rows: 3 };

fn groups(file: Bytes, columns: usize) -> Result<Vec<Group>, String> {
    let window = Window::whole(file);
    let metadata = Arc::new(metadata_of(&window, columns)?);
    let group = |number| Group { window: window.clone(), metadata: metadata.clone(), number };
    Ok((0..metadata.num_row_groups()).map(group).collect())
}

fn kind() -> impl Strategy<Value = Kind> {
    let all: Vec<Kind> = (0..40).filter_map(Kind::from_number).collect();
    prop::sample::select(all)
}

type Nodes = Vec<(u64, Kind, Vec<u8>, Vec<i64>)>;

fn nodes() -> impl Strategy<Value = Nodes> {
    let text = prop_oneof![any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes)];
    let refs = prop::collection::vec(any::<i64>(), 0..5);
    prop::collection::vec((1u64..1 << 30, kind(), text, refs), 0..40).prop_map(|nodes| {
        let mut id = 0;
        let ascending = nodes.into_iter().map(|(step, kind, text, refs)| {
            id += step;
            (id, kind, text, refs)
        });
        ascending.collect()
    })
}

fn written(nodes: &Nodes) -> Bytes {
    let nodes = nodes.iter().map(|(id, kind, text, refs)| (*id, *kind, &text[..], &refs[..]));
    write_nodes(NodesFile { nodes, packs: &[1, 2], metadata: vec![] }, EFFORT).unwrap()
}

/// A row in words: texts by what they are, whatever their numbers.
fn told(rows: &Rows<u64>, at: usize) -> String {
    let row = &rows.rows[at];
    let text = |id: u32| rows.texts.get(id).to_vec();
    let texts =
        [row.name, row.service, row.tenant, row.model, row.provider, row.convention, row.batch].map(|id| id.map(text));
    let plain = Row {
        source: 0,
        refs_end: 0,
        rest_end: 0,
        name: None,
        service: None,
        tenant: None,
        model: None,
        provider: None,
        convention: None,
        batch: None,
        ..*row
    };
    format!("{plain:?} {:?} {texts:?} {:?}", text(row.source), rows.refs_of(at))
}

fn id() -> impl Strategy<Value = [u8; 8]> {
    // Few, so that parents are found, in this group or another.
    (0u8..6).prop_map(|n| [n; 8])
}

#[derive(Debug, Clone)]
struct Drawn(Row<u64>, Vec<u64>, String, [Option<String>; 7]);

fn row() -> impl Strategy<Value = Drawn> {
    let kinds = prop::sample::select(vec![RowKind::Span, RowKind::Log, RowKind::Text, RowKind::Batch]);
    let ids = (option::of((0u8..3).prop_map(|n| [n; 16])), option::of(id()), option::of(id()));
    let numbers = (
        option::of(any::<i64>()),
        option::of(any::<i64>()),
        option::of(any::<i32>()),
        option::of(any::<i64>()),
        option::of(any::<i64>()),
    );
    let cost = option::of(any::<f64>());
    let shape = option::of(0..u64::MAX / 2);
    let refs = prop::collection::vec(0..u64::MAX / 2, 0..4);
    let texts = prop::array::uniform7(option::of("[a-cé]{0,2}"));
    (kinds, ids, numbers, cost, shape, refs, "[ab]", texts).prop_map(
        |(kind, ids, numbers, cost, shape, refs, source, texts)| {
            let mut row = Row::new(kind);
            (row.trace_id, row.span_id, row.parent_span_id) = ids;
            (row.start, row.end, row.status, row.input_tokens, row.output_tokens) = numbers;
            row.cost = cost;
            row.shape = shape;
            Drawn(row, refs, source, texts)
        },
    )
}

fn gathered(drawn: Vec<Drawn>) -> Rows<u64> {
    let mut rows = Rows::default();
    for Drawn(mut row, refs, source, texts) in drawn {
        row.source = rows.texts.id(source.as_bytes());
        let mut text = texts.into_iter().map(|text| text.map(|text| rows.texts.id(text.as_bytes())));
        let mut next = || text.next().flatten();
        (row.name, row.service, row.tenant, row.model) = (next(), next(), next(), next());
        (row.provider, row.convention, row.batch) = (next(), next(), next());
        rows.refs.extend(refs);
        rows.push(row);
    }
    rows
}

fn stored(effort: Effort, parts: &[&Rows<u64>]) -> Bytes {
    let mut writer = SpansWriter::new(effort, 3).unwrap();
    for rows in parts {
        writer.write(rows).unwrap();
    }
    writer.finish(&["a", "b"], &[7], vec![]).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn nodes_are_read_as_they_were_written(nodes in nodes()) {
        let mut read: Nodes = vec![];
        for group in groups(written(&nodes), 5).unwrap() {
            let group = read_nodes(&group).unwrap();
            for (id, node) in group.iter() {
                prop_assert_eq!(group.get(id).unwrap().text, node.text);
                read.push((id, node.kind, node.text.to_vec(), node.refs.to_vec()));
            }
        }
        prop_assert_eq!(read, nodes);
    }

    #[test]
    fn rows_are_read_as_they_were_written(first in prop::collection::vec(row(), 0..12), second in prop::collection::vec(row(), 0..5)) {
        let (first, second) = (gathered(first), gathered(second));
        let mut read = vec![];
        for group in groups(stored(EFFORT, &[&first, &second]), 22).unwrap() {
            let rows = read_rows(&group).unwrap().rows;
            read.extend((0..rows.rows.len()).map(|at| told(&rows, at)));
        }
        let of = |rows: &Rows<u64>| (0..rows.rows.len()).map(|at| told(rows, at)).collect::<Vec<_>>();
        prop_assert_eq!(read, [of(&first), of(&second)].concat());
    }

    #[test]
    fn the_rows_of_one_trace_are_those_from_its_first_to_its_last(rows in prop::collection::vec(row(), 0..30)) {
        let file = stored(Effort { span_group_rows: 10, ..EFFORT }, &[&gathered(rows)]);
        for group in groups(file, 22).unwrap() {
            let all = read_rows(&group).unwrap().rows;
            for trace in (0u8..4).map(|n| [n; 16]) {
                let is_its = |row: &Row<u64>| row.trace_id == Some(trace);
                let first = all.rows.iter().position(is_its).unwrap_or(0);
                let end = all.rows.iter().rposition(is_its).map_or(first, |last| last + 1);
                let located = locate(&group, &trace).unwrap();
                let refs = (first..end).filter(|&at| is_its(&all.rows[at])).flat_map(|at| all.refs_of(at)).copied();
                let shapes = all.rows[..end].iter().filter_map(|row| row.shape);
                let wanted: Vec<u64> = refs.chain(shapes).collect();
                prop_assert_eq!(located.nodes_of(&trace).collect::<Vec<_>>(), wanted);
                let its = read_located(&group, located).unwrap();
                let read: Vec<_> = (0..its.rows.rows.len()).map(|at| told(&its.rows, at)).collect();
                prop_assert_eq!(read, (first..end).map(|at| told(&all, at)).collect::<Vec<_>>());
                prop_assert_eq!(its.shapes().count(), all.rows[..end].iter().filter(|row| row.shape.is_some()).count());
            }
        }
    }

    #[test]
    fn damaged_files_are_refused_or_read_and_nothing_panics(
        nodes in nodes(),
        rows in prop::collection::vec(row(), 1..8),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in option::of(any::<prop::sample::Index>()),
        from_end in any::<bool>(),
    ) {
        let rows = gathered(rows);
        for (file, columns) in [(written(&nodes), 5), (stored(EFFORT, &[&rows]), 22)] {
            let mut file = file.to_vec();
            for (at, byte) in &damage {
                // Most of a small file is its metadata: the pages must be hit as well.
                let at = if from_end { at.index(file.len()) } else { at.index(file.len().min(400)) };
                file[at] = *byte;
            }
            if let Some(cut) = cut {
                file.drain(..cut.index(file.len()) / 8);
            }
            let Ok(groups) = groups(file.into(), columns) else { continue };
            for group in groups {
                let (_, rows) = (read_nodes(&group).map(|nodes| nodes.iter().count()), read_rows(&group));
                let located = locate(&group, &[1; 16]).and_then(|located| read_located(&group, located));
                for rows in [rows, located].into_iter().flatten() {
                    let _ = rows.with_rest(|_| Ok::<_, String>(b"\0r\0r".as_slice()));
                }
            }
        }
    }
}

#[test]
fn a_file_of_nodes_is_no_file_of_spans() {
    let nodes = written(&vec![(1, Kind::Leaf, b"x".to_vec(), vec![])]);
    assert!(groups(nodes.clone(), 22).unwrap_err().contains("5 columns"));
    assert!(read_rows(&groups(nodes, 5).unwrap()[0]).is_err());
}
